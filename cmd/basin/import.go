package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/backup"
	"basin/internal/chain"
	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// importOptions is what the command line of basin import asks for.
type importOptions struct {
	repositoryOptions

	Directories       []string // several are a chain, the oldest first
	Label             string   // empty is that of the backup
	NoVerifyChecksums bool     // of pages
	Full              bool     // without a parent
	Jobs              int      // that compress; zero is one for each processor
	TempDir           string
	JSON              bool
	Progress          bool
	Verbose           bool
}

// importTable returns the options of basin import, which write to o.
func importTable(o *importOptions) []getopt.Option {
	return append(o.repositoryOptions.options(),
		textOption("label", 'l', &o.Label, nil),
		flagOption("full", 0, &o.Full),
		flagOption("no-verify-checksums", 0, &o.NoVerifyChecksums),
		textOption("temp-dir", 0, &o.TempDir, nil),
		getopt.Option{Long: "jobs", Short: 'j', Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}},
		flagOption("json", 0, &o.JSON),
		flagOption("progress", 'P', &o.Progress),
		flagOption("verbose", 'v', &o.Verbose),
	)
}

// importBackup is basin import.
func importBackup(ctx context.Context, c call) error {
	o := importOptions{TempDir: os.TempDir()}
	o.Say = c.report.info
	operands, err := c.parse(importTable(&o))
	switch {
	case err != nil:
		return err
	case len(operands) == 0:
		return c.usage("no backup directory specified")
	}
	for _, dir := range operands {
		o.Directories = append(o.Directories, localfs.Canonical(dir))
	}
	debug.SetMemoryLimit(backupMemory)
	i := &backupImport{report: c.report, o: o}
	defer func() { closeChain(i.inputs) }()
	commit, err := i.run(ctx)
	if commit == nil {
		return err
	}
	if o.JSON {
		return errors.Join(err, printJSON(c, listBackup(i.cluster.Name(), *commit)))
	}
	if i.isThere {
		_, printed := fmt.Fprintf(c.stdout, "backup %s is there already\n", commit.ID)
		return errors.Join(err, printed)
	}
	_, printed := fmt.Fprintf(c.stdout, "backup %s of %s: %s in %s files, %s stored\n", commit.ID, i.cluster.Name().Name,
		humanize.IBytes(uint64(commit.Size)), humanize.Comma(commit.Files), humanize.IBytes(uint64(commit.Stored)))
	return errors.Join(err, printed)
}

// backupImport is a backup on its way into a repository.
type backupImport struct {
	report     *report
	o          importOptions
	inputs     []chain.Input
	overlay    *chain.Overlay
	repository *repo.Repository
	cluster    *repo.Cluster
	isThere    bool
}

// run verifies the backup, and then stores it. It returns the backup once it is there.
func (i *backupImport) run(ctx context.Context) (commit *repo.Commit, err error) {
	last := len(i.o.Directories) - 1
	if i.inputs, err = openChain(ctx, i.o.Directories, 0, storedOptions(i.o.TempDir, i.o.Verbose, i.report)); err != nil {
		return nil, err
	}
	newest := i.inputs[last]
	if err := i.checkManifest(newest.Backup); err != nil {
		return nil, err
	}
	i.overlay, err = chain.New(ctx, i.inputs, chain.Options{Checksums: manifest.CRC32C, AnyManifest: true, TempDir: i.o.TempDir, Warn: i.report.warn})
	if err != nil {
		return nil, err
	}
	defer i.overlay.Close() // its manifests were only read
	control := i.overlay.Control()
	if i.repository, i.cluster, err = openClusterToKeep(ctx, i.o.repositoryOptions, control.SystemID); err != nil {
		return nil, err
	}
	as, err := i.identity(newest.Backup)
	if err != nil {
		return nil, err
	}
	places, err := i.cluster.Places(ctx)
	if err != nil {
		return nil, err
	}
	if as.ID, i.isThere = places.Of(as.ID); i.isThere {
		if i.repository.CanRead() {
			*as, err = i.cluster.Backup(ctx, as.ID)
		}
		return as, err
	}
	names, err := i.log(ctx, newest.Backup)
	if err != nil {
		return nil, err
	}
	if err := i.verify(ctx, control, len(names) > 0); err != nil {
		return nil, err
	}
	return i.store(ctx, newest.Backup, as, names)
}

