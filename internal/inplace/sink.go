package inplace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/plain"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Options of a Sink. Directory and Marker are required; Has is, if the directory holds something.
type Options struct {
	Directory     *Directory
	Marker        Marker            // Tablespaces need not be set
	TablespaceMap map[string]string // other places for tablespaces, by the canonical path that the backup has them at

	// Clear are tablespaces that the backup does not have, and recovery makes, where a tablespace of the directory is: what is in
	// them of servers of the major version Major is removed.
	Clear []backup.Tablespace
	Major int

	// Make are those where none is: their directories must be absent or empty. Recovery makes none.
	Make []backup.Tablespace

	// Has returns of which kind the backup has something, and false if it has nothing of that path.
	Has func(ctx context.Context, tablespace uint32, path string) (backup.Kind, bool, error)

	Sync     localfs.Syncer
	Warn     func(format string, args ...any) // may be nil
	Progress *backup.Progress                 // may be nil
}

// Sink makes a data directory that of a backup, whatever it holds. It is a backup.Sink.
//
// From Begin on the directory has a marker and no control file, so that no server starts in it. The
// control file comes when all else is durable. Who is interrupted between may begin
// again, with any backup. If Begin fails, what was there is as it was.
type Sink struct {
	o       Options
	inner   *plain.Sink
	claims  []*localfs.Claim
	made    []*localfs.Claim // those of Make, which are among claims
	within  map[string]bool  // paths in the directory, of Clear and Make and those above them
	control *held            // comes last
	begun   bool
	lock    *os.File // the directory, that no other restore has as long as this is open
}

// held is a file that is kept in memory.
type held struct {
	mode    fs.FileMode
	content []byte
}

// NewSink returns a sink that has touched nothing yet.
func NewSink(o Options) *Sink { return &Sink{o: o} }

// Begin takes the directories, leaves the marker, and removes the control file and what the backup does
// not have. A directory of a tablespace that is not this cluster's must be absent or empty.
func (s *Sink) Begin(ctx context.Context, start backup.Start) error {
	if err := s.begin(ctx, start); err != nil {
		return err
	}
	dir := s.claims[0]
	for _, t := range start.Tablespaces {
		s.o.Marker.Tablespaces = append(s.o.Marker.Tablespaces, backup.Tablespace{OID: t.OID, Location: localfs.Canonical(s.mapped(t.Location))})
	}
	s.o.Marker.Tablespaces = slices.Concat(s.o.Marker.Tablespaces, s.o.Clear, s.o.Make)
	if before := s.o.Directory.Marker; before != nil {
		s.o.Marker.Tablespaces = append(s.o.Marker.Tablespaces, before.Tablespaces...)
	}
	s.o.Marker.Format = 1
	content, err := json.Marshal(s.o.Marker)
	if err != nil {
		return err
	}
	if err := s.o.Sync.WriteDurable(dir, MarkerName, content, localfs.FileModeOwner); err != nil {
		return err
	}
	s.begun = true
	if !s.o.Directory.Exists {
		return nil
	}
	if err := s.o.Sync.RemoveDurable(dir, pgdata.ControlPath); err != nil {
		return err
	}
	for _, t := range s.o.Clear {
		if err := clearTablespace(t.Location, s.o.Major); err != nil {
			return err
		}
	}
	if err := s.findWithin(); err != nil {
		return err
	}
	return s.inner.RemoveStrays(ctx, plain.Strays{
		Keeps: s.keeps, Spare: []string{MarkerName},
		Unlinked: func(name, target string) {
			isCleared := func(t backup.Tablespace) bool { return localfs.Canonical(t.Location) == localfs.Canonical(target) }
			if s.o.Warn != nil && !slices.ContainsFunc(s.o.Clear, isCleared) {
				s.o.Warn("\"%s\" led to \"%s\", which is left as it is", name, target)
			}
		},
	})
}

// findWithin finds out which directories of tablespaces that recovery makes are in the directory.
func (s *Sink) findWithin() error {
	dir, err := filepath.EvalSymlinks(s.o.Directory.Path)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return err
	}
	s.within = make(map[string]bool)
	for _, t := range slices.Concat(s.o.Clear, s.o.Make) {
		location, err := filepath.EvalSymlinks(t.Location)
		if err != nil {
			return localfs.Errorf(err, t.Location, `could not access directory "%s"`, t.Location)
		}
		rel, err := filepath.Rel(dir, location)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		for ; rel != "."; rel = filepath.Dir(rel) {
			s.within[filepath.ToSlash(rel)] = true
		}
	}
	return nil
}

// clearTablespace removes what servers of a major version have in a directory.
//
// Source: TABLESPACE_VERSION_DIRECTORY in src/include/common/relpath.h, PostgreSQL 18.
func clearTablespace(dir string, major int) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return localfs.Errorf(err, dir, `could not access directory "%s"`, dir)
	}
	defer root.Close()
	names, err := readNames(dir)
	if err != nil {
		return localfs.Errorf(err, dir, `could not read directory "%s"`, dir)
	}
	for _, name := range names {
		if !strings.HasPrefix(name, fmt.Sprintf("PG_%d_", major)) {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return localfs.Errorf(err, dir, `could not remove "%s"`, filepath.Join(dir, name))
		}
	}
	return localfs.SyncRoot(root, dir)
}

