// Package chain knows how a full backup and the incremental ones that follow it make one
// whole backup: which blocks of a file come from which of them.
//
// Every file that is read is compared with the manifest of its own backup, so that what
// was damaged since does not become part of a new and valid one. Where the backups lie and
// where the whole one goes is not its business.
//
// Source: src/bin/pg_combinebackup, PostgreSQL 18, whose texts it has.
package chain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"sync/atomic"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Input is one backup of a chain.
type Input struct {
	Name   string // what messages call it
	Backup backup.Stored
}

// maxInputs is how many backups a chain has at most: what a block comes from is a number of
// 16 bits.
const maxInputs = math.MaxUint16

// Options are the options of an Overlay. The zero value checks everything, and makes a
// manifest without checksums.
type Options struct {
	NoVerify   bool               // files are not compared with their manifests
	Checksums  manifest.Algorithm // of the manifest that is made
	NoManifest bool               // none is made
	Ignore     []string           // paths that are not compared, with what is below them; nil is manifest.DefaultIgnore
	TempDir    string             // for what is too much for memory
	// AnyManifest has a full backup be taken by itself whose server knows no incremental ones: its
	// manifest is of version 1, as before 17.
	AnyManifest bool

	Warn  func(error)                      // is told what ends nothing; may be nil
	Debug func(format string, args ...any) // is told what is done; may be nil
}

// Overlay is a backup that is made of several. Close it.
type Overlay struct {
	o       Options
	inputs  []*input // oldest first
	newest  *input
	control pgdata.Control // of the newest
	start   wal.Position   // of the newest
	uid     int            // who owns the newest
	gid     int
	found   int // files of the newest that are in its manifest
	ignored int // of these, that are not compared

	files, bytes atomic.Int64 // that were made
}

// input is one backup of a chain, as it was looked at.
type input struct {
	Input
	control, label []byte // the files
	manifest       *backup.StoredFile
	catalog        *manifest.Catalog // nil if it has no manifest
}

// New looks at the backups of a chain, the oldest, a full one, first, and returns what they
// make together. It is an error if they do not follow one another.
func New(ctx context.Context, inputs []Input, o Options) (*Overlay, error) {
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	if o.Debug == nil {
		o.Debug = func(string, ...any) {}
	}
	if len(inputs) > maxInputs {
		return nil, fmt.Errorf("a chain of %d backups is too long: %d are the most", len(inputs), maxInputs)
	}
	if o.Ignore == nil {
		o.Ignore = manifest.DefaultIgnore()
	}
	v := &Overlay{o: o}
	for _, i := range inputs {
		v.inputs = append(v.inputs, &input{Input: i})
	}
	v.newest = v.inputs[len(v.inputs)-1]
	for _, check := range []func(context.Context) error{v.checkControls, v.checkLabels, v.openManifests, v.checkContents} {
		if err := check(ctx); err != nil {
			return nil, errors.Join(err, v.Close())
		}
	}
	return v, nil
}

// Close lets go of the manifests. The backups are not its to close.
func (v *Overlay) Close() error {
	var errs []error
	for _, in := range v.inputs {
		if in.catalog != nil {
			errs = append(errs, in.catalog.Close())
		}
		if in.manifest != nil {
			errs = append(errs, in.manifest.Close())
		}
	}
	return errors.Join(errs...)
}

// Progress returns how many files were made, and with how many bytes, and how many files
// there will be; zero if that is not known. It may be called at any time.
func (v *Overlay) Progress() (files, bytes, total int64) {
	if v.newest.catalog != nil {
		total = int64(v.newest.catalog.Len)
	}
	return v.files.Load(), v.bytes.Load(), total
}

// Control returns what the control file of the newest backup says.
func (v *Overlay) Control() pgdata.Control { return v.control }

// Ranges returns the log that the newest backup needs, as its manifest says; none without one.
func (v *Overlay) Ranges() []manifest.Range {
	if v.newest.catalog == nil {
		return nil
	}
	return v.newest.catalog.Ranges
}

