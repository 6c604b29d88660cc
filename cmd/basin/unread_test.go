package main

import (
	"context"
	"errors"
	"strings"
	"testing"

	"basin/internal/object"
	"basin/internal/object/disk"
	"basin/internal/repo"
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
