package repo

import (
	"testing"
	"time"

	"basin/internal/wal"
)

// TestHoles notes log that was given up, and looks which backups lead on behind it.
func TestHoles(t *testing.T) {
	now := time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)
	var h Hole
	h.Add("000000020000000000000005", now, "down")
	h.Add("000000020000000000000006", now.Add(time.Minute), "down still")
	want := Hole{"000000020000000000000005", "000000020000000000000006", 2, now, now.Add(time.Minute), "", "down still"}
	if h != want {
		t.Fatalf("got %+v", h)
	}
	c := newCluster(t, false)
	earlier := Hole{First: "a", Last: "a", Files: 1, Since: now.Add(-time.Hour)}
	for _, hole := range []Hole{h, earlier} {
		if err := c.PutHole(t.Context(), hole); err != nil {
			t.Fatal(err)
		}
	}
	if holes, err := c.Holes(t.Context()); err != nil || len(holes) != 2 || holes[0] != earlier || holes[1] != h {
		t.Errorf("got %+v, error %v", holes, err)
	}
	for _, test := range []struct {
		reason string
		lsn    wal.LSN
		on     wal.Timeline
		began  time.Duration // since the first was given up
		want   bool
	}{
		{"it begins before", 0x4000028, 2, -time.Hour, false},
		{"it begins in it", 0x6000028, 2, time.Hour, false},
		{"it begins behind it", 0x7000000, 2, time.Hour, true},
		{"it was begun before, and its log begins behind", 0x7000028, 2, 0, true},
		{"it is of a later timeline that left this one earlier", 0x3000028, 3, time.Hour, true},
		{"it is of a later timeline, and was there before", 0x3000028, 3, 0, false},
		{"it is of a timeline that was left", 0x9000028, 1, time.Hour, false},
	} {
		k := Commit{SegmentSize: wal.DefaultSegmentSize, Start: wal.Position{LSN: test.lsn, Timeline: test.on}, Began: now.Add(test.began)}
		if got := h.IsBehind(k); got != test.want {
			t.Errorf("%s: %v", test.reason, got)
		}
	}
}
