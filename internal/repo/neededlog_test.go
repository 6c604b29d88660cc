package repo

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/object"
	"basin/internal/wal"
)

// dated is a store that says of some objects that they were made at another time.
type dated struct {
	object.Store
	times map[string]time.Time // by the ends of names
}

// List yields the objects.
func (d dated) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		for info, err := range d.Store.List(ctx, prefix, after) {
			for end, at := range d.times {
				if strings.HasSuffix(info.Name, end) {
					info.Time = at
				}
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// TestLogWindow has each moment be restored for some time back, and older log only be there for backups: on one timeline, and across
// a fork.
func TestLogWindow(t *testing.T) {
	begun := time.Now().Truncate(time.Second)
	hour := func(n int) time.Time { return begun.Add(time.Duration(n) * time.Hour) }
	template := newCluster(t, false)
	putLog(t, template, 1, 1, 2, 3, 4, 5, 6, 7, 8, 12)
	for _, number := range []uint64{8, 9, 10, 11, 12} {
		content := forgedLog(number, rng(number))
		if err := template.PushLog(t.Context(), wal.Segment{Timeline: 2, Number: number}.Name(logSize), content, 0); err != nil {
			t.Fatal(err)
		}
	}
	history := fmt.Appendf(nil, "1\t%v\tno recovery target specified\n", wal.LSN(8*logSize+0x1000))
	if err := template.PushLog(t.Context(), wal.HistoryName(2), history, 0); err != nil {
		t.Fatal(err)
	}
	type backups map[string]*Commit
	put := func(b backups, name string, ended int, timeline wal.Timeline, segment wal.LSN) {
		at := wal.Position{LSN: segment*logSize + 0x100, Timeline: timeline}
		b[name] = &Commit{
			ID: newBackupID(hour(ended)), Began: hour(ended - 1), Ended: hour(ended), SegmentSize: logSize,
			Start: at, Stop: wal.Position{LSN: at.LSN + 0x1000, Timeline: timeline},
		}
	}
	one := func(number uint64) string { return wal.Segment{Timeline: 1, Number: number}.Name(logSize) }
	two := func(number uint64) string { return wal.Segment{Timeline: 2, Number: number}.Name(logSize) }
	lacks := map[string]string{ // in part
		"no backup is so old": "no backup from before", "its log is missing": "log is there up to 0/1800000 only", "the history is missing": "00000002.history is missing",
		"it is not on the line": "timeline 1, log is there up to 0/2400000 only", "there is log of the old timeline": "timeline 1, log is there up to 0/2400000 only",
		"a backup is being made": "no backup from before", "log that came since is kept": "timeline 1, log is there up to 0/2400000 only",
	}
	for _, test := range []struct {
		reason string
		within int // hours
		change func(b backups, c *Cluster) error
		came   map[string]time.Time
		gone   []string
	}{
		{"all moments count", 0, nil, nil, []string{one(1)}},
		{"the newest backup before leads there", 20, nil, nil, []string{one(1), one(3), one(5), one(7), one(8), two(8)}},
		{"one before the fork leads there", 50, nil, nil, []string{one(1), one(3), one(5)}},
		{"no backup is so old", 95, nil, nil, []string{one(1)}},
		{"it is of damaged pages", 50, func(b backups, _ *Cluster) error { b["c"].Damaged = true; return nil }, nil, []string{one(1), one(3)}},
		{"its log is missing", 50, func(_ backups, c *Cluster) error {
			at, err := c.logName(one(6))
			if err != nil {
				return err
			}
			return c.repo.store.Delete(t.Context(), at)
		}, nil, []string{one(1), one(3)}},
		{"it is not on the line", 50, func(b backups, _ *Cluster) error {
			b["c"].Start.LSN, b["c"].Stop.LSN = 8*logSize+0x2000, 8*logSize+0x3000
			return nil
		}, nil, []string{one(1), one(3)}},
		{"there is log of the old timeline", 20, nil, map[string]time.Time{one(12): hour(95)}, []string{one(1), one(3), one(5)}},
		{"log that came since is kept", 20, nil, map[string]time.Time{one(3): hour(95)}, []string{one(1), one(5)}},
		{"a backup goes over several segments", 20, func(b backups, _ *Cluster) error { b["b"].Stop.LSN += logSize; return nil }, nil,
			[]string{one(1), one(3), one(7), one(8), two(8)}},
		{"segments are of several sizes", 20, func(b backups, _ *Cluster) error { b["a"].SegmentSize *= 2; return nil }, nil, nil},
		{"a backup is being made", 20, func(_ backups, c *Cluster) error {
			_, err := c.takeLease(t.Context(), "new", "", time.Now)
			return err
		}, nil, nil},
		{"the history is missing", 20, func(_ backups, c *Cluster) error {
			at, err := c.logName(wal.HistoryName(2))
			if err != nil {
				return err
			}
			return c.repo.store.Delete(t.Context(), at)
		}, nil, []string{one(1)}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			c := reopen(t, template, dated{memory(template), test.came})
			b := make(backups)
			put(b, "a", 10, 1, 2)
			put(b, "b", 20, 1, 4)
			put(b, "c", 30, 1, 6)
			put(b, "d", 60, 2, 9)
			put(b, "e", 90, 2, 11)
			if test.change != nil {
				if err := test.change(b, c); err != nil {
					t.Fatal(err)
				}
			}
			for _, k := range b {
				if err := c.putCommit(t.Context(), k); err != nil {
					t.Fatal(err)
				}
			}
			before := objects(t, c, "wal/")
			o := PruneLogOptions{Now: hour(100), Within: time.Duration(test.within) * time.Hour}
			if strings.HasPrefix(test.reason, "a backup is being made") {
				o.Now = time.Now()
			}
			report, err := c.PruneLog(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if want := lacks[test.reason]; !strings.Contains(report.Lacks, want) || want == "" && report.Lacks != "" {
				t.Errorf("what is lacking is %q, want %q", report.Lacks, want)
			}
			left := objects(t, c, "wal/")
			var gone []string
			for _, name := range before {
				if !slices.Contains(left, name) {
					gone = append(gone, name[strings.LastIndexByte(name, '/')+1:])
				}
			}
			if !slices.Equal(gone, test.gone) {
				t.Errorf("gone are %v, want %v", gone, test.gone)
			}
		})
	}
}

// TestLogWindowWithoutPack has the backup that would lead into the time be without a pack, which nobody has found out yet: what leads there from the
// one before is kept.
func TestLogWindowWithoutPack(t *testing.T) {
	c := newCluster(t, true)
	begun := time.Now()
	one := takeFrom(t, c, tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}, wal.Position{LSN: 2*logSize + 0x28, Timeline: 1}, begun)
	before := objects(t, c, "packs/")
	two := takeFrom(t, c, tree{{path: "a"}: []byte("b"), {path: "global/pg_control"}: []byte("d")}, wal.Position{LSN: 6*logSize + 0x28, Timeline: 1}, begun.Add(time.Hour))
	putLog(t, c, 1, 2, 3, 4, 5, 6, 7, 8)
	for _, k := range []*Commit{one, two} { // whose log is not of the test's source
		k.Stop.LSN, k.Ranges = k.Start.LSN+0x1000, nil
		putAnew(t, c, k)
	}
	lost := func(without *Cluster, packs func(name string) bool) int {
		t.Helper()
		for _, name := range objects(t, without, "packs/") {
			if packs(name) {
				if err := without.repo.store.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}
		report, err := without.PruneLog(t.Context(), PruneLogOptions{Now: begun.Add(100 * time.Hour), Within: 20 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		return report.Files
	}
	if files := lost(reopen(t, c, memory(c)), func(string) bool { return false }); files != 3 { // from 3 to 5, as 2 is of the older one
		t.Errorf("%d files were removed", files)
	}
	if files := lost(reopen(t, c, memory(c)), func(name string) bool { return !slices.Contains(before, name) }); files != 0 {
		t.Errorf("without the newer one's pack %d files were removed", files)
	}
	if files := lost(reopen(t, c, memory(c)), func(string) bool { return true }); files != 0 {
		t.Errorf("without any pack %d files were removed", files)
	}
}

// TestThinnedIsTold has log be thinned: it is told from where on all is there.
func TestThinnedIsTold(t *testing.T) {
	c := newCluster(t, false)
	if from, err := c.ThinnedTo(t.Context()); err != nil || from != 0 {
		t.Errorf("%v, %v", from, err)
	}
	begun := time.Now()
	for i, segment := range []wal.LSN{2, 4, 6} {
		at, when := wal.Position{LSN: segment*logSize + 0x100, Timeline: 1}, begun.Add(time.Duration(i)*time.Hour)
		k := Commit{ID: newBackupID(when), Began: when, Ended: when, SegmentSize: logSize, Start: at, Stop: wal.Position{LSN: at.LSN + 0x1000, Timeline: 1}}
		if err := c.putCommit(t.Context(), &k); err != nil {
			t.Fatal(err)
		}
	}
	putLog(t, c, 1, 1, 2, 3, 4, 5, 6, 7)
	for _, test := range []struct {
		hours int
		dry   bool
		want  wal.LSN
	}{{0, false, 0}, {20, true, 0}, {20, false, 6 * logSize}, {20, false, 6 * logSize}} {
		if _, err := c.PruneLog(t.Context(), PruneLogOptions{Now: begun.Add(100 * time.Hour), Within: time.Duration(test.hours) * time.Hour, DryRun: test.dry}); err != nil {
			t.Fatal(err)
		}
		if from, err := c.ThinnedTo(t.Context()); err != nil || from != test.want || len(objects(t, c, "facts/"+factThinned+"/")) != min(1, int(test.want)) {
			t.Errorf("%d hours, dry %v: %v, %v", test.hours, test.dry, from, err)
		}
	}
}
