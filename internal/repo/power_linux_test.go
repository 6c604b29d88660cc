package repo

import (
	"strings"
	"testing"

	"basin/internal/powertest"
)

// TestPowerLoss has the power fail at every step of what a process does to the files of a repository. Programs
// that forget a sync are caught.
func TestPowerLoss(t *testing.T) {
	dir := t.TempDir()
	log := powertest.Record(t, powertest.Self(t, powerVariable, dir), dir)
	isSync := func(s powertest.Step) bool { return s.Kind == powertest.Sync }
	subsets := 1
	if isFull() {
		subsets = 16
	}
	for _, test := range []struct {
		reason  string
		without func(s powertest.Step) bool
		fails   bool
	}{
		{"as it is", nil, false},
		{"no directory is synced", func(s powertest.Step) bool { return isSync(s) && s.IsDir }, true},
		{"only the directory of a file is", func(s powertest.Step) bool { return isSync(s) && s.IsDir && strings.Count(s.Path, "/") < 2 }, true},
		{"no file is synced", func(s powertest.Step) bool { return isSync(s) && !s.IsDir }, true},
		{"commits that are removed", func(s powertest.Step) bool { return isSync(s) && s.IsDir && strings.HasSuffix(s.Path, "/backups") }, true},
	} {
		log.Try(t, test.reason, powertest.Options{
			Subsets: subsets, Without: test.without, Dir: powertest.Memory(),
			Ignore: func(path string) bool { return strings.HasPrefix(path, "~") },
		}, test.fails, func(dir string, said []string) error { return powerCheck(t.Context(), dir, said) })
	}
}
