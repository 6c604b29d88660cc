package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/pgtest"
	"basin/internal/repo"
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
	// No rule removes what alone leads there, and nobody who names it.
	k.run(t, "forget", "--keep-last=1", "-n").says(t, exitSuccess, "keep  "+first+"  it is the newest that leads to timeline 2", "keep  "+second)
	k.run(t, "forget", first).says(t, exitFailure, "is the only one that leads to timeline 2")

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
	k.run(t, "restore", dry...).says(t, exitSuccess, "timeline 3, which left timeline 1 at", "was written to while timeline 1 was; it is not restored", "backup    "+second, ", timeline 1:")
	before := k.mark(t)
	end := k.Query(t, "SELECT pg_switch_wal()") // behind the last record of its segment
	k.backUp(t, false)
	insert("g")
	k.Stop(t, pgtest.Fast)
	for target, want := range map[string]string{"--target-time=" + before.time: "a b c f", "--target-lsn=" + before.lsn: "a b c f", "--target-name=" + before.name: "a b c f", "--target-lsn=" + end: "a b c f", "": "a b c f g"} {
		args := []string{"--target-action=promote", target}
		if target == "" {
			args = nil
		}
		s := k.restore(t, args...)
		s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		if got := rows(s); got != want {
			t.Errorf("with %q there is %q, want %q", target, got, want)
		}
		s.Stop(t, pgtest.Fast)
	}
	standby := k.restore(t, "--standby")
	standby.WaitFor(t, "SELECT count(*) FROM rows WHERE x = 'g'", "1")
	standby.Stop(t, pgtest.Fast)
}

// TestRestoreHistoryAlone has a cluster be restored to an earlier moment, and have archived its timeline's history and no segment: what was behind the moment is
// not taken for that timeline's.
func TestRestoreHistoryAlone(t *testing.T) {
	t.Parallel()
	k := keep(t, newProgram(t, "basin"), pgtest.Newest, nil)
	rows := func(s *pgtest.Server) string {
		t.Helper()
		s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		defer s.Stop(t, pgtest.Fast)
		return s.Query(t, "SELECT string_agg(x, ' ' ORDER BY x) FROM rows")
	}
	k.Exec(t, "CREATE TABLE marks (n int)", "CREATE TABLE rows (x text)")
	k.backUp(t, false)
	k.Exec(t, "INSERT INTO rows VALUES ('a')")
	m := k.mark(t)
	k.Exec(t, "INSERT INTO rows VALUES ('b')")
	k.archived(t)
	k.Stop(t, pgtest.Fast)
	s := k.open(t, k.place(t, "--target-name", m.name, "--target-action=promote", "--keep-archive-mode"), nil)
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	s.WaitFor(t, "SELECT archived_count > 0 FROM pg_stat_archiver", "t")
	s.Stop(t, pgtest.Immediate)

	none := []string{"-D", filepath.Join(pgtest.TempDir(t), "none")}
	k.run(t, "restore", append(none, "--dry-run")...).says(t, exitSuccess, "timeline 2 left timeline 1 at", "nothing that happened on it is in the repository")
	k.run(t, "restore", append(none, "--standby", "--target-timeline=2")...).says(t, exitFailure, "none of its log is in the repository", "pg_switch_wal")
	if got := rows(k.open(t, k.placeWarned(t), nil)); got != "a b" {
		t.Errorf("what is there is %q", got)
	}
	if got := rows(k.restore(t, "--target-timeline=2")); got != "a" {
		t.Errorf("what timeline 2 began with is %q", got)
	}
}

