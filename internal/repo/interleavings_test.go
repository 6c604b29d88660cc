package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"basin/internal/object"
)

// isFull says whether everything is tried, however long it takes.
func isFull() bool { return os.Getenv("BASIN_MATRIX") == "full" }

// beside is a repository on which several work at once.
type beside struct {
	*story
	base *object.Memory
	now  time.Time
	// states are what backups are to be, that are made in a run, by their labels.
	labels map[string]tree
}

// newBeside returns a repository with two backups, the second of which relies on the first, and with what a third, that was
// forgotten, alone needed.
func newBeside(t *testing.T) *beside {
	t.Helper()
	b := &beside{now: time.Now(), labels: make(map[string]tree)}
	b.story = &story{cluster: newCluster(t, false), states: make(map[string]tree)}
	page := func(n byte) []byte {
		p := make([]byte, BlockSize)
		for i := range p {
			p[i] = n + byte(i%7)
		}
		return p
	}
	content := func(pages ...byte) tree {
		var data []byte
		for _, n := range pages {
			data = append(data, page(n)...)
		}
		return tree{{path: "a"}: data, {path: "global/pg_control"}: []byte{pages[0]}}
	}
	at := b.now.Add(-time.Hour)
	var order []*Commit
	for _, tr := range []tree{content(1, 2), content(1, 3), content(1, 4)} {
		at = at.Add(time.Minute)
		b.parent = take(t, b.cluster, tr, rng(1), SinkOptions{Parent: b.parent, Now: func() time.Time { return at }})
		b.states[b.parent.ID] = tr
		order = append(order, b.parent)
	}
	b.labels["first"], b.labels["second"] = content(5, 4), content(5, 6)
	if err := b.cluster.Forget(t.Context(), order[1].ID, b.now); err != nil {
		t.Fatal(err)
	}
	b.base = memory(b.cluster)
	return b
}

// open opens the repository as a new process does.
func (b *beside) open(store object.Store) (*Cluster, error) {
	r, err := Open(context.Background(), store, Options{})
	if err != nil {
		return nil, err
	}
	return r.Cluster(b.cluster.name.Name, b.cluster.name.SystemID)
}

// backup makes a backup of a label, that relies on another, and tells which it is before it is there.
func (b *beside) backup(ctx context.Context, c *Cluster, label string, parent *Commit, begun func(id string)) error {
	sink := c.NewSink(SinkOptions{Parent: parent, Label: label, Workers: 1, Now: func() time.Time { return b.now }})
	src := newTreeSource(b.labels[label], rng(1))
	start, err := src.Begin(ctx)
	if err == nil {
		err = sink.Begin(ctx, start)
	}
	if begun != nil {
		begun(sink.commit.ID)
	}
	for err == nil {
		m, r, next := src.Next(ctx)
		if next != nil {
			break
		}
		err = sink.Put(ctx, m, r)
	}
	if err == nil {
		end, _ := src.End(ctx)
		err = sink.Commit(ctx, end)
	}
	return errors.Join(err, sink.Close())
}

// check says whether every backup that is listed can be restored, now and after another prune.
func (b *beside) check(t *testing.T, store *object.Memory, wants map[string]bool) error {
	c, err := b.open(store)
	if err != nil {
		return err
	}
	for _, prunes := range []bool{false, true} {
		if prunes {
			if _, err := c.Prune(t.Context(), PruneOptions{Now: b.now.Add(givenUpTime)}); err != nil {
				return err
			}
			if c, err = b.open(store); err != nil {
				return err
			}
		}
		commits, err := c.Backups(t.Context())
		if err != nil {
			return err
		}
		there := make(map[string]bool)
		for _, commit := range commits {
			want := b.states[commit.ID]
			if commit.Label != "" {
				want = b.labels[commit.Label]
			}
			if err := isWhole(t.Context(), c, commit, want); err != nil {
				return err
			}
			there[commit.ID], there[commit.Label] = true, true
		}
		for id, want := range wants {
			if there[id] != want {
				return fmt.Errorf("backup %s: there %t, want %t", id, there[id], want)
			}
		}
	}
	return nil
}

// TestPruneInterleaved has a backup be made beside a prune, call by call in every order, whether or not its lease is over: it is
// there as a whole, or is refused.
func TestPruneInterleaved(t *testing.T) {
	b := newBeside(t)
	for _, slept := range []time.Duration{0, leaseTime} {
		made, refused := 0, 0
		x := &interleaving{base: b.base, open: b.open, actors: func() []actor {
			return []actor{
				{name: "backup", do: func(ctx context.Context, c *Cluster) error { return b.backup(ctx, c, "first", b.parent, nil) }},
				{name: "prune", do: func(ctx context.Context, c *Cluster) error {
					_, err := c.Prune(ctx, PruneOptions{Now: b.now.Add(slept)})
					return err
				}},
			}
		}}
		x.check = func(t *testing.T, store *object.Memory, ended []error) error {
			switch err := ended[0]; {
			case err == nil:
				made++
			case slept > 0 && (strings.Contains(err.Error(), "longer than its lease") || errors.Is(err, fs.ErrNotExist)): // of its own parts
				refused++
			default:
				return err
			}
			if ended[1] != nil {
				return ended[1]
			}
			return b.check(t, store, map[string]bool{"first": ended[0] == nil, b.parent.ID: true})
		}
		err := x.all(t)
		t.Logf("slept %v: %s; %d were made, %d refused", slept, x.sizesOf(), made, refused)
		if err != nil {
			t.Fatal(err)
		}
		if made == 0 || (refused > 0) != (slept > 0) {
			t.Error("not all that can happen has happened")
		}
	}
}

