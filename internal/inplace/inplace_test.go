package inplace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/wal"
)

// source is a backup of a few files and one tablespace.
type source struct {
	location string
	members  []backup.Member
	texts    map[string]string
}

func newSource(location string) *source {
	s := &source{location: location, texts: map[string]string{"PG_18_1/5/7": "placed", "PG_VERSION": "18\n", "global/pg_control": "control"}}
	s.members = []backup.Member{
		{Tablespace: 9, Path: "PG_18_1", Kind: backup.Dir}, {Tablespace: 9, Path: "PG_18_1/5", Kind: backup.Dir}, {Tablespace: 9, Path: "PG_18_1/5/7", Kind: backup.File},
		{Path: "PG_VERSION", Kind: backup.File}, {Path: "global", Kind: backup.Dir}, {Path: "pg_wal", Kind: backup.Dir}, {Path: "pg_tblspc", Kind: backup.Dir},
		{Path: "pg_tblspc/9", Kind: backup.Symlink, Target: location}, {Path: "global/pg_control", Kind: backup.File},
	}
	return s
}

func (s *source) Begin(context.Context) (backup.Start, error) {
	return backup.Start{ServerVersion: 180000, Tablespaces: []backup.Tablespace{{OID: 9, Location: s.location}}}, nil
}

func (s *source) Next(context.Context) (backup.Member, io.Reader, error) {
	if len(s.members) == 0 {
		return backup.Member{}, nil, io.EOF
	}
	m := s.members[0]
	s.members = s.members[1:]
	m.Mode = 0o700
	if m.Kind != backup.File {
		return m, nil, nil
	}
	text := s.texts[m.Path]
	m.Mode, m.Size = 0o600, int64(len(text))
	return m, strings.NewReader(text), nil
}

func (s *source) End(context.Context) (wal.Position, error) { return wal.Position{}, nil }
func (s *source) Close() error                              { return nil }

// has says what the source has.
func has(_ context.Context, tablespace uint32, path string) (backup.Kind, bool, error) {
	for _, m := range newSource("").members {
		if m.Tablespace == tablespace && m.Path == path {
			return m.Kind, true, nil
		}
	}
	return 0, false, nil
}

// limited is a sink that fails after so many members.
type limited struct {
	*Sink
	left int
}

var errLimit = errors.New("no more")

func (s *limited) Put(ctx context.Context, m backup.Member, r io.Reader) error {
	if s.left--; s.left < 0 {
		return errLimit
	}
	return s.Sink.Put(ctx, m, r)
}

