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
	Syncfs                   // the file systems they are on, with all that is on them; Fsync where the system cannot
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

// Syncer makes what was written to claimed directories last. The zero value
// syncs file by file.
type Syncer struct {
	Method SyncMethod
	Off    bool // sync nothing: leave it to the system when files become durable
	// Warn, if not nil, is told of what could not be opened and is therefore not
	// synced. It is called from one goroutine at a time.
	Warn func(error)
	// Step, if not nil, is told each step of Finish, as pg_basebackup --verbose words it.
	Step func(string)
}

// Temporary returns what a file is called that Finish will give the name.
func Temporary(name string) string { return name + ".tmp" }

// Finish makes the directories durable, all that is in them and their own names,
// and then, as the last change of all, gives the file called Temporary(name) in
// the first of them the name. An empty name is given to nothing. Until Finish has
// returned nil, the name may be missing after a crash; if ctx ends before the
// file is renamed, it is not.
//
// Source: BaseBackup in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func (s Syncer) Finish(ctx context.Context, name string, first *Claim, others ...*Claim) error {
	claims := append([]*Claim{first}, others...)
	for _, c := range claims {
		if err := c.checkPlace(); err != nil {
			return err
		}
	}
	if !s.Off {
		s.step("syncing data to disk ...")
		if err := s.trees(ctx, claims); err != nil {
			return err
		}
		if err := s.names(claims); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil || name == "" {
		return err
	}
	s.step("renaming " + Temporary(name) + " to " + name)
	return s.rename(first, Temporary(name), name)
}

// trees makes all that is in the directories durable. Links are not followed.
//
// Source: sync_dir_recurse in src/common/file_utils.c, PostgreSQL 18.
func (s Syncer) trees(ctx context.Context, claims []*Claim) error {
	var mu sync.Mutex
	warn := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		s.warn(err)
	}
	dirs := make([]string, len(claims))
	for i, c := range claims {
		dirs[i] = c.Path()
	}
	if s.byFileSystem() {
		for _, dir := range dirs {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := syncFileSystem(dir, warn); err != nil {
				return err
			}
		}
		return nil
	}
	// Twice over the same files: first all are handed to the disk, so that the
	// first fsync does not wait for a disk that knows of one file.
	err := walk(dirs, visitor{
		file: func(path string) error { startWriteBack(path); return ctx.Err() },
		dir:  func(string) error { return ctx.Err() },
		warn: warn,
	})
	if err != nil {
		return err
	}
	return syncAll(ctx, dirs, warn)
}

// syncAll syncs the files in the directories, and the directories. What warn is
// told is what could not be opened; directories that cannot be read are not.
func syncAll(ctx context.Context, dirs []string, warn func(error)) error {
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(syncWorkers)
	start := func(sync func(string, func(error)) error) func(string) error {
		return func(path string) error {
			group.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return sync(path, warn)
			})
			return working.Err()
		}
	}
	walkErr := walk(dirs, visitor{file: start(syncFile), dir: start(syncDir), warn: func(error) {}})
	if err := group.Wait(); err != nil {
		return err // which also is why the walk ended early
	}
	// No worker failed, but ctx may have ended, for whatever cause, and the walk with it.
	if err := ctx.Err(); err != nil {
		return err
	}
	return walkErr
}

// names makes the names of the directories durable in the directories they are
// in, up to the first that was there before. A sync of the directories themselves
// does not do that.
func (s Syncer) names(claims []*Claim) error {
	if s.byFileSystem() {
		return nil // names are durable with the file system they are on
	}
	for _, c := range claims {
		for _, dir := range c.holders() {
			if err := syncDir(dir, s.warn); err != nil {
				return err
			}
		}
	}
	return nil
}

// byFileSystem says whether one call is enough for all that is on a file system.
func (s Syncer) byFileSystem() bool { return haveSyncfs && s.Method == Syncfs }

