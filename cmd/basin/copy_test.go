package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basin/internal/repo"
	"basin/internal/wal"
)

// What prune has removed of the log in the other repository does not come back with the next copy.
func TestCopyHeedsThinnedLog(t *testing.T) {
	location, ids := newRepository(t)
	r, err := openRepository(t.Context(), repositoryOptions{Location: location})
	if err != nil {
		t.Fatal(err)
	}
	parent, err := clusterOfShop(t, location, 7).Backup(t.Context(), ids[2])
	if err != nil {
		t.Fatal(err)
	}
	takeBackup(t, r, "shop", 7, 6, repo.SinkOptions{Parent: &parent})
	c := clusterOfShop(t, location, 7)
	push := func(numbers ...uint64) {
		t.Helper()
		for _, number := range numbers {
			segment := wal.Segment{Timeline: 3, Number: number}
			if err := c.PushLog(t.Context(), segment.Name(wal.DefaultSegmentSize), forgedSegment(7, segment, "x"), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	push(2, 3, 4, 5, 6, 7, 8)
	other := filepath.Join(t.TempDir(), "other")
	if _, err := callBasin(t, "init", other); err != nil {
		t.Fatal(err)
	}
	copied := func() (result copyResult) {
		t.Helper()
		said, err := callBasin(t, "copy", "--repository="+location, "--system-id=7", "--to="+other, "--json")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(said[strings.Index(said, "{"):strings.LastIndex(said, "}")+1]), &result); err != nil {
			t.Fatalf("%v in %s", err, said)
		}
		return result
	}
	if first := copied(); len(first.Backups) != 3 || first.LogFiles != 8 { // with the history
		t.Fatalf("copied were %+v", first)
	}
	_, target, err := openCluster(t.Context(), repositoryOptions{Location: other})
	if err != nil {
		t.Fatal(err)
	}
	report, err := target.PruneLog(t.Context(), repo.PruneLogOptions{Now: time.Now().Add(100 * time.Hour), Within: 20 * time.Hour})
	if err != nil || report.Files != 3 {
		t.Fatalf("%+v, %v", report, err)
	}
	push(9)
	if next := copied(); len(next.Backups) != 0 || next.LogFiles != 1 {
		t.Errorf("copied were %+v", next)
	}
}