// restore restores the source, so many members of it.
func restore(t *testing.T, dir, location string, members int) error {
	t.Helper()
	d, err := Look(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := &limited{NewSink(Options{Directory: d, Marker: Marker{Cluster: "main", SystemID: 7}, Has: has, Sync: localfs.Syncer{Off: true}}), members}
	err = backup.Copy(t.Context(), s, newSource(location), backup.Options{})
	return errors.Join(err, s.Close())
}

// names returns the paths in directories, with what is in files.
func names(t *testing.T, dirs ...string) (all []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(dir, path)
			if entry.Type().IsRegular() {
				content, err := os.ReadFile(path)
				rel += "=" + string(content)
				if err != nil {
					return err
				}
			}
			all = append(all, rel)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestSinkGoesOn cuts a restore short behind every member, and begins again.
func TestSinkGoesOn(t *testing.T) {
	for n := 0; ; n++ {
		parent := t.TempDir()
		dir, space := filepath.Join(parent, "data"), filepath.Join(parent, "space")
		err := restore(t, dir, space, n)
		if err != nil && !errors.Is(err, errLimit) {
			t.Fatal(err)
		}
		d, lookErr := Look(dir)
		if lookErr != nil {
			t.Fatal(lookErr)
		}
		if (err == nil) == d.IsUnfinished() {
			t.Errorf("after %d members: error %v, and it is unfinished: %t", n, err, d.IsUnfinished())
		}
		if err != nil {
			if d.Marker.SystemID != 7 || !d.Holds(9, space) || d.Holds(9, parent) || d.Holds(8, space) {
				t.Errorf("after %d members: marker %+v", n, d.Marker)
			}
			if err := restore(t, dir, space, 100); err != nil {
				t.Fatal(err)
			}
		}
		got := names(t, dir, space)
		if want := "[PG_VERSION=18\n global/pg_control=control pg_tblspc/9 PG_18_1/5/7=placed]"; fmt.Sprint(got) != want {
			t.Errorf("after %d members there is %q, want %s", n, got, want)
		}
		if err == nil {
			return
		}
	}
}

// TestRefusedSinkLeavesNothing has no room for a tablespace.
func TestRefusedSinkLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	dir, space := filepath.Join(parent, "new", "data"), filepath.Join(parent, "space")
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(space, "PG_18_1")
	if err := os.WriteFile(theirs, []byte("another cluster's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := restore(t, dir, space, 100); !errors.Is(err, localfs.ErrNotEmpty) {
		t.Errorf("error %v", err)
	}
	if got := names(t, parent); fmt.Sprint(got) != "[space/PG_18_1=another cluster's]" {
		t.Errorf("there is %q", got)
	}
	if _, err := os.Stat(filepath.Join(parent, "new")); !os.IsNotExist(err) {
		t.Errorf("the directory above: %v", err)
	}
}

// TestLook is about what may be where a data directory is to be.
func TestLook(t *testing.T) {
	for _, test := range []struct {
		reason                      string
		files                       map[string]string
		exists, unfinished, refused bool
	}{
		{"nothing", nil, false, false, false},
		{"a stray", map[string]string{"x": ""}, true, false, false},
		{"a marker that is not whole", map[string]string{MarkerName + ".tmp": "{"}, true, true, false},
		{"the same, and more", map[string]string{MarkerName + ".tmp": "{", "x": ""}, true, false, false},
		{"a marker", map[string]string{MarkerName: `{"format":1,"systemID":"7"}`}, true, true, false},
		{"a marker of a later version", map[string]string{MarkerName: `{"format":2,"systemID":"7"}`}, true, false, true},
		{"a control file that is none", map[string]string{"global/pg_control": "x"}, true, false, false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range test.files {
				path := filepath.Join(dir, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			d, err := Look(dir)
			if (err != nil) != test.refused {
				t.Fatal(err)
			}
			if err == nil && (d.Exists != test.exists || d.IsUnfinished() != test.unfinished) {
				t.Errorf("it exists: %t, is unfinished: %t", d.Exists, d.IsUnfinished())
			}
		})
	}
}

// TestCheckStopped is about the file in which a server tells of itself.
func TestCheckStopped(t *testing.T) {
	for _, test := range []struct {
		reason, text string
		refused      bool
	}{
		{"no file", "", false},
		{"nonsense", "hello\n", true},
		{"a process that has ended", "999999999\n", false},
		{"one that works elsewhere", strconv.Itoa(os.Getppid()) + "\n", false},
		{"ourselves", strconv.Itoa(os.Getpid()) + "\n", false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			dir := t.TempDir()
			if test.text != "" {
				if err := os.WriteFile(filepath.Join(dir, postmasterFile), []byte(test.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := (&Directory{Path: dir, Exists: true}).CheckStopped(); (err != nil) != test.refused {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestOneRestoreAtATime has a restore begin where another one is at work: it is refused, and leaves all as it is.
func TestOneRestoreAtATime(t *testing.T) {
	for _, test := range []struct {
		reason, has string
	}{
		{"in a data directory", "PG_VERSION"},
		{"in a directory that is empty", ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			dir := t.TempDir()
			if test.has != "" {
				if err := os.WriteFile(filepath.Join(dir, test.has), []byte("18\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var sinks [2]*Sink
			for i := range sinks {
				d, err := Look(dir)
				if err != nil {
					t.Fatal(err)
				}
				sinks[i] = NewSink(Options{Directory: d, Sync: localfs.Syncer{Off: true}})
			}
			if err := sinks[0].begin(t.Context(), backup.Start{}); err != nil {
				t.Fatal(err)
			}
			err := sinks[1].begin(t.Context(), backup.Start{})
			if err == nil || !strings.Contains(err.Error(), "another restore is at work") {
				t.Errorf("the second began: %v", err)
			}
			if err := sinks[1].Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(dir); err != nil {
				t.Error(err)
			}
			if err := sinks[0].Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
