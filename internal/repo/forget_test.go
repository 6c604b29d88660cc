package repo

import (
	"errors"
	"strings"
	"testing"
	"time"

	"basin/internal/wal"
)

// at reads a time.
func at(t testing.TB, s string) time.Time {
	t.Helper()
	when, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

func TestPlan(t *testing.T) {
	const now = "2026-11-26T12:00:00Z"
	for _, c := range []struct {
		reason  string
		policy  Policy
		backups string // when each ended; ! is damaged, ? cannot be restored, * is kept
		pins    map[string]Pin
	}{
		{"without a rule all are kept", Policy{}, "2020-01-01T00:00:00Z* 2026-11-01T00:00:00Z*", nil},
		{"the newest are", Policy{Last: 2}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z* 2026-11-03T00:00:00Z*", nil},
		{"more than there are", Policy{Last: 9}, "2026-11-01T00:00:00Z* 2026-11-02T00:00:00Z*", nil},
		{"the last of a day", Policy{Daily: 2}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z 2026-11-02T23:59:59Z* 2026-11-03T00:00:00Z 2026-11-03T09:00:00Z*", nil},
		{"days without a backup do not count", Policy{Daily: 2}, "2026-01-01T00:00:00Z 2026-02-01T00:00:00Z* 2026-11-03T00:00:00Z*", nil},
		{"a day is one of UTC: in Berlin these are two", Policy{Daily: 2}, "2026-10-31T00:00:00Z* 2026-11-02T23:30:00+01:00 2026-11-03T00:30:00+01:00*", nil},
		{"a day is one of UTC: in New York this is one", Policy{Daily: 9}, "2026-11-02T18:30:00-05:00* 2026-11-02T19:30:00-05:00*", nil},
		{"the hour that comes twice when summer ends", Policy{Daily: 1, Last: 1}, "2026-10-25T02:30:00+02:00 2026-10-25T02:30:00+01:00*", nil},
		{"the day that has 23 hours when summer begins", Policy{Daily: 2}, "2026-03-28T23:30:00Z* 2026-03-29T00:30:00Z 2026-03-29T03:30:00+02:00*", nil},
		{"weeks begin on Monday", Policy{Weekly: 2}, "2026-11-15T00:00:00Z 2026-11-22T23:00:00Z* 2026-11-23T00:00:00Z 2026-11-25T00:00:00Z*", nil},
		{"a week lies in two years", Policy{Weekly: 2}, "2025-12-28T00:00:00Z* 2025-12-29T00:00:00Z 2026-01-04T00:00:00Z*", nil},
		{"months", Policy{Monthly: 2}, "2026-08-01T00:00:00Z 2026-09-30T23:59:59Z* 2026-10-01T00:00:00Z 2026-10-31T23:59:59Z*", nil},
		{"rules add up", Policy{Last: 1, Daily: 2, Monthly: 2}, "2026-09-01T00:00:00Z* 2026-10-01T00:00:00Z 2026-10-02T00:00:00Z* 2026-10-03T00:00:00Z 2026-10-03T09:00:00Z*", nil},
		{"what is not older", Policy{Within: 24 * time.Hour}, "2026-11-25T11:59:59Z 2026-11-25T12:00:00Z* 2026-11-26T00:00:00Z*", nil},
		{"the last good one is kept, however old", Policy{Within: time.Hour}, "2020-01-01T00:00:00Z 2020-01-02T00:00:00Z*", nil},
		{"one of tomorrow, as a clock was wrong", Policy{Within: time.Hour}, "2026-11-26T11:30:00Z* 2026-11-27T11:30:00Z*", nil},
		{"a damaged one does not count for last", Policy{Last: 2}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z* 2026-11-03T00:00:00Z!* 2026-11-04T00:00:00Z*", nil},
		{"nor for a day, and is not kept for one", Policy{Daily: 1}, "2026-11-03T00:00:00Z* 2026-11-03T09:00:00Z!", nil},
		{"a damaged one is kept within", Policy{Within: 24 * time.Hour}, "2026-11-20T00:00:00Z* 2026-11-26T09:00:00Z!*", nil},
		{"an old damaged one goes", Policy{Last: 1}, "2026-11-01T00:00:00Z! 2026-11-02T00:00:00Z*", nil},
		{"the newest is damaged, and the last good one is kept", Policy{Last: 1}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z* 2026-11-03T00:00:00Z!*", nil},
		{"all are damaged", Policy{Last: 1}, "2026-11-01T00:00:00Z!* 2026-11-02T00:00:00Z!*", nil},
		{"a pinned one", Policy{Last: 1}, "2026-11-01T00:00:00Z* 2026-11-02T00:00:00Z 2026-11-03T00:00:00Z*", map[string]Pin{"0": {}}},
		{"a pin counts for no rule", Policy{Last: 1}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z*", map[string]Pin{"1": {}}},
		{"a pin that holds by a second", Policy{Last: 1}, "2026-11-01T00:00:00Z* 2026-11-02T00:00:00Z*", map[string]Pin{"0": {Until: at(t, "2026-11-26T12:00:01Z")}}},
		{"a pin that is over", Policy{Last: 1}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z*", map[string]Pin{"0": {Until: at(t, now)}}},
		{"a pin that was taken off", Policy{Last: 1}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z*", map[string]Pin{"0": {Gone: true}}},
		{"a damaged one is pinned", Policy{Last: 1}, "2026-11-01T00:00:00Z!* 2026-11-02T00:00:00Z*", map[string]Pin{"0": {Note: "for the analysis"}}},
		{"the newest cannot be restored: the last that can stays, and it too", Policy{Last: 1}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z* 2026-11-03T00:00:00Z?*", nil},
		{"one that cannot be restored takes no other's place", Policy{Last: 2}, "2026-11-01T00:00:00Z 2026-11-02T00:00:00Z* 2026-11-03T00:00:00Z?* 2026-11-04T00:00:00Z*", nil},
		{"nor that of a day", Policy{Daily: 1}, "2026-11-02T09:00:00Z 2026-11-03T08:00:00Z* 2026-11-03T09:00:00Z?*", nil},
		{"one that cannot be restored goes when it would go otherwise", Policy{Last: 1}, "2026-11-01T00:00:00Z? 2026-11-02T00:00:00Z*", nil},
		{"none can be restored", Policy{Last: 1}, "2026-11-01T00:00:00Z?* 2026-11-02T00:00:00Z?*", nil},
		{"there is none", Policy{Last: 1}, "", nil},
	} {
		t.Run(c.reason, func(t *testing.T) {
			var commits []Commit
			var want []bool
			cannot := make(map[string]error)
			for i, s := range strings.Fields(c.backups) {
				ended := at(t, strings.TrimRight(s, "!?*"))
				commits = append(commits, Commit{ID: string(rune('0' + i)), Ended: ended, Damaged: strings.Contains(s, "!")})
				if strings.Contains(s, "?") {
					cannot[commits[i].ID] = errors.New("log is missing")
				}
				want = append(want, strings.HasSuffix(s, "*"))
			}
			verdicts := Plan(commits, c.policy, c.pins, cannot, at(t, now))
			if len(verdicts) != len(commits) {
				t.Fatalf("%d verdicts, want %d", len(verdicts), len(commits))
			}
			for i, v := range verdicts {
				if v.Keep != want[i] || v.Reason == "" || v.Commit.Damaged != commits[i].Damaged || strings.Contains(v.Reason, "log is missing") != (cannot[v.Commit.ID] != nil) || v.Commit.ID != commits[i].ID {
					t.Errorf("backup %v: keep %v because %q, want %v", commits[i].Ended, v.Keep, v.Reason, want[i])
				}
			}
		})
	}
}

func TestPins(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		c := newCluster(t, encrypted)
		begun := at(t, "2026-11-26T12:00:00Z")
		one := take(t, c, tree{{path: "a"}: []byte("a")}, rng(1), SinkOptions{})
		other := take(t, c, tree{{path: "a"}: []byte("b")}, rng(1), SinkOptions{})
		if err := c.Pin(t.Context(), Pin{Backup: "none", Made: begun}); err == nil {
			t.Error("a backup was pinned that is not there")
		}
		if err := c.Pin(t.Context(), Pin{Backup: one.ID, Until: begun.Add(time.Hour), Note: "audit", Made: begun}); err != nil {
			t.Fatal(err)
		}
		if err := c.Forget(t.Context(), one.ID, begun); err == nil || !strings.Contains(err.Error(), "audit") {
			t.Errorf("a pinned backup was forgotten: %v", err)
		}
		if err := c.Unpin(t.Context(), one.ID, begun.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		pins, err := c.Pins(t.Context())
		if err != nil || len(pins) != 1 || pins[one.ID].Holds(begun) {
			t.Errorf("pins %v, %v", pins, err)
		}
		if err := c.Pin(t.Context(), Pin{Backup: one.ID, Made: begun.Add(time.Minute)}); err != nil { // at once: it is kept
			t.Fatal(err)
		}
		if pins, _ := c.Pins(t.Context()); !pins[one.ID].Holds(begun.AddDate(100, 0, 0)) {
			t.Errorf("pins %v", pins)
		}
		if err := c.Forget(t.Context(), other.ID, begun); err != nil {
			t.Fatal(err)
		}
		if err := c.Unpin(t.Context(), one.ID, begun.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := c.Forget(t.Context(), one.ID, begun); err == nil || !strings.Contains(err.Error(), "last") {
			t.Errorf("the last backup was forgotten: %v", err)
		}
	}
}

// TestForgetLastReadable has the index of the other backup not be readable: the one that is left is kept.
func TestForgetLastReadable(t *testing.T) {
	c := newCluster(t, true)
	kept := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}
	one := take(t, c, kept, rng(1), SinkOptions{})
	other := take(t, c, tree{{path: "a"}: []byte("b")}, rng(1), SinkOptions{})
	c = reopen(t, c, with(t, memory(c), c.partName(other.Blocks[0][0].ID), []byte("no part")))
	if err := c.Forget(t.Context(), one.ID, time.Now()); err == nil || !strings.Contains(err.Error(), other.ID) {
		t.Errorf("the last backup that can be read was forgotten: %v", err)
	}
	if err := c.Forget(t.Context(), other.ID, time.Now()); err != nil {
		t.Error(err)
	}
	compare(t, c, one.ID, kept)
}

// TestForgetLastRestorable has the newest backup not be restorable, since its log is missing, or since verify has found a pack
// damaged: the one before it is kept, and the newest may go.
func TestForgetLastRestorable(t *testing.T) {
	const size = 4 << 20
	kept := tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}
	other := tree{{path: "a"}: []byte("another"), {path: "global/pg_control"}: []byte("d")}
	begun := time.Now().Add(-24 * time.Hour)
	for _, test := range []struct {
		reason string
		log    []uint64 // segments that are there: both end where 8 begins, and the newest begins in 6, the other in 7
		damage bool     // verify finds the pack of the newest damaged
		can    bool     // the newest can be restored
	}{
		{"all is there", []uint64{4, 5, 6, 7}, false, true},
		{"log is missing", []uint64{7}, false, false},
		{"a pack is damaged", []uint64{4, 5, 6, 7}, true, false},
		{"no log is there, of both", nil, false, true}, // as good as the other
	} {
		t.Run(test.reason, func(t *testing.T) {
			c := newCluster(t, true)
			one := takeFrom(t, c, kept, wal.Position{LSN: 7*size + 0x28, Timeline: 1}, begun)
			newest := takeFrom(t, c, other, wal.Position{LSN: 6*size + 0x28, Timeline: 1}, begun.Add(time.Hour))
			putLog(t, c, 1, test.log...)
			if test.damage {
				var name string
				err := c.eachExtent(t.Context(), newest, func(_ key, x extent) error {
					name = c.packName(x.at.pack)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				c = reopen(t, c, with(t, memory(c), name, []byte("no pack")))
				if _, err := c.Verify(t.Context(), VerifyOptions{}, func(Damage) {}); err != nil {
					t.Fatal(err)
				}
			}
			err := c.Forget(t.Context(), one.ID, time.Now())
			if (err == nil) != test.can || err != nil && !strings.Contains(err.Error(), newest.ID) {
				t.Errorf("the older was forgotten: %v", err)
			}
			if test.can {
				return
			}
			commits, err := c.Backups(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			cannot, err := c.CannotRestore(t.Context(), commits)
			if err != nil || len(cannot) != 1 || cannot[newest.ID] == nil {
				t.Errorf("cannot be restored: %v, %v", cannot, err)
			}
			if err := c.Forget(t.Context(), newest.ID, time.Now()); err != nil {
				t.Error(err)
			}
			compare(t, c, one.ID, kept)
		})
	}
}
