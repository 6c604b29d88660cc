package repo

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"basin/internal/object"
	"basin/internal/wal"
)

// TestPruneBesideCommit has a backup be made before each operation of prune in turn, whether or not its lease
// is over: it is there, all of it, or it is not there.
func TestPruneBesideCommit(t *testing.T) {
	s := begin(t)
	for _, slept := range []time.Duration{0, leaseTime + time.Minute} {
		made, refused := 0, 0
		for k := 1; ; k++ {
			store := memory(s.cluster)
			l := hold(t, reopen(t, s.cluster, store), s.next, SinkOptions{Parent: s.parent, packSize: 4 * BlockSize})
			var failed error
			counted := &cut{Store: store}
			pruner := reopen(t, s.cluster, counted)
			done := false
			counted.count, counted.before = 0, func(n int) {
				if n == k {
					failed, done = l.goOn(), true
				}
			}
			if _, err := pruner.Prune(t.Context(), PruneOptions{Now: time.Now().Add(slept)}); err != nil {
				t.Fatalf("operation %d: %v", k, err)
			}
			if last := !done; last {
				failed = l.goOn()
				k = 1 << 30
			}
			if failed == nil {
				made++
			} else if refused++; !strings.Contains(failed.Error(), "longer than its lease") {
				t.Fatal(failed)
			}
			s.check(t, store, s.next)
			if _, err := reopen(t, s.cluster, store).Backup(t.Context(), l.sink.commit.ID); (err == nil) != (failed == nil) {
				t.Errorf("the backup ended with %v, and is read with %v", failed, err)
			}
			if t.Failed() || k == 1<<30 {
				break
			}
		}
		if made == 0 || (refused > 0) != (slept > 0) {
			t.Errorf("slept %v: %d were made, and %d were not", slept, made, refused)
		}
	}
}

// TestPruneBesideForget has, before operations of prune, a backup begin whose parent another host is about to forget, that be
// forgotten, and the backup be made. Every backup that is there in the end is all there.
func TestPruneBesideForget(t *testing.T) {
	s := begin(t)
	stopped := 0
	for first := 1; ; first++ {
		over := false
		for second := first; !over; second += 1 + first%3 {
			for _, third := range []int{second, 1 << 30} {
				store := memory(s.cluster)
				counted := &cut{Store: store}
				pruner := reopen(t, s.cluster, counted)
				var l *late
				end := func() {
					if err := l.goOn(); err != nil {
						t.Fatal(err)
					}
					l = nil
				}
				reached := 0
				counted.count, counted.before = 0, func(n int) {
					reached = n
					if n == first {
						l = hold(t, reopen(t, s.cluster, store), s.next, SinkOptions{Parent: s.parent, packSize: 4 * BlockSize})
					}
					if n == second { // as forget does that had read leases before
						if err := store.Delete(t.Context(), s.cluster.commitName(s.parent.ID)); err != nil {
							t.Fatal(err)
						}
					}
					if n == third {
						end()
					}
				}
				if _, err := pruner.Prune(t.Context(), PruneOptions{}); err != nil {
					stopped++
				}
				over = reached < second
				if l != nil {
					end()
				}
				s.check(t, store, s.next)
				if t.Failed() {
					t.Fatalf("operations %d, %d and %d", first, second, third)
				}
				if reached < first {
					if stopped == 0 {
						t.Error("prune never stopped because of a backup that was forgotten")
					}
					return
				}
			}
		}
	}
}