// TestRestoreBehindSwitch has a cluster archive nothing, and be lost after a backup: of the last segment there is what the backup took along, up to
// where the server left it. What the restored cluster archives then follows that without a gap.
func TestRestoreBehindSwitch(t *testing.T) {
	t.Parallel()
	k := keep(t, newProgram(t, "basin"), 15, nil)
	k.Exec(t, "CREATE TABLE rows (x text)", "INSERT INTO rows VALUES ('a')", "ALTER SYSTEM SET archive_command = 'false'", "SELECT pg_reload_conf()")
	k.backUp(t, false)
	k.Stop(t, pgtest.Immediate)
	archive := map[string]string{"archive_command": k.conf()["archive_command"]}
	s := k.open(t, k.place(t, "--keep-archive-mode"), archive)
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	s.Exec(t, "INSERT INTO rows VALUES ('b')")
	name := s.Query(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	s.Exec(t, "SELECT pg_switch_wal()")
	s.WaitFor(t, "SELECT last_archived_wal >= '"+name+"' FROM pg_stat_archiver", "t")
	s.Stop(t, pgtest.Fast)

	for _, args := range [][]string{nil, {"--target-timeline=2"}} {
		s := k.restore(t, args...)
		s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		if got := s.Query(t, "SELECT string_agg(x, ' ' ORDER BY x) FROM rows"); got != "a b" {
			t.Errorf("with %q there is %q", args, got)
		}
		s.Stop(t, pgtest.Fast)
	}
	standby := k.restore(t, "--standby")
	standby.WaitFor(t, "SELECT count(*) FROM rows", "2")
	standby.Stop(t, pgtest.Fast)
}

// TestRestoreBeforeMinimalLog has a cluster be written to with wal_level=minimal for a while, as for a load, and archive all of it: what comes later is
// restored with a backup that was taken later.
func TestRestoreBeforeMinimalLog(t *testing.T) {
	t.Parallel()
	k := keep(t, newProgram(t, "basin"), 18, nil)
	level := func(level, senders, mode string) {
		t.Helper()
		k.Exec(t, "ALTER SYSTEM SET wal_level = "+level, "ALTER SYSTEM SET max_wal_senders = "+senders, "ALTER SYSTEM SET archive_mode = "+mode)
		k.Stop(t, pgtest.Fast)
		k.Start(t)
	}
	rows := func(want string, args ...string) {
		t.Helper()
		s := k.restore(t, args...)
		s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		if got := s.Query(t, "SELECT string_agg(x, ' ' ORDER BY x) FROM rows"); got != want {
			t.Errorf("with %q there is %q, want %q", args, got, want)
		}
		s.Stop(t, pgtest.Fast)
	}
	k.Exec(t, "CREATE TABLE marks (n int)", "CREATE TABLE rows (x text)", "INSERT INTO rows VALUES ('a')")
	k.backUp(t, false)
	k.Exec(t, "INSERT INTO rows VALUES ('b')")
	level("minimal", "0", "off")
	k.Exec(t, "INSERT INTO rows VALUES ('c')")
	level("replica", "10", "on")
	k.Exec(t, "INSERT INTO rows VALUES ('d')")
	after := k.Query(t, "SELECT clock_timestamp()")
	k.Exec(t, "CHECKPOINT") // has all of it be archived
	k.archived(t)
	k.WaitFor(t, "SELECT count(*) FROM pg_ls_dir('pg_wal/archive_status') s WHERE s LIKE '%.ready'", "0")

	k.run(t, "status").says(t, 2, "the server wrote log with wal_level=minimal", "take one")
	k.run(t, "list").says(t, exitSuccess, "the server wrote log with wal_level=minimal")
	k.run(t, "restore", "-D", filepath.Join(pgtest.TempDir(t), "none"), "--target-time", after).says(t, exitFailure, "wal_level=minimal", "backups that were taken later")
	rows("a b")
	k.backUp(t, false)
	k.Exec(t, "INSERT INTO rows VALUES ('e')")
	k.archived(t)
	k.run(t, "status", "--max-verify-age=off").says(t, 0)
	rows("a b c d e")
}

// TestRestoreOfAnotherClock has a backup be taken by a host whose clock is an hour behind the server's: by that it ended before a time, and yet it has
// what was committed later.
func TestRestoreOfAnotherClock(t *testing.T) {
	t.Parallel()
	k := keep(t, newProgram(t, "basin"), pgtest.Newest, nil)
	k.Exec(t, "CREATE TABLE marks (n int)", "CREATE TABLE rows (x text)")
	k.backUp(t, false)
	k.Exec(t, "INSERT INTO rows VALUES ('a')")
	m := k.mark(t)
	k.Exec(t, "INSERT INTO rows VALUES ('b')")
	k.WaitFor(t, "SELECT clock_timestamp() > '"+m.time+"'::timestamptz + interval '1 s'", "t") // to which a checkpoint is exact
	k.backUp(t, false)
	k.archived(t)

	// The same in another repository, with the clock of the second backup put back.
	var clusters []*repo.Cluster
	other := newStore(t, k.basin, nil, false)
	id, err := strconv.ParseUint(systemIDIn(t, k.DataDir), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, location := range []string{k.location, other.location} {
		r, err := openRepository(t.Context(), repositoryOptions{Location: location, ConfigFile: os.DevNull})
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.Cluster("main", id)
		if err != nil {
			t.Fatal(err)
		}
		clusters = append(clusters, c)
	}
	commits, err := clusters[0].Backups(t.Context())
	if err != nil || len(commits) != 2 {
		t.Fatal(len(commits), err)
	}
	for i, as := range commits {
		source := clusters[0].NewSource(as, repo.SourceOptions{})
		if i == 1 {
			as.Began, as.Ended = as.Began.Add(-time.Hour), as.Ended.Add(-time.Hour)
		}
		sink := clusters[1].NewSink(repo.SinkOptions{As: &as})
		if err := errors.Join(backup.Copy(t.Context(), sink, source, backup.Options{}), sink.Close(), source.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for name, err := range clusters[0].LogNames(t.Context(), 1, "") {
		if err == nil && repo.IsSegment(name) {
			var content []byte
			if content, err = clusters[0].Log(t.Context(), name); err == nil {
				err = clusters[1].PushLog(t.Context(), name, content, 0)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Own(t, other.location)
	k.store = other

	target := []string{"--target-time", m.time, "--target-action=promote"}
	k.run(t, "restore", append(target, "-D", filepath.Join(pgtest.TempDir(t), "none"), "--backup", commits[1].ID)...).says(t, exitFailure, "has what was there at", "clocks")
	s := k.restore(t, target...)
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := s.Query(t, "SELECT string_agg(x, ' ' ORDER BY x) FROM rows"); got != "a" {
		t.Errorf("there is %q", got)
	}
}

// placeWarned is place without options, of which warnings are expected.
func (k *kept) placeWarned(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(pgtest.TempDir(t), "data")
	k.run(t, "restore", "-D", dir, "--no-sync").says(t, exitSuccess, "warning: ")
	return dir
}
