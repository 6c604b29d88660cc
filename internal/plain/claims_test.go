package plain

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"basin/internal/backup"
	"basin/internal/backup/sinktest"
	"basin/internal/localfs"
)

// TestClaimsOutliveTheSink gives everything back after a member that failed: by
// then nothing in the directories is open, which network file systems would keep.
func TestClaimsOutliveTheSink(t *testing.T) {
	dir := t.TempDir()
	before := sinktest.OpenFiles(t)
	var claims []*localfs.Claim
	for _, path := range []string{"new/data", "new/wal"} {
		c, err := localfs.ClaimDir(filepath.Join(dir, path), 0o700)
		if err != nil {
			t.Fatal(err)
		}
		claims = append(claims, c)
	}
	s := NewSink(Options{Dir: claims[0], WALDir: claims[1]})
	start := backup.Start{Tablespaces: []backup.Tablespace{
		{OID: 1, Location: filepath.Join(dir, "new/data/inside")}, {OID: 2, Location: filepath.Join(dir, "other/ts")}, {OID: 3, Location: "pg_tblspc/3"},
	}}
	if err := s.Begin(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	for _, m := range []backup.Member{
		{Tablespace: 2, Path: "PG_18", Kind: backup.Dir, Mode: 0o700},
		{Tablespace: 2, Path: "PG_18/1", Kind: backup.File, Size: 3},
	} {
		broken := io.MultiReader(strings.NewReader("x"), failing{})
		if err := s.Put(t.Context(), m, broken); m.Kind == backup.File && !errors.Is(err, errBroken) {
			t.Fatalf("error is %v", err)
		}
	}
	claims = append(claims, s.Claims()...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if open := sinktest.OpenFiles(t) - before; open != len(claims) {
		t.Errorf("%d files are open, want the %d claims", open, len(claims))
	}
	for _, c := range slices.Backward(claims) {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if after := sinktest.OpenFiles(t); after != before {
		t.Errorf("%d files are open, were %d", after, before)
	}
}

var errBroken = errors.New("the server went away")

// failing is a reader that fails.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }
