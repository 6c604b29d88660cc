package repo

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/wal"
)

// TestClippedHistory is of histories in which a timeline was left before it began.
func TestClippedHistory(t *testing.T) {
	for _, test := range []struct {
		reason     string
		have, want wal.History
	}{
		{"nothing", nil, nil},
		{"one", wal.History{{Timeline: 1, End: 7}}, wal.History{{Timeline: 1, End: 7}}},
		{"in order", wal.History{{Timeline: 1, End: 7}, {Timeline: 2, End: 7}, {Timeline: 3, End: 9}}, wal.History{{Timeline: 1, End: 7}, {Timeline: 2, End: 7}, {Timeline: 3, End: 9}}},
		{"left before it began", wal.History{{Timeline: 1, End: 7}, {Timeline: 2, End: 2}}, wal.History{{Timeline: 1, End: 2}}},
		{"two were", wal.History{{Timeline: 1, End: 7}, {Timeline: 2, End: 8}, {Timeline: 4, End: 2}}, wal.History{{Timeline: 1, End: 2}}},
		{"the last was", wal.History{{Timeline: 1, End: 3}, {Timeline: 2, End: 8}, {Timeline: 4, End: 5}}, wal.History{{Timeline: 1, End: 3}, {Timeline: 2, End: 5}}},
	} {
		if diff := cmp.Diff(test.want, clipped(test.have)); diff != "" {
			t.Errorf("%s: %s", test.reason, diff)
		}
	}
}

// TestMainLine is of clusters that were promoted, restored to earlier moments, and copied.
func TestMainLine(t *testing.T) {
	at := func(minutes int) time.Time { return time.Date(2026, 11, 26, 10, minutes, 0, 0, time.UTC) }
	life := func(timeline wal.Timeline, began, ended int) Life {
		return Life{Timeline: timeline, Began: at(began), Ended: at(ended)}
	}
	for _, test := range []struct {
		reason string
		lives  []Life
		want   wal.Timeline
	}{
		{"one", []Life{life(1, 0, 10)}, 1},
		{"a promotion", []Life{life(1, 0, 10), life(2, 11, 20)}, 2},
		{"the clock of the new primary is behind", []Life{life(1, 0, 10), {Timeline: 2, Began: at(10).Add(-20 * time.Second), Ended: at(20)}}, 2},
		{"a copy, while the first goes on", []Life{life(1, 0, 30), life(2, 11, 20)}, 1},
		{"a copy that was written to last", []Life{life(1, 0, 30), life(2, 11, 40)}, 1},
		{"a copy of what was replaced", []Life{life(1, 0, 10), life(2, 11, 40), life(3, 20, 25)}, 2},
		{"what was replaced is gone on with", []Life{life(1, 0, 10), life(2, 11, 20), life(3, 30, 40)}, 3},
		{"nothing but a history", []Life{life(1, 0, 10), {Timeline: 2}}, 1},
		{"the log of the first is gone", []Life{{Timeline: 1}, life(2, 11, 20)}, 2},
		{"no log at all", []Life{{Timeline: 1}, {Timeline: 2}}, 1},
	} {
		if main := MainLine(test.lives); main == nil || main.Timeline != test.want {
			t.Errorf("%s: %v, want %d", test.reason, main, test.want)
		}
	}
	if main := MainLine(nil); main != nil {
		t.Errorf("of none: %v", main)
	}
}
