package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"basin/internal/backup"
	"basin/internal/chain"
	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/plain"
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

	NoVerify bool
	Jobs     int    // files that are made side by side
	TempDir  string // empty is the system's
}

// parseCombineBackup reads the command line and checks it, in the order in which
// pg_combinebackup looks at it.
//
// Source: main in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func parseCombineBackup(c call) (o combineBackupOptions, err error) {
	o = combineBackupOptions{Checksums: manifest.CRC32C, Jobs: runtime.GOMAXPROCS(0)}
	o.Inputs, err = c.parse(combineBackupTable(&o))
	switch {
	case err != nil:
		return o, err
	case len(o.Inputs) == 0:
		return o, c.usage("no input directories specified")
	case o.Output == "":
		return o, errors.New("no output directory specified")
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

		own(flagOption("no-verify", 0, &o.NoVerify)),
		own(getopt.Option{Long: "jobs", Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}}),
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
	place *plain.Sink    // nil in a dry run
}

func (b *combineBackupRun) run(ctx context.Context) (err error) {
	newest := b.o.Inputs[len(b.o.Inputs)-1]
	if err := b.readVersion(newest); err != nil {
		return err
	}
	inputs := b.inputs()
	overlay, err := chain.New(inputs, chain.Options{
		NoVerify: b.o.NoVerify, Checksums: b.o.Checksums, NoManifest: b.o.NoManifest || b.o.DryRun, TempDir: b.o.TempDir,
		Warn: b.report.warn, Debug: b.debug,
	})
	if err != nil {
		return err
	}
	defer overlay.Close()
	info, err := os.Stat(newest)
	if err != nil {
		return localfs.Errorf(err, newest, "could not stat file \"%s\"", newest)
	}
	dirMode, fileMode := setModes(info.Mode().Perm()&0o750 == 0o750)
	source := overlay.Source(dirMode, fileMode)
	defer source.Close()
	spaces, err := inputs[len(inputs)-1].Backup.Tablespaces()
	if err != nil {
		return err
	}
	if spaces, err = b.o.mapTablespaces(spaces); err != nil {
		return err
	}
	mapped := mappedTablespaces{source, spaces}
	if b.o.DryRun {
		return b.dryRun(ctx, mapped)
	}
	if b.dir, err = localfs.ClaimDir(b.o.Output, dirMode); err != nil {
		return err
	}
	b.place = plain.NewSink(plain.Options{
		Dir: b.dir, DirMode: dirMode, FileMode: fileMode, Method: b.o.Method,
		Sync: localfs.Syncer{
			Method: b.o.SyncMethod, Off: b.o.NoSync, Step: func(text string) { b.debug("%s", text) },
			Warn: b.report.warn,
		},
	})
	if err := backup.Copy(ctx, b.place, mapped, backup.Options{Workers: b.o.Jobs}); err != nil {
		return err
	}
	if b.o.Method == plain.CopyLink {
		b.report.warning("--link mode was used; any modifications to the output directory might destructively modify input directories")
	}
	return b.keep()
}

// inputs returns the backups of the chain.
func (b *combineBackupRun) inputs() []chain.Input {
	var inputs []chain.Input
	for _, dir := range b.o.Inputs {
		inputs = append(inputs, chain.Input{Name: dir, Backup: plain.OpenStored(dir, b.report.warn)})
	}
	return inputs
}

// readVersion sees that a backup tells which server it is of.
//
// Source: read_pg_version_file in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func (b *combineBackupRun) readVersion(dir string) error {
	path := dir + "/PG_VERSION"
	content, err := os.ReadFile(path)
	if err != nil {
		return localfs.Errorf(err, path, "could not open file \"%s\"", path)
	}
	version, err := strconv.ParseUint(string(content[:max(0, len(content)-1)]), 10, 16)
	if err != nil {
		return fmt.Errorf("%s: could not parse version number", path)
	}
	b.debug("read server version %d from file \"%s\"", version*10000, path)
	return nil
}

func (b *combineBackupRun) debug(format string, args ...any) {
	if b.o.Debug {
		b.report.info(format, args...)
	}
}

// mappedTablespaces is a source whose tablespaces are where they are to go.
type mappedTablespaces struct {
	backup.Source
	spaces []backup.Tablespace
}

// Begin tells of the tablespaces where they are to go.
func (s mappedTablespaces) Begin(ctx context.Context) (backup.Start, error) {
	start, err := s.Source.Begin(ctx)
	start.Tablespaces = s.spaces
	return start, err
}

// mapTablespaces finds a place for each tablespace that is not inside the data directory.
//
// Source: scan_for_existing_tablespaces in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func (o *combineBackupOptions) mapTablespaces(spaces []backup.Tablespace) ([]backup.Tablespace, error) {
	taken := make(map[string]uint32)
	for i, t := range spaces {
		location, ok := o.mapped(t.Location)
		if !ok {
			return nil, usererr.Hinted(fmt.Sprintf("Say where it goes with -T \"%s=NEWDIR\".", t.Location),
				"tablespace at \"%s\" has no tablespace mapping", t.Location)
		}
		if other, ok := taken[location]; ok {
			return nil, fmt.Errorf("tablespaces with OIDs %d and %d both point at directory \"%s\"", other, t.OID, location)
		}
		taken[location] = t.OID
		spaces[i].Location = location
	}
	return spaces, nil
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
	return "", false
}

// dryRun looks at all that would be read, and reads none of it.
func (b *combineBackupRun) dryRun(ctx context.Context, source backup.Source) error {
	if err := checkAbsentOrEmpty(b.o.Output); err != nil {
		return err
	}
	return backup.Copy(ctx, drySink{}, source, backup.Options{Workers: b.o.Jobs})
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
type drySink struct{ backup.Nowhere }

// Begin sees that tablespaces could be where they would go.
func (drySink) Begin(_ context.Context, start backup.Start) error {
	for _, t := range start.Tablespaces {
		if !filepath.IsAbs(t.Location) {
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
	if b.place != nil {
		all = append(all, b.place.Claims()...)
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
