//go:build !linux

package sinktest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mount puts no file system on dir, and returns that.
func mount(*testing.T, string, uint64) bool { return false }

// watch returns a function that says which name in dir was the last to be made,
// renamed to, or written to, by the times of change.
func watch(t *testing.T, dir string) (last func() string) {
	t.Helper()
	return func() (name string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		newest := int64(0)
		for _, e := range entries {
			var stat unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, e.Name()), &stat); err != nil {
				t.Fatal(err)
			}
			if changed := stat.Ctim.Nano(); changed >= newest {
				name, newest = e.Name(), changed
			}
		}
		return name
	}
}
