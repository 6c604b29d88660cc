package localfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSyncMethod(t *testing.T) {
	for _, c := range []struct {
		text    string
		want    SyncMethod
		message string
	}{
		{"fsync", Fsync, ""},
		{"syncfs", Syncfs, ""},
		{"", 0, "unrecognized sync method: "},
		{"FSYNC", 0, "unrecognized sync method: FSYNC"},
	} {
		got, err := ParseSyncMethod(c.text)
		if got != c.want || c.message == "" && err != nil || c.message != "" && (err == nil || err.Error() != c.message) {
			t.Errorf("%q: %v, %v", c.text, got, err)
		}
	}
}

func TestWalkVisitsWhatIsSynced(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	build(t, outside, "file")
	build(t, dir, "base/1/", "base/1/1259", "file", "link -> "+outside, "file link -> "+outside+"/file")
	var got, warned []string
	err := walk([]string{dir, filepath.Join(dir, "absent")}, func(err error) { warned = append(warned, err.Error()) }, func(path string, isDir bool) error {
		if isDir {
			path += "/"
		}
		got = append(got, strings.TrimPrefix(path, dir))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/base/1/1259", "/base/1/", "/base/", "/file", "/"}, got); diff != "" {
		t.Error(diff)
	}
	if want := `could not open directory "` + dir + `/absent": No such file or directory`; !slices.Equal(warned, []string{want}) {
		t.Errorf("warned of %q, want %q", warned, want)
	}
}

func TestDataDirWarns(t *testing.T) {
	for _, c := range []struct {
		name  string
		there []string
		want  []string // beginnings of warnings; $ is the directory
	}{
		{"whole", []string{"pg_wal/", "pg_tblspc/", "file"}, nil},
		{"links lead to directories", []string{"w/", "t/", "pg_wal -> w", "pg_tblspc/", "pg_tblspc/1 -> ../t", "pg_tblspc/2/"}, nil},
		{"no log", []string{"pg_tblspc/"}, []string{`could not stat file "$/pg_wal"`}},
		{"no tablespaces", []string{"pg_wal/"}, []string{`could not open directory "$/pg_tblspc"`}},
		{"links lead to nothing", []string{"pg_wal -> w", "pg_tblspc/", "pg_tblspc/1 -> ../t"},
			[]string{`could not open directory "$/pg_wal"`, `could not open directory "$/pg_tblspc/1"`}},
	} {
		for _, method := range []SyncMethod{Fsync, Syncfs} {
			t.Run(fmt.Sprint(c.name, method), func(t *testing.T) {
				dir := t.TempDir()
				build(t, dir, c.there...)
				var warned []string
				s := Syncer{Method: method, Warn: func(err error) { warned = append(warned, err.Error()) }}
				if err := s.DataDir(t.Context(), dir); err != nil {
					t.Fatal(err)
				}
				if len(warned) != len(c.want) {
					t.Fatalf("warned of %q, want %q", warned, c.want)
				}
				for i, want := range c.want {
					want = strings.ReplaceAll(want, "$", dir)
					if method == Syncfs {
						want = strings.ReplaceAll(want, `open directory "`+dir+`/pg_wal"`, `open file "`+dir+`/pg_wal"`)
						want = strings.ReplaceAll(want, `open directory "`+dir+`/pg_tblspc/1"`, `open file "`+dir+`/pg_tblspc/1"`)
					}
					if !strings.HasPrefix(warned[i], want) {
						t.Errorf("warned of %q, want %q", warned[i], want)
					}
				}
			})
		}
	}
}

func TestTreesEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	build(t, dir, "file")
	if err := (Syncer{}).Trees(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if err := (Syncer{Off: true}).Trees(t.Context(), filepath.Join(dir, "absent")); err != nil {
		t.Errorf("off, but: %v", err)
	}
}

func TestSync(t *testing.T) {
	dir := t.TempDir()
	build(t, dir, "file")
	for _, c := range []struct {
		name string
		err  error
		want error
	}{
		{"file", SyncFile(filepath.Join(dir, "file")), nil},
		{"directory", SyncDir(dir), nil},
		{"absent file", SyncFile(filepath.Join(dir, "absent")), fs.ErrNotExist},
		{"absent directory", SyncDir(filepath.Join(dir, "absent")), fs.ErrNotExist},
		{"names", Syncer{}.Names(dir, dir+"/"), nil},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.err, c.want)
		}
	}
}

func TestRename(t *testing.T) {
	for _, s := range []Syncer{{}, {Off: true}, {Method: Syncfs}} {
		dir := t.TempDir()
		build(t, dir, "a")
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if err := s.Rename(root, dir, "a", "b"); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(filepath.Join(dir, "b")); string(content) != "content" {
			t.Errorf("%q, %v", content, err)
		}
		if err := s.Rename(root, dir, "a", "b"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("error is %v", err)
		}
	}
}

// BenchmarkTrees syncs as many small files as a small cluster has.
func BenchmarkTrees(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		for i := range 1000 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 16384), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := (Syncer{}).Trees(b.Context(), dir); err != nil {
			b.Fatal(err)
		}
	}
}
