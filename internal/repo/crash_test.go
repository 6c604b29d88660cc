package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"basin/internal/object"
)

// TestPackFails has the store fail when a pack is put: the sink says so, and closes.
func TestPackFails(t *testing.T) {
	c := newCluster(t, false)
	store := &lost{Store: c.repo.store, part: "/packs/"}
	sink := reopen(t, c, store).NewSink(SinkOptions{})
	if err := copyTree(t.Context(), sink, tree{{path: "a"}: []byte("a")}); !errors.Is(err, errCut) {
		t.Errorf("got %v", err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
}

// TestDamagedHints has facts of packs be damaged, or be none: backups and prune go on, and heed the others.
func TestDamagedHints(t *testing.T) {
	for _, kind := range []string{factThin, factDamaged} {
		for _, encrypted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, encrypted %v", kind, encrypted), func(t *testing.T) {
				c := newCluster(t, encrypted)
				tr := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("b")}
				parent := take(t, c, tr, rng(1), SinkOptions{})
				hint := PackID{1}
				for _, content := range []string{"no fact", ""} {
					name := c.below("facts/" + kind + "/" + ID{}.String())
					if content == "" {
						name = c.below("facts/" + kind + "/" + ID{1}.String())
					}
					if err := c.repo.store.Create(t.Context(), name, []byte(content)); err != nil {
						t.Fatal(err)
					}
				}
				for _, fact := range []any{"text", packsFact{Packs: []PackID{hint}}} {
					if _, err := c.putFact(t.Context(), kind, fact); err != nil {
						t.Fatal(err)
					}
				}
				if avoided, err := c.avoided(t.Context()); err != nil || len(avoided) != 1 || !avoided[hint] {
					t.Errorf("avoided %v, %v", avoided, err)
				}
				next := take(t, c, tr, rng(1), SinkOptions{Parent: parent})
				compare(t, c, next.ID, tr)
				prune(t, c, PruneOptions{})
				if encrypted { // and a fact that an older program encrypted, whose key is damaged, is another's, or is gone
					store := memory(c)
					writer := reopen(t, c, store)
					key, err := writer.repo.packKey(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					putEncrypted(t, writer, kind, PackID{2})
					if avoided, err := writer.avoided(t.Context()); err != nil || !avoided[PackID{2}] {
						t.Errorf("avoided %v, %v", avoided, err)
					}
					for _, sealed := range [][]byte{[]byte("no key"), nil} {
						damaged := with(t, store, dataKeyName(key.ID), sealed)
						if sealed == nil {
							if err := damaged.Delete(t.Context(), dataKeyName(key.ID)); err != nil {
								t.Fatal(err)
							}
						}
						again := reopen(t, c, damaged)
						next := take(t, again, tr, rng(1), SinkOptions{Parent: parent})
						compare(t, again, next.ID, tr)
					}
				}
				store := &cut{Store: memory(c)}
				other := reopen(t, c, store)
				for k := 1; ; k++ {
					store.count, store.at = 0, k
					_, err := other.avoided(t.Context())
					if store.count < k {
						break
					}
					if !errors.Is(err, errCut) {
						t.Errorf("operation %d failed: %v", k, err)
					}
				}
				store.at = 0
				stopped, stop := context.WithCancel(t.Context())
				stop()
				if _, err := other.avoided(stopped); !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled: %v", err)
				}
			})
		}
	}
}

// lost is a store of which it is not known whether it makes some objects. It makes them later.
type lost struct {
	object.Store
	part  string // of the names of those
	later func() error
}

func (s *lost) Create(ctx context.Context, name string, data []byte) error {
	if !strings.Contains(name, s.part) {
		return s.Store.Create(ctx, name, data)
	}
	s.later = func() error { return s.Store.Create(context.WithoutCancel(ctx), name, data) }
	return errCut
}

// TestCommitComesLate has the store say that a commit failed, and make it when another host has pruned: if the
// backup is there at last, it is all there.
func TestCommitComesLate(t *testing.T) {
	for _, slept := range []time.Duration{0, leaseTime} {
		c := newCluster(t, false)
		tr := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("b")}
		store := &lost{Store: c.repo.store, part: "/commit"}
		sink := reopen(t, c, store).NewSink(SinkOptions{})
		if err := copyTree(t.Context(), sink, tr); !errors.Is(err, errCut) {
			t.Errorf("got %v", err)
		}
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
		prune(t, c, PruneOptions{Now: time.Now().Add(slept)})
		if err := store.later(); err == nil {
			compare(t, c, sink.commit.ID, tr)
		} else if slept == 0 || !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
}