// readAll reads a small file of a backup.
func (v *Overlay) readAll(in *input, path string, most int64) ([]byte, error) {
	f, err := in.Backup.Open(0, path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if in == v.newest {
		v.uid, v.gid = f.UID, f.GID
	}
	if f.Size > most {
		return nil, fmt.Errorf("file \"%s\" is too large", f.Name)
	}
	content := make([]byte, f.Size)
	_, err = io.ReadFull(io.NewSectionReader(f, 0, f.Size), content)
	if err != nil {
		return nil, fmt.Errorf("could not read file \"%s\": %w", f.Name, err)
	}
	return content, nil
}

// checkControls compares the control files, the newest first.
//
// Source: check_control_files in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func (v *Overlay) checkControls(context.Context) (err error) {
	changed := ""
	for i := len(v.inputs) - 1; i >= 0; i-- {
		in := v.inputs[i]
		name := in.Backup.Name(0, pgdata.ControlPath)
		v.o.Debug("reading \"%s\"", name)
		if in.control, err = v.readAll(in, pgdata.ControlPath, pgdata.ControlSize); err != nil {
			return err
		}
		c, err := pgdata.ParseControl(in.control)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		switch {
		case in == v.newest:
			v.control = c
		case c.SystemID != v.control.SystemID:
			return fmt.Errorf("%s: expected system identifier %d, but found %d", name, v.control.SystemID, c.SystemID)
		case v.control.DataChecksums && !c.DataChecksums:
			changed = in.Name
		}
	}
	v.o.Debug("system identifier is %d", v.control.SystemID)
	if c := v.control; len(v.inputs) > 1 && (c.PageSize != pgdata.PageSize || c.SegmentPages != pgdata.SegmentPages) {
		return fmt.Errorf("the cluster has pages of %d bytes, and files of %d pages, not %d and %d", c.PageSize, c.SegmentPages, pgdata.PageSize, pgdata.SegmentPages)
	}
	if changed == "" {
		return nil
	}
	return v.checksumsChanged(changed)
}

// checksumsChanged is about pages that have no checksums, in a cluster that has: it would
// start, and then read none of them.
func (v *Overlay) checksumsChanged(name string) error {
	const remedy = "run pg_checksums --disable, and then --enable if they are wanted, on the output directory before it is started."
	if v.o.NoVerify {
		v.o.Warn(usererr.Hinted("Disable, and optionally reenable, checksums on the output directory to avoid failures: "+remedy,
			"only some backups have checksums enabled"))
		return nil
	}
	return usererr.Hinted("Take a full backup after the checksums were enabled, and combine from there. Without one, combine with --no-verify, and "+remedy,
		"only some backups have checksums enabled: that at \"%s\" has none", name)
}

// checkLabels sees that each backup was taken on top of the one before, the newest first.
//
// Source: check_backup_label_files in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func (v *Overlay) checkLabels(context.Context) (err error) {
	var next pgdata.Label
	for i := len(v.inputs) - 1; i >= 0; i-- {
		in := v.inputs[i]
		name := in.Backup.Name(0, pgdata.LabelPath)
		v.o.Debug("reading \"%s\"", name)
		if in.label, err = v.readAll(in, pgdata.LabelPath, pgdata.MaxLabelSize); err != nil {
			return err
		}
		label, err := pgdata.ParseLabel(in.label, name)
		isFull := label.Previous.Timeline == 0
		switch {
		case err != nil:
			return err
		case i > 0 && isFull:
			return usererr.Hinted("Name the oldest backup of the chain first, and the newest last.",
				"backup at \"%s\" is a full backup, but only the first backup should be a full backup", in.Name)
		case i == 0 && !isFull:
			return usererr.Hinted("Name all backups of the chain, beginning with the full one.",
				"backup at \"%s\" is an incremental backup, but the first backup should be a full backup", in.Name)
		case in != v.newest && label.Start.Timeline != next.Previous.Timeline:
			return fmt.Errorf("backup at \"%s\" starts on timeline %d, but expected %d", in.Name, label.Start.Timeline, next.Previous.Timeline)
		case in != v.newest && label.Start.LSN != next.Previous.LSN:
			return usererr.Hinted(fmt.Sprintf("Name the backups from the oldest to the newest and leave none out: the backup at \"%s\" was taken on top of one that starts at %v.", v.inputs[i+1].Name, next.Previous.LSN),
				"backup at \"%s\" starts at LSN %v, but expected %v", in.Name, label.Start.LSN, next.Previous.LSN)
		}
		if next = label; in == v.newest {
			v.start = label.Start
		}
	}
	return nil
}

// openManifests reads the manifests, the oldest first.
func (v *Overlay) openManifests(ctx context.Context) error {
	for _, in := range v.inputs {
		if err := v.openManifest(ctx, in); err != nil {
			return err
		}
	}
	return nil
}

// Source: load_backup_manifest in src/bin/pg_combinebackup/load_manifest.c, PostgreSQL 18.
func (v *Overlay) openManifest(ctx context.Context, in *input) (err error) {
	if in.manifest, err = in.Backup.Open(0, manifest.Name); errors.Is(err, fs.ErrNotExist) {
		v.o.Warn(fmt.Errorf("file \"%s\" does not exist", in.Backup.Name(0, manifest.Name)))
		return nil
	}
	if err != nil {
		return err
	}
	if in.catalog, err = manifest.NewCatalog(untilDone{ctx, in.manifest}, in.manifest.Size, v.o.TempDir); err != nil {
		return fmt.Errorf("%s: %w", in.manifest.Name, err)
	}
	switch {
	case in.catalog.Version == 1 && v.o.AnyManifest && len(v.inputs) == 1: // which does not tell the cluster
	case in.catalog.Version == 1:
		return fmt.Errorf("%s: backup manifest version 1 does not support incremental backup", in.manifest.Name)
	case in.catalog.SystemID != v.control.SystemID:
		return fmt.Errorf("%s: manifest system identifier is %d, but control file has %d",
			in.Backup.Name(0, pgdata.ControlPath), in.catalog.SystemID, v.control.SystemID)
	}
	return nil
}

