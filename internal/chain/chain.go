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
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
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
	TempDir    string             // for what is too much for memory; empty is the system's

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
	ignore  []string // what is not compared with a manifest
	found   int      // files of the newest that are in its manifest

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
func New(inputs []Input, o Options) (*Overlay, error) {
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	if o.Debug == nil {
		o.Debug = func(string, ...any) {}
	}
	if len(inputs) > maxInputs {
		return nil, fmt.Errorf("a chain of %d backups is too long: %d are the most", len(inputs), maxInputs)
	}
	v := &Overlay{o: o, ignore: manifest.DefaultIgnore()}
	for _, i := range inputs {
		v.inputs = append(v.inputs, &input{Input: i})
	}
	v.newest = v.inputs[len(v.inputs)-1]
	for _, check := range []func() error{v.checkControls, v.checkLabels, v.openManifests, v.checkContents} {
		if err := check(); err != nil {
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
func (v *Overlay) checkControls() (err error) {
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
func (v *Overlay) checkLabels() (err error) {
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
func (v *Overlay) openManifests() error {
	for _, in := range v.inputs {
		if err := v.openManifest(in); err != nil {
			return err
		}
	}
	return nil
}

// Source: load_backup_manifest in src/bin/pg_combinebackup/load_manifest.c, PostgreSQL 18.
func (v *Overlay) openManifest(in *input) (err error) {
	if in.manifest, err = in.Backup.Open(0, manifest.Name); errors.Is(err, fs.ErrNotExist) {
		v.o.Warn(fmt.Errorf("file \"%s\" does not exist", in.Backup.Name(0, manifest.Name)))
		return nil
	}
	if err != nil {
		return err
	}
	if in.catalog, err = manifest.NewCatalog(in.manifest, in.manifest.Size, v.o.TempDir); err != nil {
		return fmt.Errorf("%s: %w", in.manifest.Name, err)
	}
	switch {
	case in.catalog.Version == 1:
		return fmt.Errorf("%s: backup manifest version 1 does not support incremental backup", in.manifest.Name)
	case in.catalog.SystemID != v.control.SystemID:
		return fmt.Errorf("%s: manifest system identifier is %d, but control file has %d",
			in.Backup.Name(0, pgdata.ControlPath), in.catalog.SystemID, v.control.SystemID)
	}
	return nil
}

// checkContents compares what was read already with the manifests.
func (v *Overlay) checkContents() error {
	if v.newest.catalog == nil && !v.o.NoManifest {
		return usererr.Hinted("Combine with --no-manifest; what comes out cannot be verified then.",
			"cannot generate a manifest because no manifest is available for the final input backup")
	}
	if v.o.NoVerify {
		return nil
	}
	for _, in := range v.inputs {
		for path, content := range map[string][]byte{pgdata.ControlPath: in.control, pgdata.LabelPath: in.label} {
			if err := in.checkContent(path, content); err != nil {
				return err
			}
		}
	}
	return nil
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

// ignores says whether what is at a path is not compared with the manifest.
func (v *Overlay) ignores(path string) bool {
	for _, ignored := range v.ignore {
		if rest, ok := strings.CutPrefix(path, ignored); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// checkMissing sees, after all files of the newest backup came, that none is missing of
// those in its manifest. Of the others nobody misses one that no file is made of.
func (v *Overlay) checkMissing() error {
	in := v.newest
	if v.o.NoVerify || in.catalog == nil {
		return nil
	}
	found := v.found
	if _, listed, err := in.find(pgdata.LabelPath); err != nil {
		return err
	} else if listed {
		found++ // it was read before all others
	}
	if found == in.catalog.Len {
		return nil
	}
	var errs []error
	_, err := manifest.Read(io.NewSectionReader(in.manifest, 0, in.manifest.Size), func(f manifest.File) error {
		if v.ignores(f.Path) || f.Path == pgdata.LabelPath || len(errs) == maxMissing {
			return nil
		}
		tablespace, within := unlisted(f.Path)
		switch file, err := in.Backup.Open(tablespace, within); {
		case errors.Is(err, fs.ErrNotExist):
			errs = append(errs, damaged("\"%s\" is present in the manifest but not on disk", in.Backup.Name(tablespace, within)))
		case err == nil:
			return file.Close()
		}
		return nil // one that cannot be opened was an error when it came by
	})
	return errors.Join(append(errs, err)...)
}

// maxMissing is how many missing files are named.
const maxMissing = 20
