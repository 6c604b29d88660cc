package main

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"basin/internal/pgtest"
)

// otherEnd unlocks the other end of a terminal, and returns its name.
func otherEnd(terminal *os.File) (name string, err error) {
	number, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err != nil {
		return "", err
	}
	return "/dev/pts/" + strconv.Itoa(number), unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0)
}

// smallDisk returns the root of a file system that has room for some megabytes.
// Only root can have one; ok is false for others.
func smallDisk(t *testing.T, megabytes int) (dir string, ok bool) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("without root there is no small file system: only limits on file sizes are tried")
		return "", false
	}
	dir = pgtest.TempDir(t)
	switch err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0777", megabytes)); err {
	case nil:
	case unix.EPERM:
		t.Log("this root may not mount a small file system: only limits on file sizes are tried")
		return "", false
	default:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir, true
}
