package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// TestRestoreReplacedLine has a cluster be restored to an earlier moment, and go on and archive: what was behind that moment is left out from
// then on, unless its timeline is named, or goes on. A restore that ends before the fork leaves the timeline on which it ends, so that those that come later
// find their way.
func TestRestoreReplacedLine(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, 17, nil)
	rows := func(s *pgtest.Server) string { return s.Query(t, "SELECT string_agg(x, ' ' ORDER BY x) FROM rows") }
	// open starts a copy that archives, has it write a row, and stops it once that is archived.
	open := func(row string, args ...string) (dir, was string) {
		t.Helper()
		dir = k.place(t, append(args, "--target-action=promote", "--keep-archive-mode")...)
		s := k.open(t, dir, nil)
		s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		was = rows(s)
		s.Exec(t, "INSERT INTO rows VALUES ('"+row+"')")
		name := s.Query(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
		s.Exec(t, "SELECT pg_switch_wal()")
		s.WaitFor(t, "SELECT last_archived_wal >= '"+name+"' FROM pg_stat_archiver", "t")
		s.Stop(t, pgtest.Fast)
		return dir, was
	}
	insert := func(row string) {
		t.Helper()
		k.Exec(t, "INSERT INTO rows VALUES ('"+row+"')")
		k.archived(t)
	}
	k.Exec(t, "CREATE TABLE marks (n int)", "CREATE TABLE rows (x text)")
	k.backUp(t, false)
	first := k.run(t, "show", "latest").stdout[len("backup"):]
	first = strings.Fields(first)[0]
	insert("a")
	m := k.mark(t)
	insert("b")
	k.backUp(t, false)
	insert("c")
	second := strings.Fields(k.run(t, "show", "latest").stdout[len("backup"):])[0]
	k.Stop(t, pgtest.Fast)

	if _, was := open("d", "--target-time", m.time); was != "a" {
		t.Errorf("at the mark there was %q", was)
	}
	dry := []string{"-D", filepath.Join(pgtest.TempDir(t), "none"), "--dry-run"}
	k.run(t, "restore", dry...).says(t, exitSuccess, "timeline 2 left timeline 1 at", "backup "+second+" is: it is left out", "backup    "+first, ", timeline 2:")
	k.run(t, "restore", append(dry, "--target-timeline=1")...).says(t, exitSuccess, "backup    "+second, ", timeline 1:")
	k.run(t, "status").says(t, 1, "timeline 2 left timeline 1")
	latest := k.restore(t)
	latest.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := rows(latest); got != "a d" {
		t.Errorf("what is latest is %q", got)
	}
	latest.Stop(t, pgtest.Fast)

	// The end of the first backup is before timeline 2 began.
	dir, was := open("e", "--backup="+first, "--target-immediate")
	if was != "" {
		t.Errorf("at the end of the first backup there was %q", was)
	}
	oneLine := func(dir, name string) {
		t.Helper()
		history, err := os.ReadFile(filepath.Join(dir, "pg_wal", name))
		if err != nil || strings.Count(strings.TrimSpace(string(history)), "\n") != 0 || !strings.HasPrefix(string(history), "1\t") {
			t.Errorf("the history is %q, %v", history, err)
		}
	}
	oneLine(dir, "00000003.history")
	third := k.restore(t)
	third.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := rows(third); got != "e" {
		t.Errorf("what is latest behind that is %q", got)
	}
	third.Stop(t, pgtest.Fast)
	for _, timeline := range []struct{ number, rows string }{{"1", "a b c"}, {"2", "a d"}} {
		s := k.restore(t, "--target-timeline="+timeline.number)
		s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		if got := rows(s); got != timeline.rows {
			t.Errorf("timeline %s has %q, want %q", timeline.number, got, timeline.rows)
		}
		s.Stop(t, pgtest.Fast)
	}
	// A moment on the way to a timeline that began later.
	dir = k.place(t, "--backup="+first, "--target-name", m.name, "--target-action=promote", "--target-timeline=2")
	s := k.open(t, dir, nil)
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := rows(s); got != "a" {
		t.Errorf("at the mark there is %q", got)
	}
	oneLine(dir, "00000004.history")

	// The first goes on, as if the others had been copies that archive.
	k.Start(t)
	insert("f")
	k.run(t, "restore", dry...).says(t, exitSuccess, "timeline 3, which left timeline 1 at", "was written to while that was; it is not restored", "backup    "+second, ", timeline 1:")
}
