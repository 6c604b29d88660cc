package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/usererr"
)

func TestPatternsOfPaths(t *testing.T) {
	for _, test := range []struct {
		pattern, path string
		want          bool
	}{
		{"", "base/1/1259", true},
		{"base/1/*", "base/1/1259", true},
		{"base/1/*", "base/13/1259", false},
		{"*.conf", "postgresql.auto.conf", true},
		{"*.conf", "conf.d/more.conf", true}, // a star is slashes too
		{"*.conf", "pgXconf", false},
		{"base/1/125?", "base/1/1259", true},
		{"base/1/125?", "base/1/125", false},
		{"1259", "base/1/1259", false}, // it is all of the path
		{"*[a]*", "x[a]x", true},       // brackets mean nothing
		{"*", "with\nline and \xff", true},
	} {
		if got := matchPath(test.pattern)(test.path); got != test.want {
			t.Errorf("%q, %q: %t", test.pattern, test.path, got)
		}
	}
}

// TestFilesOfRelations tells files of a relation from those of others.
func TestFilesOfRelations(t *testing.T) {
	for path, want := range map[string]bool{
		"base/5/16384": true, "base/5/16384.1": true, "base/5/16384_vm": true, "base/5/16384_fsm.2": true, "base/5/163840": false, "base/5/1638": false,
	} {
		if isOfRelation(path, "base/5/16384") != want {
			t.Errorf("%s: %t", path, !want)
		}
	}
}

// TestPagesAreVerifiedOnTheWay reads pages of which some are wrong.
func TestPagesAreVerifiedOnTheWay(t *testing.T) {
	page := func(block uint32, lsn uint64, wrong uint16) []byte {
		p := make([]byte, pgdata.PageSize)
		binary.LittleEndian.PutUint32(p, uint32(lsn>>32))
		binary.LittleEndian.PutUint32(p[4:], uint32(lsn))
		binary.LittleEndian.PutUint16(p[14:], 8192)
		binary.LittleEndian.PutUint16(p[8:], pgdata.Page(p).ComputeChecksum(block)+wrong)
		return p
	}
	content := slices.Concat(page(10, 5, 0), page(11, 5, 1), make([]byte, pgdata.PageSize), page(13, 100, 1), page(14, 99, 1), []byte("a part"))
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(content), "bytes": iotest.OneByteReader(bytes.NewReader(content)), "halves": iotest.HalfReader(bytes.NewReader(content))} {
		var wrong []uint32
		got, err := io.ReadAll(&pageReader{r: r, block: 10, start: 100, wrong: func(block uint32) { wrong = append(wrong, block) }})
		// Neither a new page, nor one that was changed since the backup began.
		if err != nil || !bytes.Equal(got, content) || fmt.Sprint(wrong) != "[11 14]" {
			t.Errorf("%s: %v, %v", name, wrong, err)
		}
	}
}

// membersSource yields members.
type membersSource struct {
	backup.Source
	members []backup.Member
}

func (s *membersSource) Next(context.Context) (backup.Member, io.Reader, error) {
	if len(s.members) == 0 {
		return backup.Member{}, nil, io.EOF
	}
	m := s.members[0]
	s.members = s.members[1:]
	return m, strings.NewReader("content"), nil
}

