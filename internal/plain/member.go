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
	"strings"

	"basin/internal/backup"
	"basin/internal/localfs"
)

// putFile writes a regular file. One that is there already is overwritten.
func (s *Sink) putFile(ctx context.Context, t place, rel, full string, m backup.Member, r io.Reader) error {
	dir, base, err := s.open(t, rel)
	if err != nil {
		return localfs.Errorf(err, full, `could not create file "%s"`, full)
	}
	return s.write(ctx, dir, base, full, m, r)
}

// putManifest writes the manifest under the name it has until Commit.
func (s *Sink) putManifest(ctx context.Context, m backup.Member, r io.Reader) error {
	m.Path, m.Mode = manifestName, s.options.FileMode
	full := filepath.Join(s.options.Dir, manifestTemp)
	if err := s.write(ctx, s.root, manifestTemp, full, m, r); err != nil {
		return err
	}
	s.manifest = true
	return nil
}

// write makes the file called base in dir, with the permissions of m and the bytes of r.
func (s *Sink) write(ctx context.Context, dir *os.Root, base, full string, m backup.Member, r io.Reader) error {
	f, err := dir.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, s.options.FileMode)
	if err != nil {
		return localfs.Errorf(err, full, `could not create file "%s"`, full)
	}
	w := localfs.NewWriter(f, full, s.syncer().WritesBack())
	defer w.Close() // after an error; otherwise closed below
	if err := f.Chmod(m.Mode); err != nil {
		return localfs.Errorf(err, full, `could not set permissions on file "%s"`, full)
	}
	if r != nil {
		if err := localfs.Copy(ctx, w, r, m.Path, m.Size); err != nil {
			return err
		}
	}
	return w.Close()
}

// putDir makes a directory. Some may be there: the log's, which is kept at the
// same time, and those of tablespaces inside the data directory.
func (s *Sink) putDir(t place, rel, full string, m backup.Member) error {
	dir, base, err := s.open(t, rel)
	if err != nil {
		return localfs.Errorf(err, full, `could not create directory "%s"`, full)
	}
	err = dir.Mkdir(base, s.options.DirMode)
	if err != nil && !(errors.Is(err, fs.ErrExist) && mayExist(rel)) {
		return localfs.Errorf(err, full, `could not create directory "%s"`, full)
	}
	if err := dir.Chmod(base, m.Mode); err != nil {
		return localfs.Errorf(err, full, `could not set permissions on directory "%s"`, full)
	}
	return nil
}

// mayExist says whether a directory may be there before its member comes.
//
// Source: should_allow_existing_directory in src/fe_utils/astreamer_file.c,
// PostgreSQL 18.
func mayExist(rel string) bool {
	switch path.Base(rel) {
	case ".", "pg_wal", "pg_xlog", "archive_status", "summaries", "pg_tblspc":
		return true
	}
	first, rest := cutFirst(rel)
	return first == "pg_tblspc" && rest != "" && strings.Trim(rest, "0123456789") == ""
}

// putSymlink makes a link. Those of tablespaces lead to where the tablespace is
// here; any other keeps its target, unless that is mapped too.
func (s *Sink) putSymlink(t place, rel, full string, m backup.Member) error {
	target, ok := s.links[rel]
	if !ok || m.Tablespace != 0 {
		target = s.mapped(m.Target)
		if !filepath.IsAbs(target) && !backup.LocalPath(path.Clean(target)) {
			return fmt.Errorf(`tar member has unsafe link target: "%s"`, m.Target)
		}
	}
	dir, base, err := s.open(t, rel)
	if err == nil {
		err = dir.Symlink(target, base)
	}
	if err != nil {
		return localfs.Errorf(err, full, `could not create symbolic link from "%s" to "%s"`, full, target)
	}
	return nil
}

// cutFirst cuts a path after its first element.
func cutFirst(p string) (first, rest string) {
	first, rest, _ = strings.Cut(p, "/")
	return first, rest
}
