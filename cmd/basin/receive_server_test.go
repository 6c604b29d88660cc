package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// receives is a server without an archive, a repository for it, and a spool.
type receives struct {
	*kept
	spool string
	args  []string // of basin receive
}

// newReceives starts a server with small segments, and makes a repository.
func newReceives(t *testing.T, basin *program, conf map[string]string) *receives {
	t.Helper()
	k := &kept{store: newStore(t, basin, nil, false), Server: pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: segmentSize >> 20, Conf: conf})}
	k.Exec(t, "CREATE EXTENSION amcheck") // for the copies
	r := &receives{kept: k, spool: filepath.Join(pgtest.TempDir(t), "spool")}
	r.args = []string{"receive", "--repository", r.location, "--spool", r.spool, "-S", "basin", "--create-slot", "-s", "1", "-d", r.ConnString() + " application_name=received"}
	return r
}

// receive starts the receiver, and waits until it receives.
func (r *receives) receive(t *testing.T) *process {
	t.Helper()
	p := r.basin.start(t, nil, r.args...)
	r.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'received' AND state = 'streaming'", "1")
	return p
}

// TestReceivedCommitsSurvive kills receivers that commits wait for, time and again, and at last the primary with
// its disk in the same moment. What clients were told of is in the restored cluster: with --ack=repository of what
// is in the repository then, else of what a receiver that finds no server any more pushes from the spool.
func TestReceivedCommitsSurvive(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	for _, ack := range []string{"spool", "repository"} {
		t.Run(ack, func(t *testing.T) {
			t.Parallel()
			r := newReceives(t, basin, map[string]string{"max_wal_size": "64MB"})
			r.backUp(t, false)
			r.args = append(r.args, "--synchronous", "--ack", ack)
			p := r.receive(t)
			r.Set(t, "synchronous_standby_names", "received")
			load := pgtest.StartLoad(t.Context(), t, r.Server, 4)
			for range 4 {
				before := load.Committed()
				eventually(t, "commits", func() bool { return load.Committed() > before+30 })
				pause(rand.N(300 * time.Millisecond))
				p.kill(t)
				p = basin.start(t, nil, r.args...)
			}
			before := load.Committed()
			eventually(t, "commits", func() bool { return load.Committed() > before+30 })
			p.signal(t, syscall.SIGKILL)
			r.Kill(t)
			p.wait(t)
			committed := load.Stop(t)
			if err := os.RemoveAll(r.DataDir); err != nil {
				t.Fatal(err)
			}
			if ack == "repository" {
				if err := os.RemoveAll(r.spool); err != nil {
					t.Fatal(err)
				}
			} else {
				basin.run(t, nil, r.args...).failed(t, "connection to server")
			}
			restored := r.restore(t)
			restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			checkCommitted(t, restored, committed)
		})
	}
}

// TestReceiveIsSecondsBehind restores what was committed a moment ago, while the segment is not complete, and has
// the receiver go on without its spool where the repository ends.
func TestReceiveIsSecondsBehind(t *testing.T) {
	t.Parallel()
	r := newReceives(t, newProgram(t, "basin"), nil)
	r.backUp(t, false)
	p := r.receive(t)
	for i := range 2 {
		writeNoise(t, r.Server, 2)
		m := r.mark(t)
		eventually(t, "the log in the repository", func() bool {
			e := r.basin.run(t, nil, "restore", "--repository", r.location, "-D", filepath.Join(r.spool, "none"), "--target-lsn", m.lsn, "--dry-run")
			return e.status == exitSuccess
		})
		m.recovered(t, r.restore(t, "--target-name", m.name, "--target-action", "promote"))
		if e := p.ends(t, syscall.SIGTERM); strings.Contains(e.stderr, "warning") || strings.Contains(e.stderr, "error") {
			t.Errorf("%s", e)
		}
		if i == 0 {
			if err := os.RemoveAll(r.spool); err != nil {
				t.Fatal(err)
			}
			p = r.receive(t)
		}
	}
}