func (s Syncer) warn(err error) {
	if s.Warn != nil {
		s.Warn(err)
	}
}

func (s Syncer) step(text string) {
	if s.Step != nil {
		s.Step(text)
	}
}

// visitor is told what a walk comes by. An error of file or dir ends the walk.
type visitor struct {
	file, dir func(path string) error
	warn      func(error) // of a directory that cannot be read
}

// walk visits every file under the directories, and each directory after what is
// in it.
func walk(dirs []string, v visitor) error {
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			v.warn(Errorf(err, dir, `could not open directory "%s"`, dir))
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			switch {
			case e.IsDir():
				err = walk([]string{path}, v)
			case e.Type().IsRegular():
				err = v.file(path)
			}
			if err != nil {
				return err
			}
		}
		if err := v.dir(dir); err != nil {
			return err
		}
	}
	return nil
}

// syncFile makes the contents of a file durable, its name not. What cannot be
// opened is told to warn.
//
// Source: fsync_fname in src/common/file_utils.c, PostgreSQL 18.
func syncFile(path string, warn func(error)) error {
	f, err := openToSync(func(flag int) (*os.File, error) { return os.OpenFile(path, flag, 0) })
	if errors.Is(err, fs.ErrNotExist) { // it was there when the directory was read
		return Errorf(err, path, `could not open file "%s"`, path)
	}
	if err != nil {
		warn(Errorf(err, path, `could not open file "%s"`, path))
		return nil
	}
	defer f.Close()
	return syncOpen(f, path)
}

// openToSync opens a file for writing, because some systems refuse to sync what
// is open for reading. Its owner may have no right to write it, as with the keys
// and scripts that users keep in a data directory: then reading has to do.
func openToSync(open func(flag int) (*os.File, error)) (*os.File, error) {
	f, err := open(os.O_RDWR)
	if errors.Is(err, syscall.EACCES) {
		return open(os.O_RDONLY)
	}
	return f, err
}

// syncDir makes the names in a directory durable. What cannot be opened is told
// to warn, unless it is another user's, which is not ours to read.
//
// Source: fsync_fname in src/common/file_utils.c, PostgreSQL 18.
func syncDir(path string, warn func(error)) error {
	f, err := os.Open(path)
	if err != nil {
		if !errors.Is(err, syscall.EACCES) {
			warn(Errorf(err, path, `could not open file "%s"`, path))
		}
		return nil
	}
	defer f.Close()
	return syncOpen(f, path)
}

// SyncRoot makes the names in an open directory durable. path is what errors call it.
func SyncRoot(dir *os.Root, path string) error {
	f, err := dir.Open(".")
	if err != nil {
		return Errorf(err, path, `could not open file "%s"`, path)
	}
	defer f.Close()
	return syncOpen(f, path)
}

// syncOpen makes an open file or directory durable. path is what errors call it.
func syncOpen(f *os.File, path string) error {
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

// rename gives the file called from in the claimed directory the name to. Once it
// has returned nil the name is there after a crash, with the whole file under it.
//
// Source: durable_rename in src/common/file_utils.c, PostgreSQL 18.
func (s Syncer) rename(c *Claim, from, to string) error {
	fromPath, toPath := filepath.Join(c.path, from), filepath.Join(c.path, to)
	if !s.Off {
		f, err := openToSync(func(flag int) (*os.File, error) { return c.root.OpenFile(from, flag, 0) })
		if err != nil {
			return Errorf(err, fromPath, `could not open file "%s"`, fromPath)
		}
		if err := errors.Join(syncOpen(f, fromPath), f.Close()); err != nil {
			return err
		}
	}
	if err := c.root.Rename(from, to); err != nil {
		return Errorf(err, fromPath, `could not rename file "%s" to "%s"`, fromPath, toPath)
	}
	if s.Off {
		return nil
	}
	return SyncRoot(c.root, c.path)
}
