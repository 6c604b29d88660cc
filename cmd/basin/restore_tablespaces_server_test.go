package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// TestRestoreMadeTablespaces restores a cluster whose tablespaces were made after the backup: recovery makes them again, and needs the directory of
// each, also of one that was dropped.
func TestRestoreMadeTablespaces(t *testing.T) {
	t.Parallel()
	for _, major := range []int{14, pgtest.Newest} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			k := keep(t, newProgram(t, "basin"), major, nil)
			places := filepath.Join(pgtest.TempDir(t), "places")
			place := func(name string) string { return filepath.Join(places, name) }
			prepare := func(names ...string) {
				t.Helper()
				for _, name := range names {
					if err := os.MkdirAll(place(name), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				pgtest.Own(t, places)
			}
			prepare("one", "dropped", "twice")
			k.backUp(t, false)
			before := k.Query(t, "SELECT pg_current_wal_insert_lsn()")
			for _, name := range []string{"one", "dropped", "twice"} {
				k.Exec(t, "CREATE TABLESPACE "+name+" LOCATION '"+place(name)+"'")
			}
			k.Exec(t, "CREATE TABLE in_one TABLESPACE one AS SELECT generate_series(1, 1000) n", "DROP TABLESPACE dropped",
				"DROP TABLESPACE twice", "CREATE TABLESPACE again LOCATION '"+place("twice")+"'", "CREATE TABLE in_again TABLESPACE again AS SELECT 1 n")
			m := k.mark(t)
			k.archived(t)
			k.Stop(t, pgtest.Fast)

			plan := func(args ...string) ending {
				t.Helper()
				return k.run(t, "restore", append([]string{"--dry-run", "-D", filepath.Join(pgtest.TempDir(t), "data")}, args...)...)
			}
			plan().says(t, exitFailure, "recovery would write into it", `in "`+place("one")+`", which is there`, "move away what is in it")
			if e := plan("--target-lsn", before); e.status != exitSuccess || strings.Contains(e.stdout, places) {
				t.Errorf("a target before they were made: %v", e)
			}
			moved := 0
			leave := func() { // for another host
				t.Helper()
				moved++
				if err := os.Rename(places, places+strconv.Itoa(moved)); err != nil {
					t.Fatal(err)
				}
			}
			leave()
			plan().says(t, exitSuccess, `in "`+place("one")+`" is made by recovery`, `in "`+place("dropped")+`" is made by recovery`, `in "`+place("twice")+`" is made by recovery`,
				"--tablespace-mapping cannot move")
			plan("--format=tar").says(t, exitSuccess, `in "`+place("one")+`" is made by recovery`, "an empty directory must be there")
			var result restoreResult
			if e := plan("--json"); json.Unmarshal([]byte(e.stdout), &result) != nil || len(result.Made) != 4 || result.Made[0].Location != place("one") || len(result.Emptied) != 0 {
				t.Error(e)
			}
			absent(t, places)

			prepare("dropped", "elsewhere") // as somebody does who was told by a server that it is missing
			if err := os.Symlink(place("elsewhere"), place("twice")); err != nil {
				t.Fatal(err)
			}
			dir := k.place(t)
			if info, err := os.Stat(place("one")); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%v, %v", info, err)
			}
			s := k.open(t, dir, nil)
			s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			if got := s.Query(t, "SELECT count(*), (SELECT count(*) FROM in_again) FROM in_one"); got != "1000|1" {
				t.Errorf("there are %s rows", got)
			}
			if len(entries(t, place("elsewhere"))) != 1 {
				t.Error("recovery has made a tablespace somewhere else")
			}
			s.Stop(t, pgtest.Fast)

			// In place they are emptied, and made if somebody has removed one.
			if err := os.RemoveAll(place("one")); err != nil {
				t.Fatal(err)
			}
			k.run(t, "restore", "-D", dir, "--no-sync", "--delta", "--discard-wal", "--target-lsn", m.lsn, "--target-action=promote").says(t, exitSuccess, `in "`+place("twice")+`" is emptied`)
			s.Start(t)
			m.recovered(t, s)
			s.Stop(t, pgtest.Fast)

			leave()
			standby := k.open(t, k.place(t, "--standby"), nil)
			standby.WaitFor(t, "SELECT to_regclass('in_again') IS NOT NULL", "t")
			if got := standby.Query(t, "SELECT count(*), pg_is_in_recovery() FROM in_one"); got != "1000|t" {
				t.Errorf("a standby has %s", got)
			}
		})
	}
}

// TestRestoreTablespaceWithin restores a cluster with tablespaces in its data directory to where it was, also one that recovery makes.
func TestRestoreTablespaceWithin(t *testing.T) {
	t.Parallel()
	k := keep(t, newProgram(t, "basin"), pgtest.Newest, nil)
	fill := func(name string) {
		t.Helper()
		dir := filepath.Join(k.DataDir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, dir)
		k.Exec(t, "CREATE TABLESPACE "+name+" LOCATION '"+dir+"'", "CREATE TABLE in_"+name+" TABLESPACE "+name+" AS SELECT generate_series(1, 1000) n")
	}
	fill("within")
	k.backUp(t, false)
	fill("later")
	m := k.mark(t)
	k.archived(t)
	k.Stop(t, pgtest.Fast)

	for _, name := range entries(t, k.DataDir) {
		if err := os.RemoveAll(filepath.Join(k.DataDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-D", k.DataDir, "--no-sync", "--target-lsn", m.lsn, "--target-action=promote"}
	k.run(t, "restore", args...).succeeded(t)
	k.Start(t)
	m.recovered(t, k.Server)
	k.Stop(t, pgtest.Fast)

	k.run(t, "restore", append(args, "--delta", "--discard-wal")...).succeeded(t)
	k.Start(t)
	m.recovered(t, k.Server)
}

// TestRestoreTablespaceMadeMeanwhile restores a backup during whose first checkpoint a tablespace was made: it is in the backup, and all the same recovery
// makes it, where it was.
func TestRestoreTablespaceMadeMeanwhile(t *testing.T) {
	t.Parallel()
	k := keep(t, newProgram(t, "basin"), pgtest.Newest, nil)
	k.Exec(t, "CREATE TABLE marks AS SELECT generate_series(1, 200000) n") // of which the checkpoint takes its time
	running := k.basin.start(t, k.env, k.words("backup", "-d", k.ConnString(), "-c", "spread")...)
	k.WaitFor(t, "SELECT phase FROM pg_stat_progress_basebackup", "waiting for checkpoint to finish")
	place := filepath.Join(pgtest.TempDir(t), "meanwhile")
	if err := os.Mkdir(place, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, place)
	k.Exec(t, "CREATE TABLESPACE meanwhile LOCATION '"+place+"'", "CREATE TABLE in_meanwhile TABLESPACE meanwhile AS SELECT generate_series(1, 1000) n", "CHECKPOINT")
	running.wait(t).succeeded(t)
	k.archived(t)
	k.Stop(t, pgtest.Fast)
	if err := os.Rename(place, place+"1"); err != nil { // on another host there is none
		t.Fatal(err)
	}
	for _, mapping := range [][]string{nil, {"-T", place + "=" + filepath.Join(pgtest.TempDir(t), "mapped")}} {
		s := k.restore(t, append(mapping, "--target-immediate", "--target-action=promote")...)
		s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		if got := s.Query(t, "SELECT count(*) FROM in_meanwhile"); got != "1000" {
			t.Errorf("with %q there are %s rows", mapping, got)
		}
		s.Stop(t, pgtest.Fast)
		if err := os.RemoveAll(place); err != nil {
			t.Fatal(err)
		}
	}
}
