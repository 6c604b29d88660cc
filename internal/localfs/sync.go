package localfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// SyncMethod is a way to make files durable.
//
// Source: DataDirSyncMethod in src/include/common/file_utils.h, PostgreSQL 18.
type SyncMethod uint8

// The ways to make files durable.
const (
	Fsync  SyncMethod = iota // every file and directory by itself
	Syncfs                   // the file systems they are on, with all that is on them
)

// ParseSyncMethod reads the value of --sync-method.
//
// Source: parse_sync_method in src/fe_utils/option_utils.c, PostgreSQL 18.
func ParseSyncMethod(s string) (SyncMethod, error) {
	switch s {
	case "fsync":
		return Fsync, nil
	case "syncfs":
		if !haveSyncfs {
			return 0, fmt.Errorf("this build does not support sync method \"%s\"", s)
		}
		return Syncfs, nil
	}
	return 0, fmt.Errorf("unrecognized sync method: %s", s)
}

// syncWorkers is how many files are synced side by side. Each waits for the
// disk; a few of them share one commit of the file system's journal.
const syncWorkers = 8

// Syncer makes trees of files durable. The zero value syncs file by file.
type Syncer struct {
	Method SyncMethod
	Off    bool // sync nothing: leave it to the system when files become durable
	// Warn, if not nil, is told of what could not be opened and is therefore not
	// synced. It is called from one goroutine at a time.
	Warn func(error)
}

// DataDir makes a data directory durable: all that is in it, in pg_wal if that
// is a link, and in every directory linked from pg_tblspc. Other links are not
// followed. What cannot be opened is a warning; what cannot be synced, an error.
//
// Source: sync_pgdata in src/common/file_utils.c, PostgreSQL 18.
func (s Syncer) DataDir(ctx context.Context, dir string) error {
	if s.Off {
		return nil
	}
	trees := []string{dir}
	wal := filepath.Join(dir, "pg_wal")
	info, err := os.Lstat(wal)
	if err != nil {
		s.warn(Errorf(err, wal, `could not stat file "%s"`, wal))
	} else if info.Mode()&fs.ModeSymlink != 0 {
		trees = append(trees, wal)
	}
	tblspc := filepath.Join(dir, "pg_tblspc")
	entries, err := os.ReadDir(tblspc)
	if err != nil {
		s.warn(Errorf(err, tblspc, `could not open directory "%s"`, tblspc))
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			trees = append(trees, filepath.Join(tblspc, e.Name()))
		}
	}
	return s.Trees(ctx, trees...)
}

// Trees makes the directories and all that is in them durable. The directories
// themselves may be links; links in them are not followed.
//
// Source: sync_dir_recurse in src/common/file_utils.c, PostgreSQL 18.
func (s Syncer) Trees(ctx context.Context, dirs ...string) error {
	if s.Off {
		return nil
	}
	var mu sync.Mutex
	warn := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		s.warn(err)
	}
	if s.Method == Syncfs {
		for _, dir := range dirs {
			if err := syncFileSystem(dir, warn); err != nil {
				return err
			}
		}
		return nil
	}
	// Twice over the same files: first all are handed to the disk, so that the
	// first fsync does not wait for a disk that knows of one file.
	if err := walk(dirs, warn, func(path string, dir bool) error {
		if !dir {
			startWriteBack(path)
		}
		return ctx.Err()
	}); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(syncWorkers)
	err := walk(dirs, func(error) {}, func(path string, dir bool) error {
		group.Go(func() error { return syncPath(path, dir, warn) })
		return ctx.Err()
	})
	return errors.Join(group.Wait(), ignoreCanceled(ctx, err))
}

// Names makes the names of the directories durable in the directories they are
// in, which a sync of the directories themselves does not. One that may not be
// opened is passed over.
func (s Syncer) Names(dirs ...string) error {
	if s.Off || s.Method == Syncfs {
		return nil // names are durable with the file system they are on
	}
	for _, dir := range dirs {
		if err := syncPath(filepath.Dir(filepath.Clean(dir)), true, s.warn); err != nil {
			return err
		}
	}
	return nil
}

