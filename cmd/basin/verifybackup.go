package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"slices"

	"basin/internal/backup"
	"basin/internal/chain"
	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/usererr"
	"basin/internal/verify"
)

// verifyBackupOptions is what pg_verifybackup's command line asks for. It comes from
// parseVerifyBackup, which has checked that its parts go together.
type verifyBackupOptions struct {
	Directories   []string // several are a chain, the oldest first
	Format        byte     // p, t, or zero for what is there
	Manifest      string   // empty is that of the backup
	LogDirectory  string   // empty is that of the backup
	Ignore        []string
	ExitOnError   bool
	NoParseLog    bool
	Progress      bool
	Quiet         bool
	SkipChecksums bool
	PageChecksums bool
	TempDir       string
	JSON          bool // the result is printed as JSON, and nothing else
}

// parseVerifyBackup reads the command line and checks it, in the order in which
// pg_verifybackup looks at it.
//
// Source: main in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func parseVerifyBackup(c call) (verifyBackupOptions, error) {
	o := verifyBackupOptions{TempDir: os.TempDir(), Ignore: manifest.DefaultIgnore()}
	operands, err := c.parse(verifyBackupTable(&o))
	switch {
	case err != nil:
		return o, err
	case len(operands) == 0:
		return o, c.usage("no backup directory specified")
	}
	for i, dir := range operands {
		dir = localfs.Canonical(dir)
		if slices.Contains(o.Directories, dir) { // as a chain has no backup twice, the original is meant, which takes one
			return o, c.usage("too many command-line arguments (first is \"%s\")", operands[i])
		}
		o.Directories = append(o.Directories, dir)
	}
	switch {
	case len(operands) > 1 && o.Manifest != "":
		return o, errors.New("cannot specify -m/--manifest-path for a chain of backups")
	case o.Progress && o.Quiet:
		return o, errors.New("cannot specify both -P/--progress and -q/--quiet")
	case o.PageChecksums && o.SkipChecksums:
		return o, errors.New("cannot specify both --page-checksums and -s/--skip-checksums")
	case o.JSON && o.Progress:
		return o, errors.New("cannot specify both --json and -P/--progress")
	}
	return o, nil
}

// verifyBackupTable returns the options of pg_verifybackup, which write to o.
//
// Source: long_options in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
// The order is kept because the complaint about an ambiguous option lists it.
func verifyBackupTable(o *verifyBackupOptions) []getopt.Option {
	canonical := func(long string, short byte, take func(path string)) getopt.Option {
		return getopt.Option{Long: long, Short: short, Value: func(value string) error {
			take(localfs.Canonical(value))
			return nil
		}}
	}
	pages := flagOption("page-checksums", 0, &o.PageChecksums)
	pages.Whole = true
	result := flagOption("json", 0, &o.JSON)
	result.Whole = true
	temp := textOption("temp-dir", 0, &o.TempDir, nil)
	temp.Whole = true
	return []getopt.Option{
		flagOption("exit-on-error", 'e', &o.ExitOnError),
		canonical("ignore", 'i', func(path string) { o.Ignore = append(o.Ignore, path) }),
		canonical("manifest-path", 'm', func(path string) { o.Manifest = path }),
		{Long: "format", Short: 'F', Value: func(value string) error {
			switch value {
			case "p", "plain", "t", "tar":
				o.Format = value[0]
				return nil
			}
			return fmt.Errorf("invalid backup format \"%s\", must be \"plain\" or \"tar\"", value)
		}},
		flagOption("no-parse-wal", 'n', &o.NoParseLog),
		flagOption("progress", 'P', &o.Progress),
		flagOption("quiet", 'q', &o.Quiet),
		flagOption("skip-checksums", 's', &o.SkipChecksums),
		canonical("wal-directory", 'w', func(path string) { o.LogDirectory = path }),

		// basin's own: whole names only, so that no abbreviation of the above becomes ambiguous.
		pages,
		result,
		temp,
	}
}

// errNotVerified is how a verification ends that has found problems, which were told.
var errNotVerified = errors.New("the backup is not what its manifest says")

// verifyResult is what --json prints. Fields may be added, and none will change.
type verifyResult struct {
	Backup   string          `json:"backup"`          // path
	Chain    []string        `json:"chain,omitempty"` // paths of the backups that it is laid over, the oldest first
	Verified bool            `json:"verified"`        // no problem was found
	Files    int             `json:"files"`           // in the manifest
	Bytes    int64           `json:"bytes"`           // that were read of them; of archives as they are on disk
	Problems []verifyProblem `json:"problems"`        // in the order in which they were found
}

