package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

// pair is a primary and its standby, each with an archive of its own, and a slot
// for one receiver on both.
type pair struct {
	primary, standby *pgtest.Server
	primaryTo, newTo string // their archives
	program          *program
	log              *receivedLog
}

// newPair starts both.
func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{program: newProgram(t, "pg_receivewal"), primaryTo: pgtest.TempDir(t), newTo: pgtest.TempDir(t)}
	p.primary = pgtest.Start(t, archivingConfig(p.primaryTo))
	p.primary.Exec(t, "CREATE TABLE commits (n int PRIMARY KEY)")
	p.standby = p.primary.Standby(t, pgtest.Archiving(p.newTo))
	p.log = newReceivedLog(t, p.primary, p.primaryTo)
	p.log.originals = append(p.log.originals, p.newTo, filepath.Join(p.standby.DataDir, "pg_wal"))
	for _, s := range []*pgtest.Server{p.primary, p.standby} {
		s.Exec(t, "SELECT pg_create_physical_replication_slot('follower')")
	}
	return p
}

// hosts returns a connection string that names servers in this order.
func hosts(servers ...*pgtest.Server) string {
	var addresses, ports []string
	for _, s := range servers {
		addresses, ports = append(addresses, "127.0.0.1"), append(ports, fmt.Sprint(s.Port))
	}
	return "user=postgres sslmode=disable host=" + strings.Join(addresses, ",") + " port=" + strings.Join(ports, ",")
}

// receive starts the receiver of a pair.
func (p *pair) receive(t *testing.T, args ...string) *process {
	t.Helper()
	return p.program.start(t, nil, append([]string{"-D", p.log.path, "-S", "follower", "-v", "-s", "1"}, args...)...)
}

// streams waits until the primary sends its log: without log in the directory, and
// with a slot that holds none yet, the receiver takes what comes from then on.
func (p *pair) streams(t *testing.T) {
	t.Helper()
	p.primary.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_receivewal' AND state = 'streaming'", "1")
}

// commit makes commits with these numbers, each in a segment of its own, and
// waits until the receiver that is at work has the last one's whole.
func (p *pair) commit(t *testing.T, s *pgtest.Server, receiver *process, timeline wal.Timeline, numbers ...int) {
	t.Helper()
	var end wal.LSN
	for _, n := range numbers {
		s.Exec(t, fmt.Sprintf("INSERT INTO commits VALUES (%d)", n))
		end = lsn(t, s, "SELECT pg_switch_wal()")
	}
	log := *p.log
	if s == p.standby {
		log.originals = []string{p.newTo}
	}
	log.arrives(t, receiver, timeline, end)
}

func TestFailover(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason string
		behind bool // the standby is several segments behind the receiver
		killed bool // the receiver too, and started again after the failover
		args   []string
		target string
	}{
		{"standby with all of the log", false, false, nil, "read-write"},
		{"standby with all of the log, receiver killed", false, true, []string{"-Z", "lz4", "--synchronous"}, "primary"},
		{"standby that is behind", true, false, []string{"--synchronous"}, "primary"},
		{"standby that is behind, receiver killed", true, true, []string{"-Z", "zstd"}, "read-write"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			args := append([]string{"-d", hosts(p.primary, p.standby) + " target_session_attrs=" + test.target}, test.args...)
			receiver := p.receive(t, args...)
			p.streams(t)
			p.commit(t, p.primary, receiver, 1, 1, 2, 3)
			backup := logBackup(t, newProgram(t, "pg_basebackup"), p.primary)
			p.commit(t, p.primary, receiver, 1, 4, 5, 6)
			p.begin(t, receiver, 7)
			p.primary.WaitReplay(t, p.standby)
			var end wal.LSN // of what only the receiver has
			if test.behind {
				p.standby.Stop(t, pgtest.Fast)
				p.commit(t, p.primary, receiver, 1, 11, 12, 13)
				end = p.begin(t, receiver, 14)
			}
			p.primary.Kill(t)
			if test.killed {
				receiver.kill(t)
			}
			if test.behind {
				p.standby.Start(t)
			}
			p.standby.Promote(t)
			if test.killed {
				receiver = p.receive(t, args...)
			}
			p.commit(t, p.standby, receiver, 2, 101, 102, 103)
			e := receiver.ends(t, syscall.SIGTERM)
			p.log.checkComplete(t)
			p.checkForked(t, !test.behind)
			if test.behind {
				p.checkSetApart(t, e, end)
			} else {
				e.said(t, "switched to timeline 2 at ")
			}
			const want = "1 2 3 4 5 6 7 101 102 103"
			if got := restoredCommits(t, backup, p.log.path); got != want {
				t.Errorf("restored: commits %s, not %s", got, want)
			}
		})
	}
}

