package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

// decodingServer starts a server whose log can be decoded.
func decodingServer(t *testing.T, c pgtest.Config) *pgtest.Server {
	t.Helper()
	c.Conf = map[string]string{"wal_level": "logical", "max_prepared_transactions": "10", "max_replication_slots": "30", "max_wal_senders": "30"}
	return pgtest.Start(t, c)
}

// readFile returns what is in a file, nothing if it is not there.
func readFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(content)
}

// stockRecvLogical runs PostgreSQL's own program.
func stockRecvLogical(t testing.TB, args ...string) ending {
	t.Helper()
	c := pgtest.Command(t, pgtest.Newest, "pg_recvlogical", args...)
	return startCommand(t, c).wait(t)
}

// changes makes a bit of everything that is decoded.
func changes(t testing.TB, s *pgtest.Server) {
	t.Helper()
	s.Exec(t,
		`CREATE TABLE things (id int PRIMARY KEY, name text, weight numeric)`,
		`INSERT INTO things SELECT g, 'thing ' || g, g / 7.0 FROM generate_series(1, 500) g`,
		`UPDATE things SET name = E'two\nlines, it''s' WHERE id = 7`,
		`UPDATE things SET id = -id WHERE id < 10`,
		`INSERT INTO things VALUES (1000, repeat('long ', 200000), NULL)`,
		`DELETE FROM things WHERE id BETWEEN 100 AND 200`,
		`BEGIN; INSERT INTO things VALUES (2000, 'never', 1); ROLLBACK`,
		`BEGIN; SAVEPOINT a; INSERT INTO things VALUES (2001, 'never', 1); ROLLBACK TO a; INSERT INTO things VALUES (2002, 'always', 1); COMMIT`,
		`TRUNCATE things`,
	)
}

// TestRecvLogicalOfEveryMajor has the same output as the original, of slots that
// were made at the same point, and leaves the slot where the original does.
func TestRecvLogicalOfEveryMajor(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	for _, major := range pgtest.Majors() {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := decodingServer(t, pgtest.Config{Major: major, GroupAccess: major >= 11})
			dir := pgtest.TempDir(t)
			base := []string{"-d", s.ConnString()}
			ours := func(args ...string) ending { return basin.run(t, nil, append(slices.Clone(base), args...)...) }
			stock := func(args ...string) ending { return stockRecvLogical(t, append(slices.Clone(base), args...)...) }

			ours("-S", "ours", "--create-slot").succeeded(t)
			stock("-S", "stock", "--create-slot").succeeded(t)
			ours("-S", "ours", "--create-slot", "--if-not-exists").succeeded(t)
			ours("-S", "ours", "--create-slot").failed(t,
				`pg_recvlogical: error: could not send replication command "CREATE_REPLICATION_SLOT "ours" LOGICAL "test_decoding"`,
				`": ERROR:  replication slot "ours" already exists`)

			changes(t, s)
			end := s.Query(t, "SELECT pg_current_wal_insert_lsn()")
			for i, options := range [][]string{
				nil,
				{"-o", "include-xids=0", "-o", "skip-empty-xacts"},
			} {
				file := func(name string) string { return filepath.Join(dir, name+strconv.Itoa(i)) }
				args := append([]string{"--start", "-n", "-E", end}, options...)
				ours(append(args, "-S", "ours", "-f", file("ours"))...).succeeded(t)
				stock(append(args, "-S", "stock", "-f", file("stock"))...).succeeded(t)
				got, want := readFile(t, file("ours")), readFile(t, file("stock"))
				if got != want || i == 0 && len(want) < 1000000 {
					t.Errorf("%q: %d bytes, and %d of the original", options, len(got), len(want))
				}
				mode := os.FileMode(0o600)
				if major >= 11 {
					mode = 0o640
				}
				for _, name := range []string{"ours", "stock"} {
					if info, err := os.Stat(file(name)); err != nil || info.Mode() != mode {
						t.Errorf("%s: %v, %v", name, info.Mode(), err)
					}
				}
				s.Exec(t, "INSERT INTO things VALUES ("+strconv.Itoa(i)+", 'more', 0)", "UPDATE things SET weight = 1")
				end = s.Query(t, "SELECT pg_current_wal_insert_lsn()")
			}
			// Both are to the standard output, and both have all that was not acknowledged.
			args := []string{"--start", "-n", "-E", end, "-f", "-", "-o", "include-xids=0"}
			mine, theirs := ours(append(args, "-S", "ours")...), stock(append(args, "-S", "stock")...)
			mine.succeeded(t)
			if mine.stdout != theirs.stdout || !strings.Contains(mine.stdout, "name[text]:'more'") {
				t.Errorf("standard output: %s", cmp.Diff(theirs.stdout, mine.stdout))
			}
			if got := s.Query(t, "SELECT count(DISTINCT confirmed_flush_lsn), count(*) FROM pg_replication_slots"); got != "1|2" {
				t.Errorf("slots that are left at the same point, and all: %s", got)
			}
			ours("-S", "ours", "--drop-slot").succeeded(t)
			basin.run(t, nil, "-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", "postgres", "-S", "stock", "--drop-slot").succeeded(t)
			if got := s.Query(t, "SELECT count(*) FROM pg_replication_slots"); got != "0" {
				t.Errorf("%s slots are left", got)
			}
		})
	}
}

