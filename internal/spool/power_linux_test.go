package spool

import (
	"os"
	"strings"
	"testing"

	"basin/internal/powertest"
)

// TestPowerLoss has the power fail at every step of what a receiver does to the files of its spool and of the
// repository. Programs that forget a sync are caught.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	subsets, stride := 0, 6
	if os.Getenv("BASIN_MATRIX") == "full" {
		subsets, stride = 4, 1
	}
	for _, mode := range []string{"spool", inRepositoryMode} {
		dir := t.TempDir()
		log := powertest.Record(t, powertest.Self(t, powerVariable, mode+":"+dir), dir)
		isOf := func(s powertest.Step, folder string) bool {
			return s.Kind == powertest.Sync && strings.HasPrefix(s.Path, folder)
		}
		for _, test := range []struct {
			reason  string
			mode    string // empty is both
			without func(s powertest.Step) bool
			fails   bool
		}{
			{"as it is", "", nil, false},
			{"no file is synced in the spool", "spool", func(s powertest.Step) bool { return isOf(s, "spool") && !s.IsDir }, true},
			{"names in the spool are not", "spool", func(s powertest.Step) bool { return isOf(s, "spool") && s.IsDir }, true},
			{"names in the repository are not", inRepositoryMode, func(s powertest.Step) bool { return isOf(s, "repository") && s.IsDir }, true},
		} {
			if test.mode != "" && test.mode != mode {
				continue
			}
			every := stride
			if test.fails {
				every = 1
			}
			log.Try(t, "acknowledged in the "+mode+", "+test.reason, powertest.Options{
				Subsets: subsets, Every: every, Without: test.without, Dir: powertest.Memory(),
				Ignore: func(path string) bool { return strings.HasPrefix(path, "repository/~") },
			}, test.fails, func(dir string, said []string) error { return powerCheck(t.Context(), dir, mode, said) })
		}
	}
}
