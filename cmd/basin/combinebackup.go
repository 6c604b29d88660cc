package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"basin/internal/backup"
	"basin/internal/chain"
	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/plain"
	"basin/internal/seal"
	"basin/internal/tarball"
	"basin/internal/usererr"
)

// combineBackupOptions is what pg_combinebackup's command line asks for. It comes from
// parseCombineBackup, which has checked that its parts go together.
type combineBackupOptions struct {
	Inputs            []string // directories, the oldest first
	Debug             bool
	DryRun            bool
	NoSync            bool
	Output            string
	TablespaceMapping []tablespaceMapping // canonical, in the order given; the last that fits counts
	Checksums         manifest.Algorithm
	NoManifest        bool
	SyncMethod        localfs.SyncMethod
	Method            plain.CopyMethod

	Format      backupFormat // of the output; a dash in tar format is the standard output
	Compression seal.Spec    // of tar files
	NoVerify    bool
	Jobs        int // files that are made side by side
	TempDir     string
	Progress    bool
}

// parseCombineBackup reads the command line and checks it, in the order in which
// pg_combinebackup looks at it.
//
// Source: main in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func parseCombineBackup(c call) (o combineBackupOptions, err error) {
	o = combineBackupOptions{Checksums: manifest.CRC32C, Jobs: runtime.GOMAXPROCS(0), TempDir: os.TempDir()}
	o.Inputs, err = c.parse(combineBackupTable(&o))
	switch {
	case err != nil:
		return o, err
	case len(o.Inputs) == 0:
		return o, c.usage("no input directories specified")
	case o.Output == "":
		return o, errors.New("no output directory specified")
	case o.Format == formatPlain && o.Compression.Algorithm != seal.None:
		return o, c.usage("only tar mode backups can be compressed")
	case o.Format == formatTar && o.Method != plain.CopyBytes:
		return o, c.usage("files of tar mode backups can only be copied")
	case o.Method == plain.CopyClone && !localfs.HaveCopyMethods:
		return o, errors.New("file cloning not supported on this platform")
	case o.Method == plain.CopyRange && !localfs.HaveCopyMethods:
		return o, errors.New("copy_file_range not supported on this platform")
	}
	if o.NoManifest {
		o.Checksums = manifest.NoChecksum
	}
	return o, nil
}

// combineBackupTable returns the options of pg_combinebackup, which write to o.
//
// Source: long_options in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
// The order is kept because the complaint about an ambiguous option lists it.
func combineBackupTable(o *combineBackupOptions) []getopt.Option {
	method := func(long string, short byte, method plain.CopyMethod) getopt.Option {
		return getopt.Option{Long: long, Short: short, Flag: func() error { o.Method = method; return nil }}
	}
	own := func(option getopt.Option) getopt.Option { // whole names only, so that no abbreviation becomes ambiguous
		option.Whole = true
		return option
	}
	return []getopt.Option{
		flagOption("debug", 'd', &o.Debug),
		flagOption("dry-run", 'n', &o.DryRun),
		flagOption("no-sync", 'N', &o.NoSync),
		textOption("output", 'o', &o.Output, nil),
		{Long: "tablespace-mapping", Short: 'T', Value: func(value string) error {
			m, err := parseTablespaceMapping(value)
			o.TablespaceMapping = append(o.TablespaceMapping, m)
			return err
		}},
		method("link", 'k', plain.CopyLink),
		{Long: "manifest-checksums", Value: func(value string) (err error) {
			o.Checksums, err = manifest.ParseAlgorithm(value)
			return err
		}},
		flagOption("no-manifest", 0, &o.NoManifest),
		{Long: "sync-method", Value: func(value string) (err error) {
			o.SyncMethod, err = localfs.ParseSyncMethod(value)
			return err
		}},
		method("clone", 0, plain.CopyClone),
		method("copy", 0, plain.CopyBytes),
		method("copy-file-range", 0, plain.CopyRange),

		own(getopt.Option{Long: "format", Value: o.Format.set}),
		own(getopt.Option{Long: "compress", Value: func(value string) (err error) {
			o.Compression, err = seal.ParseMethod(value).Spec()
			return err
		}}),
		own(flagOption("no-verify", 0, &o.NoVerify)),
		own(getopt.Option{Long: "jobs", Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}}),
		own(flagOption("progress", 'P', &o.Progress)),
		own(textOption("temp-dir", 0, &o.TempDir, nil)),
	}
}