// checkManifest sees that the backup has a manifest.
func (i *backupImport) checkManifest(newest backup.Stored) error {
	f, err := newest.Open(0, manifest.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return usererr.Hinted("Servers before 13 send none, and --no-manifest leaves it out. Restore it, start it, and take a backup of that with basin backup.",
			"\"%s\" is not there: it cannot be proved that the backup is whole", newest.Name(0, manifest.Name))
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// identity returns what is told of the backup. Its identifier follows from its content, so that it is the same
// each time.
func (i *backupImport) identity(newest backup.Stored) (*repo.Commit, error) {
	label, labelled, err := readStored(newest, pgdata.LabelPath)
	if err != nil {
		return nil, err
	}
	listed, err := newest.Open(0, manifest.Name)
	if err != nil {
		return nil, err
	}
	defer listed.Close() // it was only read
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(listed, 0, listed.Size)); err != nil {
		return nil, localfs.Errorf(err, listed.Name, "could not read file \"%s\"", listed.Name)
	}
	as := &repo.Commit{Label: cmp.Or(i.o.Label, pgdata.LabelLine(label, "LABEL"))}
	// What the label has is in a zone of which only some names are known. Else the file is of the time at which
	// the backup came.
	if as.Began, err = time.Parse("2006-01-02 15:04:05 MST", pgdata.LabelLine(label, "START TIME")); err != nil || as.Began.Location() != time.UTC {
		as.Began = labelled.Truncate(time.Second)
	}
	as.Began = as.Began.UTC()
	as.FullScan = as.Began
	// The manifest is written last. A backup that ended later than is told here makes recovery to a
	// time between fail, and not end early.
	if as.Ended = listed.ModTime.UTC(); as.Ended.Before(as.Began) {
		as.Ended = as.Began
	}
	as.ID = fmt.Sprintf("%s-%x", as.Began.Format("20060102T150405Z"), sum.Sum(nil)[:4])
	return as, nil
}

// readStored reads a small file of a backup, and returns of when it is.
func readStored(b backup.Stored, path string) ([]byte, time.Time, error) {
	f, err := b.Open(0, path)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer f.Close() // it was only read
	content, err := io.ReadAll(io.NewSectionReader(f, 0, min(f.Size, wal.MaxSegmentSize)))
	if err != nil {
		err = localfs.Errorf(err, f.Name, "could not read file \"%s\"", f.Name)
	}
	return content, f.ModTime, err
}

// log returns the names of the files of the log that the backup has and needs.
func (i *backupImport) log(ctx context.Context, newest backup.Stored) (names []string, err error) {
	size := int64(i.overlay.Control().LogSegment)
	if !wal.ValidSegmentSize(size) {
		return nil, fmt.Errorf("%s: it does not tell how long segments of the log are", newest.Name(0, pgdata.ControlPath))
	}
	see := func(name string) error {
		f, err := newest.Open(0, "pg_wal/"+name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		names = append(names, name)
		return f.Close()
	}
	for _, r := range i.overlay.Ranges() {
		first := wal.SegmentAt(wal.Position{LSN: r.Start, Timeline: r.Timeline}, size)
		last := wal.SegmentAt(wal.Position{LSN: r.End - 1, Timeline: r.Timeline}, size)
		if err := see(wal.HistoryName(r.Timeline)); err != nil {
			return nil, err
		}
		for s := first; s.Number <= last.Number; s.Number++ {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err := see(s.Name(size)); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// errNotImported is how an import ends of a backup that has problems, which were told.
var errNotImported = errors.New("the backup is not what its manifest says, and was not imported")

// verify compares each backup with its manifest, and the log of the newest, if it has some.
func (i *backupImport) verify(ctx context.Context, control pgdata.Control, hasLog bool) error {
	for n, dir := range i.o.Directories {
		isNewest := n == len(i.o.Directories)-1
		v := &verification{report: i.report, result: new(verifyResult), o: verifyBackupOptions{
			Directories: i.o.Directories[n : n+1], Ignore: manifest.DefaultIgnore(), TempDir: i.o.TempDir,
			NoParseLog: !hasLog || !isNewest, Progress: i.o.Progress,
			PageChecksums: control.DataChecksums && !i.o.NoVerifyChecksums && len(i.o.Directories) == 1,
		}}
		if err := v.run(ctx); err != nil {
			return err
		}
		if v.problems == 0 {
			continue
		}
		if v.o.PageChecksums {
			return usererr.Hinted("If only checksums of pages are wrong, the cluster had them so: --no-verify-checksums imports it all the same.", "%s: %w", dir, errNotImported)
		}
		return fmt.Errorf("%s: %w", dir, errNotImported)
	}
	return nil
}

// store puts the backup, and its log, into the repository.
func (i *backupImport) store(ctx context.Context, newest backup.Stored, as *repo.Commit, names []string) (*repo.Commit, error) {
	version, _, err := readStored(newest, pgVersionPath)
	if err != nil {
		return nil, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(version)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", newest.Name(0, pgVersionPath), err)
	}
	o := chain.SourceOptions{DirMode: localfs.DirModeOwner, FileMode: localfs.FileModeOwner}
	if o.Tablespaces, err = i.overlay.Tablespaces(); err != nil {
		return nil, err
	}
	source := &importSource{Source: i.overlay.Source(o), version: major * 10000, segment: int64(i.overlay.Control().LogSegment)}
	defer source.Close() // it was only read
	parents := repositoryBackup{report: i.report, repository: i.repository, cluster: i.cluster, o: backupOptions{Full: i.o.Full, Verbose: i.o.Verbose}}
	parent, err := parents.parent(ctx)
	if err != nil {
		return nil, err
	}
	sink := i.cluster.NewSink(repo.SinkOptions{As: as, Parent: parent, Workers: i.o.Jobs})
	defer func() {
		if err := sink.Close(); err != nil {
			i.report.warning("after the import: %s", err)
		}
	}()
	show := periodicProgress{i.report, func() string { return strings.Replace(combineProgress(i.overlay), "combined", "imported", 1) }}
	err = show.during(i.o.Progress, func() error {
		return backup.Copy(ctx, sink, source, backup.Options{
			Log: func(ctx context.Context, _ backup.Start, stop <-chan wal.Position) error {
				return i.pushLog(ctx, newest, names, stop)
			},
		})
	})
	if err != nil {
		return nil, err
	}
	written := sink.Written()
	if i.repository.CanRead() {
		_, err = i.cluster.Reach(ctx, *written, written.Stop.Timeline)
	} else if len(names) == 0 {
		i.report.warning("the backup has no log of its own, and whether the repository has it is not known here")
	}
	return written, err
}

// pushLog keeps the log that the backup has. It is an error if that ends before the backup does.
func (i *backupImport) pushLog(ctx context.Context, newest backup.Stored, names []string, stop <-chan wal.Position) error {
	report, err := i.cluster.SalvageLog(ctx, repo.SalvageOptions{Names: names, Read: func(name string) ([]byte, error) {
		content, _, err := readStored(newest, "pg_wal/"+name)
		return content, err
	}})
	if err != nil {
		return fmt.Errorf("the log of the backup: %w", err)
	}
	select {
	case end := <-stop:
		if len(names) > 0 && report.End.LSN < end.LSN {
			return fmt.Errorf("the log of the backup ends at %v, and the backup at %v: %s", report.End.LSN, end.LSN, report.Why)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// importSource is a backup that is imported, without its log, which goes to the log.
type importSource struct {
	backup.Source
	version int   // of the server; its major one alone is known
	segment int64 // of the log, in bytes
}

// Begin adds what the backup does not tell.
func (s *importSource) Begin(ctx context.Context) (backup.Start, error) {
	start, err := s.Source.Begin(ctx)
	start.ServerVersion, start.SegmentSize = s.version, s.segment
	return start, err
}

// Next leaves the files of the log out, and what a server or a standby left that ran there.
func (s *importSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	for {
		m, r, err := s.Source.Next(ctx)
		left := m.Tablespace == 0 && (strings.HasPrefix(m.Path, "pg_wal/") || slices.Contains([]string{"standby.signal", "recovery.signal"}, m.Path))
		if err != nil || m.Kind != backup.File || !left {
			return m, r, err
		}
		if c, ok := r.(io.Closer); ok && m.Apart {
			if err := c.Close(); err != nil {
				return m, nil, err
			}
		}
	}
}