// isAside says of a call that it is of no lease and of no commit. When packs and parts are made and removed beside each other is
// what TestPruneInterleaved tries.
func isAside(c call) bool {
	return !strings.Contains(c.name, "/leases/") && !strings.Contains(c.name, "/backups/")
}

// isCommitting says of a call that it makes a commit.
func isCommitting(method, name string) bool {
	return method == object.CallCreate && strings.HasSuffix(name, "/commit")
}

// TestForgetInterleaved has the parent of a backup be forgotten beside that and a prune, call by call in every order in which
// two stop for another, and with BASIN_MATRIX=full in every order.
func TestForgetInterleaved(t *testing.T) {
	b := newBeside(t)
	made, forgotten, both, pruned := 0, 0, 0, 0
	x := &interleaving{base: b.base, open: b.open, together: isAside, actors: func() []actor {
		return []actor{
			{name: "backup", do: func(ctx context.Context, c *Cluster) error { return b.backup(ctx, c, "first", b.parent, nil) }},
			{name: "forget", do: func(ctx context.Context, c *Cluster) error { return c.Forget(ctx, b.parent.ID, b.now) }},
			{name: "prune", do: func(ctx context.Context, c *Cluster) error {
				_, err := c.Prune(ctx, PruneOptions{Now: b.now})
				return err
			}},
		}
	}}
	x.check = func(t *testing.T, store *object.Memory, ended []error) error {
		for i, n := range []*int{&made, &forgotten, &pruned} {
			if ended[i] == nil {
				*n++
			}
		}
		if ended[0] == nil && ended[1] == nil {
			both++
		}
		return b.check(t, store, map[string]bool{"first": ended[0] == nil, b.parent.ID: ended[1] != nil})
	}
	if !isFull() {
		x.switches = 2
	}
	err := x.all(t)
	t.Logf("%s; %d backups were made, %d forgotten, %d times both, %d prunes", x.sizesOf(), made, forgotten, both, pruned)
	if err != nil {
		t.Fatal(err)
	}
	if made == 0 || forgotten == 0 || both == 0 || pruned == 0 || made == x.runs || pruned == x.runs {
		t.Error("not all that can happen has happened")
	}
}

// TestParentInterleaved has a backup be there and be forgotten within one prune, while another one is made that relies on it.
func TestParentInterleaved(t *testing.T) {
	b := newBeside(t)
	made, forgotten, both, pruned := 0, 0, 0, 0
	x := &interleaving{base: b.base, open: b.open, actors: func() []actor {
		parent := ""
		return []actor{ // in the order of the numbers in together
			{name: "parent", do: func(ctx context.Context, c *Cluster) error {
				return b.backup(ctx, c, "first", b.parent, func(id string) { parent = id })
			}, lead: isCommitting},
			{name: "backup", do: func(ctx context.Context, c *Cluster) error {
				commit, err := c.Backup(ctx, parent)
				if err != nil {
					return err
				}
				return b.backup(ctx, c, "second", &commit, nil)
			}},
			{name: "forget", do: func(ctx context.Context, c *Cluster) error { return c.Forget(ctx, parent, b.now) }},
			{name: "prune", do: func(ctx context.Context, c *Cluster) error {
				_, err := c.Prune(ctx, PruneOptions{Now: b.now})
				return err
			}},
		}
	}}
	x.check = func(t *testing.T, store *object.Memory, ended []error) error {
		for i, n := range []*int{nil, &made, &forgotten, &pruned} {
			if n != nil && ended[i] == nil {
				*n++
			}
		}
		if ended[1] == nil && ended[2] == nil {
			both++
		}
		return errors.Join(ended[0], b.check(t, store, map[string]bool{"second": ended[1] == nil, "first": ended[2] != nil}))
	}
	x.together = func(c call) bool { // but for commits, leases that are taken, and what prune and forget see of both
		isLease, isCommit := strings.Contains(c.name, "/leases/"), strings.Contains(c.name, "/backups/")
		switch writes := c.method == object.CallCreate || c.method == object.CallDelete; c.actor {
		case 0, 1:
			return !isCommit && !(isLease && c.method == object.CallCreate)
		case 2:
			return c.name != absent && !(isCommit && writes) && !(isLease && c.method == object.CallList)
		default:
			return isAside(c) && !strings.Contains(c.name, "/facts/"+factForgotten)
		}
	}
	err := x.all(t)
	t.Logf("%s; %d backups were made, %d forgotten, %d times both, %d prunes", x.sizesOf(), made, forgotten, both, pruned)
	if err != nil {
		t.Fatal(err)
	}
	if made == 0 || forgotten == 0 || both == 0 || pruned == 0 || pruned == x.runs {
		t.Error("not all that can happen has happened")
	}
}
