package spool

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"basin/internal/powertest"
)

// TestPowerLoss has the power fail at every step of what a receiver does to the files of its spool and of the
// repository. Programs that forget a sync are caught.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	subsets, stride := 0, 6
	if os.Getenv("BASIN_MATRIX") == "full" {
		subsets, stride = 4, 1
	}
	for _, mode := range []string{"spool", inRepositoryMode} {
		dir := t.TempDir()
		c := exec.Command(program)
		c.Env = append(os.Environ(), powerVariable+"="+mode+":"+dir)
		log := powertest.Record(t, c, dir)
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
			states, err := log.Each(powertest.Options{
				Subsets: subsets, Every: every, Without: test.without, Dir: powertest.Memory(),
				Ignore: func(path string) bool { return strings.HasPrefix(path, "repository/~") },
			}, func(dir string, said []string) error { return powerCheck(t.Context(), dir, mode, said) })
			t.Logf("acknowledged in the %s, %s: %d steps, %d states; %v", mode, test.reason, len(log.Steps), states, err != nil)
			if (err != nil) != test.fails {
				t.Errorf("acknowledged in the %s, %s: %v", mode, test.reason, err)
			}
		}
	}
}