// begin takes the directories.
func (s *Sink) begin(ctx context.Context, start backup.Start) error {
	d := s.o.Directory
	o := plain.Options{
		TablespaceMap: s.o.TablespaceMap, Sync: s.o.Sync, Progress: s.o.Progress,
		InPlace: d.Exists, Occupied: make(map[uint32]*localfs.Claim),
	}
	claim := func(path string, isOurs bool) (c *localfs.Claim, err error) {
		if isOurs {
			c, err = localfs.OccupyDir(path)
		} else {
			c, err = localfs.ClaimDir(path, localfs.DirModeOwner)
		}
		if err == nil {
			s.claims = append(s.claims, c)
		}
		return c, err
	}
	var err error
	if o.Dir, err = claim(d.Path, d.Exists); err != nil {
		return err
	}
	if err := s.takeLock(); err != nil {
		return err
	}
	if d.WALDir != "" {
		if o.WALDir, err = claim(d.WALDir, true); err != nil {
			return err
		}
	}
	for _, t := range start.Tablespaces {
		if !filepath.IsAbs(t.Location) || !d.Holds(t.OID, s.mapped(t.Location)) {
			continue
		}
		if o.Occupied[t.OID], err = claim(s.mapped(t.Location), true); errors.Is(err, fs.ErrNotExist) {
			delete(o.Occupied, t.OID) // it is made
		} else if err != nil {
			return err
		}
	}
	for _, t := range s.o.Make {
		c, err := claim(t.Location, false)
		if err != nil {
			return err
		}
		s.made = append(s.made, c)
	}
	if err := d.CheckStopped(); err != nil {
		return err
	}
	s.inner = plain.NewSink(o)
	err = s.inner.Begin(ctx, start)
	for _, c := range s.inner.Claims() {
		if !isOneOf(c, s.claims) {
			s.claims = append(s.claims, c)
		}
	}
	return err
}

// takeLock sees that no other restore is at work in the directory: who began again after a connection was lost may not know that
// the first one goes on.
func (s *Sink) takeLock() (err error) {
	path := s.o.Directory.Path
	if s.lock, err = s.claims[0].Root().Open("."); err != nil {
		return localfs.Errorf(err, path, `could not open directory "%s"`, path)
	}
	if localfs.Lock(s.lock) {
		err := s.claims[0].Close() // what is in it by now is the other's
		s.claims = nil
		return errors.Join(usererr.Hinted("Wait until it has ended, or end it and do this again.", "another restore is at work in \"%s\"", path), err)
	}
	return nil
}

// isOneOf says whether a claim is among others.
func isOneOf(c *localfs.Claim, all []*localfs.Claim) bool {
	for _, other := range all {
		if other == c {
			return true
		}
	}
	return false
}

// mapped returns where what the backup has at a path belongs here.
func (s *Sink) mapped(location string) string {
	if to, ok := s.o.TablespaceMap[localfs.Canonical(location)]; ok {
		return to
	}
	return location
}

// keeps says what of the directory stays. Of what has a server recover, and how, nothing does.
func (s *Sink) keeps(ctx context.Context, tablespace uint32, name string) (backup.Kind, bool, error) {
	if tablespace == 0 {
		switch name {
		case "standby.signal", "recovery.signal", "recovery.conf":
			return 0, false, nil
		}
		if s.within[name] {
			return backup.Dir, true, nil
		}
	}
	return s.o.Has(ctx, tablespace, name)
}

// Put takes a member.
func (s *Sink) Put(ctx context.Context, m backup.Member, r io.Reader) error {
	if m.Tablespace != 0 || m.Kind != backup.File || path.Clean(m.Path) != pgdata.ControlPath {
		return s.inner.Put(ctx, m, r)
	}
	const most = 64 << 10 // far more than any has
	content, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return err
	}
	if int64(len(content)) != m.Size || len(content) > most {
		return fmt.Errorf("\"%s\": %d bytes came where %d were announced", m.Path, len(content), m.Size)
	}
	s.control = &held{m.Mode, content}
	return nil
}

// PutApart is Put. Files may be put by several goroutines at a time.
func (s *Sink) PutApart(ctx context.Context, m backup.Member, r io.Reader) error {
	return s.inner.PutApart(ctx, m, r)
}

// Written returns how many bytes of files were written.
func (s *Sink) Written() int64 { return s.inner.Written() }

// Commit makes all durable, and then the control file, and removes the marker.
func (s *Sink) Commit(ctx context.Context, end wal.Position) error {
	if s.control == nil {
		return fmt.Errorf("the backup has no %s", pgdata.ControlPath)
	}
	if err := s.inner.Commit(ctx, end); err != nil {
		return err
	}
	if len(s.made) > 0 {
		if err := s.o.Sync.Finish(ctx, "", s.made[0], s.made[1:]...); err != nil {
			return err
		}
	}
	dir := s.claims[0]
	if err := s.o.Sync.WriteDurable(dir, pgdata.ControlPath, s.control.content, s.control.mode); err != nil {
		return err
	}
	return s.o.Sync.RemoveDurable(dir, MarkerName)
}

// Close ends the sink. If it never took anything, what was made is removed.
func (s *Sink) Close() error {
	var errs []error
	if s.inner != nil {
		errs = append(errs, s.inner.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
		s.lock = nil
	}
	for i := len(s.claims) - 1; i >= 0; i-- {
		if s.begun {
			errs = append(errs, s.claims[i].Close())
		} else {
			errs = append(errs, s.claims[i].Remove())
		}
	}
	s.claims = nil
	return errors.Join(errs...)
}
