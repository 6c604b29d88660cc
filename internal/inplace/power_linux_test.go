package inplace

import (
	"os"
	"strings"
	"testing"

	"basin/internal/powertest"
)

// TestPowerLoss has the power fail at every step of what a restore does to a directory that is not there, and of another one
// in its place. Programs that forget a sync are caught.
func TestPowerLoss(t *testing.T) {
	dir := t.TempDir()
	log := powertest.Record(t, powertest.Self(t, powerVariable, dir), dir)
	isSync := func(s powertest.Step) bool { return s.Kind == powertest.Sync }
	subsets := 2
	if os.Getenv("BASIN_MATRIX") == "full" {
		subsets = 32
	}
	for _, test := range []struct {
		reason  string
		without func(s powertest.Step) bool
		fails   bool
	}{
		{"as it is", nil, false},
		{"no file is synced", func(s powertest.Step) bool { return isSync(s) && !s.IsDir }, true},
		{"no directory is synced", func(s powertest.Step) bool { return isSync(s) && s.IsDir }, true},
		{"files of databases are not", func(s powertest.Step) bool { return isSync(s) && !s.IsDir && strings.Contains(s.Path, "/base/") }, true},
		{"where the directory is is not", func(s powertest.Step) bool { return isSync(s) && s.Path == "" }, true},
		{"where the control file is is not", func(s powertest.Step) bool { return isSync(s) && strings.HasSuffix(s.Path, "/global") }, true},
		{"where the marker is is not", func(s powertest.Step) bool { return isSync(s) && s.Path == "data" }, true},
	} {
		log.Try(t, test.reason, powertest.Options{Subsets: subsets, Without: test.without, Dir: powertest.Memory()}, test.fails,
			func(dir string, said []string) error { return powerCheck(t.Context(), dir, said) })
	}
}
