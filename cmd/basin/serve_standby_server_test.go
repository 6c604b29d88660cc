package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

// follower is a standby that has all it has from basin serve.
type follower struct {
	*pgtest.Server
	served  *served
	primary *pgtest.Server
	rows    int
}

// startFollower makes a standby of what basin serve has, as pg_basebackup sets it up.
func startFollower(t *testing.T, v *served, primary *pgtest.Server) *follower {
	t.Helper()
	dir := filepath.Join(pgtest.TempDir(t), "data")
	e := stock(t, pgtest.Newest, "pg_basebackup", "-d", v.conninfo(), "-D", dir, "-c", "fast", "-R")
	if e.status != exitSuccess {
		t.Fatalf("%s\nserver: %s", e, v.process.stderr.String())
	}
	pgtest.SetRecovery(t, v.Major, dir, pgtest.Recovery{Standby: true, Settings: map[string]string{
		// An old libpq knows not all that pg_basebackup of 18 writes.
		"primary_conninfo": v.conninfo() + " application_name=follower", "wal_retrieve_retry_interval": "100ms",
		"wal_receiver_status_interval": "1s", "primary_slot_name": "", // a standby has one of its own
	}})
	return &follower{Server: pgtest.StartDir(t, v.Major, dir, nil), served: v, primary: primary}
}

// follows fails the test unless what is written to the primary comes.
func (f *follower) follows(t *testing.T) {
	t.Helper()
	f.rows++
	f.primary.Exec(t, "CREATE TABLE IF NOT EXISTS followed (n int)", fmt.Sprintf("INSERT INTO followed VALUES (%d)", f.rows))
	f.primary.WaitReplay(t, f.Server)
	if got := f.Query(t, "SELECT max(n) FROM followed"); got != strconv.Itoa(f.rows) {
		t.Fatalf("row %s, not %d", got, f.rows)
	}
}

// receiver returns the number of the process that receives the log.
func (f *follower) receiver(t *testing.T) string {
	t.Helper()
	f.WaitFor(t, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'", "1")
	return f.Query(t, "SELECT pid FROM pg_stat_wal_receiver")
}

// upstream asks the primary for something of the follower's own stream, if it has one.
func (f *follower) upstream(t *testing.T, what, want string) {
	t.Helper()
	f.primary.WaitFor(t, "SELECT coalesce(string_agg(("+what+")::text, ','), 'none') FROM pg_stat_replication WHERE application_name = 'follower'", want)
}

// restarted waits until another process receives the log, as after a new setting.
func (f *follower) restarted(t *testing.T, was string) {
	t.Helper()
	f.WaitFor(t, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming' AND pid <> "+was, "1")
}

// startsAgain has the cluster, basin serve and the standby start again, one after the other.
func (f *follower) startsAgain(t *testing.T) {
	t.Helper()
	was := f.receiver(t)
	f.served.ends(t)
	f.primary.Exec(t, "INSERT INTO followed SELECT -n FROM generate_series(1, 10000) n")
	f.served.start(t)
	f.restarted(t, was)
	f.follows(t)
	f.primary.Restart(t)
	f.follows(t)
	f.primary.Kill(t)
	f.primary.Start(t)
	f.follows(t)
	f.Restart(t)
	f.follows(t)
}

func TestServeStandby(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{13, 14, 15, 16, 17, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, WALSegmentSizeMB: 1, Conf: map[string]string{"wal_keep_size": "64MB"}})
			v := startServe(t, basin, s)
			f := startFollower(t, v, s)
			load := pgtest.StartLoad(t.Context(), t, s, 2)

			// Without a slot it is the feed that it has.
			first := f.receiver(t)
			f.follows(t)
			f.upstream(t, "state", "none")

			// What keeps old rows goes on in a stream of its own, in the same connection.
			f.Set(t, "hot_standby_feedback", "on")
			f.upstream(t, "state = 'streaming' AND backend_xmin IS NOT NULL", "true")
			f.follows(t)
			if now := f.receiver(t); now != first {
				t.Errorf("received by %s, and no longer by %s", now, first)
			}
			f.Set(t, "hot_standby_feedback", "off")
			f.upstream(t, "backend_xmin IS NULL", "true")
			f.follows(t)

			// A slot is the cluster's.
			if e := stock(t, pgtest.Newest, "pg_receivewal", "-d", v.conninfo(), "-S", "follower", "--create-slot"); e.status != exitSuccess {
				t.Fatalf("%s", e)
			}
			f.Set(t, "primary_slot_name", "follower")
			f.restarted(t, first)
			f.follows(t)
			s.WaitFor(t, "SELECT active AND restart_lsn >= '"+s.Query(t, "SELECT pg_current_wal_lsn()")+"' FROM pg_replication_slots WHERE slot_name = 'follower'", "t")

			// So is one that lasts as long as the connection.
			was := f.receiver(t)
			f.Set(t, "wal_receiver_create_temp_slot", "on")
			f.Set(t, "primary_slot_name", "")
			f.restarted(t, was)
			f.follows(t)
			s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE temporary AND active AND slot_name LIKE 'pg_walreceiver_%'", "1")
			was = f.receiver(t)
			f.Set(t, "wal_receiver_create_temp_slot", "off")
			f.restarted(t, was)
			s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE temporary", "0")

			// Commits wait for it once its name is one of those, in the same connection.
			was = f.receiver(t)
			s.Set(t, "synchronous_standby_names", "FIRST 1 (follower)")
			f.upstream(t, "sync_state", "sync")
			if now := f.receiver(t); now != was {
				t.Errorf("received by %s, and no longer by %s", now, was)
			}
			f.follows(t)
			v.process.kill(t)
			v.start(t)
			f.restarted(t, was)
			f.upstream(t, "sync_state", "sync")
			s.Exec(t, "SET synchronous_commit = remote_apply", "CREATE TABLE applied (n int)")
			if got := f.Query(t, "SELECT count(*) FROM applied"); got != "0" {
				t.Error(got)
			}
			f.follows(t)
			load.Stop(t)
			s.Set(t, "synchronous_standby_names", "")

			if pgtest.Full(major) || major == 13 {
				f.startsAgain(t)
			}
			s.Exec(t, "VACUUM")
			f.follows(t)
			if diff := cmp.Diff(pgtest.Sums(t, s), pgtest.Sums(t, f.Server)); diff != "" {
				t.Errorf("rows (-primary +standby):\n%s", diff)
			}
			f.Promote(t)
			checkLoad(t, f.Server, 1)
			v.ends(t)
		})
	}
}

