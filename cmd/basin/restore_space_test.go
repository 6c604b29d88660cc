package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
)

// TestRestoreTime has it be found out how long a restore takes, and where that cannot be.
func TestRestoreTime(t *testing.T) {
	location, ids := newRepository(t)
	c := clusterOfShop(t, location, 7)
	commit, err := c.Backup(t.Context(), ids[2])
	if err != nil {
		t.Fatal(err)
	}
	commit.Size = 2 * longSize
	dir := t.TempDir()
	for _, test := range []struct {
		reason string
		change func(*restoreRun, *restorePlan)
		is     bool
	}{
		{"a large one", func(*restoreRun, *restorePlan) {}, true},
		{"not synced", func(r *restoreRun, _ *restorePlan) { r.o.NoSync = true }, true},
		{"a small one", func(_ *restoreRun, p *restorePlan) { p.commit.Size = longSize - 1 }, false},
		{"one database", func(r *restoreRun, _ *restorePlan) { r.part = new(databasePart) }, false},
		{"nobody knows where to", func(_ *restoreRun, p *restorePlan) { p.space = nil }, false},
		{"no directory", func(_ *restoreRun, p *restorePlan) { p.space[0].dir = filepath.Join(dir, "none") }, false},
		{"no room", func(_ *restoreRun, p *restorePlan) { p.space[0].free = 0 }, false},
	} {
		r := &restoreRun{cluster: c, o: restoreOptions{Jobs: 2}}
		p := &restorePlan{commit: commit, space: []spaceNeed{{dir: dir, free: 1 << 40}}}
		test.change(r, p)
		if rate := r.rate(t.Context(), p); (rate > 0) != test.is {
			t.Errorf("%s: %s/s", test.reason, humanize.IBytes(uint64(rate)))
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left are %v, %v", test.reason, left, err)
		}
	}
	p := &restorePlan{commit: commit, rate: longSize/45 + 1, target: recoveryTarget{kind: "immediate"}}
	if text := p.text(&restoreRun{cluster: c, o: restoreOptions{Format: formatTar}}); p.duration() != 90*time.Second || !strings.Contains(text, "  time      about 1:30, at 23 MiB/s, ") {
		t.Errorf("%v, %s", p.duration(), text)
	}
}
