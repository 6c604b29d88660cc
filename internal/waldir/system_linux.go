package waldir

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// control calls a function with the file's descriptor. The function is called
// again as long as a signal interrupts it.
func control(f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = conn.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); !errors.Is(callErr, unix.EINTR) {
				return
			}
		}
	})
	return errors.Join(err, callErr)
}

// datasync makes what was written to a file durable, and of what the system notes
// about the file only what is needed to read it.
func datasync(f *os.File) error { return control(f, unix.Fdatasync) }

// forget drops what is cached of a file and is on disk, as far as the system
// knows: the next read shows what is there.
func forget(f *os.File) {
	_ = control(f, func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) }) // advice
}

// renameNew renames a file in dir, never over another. File systems that cannot,
// NFS is one, return errors.ErrUnsupported.
func renameNew(dir *os.File, from, to string) error {
	err := control(dir, func(fd int) error { return unix.Renameat2(fd, from, fd, to, unix.RENAME_NOREPLACE) })
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return errors.ErrUnsupported
	case err != nil:
		return &fs.PathError{Op: "renameat2", Path: from, Err: err}
	}
	return nil
}
