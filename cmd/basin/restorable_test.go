package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/repo"
)

// TestWhyLogIsMissing has log be missing behind a backup, since prune has removed it or since it was lost: list and show say which it is.
func TestWhyLogIsMissing(t *testing.T) {
	for _, test := range []struct {
		reason  string
		thin    bool
		lost    []uint64 // segments that somebody removes
		resumes uint64   // segment in which there is log again
		cause   string
		says    string
	}{
		{"it was thinned", true, nil, 7, gapThinned, "behind that log was removed by prune --keep-log, up to "},
		{"it was lost", false, []uint64{5}, 6, gapLost, "behind that log is lost, up to "},
		{"it was thinned, and what the next backup needs was lost", true, []uint64{7}, 8, gapLost, "behind that log is lost, up to "},
	} {
		t.Run(test.reason, func(t *testing.T) {
			location, _ := newRepository(t)
			c := clusterOfShop(t, location, 7)
			first := takeWhole(t, c)
			sink := c.NewSink(repo.SinkOptions{Now: func() time.Time { return firstBackup.Add(4 * time.Hour) }})
			source := &wholeSource{smallSource: smallSource{at: 0x7000028, text: string(forgedControl(7))}}
			if err := errors.Join(backup.Copy(t.Context(), sink, source, backup.Options{}), sink.Close()); err != nil {
				t.Fatal(err)
			}
			pushSegments(t, c, 2, 3, 4, 5, 6, 7, 8)
			if test.thin {
				if _, err := c.PruneLog(t.Context(), repo.PruneLogOptions{Now: time.Now().Add(100 * time.Hour), Within: time.Hour}); err != nil {
					t.Fatal(err)
				}
			}
			for _, number := range test.lost {
				if err := os.Remove(filepath.Join(location, "shop/7/wal/00000003/00000000", fmt.Sprintf("0000000300000000%08X", number))); err != nil {
					t.Fatal(err)
				}
			}
			resumes := fmt.Sprintf("0000000300000000%08X", test.resumes)
			var all listing
			if err := readJSON(t, &all, "list", "--repository="+location, "--system-id=7"); err != nil {
				t.Fatal(err)
			}
			isTold := slices.ContainsFunc(all.Clusters[0].Restorable[0].Windows, func(w windowListing) bool { return w.Resumes == resumes && w.Cause == test.cause })
			if !isTold {
				t.Errorf("windows are %+v", all.Clusters[0].Restorable)
			}
			var one backupListing
			if err := readJSON(t, &one, "show", "--repository="+location, "--system-id=7", first.ID); err != nil || len(one.Leads) != 1 || one.Leads[0].Resumes != resumes || one.Leads[0].Cause != test.cause {
				t.Errorf("%+v, %v", one.Leads, err)
			}
			for _, args := range [][]string{{"list"}, {"show", first.ID}} {
				said, err := callBasin(t, append(args, "--repository="+location, "--system-id=7")...)
				if err != nil || !strings.Contains(said, test.says+resumes) {
					t.Errorf("%s, %v", said, err)
				}
			}
		})
	}
}
