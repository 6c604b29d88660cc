package localfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/usererr"
)

func TestReason(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"number", syscall.ENOENT, "No such file or directory"},
		{"number with a slash", syscall.EIO, "Input/output error"},
		{"in a path error", &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}, "Permission denied"},
		{"in a link error", &os.LinkError{Op: "rename", Old: "x", New: "y", Err: syscall.EXDEV}, "Invalid cross-device link"},
		{"wrapped", fmt.Errorf("file: %w", syscall.ENOSPC), "No space left on device"},
		{"path error without a number", &fs.PathError{Op: "openat", Path: "x", Err: errors.New("path escapes from parent")}, "Path escapes from parent"},
		{"of another kind", io.ErrShortWrite, "short write"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Reason(c.err); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestErrorfHints(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		cause error
		hint  string // its words; empty: none
	}{
		{syscall.ENOSPC, "bytes free"},
		{syscall.EDQUOT, "quota"},
		{syscall.EFBIG, "ulimit"},
		{syscall.EROFS, "read-only"},
		{syscall.EACCES, "not allowed to do that"},
		{syscall.ENOENT, ""},
	} {
		t.Run(c.cause.Error(), func(t *testing.T) {
			path := filepath.Join(dir, "not", "there")
			err := Errorf(&fs.PathError{Op: "open", Path: "x", Err: c.cause}, path, `could not create file "%s"`, path)
			if want := `could not create file "` + path + `": ` + Reason(c.cause); err.Error() != want || !errors.Is(err, c.cause) {
				t.Errorf("got %q, want %q", err, want)
			}
			hint := usererr.Hint(err)
			if (hint == "") != (c.hint == "") || !strings.Contains(hint, c.hint) || hint != "" && !strings.Contains(hint, dir) {
				t.Errorf("hint is %q", hint)
			}
		})
	}
}

