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
	"sync"
	"sync/atomic"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/wal"
)

// Options of a Sink. Dir is required; the rest may be zero.
type Options struct {
	Dir           *localfs.Claim    // the data directory
	TablespaceMap map[string]string // other places for tablespaces, by the canonical path the server has them at
	WALDir        *localfs.Claim    // what pg_wal is made a link to, by its path, which is absolute; nil: none

	DirMode  fs.FileMode // of directories the backup does not hold; zero is 0700
	FileMode fs.FileMode // of files the backup does not hold; zero is 0600

	Sync localfs.Syncer // makes the backup durable

	// Method is how files are made of a backup that lies in files here.
	Method CopyMethod

	// InPlace has what is in Dir already be made the backup: files are updated, and links and directories
	// may be there. RemoveStrays removes the rest. Occupied are directories of tablespaces, by OID, that may
	// hold something too, and WALDir may be what pg_wal leads to already.
	InPlace  bool
	Occupied map[uint32]*localfs.Claim

	Progress *backup.Progress // if not nil, is told the path of each member
}

// Sink writes a backup as a data directory. It is a backup.Sink.
//
// All writing goes through an os.Root for the data directory, each tablespace
// and a pg_wal elsewhere, so that a link sent by the server leads nowhere else.
// After an error the sink takes nothing more. Close before Commit leaves all
// files that came, the manifest among them only as backup_manifest.tmp. The
// claims, those of tablespaces too, are not the sink's to end.
type Sink struct {
	options Options
	open    bool             // has begun, and is not closed
	claims  []*localfs.Claim // of tablespaces
	inPlace []*os.Root       // of tablespaces inside the data directory
	places  map[uint32]place // by OID; zero is the data directory
	links   map[string]string

	parents  sync.Mutex
	parent   *os.Root // the directory of the last member, unless it is a place itself
	parentOf location

	written  atomic.Int64 // bytes of files, in place
	manifest bool
	failing  sync.Mutex
	failed   error // the first, after which nothing more is taken
}

// place is a directory that members are put below.
type place struct {
	root *os.Root
	path string
}

// spot is where a member belongs.
type spot struct {
	root *os.Root
	rel  string // within root
	full string // for messages
}

// location is a directory within a place.
type location struct {
	root *os.Root // of the place
	dir  string
}

// NewSink returns a sink that has touched nothing yet.
func NewSink(o Options) *Sink {
	if o.DirMode == 0 {
		o.DirMode = localfs.DirModeOwner
	}
	if o.FileMode == 0 {
		o.FileMode = localfs.FileModeOwner
	}
	return &Sink{options: o, places: map[uint32]place{}, links: map[string]string{}}
}

// Begin links pg_wal to WALDir, and claims a directory for every tablespace: it
// must be absent or empty, and no other part of the backup may be there. One whose
// location is relative is made inside the data directory.
func (s *Sink) Begin(_ context.Context, start backup.Start) error {
	s.open = true
	return s.fail(s.begin(start))
}

// fail remembers what went wrong, and returns it.
func (s *Sink) fail(err error) error {
	s.failing.Lock()
	defer s.failing.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	return err
}

// ready returns why nothing more is taken, if so.
func (s *Sink) ready() error {
	s.failing.Lock()
	defer s.failing.Unlock()
	if s.failed == nil && !s.open {
		return fs.ErrClosed
	}
	return s.failed
}

