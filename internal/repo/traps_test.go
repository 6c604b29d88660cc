package repo

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"slices"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/object"
	"basin/internal/wal"
)

// takeFrom makes a backup that begins at a position, at a time.
func takeFrom(t *testing.T, c *Cluster, tr tree, at wal.Position, when time.Time) *Commit {
	t.Helper()
	source := newTreeSource(tr, rng(1))
	source.start.Position = at
	source.start.SegmentSize = 4 << 20
	source.list = c.name.SystemID == 42 // of which its manifests are
	sink := c.NewSink(SinkOptions{Now: func() time.Time { return when }})
	if err := errors.Join(backup.Copy(t.Context(), sink, source, backup.Options{}), sink.Close()); err != nil {
		t.Fatal(err)
	}
	return sink.Written()
}

// TestTimelineReset has a cluster be restored to an earlier moment and go on from there: the newest backup begins before older ones.
// That is kept, with the log from there on, and not what has the highest position.
func TestTimelineReset(t *testing.T) {
	c := newCluster(t, false)
	const size = 4 << 20
	push := func(timeline wal.Timeline, number uint64) string {
		name := wal.Segment{Timeline: timeline, Number: number}.Name(size)
		if err := c.PushLog(t.Context(), name, forgedLog(number, rng(number)), 0); err != nil {
			t.Fatal(err)
		}
		return name
	}
	older := []uint64{2, 3, 6}
	for _, number := range older {
		push(1, number)
	}
	tr := tree{{path: "a"}: []byte("first"), {path: "global/pg_control"}: []byte("c")}
	now := time.Now().Add(-24 * time.Hour)
	first := takeFrom(t, c, tr, wal.Position{LSN: size + 0x28, Timeline: 1}, now)
	high := takeFrom(t, c, tr, wal.Position{LSN: 5*size + 0x28, Timeline: 1}, now.Add(time.Hour))
	if err := c.PushLog(t.Context(), "00000002.history", []byte("1\t0/C00028\tno recovery target specified\n"), 0); err != nil {
		t.Fatal(err)
	}
	tr = tree{{path: "a"}: []byte("after the reset"), {path: "global/pg_control"}: []byte("d")}
	newest := takeFrom(t, c, tr, wal.Position{LSN: 3*size + 0x28, Timeline: 2}, now.Add(2*time.Hour))
	kept := []string{push(2, 3)}

	commits, err := c.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range Plan(commits, Policy{Last: 1}, nil, nil, time.Now()) {
		if v.Keep != (v.Commit.ID == newest.ID) {
			t.Errorf("backup %s is kept: %v", v.Commit.ID, v.Keep)
		}
	}
	for _, id := range []string{first.ID, high.ID} {
		if err := c.Forget(t.Context(), id, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	prune(t, c, PruneOptions{})
	if _, err := c.PruneLog(t.Context(), PruneLogOptions{}); err != nil {
		t.Fatal(err)
	}
	compare(t, c, newest.ID, tr)
	for _, number := range older {
		_, err := c.Log(t.Context(), wal.Segment{Timeline: 1, Number: number}.Name(size))
		if want := number >= 3; (err == nil) != want || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("segment %d of timeline 1 is there: %v", number, err)
		}
	}
	names := slices.Collect(func(yield func(string) bool) {
		for name, err := range c.LogNames(t.Context(), 2, "") {
			if err != nil {
				t.Error(err)
			}
			if name != "00000002.history" && !yield(name) {
				return
			}
		}
	})
	if !slices.Equal(names, kept) {
		t.Errorf("of timeline 2 there are %v, want %v", names, kept)
	}
	if err := c.Forget(t.Context(), newest.ID, time.Now()); err == nil {
		t.Error("the last backup was removed")
	}
}

// TestUpgradedCluster has a cluster be made anew by pg_upgrade under its old name: what is done to the new one leaves the old one alone,
// of which the last backup stays.
func TestUpgradedCluster(t *testing.T) {
	old := newCluster(t, true)
	before := tree{{path: "a"}: []byte("before"), {path: "global/pg_control"}: []byte("c")}
	last := take(t, old, before, rng(1), SinkOptions{})
	segment := wal.Segment{Timeline: 1, Number: 9}.Name(4 << 20)
	if err := old.PushLog(t.Context(), segment, forgedLog(9, rng(9)), 0); err != nil {
		t.Fatal(err)
	}
	upgraded, err := old.repo.Cluster("main", 43)
	if err != nil {
		t.Fatal(err)
	}
	after := tree{{path: "a"}: []byte("after"), {path: "global/pg_control"}: []byte("d")}
	var commits []Commit
	for i := range 3 {
		commits = append(commits, *takeFrom(t, upgraded, after, wal.Position{LSN: wal.LSN(20+i) << 24, Timeline: 1}, time.Now().Add(time.Duration(i)*time.Second)))
	}
	for _, v := range Plan(commits, Policy{Last: 1}, nil, nil, time.Now()) {
		if !v.Keep {
			if err := upgraded.Forget(t.Context(), v.Commit.ID, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
	}
	prune(t, upgraded, PruneOptions{Now: time.Now().Add(2 * leaseTime)})
	if _, err := upgraded.PruneLog(t.Context(), PruneLogOptions{}); err != nil {
		t.Fatal(err)
	}
	compare(t, old, last.ID, before)
	compare(t, upgraded, commits[2].ID, after)
	if _, err := old.Log(t.Context(), segment); err != nil {
		t.Error(err)
	}
	if err := old.Forget(t.Context(), last.ID, time.Now()); err == nil {
		t.Error("the last backup of the old cluster was removed")
	}
	if _, err := upgraded.Backup(t.Context(), last.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a backup of the old cluster is one of the new: %v", err)
	}
}

// TestSuperseded has a cluster be made anew by pg_upgrade: all of the old one can be removed once nothing has come of it for some time, and there
// is a backup of the new one that can be restored, and not before.
func TestSuperseded(t *testing.T) {
	const size = 4 << 20
	whole := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}
	begun := time.Now().Add(-time.Hour)
	later := time.Now().Add(time.Hour)
	for _, test := range []struct {
		reason string
		taken  time.Time // when the new one's backup was; zero is never
		log    []uint64  // of the new one
		living bool      // a backup of the old one is being made
		is     bool
	}{
		{"nothing of the new one is there", time.Time{}, nil, false, false},
		{"its log comes, and there is no backup", time.Time{}, []uint64{7}, false, false},
		{"a backup cannot be restored", later, nil, false, false},
		{"log of the old one came since the backup", begun, []uint64{7}, false, false},
		{"a backup of the old one is being made", later, []uint64{7}, true, false},
		{"all is there", later, []uint64{7}, false, true},
	} {
		t.Run(test.reason, func(t *testing.T) {
			old := newCluster(t, true)
			last := takeFrom(t, old, whole, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, begun)
			putLog(t, old, 1, 7, 8)
			if err := old.Pin(t.Context(), Pin{Backup: last.ID, Until: begun}); err != nil {
				t.Fatal(err)
			}
			upgraded, err := old.repo.Cluster("main", 43)
			if err != nil {
				t.Fatal(err)
			}
			if !test.taken.IsZero() {
				takeFrom(t, upgraded, whole, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, test.taken)
			}
			putLog(t, upgraded, 1, test.log...)
			if test.living {
				if _, err := old.takeLease(t.Context(), "20261126T210500Z-00000000", last.ID, time.Now); err != nil {
					t.Fatal(err)
				}
			}
			since, err := old.Superseded(t.Context(), time.Now())
			if err != nil || since.IsZero() == test.is {
				t.Fatalf("superseded since %v: %v", since, err)
			}
			if since, err := upgraded.Superseded(t.Context(), time.Now()); err != nil || !since.IsZero() {
				t.Fatalf("the new one is superseded since %v: %v", since, err)
			}
			now := later.Add(time.Hour)
			pruneLog := func(o PruneLogOptions, files int) {
				t.Helper()
				report, err := old.PruneLog(t.Context(), o)
				if err != nil || report.Files != files {
					t.Fatalf("%d files of the log were removed, not %d: %v", report.Files, files, err)
				}
			}
			pruneLog(PruneLogOptions{Now: now, Superseded: time.Hour}, 0)
			err = old.ForgetSuperseded(t.Context(), last.ID, now, time.Hour)
			if (err == nil) != test.is {
				t.Fatalf("the last backup was removed: %v", err)
			}
			if !test.is {
				compare(t, old, last.ID, whole)
				return
			}
			pruneLog(PruneLogOptions{Now: now}, 0)
			pruneLog(PruneLogOptions{Now: now, Superseded: 4 * time.Hour}, 0)
			pruneLog(PruneLogOptions{Now: now, Superseded: time.Hour, Within: 4 * time.Hour}, 0)
			pruneLog(PruneLogOptions{Now: now, Superseded: time.Hour, DryRun: true}, 2)
			pruneLog(PruneLogOptions{Now: now, Superseded: time.Hour}, 2)
			prune(t, old, PruneOptions{Now: now.Add(2 * forgottenTime)})
			all, err := old.repo.Clusters(t.Context())
			if err != nil || !slices.Equal(all, []ClusterName{upgraded.name}) {
				t.Errorf("there are %v: %v", all, err)
			}
			prune(t, upgraded, PruneOptions{Now: now})
			commits, err := upgraded.Backups(t.Context())
			if err != nil || len(commits) != 1 {
				t.Fatalf("the new one has %d backups: %v", len(commits), err)
			}
			compare(t, upgraded, commits[0].ID, whole)
		})
	}
}

// TestForgetSupersededBesideForget has the new cluster's backup be removed just when the old one's last is: that is put back.
func TestForgetSupersededBesideForget(t *testing.T) {
	const size = 4 << 20
	whole := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}
	old := newCluster(t, true)
	last := takeFrom(t, old, whole, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, time.Now().Add(-time.Hour))
	later := time.Now().Add(time.Hour)
	upgraded, err := old.repo.Cluster("main", 43)
	if err != nil {
		t.Fatal(err)
	}
	newer := takeFrom(t, upgraded, whole, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, later)
	putLog(t, upgraded, 1, 7)
	both := upgraded.repo.store
	old = reopen(t, old, &atDelete{Store: both, name: old.commitName(last.ID), do: func() error {
		return both.Delete(context.Background(), upgraded.commitName(newer.ID))
	}})
	if err := old.ForgetSuperseded(t.Context(), last.ID, later, time.Minute); err == nil {
		t.Error("the last backup of all was removed")
	}
	compare(t, old, last.ID, whole)
}

// TestSupersededComesBack has the old cluster be backed up just when what is left of it is removed: what came is there still.
func TestSupersededComesBack(t *testing.T) {
	const size = 4 << 20
	whole := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}
	later := time.Now().Add(time.Hour)
	old := newCluster(t, true)
	last := takeFrom(t, old, whole, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, time.Now().Add(-time.Hour))
	putLog(t, old, 1, 7, 8)
	upgraded, err := old.repo.Cluster("main", 43)
	if err != nil {
		t.Fatal(err)
	}
	takeFrom(t, upgraded, whole, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, later)
	putLog(t, upgraded, 1, 7)
	now := later.Add(time.Hour)
	if err := old.ForgetSuperseded(t.Context(), last.ID, now, time.Hour); err != nil {
		t.Fatal(err)
	}
	inner := old.repo.store
	store := &atList{Store: inner, prefix: old.below("facts/"), do: func() {
		writer := reopen(t, old, inner)
		takeFrom(t, writer, whole, wal.Position{LSN: 9*size + 0x28, Timeline: 1}, time.Now())
		putLog(t, writer, 1, 9, 10)
	}}
	report, err := reopen(t, old, store).PruneLog(t.Context(), PruneLogOptions{Now: now, Superseded: time.Hour})
	if left := objects(t, old, "wal/"); err != nil || report.Files > 0 || len(left) != 4 || store.do != nil {
		t.Errorf("%d files were removed, left are %v: %v", report.Files, left, err)
	}
}

