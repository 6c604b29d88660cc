package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/object"
	"basin/internal/object/objecttest"
	"basin/internal/usererr"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// errCrash ends a Create where a crash would.
var errCrash = errors.New("crash")

// After a crash at any step the object is whole or absent, and another Create
// answers accordingly.
func TestCrashAtEachStep(t *testing.T) {
	var steps []string
	s := open(t, t.TempDir())
	s.step = func(step string) error { steps = append(steps, step); return nil }
	if err := s.Create(t.Context(), "a/b/c", []byte("x")); err != nil {
		t.Fatal(err)
	}
	want := []string{"written", "folders", "linked", "sync", "sync", "sync"} // a/b, a, top
	if !slices.Equal(steps, want) {
		t.Fatalf("steps %q, want %q", steps, want)
	}
	for k := range steps {
		t.Run(fmt.Sprintf("%d %s", k, steps[k]), func(t *testing.T) {
			dir := t.TempDir()
			s, left := open(t, dir), 0
			s.step = func(step string) error {
				if left++; left <= k {
					return nil
				}
				// What a crash leaves, and Create would remove.
				temps, err := os.ReadDir(filepath.Join(dir, temporary))
				if err != nil {
					t.Error(err)
				}
				for _, temp := range temps {
					if err := os.Link(filepath.Join(dir, temporary, temp.Name()), filepath.Join(dir, temporary, "left")); err != nil && left == k+1 {
						t.Error(err)
					}
				}
				return errCrash
			}
			if err := s.Create(t.Context(), "a/b/c", []byte("first")); !errors.Is(err, errCrash) || object.IsAnswer(err) {
				t.Fatalf("create: %v, want %v", err, errCrash)
			}
			after := open(t, dir)
			wantNames, wantErr := []string(nil), error(nil)
			if isLinked := k >= slices.Index(steps, "linked"); isLinked {
				wantNames, wantErr = []string{"a/b/c"}, fs.ErrExist
				if data, err := after.Get(t.Context(), "a/b/c", 0, -1); err != nil || string(data) != "first" {
					t.Errorf("get: %q, %v", data, err)
				}
			}
			if got := objecttest.Names(t, after, "", ""); !slices.Equal(got, wantNames) {
				t.Errorf("list: %q, want %q", got, wantNames)
			}
			if err := after.Create(t.Context(), "a/b/c", []byte("second")); !errors.Is(err, wantErr) {
				t.Errorf("create again: %v, want %v", err, wantErr)
			}
		})
	}
}

// A name that is taken by what a failed Create has left must be durable before
// it is told.
func TestTakenIsDurable(t *testing.T) {
	s := open(t, t.TempDir())
	s.step = func(step string) error {
		if step == "sync" {
			return errCrash
		}
		return nil
	}
	for range 2 {
		if err := s.Create(t.Context(), "a/b", nil); !errors.Is(err, errCrash) || object.IsAnswer(err) {
			t.Errorf("create: %v, want %v", err, errCrash)
		}
	}
	s.step = nil
	if err := s.Create(t.Context(), "a/b", nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create: %v, want %v", err, fs.ErrExist)
	}
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Create(t.Context(), "first", nil); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": 23 * time.Hour, "future": -25 * time.Hour} {
		path := filepath.Join(dir, temporary, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(t, dir).Create(t.Context(), "second", nil); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, temporary))
	if err != nil || len(entries) != 2 || entries[0].Name() != "future" || entries[1].Name() != "young" {
		t.Errorf("left are %v, %v; want future and young", entries, err)
	}
}

// A folder that others remove is made again.
func TestFolderVanishes(t *testing.T) {
	for _, test := range []struct {
		reason string
		times  int
		isMade bool
	}{
		{"once", 1, true},
		{"often", maxTries - 1, true},
		{"always", 2 * maxTries, false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			dir := t.TempDir()
			s, left := open(t, dir), test.times
			s.step = func(step string) error {
				if left--; step != "folders" || left < 0 {
					return nil
				}
				return os.RemoveAll(filepath.Join(dir, "a"))
			}
			left++ // for the step before
			err := s.Create(t.Context(), "a/b/c", nil)
			if (err == nil) != test.isMade || object.IsAnswer(err) {
				t.Errorf("create: %v", err)
			}
		})
	}
}

// TestShortFile makes an object of a file that ends before it was to.
func TestShortFile(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.CreateFrom(t.Context(), "name", strings.NewReader("short"), 6); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	if left, err := fs.ReadDir(s.root.FS(), temporary); err != nil || len(left) > 0 {
		t.Errorf("left are %v, error %v", left, err)
	}
	if _, err := s.Get(t.Context(), "name", 0, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there, error %v", err)
	}
}

// Where there are no links, files are renamed; the contract is the same.
func TestRename(t *testing.T) {
	s := open(t, t.TempDir())
	for _, name := range []string{"a", "b"} {
		temp, err := s.write(strings.NewReader(name), int64(len(name)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.rename(temp, "name"); name == "a" && err != nil || name == "b" && !errors.Is(err, fs.ErrExist) {
			t.Errorf("rename %s: %v", name, err)
		}
	}
	if data, err := s.Get(t.Context(), "name", 0, -1); err != nil || string(data) != "a" {
		t.Errorf("get: %q, %v", data, err)
	}
}

func TestModes(t *testing.T) {
	dir := t.TempDir()
	for name, o := range map[string]Options{"default": {}, "group": {DirMode: 0o750, FileMode: 0o640}} {
		s, err := Open(dir, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Create(t.Context(), name+"/x", nil), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]fs.FileMode{
		"default": 0o700 | fs.ModeDir, "default/x": 0o600, "group": 0o750 | fs.ModeDir, "group/x": 0o640,
	} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
}

// The folder is emptied with its last object, and other people's files are left.
func TestForeign(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	s := open(t, dir)
	if err := s.Create(t.Context(), "inside/x", []byte("inside")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "x"), []byte("outside"), 0o600),
		os.Symlink(outside, filepath.Join(dir, "out")),
		os.Symlink("inside", filepath.Join(dir, "within")),
		os.Mkdir(filepath.Join(dir, "lost+found"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	if got := objecttest.Names(t, s, "", ""); !slices.Equal(got, []string{"inside/x"}) {
		t.Errorf("list: %q", got)
	}
	for what, call := range map[string]func(ctx context.Context) error{
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, "out/x", 0, -1); return err },
		"create": func(ctx context.Context) error { return s.Create(ctx, "out/y", nil) },
		"below":  func(ctx context.Context) error { return s.Create(ctx, "out/y/z", nil) },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, "out/x") },
	} {
		if err := call(t.Context()); !errors.Is(err, object.ErrRefused) || usererr.Hint(err) == "" {
			t.Errorf("%s through a link that leads out: %v, want %v", what, err, object.ErrRefused)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside there are %v, %v", entries, err)
	}
	if err := s.Delete(t.Context(), "within/x"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "within")); err != nil {
		t.Errorf("a link that others made: %v", err)
	}
	if err := errors.Join(s.Create(t.Context(), "p/q/r/s", nil), s.Delete(t.Context(), "p/q/r/s")); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "p")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an emptied folder is left: %v", err)
	}
}

// Names that are both an object's and a folder's are not for a disk.
func TestFolderOfOthers(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Create(t.Context(), "a/b", nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "a/b/c", "a/b/c/d"} {
		if err := s.Create(t.Context(), name, nil); !errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrExist) {
			t.Errorf("create %s: %v, want %v", name, err, fs.ErrInvalid)
		}
	}
}

func TestOpenAbsent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	if _, err := Open(dir, Options{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("open: %v", err)
	}
}
