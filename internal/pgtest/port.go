package pgtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// The ports given out lie below the range that the kernel takes ports of outgoing
// connections from (32768 and up), and above those of well-known services.
const (
	firstPort = 20000
	portCount = 10000
)

// FreePort returns a loopback port that no other server of a test has or gets
// until this test is over, in this process or another one. A locked file stands
// for the port: to find it free now says nothing about the moment it is used.
func FreePort(t testing.TB) int {
	t.Helper()
	dir := sharedDir(t, "ports")
	for range 100 {
		port := firstPort + rand.IntN(portCount)
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil && bindable(port) {
			t.Cleanup(func() { lock.Close() })
			return port
		}
		lock.Close()
	}
	t.Fatal("no free port in a hundred tries")
	return 0
}

func bindable(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

// sharedDir returns a folder that all tests of this user share.
func sharedDir(t testing.TB, name string) string {
	t.Helper()
	root := filepath.Join(os.TempDir(), fmt.Sprintf("basin-pgtest-%d", os.Getuid()))
	dir := filepath.Join(root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(root)
	if err != nil {
		t.Fatal(err)
	}
	// Anyone can make a folder of that name in /tmp before us.
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Getuid() || !info.IsDir() {
		t.Fatalf("%s belongs to user %d", root, owner)
	}
	return dir
}