// WritesBack says whether files are best put on their way to the disk while they
// are written, since each will be synced.
func (s Syncer) WritesBack() bool { return !s.Off && s.Method == Fsync }

func (s Syncer) warn(err error) {
	if s.Warn != nil {
		s.Warn(err)
	}
}

// ignoreCanceled drops the error of a walk that stopped because a worker failed:
// the worker's own error says why.
func ignoreCanceled(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(err, context.Canceled) && !errors.Is(cause, context.Canceled) {
		return nil
	}
	return err
}

// walk calls visit for every file under the directories, and for each directory
// after what is in it. A directory that cannot be read is a warning.
func walk(dirs []string, warn func(error), visit func(path string, dir bool) error) error {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			warn(Errorf(err, dir, `could not open directory "%s"`, dir))
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case e.IsDir():
				err = walk([]string{path}, warn, visit)
			case e.Type().IsRegular():
				err = visit(path, false)
			}
			if err != nil {
				return err
			}
		}
		if err := visit(dir, true); err != nil {
			return err
		}
	}
	return nil
}

// SyncFile makes the contents of the file at path durable; its name is durable
// only once its directory is.
func SyncFile(path string) error {
	return syncPath(path, false, nil)
}

// SyncDir makes the names in the directory at path durable.
func SyncDir(path string) error {
	return syncPath(path, true, nil)
}

// syncPath makes one file or directory durable. What cannot be opened is told
// to warn, or is an error if that is nil. A file that may not be opened at all is
// passed over, as is a directory on a file system that cannot sync one.
//
// Source: fsync_fname in src/common/file_utils.c, PostgreSQL 18.
func syncPath(path string, dir bool, warn func(error)) error {
	flag := os.O_RDWR // some systems refuse fsync of what is open for reading
	if dir {
		flag = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		err := Errorf(err, path, `could not open file "%s"`, path)
		switch {
		case warn == nil:
			return err
		case errors.Is(err, syscall.EACCES):
			return nil
		}
		warn(err)
		return nil
	}
	defer f.Close()
	return SyncOpen(f, path)
}

// SyncOpen makes an open file or directory durable. path is what errors call it.
func SyncOpen(f *os.File, path string) error {
	err := f.Sync()
	if errors.Is(err, syscall.EBADF) || errors.Is(err, syscall.EINVAL) {
		if info, statErr := f.Stat(); statErr == nil && info.IsDir() {
			return nil // a file system that has no such thing
		}
	}
	if err != nil {
		return Errorf(err, path, `could not fsync file "%s"`, path)
	}
	return nil
}

// Rename gives the file called from in dir the name to. Both names are of the
// directory itself; path is what errors call the directory. Once Rename has
// returned nil the name is there after a crash, with the whole file under it.
//
// Source: durable_rename in src/common/file_utils.c, PostgreSQL 18.
func (s Syncer) Rename(dir *os.Root, path, from, to string) error {
	if !s.Off {
		if err := syncIn(dir, path, from, os.O_RDWR); err != nil {
			return err
		}
	}
	if err := dir.Rename(from, to); err != nil {
		from, to = filepath.Join(path, from), filepath.Join(path, to)
		return Errorf(err, from, `could not rename file "%s" to "%s"`, from, to)
	}
	if s.Off {
		return nil
	}
	return syncIn(dir, path, ".", os.O_RDONLY)
}

func syncIn(dir *os.Root, path, name string, flag int) error {
	path = filepath.Join(path, name)
	f, err := dir.OpenFile(name, flag, 0)
	if err != nil {
		return Errorf(err, path, `could not open file "%s"`, path)
	}
	defer f.Close()
	return SyncOpen(f, path)
}
