package localfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const haveSyncfs = true

// freeBytes returns how much an ordinary user can still write to the file system of dir.
func freeBytes(dir string) (uint64, bool) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return st.Bavail * uint64(st.Frsize), true
}

// syncFileSystem makes all of the file system that path is on durable. A path
// that cannot be opened is told to warn.
//
// Source: do_syncfs in src/common/file_utils.c, PostgreSQL 18.
func syncFileSystem(path string, warn func(error)) error {
	f, err := os.Open(path)
	if err != nil {
		warn(Errorf(err, path, `could not open file "%s"`, path))
		return nil
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return Errorf(err, path, `could not synchronize file system for file "%s"`, path)
	}
	return nil
}

// writeBack asks the kernel to begin writing n bytes from off on to disk, and
// does not wait; n of zero is to the end. It is advice: an error is left for
// fsync to find.
func writeBack(f *os.File, off, n int64) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) {
		_ = unix.SyncFileRange(int(fd), off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}

// startWriteBack is writeBack of a whole file.
func startWriteBack(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	writeBack(f, 0, 0)
	_ = f.Close() // was only read
}

// reserve gives f size bytes of disk space, which read as zeros. It returns
// false, and no error, if the file system cannot say so without writing them.
func reserve(f *os.File, size int64) (bool, error) {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
			return false, nil
		}
		return err == nil, err
	}
}

// Lock takes a directory for this process until the file is closed, and says whether another process has
// it. Where there are no such locks, nobody has.
func Lock(dir *os.File) (held bool) {
	for {
		if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EINTR) {
			return errors.Is(err, unix.EWOULDBLOCK)
		}
	}
}
