package repo

import (
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"

	"basin/internal/backup"
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
