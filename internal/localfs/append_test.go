package localfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// shortOf writes to a file until a number of bytes is used up, as into a disk
// that is full then.
type shortOf struct {
	w    io.Writer
	room int
}

func (s *shortOf) Write(p []byte) (int, error) {
	n, err := s.w.Write(p[:min(len(p), s.room)])
	s.room -= n
	if err == nil && n < len(p) {
		err = syscall.ENOSPC
	}
	return n, err
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAppender(t *testing.T) {
	for _, test := range []struct {
		reason string
		before string // empty: there is no file
		want   string
		mended bool
	}{
		{"new", "", "one\ntwo\n", false},
		{"goes on", "zero\n", "zero\none\ntwo\n", false},
		{"ends within a line", "zero\nhal", "zero\nhal\none\ntwo\n", true},
		{"a newline alone", "\n", "\none\ntwo\n", false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			if test.before != "" {
				if err := os.WriteFile(path, []byte(test.before), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			a, err := OpenAppender(path, 0o640)
			if err != nil {
				t.Fatal(err)
			}
			if isNew := test.before == ""; a.Mended() != test.mended || (a.dir != nil) != isNew {
				t.Errorf("mended %t, directory to be synced %t", a.Mended(), a.dir != nil)
			}
			for _, record := range []string{"one\n", "two\n"} {
				if _, err := a.Write([]byte(record)); err != nil {
					t.Error(err)
				}
				if err := a.Sync(); err != nil || a.dir != nil {
					t.Errorf("%v, directory to be synced still %t", err, a.dir != nil)
				}
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
			if got := content(t, path); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// What a full disk took of a write is not left there.
func TestAppenderTakesBack(t *testing.T) {
	for _, test := range []struct {
		reason string
		flags  int
		other  string // what somebody else writes meanwhile
		room   int
		n      int
		want   string
	}{
		{"half a record", os.O_APPEND, "", 6, 0, "one\n\n"},
		{"nothing of it", os.O_APPEND, "", 4, 0, "one\n\n"},
		{"half a record, opened by a shell", 0, "", 6, 0, "one\n\n"},
		{"not what is somebody else's", os.O_APPEND, "else\n", 6, 2, "one\ntwelse\n\n"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|test.flags, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			out := &shortOf{file, test.room}
			a, err := NewAppender(file, path, out)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := a.Write([]byte("one\n")); n != 4 || err != nil {
				t.Fatal(n, err)
			}
			if test.other != "" {
				a.out = writerFunc(func(p []byte) (int, error) {
					n, err := out.Write(p)
					other, openErr := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
					if openErr != nil {
						return n, openErr
					}
					defer other.Close()
					_, writeErr := other.WriteString(test.other)
					return n, errors.Join(err, writeErr)
				})
			}
			n, err := a.Write([]byte("two\n"))
			if n != test.n || !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "bytes to log file") {
				t.Errorf("%d, %v", n, err)
			}
			a.out = file
			if _, err := a.Write([]byte("\n")); err != nil { // the next is in its place
				t.Error(err)
			}
			if got := content(t, path); got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestAppenderToWhatIsNoFile(t *testing.T) {
	a, err := OpenAppender(os.DevNull, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Write([]byte("one\n")); err != nil || a.dir != nil {
		t.Error(err)
	}
	if err := errors.Join(a.Sync(), a.Close()); err != nil {
		t.Error(err)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pipe, err := NewAppender(w, "-", &shortOf{w, 2})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := pipe.Write([]byte("one\n")); n != 2 || err == nil {
		t.Errorf("%d bytes cannot be taken back, %v", n, err)
	}
	if err := errors.Join(pipe.Sync(), pipe.Close()); err != nil {
		t.Error(err)
	}
}

func TestAppenderIsRefused(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir:                           "could not open log file \"" + dir + "\": Is a directory",
		"":                            `could not open log file "": No such file or directory`,
		filepath.Join(dir, "no", "x"): `No such file or directory`,
	} {
		if _, err := OpenAppender(path, 0o600); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestAppenderThroughALink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "elsewhere"), 0o700); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("elsewhere/log", link); err != nil {
		t.Fatal(err)
	}
	a, err := OpenAppender(link, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if a.dir == nil || filepath.Base(a.dir.Name()) != "elsewhere" {
		t.Errorf("the name is synced in %v", a.dir)
	}
}
