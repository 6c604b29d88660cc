package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"basin/internal/pgtest"
)

// logicalSlot makes a slot with the program under test.
func logicalSlot(t *testing.T, basin *program, s *pgtest.Server, name string) {
	t.Helper()
	basin.run(t, nil, "-d", s.ConnString(), "-S", name, "--create-slot").succeeded(t)
}

// startThrough starts the program from a shell that first does something to the
// process it becomes.
func (p *program) startThrough(t *testing.T, shell string, args ...string) *process {
	t.Helper()
	c := p.command(t.Context(), nil, args...)
	c.Args = append([]string{"sh", "-c", shell + `; exec "$@"`, "sh", c.Path}, args...)
	c.Path = "/bin/sh"
	return startCommand(t, c)
}

// stopped fails the test unless a receiver that was told to end did so without a word.
func (p *process) stopped(t *testing.T) {
	t.Helper()
	p.wait(t).succeeded(t)
}

// TestRecvLogicalStops has a receiver ended and started again and again: all it
// wrote is acknowledged, and nothing comes twice.
func TestRecvLogicalStops(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	s := decodingServer(t, pgtest.Config{})
	logicalSlot(t, basin, s, "s")
	file := filepath.Join(pgtest.TempDir(t), "log")
	load := pgtest.StartLoad(t.Context(), t, s, 2)
	// Neither report nor sync comes by itself in time.
	args := []string{"-d", s.ConnString(), "-S", "s", "--start", "-f", file, "-s", "3600", "-F", "3600"}
	for i, test := range []struct {
		shell  string
		signal syscall.Signal
	}{
		{":", syscall.SIGTERM},
		{":", syscall.SIGINT},
		{`trap "" INT`, syscall.SIGINT}, // as in the background of a script
		{`trap "" TERM`, syscall.SIGTERM},
	} {
		p := basin.startThrough(t, test.shell, args...)
		receivedUpTo(t, s, file, "before stop "+strconv.Itoa(i))
		p.signal(t, test.signal)
		p.stopped(t)
	}
	load.Stop(t)
	end := s.Query(t, "SELECT pg_current_wal_insert_lsn()")
	basin.run(t, nil, append(args, "-n", "-E", end)...).succeeded(t)
	checkReceivedLoad(t, s, readFile(t, file), true)
	s.WaitFor(t, "SELECT confirmed_flush_lsn >= '"+end+"' FROM pg_replication_slots", "t")

	t.Run("quit", func(t *testing.T) {
		p := basin.start(t, nil, args...)
		receivedUpTo(t, s, file, "before the end by SIGQUIT")
		p.signal(t, syscall.SIGQUIT)
		if e := p.wait(t); e.status == exitSuccess && e.signal == 0 { // it tells where it was
			t.Errorf("%s", e)
		}
	})
	t.Run("not connected", func(t *testing.T) {
		p := basin.start(t, nil, args...)
		receivedUpTo(t, s, file, "before the server goes")
		s.Stop(t, pgtest.Fast)
		eventually(t, "word of the loss", func() bool { return strings.Contains(p.stderr.String(), "waiting 5 seconds") })
		p.signal(t, syscall.SIGTERM)
		if e := p.wait(t); e.status != exitSuccess || e.signal != 0 {
			t.Errorf("%s", e)
		}
	})
}