func (s *Sink) begin(start backup.Start) error {
	dir, err := s.options.Dir, error(nil)
	s.places[0] = place{dir.Root(), dir.Path()}
	if wal := s.options.WALDir; wal != nil {
		if err := s.checkApart(wal); err != nil {
			return err
		}
		link := filepath.Join(dir.Path(), "pg_wal")
		if err := s.link(dir.Root(), wal.Path(), "pg_wal"); err != nil {
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
func (s *Sink) claim(t backup.Tablespace) (err error) {
	dir := s.mapped(t.Location)
	c, taken := s.options.Occupied[t.OID]
	if !taken {
		if c, err = localfs.ClaimDir(dir, s.options.DirMode); err != nil {
			return err
		}
	}
	if err := s.checkApart(c); err != nil {
		if !taken {
			err = errors.Join(err, c.Close())
		}
		return err
	}
	s.claims = append(s.claims, c)
	s.places[t.OID] = place{c.Root(), dir}
	s.links[linkName(t.OID)] = dir
	return nil
}

// checkApart returns an error if a part of the backup is in the directory of c
// already, be it by another path.
func (s *Sink) checkApart(c *localfs.Claim) error {
	for _, taken := range s.claimed() {
		if taken == c {
			continue
		}
		switch same, err := c.Same(taken); {
		case err != nil:
			return err
		case same:
			return fmt.Errorf(`directory "%s" is to hold two parts of the backup`, c.Path())
		}
	}
	return nil
}

// claimed returns every directory the sink writes to, the data directory first.
func (s *Sink) claimed() []*localfs.Claim {
	claims := []*localfs.Claim{s.options.Dir}
	if s.options.WALDir != nil {
		claims = append(claims, s.options.WALDir)
	}
	return append(claims, s.claims...)
}

// makeInPlace makes the directory of a tablespace inside the data directory.
func (s *Sink) makeInPlace(oid uint32) error {
	rel := linkName(oid)
	dir := filepath.Join(s.options.Dir.Path(), rel)
	if err := s.options.Dir.Root().MkdirAll(rel, s.options.DirMode); err != nil {
		return localfs.Errorf(err, dir, `could not create directory "%s"`, dir)
	}
	root, err := s.options.Dir.Root().OpenRoot(rel)
	if err != nil {
		return localfs.Errorf(err, dir, `could not access directory "%s"`, dir)
	}
	s.inPlace = append(s.inPlace, root)
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
// sink claimed for tablespaces, in the order it did, and those that were occupied for it.
// Whoever called Begin ends them, whatever came of it, after Close of the sink.
func (s *Sink) Claims() []*localfs.Claim { return slices.Clone(s.claims) }

// Put writes one member under its tablespace. Its directory must have come
// before it. Owner and modification time are not kept, as pg_basebackup does not.
//
// Source: src/fe_utils/astreamer_file.c, PostgreSQL 18.
func (s *Sink) Put(ctx context.Context, m backup.Member, r io.Reader) error {
	if err := s.ready(); err != nil {
		return err
	}
	return s.fail(s.put(ctx, m, r))
}

// PutApart is Put. Files may be put by several goroutines at a time.
func (s *Sink) PutApart(ctx context.Context, m backup.Member, r io.Reader) error {
	return s.Put(ctx, m, r)
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
	at, err := s.resolve(m.Tablespace, name)
	if err != nil {
		return err
	}
	if s.options.Progress != nil {
		s.options.Progress.SetPath(at.full)
	}
	switch m.Kind {
	case backup.File:
		return s.putFile(ctx, at, m, r)
	case backup.Dir:
		return s.putDir(at, m)
	case backup.Symlink:
		return s.putSymlink(at, m)
	}
	return fmt.Errorf("member %q is of a kind that a data directory cannot hold", m.Path)
}

// resolve returns where a member belongs.
func (s *Sink) resolve(oid uint32, name string) (spot, error) {
	t, ok := s.places[oid]
	if !ok {
		return spot{}, fmt.Errorf("member %q is of tablespace %d, which was not announced", name, oid)
	}
	if wal := s.options.WALDir; oid == 0 && wal != nil {
		switch first, rest := cutFirst(name); {
		case first != "pg_wal":
		case rest == "":
			t, name = place{wal.Root(), wal.Path()}, "."
		default:
			t, name = place{wal.Root(), wal.Path()}, rest
		}
	}
	return spot{t.root, name, t.path + "/" + name}, nil
}

// enter calls do with the directory of a spot, and its name there. A relation's files come
// one after the other: the directory stays open for the next of them, which then costs one
// openat. Nobody else enters meanwhile.
func (s *Sink) enter(at spot, do func(dir *os.Root, name string) error) error {
	dir, base := path.Split(at.rel)
	if dir == "" {
		return do(at.root, base)
	}
	s.parents.Lock()
	defer s.parents.Unlock()
	if s.parent == nil || s.parentOf != (location{at.root, dir}) {
		parent, err := at.root.OpenRoot(path.Clean(dir))
		if err != nil {
			return err
		}
		s.closeParent()
		s.parent, s.parentOf = parent, location{at.root, dir}
	}
	return do(s.parent, base)
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
	if err := s.ready(); err != nil {
		return err
	}
	return s.fail(s.commit(ctx))
}

func (s *Sink) commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := ""
	if s.manifest {
		name = manifest.Name
	}
	claims := s.claimed()
	if err := s.options.Sync.Finish(ctx, name, claims[0], claims[1:]...); err != nil {
		return err
	}
	return s.Close()
}

// Salvage is Commit without the last step: the manifest does not get its name.
func (s *Sink) Salvage(ctx context.Context, _ wal.Position) error {
	s.manifest = false
	return s.Commit(ctx, wal.Position{})
}

// Close closes what is open and removes nothing. It may be called more than once.
func (s *Sink) Close() error {
	s.open = false
	s.closeParent()
	var errs []error
	for _, root := range s.inPlace {
		errs = append(errs, root.Close())
	}
	s.inPlace = nil
	return errors.Join(errs...)
}