type verifyProblem struct {
	Message string `json:"message"`
	Detail  string `json:"detail,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

func newVerifyProblem(err error) verifyProblem {
	return verifyProblem{Message: err.Error(), Detail: usererr.Detail(err), Hint: usererr.Hint(err)}
}

// verifyGarbage is how much garbage there may be, as percent of what is in use. That is the
// manifest for the most part, which may be large, and which takes no time to look through,
// as it has next to no pointers.
const verifyGarbage = 12

// verifyBackup is pg_verifybackup.
//
// Source: main in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func verifyBackup(ctx context.Context, c call) error {
	defer debug.SetGCPercent(debug.SetGCPercent(verifyGarbage))
	o, err := parseVerifyBackup(c)
	if err != nil {
		return err
	}
	last := len(o.Directories) - 1
	result := verifyResult{Backup: o.Directories[last], Chain: o.Directories[:last], Problems: []verifyProblem{}}
	v := &verification{o: o, report: c.report, result: &result}
	err = v.run(ctx)
	if errors.Is(err, verify.ErrStopped) {
		err = nil
	}
	if o.JSON && ctx.Err() == nil {
		if err != nil { // of which that is the last
			v.tell(err)
			err = reported{err}
		}
		result.Verified = len(result.Problems) == 0
		if printed := json.NewEncoder(c.stdout).Encode(result); printed != nil {
			return printed
		}
	}
	switch {
	case err != nil:
		return err
	case v.problems > 0:
		return reported{errNotVerified}
	case !o.Quiet && !o.JSON:
		_, err = fmt.Fprintln(c.stdout, "backup successfully verified")
	}
	return err
}

// verification is one backup, or a chain of them, on its way to be verified.
type verification struct {
	o        verifyBackupOptions
	report   *report
	result   *verifyResult
	problems int
}

// tell tells a problem.
func (v *verification) tell(err error) {
	if v.o.JSON {
		v.result.Problems = append(v.result.Problems, newVerifyProblem(err))
		return
	}
	v.report.error(err)
}

// run verifies each backup by itself, and then, if there are several, that they make one.
func (v *verification) run(ctx context.Context) error {
	for _, dir := range v.o.Directories {
		tell := v.tell
		if len(v.o.Directories) > 1 {
			tell = func(err error) { v.tell(fmt.Errorf("%s: %w", dir, err)) }
		}
		if err := v.backup(ctx, dir, tell); err != nil {
			return err
		}
	}
	if len(v.o.Directories) == 1 {
		return nil
	}
	return v.chain(ctx)
}

// backup verifies the backup in a directory.
func (v *verification) backup(ctx context.Context, dir string, tell func(error)) error {
	m, files, err := verify.Load(cmp.Or(v.o.Manifest, dir+"/"+manifest.Name))
	if err != nil {
		return err
	}
	format := v.o.Format
	if format == 0 {
		if format, err = formatOf(dir); err != nil {
			return err
		}
	}
	verifier := verify.New(m, files, verify.Options{
		Ignore: v.o.Ignore, SkipChecksums: v.o.SkipChecksums, StopAtFirst: v.o.ExitOnError,
		PageChecksums: v.o.PageChecksums && len(v.o.Directories) == 1, // those of a chain are looked at in the end
		Report:        tell,
	})
	err = verifyAll(ctx, verifier, dir, format, v.o, v.report)
	v.result.Files += files.Len()
	done, _ := verifier.Progress()
	v.result.Bytes += done
	v.problems += verifier.Problems()
	return err
}

// chain sees that the backups make one together: they follow one another, and every block
// is in one of them. None of it is written.
func (v *verification) chain(ctx context.Context) error {
	inputs, err := openChain(ctx, v.o.Directories, v.o.Format, storedOptions(v.o.TempDir, v.o.Progress, v.report))
	defer closeChain(inputs)
	if err != nil {
		return err
	}
	overlay, err := chain.New(ctx, inputs, chain.Options{NoManifest: true, Ignore: v.o.Ignore, TempDir: v.o.TempDir, Warn: v.report.warn})
	if err != nil {
		return err
	}
	defer overlay.Close() // its manifests were only read
	source := overlay.Source(chain.SourceOptions{})
	defer source.Close() // what it has is not wanted any more
	if !v.o.PageChecksums {
		return backup.Copy(ctx, drySink{format: formatTar}, source, backup.Options{})
	}
	pages, err := verify.NewPageSink(overlay.Control(), func(err error) error {
		v.problems++
		v.tell(err)
		if v.o.ExitOnError {
			return verify.ErrStopped
		}
		return nil
	})
	if err != nil {
		return err
	}
	return backup.Copy(ctx, pages, source, backup.Options{Workers: runtime.GOMAXPROCS(0)})
}

// formatOf returns what form the backup in a directory has.
func formatOf(dir string) (byte, error) {
	root, err := os.Open(dir)
	if err != nil {
		return 0, localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
	}
	defer root.Close()
	path := dir + "/PG_VERSION"
	switch _, err := os.Stat(path); {
	case err == nil:
		return 'p', nil
	case !errors.Is(err, fs.ErrNotExist):
		return 0, localfs.Errorf(err, path, "could not stat file \"%s\"", path)
	}
	return 't', nil
}

// verifyAll verifies what was asked for, in the order of pg_verifybackup.
func verifyAll(ctx context.Context, v *verify.Verifier, dir string, format byte, o verifyBackupOptions, r *report) error {
	show := periodicProgress{r, func() string { return verifyProgress(v) }}
	if format == 'p' {
		if err := v.Directory(dir); err != nil {
			return err
		}
	} else {
		if err := show.during(o.Progress, func() error { return v.Archives(ctx, dir) }); err != nil {
			return err
		}
	}
	if err := v.Missing(); err != nil {
		return err
	}
	if format == 'p' && !o.SkipChecksums {
		if err := show.during(o.Progress, func() error { return v.Checksums(ctx, dir) }); err != nil {
			return err
		}
	}
	switch {
	case o.NoParseLog:
		return nil
	case o.LogDirectory == "" && format == 't':
		return v.LogInArchives(ctx, dir)
	case o.LogDirectory == "":
		return v.Log(ctx, dir+"/pg_wal")
	}
	return v.Log(ctx, o.LogDirectory)
}

// verifyProgress says how far a verification is.
//
// Source: progress_report in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func verifyProgress(v *verify.Verifier) string {
	done, total := v.Progress()
	percent := int64(0)
	if total > 0 {
		percent = done * 100 / total
	}
	all := fmt.Sprint(total >> 10)
	return fmt.Sprintf("%*d/%s kB (%d%%) verified", len(all), done>>10, all, percent)
}
