package main

import (
	"syscall"
	"testing"

	"basin/internal/pgtest"
)

// TestSecondPromotionRefused has two standbys that were promoted to timelines of the
// same number: their log must not be mixed.
func TestSecondPromotionRefused(t *testing.T) {
	t.Parallel()
	for _, compression := range []string{"none", "gzip"} {
		t.Run(compression, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			second := p.primary.Standby(t, map[string]string{"archive_mode": "off"})
			second.Exec(t, "SELECT pg_create_physical_replication_slot('follower')")
			args := []string{"-d", hosts(p.primary, p.standby, second) + " target_session_attrs=primary", "-Z", compression}
			receiver := p.receive(t, args...)
			p.streams(t)
			p.commit(t, p.primary, receiver, 1, 1)
			p.primary.WaitReplay(t, second)
			second.Stop(t, pgtest.Fast) // it does not learn of what follows
			p.commit(t, p.primary, receiver, 1, 2, 3)
			p.begin(t, receiver, 4)
			p.primary.WaitReplay(t, p.standby)
			p.primary.Kill(t)
			p.standby.Promote(t)
			p.commit(t, p.standby, receiver, 2, 101)
			receiver.ends(t, syscall.SIGTERM)
			p.standby.Stop(t, pgtest.Fast)
			second.Start(t)
			second.Promote(t)
			second.Exec(t, "CREATE TABLE stranger AS SELECT 1", "SELECT pg_switch_wal()")

			before := snapshot(t, p.log.path)
			p.receive(t, args...).wait(t).failed(t, "00000002.history", "two servers were promoted to the same timeline")
			if after := snapshot(t, p.log.path); after != before {
				t.Errorf("the directory was\n%s and is\n%s", before, after)
			}
		})
	}
}

// TestOtherClusterRefused has a server of another cluster among the hosts.
func TestOtherClusterRefused(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	config := pgtest.Config{WALSegmentSizeMB: segmentSize >> 20}
	s, stranger := pgtest.Start(t, config), pgtest.Start(t, config)
	dir := pgtest.TempDir(t)
	p := basin.start(t, nil, "-D", dir, "-d", hosts(s, stranger))
	s.WaitFor(t, "SELECT state FROM pg_stat_replication", "streaming")
	s.Exec(t, "CREATE TABLE some_log AS SELECT 1", "SELECT pg_switch_wal()", "CREATE TABLE more_log AS SELECT 1")
	eventually(t, "log", func() bool { return len(entries(t, dir)) > 1 })
	// The view shows as negative what is an unsigned number.
	id := stranger.Query(t, "SELECT CASE WHEN id < 0 THEN id + 2::numeric ^ 64 ELSE id END::numeric(20) FROM (SELECT system_identifier AS id FROM pg_control_system()) AS s")
	s.Stop(t, pgtest.Fast)
	p.wait(t).failed(t, "the server is of cluster "+id)
	before := snapshot(t, dir)
	basin.run(t, nil, "-D", dir, "-d", hosts(stranger)).failed(t, "does not belong here", "another cluster")
	if after := snapshot(t, dir); after != before {
		t.Errorf("the directory was\n%s and is\n%s", before, after)
	}
}