// TestSupersededWithoutLog has a superseded cluster have no log: what is known of it is removed all the same.
func TestSupersededWithoutLog(t *testing.T) {
	const size = 4 << 20
	whole := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}
	begun, later := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	old := newCluster(t, true)
	last := takeFrom(t, old, whole, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, begun)
	if err := old.Pin(t.Context(), Pin{Backup: last.ID, Until: begun}); err != nil {
		t.Fatal(err)
	}
	upgraded, err := old.repo.Cluster("main", 43)
	if err != nil {
		t.Fatal(err)
	}
	takeFrom(t, upgraded, whole, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, later)
	putLog(t, upgraded, 1, 7)
	if err := old.ForgetSuperseded(t.Context(), last.ID, later.Add(time.Hour), time.Hour); err != nil {
		t.Fatal(err)
	}
	now := later.Add(2 * forgottenTime)
	prune(t, old, PruneOptions{Now: now})
	if _, err := old.PruneLog(t.Context(), PruneLogOptions{Now: now, Superseded: time.Hour}); err != nil {
		t.Fatal(err)
	}
	all, err := old.repo.Clusters(t.Context())
	if err != nil || !slices.Equal(all, []ClusterName{upgraded.name}) {
		t.Errorf("there are %v: %v", all, err)
	}
}

// atList is a store in which something is done once, when a folder is listed.
type atList struct {
	object.Store
	prefix string
	do     func()
}

// List yields the objects.
func (a *atList) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	if do := a.do; prefix == a.prefix && do != nil {
		a.do = nil
		do()
	}
	return a.Store.List(ctx, prefix, after)
}

// atDelete is a store in which something is done when an object is removed.
type atDelete struct {
	object.Store
	name string
	do   func() error
}

// Delete removes an object.
func (a *atDelete) Delete(ctx context.Context, name string) error {
	if name == a.name {
		if err := a.do(); err != nil {
			return err
		}
	}
	return a.Store.Delete(ctx, name)
}
