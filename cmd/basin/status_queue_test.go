package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"basin/internal/repo"
)

// TestLocalStatus has log given up on this host, and the repository answer or not: that is critical in any case. Of a data
// directory that is on another host it is not said that no log waits in it.
func TestLocalStatus(t *testing.T) {
	location, _ := newRepository(t)
	spool, config := t.TempDir(), filepath.Join(t.TempDir(), "basin.toml")
	write(t, config, fmt.Sprintf("[repository.local]\nlocation = %q\n[cluster.shop]\nrepositories = [\"local\"]\nspool = %q\nqueue_max = \"4MiB\"\ndata_directory = %q\n",
		location, spool, filepath.Join(spool, "elsewhere")))
	t.Setenv("BASIN_CONFIG", config)
	hole := droppedIn{Hole: repo.Hole{}, Tried: time.Now()}
	hole.Add("000000030000000000000099", time.Now(), "the disk is full")
	dropped := droppedLog{Cluster: "shop", SystemID: "7", Repositories: map[string]*droppedIn{location: &hole}}
	if err := dropped.write(filepath.Join(spool, droppedName("shop", 7, "/data/pg_wal"))); err != nil {
		t.Fatal(err)
	}
	for reason, unanswered := range map[string]string{
		"all answers": "", "what backups there are": "shop/7/backups/", "a part of the log": "shop/7/wal/", "which log is missing": "shop/7/facts/",
	} {
		r, o := statusReport{Time: time.Now().UTC()}, defaultStatus()
		if err := r.readClusters(t.Context(), failingRepository(t, location, unanswered), []repo.ClusterName{{Name: "shop", SystemID: 7}}, &o); err != nil {
			t.Fatal(err)
		}
		s := r.Clusters[0]
		if r.State != stateCritical || len(s.Holes) != 1 || s.Holes[0].Repository != location {
			t.Errorf("%s: %v, log that was given up %v, problems %v", reason, r.State, s.Holes, s.Problems)
		}
		if s.Queue != nil {
			t.Errorf("%s: %d bytes wait, of which nothing is known", reason, s.Queue.Bytes)
		}
	}
}
