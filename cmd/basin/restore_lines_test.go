package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// A backup of a standby that lags behind may be the newest, and lead less far than an older one if log was thinned meanwhile.
func TestRestoreLeadsFurthest(t *testing.T) {
	location, ids := newRepository(t)
	c := clusterOfShop(t, location, 7)
	sink := c.NewSink(repo.SinkOptions{Now: func() time.Time { return firstBackup.Add(10 * time.Hour) }})
	err := backup.Copy(t.Context(), sink, &smallSource{at: 0x1000028, text: "control"}, backup.Options{})
	if err := errors.Join(err, sink.Close()); err != nil {
		t.Fatal(err)
	}
	for _, number := range []uint64{1, 3, 4, 5} { // of the standby's 1, and of the newest but that from 3 on
		segment := wal.Segment{Timeline: 3, Number: number}
		if err := c.PushLog(t.Context(), segment.Name(wal.DefaultSegmentSize), forgedSegment(7, segment, "x"), 0); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "none")
	said, err := callBasin(t, "restore", "--repository="+location, "--system-id=7", "-D", dir, "--dry-run")
	if err != nil || !strings.Contains(said, "an older backup than the newest is restored: from backup "+sink.Written().ID+" log is there up to 0/2000000 only") ||
		!strings.Contains(said, "backup    "+ids[2]) {
		t.Errorf("%s, %v", said, err)
	}
	// What is asked for in log that is not there is refused for that.
	_, err = callBasin(t, "restore", "--repository="+location, "--system-id=7", "-D", dir, "--dry-run", "--target-lsn=0/2800000")
	if err == nil || !strings.Contains(err.Error(), "log is missing behind 0/2000000") || !strings.Contains(usererr.Hint(err), "--keep-log") {
		t.Errorf("%v, hint %q", err, usererr.Hint(err))
	}
}

// No repository is made where a folder cannot be, and nothing hangs.
func TestInitWhereNothingCanBeMade(t *testing.T) {
	clearEnvironment(t)
	t.Setenv("BASIN_CONFIG", os.DevNull)
	dangling := filepath.Join(t.TempDir(), "dangling")
	if err := os.Symlink(filepath.Join(t.TempDir(), "none"), dangling); err != nil {
		t.Fatal(err)
	}
	for _, location := range []string{filepath.Join(dangling, "repository"), "/proc/basin/repository"} {
		if _, err := callBasin(t, "init", location); err == nil {
			t.Errorf("%s was made", location)
		}
	}
}