// TestRecvLogicalReopens has the file moved away, as logrotate does.
func TestRecvLogicalReopens(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	for _, test := range []struct{ reason, shell string }{
		{"as usual", ":"},
		{"under nohup", `trap "" HUP`},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			s := decodingServer(t, pgtest.Config{})
			logicalSlot(t, basin, s, "s")
			load := pgtest.StartLoad(t.Context(), t, s, 2)
			file := filepath.Join(pgtest.TempDir(t), "log")
			p := basin.startThrough(t, test.shell, "-d", s.ConnString(), "-S", "s", "--start", "-f", file, "-s", "1", "-F", "1")
			rotate := func(to string) {
				if err := os.Rename(file, file+to); err != nil {
					t.Fatal(err)
				}
				p.signal(t, syscall.SIGHUP)
			}
			receivedUpTo(t, s, file, "first")
			rotate(".1")
			receivedUpTo(t, s, file, "second")
			load.Stop(t)
			s.Stop(t, pgtest.Fast)
			eventually(t, "word of the loss", func() bool { return strings.Contains(p.stderr.String(), "waiting 5 seconds") })
			rotate(".2")
			s.Start(t)
			receivedUpTo(t, s, file, "third")
			p.signal(t, syscall.SIGTERM)
			if e := p.wait(t); e.status != exitSuccess || e.signal != 0 {
				t.Errorf("%s", e)
			}
			first, second, third := readFile(t, file+".1"), readFile(t, file+".2"), readFile(t, file)
			checkReceivedLoad(t, s, first+second+third, true)
			for content, mark := range map[string]string{first: "first", second: "second", third: "third"} {
				if !strings.Contains(content, "name[text]:'"+mark+"'\n") || !strings.HasSuffix(content, "\n") {
					t.Errorf("%d bytes without the %s mark, or not to the end of a line", len(content), mark)
				}
			}
		})
	}
}

func TestRecvLogicalOnAFullDisk(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	dir, ok := smallDisk(t, 1)
	if !ok {
		return
	}
	s := decodingServer(t, pgtest.Config{})
	logicalSlot(t, basin, s, "s")
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 950<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "log")
	load := pgtest.StartLoad(t.Context(), t, s, 2)
	p := basin.start(t, nil, "-d", s.ConnString(), "-S", "s", "--start", "-f", file, "-s", "1", "-F", "1", "-o", "include-xids=0")
	eventually(t, "complaint", func() bool { return strings.Contains(p.stderr.String(), "No space left on device") })
	load.Stop(t)
	full := readFile(t, file)
	if !strings.HasSuffix(full, "\n") {
		t.Errorf("the full disk has half a record: %q", full[max(0, len(full)-100):])
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	receivedUpTo(t, s, file, "there is room again")
	p.signal(t, syscall.SIGTERM)
	e := p.wait(t)
	if e.status != exitSuccess {
		t.Errorf("%s", e)
	}
	e.said(t, "pg_recvlogical: error: could not write ", ` bytes to log file "`+file+`": No space left on device`,
		"pg_recvlogical: hint: the file system of ", "pg_recvlogical: disconnected; waiting 5 seconds to try again")
	checkReceivedLoad(t, s, readFile(t, file), true)
}