// TestServeBesideStandby follows a cluster that is a standby itself, and is promoted.
func TestServeBesideStandby(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, test := range []struct {
		major    int
		settings map[string]string
	}{
		{13, map[string]string{"hot_standby_feedback": "on"}},
		{15, nil},
		{18, nil},
		{18, map[string]string{"hot_standby_feedback": "on"}},
		{18, map[string]string{"wal_receiver_create_temp_slot": "on"}},
	} {
		t.Run(fmt.Sprint(test.major, test.settings), func(t *testing.T) {
			t.Parallel()
			primary := pgtest.Start(t, pgtest.Config{Major: test.major, WALSegmentSizeMB: 1, Conf: map[string]string{"wal_keep_size": "64MB"}})
			primary.Exec(t, "CREATE TABLE followed (n int)")
			standby := primary.Standby(t, map[string]string{"wal_keep_size": "64MB", "wal_retrieve_retry_interval": "100ms"})
			v := startServe(t, basin, standby)
			f := startFollower(t, v, primary)
			for name, value := range test.settings {
				was := f.receiver(t)
				f.Set(t, name, value)
				if strings.HasPrefix(name, "wal_receiver") {
					f.restarted(t, was)
				}
			}
			f.receiver(t)
			f.follows(t)
			load := pgtest.StartLoad(t.Context(), t, primary, 2)
			eventually(t, "load", func() bool { return load.Committed() > 100 })
			load.Stop(t)
			f.follows(t)
			primary.WaitReplay(t, standby)
			primary.Stop(t, pgtest.Immediate)
			standby.Promote(t)
			f.primary = standby
			f.follows(t)
			f.WaitFor(t, "SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming'", "2")
			standby.Restart(t)
			f.follows(t)
			// A second time, from a follower that was away meanwhile.
			f.Stop(t, pgtest.Fast)
			v.ends(t)
			standby.Stop(t, pgtest.Fast)
			pgtest.SetRecovery(t, test.major, standby.DataDir, pgtest.Recovery{Settings: map[string]string{"restore_command": "false"}})
			standby.Start(t)
			standby.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			v.start(t)
			standby.Exec(t, "INSERT INTO followed SELECT -n FROM generate_series(1, 10000) n")
			f.Start(t)
			f.follows(t)
			f.WaitFor(t, "SELECT received_tli FROM pg_stat_wal_receiver WHERE status = 'streaming'", "3")
			standby.Exec(t, "VACUUM")
			f.follows(t)
			if diff := cmp.Diff(pgtest.Sums(t, standby), pgtest.Sums(t, f.Server)); diff != "" {
				t.Errorf("rows (-cluster +standby):\n%s", diff)
			}
			f.Promote(t)
			v.ends(t)
		})
	}
}