// build fills a directory with files; a path with a slash at its end is a directory.
func build(t *testing.T, dir string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		path, err := filepath.Join(dir, p), error(nil)
		switch from, to, link := strings.Cut(p, " -> "); {
		case link:
			err = os.Symlink(to, filepath.Join(dir, from))
		case strings.HasSuffix(p, "/"):
			err = os.MkdirAll(path, 0o700)
		default:
			err = os.WriteFile(path, []byte("content"), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestClaimDir(t *testing.T) {
	for _, c := range []struct {
		name    string
		there   []string
		path    string
		created bool
		message string // its end; empty: claimed
	}{
		{"absent", nil, "x", true, ""},
		{"absent, with its parents", nil, "x/y/z", true, ""},
		{"absent, with a slash at the end", nil, "x/", true, ""},
		{"empty", []string{"x/"}, "x", false, ""},
		{"link to an empty one", []string{"y/", "x -> y"}, "x", false, ""},
		{"holds a file", []string{"x/", "x/file"}, "x", false, `x" exists but is not empty`},
		{"holds a dot file", []string{"x/", "x/.file"}, "x", false, `x" exists but is not empty`},
		{"is a mount point", []string{"x/lost+found/"}, "x", false, `x" exists but is not empty`},
		{"is a file", []string{"x"}, "x", false, `x": Not a directory`},
		{"is below a file", []string{"x"}, "x/y", false, `x/y": Not a directory`},
		{"link to nothing", []string{"x -> y"}, "x", false, `x": File exists`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			build(t, dir, c.there...)
			path := dir + "/" + c.path
			claim, err := ClaimDir(path, 0o750)
			if c.message != "" {
				if err == nil || !strings.HasSuffix(err.Error(), c.message) {
					t.Errorf("error is %v, want ... %s", err, c.message)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if claim.Created() != c.created || claim.Path() != path {
				t.Errorf("created %t, path %q", claim.Created(), claim.Path())
			}
			outside := t.TempDir()
			build(t, outside, "file")
			build(t, path, "a/b/c/", "a/b/file", ".dot", "link -> "+outside, "a/link -> "+outside)
			if err := claim.Remove(); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(path)
			if c.created != errors.Is(err, fs.ErrNotExist) || len(entries) > 0 {
				t.Errorf("left: %v, %v", entries, err)
			}
			if entries, err := os.ReadDir(outside); len(entries) != 1 {
				t.Errorf("a link was followed: %v", err)
			}
		})
	}
}

func TestClaimRemovesOnlyWhatWasClaimed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	claim, err := ClaimDir(path, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	build(t, path, "ours")
	if err := os.Rename(path, filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	build(t, dir, "x/", "x/theirs")
	if err := claim.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "theirs")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "moved")); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestClaimGivesBackWhatItMade(t *testing.T) {
	for _, c := range []struct {
		name  string
		there []string
		path  string
		later []string // made after the claim, by somebody else
		want  []string // what is left
	}{
		{"parents", nil, "x/y/z", nil, nil},
		{"not those that were there", []string{"x/"}, "x/y/z", nil, []string{"x"}},
		{"not those that others use by now", nil, "x/y/z", []string{"x/file"}, []string{"x", "x/file"}},
		{"not the parents of what was there", []string{"x/y/"}, "x/y", nil, []string{"x", "x/y"}},
		{"link among the parents", []string{"a/", "x -> a"}, "x/y/z", nil, []string{"a", "x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			build(t, dir, c.there...)
			claim, err := ClaimDir(filepath.Join(dir, c.path), 0o700)
			if err != nil {
				t.Fatal(err)
			}
			build(t, dir, c.later...)
			if err := claim.Remove(); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, tree(t, dir)); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("parents of what cannot be made", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "x/y", strings.Repeat("z", 300))
		if _, err := ClaimDir(path, 0o700); err == nil || len(tree(t, dir)) > 0 {
			t.Errorf("left: %v, %v", tree(t, dir), err)
		}
	})
	t.Run("one inside the other, outer first", func(t *testing.T) {
		dir := t.TempDir()
		outer, outerErr := ClaimDir(filepath.Join(dir, "x"), 0o700)
		inner, innerErr := ClaimDir(filepath.Join(dir, "x/y/z"), 0o700)
		if err := errors.Join(outerErr, innerErr); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(outer.Remove(), inner.Remove()); err != nil || len(tree(t, dir)) > 0 {
			t.Errorf("left: %v, %v", tree(t, dir), err)
		}
	})
}

// tree returns the paths of all that is in dir.
func tree(t *testing.T, dir string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			paths = append(paths, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func TestSameDirectory(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "a/", "b/", "link -> a")
	claims := map[string]*Claim{}
	for _, name := range []string{"a", "b", "link"} {
		claims[name] = take(t, filepath.Join(dir, name))
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{{"a", "a", true}, {"a", "link", true}, {"a", "b", false}} {
		if got, err := claims[c.a].Same(claims[c.b]); got != c.want || err != nil {
			t.Errorf("%s and %s: %t, %v", c.a, c.b, got, err)
		}
	}
}

// take claims a directory until the end of the test.
func take(t testing.TB, path string) *Claim {
	t.Helper()
	c, err := ClaimDir(path, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // it may have been removed
	return c
}

func TestClosedClaimStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	claim, err := ClaimDir(path, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if err := claim.Close(); err != nil {
		t.Fatal(err)
	}
	if claim.Remove() == nil {
		t.Error("removed after close")
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// piece is a reader that writes by itself.
type piece struct{ io.Reader }

func (p piece) WriteTo(w io.Writer) (int64, error) {
	if _, ok := w.(io.ReaderFrom); ok {
		return 0, errors.New("the writer wants to read by itself")
	}
	content, err := io.ReadAll(p.Reader)
	n, writeErr := w.Write(content)
	return int64(n), errors.Join(err, writeErr)
}

func TestCopy(t *testing.T) {
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name    string
		ctx     context.Context
		content string
		size    int64
		message string
	}{
		{"all", t.Context(), "12345", 5, ""},
		{"nothing", t.Context(), "", 0, ""},
		{"of any size", t.Context(), "12345", -1, ""},
		{"short", t.Context(), "1234", 5, `"x": 4 bytes came where 5 were announced`},
		{"long", t.Context(), "123456", 5, `"x": 6 bytes came where 5 were announced`},
		{"more than nothing", t.Context(), "1", 0, `"x": 1 bytes came where 0 were announced`},
		{"cancelled", done, "12345", 5, "context canceled"},
	} {
		for name, reader := range map[string]io.Reader{
			"read":    struct{ io.Reader }{strings.NewReader(c.content)},
			"written": piece{strings.NewReader(c.content)},
		} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				var out bytes.Buffer
				err := Copy(c.ctx, &out, reader, "x", c.size)
				if c.message == "" && (err != nil || out.String() != c.content) || c.message != "" && (err == nil || err.Error() != c.message) {
					t.Errorf("%q, error is %v, want %q", out.String(), err, c.message)
				}
			})
		}
	}
}

func TestWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := Syncer{}.NewWriter(f, path)
	content := bytes.Repeat([]byte("basin---"), writeBackStride/8/3)
	for range 7 {
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Sync(), w.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, bytes.Repeat(content, 7)) || w.Written() != int64(len(got)) {
		t.Errorf("%d bytes, %d written, %v", len(got), w.Written(), err)
	}

	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w = NewWriter(full, "/dev/full")
	defer w.Close()
	if _, err := w.Write([]byte("x")); err == nil || err.Error() != `could not write to file "/dev/full": No space left on device` {
		t.Errorf("error is %v", err)
	}
}

func TestReserve(t *testing.T) {
	for name, reserve := range map[string]func(f *os.File, size int64) error{
		"by the system": func(f *os.File, size int64) error { return Reserve(f, f.Name(), size) },
		"by hand":       writeZeros,
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "x"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			const size = 1<<20 + 5
			if err := reserve(f, size); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(f)
			if err != nil || !bytes.Equal(got, make([]byte, size)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if info, err := f.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 < size {
				t.Errorf("no space behind it: %v", err)
			}
			if err := errors.Join(f.Truncate(3), os.WriteFile(f.Name(), []byte("abc"), 0), reserve(f, size)); err != nil {
				t.Fatal(err)
			}
			kept, err := os.ReadFile(f.Name())
			if err != nil || string(kept) != "abc"+string(make([]byte, size-3)) {
				t.Errorf("what it held: %.3q in %d bytes, %v", kept, len(kept), err)
			}
		})
	}
}