// story is a repository, and what backups are to be in it.
type story struct {
	cluster *Cluster
	states  map[string]tree
	parent  *Commit
	next    tree
}

// begin makes a repository with two backups, of which the second relies on the first, and garbage.
func begin(t *testing.T) *story {
	t.Helper()
	random := rng(5)
	s := &story{cluster: newCluster(t, false), states: make(map[string]tree), next: make(tree)}
	for range 3 {
		s.next.change(random)
		s.parent = take(t, s.cluster, s.next.clone(), random, SinkOptions{Parent: s.parent, packSize: 4 * BlockSize})
		s.states[s.parent.ID] = s.next.clone()
		s.next.change(random)
	}
	return s
}

// check says whether every backup that is listed is one that can be restored, and whether after a prune, when leases
// are over, nothing is left but what they need.
func (s *story) check(t *testing.T, store *object.Memory, tried tree) {
	t.Helper()
	c := reopen(t, s.cluster, store)
	for range 2 {
		commits, err := c.Backups(t.Context())
		if err != nil || len(commits) == 0 {
			t.Fatalf("%d backups, %v", len(commits), err)
		}
		for _, commit := range commits {
			want, ok := s.states[commit.ID]
			if !ok {
				want = tried
			}
			compare(t, c, commit.ID, want)
		}
		c = reopen(t, s.cluster, store)
		prune(t, c, PruneOptions{Now: time.Now().Add(givenUpTime)})
	}
	if left := objects(t, c, "leases/"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if again := prune(t, c, PruneOptions{Now: time.Now().Add(givenUpTime)}); again.Removed > 0 {
		t.Errorf("prune had left what it removed later: %+v", again)
	}
}

// TestCrash has each operation of the store fail, before or after it is done, and with or without all that come
// behind it: of a backup, of forget, and of prune.
func TestCrash(t *testing.T) {
	s := begin(t)
	newest := s.next.clone()
	for _, c := range []struct {
		name string
		do   func(c *Cluster) error
	}{
		{"a full backup", func(c *Cluster) error { return s.take(t, c, nil) }},
		{"a backup with a parent", func(c *Cluster) error { return s.take(t, c, s.parent) }},
		{"forget", func(c *Cluster) error { return c.Forget(t.Context(), s.first(), time.Now()) }},
		{"prune", func(c *Cluster) error {
			_, err := c.Prune(t.Context(), PruneOptions{Share: 0.9})
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			base := memory(s.cluster)
			if c.name == "prune" { // that has something to do
				b := reopen(t, s.cluster, base)
				if err := b.Forget(t.Context(), s.first(), time.Now()); err != nil {
					t.Fatal(err)
				}
				if _, err := b.takeLease(t.Context(), "19700101T000000Z-00000000", "", func() time.Time { return time.Unix(0, 0) }); err != nil {
					t.Fatal(err)
				}
			}
			for mode := range 4 {
				for k := 1; ; k++ {
					store := base.Clone()
					failing := &cut{Store: store}
					c2 := reopen(t, s.cluster, failing)
					failing.count, failing.at, failing.after, failing.stays = 0, k, mode&1 != 0, mode&2 != 0
					err := c.do(c2)
					if failing.count < k {
						if err != nil {
							t.Fatal(err)
						}
						break
					}
					s.check(t, store, newest)
					if t.Failed() {
						t.Fatalf("mode %d, operation %d, which ended with %v", mode, k, err)
					}
				}
			}
		})
	}
}

// first returns the oldest backup.
func (s *story) first() string {
	first := s.parent.ID
	for id := range s.states {
		first = min(first, id)
	}
	return first
}

// take makes a backup of what is next.
func (s *story) take(t *testing.T, c *Cluster, parent *Commit) error {
	sink := c.NewSink(SinkOptions{Parent: parent, packSize: 4 * BlockSize, Workers: 1})
	err := copyTree(t.Context(), sink, s.next)
	if err == nil && sink.Written() == nil {
		err = fmt.Errorf("there is no backup")
	}
	return errors.Join(err, sink.Close())
}
