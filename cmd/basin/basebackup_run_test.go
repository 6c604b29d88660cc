package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/plain"
)

// TestClaimsEnd has a place for the log and one for a tablespace inside the data
// directory, and parents that were not there.
func TestClaimsEnd(t *testing.T) {
	for _, c := range []struct {
		reason string
		clean  bool
		end    func(b *baseBackupRun) error
		said   string // $ is the data directory
		left   string
	}{
		{"failed", true, func(b *baseBackupRun) error { b.giveBack(); return nil }, `
p: removing tablespace directory "$/tablespace"
p: removing WAL directory "$/log"
p: removing data directory "$"
`, "[]"},
		{"failed, but wanted", false, func(b *baseBackupRun) error { b.giveBack(); return nil }, `
p: tablespace directory "$/tablespace" not removed at user's request
p: WAL directory "$/log" not removed at user's request
p: data directory "$" not removed at user's request
`, "[log pg_wal tablespace]"},
		{"succeeded", true, (*baseBackupRun).keep, "\n", "[log pg_wal tablespace]"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			top := t.TempDir()
			dir := filepath.Join(top, "2026/monday")
			out, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			b := &baseBackupRun{report: newReport("p", out, func(string) (string, bool) { return "", false })}
			b.o.NoClean = !c.clean
			if b.dir, err = localfs.ClaimDir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if b.walDir, err = localfs.ClaimDir(dir+"/log", 0o700); err != nil {
				t.Fatal(err)
			}
			b.plain = plain.NewSink(plain.Options{Dir: b.dir, WALDir: b.walDir})
			start := backup.Start{Tablespaces: []backup.Tablespace{{OID: 1, Location: dir + "/tablespace"}}}
			if err := b.plain.Begin(t.Context(), start); err != nil {
				t.Fatal(err)
			}
			if err := b.plain.Close(); err != nil {
				t.Fatal(err)
			}
			if err := c.end(b); err != nil {
				t.Fatal(err)
			}
			for _, taken := range b.claims() {
				if taken.claim.Remove() == nil {
					t.Errorf("the claim of the %s goes on", taken.what)
				}
			}
			said, err := os.ReadFile(out.Name())
			if want := strings.ReplaceAll(c.said, "$", dir); err != nil || "\n"+string(said) != want {
				t.Errorf("said\n%s%v, want%s", said, err, want)
			}
			if got := fmt.Sprint(namesIn(t, dir)); got != c.left {
				t.Errorf("left %s, want %s", got, c.left)
			}
			if _, err := os.Stat(filepath.Dir(dir)); os.IsNotExist(err) != (c.left == "[]") {
				t.Errorf("parent: %v", err)
			}
		})
	}
}

// namesIn returns what is in a directory, which may be none.
func namesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	found := []string{}
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}
