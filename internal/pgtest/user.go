package pgtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody is the user of that name and its group, the same on every Linux: it is
// who the kernel takes for those that it cannot name.
const nobody = 65534

// Credential returns the user that PostgreSQL's programs run as when the tests
// run as root, which PostgreSQL refuses for itself; nil is the tests' own user.
func Credential() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: nobody, Gid: nobody}
}

// ProcessAttributes ties a program to the tests: it gets a signal when they end in
// whatever way, where the system can send one. It is in a process group of its own,
// so that an interrupt at the terminal reaches the tests alone.
func ProcessAttributes(atEnd syscall.Signal) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Credential: Credential(), Setpgid: true}
	signalAtEnd(a, atEnd)
	return a
}

// TempDir returns a new folder that the servers' user owns and can reach, unlike
// one of t.TempDir when the tests run as root. It is removed after the test.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "basin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	Own(t, dir)
	return dir
}

// Own gives a file, or a folder with all that is in it and in the tablespaces
// and the WAL folder that it links to, to the servers' user, and lets that user
// pass through the folders above it that the tests own. Only root has to.
func Own(t testing.TB, path string) {
	t.Helper()
	if Credential() == nil {
		return
	}
	if err := own(path); err != nil {
		t.Fatal(err)
	}
}

func own(path string) error {
	if err := openWay(path); err != nil {
		return err
	}
	return filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := os.Lchown(name, nobody, nobody); err != nil {
			return err
		}
		if entry.Type() == fs.ModeSymlink && linksStorage(name) {
			target, err := filepath.EvalSymlinks(name)
			if err != nil {
				return err
			}
			return own(target)
		}
		return nil
	})
}

// linksStorage tells whether a link in a data directory leads to a part of it.
func linksStorage(name string) bool {
	return filepath.Base(filepath.Dir(name)) == "pg_tblspc" || filepath.Base(name) == "pg_wal" || filepath.Base(name) == "pg_xlog"
}

// openWay adds the right of passage to the folders above a path that the tests
// made and own, and makes sure that nobody may pass the others.
func openWay(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if info.Mode()&0o001 != 0 || info.Sys().(*syscall.Stat_t).Uid == nobody {
			continue
		}
		if !strings.HasPrefix(dir, os.TempDir()+"/") {
			return fmt.Errorf("%s: only its owner may pass it; set TMPDIR to a folder that everyone may", dir)
		}
		if err := os.Chmod(dir, info.Mode().Perm()|0o011); err != nil {
			return err
		}
	}
	return nil
}
