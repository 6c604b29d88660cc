package plain

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/backup"
	"basin/internal/backup/sinktest"
	"basin/internal/wal"
	"basin/internal/wal/keepertest"
)

const segment1 = "000000010000000000000001"

var _ wal.Keeper = (*Log)(nil)

func TestLogKeepsItsPromises(t *testing.T) {
	for _, c := range []struct {
		name      string
		elsewhere bool
		options   LogOptions
		dirs      []string // beside those of marks
	}{
		{"in the data directory", false, LogOptions{ServerVersion: 180000}, []string{"summaries"}},
		{"behind a link", true, LogOptions{ServerVersion: 180000}, []string{"summaries"}},
		{"of a server without summaries", false, LogOptions{ServerVersion: 160000, Sync: unsynced}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			keepertest.Suite{Open: func(t *testing.T, dir string) keepertest.Subject {
				o, place := c.options, filepath.Join(dir, "pg_wal")
				o.Dir = claim(t, dir)
				if c.elsewhere {
					place = filepath.Join(dir, "log")
					o.WALDir = claim(t, place)
				}
				l, err := NewLog(o)
				if err != nil {
					t.Fatal(err)
				}
				return keepertest.Subject{Keeper: l, Read: func(t *testing.T) map[string]string { return readLog(t, place, c.dirs) }}
			}}.Run(t)
		})
	}
}

// readLog returns the files of a pg_wal, which has the directories.
func readLog(t *testing.T, path string, dirs []string) map[string]string {
	t.Helper()
	entries := sinktest.ReadTree(t, 0, path)
	for _, dir := range append(dirs, "archive_status") {
		key := sinktest.Key{Path: dir}
		if e := entries[key]; e.Kind != backup.Dir || e.Mode != 0o700 {
			t.Errorf("%s is %+v", dir, e)
		}
		delete(entries, key)
	}
	files := map[string]string{}
	for key, e := range entries {
		if e.Kind != backup.File || e.Mode != 0o600 {
			t.Errorf("%s has kind %d and mode %o", key.Path, e.Kind, e.Mode)
		}
		files[key.Path] = e.Content
	}
	return files
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
			l, err := NewLog(LogOptions{Dir: claim(t, dir)})
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
	data := claim(t, dir)
	if err := os.Symlink(outside, filepath.Join(dir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	if _, err := NewLog(LogOptions{Dir: data}); err == nil {
		t.Error("followed")
	}
	if names, err := os.ReadDir(outside); err != nil || len(names) > 0 {
		t.Errorf("outside the data directory: %v, %v", names, err)
	}
}
