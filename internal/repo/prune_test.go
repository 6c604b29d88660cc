package repo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// rng returns a source of chance.
func rng(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2)) }

// prune prunes a repository.
func prune(t testing.TB, c *Cluster, o PruneOptions) PruneReport {
	t.Helper()
	report, err := c.Prune(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// objects returns the names of what is below a folder of a cluster.
func objects(t testing.TB, c *Cluster, folder string) []string {
	t.Helper()
	var names []string
	for info, err := range c.repo.store.List(t.Context(), c.below(folder), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, info.Name)
	}
	return names
}

// TestPruneRandom makes, forgets and prunes backups at random: each that is there is read as what it was, and
// when all but one are gone, what is left is what that needs.
func TestPruneRandom(t *testing.T) {
	for seed := range uint64(16) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rng(seed)
			c := newCluster(t, seed%2 == 0)
			states := make(map[string]tree)
			var order []*Commit
			now := make(tree)
			when := time.Now()
			for range 30 {
				now.change(random)
				o := SinkOptions{packSize: 8 * BlockSize}
				if len(order) > 0 && random.IntN(8) > 0 {
					o.Parent = order[len(order)-1-random.IntN(min(2, len(order)))]
				}
				commit := take(t, c, now.clone(), random, o)
				states[commit.ID] = now.clone()
				order = append(order, commit)
				for len(order) > 1+random.IntN(6) {
					i := random.IntN(len(order))
					if err := c.Forget(t.Context(), order[i].ID, when); err != nil {
						t.Fatal(err)
					}
					delete(states, order[i].ID)
					order = slices.Delete(order, i, i+1)
				}
				planned := prune(t, c, PruneOptions{Now: when, DryRun: true})
				if report := prune(t, c, PruneOptions{Now: when}); report.Packs != planned.Packs || report.Parts != planned.Parts || report.Removed != planned.Removed {
					t.Errorf("it did %+v, and had said %+v", report, planned)
				}
				if report := prune(t, c, PruneOptions{Now: when}); report.Packs+report.Parts != 0 {
					t.Errorf("a second time it removed %+v", report)
				}
			}
			for id, want := range states {
				compare(t, c, id, want)
			}
		})
	}
}

// TestPruneGrowth has backups be taken every day of which one page in a hundred has changed, of which seven are kept: the
// repository does not grow much larger than what they need.
func TestPruneGrowth(t *testing.T) {
	const pages, kept = 800, 7
	random := rng(1)
	c := newCluster(t, false)
	begun := at(t, "2026-11-26T12:00:00Z")
	fill := func(p []byte) {
		for i := range p[:64] { // the rest is zeros, which are compressed to nothing
			p[i] = byte(1 + random.IntN(255))
		}
	}
	content := make([]byte, pages*BlockSize)
	for i := range pages {
		fill(content[i*BlockSize : (i+1)*BlockSize])
	}
	k := key{path: "base/1"}
	var order []*Commit
	last := make(map[string]tree)
	most, stored := 0.0, int64(0)
	for day := range 60 {
		clock := begun.AddDate(0, 0, day)
		o := SinkOptions{packSize: 2 << 10, Now: func() time.Time { return clock }}
		if len(order) > 0 {
			o.Parent = order[len(order)-1]
		}
		now := tree{k: slices.Clone(content), {path: "global/pg_control"}: fmt.Append(nil, day)}
		commit := take(t, c, now, random, o)
		order, last[commit.ID] = append(order, commit), now
		if day > 0 {
			stored += commit.Stored
		}
		if len(order) > kept {
			if err := c.Forget(t.Context(), order[0].ID, clock); err != nil {
				t.Fatal(err)
			}
			delete(last, order[0].ID)
			order = order[1:]
		}
		prune(t, c, PruneOptions{Now: clock})
		size, live := packBytes(t, c)
		share := float64(size) / live
		if most = max(most, share); share > 1.5 {
			t.Errorf("day %d: %d bytes of packs for %.0f that are in use", day, size, live)
		}
		for range pages / 100 {
			i := random.IntN(pages)
			fill(content[i*BlockSize : (i+1)*BlockSize])
		}
	}
	size, _ := packBytes(t, c)
	t.Logf("at most %.2f times what is in use, and each day %.2f %% of all are stored", most, float64(stored)/59/float64(size)*100)
	for id, want := range last {
		compare(t, c, id, want)
	}
}