// TestReceiveRefuses has servers whose log does not go on what is in the repository.
func TestReceiveRefuses(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	r := newReceives(t, basin, map[string]string{"max_wal_size": "2MB", "min_wal_size": "2MB", "checkpoint_timeout": "1h"})
	r.Exec(t, "SELECT pg_create_physical_replication_slot('basin', true)")
	r.backUp(t, false)
	writeNoise(t, r.Server, 1)
	r.Stop(t, pgtest.Fast)
	early := filepath.Join(pgtest.TempDir(t), "early")
	if out, err := exec.Command("cp", "-a", r.DataDir, early).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.Start(t)
	p := r.receive(t)
	writeNoise(t, r.Server, 4)
	p.ends(t, syscall.SIGTERM)
	before := snapshot(t, r.spool)

	once := append(r.args, "--no-loop")
	other := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: segmentSize >> 20})
	elsewhere := func(args []string, s *pgtest.Server, spool string) []string {
		return append(args, "-d", s.ConnString(), "--spool", spool)
	}
	fresh := func() string { return filepath.Join(pgtest.TempDir(t), "spool") }
	basin.run(t, nil, elsewhere(once, other, r.spool)...).failed(t, "the log so far is of cluster", "hint: ")
	basin.run(t, nil, elsewhere(once, other, fresh())...).failed(t, "what the repository has under the name main is of cluster", "--system-id=")
	basin.run(t, nil, append(elsewhere(once, other, fresh()), "--system-id=1")...).failed(t, "--system-id is 1", "hint: ")

	behind := pgtest.StartDir(t, r.Major, early, nil)
	for _, spool := range []string{r.spool, fresh()} {
		basin.run(t, nil, elsewhere(once, behind, spool)...).failed(t, "the server is behind", "hint: A standby that lags")
	}

	r.Exec(t, "SELECT pg_drop_replication_slot('basin')")
	removeLog(t, r.Server)
	for _, spool := range []string{r.spool, fresh()} {
		e := basin.start(t, nil, elsewhere(r.args, r.Server, spool)...).waitWithin(t, patience)
		if e.status != exitGap {
			t.Errorf("%s", e)
		}
		e.said(t, "has already been removed", "hint: ", "Take a new backup")
	}
	if after := snapshot(t, r.spool); after != before {
		t.Errorf("the spool was\n%s and is\n%s", before, after)
	}

	// What the hint says.
	r.backUp(t, false)
	if err := os.RemoveAll(r.spool); err != nil {
		t.Fatal(err)
	}
	p = r.receive(t)
	m := r.mark(t)
	r.Exec(t, "SELECT pg_switch_wal()")
	p.ends(t, syscall.SIGTERM)
	m.recovered(t, r.restore(t, "--target-name", m.name, "--target-action", "promote"))
}

// TestReceiveFollowsPromotion kills the primary whose standby has not received all that was, and receives what the
// promoted standby writes: both timelines are in the repository, and "latest" is the new one.
func TestReceiveFollowsPromotion(t *testing.T) {
	t.Parallel()
	r := newReceives(t, newProgram(t, "basin"), map[string]string{"wal_keep_size": "64MB"})
	standby := r.Standby(t, map[string]string{"wal_keep_size": "64MB"})
	r.backUp(t, false)
	r.args = append(r.args, "--synchronous")
	p := r.receive(t)
	r.WaitReplay(t, standby)
	standby.Stop(t, pgtest.Fast)
	writeNoise(t, r.Server, 2)
	r.Exec(t, "CREATE TABLE only_in_the_old_timeline AS SELECT 1 AS n")
	end := lsn(t, r.Server, "SELECT pg_current_wal_flush_lsn()")
	r.WaitFor(t, "SELECT flush_lsn >= '"+end.String()+"' FROM pg_stat_replication WHERE application_name = 'received'", "t")
	r.Kill(t)
	p.ends(t, syscall.SIGTERM)

	standby.Start(t)
	standby.Promote(t)
	old := r.Server
	r.Server = standby
	r.args = append(r.args, "-d", standby.ConnString()+" application_name=received")
	p = r.receive(t)
	writeNoise(t, standby, 2)
	m := r.mark(t)
	standby.Exec(t, "SELECT pg_switch_wal()")
	e := p.ends(t, syscall.SIGTERM)
	e.said(t, "timeline 1 was left at", "the server that took over had not received it")
	m.recovered(t, r.restore(t, "--target-name", m.name, "--target-action", "promote"))
	restored := r.restore(t, "--target-timeline", "1")
	restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if n := restored.Query(t, "SELECT n FROM only_in_the_old_timeline"); n != "1" {
		t.Errorf("%s: what only the old primary %s had is %q", restored.DataDir, old.DataDir, n)
	}
}
