package sinktest

import (
	"errors"
	"os"
	"os/signal"
	"testing"

	"golang.org/x/sys/unix"
)

// IsNoRoom says whether err is of what Fillable limits.
func IsNoRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EFBIG) }

// OpenFiles returns how many files the process has open.
func OpenFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Fillable puts a file system of size bytes on dir; where that cannot be done,
// it limits every file the process writes to size bytes. Both end with the test.
func Fillable(t *testing.T, dir string, size uint64) {
	t.Helper()
	if mount(t, dir, size) {
		return
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ) // which would end the process; ignored, write returns EFBIG
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
			t.Error(err)
		}
		signal.Reset(unix.SIGXFSZ)
	})
}
