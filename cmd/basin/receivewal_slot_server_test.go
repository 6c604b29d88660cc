package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

const slots = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots"

// TestSlotsOfAllHosts makes and drops slots on each server that is named.
func TestSlotsOfAllHosts(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	primary := pgtest.Start(t, pgtest.Config{})
	standby := primary.Standby(t, nil)
	kept := primary.Query(t, slots) // the standby's own
	has := func(slot string) {
		t.Helper()
		for _, s := range []*pgtest.Server{primary, standby} {
			if got := strings.TrimSpace(strings.TrimPrefix(s.Query(t, slots), kept)); got != slot {
				t.Errorf("a server has the slots %q, not %q", got, slot)
			}
		}
	}
	server := []string{"-d", hosts(primary, standby) + " target_session_attrs=primary", "-S", "zz_of_both"}
	run := func(args ...string) ending {
		t.Helper()
		return basin.run(t, nil, append(args, server...)...)
	}
	run("--create-slot").succeeded(t)
	has("zz_of_both")
	run("--create-slot").failed(t, `replication slot "zz_of_both" already exists`)
	run("--create-slot", "--if-not-exists").succeeded(t)
	has("zz_of_both")
	standby.Exec(t, "SELECT pg_drop_replication_slot('zz_of_both')")
	run("--create-slot", "--if-not-exists").succeeded(t)
	has("zz_of_both")
	run("--drop-slot").succeeded(t)
	has("")
	run("--drop-slot").failed(t, `replication slot "zz_of_both" does not exist`)

	standby.Stop(t, pgtest.Fast)
	run("--create-slot").failed(t, "Connection refused", fmt.Sprint(standby.Port))
	if got := primary.Query(t, slots); got != strings.TrimSpace(kept+" zz_of_both") {
		t.Errorf("the server that is there has the slots %q", got)
	}
}

// TestReceiverTold ends receivers by a signal.
func TestReceiverTold(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		args   []string
		suffix string
	}{
		{"told_none", syscall.SIGTERM, nil, ".partial"},
		{"told_gzip", syscall.SIGINT, []string{"-Z", "gzip"}, ".gz.partial"},
		{"told_lz4", syscall.SIGTERM, []string{"-Z", "lz4", "--synchronous"}, ".lz4.partial"},
		{"told_zstd", syscall.SIGINT, []string{"-Z", "zstd", "--no-sync"}, ".zst.partial"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			archive := pgtest.TempDir(t)
			s := pgtest.Start(t, archivingConfig(archive))
			r := newLogReceiver(t, basin, s, newReceivedLog(t, s, archive), test.name, append(test.args, "-v", "-s", "1")...)
			p := r.start(t)
			end := writeSome(t, s)
			s.WaitFor(t, fmt.Sprintf("SELECT coalesce(max(write_lsn), '0/0') >= '%v' FROM pg_stat_replication WHERE application_name = '%s'", end, test.name), "t")

			second := basin.run(t, nil, r.args...)
			second.failed(t, "is in use by another process")

			e := p.ends(t, test.signal)
			e.said(t, "received interrupt signal, exiting")
			e.hasNoComplaint(t)
			s.WaitFor(t, fmt.Sprintf("SELECT restart_lsn >= '%v' FROM pg_replication_slots WHERE slot_name = '%s'", end, test.name), "t")
			r.log.has(t, "flushed", end)
			name := wal.SegmentAt(wal.Position{LSN: end, Timeline: 1}, segmentSize).Name(segmentSize) + test.suffix
			present(t, filepath.Join(r.log.path, name))

			// What is missing comes from where the other one has stopped.
			if n := r.finish(t, s); n < 1 {
				t.Error("no segment")
			}
		})
	}
}

// writeSome writes some log that does not fill a segment, and returns where it ends.
func writeSome(t *testing.T, s *pgtest.Server) wal.LSN {
	t.Helper()
	return lsn(t, s, "SELECT pg_logical_emit_message(true, 'some', repeat('some ', 5000))")
}

// TestReceiverOfEachMajor streams some segments of servers of every major up to a
// position, and has PostgreSQL's own program read them.
func TestReceiverOfEachMajor(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	for _, major := range pgtest.Majors() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			config := pgtest.Config{Major: major}
			size := wal.LSN(wal.DefaultSegmentSize)
			if major > 10 {
				config.WALSegmentSizeMB, size = segmentSize>>20, segmentSize
			}
			s := pgtest.Start(t, config)
			basin.run(t, nil, "-d", s.ConnString(), "-S", "each", "--create-slot").succeeded(t)
			dir := pgtest.TempDir(t)
			begin := lsn(t, s, "SELECT pg_current_wal_lsn()")
			begin -= begin % size
			p := basin.start(t, nil, "-D", dir, "-d", s.ConnString(), "-S", "each", "-v", "-n", "-E", (begin + 3*size).String())
			s.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1")
			var records wal.LSN // where the last record before the end position ends
			for range 3 {
				records = writeSome(t, s)
				s.Exec(t, "SELECT pg_switch_wal()")
			}
			writeSome(t, s) // a byte beyond has to come
			e := p.wait(t)
			if e.status != exitSuccess || e.signal != 0 {
				t.Fatalf("%s", e)
			}
			e.said(t, fmt.Sprintf("starting log streaming at %v (timeline 1)", begin),
				fmt.Sprintf("finished segment at %v (timeline 1)", begin+size),
				fmt.Sprintf("finished segment at %v (timeline 1)", begin+3*size), "stopped log streaming at ")
			checkSegments(t, s, dir, begin, records)
		})
	}
}

// checkSegments compares the three complete segments with those of a server that has
// removed none, and reads them.
func checkSegments(t *testing.T, s *pgtest.Server, dir string, begin, end wal.LSN) {
	t.Helper()
	complete := slices.DeleteFunc(entries(t, dir), func(name string) bool { return !regexp.MustCompile("^[0-9A-F]{24}$").MatchString(name) })
	if len(complete) != 3 {
		t.Fatalf("complete are %q", complete)
	}
	for _, name := range complete {
		if out, err := runShell(dir, fmt.Sprintf("cmp %s %s", name, filepath.Join(s.DataDir, "pg_wal", name))).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	if pgtest.Full(s.Major) {
		tool(t, s.Major, "pg_waldump", "--quiet", "-p", dir, "-s", begin.String(), "-e", end.String())
	}
}
