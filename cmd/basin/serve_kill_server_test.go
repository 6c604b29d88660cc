package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// serveKills is how often serve is killed beside each of three clusters.
const serveKills = 10

// leftByServe counts what a cluster has for a server that is killed.
const leftByServe = `SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'basin%') +
	(SELECT count(*) FROM pg_replication_slots)`

// TestServeKilled kills the server while it sends backups and the log. Its clients fail, the
// cluster is as it was, and a new server takes its place.
func TestServeKilled(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{13, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, Conf: sideBySide()})
			pgtest.Fill(t, s, 2)
			v := startServe(t, basin, s)
			for round := range serveKills {
				work := pgtest.TempDir(t)
				log := filepath.Join(work, "log")
				if err := os.Mkdir(log, 0o777); err != nil {
					t.Fatal(err)
				}
				pgtest.Own(t, log)
				clients := []*process{
					startCommand(t, pgtest.Command(t, 18, "pg_basebackup", "-d", v.conninfo(), "-D", filepath.Join(work, "plain"), "-c", "fast", "-X", "stream", "-r", "4M")),
					startCommand(t, pgtest.Command(t, 18, "pg_basebackup", "-d", v.conninfo(), "-D", filepath.Join(work, "tar"), "-Ft", "-c", "fast", "-X", "fetch", "-r", "4M")),
					startCommand(t, pgtest.Command(t, 18, "pg_receivewal", "-d", v.conninfo(), "-D", log, "-n", "--no-sync")),
				}
				if round%2 == 1 { // both are sent
					eventually(t, "backups", func() bool {
						n, err := strconv.Atoi(s.Query(t, "SELECT count(*) FROM pg_replication_slots WHERE active"))
						return err == nil && n >= 2
					})
				}
				pause(rand.N(300 * time.Millisecond))
				v.process.kill(t)
				for _, c := range clients { // a child of it may outlive it for a moment
					within(t, c, patience)
					if status := c.cmd.ProcessState.ExitCode(); status != 1 || !strings.Contains(c.stderr.String(), "error: ") {
						t.Fatalf("%q ended with %d:\n%s", c.cmd.Args, status, c.stderr.String())
					}
				}
				s.WaitFor(t, leftByServe, "0")
				absent(t, filepath.Join(work, "plain"))
				absent(t, filepath.Join(work, "tar"))
				v.start(t)
			}
			for i, conninfo := range []string{s.ConnString(), v.conninfo()} {
				dir := filepath.Join(pgtest.TempDir(t), "after")
				if e := stock(t, 18, "pg_basebackup", "-d", conninfo, "-D", dir, "-c", "fast", "-X", "stream"); e.status != 0 {
					t.Fatalf("%d: %s\nserver: %s", i, e, v.process.stderr.String())
				}
				tool(t, pgtest.Newest, "pg_verifybackup", "-n", dir)
			}
			v.ends(t)
		})
	}
}

// within waits for the end of a program, whose children are not looked for.
func within(t testing.TB, p *process, limit time.Duration) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		t.Fatalf("%q: not done within %v; it said:\n%s", p.cmd.Args, limit, p.stderr.String())
	}
}

// descriptors returns how many files and connections the server has open.
func (v *served) descriptors(t testing.TB) int {
	t.Helper()
	return len(entries(t, fmt.Sprintf("/proc/%d/fd", v.process.cmd.Process.Pid)))
}

