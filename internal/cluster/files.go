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
	"strconv"
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

// files is the cluster's data directory while one client takes files from it.
type files struct {
	*Cluster
	started string // when the server was
}

// Files returns the files of the data directory, if that is the one of the cluster that
// answers: a copy would do as well for nothing but to damage who takes files from it.
func (c *Cluster) Files(ctx context.Context) (server.Files, error) {
	row, err := c.ask(ctx, `SELECT pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()), pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::bigint,
		pg_catalog.current_setting('data_directory'), pg_catalog.current_setting('port')`, 4)
	if err != nil {
		return nil, err
	}
	if err := c.checkPlace(row[1], row[2], row[3]); err != nil {
		return nil, &server.Error{Code: "55000", Message: "the data directory that this server reads is not that of the cluster", Detail: err.Error()}
	}
	return &files{Cluster: c, started: row[0]}, nil
}

// postmasterFile is where a postmaster tells of itself.
const postmasterFile = "postmaster.pid"

// checkPlace compares what the data directory tells of the server that runs there with what
// the server tells itself. It may see another tree of files, as in a container.
//
// Source: src/include/utils/pidfile.h, PostgreSQL 18.
func (c *Cluster) checkPlace(started, directory, port string) error {
	content, err := os.ReadFile(filepath.Join(c.o.DataDir, postmasterFile))
	if err != nil {
		return fmt.Errorf("its %s cannot be read", postmasterFile)
	}
	lines := strings.SplitN(string(content), "\n", 5)
	if len(lines) < 5 {
		return fmt.Errorf("its %s is cut short", postmasterFile)
	}
	begun, err := strconv.ParseInt(strings.TrimSpace(lines[2]), 10, 64)
	if err != nil {
		return fmt.Errorf("its %s has no time", postmasterFile)
	}
	asked, err := strconv.ParseInt(started, 10, 64)
	if err != nil {
		return fmt.Errorf("the cluster was started at %q", started)
	}
	// The file has when the process began, which may be long before it has started others.
	const slow = 60 // seconds
	if strings.TrimSpace(lines[1]) != directory || strings.TrimSpace(lines[3]) != port || begun > asked+1 || asked-begun > slow {
		return fmt.Errorf("another server is named in its %s", postmasterFile)
	}
	ours, err := os.Stat(c.o.DataDir)
	if err != nil {
		return errors.New("it is not there")
	}
	theirs, err := os.Stat(directory)
	if err != nil || os.SameFile(ours, theirs) {
		return nil
	}
	if _, err := os.Stat(filepath.Join(directory, postmasterFile)); err == nil {
		return errors.New("that one is at another path")
	}
	return nil
}

// InsertLSN returns the end of the log that is written to now. On a standby it is an error.
func (f *files) InsertLSN(ctx context.Context) (wal.LSN, error) {
	row, err := f.ask(ctx, "SELECT pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()), pg_catalog.pg_current_wal_insert_lsn()", 2)
	if err != nil {
		return 0, err
	}
	if row[0] != f.started {
		return 0, &server.Error{Severity: "FATAL", Code: "57P01", Message: "the cluster was restarted while files were taken from it",
			Hint: "Begin again."}
	}
	return wal.ParseLSN(row[1])
}

// FullPageWrites says whether full_page_writes is on.
func (f *files) FullPageWrites(ctx context.Context) (bool, error) {
	row, err := f.ask(ctx, "SELECT pg_catalog.current_setting('full_page_writes')", 1)
	return err == nil && row[0] == "on", err
}

// Open opens a regular file of the data directory. No path leads out of it, and no link
// but pg_wal and those of tablespaces.
//
// Source: convert_and_check_filename in src/backend/utils/adt/genfile.c, PostgreSQL 18.
func (f *files) Open(name string) (server.File, error) {
	if name == "." || !filepath.IsLocal(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return nil, &server.Error{Code: "42501", Message: "path must be in or below the data directory",
			Detail: fmt.Sprintf("The path is \"%s\".", name)}
	}
	dir, rest := linked(name)
	root, err := os.OpenRoot(filepath.Join(f.o.DataDir, dir))
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
	file, err := root.OpenFile(rest, os.O_RDONLY|syscall.O_NONBLOCK, 0) // what has become a pipe is not waited for
	if err != nil {
		return nil, fileError(err, name, "open")
	}
	if info, err = file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(irregular(name), file.Close())
	}
	return file, nil
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

// All are all files and directories of the data directory and of the tablespaces.
//
// Source: pg_ls_dir and pg_stat_file in src/backend/utils/adt/genfile.c, and
// pg_tablespace_location in src/backend/utils/adt/misc.c, PostgreSQL 18.
func (f *files) All(ctx context.Context) iter.Seq2[server.FileEntry, error] {
	return func(yield func(server.FileEntry, error) bool) {
		w := walk{ctx: ctx, cluster: f.Cluster, yield: yield}
		if err := w.open("", f.o.DataDir); err != nil && !errors.Is(err, errStopped) {
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
			if _, gone := root.Lstat(name); gone != nil {
				return fileError(gone, e.Path, "stat")
			}
			return &server.Error{Code: "58P01", Message: fmt.Sprintf("what \"%s\" leads to cannot be found by this server", e.Path)}
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
