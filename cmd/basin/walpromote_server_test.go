package main

import (
	"os"
	"path/filepath"
	"testing"

	"basin/internal/pgtest"
)

// TestPromotionKeepsWhatWasReceived promotes a standby that has received, and replayed, more of a segment than the part of it
// that a backup has brought into the repository. The standby archives what it restores, too.
func TestPromotionKeepsWhatWasReceived(t *testing.T) {
	t.Setenv("BASIN_CONFIG", os.DevNull)
	location := filepath.Join(pgtest.TempDir(t), "repository")
	basin := newProgram(t, "basin")
	run := func(args ...string) {
		t.Helper()
		if e := basin.run(t, os.Environ(), args...); e.status != exitSuccess {
			t.Fatal(e)
		}
	}
	run("init", location)
	pgtest.Own(t, location)
	const environment = "BASIN_CONFIG=" + os.DevNull + " "
	settings := map[string]string{
		"archive_mode": "always", "archive_command": environment + basin.path + " wal push --repository " + location + " %p",
		"restore_command": guarded(environment + basin.path + " wal get --repository=" + location + " %f %p"),
		"wal_level":       "replica", "max_wal_senders": "6", "autovacuum": "off",
	}
	primary := pgtest.Start(t, pgtest.Config{Conf: settings})
	primary.Exec(t, "CREATE TABLE written (n int)")
	standby := primary.Standby(t, settings)
	primary.Exec(t, "CHECKPOINT")
	primary.WaitReplay(t, standby)
	run("backup", "--repository", location, "-d", standby.ConnString(), "-c", "fast") // which cannot switch to another segment
	if parts, err := filepath.Glob(filepath.Join(location, "main", "*", "wal", "*", "*", "*.part*")); err != nil || len(parts) == 0 {
		t.Fatalf("no part of a segment is there: %v", err)
	}
	pgtest.Own(t, location)
	primary.Exec(t, "INSERT INTO written SELECT generate_series(1, 1000)")
	primary.WaitReplay(t, standby)
	primary.Kill(t)
	standby.Promote(t)
	if rows := standby.Query(t, "SELECT count(*) FROM written"); rows != "1000" {
		t.Errorf("%s rows are there\n%s", rows, standby.Log(t))
	}
	standby.WaitFor(t, "SELECT archived_count > 0 FROM pg_stat_archiver", "t")
}
