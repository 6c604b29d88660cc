package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"basin/internal/repo"
	"basin/internal/wal"
)

// What is left of a cluster before pg_upgrade goes if it is asked for, when the time is over, and prune removes what is left of it.
func TestForgetSuperseded(t *testing.T) {
	location, ids := newRepository(t)
	run := func(args ...string) string {
		t.Helper()
		said, err := callBasin(t, append(args, "--repository="+location)...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return said
	}
	if said := run("forget", "--keep-last=1", "--keep-superseded=1h", "-n"); strings.Contains(said, ids[0]) {
		t.Errorf("no backup of the new one can be restored: %s", said)
	}
	c := clusterOfShop(t, location, 7)
	for _, number := range []uint64{2, 3} {
		segment := wal.Segment{Timeline: 3, Number: number}
		if err := c.PushLog(t.Context(), segment.Name(wal.DefaultSegmentSize), forgedSegment(7, segment, "x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"--keep-last=1"}, {"--keep-last=1", "--keep-superseded=1000w"}, {"--keep-superseded=1h", "--system-id=7"}} {
		if said := run(append([]string{"forget", "-n"}, args...)...); strings.Contains(said, ids[0]) {
			t.Errorf("%v: %s", args, said)
		}
	}
	said := run("forget", "--keep-superseded=1h", "-n")
	if !strings.Contains(said, "forget  "+ids[0]+"  the cluster is superseded: nothing came of it since 2026-11-26T20:05:00Z") || !strings.Contains(said, "keep  "+ids[1]) ||
		!strings.Contains(said, "cluster shop, system identifier 99\n") {
		t.Errorf("said %s", said)
	}
	if _, err := callBasin(t, "forget", "--repository="+location, "--system-id=99", ids[0]); err == nil {
		t.Error("the last backup was removed by its name")
	}
	var got struct {
		DryRun   bool
		Clusters []struct {
			Cluster, SystemID, Superseded string
			Backups                       []verdictListing
		}
	}
	_, text, _ := strings.Cut("\n"+run("forget", "--keep-last=1", "--keep-superseded=1h", "--json"), "\n{")
	if err := json.Unmarshal([]byte("{"+text[:strings.LastIndex(text, "}")+1]), &got); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	if got.DryRun || len(got.Clusters) != 2 || got.Clusters[0].SystemID != "7" || got.Clusters[1].Superseded != "2026-11-26T20:05:00Z" {
		t.Fatalf("got %s", text)
	}
	for i, want := range []verdictListing{{ids[1], false, "no rule keeps it", true}, {ids[2], true, "it is one of the last 1", false}} {
		if have := got.Clusters[0].Backups[i]; have != want {
			t.Errorf("got %v, want %v", have, want)
		}
	}
	if have := got.Clusters[1].Backups[0]; have.ID != ids[0] || have.Keep || !have.Forgotten {
		t.Errorf("got %v", have)
	}
	for _, dry := range []string{"--dry-run", "--keep-superseded=1h"} {
		said := run("prune", dry, "--json")
		_, text, _ := strings.Cut("\n"+said, "\n{")
		var pruned pruneListing
		if err := json.Unmarshal([]byte("{"+text[:strings.LastIndex(text, "}")+1]), &pruned); err != nil {
			t.Fatalf("%v in %s", err, said)
		}
		if len(pruned.Clusters) != 2 || pruned.DryRun != (dry == "--dry-run") || pruned.Clusters[1].Packs == 0 || pruned.Clusters[1].Left != 0 || pruned.Clusters[0].Backups != 1 {
			t.Errorf("%s: %s", dry, said)
		}
	}
	if said := run("prune"); !strings.Contains(said, "cluster shop, system identifier 99\nof 0 backups: 0 packs") {
		t.Errorf("said %s", said)
	}
	run("show", ids[2])
}

// TestForgetCountsWhatIsWhole has a pack of the newest backup be cut, or gone, which nobody has verified: rules keep as many as they say beside it.
func TestForgetCountsWhatIsWhole(t *testing.T) {
	for _, left := range []int64{70, -1} { // bytes of the pack, of which 64 are its head; less than zero removes it
		location, ids := newRepository(t)
		packs := func() []string {
			names, err := filepath.Glob(filepath.Join(location, "shop/7/packs/*"))
			if err != nil {
				t.Fatal(err)
			}
			return names
		}
		pushSegments(t, clusterOfShop(t, location, 7), 2, 3, 4)
		before := packs()
		r, err := openRepository(t.Context(), repositoryOptions{Location: location})
		if err != nil {
			t.Fatal(err)
		}
		newest := takeBackup(t, r, "shop", 7, 3, repo.SinkOptions{})
		said, err := callBasin(t, "forget", "--repository="+location, "--keep-last=2", "-n")
		if err != nil || !strings.Contains(said, "forget  "+ids[1]) {
			t.Fatalf("when all is there: %s, %v", said, err)
		}
		for _, name := range packs() {
			if slices.Contains(before, name) {
				continue
			}
			if err := errors.Join(os.Chmod(name, 0o600), os.Truncate(name, max(left, 0))); err != nil {
				t.Fatal(err)
			}
			if left >= 0 {
				continue
			}
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		said, err = callBasin(t, "forget", "--repository="+location, "--keep-last=2")
		if err != nil || !strings.Contains(said, "keep  "+ids[1]) || !strings.Contains(said, "keep  "+ids[2]) ||
			!strings.Contains(said, "keep  "+newest.ID+"  it is one of the last 2; it cannot be restored: ") {
			t.Errorf("with %d bytes: %s, %v", left, said, err)
		}
		if _, err := callBasin(t, "show", "--repository="+location, ids[1]); err != nil {
			t.Error(err)
		}
	}
}