// TestForgetBesideForget has the two last backups be forgotten at the same time: one stops before an operation, the other comes as far
// as before another, perhaps somebody prunes, and both go on. One backup is left at least, and all of what is left.
func TestForgetBesideForget(t *testing.T) {
	c := newCluster(t, false)
	states := make(map[string]tree)
	var ids []string
	for i := range 2 {
		tr := tree{{path: "a"}: fmt.Append(nil, i), {path: "global/pg_control"}: []byte("b")}
		ids = append(ids, take(t, c, tr, rng(1), SinkOptions{}).ID)
		states[ids[i]] = tr
	}
	refused := 0
	for _, prunes := range []bool{false, true} {
		for first, over := 1, false; !over; first++ {
			for second, ended := 1, false; !ended; second++ {
				store := memory(c)
				one, other := &cut{Store: store}, &cut{Store: store}
				forget := func(s *cut, id string, before func(number int)) error {
					host := reopen(t, c, s)
					s.count, s.before = 0, before
					return host.Forget(t.Context(), id, time.Now())
				}
				stopped, goOn, failed := make(chan bool, 1), make(chan bool), make(chan error, 1)
				begun := false
				err := forget(one, ids[0], func(n int) {
					if n != first {
						return
					}
					begun = true
					go func() {
						failed <- forget(other, ids[1], func(n int) {
							if n == second {
								stopped <- true
								<-goOn
							}
						})
						stopped <- false
					}()
					ended = !<-stopped
					if prunes {
						_, _ = reopen(t, c, store).Prune(t.Context(), PruneOptions{}) // which may have to wait
					}
				})
				close(goOn)
				if !begun {
					over, ended = true, true
					break
				}
				if otherErr := <-failed; err != nil || otherErr != nil {
					refused++
				}
				commits, err := reopen(t, c, store).Backups(t.Context())
				if err != nil || len(commits) == 0 {
					t.Fatalf("operations %d and %d: %d backups are left, %v", first, second, len(commits), err)
				}
				for _, commit := range commits {
					compare(t, reopen(t, c, store), commit.ID, states[commit.ID])
				}
				if left := objects(t, reopen(t, c, store), "leases/"); len(left) > 0 || t.Failed() {
					t.Fatalf("operations %d and %d: leases %v are left", first, second, left)
				}
			}
		}
	}
	if refused == 0 {
		t.Error("none was refused")
	}
}

