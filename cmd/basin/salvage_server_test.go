package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

// TestSalvage kills a server that has not archived all that was committed, with segments in its pg_wal that hold
// older log under newer names: what is salvaged has all commits, and nothing else.
func TestSalvage(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, 17, map[string]string{"min_wal_size": "160MB", "wal_recycle": "on"})
	k.Exec(t, "CREATE TABLE commits (n int)")
	k.backUp(t, false)
	for range 4 { // segments are archived and used again
		k.Exec(t, "INSERT INTO commits VALUES (0)", "SELECT pg_switch_wal()")
	}
	k.WaitFor(t, "SELECT count(*) FROM pg_ls_dir('pg_wal/archive_status') s WHERE s LIKE '%.ready'", "0")
	k.Exec(t, "CHECKPOINT")
	k.Set(t, "archive_command", "false")
	for i := range 5 {
		k.Exec(t, fmt.Sprintf("INSERT INTO commits SELECT %d FROM generate_series(1, 1000)", i+1))
		if i < 3 {
			k.Exec(t, "SELECT pg_switch_wal()")
		}
	}
	sums := pgtest.Sums(t, k.Server)
	args := []string{"salvage", "--repository", k.location, k.DataDir}
	if e := basin.run(t, nil, args...); e.status != exitFailure || !strings.Contains(e.stderr, "a server runs in") {
		t.Errorf("while the server runs: %v", e)
	}
	current := k.Query(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	k.Kill(t)
	later := 0
	for _, name := range entries(t, filepath.Join(k.DataDir, "pg_wal")) {
		if len(name) == len(current) && name > current {
			later++
		}
	}
	if later == 0 {
		t.Error("no segment was made for later")
	}
	made, err := wal.ParseSegment(current, wal.DefaultSegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	made.Number += 100 // as PostgreSQL makes one where there is none to be used again
	if err := os.WriteFile(filepath.Join(k.DataDir, "pg_wal", made.Name(wal.DefaultSegmentSize)), make([]byte, wal.DefaultSegmentSize), 0o644); err != nil {
		t.Fatal(err)
	}
	first := basin.run(t, nil, args...)
	if first.status != exitSuccess || first.stderr != "" || !strings.Contains(first.stdout, "lead to all of it") || strings.HasPrefix(first.stdout, "0 files") {
		t.Fatal(first)
	}
	again := basin.run(t, nil, args...)
	if again.status != exitSuccess || !strings.HasPrefix(again.stdout, "0 files") {
		t.Errorf("once more: %v", again)
	}
	if _, rest, _ := strings.Cut(first.stdout, "\n"); !strings.HasSuffix(again.stdout, rest) {
		t.Errorf("at first\n%vand then\n%v", first.stdout, again.stdout)
	}
	for _, name := range entries(t, filepath.Join(k.location, "main", systemIDIn(t, k.DataDir), "wal", current[:8], current[8:16])) {
		if name[:24] > current || name == current {
			t.Errorf("%s is in the repository", name)
		}
	}
	copied := k.restore(t)
	mark{name: "the end", sums: sums}.recovered(t, copied)

	// What lies behind the end is not pushed, and a hole before it is told.
	saved := filepath.Join(pgtest.TempDir(t), "saved")
	if err := os.Mkdir(saved, 0o755); err != nil {
		t.Fatal(err)
	}
	at, err := wal.ParseSegment(current, wal.DefaultSegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	for _, number := range []uint64{at.Number - 1, at.Number} {
		name := wal.Segment{Timeline: 1, Number: number}.Name(wal.DefaultSegmentSize)
		content, err := os.ReadFile(filepath.Join(k.DataDir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		if number == at.Number-1 {
			content[5<<20] ^= 1
			clear(content[8192*3 : 8192*3+20])
		}
		write(t, filepath.Join(saved, name), string(content))
	}
	pgtest.Own(t, saved)
	other := filepath.Join(pgtest.TempDir(t), "other")
	if e := basin.run(t, nil, "init", other); e.status != exitSuccess {
		t.Fatal(e)
	}
	if e := basin.run(t, nil, "salvage", "--repository", other, saved); e.status != exitFailure || !strings.Contains(e.stderr, "has nothing of the cluster") {
		t.Errorf("another repository: %v", e)
	}
	if e := basin.run(t, nil, "copy", "--repository", k.location, "--to", other, "latest"); e.status != exitSuccess {
		t.Fatal(e)
	}
	e := basin.run(t, nil, "salvage", "--repository", other, saved)
	if e.status != exitGap || !strings.Contains(e.stderr, "no backup leads to it") || !strings.Contains(e.stdout, "1 segment behind that, from "+current) {
		t.Errorf("with a hole: %v", e)
	}
}

// systemIDIn returns the number of the cluster in a data directory.
func systemIDIn(t *testing.T, dir string) string {
	t.Helper()
	id, err := systemIDOf(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return strconv.FormatUint(id, 10)
}
