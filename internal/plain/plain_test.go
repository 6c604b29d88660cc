package plain

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"basin/internal/backup"
	"basin/internal/backup/sinktest"
	"basin/internal/localfs"
	"basin/internal/wal"
)

func TestSinkKeepsItsPromises(t *testing.T) {
	for _, c := range []struct {
		name    string
		options Options
	}{
		{"synced file by file", Options{}},
		{"synced by file system", Options{Sync: localfs.Syncer{Method: localfs.Syncfs}}},
		{"not synced", Options{Sync: unsynced}},
	} {
		t.Run(c.name, func(t *testing.T) {
			suite := sinktest.Suite{Order: true, Open: func(t *testing.T, dir string) sinktest.Subject {
				o := c.options
				o.Dir, o.Progress = claim(t, dir), new(backup.Progress)
				return subject(t, o)
			}}
			suite.Run(t)
		})
	}
}

// TestSinkKeepsItsPromisesElsewhere has the log and the tablespace in other places.
func TestSinkKeepsItsPromisesElsewhere(t *testing.T) {
	suite := sinktest.Suite{Order: true, Open: func(t *testing.T, dir string) sinktest.Subject {
		return subject(t, Options{Dir: claim(t, dir), WALDir: claim(t, t.TempDir()), Sync: unsynced})
	}}
	suite.Run(t)
}

// subject is a sink and how to read a data directory back as members.
func subject(t *testing.T, o Options) sinktest.Subject {
	sink, dir := newSink(t, o), o.Dir.Path()
	return sinktest.Subject{
		Sink: sink,
		Finished: func() bool {
			_, err := os.Lstat(filepath.Join(dir, "backup_manifest"))
			return err == nil
		},
		Read: func(t *testing.T) map[sinktest.Key]sinktest.Entry {
			entries := sinktest.ReadTree(t, 0, dir)
			for k, e := range entries {
				if rest, ok := strings.CutPrefix(k.Path, "pg_tblspc/16385/"); ok {
					delete(entries, k)
					entries[sinktest.Key{Tablespace: sinktest.OIDInPlace, Path: rest}] = e
				}
			}
			for _, dir := range claimed(sink) {
				entries = sinktest.Join(entries, sinktest.ReadTree(t, sinktest.OIDElsewhere, dir))
			}
			if o.WALDir == nil {
				return entries
			}
			wal, place := sinktest.Key{Path: "pg_wal"}, o.WALDir.Path()
			if e, ok := entries[wal]; ok && e.Kind == backup.Symlink && e.Content == place {
				entries[wal] = sinktest.Entry{Kind: backup.Dir, Mode: mode(t, place)}
				for k, e := range sinktest.ReadTree(t, 0, place) {
					k.Path = "pg_wal/" + k.Path
					entries[k] = e
				}
			}
			return entries
		},
	}
}

var unsynced = localfs.Syncer{Off: true}

