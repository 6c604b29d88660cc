package localfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestClaimBelow(t *testing.T) {
	for _, c := range []struct {
		name  string // that is claimed
		why   string
		fails bool
		empty bool // it fails for it is not
	}{
		{"new", "one that is not there is made", false, false},
		{"empty", "one that is empty is taken", false, false},
		{"inside", "a link to one that is empty and below", false, false},
		{"full", "one that is not empty", true, true},
		{"absent/new", "the one above has to be there", true, false},
		{"out", "a link leads out", true, false},
		{"out/new", "a link on the way leads out", true, false},
		{"up/new", "a link to above leads out", true, false},
		{"../new", "so do dots", true, false},
		{"dangling", "a link to nothing", true, false},
		{"file", "a file", true, false},
	} {
		t.Run(c.why, func(t *testing.T) {
			dir, outside := t.TempDir(), t.TempDir()
			build(t, dir, "empty/", "full/sub/", "inside -> empty", "out -> "+outside, "up -> ..", "dangling -> full/nothing", "file")
			base, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer base.Close()
			claim, err := ClaimBelow(base, c.name, filepath.Join(dir, c.name), 0o700)
			if (err != nil) != c.fails || errors.Is(err, ErrNotEmpty) != c.empty {
				t.Fatalf("error is %v", err)
			}
			if err == nil {
				build(t, filepath.Join(dir, c.name), "sub/", "archive")
				if err := claim.Remove(); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := os.Lstat(filepath.Join(dir, "new")); err == nil {
				t.Error("what was made is still there")
			}
			for _, empty := range []string{filepath.Join(dir, "empty"), outside} {
				left, err := os.ReadDir(empty)
				if err != nil || len(left) > 0 {
					t.Errorf("%s holds %v (%v)", empty, left, err)
				}
			}
		})
	}
}