// maxJobs is how many files are made side by side at most.
const maxJobs = 256

// combineBackup is pg_combinebackup.
//
// Source: main in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func combineBackup(ctx context.Context, c call) error {
	o, err := parseCombineBackup(c)
	if err != nil {
		return err
	}
	b := &combineBackupRun{report: c.report, o: o}
	if err := b.run(ctx); err != nil {
		c.report.error(signalFirst(ctx, err))
		b.giveBack()
		return reported{err}
	}
	return nil
}

// combineBackupRun is one chain of backups on its way to be one.
type combineBackupRun struct {
	report *report
	o      combineBackupOptions

	dir   *localfs.Claim // nil if there is none
	place backup.Sink    // nil in a dry run
	plain *plain.Sink    // the same in plain format; else nil
}

func (b *combineBackupRun) run(ctx context.Context) (err error) {
	inputs, err := openChain(ctx, b.o.Inputs, 0, storedOptions(b.o.TempDir, b.o.Progress || b.o.Debug, b.report))
	defer closeChain(inputs)
	if err != nil {
		return err
	}
	newest := inputs[len(inputs)-1]
	if err := b.readVersion(newest.Backup); err != nil {
		return err
	}
	overlay, err := chain.New(ctx, inputs, chain.Options{
		NoVerify: b.o.NoVerify, Checksums: b.o.Checksums, NoManifest: b.o.NoManifest || b.o.DryRun, TempDir: b.o.TempDir,
		Warn: b.report.warn, Debug: b.debug,
	})
	if err != nil {
		return err
	}
	defer overlay.Close() // its manifests were only read
	group, err := groupAccess(newest)
	if err != nil {
		return err
	}
	o := chain.SourceOptions{TablespaceMap: b.o.Format == formatTar}
	o.DirMode, o.FileMode = setModes(group)
	if o.Tablespaces, err = overlay.Tablespaces(); err != nil {
		return err
	}
	if err := b.o.mapTablespaces(o.Tablespaces); err != nil {
		return err
	}
	if err := b.o.checkApart(o.Tablespaces); err != nil {
		return err
	}
	source := overlay.Source(o)
	defer source.Close() // what it has is not wanted any more
	if b.o.DryRun {
		return b.dryRun(ctx, source)
	}
	if b.place, err = b.sink(ctx, o.DirMode, o.FileMode); err != nil {
		return err
	}
	show := periodicProgress{b.report, func() string { return combineProgress(overlay) }}
	err = show.during(b.o.Progress, func() error {
		return backup.Copy(ctx, b.place, source, backup.Options{Workers: b.o.Jobs})
	})
	if err != nil {
		return err
	}
	if b.o.Method == plain.CopyLink {
		b.report.warning("--link mode was used; any modifications to the output directory might destructively modify input directories")
	}
	return b.keep()
}

// storedOptions says how backups in tar files are opened. What takes long is told, if
// that is wanted.
func storedOptions(tempDir string, tell bool, r *report) tarball.StoredOptions {
	o := tarball.StoredOptions{TempDir: tempDir, Warn: r.warn}
	if tell {
		o.Unpacking = func(archive string) { r.info("unpacking \"%s\"", archive) }
	}
	return o
}

// groupAccess says whether a backup may be read by the group of its owner: so its directory
// says, or, where that is of tar files, what is in them.
//
// Source: check_input_dir_permissions in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func groupAccess(in chain.Input) (bool, error) {
	if _, isPlain := in.Backup.(*plain.Stored); !isPlain {
		f, err := in.Backup.Open(0, pgVersionPath)
		if err != nil {
			return false, err
		}
		return f.Mode&0o040 != 0, f.Close()
	}
	info, err := os.Stat(in.Name)
	if err != nil {
		return false, localfs.Errorf(err, in.Name, "could not stat file \"%s\"", in.Name)
	}
	return info.Mode().Perm()&0o750 == 0o750, nil
}

// combineProgress says how far the chain is combined.
func combineProgress(overlay *chain.Overlay) string {
	files, bytes, total := overlay.Progress()
	if total == 0 {
		return fmt.Sprintf("%d files, %d kB combined", files, bytes>>10)
	}
	all := fmt.Sprint(total)
	return fmt.Sprintf("%*d/%s files (%d%%), %d kB combined", len(all), files, all, min(files*100/total, 100), bytes>>10)
}

// openChain opens the backups of a chain, in a format, p or t, or that which each has. Those that it returns
// are open, even with an error.
func openChain(ctx context.Context, dirs []string, format byte, o tarball.StoredOptions) (inputs []chain.Input, err error) {
	for _, dir := range dirs {
		format := format
		if format == 0 {
			if format, err = formatOf(dir); err != nil {
				return inputs, err
			}
		}
		var stored backup.Stored = plain.OpenStored(dir, o.Warn)
		if format == 't' {
			if stored, err = tarball.OpenStored(ctx, dir, o); err != nil {
				return inputs, err
			}
		}
		inputs = append(inputs, chain.Input{Name: dir, Backup: stored})
	}
	return inputs, nil
}

func closeChain(inputs []chain.Input) {
	for _, in := range inputs {
		_ = in.Backup.Close() // it was only read
	}
}

// sink claims the directory that the backup goes to, and returns what writes it there.
func (b *combineBackupRun) sink(ctx context.Context, dirMode, fileMode fs.FileMode) (_ backup.Sink, err error) {
	toOutput := b.o.Format == formatTar && b.o.Output == "-"
	if !toOutput {
		if b.dir, err = localfs.ClaimDir(b.o.Output, dirMode); err != nil {
			return nil, err
		}
	}
	sync := localfs.Syncer{
		Method: b.o.SyncMethod, Off: b.o.NoSync, Step: func(text string) { b.debug("%s", text) }, Warn: b.report.warn,
	}
	if b.o.Format == formatPlain {
		b.plain = plain.NewSink(plain.Options{Dir: b.dir, DirMode: dirMode, FileMode: fileMode, Sync: sync, Method: b.o.Method})
		return b.plain, nil
	}
	o := tarball.Options{Dir: b.dir, FileMode: fileMode, Sync: sync}
	o.Compress, o.Suffix = compressor(b.o.Compression)
	if toOutput {
		o.Output, err = openOutput(ctx)
	}
	return tarball.NewSink(o), err
}

// pgVersionPath is where a backup tells which server it is of.
const pgVersionPath = "PG_VERSION"

// readVersion sees that a backup tells which server it is of.
//
// Source: read_pg_version_file in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func (b *combineBackupRun) readVersion(stored backup.Stored) error {
	f, err := stored.Open(0, pgVersionPath)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	content := make([]byte, min(f.Size, 16))
	if _, err := f.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
		return localfs.Errorf(err, f.Name, "could not read file \"%s\"", f.Name)
	}
	version, err := strconv.ParseUint(strings.TrimSuffix(string(content), "\n"), 10, 16)
	if err != nil {
		return fmt.Errorf("%s: could not parse version number", f.Name)
	}
	b.debug("read server version %d from file \"%s\"", version*10000, f.Name)
	return nil
}

func (b *combineBackupRun) debug(format string, args ...any) {
	if b.o.Debug {
		b.report.info(format, args...)
	}
}

// mapTablespaces finds a place for each tablespace that is not inside the data directory.
// In tar files they may stay where they are.
//
// Source: scan_for_existing_tablespaces in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func (o *combineBackupOptions) mapTablespaces(spaces []backup.Tablespace) error {
	taken := make(map[string]uint32)
	for i, t := range spaces {
		location, ok := o.mapped(t.Location)
		if !ok && o.Format == formatPlain {
			return usererr.Hinted(fmt.Sprintf("Say where it goes with -T \"%s=NEWDIR\".", t.Location),
				"tablespace at \"%s\" has no tablespace mapping", t.Location)
		}
		if other, ok := taken[location]; ok {
			return fmt.Errorf("tablespaces with OIDs %d and %d both point at directory \"%s\"", other, t.OID, location)
		}
		taken[location] = t.OID
		spaces[i].Location = location
	}
	return nil
}

