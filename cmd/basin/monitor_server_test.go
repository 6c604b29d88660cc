package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

// says fails the test unless a program ended with a status and printed all of the texts.
func (e ending) says(t *testing.T, status int, texts ...string) {
	t.Helper()
	if e.status != status {
		t.Fatalf("status %d, and %d was wanted\n%s%s", e.status, status, e.stdout, e.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(e.stdout+e.stderr, text) {
			t.Errorf("not said: %q, but\n%s%s", text, e.stdout, e.stderr)
		}
	}
}

// TestMonitoring goes with a cluster from its first check to a restore that is confirmed.
func TestMonitoring(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range pgtest.Majors() {
		if major != 14 && major != 18 {
			continue
		}
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			k := keep(t, basin, major, map[string]string{"max_prepared_transactions": "5"})
			at, server := "--repository="+k.location, "--dbname="+k.ConnString()
			basin.run(t, nil, "check", at, server).says(t, exitSuccess, "✓ connection", "✓ store", "✓ archive_command",
				"! cluster main", "nothing of it is in the repository yet", "no errors")
			k.Exec(t, "CREATE ROLE watcher LOGIN")
			watcher := "--dbname=" + strings.Replace(k.ConnString(), "user=postgres", "user=watcher", 1)
			refused := basin.run(t, nil, "check", at, watcher, "--pgdata="+k.DataDir)
			refused.says(t, exitFailure, "✗ privileges", `ALTER ROLE "watcher" REPLICATION;`)
			var grants []string
			for line := range strings.Lines(refused.stdout) {
				if _, statement, ok := strings.Cut(line, "→   "); ok && strings.HasSuffix(statement, ";\n") {
					grants = append(grants, statement)
				}
			}
			k.Exec(t, grants...)
			basin.run(t, nil, "check", at, watcher, "--pgdata="+k.DataDir).says(t, exitSuccess, "✓ privileges", "✓ replication", "✓ data directory")

			k.backUp(t, false)
			k.Exec(t, "CREATE TABLE t (n int)", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'left'")
			m := k.mark(t)
			k.archived(t)
			k.stops(t, m)
			basin.run(t, nil, "check", at, server).says(t, exitSuccess, "✓ cluster main", "recovery point", "✓ archiver")
			basin.run(t, nil, "list", at).says(t, exitSuccess, "restorable on timeline 1: from 20")
			basin.run(t, nil, "show", at, "latest").says(t, exitSuccess, "restorable", "on timeline 1")
			k.watch(t, at, server)
			k.confirm(t, at, m)
		})
	}
}

// watch sees what status tells while all is well, and when the archive_command fails.
func (k *kept) watch(t *testing.T, at, server string) {
	t.Helper()
	metrics := filepath.Join(pgtest.TempDir(t), "basin.prom")
	k.basin.run(t, nil, "status", at, server, "--prometheus="+metrics).says(t, 0, "BASIN OK - main: backup ", " | clusters=1 critical=0 warning=0 unknown=0 'main backup age'=")
	content, err := os.ReadFile(metrics)
	if err != nil || !strings.Contains(string(content), `basin_cluster_state{cluster="main",system_identifier="`) || !strings.Contains(string(content), "basin_repository_readable 1\n") {
		t.Errorf("metrics are %s, error %v", content, err)
	}
	k.basin.run(t, nil, "status", at, "--max-backup-age=1m:2m", "--max-verify-age=off", "--max-log-age=off").says(t, 0, "never verified")
	var report statusReport
	e := k.basin.run(t, nil, "status", at, server, "--json")
	if err := json.Unmarshal([]byte(e.stdout), &report); err != nil || len(report.Clusters) != 1 || report.Clusters[0].RecoveryPoint == nil || report.Clusters[0].Server == nil {
		t.Errorf("%v: %s", err, e.stdout)
	}
	k.Exec(t, "ALTER SYSTEM SET archive_command = 'false'", "SELECT pg_reload_conf()")
	k.WaitFor(t, "SHOW archive_command", "false")
	k.Exec(t, "INSERT INTO marks VALUES (3)", "SELECT pg_switch_wal()")
	k.WaitFor(t, "SELECT failed_count > 0 FROM pg_stat_archiver", "t")
	k.basin.run(t, nil, "status", at, server).says(t, 2, "BASIN CRITICAL - main: archiver: fails")
	k.basin.run(t, nil, "check", at, server).says(t, exitFailure, "✗ archiver", "is not basin wal push")
}