// TestRecvLogicalSaysTheSame compares what is said with the original's words.
func TestRecvLogicalSaysTheSame(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	s := decodingServer(t, pgtest.Config{})
	s.Exec(t, "SELECT pg_create_physical_replication_slot('physical')")
	for _, name := range []string{"pg_recvlogical_there", "of_postgres"} {
		s.Exec(t, "SELECT pg_create_logical_replication_slot('"+name+"', 'test_decoding')")
	}
	s.Exec(t, "CREATE DATABASE other", "CREATE TABLE t AS SELECT 1")
	socket := []string{"-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", "postgres"}
	start := []string{"--start", "-n", "-f", os.DevNull}
	for _, test := range []struct {
		reason string
		args   []string
	}{
		{"slot to drop is not there", []string{"-S", "nowhere", "--drop-slot"}},
		{"slot to make is there", []string{"-d", "postgres", "-S", "of_postgres", "--create-slot"}},
		{"slot has no name", []string{"-d", "postgres", "-S", "", "--create-slot"}},
		{"slot has a bad name", []string{"-d", "postgres", "-S", `a"B`, "--create-slot"}},
		{"no such plugin", []string{"-d", "postgres", "-S", "x", "--create-slot", "-P", "nothing"}},
		{"no such database", []string{"-d", "nothing", "-S", "x", "--create-slot"}},
		{"slot to stream from is not there", append(start, "-d", "postgres", "-S", "nowhere")},
		{"slot is physical", append(start, "-d", "postgres", "-S", "physical")},
		{"slot is of another database", append(start, "-d", "dbname=other", "-S", "of_postgres")},
		{"no such option", append(start, "-d", "postgres", "-S", "of_postgres", "-o", "nothing=1", "-o", "include-xids")},
		{"no such directory", []string{"--start", "-n", "-f", "/nonexistent/log", "-d", "postgres", "-S", "of_postgres"}},
		{"not a file", []string{"--start", "-n", "-f", "/", "-d", "postgres", "-S", "of_postgres"}},
		{"full disk", []string{"--start", "-n", "-f", "/dev/full", "-d", "postgres", "-S", "of_postgres"}},
		{"user who may not", []string{"-d", "postgres", "-S", "x", "--create-slot", "-U", "nobody"}},
		{"verbose", []string{"-v", "-d", "postgres", "-S", "x", "--create-slot"}},
		{"verbose drop", []string{"-v", "-S", "x", "--drop-slot"}},
		{"verbose stream up to a record", append(start, "-v", "-E", "0/1", "-d", "postgres", "-S", "of_postgres")},
	} {
		t.Run(test.reason, func(t *testing.T) {
			args := append(slices.Clone(socket), test.args...)
			isFree := func() { // the server may not have seen yet that the other went away
				t.Helper()
				s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
			}
			isFree()
			want := stockRecvLogical(t, args...)
			isFree()
			if strings.HasPrefix(test.reason, "verbose") {
				// Both are to find the same.
				switch test.reason {
				case "verbose":
					s.Exec(t, "SELECT pg_drop_replication_slot('x')")
				case "verbose drop":
					s.Exec(t, "SELECT pg_create_logical_replication_slot('x', 'test_decoding')")
				}
			}
			got := basin.run(t, nil, args...)
			said := func(e ending) string {
				// Hints are ours; the hint of the server is not.
				text := regexp.MustCompile(`(?m)^pg_recvlogical: hint: .*\n`).ReplaceAllString(e.stderr, "")
				// The original writes the newline by itself.
				text = regexp.MustCompile(`could not write [0-9]+ bytes`).ReplaceAllString(text, "could not write N bytes")
				return regexp.MustCompile(`/[0-9A-F]{5,}\b`).ReplaceAllString(text, "/LSN")
			}
			if got.status != want.status || said(got) != said(want) {
				t.Errorf("status %d, want %d:\n%s", got.status, want.status, cmp.Diff(said(want), said(got)))
			}
		})
	}
}

