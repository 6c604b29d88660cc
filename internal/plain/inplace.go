package plain

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"basin/internal/backup"
	"basin/internal/localfs"
)

// Written returns how many bytes of files were written by now.
func (s *Sink) Written() int64 { return s.written.Load() }

// update has a file that is there be what the backup has, and says whether it could.
func (s *Sink) update(at spot, m backup.Member, u backup.Updater) (done bool, err error) {
	var f *os.File
	err = s.enter(at, func(dir *os.Root, name string) error {
		info, err := dir.Lstat(name)
		if err != nil || !isOwn(info) {
			return nil // it is made anew, and tells then what is wrong
		}
		if f, err = dir.OpenFile(name, os.O_RDWR, 0); errors.Is(err, fs.ErrPermission) {
			return nil // a file that nobody may write to can be made anew
		}
		return err
	})
	if err != nil {
		return false, localfs.Errorf(err, at.full, `could not open file "%s"`, at.full)
	}
	if f == nil {
		return false, nil
	}
	defer f.Close() // after an error; otherwise closed below
	if err := f.Chmod(m.Mode); err != nil {
		return false, localfs.Errorf(err, at.full, `could not set permissions on file "%s"`, at.full)
	}
	n, err := u.Update(f)
	s.written.Add(n)
	if path := (*fs.PathError)(nil); errors.As(err, &path) {
		return false, localfs.Errorf(err, at.full, `could not update file "%s"`, at.full)
	}
	if err != nil {
		return false, err
	}
	if err := f.Close(); err != nil {
		return false, localfs.Errorf(err, at.full, `could not close file "%s"`, at.full)
	}
	return true, nil
}

// isOwn says whether something is a file of one name: what is written to it is written to no other, as of
// a cluster that pg_upgrade --link was run on.
func isOwn(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return info.Mode().IsRegular() && ok && st.Nlink == 1
}

// makeWay removes what is in the way of a new file.
func makeWay(dir *os.Root, name string) error {
	info, err := dir.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case isOwn(info) && info.Mode().Perm()&0o200 != 0:
		return nil
	}
	return dir.RemoveAll(name)
}

// link makes a link, which may be there already in place.
func (s *Sink) link(dir *os.Root, target, name string) error {
	if s.options.InPlace {
		if is, err := dir.Readlink(name); err == nil && is == target {
			return nil
		}
		if err := dir.RemoveAll(name); err != nil {
			return err
		}
	}
	return dir.Symlink(target, name)
}

// Strays says what RemoveStrays removes.
type Strays struct {
	// Keeps returns of which kind the backup has something, and false if it has nothing of that path.
	Keeps func(ctx context.Context, tablespace uint32, path string) (backup.Kind, bool, error)
	Spare []string // names in the data directory that are left alone
	// Unlinked, if not nil, is told where links led to that were removed: what is there is left.
	Unlinked func(name, target string)
}

// RemoveStrays removes what is in the directories and not in the backup, or something else there. It is
// called between Begin and the first Put. Of the directory of a tablespace, what is not below a
// folder that the backup has is left: it is that of another version's server.
func (s *Sink) RemoveStrays(ctx context.Context, o Strays) error {
	if err := s.ready(); err != nil {
		return err
	}
	oids := make([]uint32, 0, len(s.places))
	for oid := range s.places {
		oids = append(oids, oid)
	}
	slices.Sort(oids)
	for _, oid := range oids {
		w := strayWalk{ctx: ctx, o: o, sink: s, oid: oid}
		if err := w.dir(s.places[oid], ".", ""); err != nil {
			return s.fail(err)
		}
	}
	return nil
}

// strayWalk looks for strays of one place.
type strayWalk struct {
	ctx  context.Context
	o    Strays
	sink *Sink
	oid  uint32
}

// dir looks through a directory at a path in a place, which the backup calls name.
func (w *strayWalk) dir(at place, rel, name string) error {
	entries, err := readNames(at.root, rel)
	if err != nil {
		full := path.Join(at.path, rel)
		return localfs.Errorf(err, full, `could not read directory "%s"`, full)
	}
	for _, entry := range entries {
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
		if err := w.entry(at, path.Join(rel, entry), path.Join(name, entry)); err != nil {
			return err
		}
	}
	return nil
}

// readNames returns what is in a directory, sorted.
func readNames(root *os.Root, rel string) ([]string, error) {
	dir, err := root.Open(rel)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// entry removes something that is not in the backup.
func (w *strayWalk) entry(at place, rel, name string) error {
	full := path.Join(at.path, rel)
	info, err := at.root.Lstat(rel)
	if err != nil {
		return localfs.Errorf(err, full, `could not stat file "%s"`, full)
	}
	isTop := !strings.Contains(name, "/")
	if w.oid == 0 {
		wal := w.sink.options.WALDir
		switch {
		case isTop && slices.Contains(w.o.Spare, name), (name == "lost+found" || name == "pg_wal/lost+found") && info.IsDir():
			return nil
		case wal != nil && name == "pg_wal":
			return w.dir(place{wal.Root(), wal.Path()}, ".", name)
		case info.IsDir() && (w.sink.isInPlaceTablespace(name) || w.sink.isClaimed(at.root, rel)):
			return nil // it is a place of its own
		}
	}
	kind, ok, err := w.o.Keeps(w.ctx, w.oid, name)
	switch {
	case err != nil:
		return err
	case w.oid != 0 && isTop && !ok:
		return nil
	case ok && kind == backup.Dir && info.IsDir():
		return w.dir(at, rel, name)
	case ok && kind == backup.File && info.Mode().IsRegular(), ok && kind == backup.Symlink && info.Mode().Type() == fs.ModeSymlink:
		return nil
	}
	if info.Mode().Type() == fs.ModeSymlink && w.o.Unlinked != nil {
		if target, err := at.root.Readlink(rel); err == nil {
			w.o.Unlinked(full, target)
		}
	}
	if err := at.root.RemoveAll(rel); err != nil {
		return localfs.Errorf(err, full, `could not remove "%s"`, full)
	}
	return nil
}

// isInPlaceTablespace says whether a path is that of a tablespace that is inside the data directory.
func (s *Sink) isInPlaceTablespace(name string) bool {
	for oid := range s.places {
		if oid != 0 && name == linkName(oid) && s.links[name] == "" {
			return true
		}
	}
	return false
}
