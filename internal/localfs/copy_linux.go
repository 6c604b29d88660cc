package localfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// HaveCopyMethods says whether Clone and CopyRange can work here.
const HaveCopyMethods = true

// Clone lets dst, which is empty, share what src has, until one of them is changed.
//
// Source: copy_file_clone in src/bin/pg_combinebackup/copy_file.c, PostgreSQL 18.
func Clone(dst, src *os.File) error {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
}

// CopyRange has the system copy up to n bytes of src from off on to where dst stands. It
// returns how many it copied; none, if src ends at off.
//
// Source: copy_file_by_range in src/bin/pg_combinebackup/copy_file.c, PostgreSQL 18.
func CopyRange(dst, src *os.File, off, n int64) (copied int64, err error) {
	for {
		c, err := unix.CopyFileRange(int(src.Fd()), &off, int(dst.Fd()), nil, int(n), 0)
		if !errors.Is(err, unix.EINTR) {
			return int64(c), err
		}
	}
}

// LinkInto gives a file another name, in a directory.
func LinkInto(dir *os.Root, name string, file *os.File) error {
	at, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer at.Close()
	return unix.Linkat(unix.AT_FDCWD, file.Name(), int(at.Fd()), name, unix.AT_SYMLINK_FOLLOW)
}
