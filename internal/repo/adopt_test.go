package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"basin/internal/backup"
)

// brokenSource ends with an error before its last files, once the store has so many bytes of what came.
type brokenSource struct {
	*treeSource
	left   int // files that come
	stored func() int64
	wants  int64
}

var errBroken = errors.New("the connection broke")

func (s *brokenSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if len(s.dirs) == 0 {
		if s.left == 0 {
			for s.stored() < s.wants {
				if ctx.Err() != nil {
					return backup.Member{}, nil, context.Cause(ctx)
				}
				runtime.Gosched()
			}
			return backup.Member{}, nil, errBroken
		}
		s.left--
	}
	return s.treeSource.Next(ctx)
}

// largeTree returns a tree of files that do not compress.
func largeTree(files int) tree {
	random := rng(9)
	t := tree{key{path: "global/pg_control"}: []byte("control")}
	for i := range files {
		content := make([]byte, 40*BlockSize)
		for j := range content {
			content[j] = byte(random.Uint32())
		}
		t[key{path: fmt.Sprintf("base/5/%d", 16384+i)}] = content
	}
	return t
}

// fail has a backup fail after so many files, of which more than half are stored.
func fail(t *testing.T, c *Cluster, tr tree, files int, o SinkOptions) {
	t.Helper()
	o.packSize = 8 * BlockSize
	sink := c.NewSink(o)
	source := &brokenSource{newTreeSource(tr, rng(3)), files, sink.stored.Load, int64(files) * 40 * BlockSize * 3 / 5}
	if err := backup.Copy(t.Context(), sink, source, backup.Options{}); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPruneBesideAdoption has a backup adopt packs before each operation of prune in turn, and end at once or after it:
// all of it is there, and if prune removes what failed backups stored it is adopted up to when that was told.
func TestPruneBesideAdoption(t *testing.T) {
	for _, discards := range []bool{false, true} {
		t.Run(fmt.Sprint(discards), func(t *testing.T) {
			t.Parallel()
			pruneBesideAdoption(t, discards)
		})
	}
}

func pruneBesideAdoption(t *testing.T, discards bool) {
	c := newCluster(t, false)
	some, none := 0, 0
	all := largeTree(4)
	parent := take(t, c, tree{key{path: "global/pg_control"}: []byte("control")}, rng(1), SinkOptions{})
	fail(t, c, all, 4, SinkOptions{Parent: parent})
	for k, over := 1, false; !over; k++ {
		for _, atOnce := range []bool{true, false} {
			store := memory(c)
			var l *late
			end := func() {
				if err := l.goOn(); err != nil {
					t.Fatal(err)
				}
				if l.sink.adopted != nil {
					some++
				} else {
					none++
				}
			}
			begin := func() {
				l = hold(t, reopen(t, c, store), all, SinkOptions{Parent: parent, Adopt: true, packSize: 8 * BlockSize})
			}
			counted := &cut{Store: store}
			pruner := reopen(t, c, counted)
			counted.count, counted.before = 0, func(n int) {
				if n == k {
					if begin(); atOnce {
						end()
					}
				}
			}
			if _, err := pruner.Prune(t.Context(), PruneOptions{DiscardFailed: discards}); err != nil {
				t.Fatal(err)
			}
			if over = l == nil; over {
				begin()
			}
			if over || !atOnce {
				end()
			}
			compare(t, reopen(t, c, store), l.sink.Written().ID, all)
			prune(t, reopen(t, c, store), PruneOptions{Now: time.Now().Add(2 * givenUpTime)})
			compare(t, reopen(t, c, store), l.sink.Written().ID, all)
			if t.Failed() {
				t.Fatalf("operation %d, at once: %v", k, atOnce)
			}
		}
	}
	if some == 0 || (none > 0) != discards {
		t.Errorf("%d adopted some, and %d nothing", some, none)
	}
}

// TestPruneTellsOfFailedBackups has backups fail: prune tells what is left of them, and removes it if that is asked for.
func TestPruneTellsOfFailedBackups(t *testing.T) {
	t.Parallel()
	c := newCluster(t, true)
	now := time.Now()
	o := SinkOptions{Parent: take(t, c, tree{key{path: "global/pg_control"}: []byte("control")}, rng(1), SinkOptions{})}
	kept := prune(t, c, PruneOptions{}).Kept
	fail(t, c, largeTree(4), 4, o)
	report := prune(t, c, PruneOptions{DryRun: true})
	if f := report.Failed; f.Objects == 0 || f.Bytes != report.Kept-kept || f.Until.Before(now.Add(givenUpTime)) || report.Packs+report.Parts > 0 {
		t.Errorf("before there were %d bytes, and then %+v", kept, report)
	}
	had := report.Failed.Bytes
	for _, isDry := range []bool{true, false} {
		if report = prune(t, c, PruneOptions{DryRun: isDry, DiscardFailed: true}); report.Removed != had || report.Kept != kept || report.Failed.Objects > 0 {
			t.Errorf("%d bytes were to be removed: %+v", had, report)
		}
	}
	if left := objects(t, c, "leases/"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	next := take(t, c, largeTree(4), rng(4), SinkOptions{Adopt: true, Parent: o.Parent})
	compare(t, c, next.ID, largeTree(4))
}

// TestBackupAdoptsPacks has backups fail: the next stores no more than what they have not stored, and prune lets that be.
func TestBackupAdoptsPacks(t *testing.T) {
	for _, test := range []struct {
		reason               string
		encrypted, hasParent bool
		adopt                bool
		later                time.Duration // prune and the next backup come
		pruned               bool          // what was stored is removed before that
	}{
		{reason: "a full one", adopt: true},
		{reason: "encrypted", encrypted: true, adopt: true},
		{reason: "with a parent", encrypted: true, hasParent: true, adopt: true},
		{reason: "a day later", adopt: true, later: 24 * time.Hour},
		{reason: "shortly before the lease is over", adopt: true, later: givenUpTime - adoptTime/2, pruned: false},
		{reason: "long ago", adopt: true, later: givenUpTime + time.Hour, pruned: true},
		{reason: "all is to be stored", adopt: false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, test.encrypted)
			all := largeTree(20)
			var o SinkOptions
			if test.hasParent {
				o.Parent = take(t, c, tree{key{path: "global/pg_control"}: []byte("control")}, rng(1), SinkOptions{})
			}
			fail(t, c, all, 10, o)
			fail(t, c, all, 19, o)
			when := time.Now().Add(test.later)
			prune := func() {
				t.Helper()
				if _, err := c.Prune(t.Context(), PruneOptions{Now: when}); err != nil {
					t.Fatal(err)
				}
			}
			packs := func() int {
				sizes, err := c.sizes(t.Context(), "packs/")
				if err != nil {
					t.Fatal(err)
				}
				return len(sizes)
			}
			had := packs()
			prune()
			if (packs() < had) != test.pruned {
				t.Errorf("%d packs of %d are left", packs(), had)
			}
			o.Adopt, o.Now = test.adopt, func() time.Time { return when }
			next := take(t, c, all, rng(4), o)
			isAdopted := next.Stored < 10*40*BlockSize
			if want := test.adopt && test.later < givenUpTime-adoptTime; isAdopted != want {
				t.Errorf("%d bytes were stored, and adopted are some: %v", next.Stored, want)
			}
			prune()
			compare(t, c, next.ID, all)
			if err := c.CheckIndex(t.Context(), *next); err != nil {
				t.Error(err)
			}
			report, err := c.Verify(t.Context(), VerifyOptions{}, func(d Damage) {
				if d.Object != "" && len(d.Backups) > 0 && d.Files != nil {
					t.Errorf("damaged: %+v", d)
				}
			})
			if err != nil {
				t.Fatal(report, err)
			}
		})
	}
}