// TestServeClientsKilled kills clients in the middle of all they can be in the middle of.
// Nothing of them is left, here or on the cluster.
func TestServeClientsKilled(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{Conf: map[string]string{"wal_level": "logical", "max_wal_senders": "50", "max_replication_slots": "50", "summarize_wal": "on"}})
	pgtest.Fill(t, s, 2)
	s.Exec(t, "SELECT pg_create_physical_replication_slot('kept', true)", "SELECT pg_create_logical_replication_slot('decoded', 'test_decoding')")
	v := startServe(t, basin, s)
	work := pgtest.TempDir(t)
	before := filepath.Join(work, "before")
	if e := stock(t, 18, "pg_basebackup", "-d", v.conninfo(), "-D", before, "-c", "fast", "-X", "none", "--no-sync"); e.status != 0 {
		t.Fatal(e)
	}
	const ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('basin backup', 'basin pin', 'pg_receivewal', 'pg_recvlogical', 'pg_basebackup')"
	s.WaitFor(t, ours, "0")
	base := v.descriptors(t)
	for round := range 4 {
		log := filepath.Join(work, fmt.Sprint("log", round))
		if err := os.Mkdir(log, 0o777); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, log)
		dir := func(name string) string { return filepath.Join(work, name+strconv.Itoa(round)) }
		var clients []*process
		for _, c := range [][]string{
			{"pg_basebackup", "-D", dir("plain"), "-c", "fast", "-r", "1M"},
			{"pg_basebackup", "-D", dir("tar"), "-Ft", "-X", "fetch", "-c", "fast", "-r", "1M", "-Z", "server-gzip"},
			{"pg_basebackup", "-t", "blackhole", "-X", "fetch", "-c", "fast", "-r", "1M"},
			{"pg_basebackup", "-D", dir("incremental"), "-i", filepath.Join(before, "backup_manifest"), "-c", "fast", "-r", "1M"},
			{"pg_receivewal", "-D", log, "--no-sync"},
			{"pg_receivewal", "-D", log, "--no-sync", "-S", "kept"},
			{"pg_recvlogical", "-d", "postgres", "-S", "decoded", "--start", "-f", "/dev/null"},
		} {
			if c[0] == "pg_recvlogical" {
				c = append(c, "-d", v.conninfo()+" dbname=postgres")
			} else {
				c = append(c, "-d", v.conninfo())
			}
			command := pgtest.Command(t, 18, c[0], c[1:]...)
			if command.SysProcAttr == nil {
				command.SysProcAttr = new(syscall.SysProcAttr)
			}
			command.SysProcAttr.Setpgid = true // with the process that pg_basebackup has stream the log, which goes on without it
			clients = append(clients, startCommand(t, command))
		}
		pause(rand.N(800 * time.Millisecond))
		for _, c := range clients {
			_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // one may have failed: the folder of the log is shared
			<-c.done
		}
		s.WaitFor(t, ours, "0")
		s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE temporary OR active", "0")
		eventually(t, "descriptors as before", func() bool { return v.descriptors(t) <= base })
	}
	v.ends(t)
}

// TestServeClientKilledInCheckpoint kills a client whose backup has not begun, as the
// cluster's checkpoint takes its time. The backup does not begin.
func TestServeClientKilledInCheckpoint(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{13, 18} {
		for _, what := range []string{"client", "server"} {
			if what == "server" && major < 14 {
				continue // nothing tells the cluster: client_connection_check_interval is from 14 on
			}
			t.Run(fmt.Sprintf("%d, %s", major, what), func(t *testing.T) {
				t.Parallel()
				s := pgtest.Start(t, pgtest.Config{Major: major, Conf: map[string]string{"checkpoint_timeout": "1h", "checkpoint_completion_target": "1", "autovacuum": "off"}})
				v := startServe(t, basin, s)
				s.Exec(t, "CREATE TABLE dirty AS SELECT g, repeat('x', 500) FROM generate_series(1, 20000) g")
				c := startCommand(t, pgtest.Command(t, 18, "pg_basebackup", "-d", v.conninfo(), "-D", filepath.Join(pgtest.TempDir(t), "b"), "-c", "spread", "-X", "none"))
				s.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'basin backup' AND state = 'active' AND query LIKE '%start%'", "1")
				if what == "client" {
					c.kill(t)
				} else {
					v.process.kill(t)
					c.wait(t).failed(t)
				}
				s.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('basin backup', 'basin pin')", "0")
				s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots", "0")
			})
		}
	}
}

// TestServeEndsWhatRuns tells the server to end while a client takes a backup, and another
// one takes one and does not read.
func TestServeEndsWhatRuns(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	pgtest.Fill(t, s, 5)
	v := startServe(t, basin, s)
	var clients []*process
	for i, rate := range []string{"1M", "1000M"} {
		clients = append(clients, startCommand(t, pgtest.Command(t, 18, "pg_basebackup", "-d", v.conninfo(),
			"-D", filepath.Join(pgtest.TempDir(t), "b"), "-c", "fast", "-X", "none", "-r", rate)))
		if i == 1 {
			eventually(t, "connection", func() bool { return strings.Count(v.process.stderr.String(), "connected") == 2 })
			clients[i].signal(t, syscall.SIGSTOP)
		}
	}
	eventually(t, "backups", func() bool {
		return s.Query(t, "SELECT count(*) FROM pg_replication_slots WHERE active") >= "1"
	})
	began := time.Now()
	v.ends(t)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %v", took)
	}
	within(t, clients[0], patience)
	if status := clients[0].cmd.ProcessState.ExitCode(); status != 1 {
		t.Errorf("a client ended with %d", status)
	}
	if err := clients[1].cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	s.WaitFor(t, leftByServe, "0")
}