// confirm restores to a mark, and has each step confirmed.
func (k *kept) confirm(t *testing.T, at string, m mark) {
	t.Helper()
	dir := filepath.Join(pgtest.TempDir(t), "data")
	if e := k.basin.run(t, nil, "restore", at, "-D", dir, "--no-sync", "--target-name", m.name); e.status != exitSuccess {
		t.Fatal(e)
	}
	restored := func(args ...string) ending {
		return k.basin.run(t, nil, append([]string{"restored", "-U", "postgres", dir}, args...)...)
	}
	restored().says(t, exitFailure, "not started", "pg_ctl start")
	s := pgtest.StartDir(t, k.Major, dir, nil)
	restored("--wait=60").says(t, exitSuccess, `restore point "mark 0"`, "yes: recovery pauses at its target", "not known before recovery has ended")
	k.basin.run(t, []string{"PGUSER="}, "restored", dir).says(t, exitFailure, "does not exist", "-U names the role")
	auto := filepath.Join(dir, "postgresql.auto.conf")
	settings, err := os.ReadFile(auto)
	if err != nil {
		t.Fatal(err)
	}
	other := append(settings, "recovery_target_name = 'another'\n"...)
	if err := os.WriteFile(auto, other, 0o600); err != nil { // as if it had been paused by hand, on its way there
		t.Fatal(err)
	}
	restored("--wait=60").says(t, exitFailure, "paused by somebody before its target")
	if err := os.WriteFile(auto, settings, 0o600); err != nil {
		t.Fatal(err)
	}
	restored("-d", k.ConnString()).says(t, exitFailure, "is another one") // the source, which has the same number
	s.Exec(t, "SELECT pg_wal_replay_resume()")
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	restored("--wait=60").says(t, exitSuccess, "promoted, on timeline 2", `at restore point "mark 0"`, "last transaction", "'left' of postgres in postgres")
	s.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'basin'", "SELECT pg_reload_conf()") // as it may come with the backup
	s.WaitFor(t, "SHOW synchronous_standby_names", "basin")
	restored().says(t, exitSuccess, "for synchronous_standby_names = 'basin', of which too few are there")
	s.Stop(t, pgtest.Fast)
	restored().says(t, exitSuccess, "stopped, on timeline 2", `at restore point "mark 0"`, "last transaction  20")
}

// stops sees where recovery would stop for a mark, by the log of its source: what ends or begins there tells, and a pause
// anywhere else is somebody's.
func (k *kept) stops(t *testing.T, m mark) {
	t.Helper()
	d := &restoredDir{path: k.DataDir}
	at, err := wal.ParseLSN(m.lsn)
	if err != nil {
		t.Fatal(err)
	}
	segment := wal.SegmentAt(wal.Position{LSN: at, Timeline: 1}, wal.DefaultSegmentSize)
	content, err := os.ReadFile(filepath.Join(k.DataDir, "pg_wal", segment.Name(wal.DefaultSegmentSize)))
	if err != nil {
		t.Fatal(err)
	}
	moment, err := time.Parse("2006-01-02 15:04:05.999999-07", m.time)
	if err != nil {
		t.Fatal(err)
	}
	xid, err := strconv.ParseUint(m.xid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	wants := map[restoredTarget]wal.LSN{} // where recovery stops for each
	targets := map[string]restoredTarget{
		"name": {kind: "name", value: m.name, inclusive: true}, "time": {kind: "time", value: m.time, inclusive: true},
		"xid": {kind: "xid", value: m.xid, inclusive: true}, "before xid": {kind: "xid", value: m.xid},
	}
	var ends []wal.LSN
	records := wal.NewRecordReader(bytes.NewReader(content), segment.Start(wal.DefaultSegmentSize), wal.DefaultSegmentSize)
	for last := wal.LSN(0); ; last = records.End() {
		r, err := records.Next()
		if err != nil {
			break
		}
		ends = append(ends, r.End)
		note := func(name string, at wal.LSN) {
			if wants[targets[name]] == 0 {
				wants[targets[name]] = at
			}
		}
		if point, ok := r.RestorePoint(); ok && point.Name == m.name {
			note("name", r.End)
		}
		end, ok := r.Commit()
		if ok && end.Time.After(moment) {
			note("time", last)
		}
		if ok && end.XID == uint32(xid) {
			note("before xid", last)
			note("xid", r.End)
		}
	}
	if len(wants) != len(targets) {
		t.Fatalf("found are %v", wants)
	}
	ends = ends[len(ends)-min(len(ends), 60):]
	for target, want := range wants {
		for _, at := range append(ends, want) {
			if at > want && target.kind == "time" { // to where recovery does not come
				continue
			}
			as := map[bool]stop{true: stopAtTarget, false: stopElsewhere}[at == want]
			if got := d.stopAt(target, at); got != as && !(got == stopUnknown && at == ends[len(ends)-1]) {
				t.Errorf("%v, stops at %v: at %v it is %d, want %d", target, want, at, got, as)
			}
		}
		if got := d.stopAt(target, 0x7700000028); got != stopUnknown {
			t.Errorf("%v: where no log is it is %d", target, got)
		}
	}
}
