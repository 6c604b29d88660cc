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
			if _, err := c.PruneLog(t.Context(), o); err != nil {
				t.Fatal(err)
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
