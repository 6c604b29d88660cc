package disk

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestOwner makes objects in a folder of another user if this one is root, and else of its own: all that is made is that user's.
func TestOwner(t *testing.T) {
	dir := t.TempDir()
	user, group := os.Geteuid(), os.Getegid()
	if user == 0 {
		user, group = 54321, 12345
		if err := os.Chown(dir, user, group); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "b"), 0o700); err != nil { // which root could not give away yet
		t.Fatal(err)
	}
	s, err := Open(dir, Options{Reserve: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, name := range []string{"a", "b/c/d/e", "b/c/f", "b/g"} {
		if err := s.Create(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	made := 0
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		made++
		if stat := info.Sys().(*syscall.Stat_t); int(stat.Uid) != user || int(stat.Gid) != group {
			t.Errorf("%s is of user %d and group %d", path, stat.Uid, stat.Gid)
		}
		return nil
	})
	if err != nil || made != 10 { // folders: itself, b, b/c, b/c/d, ~; the reserve
		t.Errorf("%d were made, %v", made, err)
	}
	if err := s.Create(t.Context(), "a/b", nil); err == nil {
		t.Error("a file is taken for a folder")
	}
}