func TestRecvLogicalSlotOptions(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	for _, major := range []int{14, 15, 16, 17, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := decodingServer(t, pgtest.Config{Major: major})
			e := basin.run(t, nil, "-d", s.ConnString(), "-S", "s", "--create-slot", "-t", "--enable-failover")
			var ignored []string
			if major < 17 {
				ignored = append(ignored, "--enable-failover")
			}
			if major < 15 {
				ignored = append(ignored, "--enable-two-phase")
			}
			var want strings.Builder
			for _, option := range ignored {
				fmt.Fprintf(&want, "pg_recvlogical: warning: %s is ignored: a server of version %s does not know it\n", option, s.Query(t, "SHOW server_version"))
			}
			if e.status != exitSuccess || e.stderr != want.String() {
				t.Errorf("%s\nwant\n%s", e, want.String())
			}
			if major >= 17 {
				if got := s.Query(t, "SELECT two_phase, failover FROM pg_replication_slots"); got != "t|t" {
					t.Errorf("two_phase, failover: %s", got)
				}
			}
			s.Exec(t, "CREATE TABLE t (i int)")
			end := func() string { return s.Query(t, "SELECT pg_current_wal_insert_lsn()") }
			stream := func() string {
				e := basin.run(t, nil, "-d", s.ConnString(), "-S", "s", "--start", "-n", "-f", "-", "-E", end(), "-o", "include-xids=0", "-o", "skip-empty-xacts")
				e.succeeded(t)
				return e.stdout
			}
			s.Exec(t, "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'one'")
			prepared, committed := "", "BEGIN\ntable public.t: INSERT: i[integer]:1\nCOMMIT\n"
			if major >= 15 {
				prepared, committed = "BEGIN\ntable public.t: INSERT: i[integer]:1\nPREPARE TRANSACTION 'one'\n", "COMMIT PREPARED 'one'\n"
			}
			if got := stream(); got != prepared {
				t.Errorf("when it is prepared: %s", cmp.Diff(prepared, got))
			}
			s.Exec(t, "COMMIT PREPARED 'one'")
			if got := stream(); got != committed {
				t.Errorf("when it is committed: %s", cmp.Diff(committed, got))
			}
		})
	}
}

// loadLine is what is decoded of a transaction of pgtest.Load.
var loadLine = regexp.MustCompile(`^table public\.load_log: INSERT: client\[integer\]:([0-9]+) n\[bigint\]:([0-9]+)$`)