// claim takes a directory until the end of the test.
func claim(t testing.TB, dir string) *localfs.Claim {
	t.Helper()
	c, err := localfs.ClaimDir(dir, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// newSink returns a sink that is closed at the end of the test, and its claims
// after it.
func newSink(t testing.TB, o Options) *Sink {
	s := NewSink(o)
	t.Cleanup(func() {
		err := s.Close()
		for _, c := range s.Claims() {
			err = errors.Join(err, c.Close())
		}
		if err != nil {
			t.Error(err)
		}
	})
	return s
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestSinkRefuses(t *testing.T) {
	outside := t.TempDir()
	link := backup.Member{Path: "escape", Kind: backup.Symlink, Target: outside}
	for _, c := range []struct {
		name    string
		before  []backup.Member
		m       backup.Member
		message string // its end; empty: it is taken
	}{
		{"a file is taken", nil, backup.Member{Path: "file"}, ""},
		{"dots that lead back are taken", nil, backup.Member{Path: "x/../file"}, ""},
		{"the directory itself is taken", nil, backup.Member{Path: "./", Kind: backup.Dir, Mode: 0o700}, ""},
		{"absolute path", nil, backup.Member{Path: "/etc/passwd"}, `tar member has unsafe path name: "/etc/passwd"`},
		{"parent", nil, backup.Member{Path: "base/../../x"}, `tar member has unsafe path name: "base/../../x"`},
		{"empty path", nil, backup.Member{}, "tar member has empty name"},
		{"zero byte in a name", nil, backup.Member{Path: "a\x00b"}, "tar member has unsafe path name: \"a\x00b\""},
		{"file below a planted link", []backup.Member{link}, backup.Member{Path: "escape/file"}, "Path escapes from parent"},
		{"file through a planted link", []backup.Member{{Path: "escape", Kind: backup.Symlink, Target: outside + "/new"}},
			backup.Member{Path: "escape"}, "Path escapes from parent"},
		{"directory below a planted link", []backup.Member{link}, backup.Member{Path: "escape/dir", Kind: backup.Dir}, "Path escapes from parent"},
		{"link below a planted link", []backup.Member{link}, backup.Member{Path: "escape/link", Kind: backup.Symlink, Target: "x"}, "Path escapes from parent"},
		{"relative link out", nil, backup.Member{Path: "link", Kind: backup.Symlink, Target: "../x"}, `tar member has unsafe link target: "../x"`},
		{"no parent directory", nil, backup.Member{Path: "base/1"}, "No such file or directory"},
		{"parent is a file", []backup.Member{{Path: "base", Kind: backup.File}}, backup.Member{Path: "base/1"}, "Not a directory"},
		{"directory twice", []backup.Member{{Path: "base", Kind: backup.Dir}}, backup.Member{Path: "base", Kind: backup.Dir}, "File exists"},
		{"directory of the log twice is taken", []backup.Member{{Path: "pg_wal", Kind: backup.Dir}}, backup.Member{Path: "pg_wal", Kind: backup.Dir}, ""},
		{"digits elsewhere twice", []backup.Member{{Path: "5", Kind: backup.Dir}}, backup.Member{Path: "5", Kind: backup.Dir}, "File exists"},
		{"file over a directory", []backup.Member{{Path: "base", Kind: backup.Dir}}, backup.Member{Path: "base"}, "Is a directory"},
		{"whole archive", nil, backup.Member{Path: "base.tar.gz", Kind: backup.Archive}, "a data directory cannot hold"},
		{"unknown tablespace", nil, backup.Member{Tablespace: 7, Path: "x"}, "not announced"},
		{"name too long", nil, backup.Member{Path: strings.Repeat("x", 256)}, "File name too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSink(t, Options{Dir: claim(t, t.TempDir()), Sync: unsynced})
			if err := s.Begin(t.Context(), backup.Start{}); err != nil {
				t.Fatal(err)
			}
			for _, m := range c.before {
				m.Mode = 0o700
				if err := s.Put(t.Context(), m, strings.NewReader("")); err != nil {
					t.Fatal(err)
				}
			}
			if c.m.Kind == 0 {
				c.m.Kind = backup.File
			}
			err := s.Put(t.Context(), c.m, strings.NewReader(""))
			if c.message == "" && err != nil || c.message != "" && (err == nil || !strings.HasSuffix(err.Error(), c.message)) {
				t.Errorf("error is %v, want ... %s", err, c.message)
			}
			if c.message != "" && !errors.Is(s.Put(t.Context(), backup.Member{Path: "next"}, nil), err) {
				t.Error("goes on after an error")
			}
			if names, err := os.ReadDir(outside); err != nil || len(names) > 0 {
				t.Errorf("outside the data directory: %v, %v", names, err)
			}
		})
	}
}

func TestTablespaces(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, ".dot"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	there, absent := t.TempDir(), filepath.Join(t.TempDir(), "a/b")
	for _, c := range []struct {
		name     string
		location string
		mapping  map[string]string
		want     string // where the tablespace is
		message  string
	}{
		{"made", absent, nil, absent, ""},
		{"there and empty", there, nil, there, ""},
		{"mapped", "/nowhere/ts", map[string]string{"/nowhere/ts": there}, there, ""},
		{"mapped by its canonical path", "/nowhere//ts/", map[string]string{"/nowhere/ts": there}, there, ""},
		{"not empty", full, nil, "", `directory "` + full + `" exists but is not empty`},
		{"mapped to what is not empty", there, map[string]string{there: full}, "", `directory "` + full + `" exists but is not empty`},
		{"a file", "/dev/null", nil, "", `could not access directory "/dev/null": Not a directory`},
		{"below a file", "/dev/null/x", nil, "", `could not access directory "/dev/null/x": Not a directory`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			s := newSink(t, Options{Dir: claim(t, dir), TablespaceMap: c.mapping, Sync: unsynced})
			err := s.Begin(t.Context(), backup.Start{Tablespaces: []backup.Tablespace{{OID: 16384, Location: c.location}}})
			if c.message != "" {
				if err == nil || err.Error() != c.message {
					t.Errorf("error is %v, want %s", err, c.message)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := claimed(s); len(got) != 1 || got[0] != c.want {
				t.Errorf("touched %q, want %q", got, c.want)
			}
			for _, m := range []backup.Member{
				{Path: "pg_tblspc", Kind: backup.Dir, Mode: 0o700},
				{Path: "pg_tblspc/16384", Kind: backup.Symlink, Target: "/whatever/the/server/says"},
			} {
				if err := s.Put(t.Context(), m, nil); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := os.Readlink(filepath.Join(dir, "pg_tblspc/16384")); got != c.want {
				t.Errorf("link leads to %q (%v), want %q", got, err, c.want)
			}
		})
	}
}

// TestPartsAreApart names directories by other paths than they were claimed by.
func TestPartsAreApart(t *testing.T) {
	for _, c := range []struct {
		reason string
		wal    string // below the directory of the test, where link leads to data
		spaces []string
		apart  bool
	}{
		{"all apart", "wal", []string{"a", "b"}, true},
		{"a tablespace inside the data directory", "", []string{"data/a"}, true},
		{"a tablespace inside another", "", []string{"a", "a/b"}, true},
		{"two tablespaces", "", []string{"a", "a"}, false},
		{"two tablespaces by two paths", "", []string{"data/a", "link/a"}, false},
		{"a tablespace and the data directory", "", []string{"link"}, false},
		{"a tablespace and the log", "wal", []string{"link/../wal"}, false},
		{"the log and the data directory", "link", nil, false},
	} {
		t.Run(c.reason, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Symlink("data", filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			o := Options{Dir: claim(t, dir+"/data"), Sync: unsynced}
			if c.wal != "" {
				o.WALDir = claim(t, dir+"/"+c.wal)
			}
			var start backup.Start
			for i, space := range c.spaces {
				start.Tablespaces = append(start.Tablespaces, backup.Tablespace{OID: uint32(i + 1), Location: dir + "/" + space})
			}
			err := newSink(t, o).Begin(t.Context(), start)
			if c.apart != (err == nil) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestModesOfWhatTheServerDoesNotSend(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o027))
	dir, place := t.TempDir(), filepath.Join(t.TempDir(), "ts")
	s := newSink(t, Options{Dir: claim(t, dir), DirMode: 0o750, FileMode: 0o640})
	start := backup.Start{Tablespaces: []backup.Tablespace{{OID: 1, Location: place}, {OID: 2, Location: "pg_tblspc/2"}}}
	if err := s.Begin(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	m := backup.Member{Path: "backup_manifest", Kind: backup.Manifest, Size: -1, Mode: 0o777}
	if err := s.Put(t.Context(), m, strings.NewReader("{}")); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), wal.Position{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		place: 0o750, dir + "/pg_tblspc": 0o750, dir + "/pg_tblspc/2": 0o750, dir + "/backup_manifest": 0o640,
	} {
		if got := mode(t, path); got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
}

func TestStepsOfCommit(t *testing.T) {
	for _, c := range []struct {
		name   string
		noSync bool
		want   string
	}{
		{"synced", false, "syncing data to disk ...|renaming backup_manifest.tmp to backup_manifest|"},
		{"not synced", true, "renaming backup_manifest.tmp to backup_manifest|"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got string
			sync := localfs.Syncer{Off: c.noSync, Step: func(step string) { got += step + "|" }}
			s := newSink(t, Options{Dir: claim(t, t.TempDir()), Sync: sync})
			err := errors.Join(
				s.Begin(t.Context(), backup.Start{}),
				s.Put(t.Context(), backup.Member{Kind: backup.Manifest, Size: -1}, strings.NewReader("{}")),
				s.Commit(t.Context(), wal.Position{}),
			)
			if err != nil || got != c.want {
				t.Errorf("steps %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// memory is a reader that hands out pieces of 32 KiB as they lie in memory, as
// the connection does.
type memory struct {
	piece []byte
	left  int
}

func (m *memory) Read(p []byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (m *memory) WriteTo(w io.Writer) (n int64, err error) {
	for m.left > 0 {
		k, err := w.Write(m.piece[:min(m.left, len(m.piece))])
		n, m.left = n+int64(k), m.left-k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func BenchmarkPut(b *testing.B) {
	parent := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	piece := bytes.Repeat([]byte("basin---"), 4096)
	for _, c := range []struct {
		name  string
		size  int
		count int
	}{
		{"small", 8192, 4096},
		{"large", 256 << 20, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			dir, err := os.MkdirTemp(parent, "basin")
			if err != nil {
				b.Fatal(err)
			}
			defer os.RemoveAll(dir)
			s := newSink(b, Options{Dir: claim(b, dir)})
			if err := s.Begin(b.Context(), backup.Start{}); err != nil {
				b.Fatal(err)
			}
			if err := s.Put(b.Context(), backup.Member{Path: "base", Kind: backup.Dir, Mode: 0o700}, nil); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(c.size * c.count))
			for b.Loop() {
				for i := range c.count {
					name := "base/" + string([]byte{'a' + byte(i>>8), 'a' + byte(i>>4&15), 'a' + byte(i&15)})
					m := backup.Member{Path: name, Kind: backup.File, Mode: 0o600, Size: int64(c.size)}
					if err := s.Put(b.Context(), m, &memory{piece, c.size}); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// claimed returns the paths of the tablespaces' directories.
func claimed(s *Sink) (dirs []string) {
	for _, c := range s.Claims() {
		dirs = append(dirs, c.Path())
	}
	return dirs
}
