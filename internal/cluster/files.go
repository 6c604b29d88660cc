package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"basin/internal/server"
	"basin/internal/wal"
)

// Names in the data directory from which links may lead out of it.
const (
	walDir         = "pg_wal"
	tablespacesDir = "pg_tblspc"
)

// InsertLSN returns the end of the log that is written to now. On a standby it is an error.
func (c *Cluster) InsertLSN(ctx context.Context) (wal.LSN, error) {
	row, err := c.ask(ctx, "SELECT pg_catalog.pg_current_wal_insert_lsn()", 1)
	if err != nil {
		return 0, err
	}
	return wal.ParseLSN(row[0])
}

// FullPageWrites says whether full_page_writes is on.
func (c *Cluster) FullPageWrites(ctx context.Context) (bool, error) {
	row, err := c.ask(ctx, "SELECT pg_catalog.current_setting('full_page_writes')", 1)
	return err == nil && row[0] == "on", err
}

// OpenFile opens a regular file of the data directory. No path leads out of it, and no link
// but pg_wal and those of tablespaces.
//
// Source: convert_and_check_filename in src/backend/utils/adt/genfile.c, PostgreSQL 18.
func (c *Cluster) OpenFile(name string) (server.File, error) {
	if name == "." || !filepath.IsLocal(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return nil, &server.Error{Code: "42501", Message: "path must be in or below the data directory",
			Detail: fmt.Sprintf("The path is \"%s\".", name)}
	}
	dir, rest := linked(name)
	root, err := os.OpenRoot(filepath.Join(c.o.DataDir, dir))
	if err != nil {
		return nil, fileError(err, name, "open")
	}
	defer root.Close()
	info, err := root.Lstat(rest)
	if err != nil {
		return nil, fileError(err, name, "open")
	}
	if !info.Mode().IsRegular() {
		return nil, irregular(name)
	}
	f, err := root.OpenFile(rest, os.O_RDONLY|syscall.O_NONBLOCK, 0) // what has become a pipe is not waited for
	if err != nil {
		return nil, fileError(err, name, "open")
	}
	if info, err = f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(irregular(name), f.Close())
	}
	return f, nil
}

// linked splits a path behind what may be a link that is followed: pg_wal, or a tablespace.
func linked(name string) (dir, rest string) {
	parts := strings.SplitN(name, "/", 3)
	switch {
	case parts[0] == walDir && len(parts) > 1:
		return walDir, strings.Join(parts[1:], "/")
	case parts[0] == tablespacesDir && len(parts) == 3 && isOID(parts[1]):
		return path.Join(parts[0], parts[1]), parts[2]
	}
	return ".", name
}

// isOID says whether a name in pg_tblspc is that of a tablespace.
func isOID(name string) bool { return name != "" && strings.Trim(name, "0123456789") == "" }

// irregular is the error of what is no regular file.
func irregular(name string) error {
	return &server.Error{Code: "42809", Message: fmt.Sprintf("\"%s\" is not a regular file", name)}
}

// fileError is the error of a file that could not be used. Clients are not told where the
// data directory is.
func fileError(err error, name, doing string) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return fs.ErrNotExist
	}
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	return &server.Error{Code: "58030", Message: fmt.Sprintf("could not %s \"%s\": %v", doing, name, err)}
}

// Files are all files and directories of the data directory and of the tablespaces.
//
// Source: pg_ls_dir and pg_stat_file in src/backend/utils/adt/genfile.c, and
// pg_tablespace_location in src/backend/utils/adt/misc.c, PostgreSQL 18.
func (c *Cluster) Files(ctx context.Context) iter.Seq2[server.FileEntry, error] {
	return func(yield func(server.FileEntry, error) bool) {
		w := walk{ctx: ctx, cluster: c, yield: yield}
		if err := w.open("", c.o.DataDir); err != nil && !errors.Is(err, errStopped) {
			yield(server.FileEntry{}, err)
		}
	}
}

// errStopped ends a walk that nobody wants more of.
var errStopped = errors.New("stopped")

// batch is how many names of a directory are in memory at a time.
const batch = 1000

// walk goes through a data directory.
type walk struct {
	ctx     context.Context
	cluster *Cluster
	yield   func(server.FileEntry, error) bool
}

// open goes through a directory whose path on this machine may be that of a link.
func (w *walk) open(dir, where string) error {
	root, err := os.OpenRoot(where)
	if err != nil {
		return fileError(err, path.Join(".", dir), "open directory")
	}
	return w.directory(dir, root)
}

// directory goes through a directory, and closes it.
func (w *walk) directory(dir string, root *os.Root) error {
	defer root.Close()
	f, err := root.Open(".")
	if err != nil {
		return fileError(err, path.Join(".", dir), "open directory")
	}
	defer f.Close()
	for {
		names, err := f.Readdirnames(batch)
		for _, name := range names {
			if err := w.entry(dir, root, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fileError(err, path.Join(".", dir), "read directory")
		}
		if err := w.ctx.Err(); err != nil {
			return context.Cause(w.ctx)
		}
	}
}

// entry hands out a file or a directory, and goes through the latter. What is neither, such
// as a socket, is nothing to copy.
func (w *walk) entry(dir string, root *os.Root, name string) error {
	e := server.FileEntry{Path: path.Join(dir, name)}
	info, err := root.Lstat(name)
	if err != nil {
		return fileError(err, e.Path, "stat")
	}
	tablespace := dir == tablespacesDir && isOID(name)
	where := filepath.Join(w.cluster.o.DataDir, filepath.FromSlash(e.Path))
	isLink := info.Mode()&fs.ModeSymlink != 0
	switch {
	case isLink && !tablespace && e.Path != walDir:
		if _, err := os.Stat(where); errors.Is(err, fs.ErrNotExist) {
			return nil // pg_stat_file finds nothing there either
		}
		return &server.Error{Code: "0A000", Message: fmt.Sprintf("\"%s\" in the data directory is a symbolic link", e.Path),
			Detail: "Only the links of tablespaces, and pg_wal, are followed.",
			Hint:   "Connect pg_rewind to the cluster itself, or make it a file."}
	case isLink && tablespace:
		if e.LinkTarget, err = os.Readlink(where); err != nil {
			return fileError(err, e.Path, "read symbolic link")
		}
	case tablespace && info.IsDir() && w.cluster.fixed.Major() >= 15:
		e.LinkTarget = e.Path // one in its place, as of allow_in_place_tablespaces
	}
	if isLink {
		if info, err = os.Stat(where); err != nil {
			return fileError(err, e.Path, "stat")
		}
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return nil
	}
	e.Size, e.IsDirectory = info.Size(), info.IsDir()
	if !w.yield(e, nil) {
		return errStopped
	}
	switch {
	case !e.IsDirectory:
		return nil
	case isLink:
		return w.open(e.Path, where)
	}
	below, err := root.OpenRoot(name)
	if err != nil {
		return fileError(err, e.Path, "open directory")
	}
	return w.directory(e.Path, below)
}
