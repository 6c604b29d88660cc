package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

// TestForgetBesideBrokenPack has a pack of the newest backup be missing, or end too early, of which no verify has told: the newest takes no other's
// place, neither of a backup before it, nor of the cluster that it has replaced.
func TestForgetBesideBrokenPack(t *testing.T) {
	const size = 4 << 20
	begun := time.Now().Add(-24 * time.Hour)
	kept := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}
	other := tree{{path: "a"}: []byte(strings.Repeat("another", 3000)), {path: "global/pg_control"}: []byte("d")}
	for _, test := range []struct {
		reason string
		left   func(size, needed int64) int64 // bytes of the pack; less than zero removes it
		why    error
	}{
		{"it is whole", func(size, _ int64) int64 { return size }, nil},
		{"it ends behind what is needed", func(_, needed int64) int64 { return needed }, nil}, // which is restored
		{"it ends a byte before that", func(_, needed int64) int64 { return needed - 1 }, seal.ErrDamaged},
		{"it is empty", func(int64, int64) int64 { return 0 }, seal.ErrDamaged},
		{"it is missing", func(int64, int64) int64 { return -1 }, fs.ErrNotExist},
	} {
		t.Run(test.reason, func(t *testing.T) {
			c := newCluster(t, true)
			one := takeFrom(t, c, kept, wal.Position{LSN: 6*size + 0x28, Timeline: 1}, begun)
			putLog(t, c, 1, 6, 7)
			upgraded, err := c.repo.Cluster("main", 43)
			if err != nil {
				t.Fatal(err)
			}
			putLog(t, upgraded, 1, 6, 7)
			newer := map[*Cluster]*Commit{
				c:        takeFrom(t, c, other, wal.Position{LSN: 6*size + 0x28, Timeline: 1}, begun.Add(time.Hour)),
				upgraded: takeFrom(t, upgraded, other, wal.Position{LSN: 6*size + 0x28, Timeline: 1}, time.Now().Add(time.Hour)),
			}
			store := memory(c)
			for of, k := range newer {
				name, needed := "", int64(0)
				err := of.eachExtent(t.Context(), k, func(_ key, x extent) error {
					name, needed = of.packName(x.at.pack), max(needed, x.at.frame+int64(x.at.length))
					return nil
				})
				content, getErr := store.Get(t.Context(), name, 0, -1)
				if err := errors.Join(err, getErr); err != nil {
					t.Fatal(err)
				}
				if left := test.left(int64(len(content)), needed); left >= 0 {
					store = with(t, store, name, content[:left])
				} else if err := store.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			newest := newer[c]
			c = reopen(t, c, store)
			is := test.why == nil
			commits, err := c.Backups(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			notWhole, err := c.NotWhole(t.Context(), commits)
			if err != nil || !errors.Is(notWhole[newest.ID], test.why) || notWhole[one.ID] != nil {
				t.Errorf("not whole are %v, %v", notWhole, err)
			}
			if err := c.CheckParent(t.Context(), *newest); !errors.Is(err, test.why) {
				t.Errorf("the newest as a parent: %v", err)
			}
			if since, err := c.Superseded(t.Context(), time.Now()); err != nil || since.IsZero() == is {
				t.Errorf("superseded since %v, %v", since, err)
			}
			if err := c.Forget(t.Context(), one.ID, time.Now()); (err == nil) != is || err != nil && !strings.Contains(err.Error(), newest.ID) {
				t.Errorf("the older was forgotten: %v", err)
			}
			if is {
				compare(t, c, newest.ID, other)
				return
			}
			if err := c.Forget(t.Context(), newest.ID, time.Now()); err != nil {
				t.Error(err)
			}
			compare(t, c, one.ID, kept)
		})
	}
}

// putAnew has a backup's commit say something else.
func putAnew(t *testing.T, c *Cluster, k *Commit) {
	t.Helper()
	if err := errors.Join(c.repo.store.Delete(t.Context(), c.commitName(k.ID)), c.putCommit(t.Context(), k)); err != nil {
		t.Fatal(err)
	}
}

// TestForgetBesideBrokenLead has two backups lead to a timeline that the newest does not lead to, of which one lacks a pack: the other one is kept.
func TestForgetBesideBrokenLead(t *testing.T) {
	const size = 4 << 20
	c := newCluster(t, false)
	begun := time.Now().Add(-24 * time.Hour)
	content := func(s string) tree { return tree{{path: "a"}: []byte(s), {path: "global/pg_control"}: []byte(s)} }
	first := takeFrom(t, c, content("a"), wal.Position{LSN: 6*size + 0x28, Timeline: 1}, begun)
	before := objects(t, c, "packs/")
	broken := takeFrom(t, c, content("b"), wal.Position{LSN: 6*size + 0x28, Timeline: 1}, begun.Add(time.Hour))
	for _, name := range objects(t, c, "packs/") {
		if name != before[0] {
			if err := c.repo.store.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.PushLog(t.Context(), wal.HistoryName(2), fmt.Appendf(nil, "1\t%v\tno recovery target specified\n", wal.LSN(5*size)), 0); err != nil {
		t.Fatal(err)
	}
	newest := takeFrom(t, c, content("c"), wal.Position{LSN: 6*size + 0x28, Timeline: 2}, begun.Add(2*time.Hour))
	newest.Stop = wal.Position{LSN: newest.Start.LSN + 0x1000, Timeline: 2}
	putAnew(t, c, newest)
	putLog(t, c, 1, 6, 7, 8) // which came later than the newest backup
	putLog(t, c, 2, 6, 7)
	err := c.Forget(t.Context(), first.ID, time.Now())
	if err == nil || !strings.Contains(err.Error(), "leads to timeline 1") || !strings.Contains(err.Error(), broken.ID) {
		t.Errorf("the last that leads to timeline 1 was forgotten: %v", err)
	}
	if err := c.Forget(t.Context(), broken.ID, time.Now()); err != nil {
		t.Error(err)
	}
}

// TestNotWholeIsFound has the store not answer: what is whole is not known then. Packs are listed once, and parts are read once.
func TestNotWholeIsFound(t *testing.T) {
	c, states := whole(t, false)
	commits, err := c.Backups(t.Context())
	if err != nil || len(commits) != len(states) {
		t.Fatal(err)
	}
	lists, reads := 0, make(map[string]int)
	fails := false
	var mu sync.Mutex
	store := &object.Failing{Store: c.repo.store, Fail: func(_ context.Context, call object.Call) object.Fault {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case call.Method == object.CallList:
			lists++
		case strings.Contains(call.Name, "/parts/"):
			reads[call.Name]++
			if fails {
				return object.Before
			}
		case strings.Contains(call.Name, "/packs/"):
			t.Errorf("%v of %s", call.Method, call.Name)
		}
		return object.None
	}}
	c = reopen(t, c, store)
	c.parts.most = 0
	notWhole, err := c.NotWhole(t.Context(), commits)
	if err != nil || len(notWhole) != 0 || lists != 1 || len(reads) != len(objects(t, c, "parts/")) {
		t.Errorf("%v, %v, %d lists, parts %v", notWhole, err, lists, reads)
	}
	for name, n := range reads {
		if n != 1 {
			t.Errorf("%s was read %d times", name, n)
		}
	}
	fails = true
	if notWhole, err := reopen(t, c, store).NotWhole(t.Context(), commits); !errors.Is(err, object.ErrFault) || notWhole != nil {
		t.Errorf("%v, %v", notWhole, err)
	}
}