// checkApart sees that nothing is written into a backup of the chain, nor a tablespace into
// the data directory or another tablespace.
func (o *combineBackupOptions) checkApart(spaces []backup.Tablespace) error {
	if o.Format == formatTar && o.Output == "-" {
		return nil
	}
	outputs := []string{o.Output}
	for _, t := range spaces {
		if o.Format == formatPlain && filepath.IsAbs(t.Location) {
			outputs = append(outputs, t.Location)
		}
	}
	for i, output := range outputs {
		for _, input := range o.Inputs {
			if isWithin(output, input) {
				return fmt.Errorf("output directory \"%s\" is inside input directory \"%s\"", output, input)
			}
		}
		for j, other := range outputs {
			if i != j && isWithin(output, other) {
				return fmt.Errorf("output directory \"%s\" is inside output directory \"%s\"", output, other)
			}
		}
	}
	return nil
}

// isWithin says whether a path, which need not be there, leads to a directory or below it.
func isWithin(path, dir string) bool {
	whole, err := filepath.Abs(path)
	if err != nil {
		return false
	}
	above, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	there, err := os.Stat(above)
	for at := whole; ; at = filepath.Dir(at) {
		if at == above {
			return true
		}
		real, realErr := filepath.EvalSymlinks(at)
		if realErr == nil && err == nil { // the nearest above that is there; what is above that is not by name alone
			for ; ; real = filepath.Dir(real) {
				if info, err := os.Stat(real); err == nil && os.SameFile(info, there) {
					return true
				}
				if real == filepath.Dir(real) {
					return false
				}
			}
		}
		if at == filepath.Dir(at) {
			return false
		}
	}
}

// mapped returns where what is at a location goes.
func (o *combineBackupOptions) mapped(location string) (string, bool) {
	if !filepath.IsAbs(location) {
		return location, true
	}
	for _, m := range slices.Backward(o.TablespaceMapping) {
		if m.Old == location {
			return m.New, true
		}
	}
	return location, false
}

// dryRun looks at all that would be read, and reads none of it.
func (b *combineBackupRun) dryRun(ctx context.Context, source backup.Source) error {
	if b.o.Output != "-" || b.o.Format == formatPlain {
		if err := checkAbsentOrEmpty(b.o.Output); err != nil {
			return err
		}
	}
	return backup.Copy(ctx, drySink{format: b.o.Format}, source, backup.Options{})
}

// checkAbsentOrEmpty sees that a directory could be claimed.
func checkAbsentOrEmpty(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	c, err := localfs.ClaimDir(dir, localfs.DirModeOwner)
	if err != nil {
		return err
	}
	return c.Close()
}

// drySink takes a backup of which nothing is read.
type drySink struct {
	backup.Nowhere
	format backupFormat // that it would have
}

// Begin sees that tablespaces could be where they would go.
func (s drySink) Begin(_ context.Context, start backup.Start) error {
	for _, t := range start.Tablespaces {
		if s.format != formatPlain || !filepath.IsAbs(t.Location) {
			continue
		}
		if err := checkAbsentOrEmpty(t.Location); err != nil {
			return err
		}
	}
	return nil
}

// Put finds out where the bytes of a member lie.
func (drySink) Put(_ context.Context, _ backup.Member, r io.Reader) error {
	if placed, ok := r.(backup.Placed); ok {
		for _, err := range placed.Extents() {
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// claims returns all directories that were claimed, in the order they were.
func (b *combineBackupRun) claims() (all []*localfs.Claim) {
	if b.dir != nil {
		all = append(all, b.dir)
	}
	if b.plain != nil {
		all = append(all, b.plain.Claims()...)
	}
	return all
}

// keep ends the claims of a backup that is wanted.
func (b *combineBackupRun) keep() error {
	var errs []error
	for _, c := range b.claims() {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// giveBack removes what was made, the last first.
//
// Source: cleanup_directories_atexit in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func (b *combineBackupRun) giveBack() {
	claims := b.claims()
	if b.place != nil {
		_ = b.place.Close() // what it has is not a backup
	}
	for _, c := range slices.Backward(claims) {
		if c.Created() {
			b.report.info("removing output directory \"%s\"", c.Path())
		} else {
			b.report.info("removing contents of output directory \"%s\"", c.Path())
		}
		if err := c.Remove(); err != nil {
			b.report.error(err)
		}
	}
}
