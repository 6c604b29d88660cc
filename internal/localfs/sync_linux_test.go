package localfs

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFilesWithoutPermissionsAreSynced does as a user who is not root: to root
// every file is open.
func TestFilesWithoutPermissionsAreSynced(t *testing.T) {
	const nobody = 65534
	for _, c := range []struct {
		reason string
		mode   os.FileMode
		want   int // warnings
	}{
		{"may be written", 0o600, 0},
		{"may only be read", 0o400, 0},
		{"may only be written", 0o200, 1},
		{"may not be opened at all", 0, 1},
	} {
		t.Run(c.reason, func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "localfs") // which everybody can reach
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			build(t, dir, "file")
			path := filepath.Join(dir, "file")
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 {
				for _, p := range []string{dir, path} {
					if err := os.Chown(p, nobody, nobody); err != nil {
						t.Fatal(err)
					}
				}
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				if err := unix.Setfsuid(nobody); err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := unix.Setfsuid(0); err != nil {
						t.Error(err)
					}
				}()
			}
			warned := 0
			if err := syncFile(path, func(error) { warned++ }); err != nil || warned != c.want {
				t.Errorf("warned %d times, want %d; %v", warned, c.want, err)
			}
			opened, err := openToSync(func(flag int) (*os.File, error) { return os.OpenFile(path, flag, 0) })
			if (err == nil) != (c.want == 0) {
				t.Errorf("opened: %v", err)
			}
			_ = opened.Close()
		})
	}
}