// TestPruneLog keeps the log that backups need.
func TestPruneLog(t *testing.T) {
	names := []string{
		"000000010000000000000001", "000000010000000000000002", "000000010000000000000003",
		"000000010000000000000003.00000028.backup", "0000000100000000000000FF", "000000010000000100000000",
		"000000020000000000000002.partial", "000000020000000000000003", "00000002.history",
	}
	for _, c := range []struct {
		reason string
		starts []wal.LSN // of backups
		lease  string    // none, over, living, or with a parent
		o      PruneLogOptions
		gone   []int // of names
	}{
		{"there is no backup", nil, "none", PruneLogOptions{}, nil},
		{"what the oldest begins in is kept", []wal.LSN{0x3000028}, "none", PruneLogOptions{}, []int{0, 1, 6}},
		{"a backup that begins with a segment", []wal.LSN{0x3000000}, "none", PruneLogOptions{}, []int{0, 1, 6}},
		{"the oldest counts", []wal.LSN{0x3000028, 0x100000028}, "none", PruneLogOptions{}, []int{0, 1, 6}},
		{"the oldest is not the first", []wal.LSN{0x100000028, 0x2000028}, "none", PruneLogOptions{}, []int{0}},
		{"across a number of the log", []wal.LSN{0x100000028}, "none", PruneLogOptions{}, []int{0, 1, 2, 3, 4, 6, 7}},
		{"all is needed", []wal.LSN{0x1000028}, "none", PruneLogOptions{}, nil},
		{"log that is young is kept", []wal.LSN{0x3000028}, "none", PruneLogOptions{Within: time.Hour}, nil},
		{"log that was young", []wal.LSN{0x3000028}, "none", PruneLogOptions{Within: time.Hour, Now: time.Now().Add(2 * time.Hour)}, []int{0, 1, 6}},
		{"a first backup is being made", []wal.LSN{0x3000028}, "living", PruneLogOptions{}, nil},
		{"one with a parent is being made", []wal.LSN{0x3000028}, "parent", PruneLogOptions{}, nil},
		{"one was being made", []wal.LSN{0x3000028}, "over", PruneLogOptions{}, []int{0, 1, 6}},
	} {
		t.Run(c.reason, func(t *testing.T) {
			cluster := newCluster(t, true)
			want := make(map[string]bool)
			for _, name := range names {
				at, err := cluster.logName(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := cluster.repo.store.Create(t.Context(), at, []byte(name)); err != nil {
					t.Fatal(err)
				}
				want[at] = true
			}
			var size int64
			for _, i := range c.gone {
				at, _ := cluster.logName(names[i])
				delete(want, at)
				size += int64(len(names[i]))
			}
			parent := ""
			for i, start := range c.starts {
				parent = fmt.Sprint("backup", i)
				if err := cluster.putCommit(t.Context(), &Commit{ID: parent, SegmentSize: wal.DefaultSegmentSize, Start: wal.Position{LSN: start, Timeline: 1}}); err != nil {
					t.Fatal(err)
				}
			}
			until := map[string]time.Time{"living": time.Now(), "parent": time.Now(), "over": time.Unix(0, 0)}
			if when, ok := until[c.lease]; ok {
				if c.lease != "parent" {
					parent = ""
				}
				if _, err := cluster.takeLease(t.Context(), "new", parent, func() time.Time { return when }); err != nil {
					t.Fatal(err)
				}
			}
			for _, dry := range []bool{true, false} {
				o := c.o
				o.DryRun = dry
				report, err := cluster.PruneLog(t.Context(), o)
				if err != nil || report.Files != len(c.gone) || report.Removed != size || report.Kept != len(names)-1-len(c.gone) || report.Waits != (c.lease == "living" || c.lease == "parent") {
					t.Errorf("dry %v: %+v, %v", dry, report, err)
				}
			}
			have := make(map[string]bool)
			for _, name := range objects(t, cluster, "wal/") {
				have[name] = true
			}
			if !maps.Equal(have, want) {
				t.Errorf("there are %v, want %v", have, want)
			}
		})
	}
}

// TestPruneLogBesideBackup has a backup begin before each operation of prune in turn, and log come that it needs, which is older
// than what others do: that is there in the end.
func TestPruneLogBesideBackup(t *testing.T) {
	cluster := newCluster(t, false)
	if err := cluster.putCommit(t.Context(), &Commit{ID: "old", SegmentSize: wal.DefaultSegmentSize, Start: wal.Position{LSN: 0x5000028, Timeline: 1}}); err != nil {
		t.Fatal(err)
	}
	push := func(store object.Store, name string) string {
		at, err := cluster.logName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Create(t.Context(), at, []byte(name)); err != nil {
			t.Fatal(err)
		}
		return at
	}
	push(cluster.repo.store, "000000010000000000000001")
	for k := 1; ; k++ {
		store := memory(cluster)
		counted := &cut{Store: store}
		pruner := reopen(t, cluster, counted)
		needed := ""
		counted.count, counted.before = 0, func(n int) {
			if n != k {
				return
			}
			if _, err := reopen(t, cluster, store).takeLease(t.Context(), "new", "old", time.Now); err != nil {
				t.Fatal(err)
			}
			needed = push(store, "000000010000000000000002")
		}
		report, err := pruner.PruneLog(t.Context(), PruneLogOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if needed == "" {
			if k == 1 || report.Files != 1 {
				t.Errorf("operation %d: %+v", k, report)
			}
			return
		}
		if _, err := store.Get(t.Context(), needed, 0, -1); err != nil {
			t.Errorf("operation %d: %v", k, err)
		}
	}
}

// TestThinPacks has a pack of which little is in use: the next backup takes nothing from it, and it is removed with the
// older backup.
func TestThinPacks(t *testing.T) {
	c := newCluster(t, true)
	random := rng(1)
	page := func() []byte {
		p := make([]byte, BlockSize)
		for i := range p {
			p[i] = byte(random.IntN(256))
		}
		return p
	}
	content := bytes.Join([][]byte{page(), page(), page(), page(), page()}, nil)
	clock := time.Now()
	next := func() time.Time { // backups are sorted by seconds
		clock = clock.Add(time.Second)
		return clock
	}
	now := func() tree { return tree{{path: "a"}: content, {path: "global/pg_control"}: []byte("c")} }
	first := take(t, c, now(), random, SinkOptions{Now: next})
	content = bytes.Join([][]byte{page(), page(), page(), page(), content[4*BlockSize:]}, nil)
	second := take(t, c, now(), random, SinkOptions{Parent: first, Now: next})
	before := objects(t, c, "packs/")
	if report := prune(t, c, PruneOptions{Share: -1}); report.Thin != 0 {
		t.Errorf("%+v", report)
	}
	if report := prune(t, c, PruneOptions{DryRun: true}); report.Thin != 1 || len(objects(t, c, "facts/thin/")) != 0 {
		t.Errorf("a try: %+v", report)
	}
	for range 2 {
		if report := prune(t, c, PruneOptions{}); report.Thin != 1 || len(objects(t, c, "facts/thin/")) != 1 {
			t.Errorf("%+v, and %v", report, objects(t, c, "facts/thin/"))
		}
	}
	third := take(t, c, now(), random, SinkOptions{Parent: second, Now: next})
	for _, commit := range []*Commit{first, second} {
		if err := c.Forget(t.Context(), commit.ID, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if report := prune(t, c, PruneOptions{}); report.Packs != 1 || report.Thin != 0 || len(objects(t, c, "facts/thin/")) != 0 {
		t.Errorf("%+v, and %v", report, objects(t, c, "facts/thin/"))
	}
	if left := objects(t, c, "packs/"); len(left) != 2 || left[0] == before[0] && left[1] == before[1] {
		t.Errorf("left are %v of %v", left, before)
	}
	compare(t, c, third.ID, now())
}