// TestOtherDatabasesAreZeros goes through the files of a cluster of which one database is not wanted.
func TestOtherDatabasesAreZeros(t *testing.T) {
	var counts backup.Progress
	part := &databasePart{empty: map[uint32]bool{16400: true}}
	src := part.source(&membersSource{members: []backup.Member{
		{Tablespace: 77, Path: "PG_18_202506291/16400/5000", Kind: backup.File, Size: 9000},
		{Tablespace: 77, Path: "PG_18_202506291/16401/5000", Kind: backup.File, Size: 7},
		{Path: "base/16400", Kind: backup.Dir},
		{Path: "base/16400/PG_VERSION", Kind: backup.File, Size: 7},
		{Path: "base/16400/pg_filenode.map", Kind: backup.File, Size: 7},
		{Path: "base/16400/1259_fsm", Kind: backup.File, Size: 8192},
		{Path: "base/164/1259", Kind: backup.File, Size: 7},
		{Path: "global/1262", Kind: backup.File, Size: 7},
		{Path: "backup_manifest", Kind: backup.Manifest, Size: -1},
	}}, &counts)
	var got []string
	for {
		m, r, err := src.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if z, ok := r.(*backup.Zeros); ok {
			content, err := io.ReadAll(z)
			if err != nil || !bytes.Equal(content, make([]byte, m.Size)) {
				t.Errorf("%s: %d bytes, %v", m.Path, len(content), err)
			}
			got = append(got, m.Path)
		}
		if m.Kind == backup.Manifest {
			t.Error("there is a manifest")
		}
	}
	if want := "[PG_18_202506291/16400/5000 base/16400/PG_VERSION base/16400/pg_filenode.map base/16400/1259_fsm]"; fmt.Sprint(got) != want || counts.Done.Load() != 9000+14+8192 {
		t.Errorf("zeros are %v, %d bytes", got, counts.Done.Load())
	}
	var all *databasePart
	if plain := new(membersSource); all.source(plain, &counts) != backup.Source(plain) || all.settings()+all.plan()+all.next() != "" {
		t.Error("without a database all is restored")
	}
}

// TestPartsAndOtherOptions refuses what does not go together.
func TestPartsAndOtherOptions(t *testing.T) {
	location, _ := newRepository(t)
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--file=x", "--database=y"}, "not both at once"},
		{[]string{"--file=x", "--target-immediate"}, "there is no target"},
		{[]string{"--file=x", "-T", "/a=/b"}, "nothing to map"},
	} {
		_, err := callBasin(t, append([]string{"restore", "--repository=" + location, "-D", t.TempDir() + "/new"}, test.args...)...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v", test.args, err)
		}
	}
}

// TestShowFiles lists the files of a backup.
func TestShowFiles(t *testing.T) {
	location, _ := newRepository(t)
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "            9  global/pg_control\n"},
		{[]string{"*control"}, "            9  global/pg_control\n"},
		{[]string{"base/*"}, ""},
		{[]string{"--json"}, `{"path":"global/pg_control","kind":"file","size":9,"modified":"0001-01-01T00:00:00Z","mode":"0600"}` + "\n"},
	} {
		got, err := callBasin(t, append([]string{"show", "--repository=" + location, "--system-id=7", "--files", "latest"}, test.args...)...)
		if err != nil || got != test.want {
			t.Errorf("%v: %q, %v", test.args, got, err)
		}
	}
	if _, err := callBasin(t, "show", "--repository="+location, "latest", "*"); err == nil {
		t.Error("a pattern is of files")
	}
}

// brokenSource is a source of which a file does not come.
type brokenSource struct {
	smallSource
	ended error
}

func (s *brokenSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if s.done {
		return backup.Member{}, nil, s.ended
	}
	m, r, err := s.smallSource.Next(ctx)
	m.Path = "pg_control"
	return m, r, err
}

// TestFilesAreWhole restores files of which one cannot be read: the directory is as it was. What a restore has left that was
// killed is named.
func TestFilesAreWhole(t *testing.T) {
	broken := errors.New("it cannot be read")
	dir := filepath.Join(t.TempDir(), "above", "files")
	write := func(ended error) error {
		return writeFiles(t.Context(), restoreOptions{Directory: dir, Jobs: 1}, &brokenSource{smallSource{text: "control"}, ended}, func(string, ...any) {})
	}
	if err := write(broken); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	absent(t, filepath.Dir(dir))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := write(broken); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if names := entries(t, dir); len(names) > 0 {
		t.Errorf("left are %q", names)
	}
	if err := write(io.EOF); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(dir, "pg_control")); err != nil || string(content) != "control" || len(entries(t, dir)) != 1 {
		t.Errorf("%q, %v, of %q", content, err, entries(t, dir))
	}
	if err := os.Mkdir(filepath.Join(dir, unfinishedFiles), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := write(io.EOF); !errors.Is(err, localfs.ErrNotEmpty) || !strings.Contains(usererr.Hint(err), unfinishedFiles) {
		t.Errorf("%v, hint %q", err, usererr.Hint(err))
	}
}