// checkContents compares what was read already with the manifests.
func (v *Overlay) checkContents(context.Context) error {
	if v.newest.catalog == nil && !v.o.NoManifest {
		return usererr.Hinted("Combine with --no-manifest; what comes out cannot be verified then.",
			"cannot generate a manifest because no manifest is available for the final input backup")
	}
	if v.o.NoVerify {
		return nil
	}
	for _, in := range v.inputs {
		if err := in.checkContent(pgdata.ControlPath, in.control); err != nil {
			return err
		}
		if err := in.checkContent(pgdata.LabelPath, in.label); err != nil {
			return err
		}
	}
	return v.checkMap()
}

// checkMap compares the tablespace map of the newest backup with its manifest.
func (v *Overlay) checkMap() error {
	_, listed, err := v.newest.find(pgdata.TablespaceMapPath)
	if err != nil {
		return err
	}
	if !listed {
		f, err := v.newest.Backup.Open(0, pgdata.TablespaceMapPath)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		v.o.Warn(fmt.Errorf("\"%s\" is not in the manifest, and is left out", f.Name))
		return f.Close()
	}
	content, err := v.readAll(v.newest, pgdata.TablespaceMapPath, pgdata.MaxTablespaceMapSize)
	if err != nil {
		return err
	}
	return v.newest.checkContent(pgdata.TablespaceMapPath, content)
}

// untilDone is a file that is read until the end of a context.
type untilDone struct {
	ctx context.Context
	r   io.ReaderAt
}

func (u untilDone) ReadAt(p []byte, off int64) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.ReadAt(p, off)
}

// checkContent compares a whole file with the manifest.
func (in *input) checkContent(path string, content []byte) error {
	f, listed, err := in.find(path)
	if !listed || err != nil {
		return err
	}
	c := newCheck(in.Backup.Name(0, path), f)
	if err := c.size(int64(len(content))); err != nil {
		return err
	}
	c.add(content)
	return c.finish()
}

// find finds a file in the manifest, if there is one.
func (in *input) find(path string) (f manifest.File, listed bool, err error) {
	if in.catalog == nil {
		return f, false, nil
	}
	f, listed, err = in.catalog.Find(path)
	if err != nil {
		err = fmt.Errorf("%s: %w", in.manifest.Name, err)
	}
	return f, listed, err
}

// checkMissing sees, after all files of the newest backup came, that none is missing of
// those in its manifest. Of the others nobody misses one that no file is made of.
func (v *Overlay) checkMissing(ctx context.Context) error {
	in := v.newest
	if v.o.NoVerify || in.catalog == nil {
		return nil
	}
	found := v.found
	for _, path := range []string{pgdata.LabelPath, pgdata.TablespaceMapPath} { // which were read before all others
		_, listed, err := in.find(path)
		if err != nil {
			return err
		}
		if listed {
			found++
		}
	}
	if found == in.catalog.Len {
		return nil
	}
	wanted := 0
	var missing []error
	_, err := manifest.Read(io.NewSectionReader(untilDone{ctx, in.manifest}, 0, in.manifest.Size), func(f manifest.File) error {
		if manifest.Ignores(v.o.Ignore, f.Path) {
			return nil
		}
		if wanted++; len(missing) == maxMissing {
			return nil
		}
		tablespace, within := backup.CutManifestPath(f.Path)
		switch file, err := in.Backup.Open(tablespace, within); {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, fmt.Errorf("\"%s\" is present in the manifest but not on disk", in.Backup.Name(tablespace, within)))
		case err != nil: // as where a link is in its place, which was passed over
			missing = append(missing, err)
		default:
			return file.Close()
		}
		return nil
	})
	switch came := found - v.ignored; {
	case err != nil:
		return err
	case len(missing) > 0:
		return usererr.Hinted("See what else is wrong with verifybackup, and use another copy of the backup, or one from before.", "%w", errors.Join(missing...))
	case came < wanted:
		return usererr.Hinted("They may be behind links or special files that were passed over; make directories and files of these.",
			"%d files of \"%s\" are not in the backup as they are named there", wanted-came, in.manifest.Name)
	}
	return nil
}

// maxMissing is how many missing files are named.
const maxMissing = 20