// begin makes a commit on the primary in a segment that stays incomplete, and waits
// until the receiver has it. It returns where that ends.
func (p *pair) begin(t *testing.T, receiver *process, number int) (end wal.LSN) {
	t.Helper()
	p.primary.Exec(t, fmt.Sprintf("INSERT INTO commits VALUES (%d)", number))
	end = lsn(t, p.primary, "SELECT pg_current_wal_flush_lsn()")
	eventually(t, fmt.Sprintf("log up to %v", end), func() bool {
		select {
		case <-receiver.done:
			t.Fatalf("%s", receiver.wait(t))
		default:
		}
		return p.primary.Query(t, fmt.Sprintf("SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pg_receivewal' AND write_lsn >= '%v'", end)) == "1"
	})
	return end
}

// fork returns where the standby left the first timeline.
func (p *pair) fork(t *testing.T) wal.LSN {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(p.standby.DataDir, "pg_wal", "00000002.history"))
	if err != nil {
		t.Fatal(err)
	}
	history, err := wal.ParseHistory(2, content)
	if err != nil {
		t.Fatal(err)
	}
	at, ok := history.End(1)
	if !ok {
		t.Fatalf("%q", content)
	}
	return at
}

// checkForked looks at what a directory has of both timelines. partial says whether
// the old one's last segment is to be there.
func (p *pair) checkForked(t *testing.T, partial bool) {
	t.Helper()
	left := wal.SegmentAt(wal.Position{LSN: p.fork(t), Timeline: 1}, segmentSize)
	p.log.isWhole(t, p.log.first, left.Start(segmentSize))
	end := lsn(t, p.standby, "SELECT pg_current_wal_lsn()")
	if n := p.log.isWhole(t, wal.Segment{Timeline: 2, Number: left.Number}, end-end%segmentSize); n < 3 {
		t.Errorf("only %d segments of the second timeline", n)
	}
	if found, err := filepath.Glob(filepath.Join(p.log.path, "00000002.history*")); err != nil || len(found) != 1 {
		t.Errorf("history files: %q, %v", found, err)
	}
	files := p.log.files(t)
	if kept := files[left]; partial && (len(kept) != 1 || !kept[0].partial) || !partial && len(kept) > 0 {
		t.Errorf("of the segment in which the timeline was left there is %v", kept)
	}
	for s, past := range files {
		if s.Timeline == 1 && s.Number > left.Number {
			t.Errorf("%v lies past the end of its timeline", past)
		}
	}
}

// checkSetApart looks at what only the receiver has, of four commits, up to a
// position, and at what it says of them.
func (p *pair) checkSetApart(t *testing.T, e ending, end wal.LSN) {
	t.Helper()
	fork := p.fork(t)
	apart := *p.log
	apart.path = filepath.Join(p.log.path, "diverged-00000001-"+strings.ReplaceAll(fork.String(), "/", "-"))
	apart.first = wal.SegmentAt(wal.Position{LSN: fork, Timeline: 1}, segmentSize)
	apart.originals = p.log.originals[:2] // the primary's
	apart.sound = make(map[string]bool)
	apart.has(t, "set apart", end)
	e.said(t, fmt.Sprintf("timeline 1 was left at %v, but the log received of it goes on to %v", fork, end), "4 transactions", apart.path)
	list, err := os.ReadFile(filepath.Join(apart.path, "COMMITS"))
	if err != nil {
		t.Fatal(err)
	}
	p.primary.Start(t) // it knows them
	for n := 11; n <= 14; n++ {
		transaction := p.primary.Query(t, fmt.Sprintf("SELECT xmin FROM commits WHERE n = %d", n))
		e.said(t, "transaction "+transaction+" at ")
		if !strings.Contains(string(list), transaction) {
			t.Errorf("transaction %s is not in the list:\n%s", transaction, list)
		}
	}
}

// restoredCommits returns the numbers of the commits that a restored cluster has.
func restoredCommits(t *testing.T, backup, log string) string {
	t.Helper()
	s := restore(t, pgtest.Newest, backup, log)
	defer s.Stop(t, pgtest.Immediate)
	return s.Query(t, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM commits")
}