// packBytes returns how large packs are, and the part of that in which there are blocks that a backup needs.
func packBytes(t testing.TB, c *Cluster) (size int64, live float64) {
	t.Helper()
	sizes, err := c.sizes(t.Context(), "packs/")
	if err != nil {
		t.Fatal(err)
	}
	commits, err := c.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[location]bool)
	for i := range commits {
		if err := c.eachExtent(t.Context(), &commits[i], func(_ key, x extent) error {
			for b := range x.blocks {
				at := x.at
				at.within += uint32(b * BlockSize)
				used[at] = true
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	blocks := make(map[PackID]int64)
	for at := range used {
		blocks[at.pack]++
	}
	all, err := c.shares(t.Context(), blocks, sizes)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		live += s.size * s.share
	}
	for _, n := range sizes {
		size += n
	}
	return size, live
}

// TestPruneBesideOthers has two hosts make backups while a third prunes, one of which sleeps past its lease.
func TestPruneBesideOthers(t *testing.T) {
	begun := at(t, "2026-11-26T12:00:00Z")
	clock := begun
	now := func() time.Time { return clock }
	c := newCluster(t, true)
	big := func(n byte) tree {
		content := make([]byte, 40*BlockSize)
		random := rng(uint64(n))
		for i := range content {
			content[i] = byte(random.IntN(256))
		}
		return tree{{path: "a"}: content, {path: "global/pg_control"}: []byte{n}}
	}
	first := take(t, c, big(1), rng(1), SinkOptions{Now: now, packSize: 2 * BlockSize})
	parent := take(t, c, big(2), rng(1), SinkOptions{Now: now, Parent: first, packSize: 2 * BlockSize})
	awake := hold(t, c, big(3), SinkOptions{Now: now, Parent: parent, packSize: 2 * BlockSize})
	asleep := hold(t, c, big(4), SinkOptions{Now: now, packSize: 2 * BlockSize})
	if err := c.Forget(t.Context(), parent.ID, clock); err == nil || !strings.Contains(err.Error(), awake.sink.commit.ID) {
		t.Errorf("the parent of a backup that is being made was forgotten: %v", err)
	}
	packs := len(objects(t, c, "packs/"))
	if report := prune(t, c, PruneOptions{Now: clock}); report.Living != 2 || report.Packs != 0 || len(objects(t, c, "packs/")) != packs {
		t.Errorf("beside two backups that are being made, prune did %+v", report)
	}
	clock = begun.Add(5 * time.Hour)
	if err := awake.sink.lease.renew(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock = begun.Add(leaseTime)
	report := prune(t, c, PruneOptions{Now: clock})
	if report.Living != 1 || len(report.GivenUp) != 1 || report.GivenUp[0] != asleep.sink.commit.ID || report.Packs == 0 {
		t.Errorf("when a host slept, prune did %+v", report)
	}
	if err := asleep.goOn(); err == nil || !strings.Contains(err.Error(), "longer than its lease") {
		t.Errorf("who slept made a backup: %v", err)
	}
	if err := awake.goOn(); err != nil {
		t.Fatal(err)
	}
	compare(t, c, awake.sink.commit.ID, big(3))
	compare(t, c, parent.ID, big(2))
	prune(t, c, PruneOptions{Now: clock})
	compare(t, c, awake.sink.commit.ID, big(3))
	if commits, err := c.Backups(t.Context()); err != nil || len(commits) != 3 {
		t.Errorf("%d backups, %v", len(commits), err)
	}
	if left := objects(t, c, "leases/"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestPruneStops has something be there that is not understood: nothing is removed.
func TestPruneStops(t *testing.T) {
	begun := at(t, "2026-11-26T12:00:00Z")
	for _, c := range []struct {
		reason string
		make   func(ctx context.Context, c *Cluster, parent *Commit) error
		want   string
	}{
		{"a commit is damaged", func(ctx context.Context, c *Cluster, _ *Commit) error {
			return c.repo.store.Create(ctx, c.commitName("x"), []byte("no commit"))
		}, "backup x"},
		{"a commit is of a newer format", func(ctx context.Context, c *Cluster, _ *Commit) error {
			_, err := c.repo.put(ctx, kindCommit, c.commitName("x"), []byte(`{"format":2}`))
			return err
		}, "format 2"},
		{"a lease is damaged", func(ctx context.Context, c *Cluster, _ *Commit) error {
			return c.repo.store.Create(ctx, c.leaseName([leaseSize]byte{1}, 0), []byte("no lease"))
		}, "leases/0100000000000000-0000"},
		{"a lease has another name", func(ctx context.Context, c *Cluster, _ *Commit) error {
			return c.repo.store.Create(ctx, c.below("leases/x"), nil)
		}, "leases/x"},
		{"a pack has another name", func(ctx context.Context, c *Cluster, _ *Commit) error {
			return c.repo.store.Create(ctx, c.below("packs/x"), nil)
		}, "packs/x"},
		{"a part is gone", func(ctx context.Context, c *Cluster, parent *Commit) error {
			return c.repo.store.Delete(ctx, c.partName(parent.Blocks[0][0].ID))
		}, "part "},
		{"the parent of a living lease is gone", func(ctx context.Context, c *Cluster, parent *Commit) error {
			if _, err := c.takeLease(ctx, "x", parent.ID, func() time.Time { return begun }); err != nil {
				return err
			}
			return c.repo.store.Delete(ctx, c.commitName(parent.ID))
		}, "on which backup x relies"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			cluster := newCluster(t, false)
			garbage := take(t, cluster, tree{{path: "a"}: []byte("a")}, rng(1), SinkOptions{})
			parent := take(t, cluster, tree{{path: "b"}: []byte("b")}, rng(1), SinkOptions{})
			if err := cluster.repo.store.Delete(t.Context(), cluster.commitName(garbage.ID)); err != nil {
				t.Fatal(err)
			}
			cluster = reopen(t, cluster, cluster.repo.store)
			if err := c.make(t.Context(), cluster, parent); err != nil {
				t.Fatal(err)
			}
			before := objects(t, cluster, "")
			if report, err := cluster.Prune(t.Context(), PruneOptions{Now: begun}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("prune did %+v: %v", report, err)
			}
			if after := objects(t, cluster, ""); !slices.Equal(before, after) {
				t.Errorf("there are %v, and were %v", after, before)
			}
		})
	}
}
