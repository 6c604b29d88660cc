package live

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/backup"
	"basin/internal/usererr"
	"basin/internal/wal"
)

func TestExcluded(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "16400_init"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason, name string
		version      int
		want         bool
	}{
		{"ordinary", "16401", 180006, false},
		{"not logged", "16400", 180006, true},
		{"not logged, later segment", "16400.1", 180006, true},
		{"not logged, other fork", "16400_fsm", 180006, true},
		{"what it is made of", "16400_init", 180006, false},
		{"not logged, before 11", "16400", 100023, false},
		{"temporary", "t3_16450", 180006, true},
		{"temporary, before 11", "t3_16450", 100023, false},
		{"no relation", "PG_VERSION", 180006, false},
		{"temporary file", "pgsql_tmp123", 180006, true},
		{"label", "backup_label", 180006, true},
		{"label that was moved away", "backup_label.old", 180006, false},
		{"manifest", "backup_manifest", 130000, true},
		{"no manifest yet", "backup_manifest", 120000, false},
		{"cache of the catalog", "pg_internal.init.77", 180006, true},
	} {
		c := cluster{version: test.version}
		if got := c.isExcluded(test.name) || c.isTransient(dir, test.name); got != test.want {
			t.Errorf("%s: %t", test.reason, got)
		}
	}
	c := cluster{version: 140000, statistics: "statistics/here"}
	for path, want := range map[string]bool{"statistics/here": true, "statistics": false, "x/pg_notify": true, "pg_notify": true, "pg_xact": false} {
		if got := c.isExcludedDir(0, path); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
}

func TestFindTablespaces(t *testing.T) {
	dir := t.TempDir()
	outside, inside := t.TempDir(), filepath.Join(dir, "inside")
	for _, name := range []string{inside, filepath.Join(dir, "pg_tblspc/16386"), filepath.Join(dir, "pg_tblspc/lost")} {
		if err := os.MkdirAll(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name, target string) {
		if err := os.Symlink(target, filepath.Join(dir, "pg_tblspc", name)); err != nil {
			t.Fatal(err)
		}
	}
	link("16384", outside)
	link("16385", inside)
	find := func(version int) (map[uint32]string, map[string]bool, error) {
		s := bareSource(t, Options{DataDir: dir})
		s.cluster.version, s.cluster.directory = version, dir
		err := s.findTablespaces()
		found := make(map[uint32]string)
		for _, t := range s.start.Tablespaces {
			found[t.OID] = t.Location
		}
		return found, s.inside, err
	}
	got, within, err := find(180006)
	if diff := cmp.Diff(map[uint32]string{16384: outside, 16385: inside, 16386: "pg_tblspc/16386"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if diff := cmp.Diff(map[string]bool{"inside": true, "pg_tblspc/16386": true}, within); diff != "" {
		t.Errorf("in the data directory (-want +got):\n%s", diff)
	}
	got, _, err = find(150020) // to which a directory is one of its own
	if diff := cmp.Diff(map[uint32]string{16384: outside, 16385: inside}, got); diff != "" || err != nil {
		t.Errorf("of 15: %v (-want +got):\n%s", err, diff)
	}
	link("16387", "/nonexistent/tablespace")
	if _, _, err = find(180006); err == nil || !strings.Contains(err.Error(), "/nonexistent/tablespace") || usererr.Hint(err) == "" {
		t.Errorf("a place that is not there: %v", err)
	}
}

func TestRanges(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "pg_wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pg_wal/00000003.history"), []byte("1\t0/200\tx\n\n2\t0/300\ty\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason  string
		start   uint32 // timeline
		at      uint64
		want    string
		message string
	}{
		{"of one", 3, 0x310, "3:0/310-0/400", ""},
		{"of two", 2, 0x280, "3:0/300-0/400 2:0/280-0/300", ""},
		{"of all", 1, 0x100, "3:0/300-0/400 2:0/200-0/300 1:0/100-0/200", ""},
		{"unknown", 7, 0x100, "", "expected start timeline 7"},
	} {
		s := bareSource(t, Options{DataDir: dir})
		s.start.Position.Timeline, s.start.Position.LSN = wal.Timeline(test.start), wal.LSN(test.at)
		s.end.Timeline, s.end.LSN = 3, 0x400
		ranges, err := s.ranges()
		var texts []string
		for _, r := range ranges {
			texts = append(texts, fmt.Sprintf("%d:%v-%v", r.Timeline, r.Start, r.End))
		}
		if got := strings.Join(texts, " "); got != test.want || err == nil != (test.message == "") || err != nil && !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: %s, %v", test.reason, got, err)
		}
	}
}

// TestLogFiles looks for segments among other files.
func TestLogFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{
		"000000010000000000000002", "000000010000000000000003", "000000020000000000000003", "000000020000000000000004", "000000020000000000000005",
		"000000020000000000000006", "00000002.history", "000000010000000000000002.00000028.backup", "000000020000000000000004.partial", "xlogtemp.77",
	} {
		path := filepath.Join(dir, "pg_wal", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		reason     string
		start, end uint64
		want       []string
		message    string
	}{
		{"of both timelines", 0x2000028, 0x4000100, []string{"000000010000000000000002", "000000010000000000000003", "000000020000000000000003", "000000020000000000000004"}, ""},
		{"up to the end of one", 0x4000028, 0x5000000, []string{"000000020000000000000004"}, ""},
		{"the first is gone", 0x1000028, 0x3000100, nil, `could not find WAL file "000000020000000000000001"`},
		{"the last is not there", 0x5000028, 0x7000100, nil, `could not find WAL file "000000020000000000000007"`},
	} {
		s := bareSource(t, Options{DataDir: dir})
		s.start.Position = wal.Position{LSN: wal.LSN(test.start), Timeline: 1}
		s.end = wal.Position{LSN: wal.LSN(test.end), Timeline: 2}
		got, histories, err := s.logFiles()
		if diff := cmp.Diff(test.want, got); diff != "" || err == nil != (test.message == "") || err != nil && err.Error() != test.message {
			t.Errorf("%s: %v (-want +got):\n%s", test.reason, err, diff)
		}
		if err == nil && !cmp.Equal(histories, []string{"00000002.history"}) {
			t.Errorf("%s: histories are %v", test.reason, histories)
		}
	}
}

func TestTarSize(t *testing.T) {
	m := backup.Member{Path: "x", Kind: backup.File, Size: 513}
	if got := tarSize(m); got != 3*backup.TarBlock {
		t.Errorf("a file of 513 bytes has %d in a tar archive", got)
	}
	m.Kind = backup.Dir
	if got := tarSize(m); got != backup.TarBlock {
		t.Errorf("a directory has %d bytes in a tar archive", got)
	}
}
