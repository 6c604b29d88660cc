package main

import (
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// otherEnd unlocks the other end of a terminal, and returns its name.
func otherEnd(terminal *os.File) (name string, err error) {
	fd := int(terminal.Fd())
	if err := errors.Join(unix.IoctlSetInt(fd, unix.TIOCPTYGRANT, 0), unix.IoctlSetInt(fd, unix.TIOCPTYUNLK, 0)); err != nil {
		return "", err
	}
	var path [128]byte // as large as the request says
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCPTYGNAME, uintptr(unsafe.Pointer(&path[0]))); errno != 0 {
		return "", errno
	}
	return unix.ByteSliceToString(path[:]), nil
}

// smallDisk returns that there is no small file system.
func smallDisk(t *testing.T, _ int) (dir string, ok bool) {
	t.Helper()
	t.Log("there is no small file system here: only limits on file sizes are tried")
	return "", false
}
