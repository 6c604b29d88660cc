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
func (s *Sink) putFile(ctx context.Context, at spot, m backup.Member, r io.Reader) error {
	in, err := s.enter(at)
	if err != nil {
		return localfs.Errorf(err, at.full, `could not create file "%s"`, at.full)
	}
	if r == nil && m.Size > 0 {
		return fmt.Errorf("member %q comes without its %d bytes", m.Path, m.Size)
	}
	return s.write(ctx, in, m, r)
}

// putManifest writes the manifest under the name it has until Commit.
func (s *Sink) putManifest(ctx context.Context, m backup.Member, r io.Reader) error {
	m.Path, m.Mode = manifestName, s.options.FileMode
	temp := localfs.Temporary(manifestName)
	at := spot{s.options.Dir.Root(), temp, filepath.Join(s.options.Dir.Path(), temp)}
	if err := s.write(ctx, at, m, r); err != nil {
		return err
	}
	s.manifest = true
	return nil
}

// write makes a file, with the permissions of m and the bytes of r.
func (s *Sink) write(ctx context.Context, at spot, m backup.Member, r io.Reader) error {
	f, err := at.root.OpenFile(at.rel, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, s.options.FileMode)
	if err != nil {
		return localfs.Errorf(err, at.full, `could not create file "%s"`, at.full)
	}
	w := s.options.Sync.NewWriter(f, at.full)
	defer w.Close() // after an error; otherwise closed below
	if err := f.Chmod(m.Mode); err != nil {
		return localfs.Errorf(err, at.full, `could not set permissions on file "%s"`, at.full)
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
func (s *Sink) putDir(at spot, m backup.Member) error {
	in, err := s.enter(at)
	if err != nil {
		return localfs.Errorf(err, at.full, `could not create directory "%s"`, at.full)
	}
	err = in.root.Mkdir(in.rel, s.options.DirMode)
	if err != nil && !(errors.Is(err, fs.ErrExist) && mayExist(at.rel)) {
		return localfs.Errorf(err, at.full, `could not create directory "%s"`, at.full)
	}
	if err := in.root.Chmod(in.rel, m.Mode); err != nil {
		return localfs.Errorf(err, at.full, `could not set permissions on directory "%s"`, at.full)
	}
	return nil
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
	in, err := s.enter(at)
	if err == nil {
		err = in.root.Symlink(target, in.rel)
	}
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
