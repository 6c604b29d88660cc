package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/object"
	"basin/internal/object/disk"
	"basin/internal/repo"
	"basin/internal/wal"
)

// failingRepository opens a repository in a folder whose store fails at calls that are about some name.
func failingRepository(t *testing.T, location, name string) *repo.Repository {
	t.Helper()
	store, err := disk.Open(location, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.Context(), &object.Failing{Store: store, Fail: func(_ context.Context, c object.Call) object.Fault {
		if name != "" && strings.Contains(c.Name, name) {
			return object.Before
		}
		return object.None
	}}, repo.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Which of several clusters has the newest backup is no guess.
func TestNewestCluster(t *testing.T) {
	location, ids := newRepository(t)
	for _, test := range []struct {
		reason, name string // that the store does not answer about
		want         uint64 // zero is an error
	}{
		{"all answers", "", 7},
		{"the newest backup", ids[2], 0},
		{"an older one of the same cluster", ids[1], 7},
		{"one of the other cluster", ids[0], 7},
		{"what the cluster has", "shop/7/backups/", 0},
		{"what the other has", "shop/99/backups/", 0},
	} {
		t.Run(test.reason, func(t *testing.T) {
			c, err := place{Cluster: "shop"}.chooseCluster(t.Context(), failingRepository(t, location, test.name), repositoryOptions{})
			switch {
			case test.want == 0:
				if !errors.Is(err, object.ErrFault) || errors.Is(err, errNoCluster) {
					t.Errorf("chosen is %v, error %v", c, err)
				}
			case err != nil || c.Name().SystemID != test.want:
				t.Errorf("chosen is %v, error %v", c, err)
			}
		})
	}
}

// What could not be read of the log is told as that, in the listing and by its status, beside what is known; it is not
// told that something cannot be restored.
func TestListUnread(t *testing.T) {
	location, ids := newRepository(t)
	r, err := openRepository(t.Context(), repositoryOptions{Location: location})
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Cluster("shop", 7)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PushLog(t.Context(), wal.HistoryName(3), []byte("1\t0/1000000\tbefore\n"), 0); err != nil {
		t.Fatal(err)
	}
	got, err := callBasin(t, "list", "--repository="+location, "--system-id=7")
	if err != nil || !strings.Contains(got, "cannot be restored: timeline 3: log that backup "+ids[1]+" needs is missing") {
		t.Errorf("with log missing: %s, %v", got, err)
	}
	found, err := filepath.Glob(filepath.Join(location, "shop", "7", "wal", "*", "*.history"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	content, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(found[0], bytes.ToUpper(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"list"}, {"list", "--json"}, {"show", "latest"}} {
		got, err := callBasin(t, append(args, "--repository="+location, "--system-id=7")...)
		if err == nil || !strings.Contains(got, ids[2]) || strings.Contains(got, "annot be restored") {
			t.Errorf("%v: %s, %v", args, got, err)
		}
	}
}

// Verify tells how far it is, if it is asked to.
func TestVerifyShowsProgress(t *testing.T) {
	location, _ := newRepository(t)
	c := clusterOfShop(t, location, 7)
	for _, number := range []uint64{2, 3} {
		segment := wal.Segment{Timeline: 3, Number: number}
		if err := c.PushLog(t.Context(), segment.Name(wal.DefaultSegmentSize), forgedSegment(7, segment, "x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	got, err := callBasin(t, "verify", "--repository="+location, "--system-id=7")
	if err != nil || strings.Contains(got, "%") {
		t.Errorf("%s, %v", got, err)
	}
	got, err = callBasin(t, "verify", "--repository="+location, "--system-id=7", "-P")
	if err != nil || !strings.Contains(got, "0 parts of index\n") || !strings.Contains(got, " of packs (100%), 3 files of the log\n") {
		t.Errorf("%s, %v", got, err)
	}
}
