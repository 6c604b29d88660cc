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

// CopyRange has the system copy n bytes of src from off on to where dst stands. It returns
// how many it copied: fewer if src ends.
//
// Source: copy_file_by_range in src/bin/pg_combinebackup/copy_file.c, PostgreSQL 18.
func CopyRange(dst, src *os.File, off, n int64) (copied int64, err error) {
	for copied < n {
		at := off + copied
		c, err := unix.CopyFileRange(int(src.Fd()), &at, int(dst.Fd()), nil, int(n-copied), 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || c == 0:
			return copied, err
		default:
			copied += int64(c)
		}
	}
	return copied, nil
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
