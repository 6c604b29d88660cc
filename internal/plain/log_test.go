package plain

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/backup"
	"basin/internal/backup/sinktest"
	"basin/internal/wal"
)

const (
	segment1 = "000000010000000000000001"
	segment2 = "000000010000000000000002"
)

var _ wal.Keeper = (*Log)(nil)

func TestLog(t *testing.T) {
	content := bytes.Repeat([]byte("x"), wal.MinSegmentSize)
	for _, c := range []struct {
		name      string
		elsewhere bool
		version   int
		summaries bool
	}{
		{"in the data directory", false, 180000, true},
		{"behind a link", true, 180000, true},
		{"of a server without summaries", false, 160000, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, place := t.TempDir(), ""
			if c.elsewhere {
				place = t.TempDir()
			}
			s := NewSink(Options{Dir: dir, WALDir: place})
			defer s.Close()
			if err := s.Begin(t.Context(), backup.Start{}); err != nil {
				t.Fatal(err)
			}
			l, err := NewLog(LogOptions{Dir: dir, WALDir: place, ServerVersion: c.version})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			keep(t, l, content)

			want := map[string]string{
				segment1:         string(content),
				segment2:         "begun" + strings.Repeat("\x00", wal.MinSegmentSize-len("begun")),
				"archive_status": "", "archive_status/" + segment1 + ".done": "",
				"00000002.history": "1\t0/3000000\tno reason\n", "archive_status/00000002.history.done": "",
			}
			if c.summaries {
				want["summaries"] = ""
			}
			path, err := filepath.EvalSymlinks(filepath.Join(dir, "pg_wal"))
			if err != nil {
				t.Fatal(err)
			}
			got := sinktest.ReadTree(t, 0, path)
			for key, e := range got {
				name := key.Path
				if content, ok := want[name]; !ok || content != e.Content {
					t.Errorf("%s is there with %d bytes", name, len(e.Content))
				}
				if e.Kind == backup.File && e.Mode != 0o600 || e.Kind == backup.Dir && e.Mode != 0o700 {
					t.Errorf("%s has mode %o", name, e.Mode)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d files, want %d", len(got), len(want))
			}
		})
	}
}

// keep gives a keeper a complete segment, a history and a segment that is begun.
func keep(t *testing.T, k wal.Keeper, content []byte) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w, err := k.Begin(segment1, int64(len(content)))
	must(err)
	for _, piece := range [][]byte{content[:1000], content[1000:]} {
		_, err := w.Write(piece)
		must(err)
		must(w.Flush())
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a segment takes more than its size")
	}
	must(w.Finish())
	for range 2 {
		must(k.History("00000002.history", []byte("1\t0/3000000\tno reason\n")))
	}
	if has, err := k.HasHistory("00000002.history"); !has || err != nil {
		t.Errorf("history is not kept: %v", err)
	}
	if has, err := k.HasHistory("00000003.history"); has || err != nil {
		t.Errorf("history out of nothing: %v", err)
	}
	w, err = k.Begin(segment2, int64(len(content)))
	must(err)
	_, err = w.Write([]byte("begun"))
	must(err)
	must(w.Abandon())
}

func TestLogFindsAFile(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int64
		message string // its end; empty: the file is taken
	}{
		{"empty", 0, ""},
		{"whole segment", wal.MinSegmentSize, ""},
		{"other size", 5, "has 5 bytes, should be 0 or 1048576"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := NewLog(LogOptions{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			path := filepath.Join(dir, "pg_wal", segment1)
			if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, c.size)); err != nil {
				t.Fatal(err)
			}
			w, err := l.Begin(segment1, wal.MinSegmentSize)
			if c.message != "" {
				if err == nil || !strings.HasSuffix(err.Error(), c.message) {
					t.Errorf("error is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Finish(); err == nil {
				t.Error("a segment without its bytes is complete")
			}
			if info, err := os.Stat(path); err != nil || info.Size() != wal.MinSegmentSize {
				t.Errorf("file is %v, %v", info, err)
			}
		})
	}
}

func TestLogDoesNotFollowAPlantedLink(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	if _, err := NewLog(LogOptions{Dir: dir}); err == nil {
		t.Error("followed")
	}
	if names, err := os.ReadDir(outside); err != nil || len(names) > 0 {
		t.Errorf("outside the data directory: %v, %v", names, err)
	}
}