func TestRecvLogicalBeginsANewLine(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	s := decodingServer(t, pgtest.Config{})
	logicalSlot(t, basin, s, "s")
	s.Exec(t, "CREATE TABLE t (i int)")
	file := filepath.Join(pgtest.TempDir(t), "log")
	if err := os.WriteFile(file, []byte("BEGIN\ntable publ"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, file)
	e := basin.run(t, nil, "-d", s.ConnString(), "-S", "s", "--start", "-n", "-f", file, "-E", s.Query(t, "SELECT pg_current_wal_insert_lsn()"), "-o", "include-xids=0")
	e.said(t, `pg_recvlogical: warning: file "`+file+`" ended within a line, which may be a part of a record; what follows begins a new line`)
	if got := readFile(t, file); e.status != exitSuccess || got != "BEGIN\ntable publ\nBEGIN\nCOMMIT\n" {
		t.Errorf("%s%q", e, got)
	}
}

// TestRecvLogicalOutputStalls has a reader that reads no more.
func TestRecvLogicalOutputStalls(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_recvlogical")
	s := decodingServer(t, pgtest.Config{})
	logicalSlot(t, basin, s, "s")
	s.Exec(t, "CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := basin.command(t.Context(), nil, "-d", s.ConnString(), "-S", "s", "--start", "-f", "-")
	c.Stdout = w
	p := startCommand(t, c)
	_ = w.Close() // the program has it
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	before := s.Query(t, "SELECT confirmed_flush_lsn FROM pg_replication_slots")
	p.signal(t, syscall.SIGTERM)
	if e := p.wait(t); e.signal != syscall.SIGTERM { // not all was written
		t.Errorf("%s", e)
	}
	if after := s.Query(t, "SELECT confirmed_flush_lsn FROM pg_replication_slots"); after != before {
		t.Errorf("acknowledged up to %s, before %s", after, before)
	}
}

// TestRecvLogicalServerHangs has a server process that neither talks nor goes.
func TestRecvLogicalServerHangs(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_recvlogical")
	s := decodingServer(t, pgtest.Config{})
	logicalSlot(t, basin, s, "s")
	file := filepath.Join(pgtest.TempDir(t), "log")
	p := basin.start(t, nil, "-d", s.ConnString(), "-S", "s", "--start", "-n", "-f", file, "--receiver-timeout=2")
	receivedUpTo(t, s, file, "before")
	pid, err := strconv.Atoi(s.Query(t, "SELECT active_pid FROM pg_replication_slots"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	p.wait(t).failed(t, "pg_recvlogical: error: terminating WAL stream: nothing came from the server for 2s", "pg_recvlogical: error: disconnected")
}

// TestRecvLogicalOverTLS has reads interrupted again and again, each time to report.
func TestRecvLogicalOverTLS(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_recvlogical")
	s := decodingServer(t, pgtest.Config{TLS: true})
	logicalSlot(t, basin, s, "s")
	load := pgtest.StartLoad(t.Context(), t, s, 1)
	file := filepath.Join(pgtest.TempDir(t), "log")
	p := basin.start(t, nil, "-d", s.TCPConnString(), "-S", "s", "--start", "-f", file, "-s", "1", "-F", "1")
	receivedUpTo(t, s, file, "first")
	for range 3 {
		last := s.Query(t, "SELECT reply_time FROM pg_stat_replication")
		s.WaitFor(t, "SELECT reply_time > '"+last+"' FROM pg_stat_replication", "t")
	}
	load.Stop(t)
	receivedUpTo(t, s, file, "last")
	p.signal(t, syscall.SIGTERM)
	p.stopped(t)
	checkReceivedLoad(t, s, readFile(t, file), true)
}

// TestRecvLogicalConnections has databases named in each way that there is.
func TestRecvLogicalConnections(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	s := decodingServer(t, pgtest.Config{})
	s.Exec(t, "CREATE DATABASE other")
	port := strconv.Itoa(s.Port)
	environment := []string{"PGHOST=" + s.SocketDir, "PGPORT=" + port, "PGUSER=postgres", "PGDATABASE=other"}
	for _, test := range []struct {
		reason string
		args   []string
		want   string // database of the slot
	}{
		{"name", []string{"-d", "other"}, "other"},
		{"connection string", []string{"-d", "dbname=other replication=true"}, "other"},
		{"connection string without a name", []string{"-d", "host=" + s.SocketDir}, "other"},
		{"address", []string{"-d", "postgresql://postgres@127.0.0.1:" + port + "/postgres"}, "postgres"},
		{"nothing", []string{"-d", ""}, "other"},
		{"options win over the connection string", []string{"-d", "dbname=postgres host=/nonexistent", "-h", s.SocketDir}, "postgres"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			basin.run(t, environment, append(test.args, "-S", "s", "--create-slot")...).succeeded(t)
			if got := s.Query(t, "SELECT database FROM pg_replication_slots"); got != test.want {
				t.Errorf("the slot is of %s, not of %s", got, test.want)
			}
			basin.run(t, environment, "-S", "s", "--drop-slot").succeeded(t)
		})
	}
}
