package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"basin/internal/inplace"
	"basin/internal/pgtest"
)

// TestRestoreInPlace has a data directory go back to what it was, with all that may be in it by then.
func TestRestoreInPlace(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, pgtest.Newest, nil)
	one := k.Tablespace(t, "one")
	k.Exec(t, "CREATE TABLE large AS SELECT g, repeat('x', 500) FROM generate_series(1, 6000) g", "CREATE TABLE apart TABLESPACE one AS SELECT * FROM large")
	k.backUp(t, false)
	later := k.Tablespace(t, "later") // recovery makes it again
	k.Exec(t, "CREATE TABLE in_later TABLESPACE later AS SELECT * FROM large LIMIT 100", "UPDATE large SET g = g + 1 WHERE g < 100")
	m := k.mark(t)
	k.Exec(t, "INSERT INTO in_later SELECT * FROM large", "DROP TABLE apart", "CREATE TABLE stray AS SELECT 1")
	k.archived(t)
	k.Exec(t, "INSERT INTO marks VALUES (77)") // is nowhere but in pg_wal

	args := []string{"restore", "--repository", k.location, "-D", k.DataDir, "--target-lsn", m.lsn, "--target-action", "promote"}
	delta := append(args, "--delta")
	basin.run(t, nil, args...).says(t, exitFailure, "a server runs in", "pg_ctl stop")
	basin.run(t, nil, delta...).says(t, exitFailure, "a server runs in")
	k.Kill(t)
	basin.run(t, nil, args...).says(t, exitFailure, "exists but is not empty", "--delta")
	basin.run(t, nil, delta...).says(t, exitFailure, "not in the repository", "they would be lost, up to what was committed at", "basin salvage --repository="+k.location+" --cluster=main", "--discard-wal")
	if _, err := os.Stat(filepath.Join(k.DataDir, "global/pg_control")); err != nil {
		t.Errorf("a restore that was refused: %v", err)
	}
	for path, text := range map[string]string{"standby.signal": "", "base/1/stray": "x", "pg_replslot/stray/state": "x", "stray/deep/file": "x"} {
		path = filepath.Join(k.DataDir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := filepath.Join(one, "PG_9.6_201608131") // of another server, before an upgrade
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	// A file with another name, as pg_upgrade --link leaves them, is that of another cluster, too.
	linked := filepath.Join(k.DataDir, "PG_VERSION")
	alias := filepath.Join(pgtest.TempDir(t), "alias")
	if err := os.WriteFile(linked, []byte("wrong\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(linked, alias); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, k.DataDir)
	pgtest.Own(t, one)
	var plan restoreResult
	e := basin.run(t, nil, append(delta, "--discard-wal", "--dry-run", "--json")...)
	if err := json.Unmarshal([]byte(e.stdout), &plan); err != nil || e.status != exitSuccess || plan.Into != "in place" || len(plan.Emptied) != 1 || plan.Emptied[0].Location != later ||
		plan.RecoversTo.Kind != "lsn" || plan.RecoversTo.LSN.String() != m.lsn || plan.RecoversTo.Action != "promote" || len(plan.Tablespaces) != 1 || plan.Tablespaces[0].Directory != one {
		t.Errorf("%v, %v", e, err)
	}
	e = basin.run(t, nil, append(delta, "--discard-wal")...)
	if e.status != exitSuccess || !strings.Contains(e.stdout, "in place") || !strings.Contains(e.stdout, "is emptied: recovery makes it") {
		t.Fatal(e)
	}
	for _, path := range []string{"standby.signal", "base/1/stray", "pg_replslot/stray", "stray", "postmaster.pid", inplace.MarkerName} {
		absent(t, filepath.Join(k.DataDir, path))
	}
	present(t, other)
	if content, err := os.ReadFile(alias); err != nil || string(content) != "wrong\n" {
		t.Errorf("the other name of a file: %q, %v", content, err)
	}
	if len(entries(t, filepath.Join(k.DataDir, "pg_wal"))) > 2 {
		t.Errorf("pg_wal has %q", entries(t, filepath.Join(k.DataDir, "pg_wal")))
	}
	present(t, later)
	k.Start(t)
	m.recovered(t, k.Server)
	k.Stop(t, pgtest.Fast)

	// What a drill wrote is its own timeline's, and nobody has it.
	k.Start(t)
	k.Exec(t, "CREATE TABLE drill (n int)")
	k.Stop(t, pgtest.Fast)
	basin.run(t, nil, delta...).says(t, exitFailure, "not in the repository", "--discard-wal")
	e = basin.run(t, nil, append(delta, "--discard-wal")...)
	if e.status != exitSuccess {
		t.Fatal(e)
	}
	k.Start(t)
	m.recovered(t, k.Server)

	// Another cluster's directory is not taken for it.
	strange := pgtest.Start(t, pgtest.Config{Major: pgtest.Newest})
	strange.Stop(t, pgtest.Fast)
	over := []string{"restore", "--repository", k.location, "-D", strange.DataDir, "-T", one + "=" + filepath.Join(pgtest.TempDir(t), "one"), "--delta", "--target-immediate"}
	basin.run(t, nil, over...).says(t, exitFailure, "is of another cluster", "--over-cluster=")
	basin.run(t, nil, append(over, "--over-cluster=1")...).says(t, exitFailure, "is of another cluster")
}

// TestRestoreKilled kills a restore again and again. What it goes on with comes to the same as one that
// was never killed, to the byte, and never does a server start in what is there before.
func TestRestoreKilled(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, pgtest.Newest, nil)
	k.Exec(t, "CREATE TABLE large AS SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g")
	k.backUp(t, false)
	dir := pgtest.TempDir(t)
	whole, killed := filepath.Join(dir, "whole"), filepath.Join(dir, "killed")
	args := func(to string, more ...string) []string {
		return append([]string{"restore", "--repository", k.location, "-D", to, "--no-sync", "--target-immediate", "-j", "1"}, more...)
	}
	if e := basin.run(t, nil, args(whole)...); e.status != exitSuccess {
		t.Fatal(e)
	}
	count := func() (n int) {
		_ = filepath.WalkDir(killed, func(_ string, _ os.DirEntry, err error) error {
			if err == nil { // it is being changed
				n++
			}
			return nil
		})
		return n
	}
	isOver := func() bool {
		_, err := os.Stat(filepath.Join(killed, "global/pg_control"))
		return err == nil
	}
	kill := func(what string, more []string, moment func() bool) {
		t.Helper()
		p := basin.start(t, nil, args(killed, more...)...)
		eventually(t, what, func() bool {
			select {
			case <-p.done:
				return true
			default:
				return moment()
			}
		})
		_ = p.cmd.Process.Signal(syscall.SIGKILL) // it may have ended by itself
		e := p.wait(t)
		if e.signal != 0 && isOver() {
			t.Logf("%s: it had ended but for its last words", what)
		}
		if e.signal == 0 && e.status != exitSuccess {
			t.Fatal(e)
		}
	}
	n := len(readTree(t, whole))
	for _, part := range []int{0, 1, 3, 6, 9} { // tenths
		if isOver() {
			break
		}
		kill("after "+strconv.Itoa(part)+" tenths", nil, func() bool { return count() >= n*part/10 })
		if names, _ := os.ReadDir(killed); !isOver() && len(names) > 1 { // it may not be there yet
			present(t, filepath.Join(killed, inplace.MarkerName))
		}
	}
	if !isOver() {
		if e := basin.run(t, nil, args(killed)...); e.status != exitSuccess || !strings.Contains(e.stdout, "going on with a restore that did not end") {
			t.Fatal(e)
		}
	}
	sameTree(t, whole, killed)

	// In place, over what was damaged.
	for round := range 4 {
		var damaged []string
		for i, path := range []string{"global/1262", "base/1/1259", "base/5/1259", "pg_xact/0000"} {
			path = filepath.Join(killed, path)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if i >= round {
				content[5]++
				damaged = append(damaged, path)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		pgtest.Own(t, killed)
		want := map[string][]byte{}
		for _, path := range damaged {
			rel, _ := filepath.Rel(killed, path)
			content, err := os.ReadFile(filepath.Join(whole, rel))
			if err != nil {
				t.Fatal(err)
			}
			want[path] = content
		}
		kill("in place "+strconv.Itoa(round), []string{"--delta"}, func() bool {
			for path, content := range want {
				if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, content) {
					return true
				}
			}
			return false
		})
		if e := basin.run(t, nil, args(killed, "--delta")...); e.status != exitSuccess {
			t.Fatal(e)
		}
		sameTree(t, whole, killed)
	}
	absent(t, filepath.Join(killed, inplace.MarkerName))
	s := pgtest.StartDir(t, k.Major, killed, nil)
	if got := s.Query(t, "SELECT count(*) FROM large"); got != "10000" {
		t.Errorf("%s rows", got)
	}
}
