// Package plain knows how a backup lies in a data directory: members as files
// of their own, tablespaces behind links in pg_tblspc, the log in pg_wal.
//
// It does not know where a backup comes from, and reads nothing into the files
// it writes. What is left of a backup that was given up stays where it is:
// whoever claimed the data directory decides whether it goes.
package plain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/wal"
)

// Permissions of what the server does not send, if nothing else was asked for.
//
// Source: PG_DIR_MODE_OWNER and PG_FILE_MODE_OWNER in
// src/include/common/file_perm.h, PostgreSQL 18.
const (
	dirModeOwner  = 0o700
	fileModeOwner = 0o600
)

// A manifest gets its name last of all: what has it is a whole backup.
const (
	manifestName = "backup_manifest"
	manifestTemp = "backup_manifest.tmp"
)

// Options of a Sink. Dir is required; the rest may be zero.
type Options struct {
	Dir           string            // the data directory, which is there and empty
	TablespaceMap map[string]string // other places for tablespaces, by the canonical path the server has them at
	WALDir        string            // absolute path of the directory, there and empty, that pg_wal is made a link to; empty: none

	DirMode  fs.FileMode // of directories the backup does not hold; zero is 0700
	FileMode fs.FileMode // of files the backup does not hold; zero is 0600

	SyncMethod localfs.SyncMethod
	NoSync     bool // leave it to the system when files become durable

	Progress *backup.Progress // if not nil, is told the path of each member
	Warn     func(error)      // if not nil, is told what could not be opened to be synced
	Step     func(string)     // if not nil, is told each step of Commit, as pg_basebackup --verbose words it
}

// Sink writes a backup as a data directory. It is a backup.Sink.
//
// All writing goes through an os.Root for the data directory, each tablespace
// and a pg_wal elsewhere, so that a link sent by the server leads nowhere else.
// After an error the sink takes nothing more. Close before Commit leaves all
// files that came, the manifest among them only as backup_manifest.tmp.
type Sink struct {
	options Options
	root    *os.Root // the data directory
	wal     *os.Root // WALDir, or nil
	claims  []*localfs.Claim
	places  map[uint32]place // by OID; zero is the data directory
	links   map[string]string

	parent   *os.Root // the directory of the last member, unless it is a place itself
	parentOf location

	manifest bool
	failed   error
}

// place is a directory that members are put below.
type place struct {
	root *os.Root
	path string
}

// location is a directory within a place.
type location struct {
	root *os.Root // of the place
	dir  string
}

// errClosed is what a sink says that was closed or has committed.
var errClosed = errors.New("backup sink is closed")

// NewSink returns a sink that has touched nothing yet.
func NewSink(o Options) *Sink {
	if o.DirMode == 0 {
		o.DirMode = dirModeOwner
	}
	if o.FileMode == 0 {
		o.FileMode = fileModeOwner
	}
	return &Sink{options: o, places: map[uint32]place{}, links: map[string]string{}}
}

// Begin opens the data directory, links pg_wal to WALDir, and claims a directory
// for every tablespace: it must be absent or empty. One whose location is
// relative is made inside the data directory.
func (s *Sink) Begin(_ context.Context, start backup.Start) error {
	err := s.begin(start)
	s.failed = err
	return err
}

