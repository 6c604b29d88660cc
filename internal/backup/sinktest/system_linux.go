package sinktest

import (
	"bytes"
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mount puts a file system of size bytes on dir until the test ends, and returns
// whether it has the right to.
func mount(t *testing.T, dir string, size uint64) bool {
	t.Helper()
	if err := unix.Mount("sinktest", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		return false
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return true
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
