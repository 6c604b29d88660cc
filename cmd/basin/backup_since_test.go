package main

import (
	"strings"
	"testing"

	"basin/internal/repo"
	"basin/internal/wal"
)

// A timeline of a parent is not taken for the server's because it has the same number.
func TestTimelineOfParent(t *testing.T) {
	for _, test := range []struct {
		reason, known string // what the repository has; nothing if it has no history
		want          string // empty is that it is the same
	}{
		{"nobody knows where it comes from", "", "00000003.history is not in the repository"},
		{"it comes from the same places", "1\t0/1000000\tx\n2\t0/1800000\tx\n", ""},
		{"it comes from another place", "1\t0/1000000\tx\n2\t0/1900000\tx\n", "is not the server's of that number"},
		{"it left the first timeline there, too, and never was on the second", "1\t0/1000000\tx\n", "is not the server's of that number"},
		{"it comes from another timeline", "1\t0/1800000\tx\n", "is not the server's of that number"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			location, ids := newRepository(t)
			_, c, err := openCluster(t.Context(), repositoryOptions{Location: location, SystemID: 7})
			if err != nil {
				t.Fatal(err)
			}
			if test.known != "" {
				if err := c.PushLog(t.Context(), wal.HistoryName(3), []byte(test.known), 0); err != nil {
					t.Fatal(err)
				}
			}
			parent := repo.Commit{ID: ids[2], Stop: wal.Position{LSN: 0x3000128, Timeline: 3}}
			err = checkSameTimeline(t.Context(), c, &parent, wal.History{{Timeline: 1, End: 0x1000000}, {Timeline: 2, End: 0x1800000}, {Timeline: 3, End: 0x4000000}})
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
