package sinktest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// IsNoRoom says whether err is of what Fillable limits.
func IsNoRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EFBIG) }

// OpenFiles returns how many files the process has open.
func OpenFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Fillable puts a file system of size bytes on dir; without the right to do that,
// it limits every file the process writes to size bytes. Both end with the test.
func Fillable(t *testing.T, dir string, size uint64) {
	t.Helper()
	if err := unix.Mount("sinktest", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err == nil {
		t.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
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

// watch returns a function that says which name in dir was the last to be made,
// renamed to, or written to since the call of watch.
func watch(t *testing.T, dir string) (last func() string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	const events = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_DELETE | unix.IN_ATTRIB
	if _, err := unix.InotifyAddWatch(fd, dir, events); err != nil {
		t.Fatal(err)
	}
	return func() (name string) {
		defer unix.Close(fd)
		buf := make([]byte, 64<<10)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n == 0 {
				return name
			}
			for off := 0; off < n; {
				event := (*unix.InotifyEvent)(unsafe.Pointer(&buf[off]))
				off += unix.SizeofInotifyEvent
				name = string(bytes.TrimRight(buf[off:off+int(event.Len)], "\x00"))
				off += int(event.Len)
			}
		}
	}
}
