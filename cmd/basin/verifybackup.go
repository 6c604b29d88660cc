package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/usererr"
	"basin/internal/verify"
)

// verifyBackupOptions is what pg_verifybackup's command line asks for. It comes from
// parseVerifyBackup, which has checked that its parts go together.
type verifyBackupOptions struct {
	Directory     string
	Format        byte // p, t, or zero for what is there
	Manifest      string
	LogDirectory  string // empty is that of the backup
	Ignore        []string
	ExitOnError   bool
	NoParseLog    bool
	Progress      bool
	Quiet         bool
	SkipChecksums bool
	PageChecksums bool
	JSON          bool // the result is printed as JSON, and nothing else
}

// parseVerifyBackup reads the command line and checks it, in the order in which
// pg_verifybackup looks at it.
//
// Source: main in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func parseVerifyBackup(c call) (verifyBackupOptions, error) {
	o := verifyBackupOptions{Ignore: manifest.DefaultIgnore()}
	operands, err := c.parse(verifyBackupTable(&o))
	switch {
	case err != nil:
		return o, err
	case len(operands) == 0:
		return o, c.usage("no backup directory specified")
	case len(operands) > 1:
		return o, c.usage("too many command-line arguments (first is \"%s\")", operands[1])
	case o.Progress && o.Quiet:
		return o, errors.New("cannot specify both -P/--progress and -q/--quiet")
	case o.PageChecksums && o.SkipChecksums:
		return o, errors.New("cannot specify both --page-checksums and -s/--skip-checksums")
	case o.JSON && o.Progress:
		return o, errors.New("cannot specify both --json and -P/--progress")
	}
	o.Directory = localfs.Canonical(operands[0])
	if o.Manifest == "" {
		o.Manifest = o.Directory + "/" + manifest.Name
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
	}
}

// errNotVerified is how a verification ends that has found problems, which were told.
var errNotVerified = errors.New("the backup is not what its manifest says")

// verifyResult is what --json prints. Fields may be added, and none will change.
type verifyResult struct {
	Backup   string          `json:"backup"`   // path
	Verified bool            `json:"verified"` // no problem was found
	Files    int             `json:"files"`    // in the manifest
	Bytes    int64           `json:"bytes"`    // that were read of them; of archives as they are on disk
	Problems []verifyProblem `json:"problems"` // in the order in which they were found
}

type verifyProblem struct {
	Message string `json:"message"`
	Detail  string `json:"detail,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

func newVerifyProblem(err error) verifyProblem {
	return verifyProblem{Message: err.Error(), Detail: usererr.Detail(err), Hint: usererr.Hint(err)}
}

// verifyBackup is pg_verifybackup.
//
// Source: main in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func verifyBackup(ctx context.Context, c call) error {
	o, err := parseVerifyBackup(c)
	if err != nil {
		return err
	}
	result := verifyResult{Backup: o.Directory, Problems: []verifyProblem{}}
	report := c.report.error
	if o.JSON {
		report = func(err error) { result.Problems = append(result.Problems, newVerifyProblem(err)) }
	}
	problems, err := verifyWith(ctx, o, &result, report, c.report)
	if errors.Is(err, verify.ErrStopped) {
		err = nil
	}
	if o.JSON && ctx.Err() == nil {
		if err != nil { // of which that is the last
			report(err)
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
	case problems > 0:
		return reported{errNotVerified}
	case !o.Quiet && !o.JSON:
		_, err = fmt.Fprintln(c.stdout, "backup successfully verified")
	}
	return err
}

// verifyWith verifies what was asked for, and returns how many problems were told.
func verifyWith(ctx context.Context, o verifyBackupOptions, result *verifyResult, tell func(error), r *report) (problems int, err error) {
	m, files, err := verify.Load(o.Manifest)
	if err != nil {
		return 0, err
	}
	if o.Format == 0 {
		if o.Format, err = formatOf(o.Directory); err != nil {
			return 0, err
		}
	}
	v := verify.New(m, files, verify.Options{
		Ignore: o.Ignore, SkipChecksums: o.SkipChecksums, PageChecksums: o.PageChecksums, StopAtFirst: o.ExitOnError,
		Report: tell,
	})
	err = verifyAll(ctx, v, o, r)
	result.Files = files.Len()
	result.Bytes, _ = v.Progress()
	return v.Problems(), err
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
func verifyAll(ctx context.Context, v *verify.Verifier, o verifyBackupOptions, r *report) error {
	show := verifyProgress{v: v, out: r}
	if o.Format == 'p' {
		if err := v.Directory(o.Directory); err != nil {
			return err
		}
	} else {
		if err := show.during(o.Progress, func() error { return v.Archives(ctx, o.Directory) }); err != nil {
			return err
		}
	}
	if err := v.Missing(); err != nil {
		return err
	}
	if o.Format == 'p' && !o.SkipChecksums {
		if err := show.during(o.Progress, func() error { return v.Checksums(ctx, o.Directory) }); err != nil {
			return err
		}
	}
	switch {
	case o.NoParseLog:
		return nil
	case o.LogDirectory == "" && o.Format == 't':
		return v.LogInArchives(ctx, o.Directory)
	case o.LogDirectory == "":
		return v.Log(ctx, o.Directory+"/pg_wal")
	}
	return v.Log(ctx, o.LogDirectory)
}

// verifyProgress prints how far a verification is.
//
// Source: progress_report in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
type verifyProgress struct {
	v   *verify.Verifier
	out *report
}

// during does something, and if wanted tells meanwhile how far that is, once a second.
func (p verifyProgress) during(wanted bool, do func() error) error {
	if !wanted {
		return do()
	}
	p.print(false)
	ended, printed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(printed)
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				p.print(false)
			case <-ended:
				return
			}
		}
	}()
	err := do()
	close(ended)
	<-printed
	p.print(true)
	return err
}

func (p verifyProgress) print(isLast bool) {
	done, total := p.v.Progress()
	percent := int64(0)
	if total > 0 {
		percent = done * 100 / total
	}
	all := fmt.Sprint(total >> 10)
	text := fmt.Sprintf("%*d/%s kB (%d%%) verified", len(all), done>>10, all, percent)
	if !p.out.isTerminal() {
		p.out.print(text + "\n")
		return
	}
	p.out.setStatus(text)
	if isLast {
		p.out.endStatus()
	}
}