func (s *Sink) begin(start backup.Start) error {
	o := s.options
	root, err := os.OpenRoot(o.Dir)
	if err != nil {
		return localfs.Errorf(err, o.Dir, `could not access directory "%s"`, o.Dir)
	}
	s.root = root
	s.places[0] = place{root, o.Dir}
	if o.WALDir != "" {
		link := filepath.Join(o.Dir, "pg_wal")
		if s.wal, err = os.OpenRoot(o.WALDir); err != nil {
			return localfs.Errorf(err, o.WALDir, `could not access directory "%s"`, o.WALDir)
		}
		if err := root.Symlink(o.WALDir, "pg_wal"); err != nil {
			return localfs.Errorf(err, link, `could not create symbolic link "%s"`, link)
		}
	}
	for _, t := range start.Tablespaces {
		if _, taken := s.places[t.OID]; taken {
			return fmt.Errorf("tablespace %d is announced twice", t.OID)
		}
		if filepath.IsAbs(t.Location) {
			err = s.claim(t)
		} else {
			err = s.makeInPlace(t.OID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// claim takes the directory of a tablespace outside the data directory.
func (s *Sink) claim(t backup.Tablespace) error {
	dir := s.mapped(t.Location)
	for _, c := range s.claims {
		if c.Path() == dir {
			return fmt.Errorf(`directory "%s" is the place of two tablespaces`, dir)
		}
	}
	c, err := localfs.ClaimDir(dir, s.options.DirMode)
	if err != nil {
		return err
	}
	s.claims = append(s.claims, c)
	s.places[t.OID] = place{c.Root(), dir}
	s.links[linkName(t.OID)] = dir
	return nil
}

// makeInPlace makes the directory of a tablespace inside the data directory.
func (s *Sink) makeInPlace(oid uint32) error {
	rel := linkName(oid)
	dir := filepath.Join(s.options.Dir, rel)
	if err := s.root.MkdirAll(rel, s.options.DirMode); err != nil {
		return localfs.Errorf(err, dir, `could not create directory "%s"`, dir)
	}
	root, err := s.root.OpenRoot(rel)
	if err != nil {
		return localfs.Errorf(err, dir, `could not access directory "%s"`, dir)
	}
	s.places[oid] = place{root, dir}
	return nil
}

func linkName(oid uint32) string { return "pg_tblspc/" + strconv.FormatUint(uint64(oid), 10) }

// mapped returns where what the server has at target belongs here.
func (s *Sink) mapped(target string) string {
	if to, ok := s.options.TablespaceMap[localfs.Canonical(target)]; ok {
		return to
	}
	return target
}

// Claims returns the directories outside the data directory and WALDir that the
// sink claimed for tablespaces. Until Close they can be given back.
func (s *Sink) Claims() []*localfs.Claim { return slices.Clone(s.claims) }

// Put writes one member under its tablespace. Its directory must have come
// before it. Owner and modification time are not kept, as pg_basebackup does not.
//
// Source: src/fe_utils/astreamer_file.c, PostgreSQL 18.
func (s *Sink) Put(ctx context.Context, m backup.Member, r io.Reader) error {
	if s.failed != nil {
		return s.failed
	}
	if s.root == nil {
		return errClosed
	}
	err := s.put(ctx, m, r)
	s.failed = err
	return err
}

func (s *Sink) put(ctx context.Context, m backup.Member, r io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.Kind == backup.Manifest {
		return s.putManifest(ctx, m, r)
	}
	if m.Path == "" {
		return errors.New("tar member has empty name")
	}
	name := path.Clean(m.Path)
	if !backup.LocalPath(name) {
		return fmt.Errorf(`tar member has unsafe path name: "%s"`, m.Path)
	}
	t, rel, err := s.resolve(m.Tablespace, name)
	if err != nil {
		return err
	}
	full := t.path + "/" + rel
	if s.options.Progress != nil {
		s.options.Progress.SetPath(full)
	}
	switch m.Kind {
	case backup.File:
		return s.putFile(ctx, t, rel, full, m, r)
	case backup.Dir:
		return s.putDir(t, rel, full, m)
	case backup.Symlink:
		return s.putSymlink(t, rel, full, m)
	}
	return fmt.Errorf("member %q is of a kind that a data directory cannot hold", m.Path)
}

// resolve returns the place that a member belongs to, and its path there.
func (s *Sink) resolve(oid uint32, name string) (place, string, error) {
	t, ok := s.places[oid]
	if !ok {
		return place{}, "", fmt.Errorf("member %q is of tablespace %d, which was not announced", name, oid)
	}
	if oid == 0 && s.wal != nil {
		switch first, rest := cutFirst(name); {
		case first != "pg_wal":
		case rest == "":
			return place{s.wal, s.options.WALDir}, ".", nil
		default:
			return place{s.wal, s.options.WALDir}, rest, nil
		}
	}
	return t, name, nil
}

// open returns the directory of rel and the last element of rel. A relation's
// files come one after the other: the directory stays open for the next of them,
// which then costs one openat.
func (s *Sink) open(t place, rel string) (*os.Root, string, error) {
	dir, base := path.Split(rel)
	if dir == "" {
		return t.root, base, nil
	}
	if s.parent != nil && s.parentOf == (location{t.root, dir}) {
		return s.parent, base, nil
	}
	parent, err := t.root.OpenRoot(path.Clean(dir))
	if err != nil {
		return nil, "", err
	}
	s.closeParent()
	s.parent, s.parentOf = parent, location{t.root, dir}
	return parent, base, nil
}

func (s *Sink) closeParent() {
	if s.parent != nil {
		_ = s.parent.Close() // a directory open for reading
		s.parent = nil
	}
}

// Commit makes the files durable and then gives the manifest its name, the last
// change of all. It does neither if ctx is done.
func (s *Sink) Commit(ctx context.Context, _ wal.Position) error {
	if s.failed != nil {
		return s.failed
	}
	if s.root == nil {
		return errClosed
	}
	err := s.commit(ctx)
	s.failed = err
	return err
}

func (s *Sink) commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !s.options.NoSync {
		s.step("syncing data to disk ...")
	}
	syncer := s.syncer()
	if err := syncer.Trees(ctx, s.dirs()...); err != nil {
		return err
	}
	if err := syncer.Names(s.dirs()...); err != nil {
		return err
	}
	if s.manifest {
		s.step("renaming backup_manifest.tmp to backup_manifest")
		if err := syncer.Rename(s.root, s.options.Dir, manifestTemp, manifestName); err != nil {
			return err
		}
	}
	return s.Close()
}

func (s *Sink) syncer() localfs.Syncer {
	return localfs.Syncer{Method: s.options.SyncMethod, Off: s.options.NoSync, Warn: s.options.Warn}
}

// dirs returns every directory the sink wrote to.
func (s *Sink) dirs() []string {
	dirs := []string{s.options.Dir}
	if s.wal != nil {
		dirs = append(dirs, s.options.WALDir)
	}
	for _, c := range s.claims {
		dirs = append(dirs, c.Path())
	}
	return dirs
}

func (s *Sink) step(text string) {
	if s.options.Step != nil {
		s.options.Step(text)
	}
}

// Close closes what is open and removes nothing. It may be called more than once.
func (s *Sink) Close() error {
	if s.root == nil {
		return nil
	}
	s.closeParent()
	var errs []error
	for _, t := range s.places {
		errs = append(errs, t.root.Close())
	}
	if s.wal != nil {
		errs = append(errs, s.wal.Close())
	}
	s.root = nil
	return errors.Join(errs...)
}
