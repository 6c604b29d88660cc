package repo

import (
	"testing"

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
