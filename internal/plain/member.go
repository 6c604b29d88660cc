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
	"strings"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
)

// putFile writes a regular file. One that is there already is overwritten.
func (s *Sink) putFile(ctx context.Context, at spot, m backup.Member, r io.Reader) error {
	if r == nil && m.Size > 0 {
		return fmt.Errorf("member %q comes without its %d bytes", m.Path, m.Size)
	}
	if placed, ok := r.(backup.Placed); ok && s.options.Method != CopyBytes {
		return s.place(ctx, at, m, placed)
	}
	if u, ok := r.(backup.Updater); ok && s.options.InPlace {
		if done, err := s.update(at, m, u); done || err != nil {
			return err
		}
	}
	f, err := s.create(at)
	if err != nil {
		return err
	}
	return s.write(ctx, f, at, m, r)
}

// create makes the file of a spot.
func (s *Sink) create(at spot) (f *os.File, err error) {
	err = s.enter(at, func(dir *os.Root, name string) (err error) {
		if s.options.InPlace {
			if err := makeWay(dir, name); err != nil {
				return err
			}
		}
		f, err = dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, s.options.FileMode)
		return err
	})
	if err != nil {
		return nil, localfs.Errorf(err, at.full, `could not create file "%s"`, at.full)
	}
	return f, nil
}

// putManifest writes the manifest under the name it has until Commit.
func (s *Sink) putManifest(ctx context.Context, m backup.Member, r io.Reader) error {
	m.Path, m.Mode = manifest.Name, s.options.FileMode
	temp := localfs.Temporary(manifest.Name)
	at := spot{s.options.Dir.Root(), temp, filepath.Join(s.options.Dir.Path(), temp)}
	f, err := s.create(at)
	if err != nil {
		return err
	}
	if err := s.write(ctx, f, at, m, r); err != nil {
		return err
	}
	s.manifest = true
	return nil
}

// write gives a new file the permissions of m and the bytes of r, and closes it.
func (s *Sink) write(ctx context.Context, f *os.File, at spot, m backup.Member, r io.Reader) error {
	w := s.options.Sync.NewWriter(f, at.full)
	defer w.Close() // after an error; otherwise closed below
	if err := f.Chmod(m.Mode); err != nil {
		return localfs.Errorf(err, at.full, `could not set permissions on file "%s"`, at.full)
	}
	if _, ok := r.(*backup.Zeros); ok {
		if err := f.Truncate(m.Size); err != nil { // it is new
			return localfs.Errorf(err, at.full, `could not write to file "%s"`, at.full)
		}
		return w.Close()
	}
	if r != nil {
		if err := localfs.Copy(ctx, w, r, m.Path, m.Size); err != nil {
			return err
		}
	}
	s.written.Add(w.Written())
	return w.Close()
}

// putDir makes a directory. Some may be there: the log's, which is kept at the
// same time, and those of tablespaces inside the data directory, wherever in it.
func (s *Sink) putDir(at spot, m backup.Member) error {
	doing := `could not create directory "%s"`
	err := s.enter(at, func(dir *os.Root, name string) error {
		err := dir.Mkdir(name, s.options.DirMode)
		if err != nil && !(errors.Is(err, fs.ErrExist) && (s.options.InPlace || mayExist(at.rel) || s.isClaimed(dir, name))) {
			return err
		}
		doing = `could not set permissions on directory "%s"`
		return dir.Chmod(name, m.Mode)
	})
	if err != nil {
		return localfs.Errorf(err, at.full, doing, at.full)
	}
	return nil
}

// isClaimed says whether a directory is that of a tablespace, claimed before its member came: a server sends both if it is in the
// data directory and not in pg_tblspc.
//
// Source: sendDir in src/backend/backup/basebackup.c, PostgreSQL 18.
func (s *Sink) isClaimed(dir *os.Root, name string) bool {
	info, err := dir.Lstat(name)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(s.claims, func(c *localfs.Claim) bool {
		claimed, err := c.Root().Stat(".")
		return err == nil && os.SameFile(claimed, info)
	})
}

// mayExist says whether a directory may be there before its member comes.
//
// Source: should_allow_existing_directory in src/fe_utils/astreamer_file.c,
// PostgreSQL 18.
func mayExist(rel string) bool {
	switch path.Base(rel) {
	case ".", "pg_wal", "archive_status", "summaries", "pg_tblspc":
		return true
	}
	first, rest := cutFirst(rel)
	return first == "pg_tblspc" && rest != "" && strings.Trim(rest, "0123456789") == ""
}

// putSymlink makes a link. Those of tablespaces lead to where the tablespace is
// here; any other keeps its target, unless that is mapped too.
func (s *Sink) putSymlink(at spot, m backup.Member) error {
	target, ok := s.links[at.rel]
	if !ok || m.Tablespace != 0 {
		target = s.mapped(m.Target)
		if !filepath.IsAbs(target) && !backup.LocalPath(path.Clean(target)) {
			return fmt.Errorf(`tar member has unsafe link target: "%s"`, m.Target)
		}
	}
	err := s.enter(at, func(dir *os.Root, name string) error { return s.link(dir, target, name) })
	if err != nil {
		return localfs.Errorf(err, at.full, `could not create symbolic link from "%s" to "%s"`, at.full, target)
	}
	return nil
}

// cutFirst cuts a path after its first element.
func cutFirst(p string) (first, rest string) {
	first, rest, _ = strings.Cut(p, "/")
	return first, rest
}