// checkReceivedLoad fails the test unless what was received of a load is whole: all
// that was committed, in order, each line as it should be; and if that is wanted,
// nothing more than once, but for a transaction that was left before its end.
func checkReceivedLoad(t testing.TB, s *pgtest.Server, received string, once bool) {
	t.Helper()
	if received != "" && !strings.HasSuffix(received, "\n") {
		t.Errorf("it ends within a line: %q", received[max(0, len(received)-100):])
	}
	seen, repeated := make(map[int]int64), 0
	client, n := 0, int64(0) // of the transaction at hand; n is zero if it is another
	for line := range strings.Lines(received) {
		line = strings.TrimSuffix(line, "\n")
		m := loadLine.FindStringSubmatch(line)
		switch {
		case m != nil:
			client, _ = strconv.Atoi(m[1])
			n, _ = strconv.ParseInt(m[2], 10, 64)
		case strings.HasPrefix(line, "BEGIN"):
			n = 0
		case strings.HasPrefix(line, "COMMIT") && n > seen[client]+1:
			t.Fatalf("client %d: transaction %d comes after %d", client, n, seen[client])
		case strings.HasPrefix(line, "COMMIT") && n > seen[client]:
			seen[client] = n
		case strings.HasPrefix(line, "COMMIT") && n > 0:
			repeated++
		case strings.HasPrefix(line, "COMMIT"), strings.HasPrefix(line, "table public."):
		case !once: // a receiver that was killed left it
		default:
			t.Fatalf("not a whole line: %.200q", line)
		}
	}
	for row := range strings.SplitSeq(s.Query(t, "SELECT client, max(n) FROM load_log GROUP BY client"), "\n") {
		var client int
		var n int64
		if _, err := fmt.Sscanf(row, "%d|%d", &client, &n); err != nil {
			t.Fatal(row, err)
		}
		if seen[client] != n {
			t.Errorf("client %d: %d of %d transactions were received", client, seen[client], n)
		}
	}
	if once && repeated > 0 {
		t.Errorf("%d transactions were received more than once", repeated)
	}
}

// receivedUpTo waits until a file has what is decoded of a row that is written now.
func receivedUpTo(t testing.TB, s *pgtest.Server, path, name string) {
	t.Helper()
	s.Exec(t, "CREATE TABLE IF NOT EXISTS marks (name text)", "INSERT INTO marks VALUES ('"+name+"')")
	eventually(t, "the mark "+name+" in "+path, func() bool {
		content, err := os.ReadFile(path)
		return err == nil && bytes.Contains(content, []byte("table public.marks: INSERT: name[text]:'"+name+"'\n"))
	})
}

// TestRecvLogicalLosesNothing kills the server, then the receiver, and then stops
// both as one should.
func TestRecvLogicalLosesNothing(t *testing.T) {
	basin := newProgram(t, "pg_recvlogical")
	for _, major := range []int{10, 14, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := decodingServer(t, pgtest.Config{Major: major})
			file := filepath.Join(pgtest.TempDir(t), "log")
			receive := func() *process {
				return basin.start(t, nil, "-d", s.ConnString(), "-S", "s", "--start", "-f", file, "-s", "1", "-F", "1")
			}
			basin.run(t, nil, "-d", s.ConnString(), "-S", "s", "--create-slot").succeeded(t)
			load := pgtest.StartLoad(t.Context(), t, s, 3)
			enough := func() {
				before := load.Committed()
				eventually(t, "load", func() bool { return load.Committed() > before+100 })
			}
			p := receive()
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("the receiver said:\n%s", p.stderr.String())
				}
			})
			receivedUpTo(t, s, file, "at the beginning")
			enough()
			s.Kill(t)
			load.Stop(t)
			s.Start(t)
			load = pgtest.StartLoad(t.Context(), t, s, 3)
			receivedUpTo(t, s, file, "after the server was killed")
			enough()
			p.signal(t, syscall.SIGKILL)
			p.wait(t)
			enough()
			p = receive()
			receivedUpTo(t, s, file, "after the receiver was killed")
			enough()
			load.Stop(t)
			s.Restart(t)
			receivedUpTo(t, s, file, "after the server was restarted")
			p.signal(t, syscall.SIGTERM)
			if e := p.wait(t); e.status != exitSuccess || e.signal != 0 {
				t.Errorf("%s", e)
			}
			checkReceivedLoad(t, s, readFile(t, file), false)
		})
	}
}
