package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// gapSaid is in the hint that goes with every gap.
const gapSaid = "Nothing holds the log that comes next"

// hasGap fails the test unless a receiver ends soon, by itself, with the status of a gap.
func (p *process) hasGap(t *testing.T, texts ...string) {
	t.Helper()
	e := p.waitWithin(t, 30*time.Second)
	if e.status != exitGap || e.signal != 0 || strings.Count(e.stderr, "disconnected; waiting") > 1 {
		t.Errorf("%s", e)
	}
	e.said(t, append(texts, "error: ", "hint: ", gapSaid)...)
}

// removeLog writes some segments, and has those removed that nothing holds.
func removeLog(t *testing.T, s *pgtest.Server) {
	t.Helper()
	for range 8 {
		writeNoise(t, s, 1)
	}
	s.Exec(t, "CHECKPOINT")
	s.Exec(t, "CHECKPOINT")
}

// TestGaps has log that was to come next, and that no server has any more.
func TestGaps(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	limited := map[string]string{"max_slot_wal_keep_size": "2MB", "max_wal_size": "2MB", "min_wal_size": "2MB", "checkpoint_timeout": "1h"}
	scarce := map[string]string{"max_wal_size": "2MB", "min_wal_size": "2MB", "checkpoint_timeout": "1h"}
	for _, test := range []struct {
		reason string
		major  int
		conf   map[string]string
		slot   bool
		happen func(t *testing.T, s *pgtest.Server) // while the receiver is not there
		said   string
	}{
		{"slot dropped", 18, scarce, true, func(t *testing.T, s *pgtest.Server) {
			s.Exec(t, "SELECT pg_drop_replication_slot('gap')")
		}, `replication slot "gap" does not exist`},
		{"slot dropped", 11, scarce, true, func(t *testing.T, s *pgtest.Server) {
			s.Exec(t, "SELECT pg_drop_replication_slot('gap')")
		}, `replication slot "gap" does not exist`},
		{"slot invalidated", 18, limited, true, removeLog, `replication slot "gap"`},
		{"slot invalidated", 15, limited, true, removeLog, "has already been removed"},
		{"slot invalidated", 13, limited, true, removeLog, "has already been removed"},
		{"removed, no slot", 18, scarce, false, removeLog, "has already been removed"},
		{"removed, no slot", 11, scarce, false, removeLog, "has already been removed"},
		{"removed, slot made anew", 18, scarce, true, func(t *testing.T, s *pgtest.Server) {
			s.Exec(t, "SELECT pg_drop_replication_slot('gap')")
			removeLog(t, s)
			s.Exec(t, "SELECT pg_create_physical_replication_slot('gap', true)")
		}, "has already been removed"},
	} {
		t.Run(fmt.Sprintf("%s, %d", test.reason, test.major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: test.major, WALSegmentSizeMB: segmentSize >> 20, Conf: test.conf})
			dir := pgtest.TempDir(t)
			args := []string{"-D", dir, "-d", s.ConnString()}
			if test.slot {
				s.Exec(t, "SELECT pg_create_physical_replication_slot('gap', true)")
				args = append(args, "-S", "gap")
			}
			s.Exec(t, "CREATE TABLE some_log AS SELECT 1")
			p := basin.start(t, nil, args...)
			eventually(t, "some log", func() bool { return len(entries(t, dir)) > 0 })
			p.ends(t, syscall.SIGTERM)
			before := snapshot(t, dir)

			test.happen(t, s)
			basin.start(t, nil, args...).hasGap(t, test.said)
			if after := snapshot(t, dir); after != before {
				t.Errorf("the directory was\n%s and is\n%s", before, after)
			}
		})
	}
}

// TestSlotInvalidatedWhileReceiving has a receiver that stands still, as on a machine
// that is suspended, until its slot is no good any more.
func TestSlotInvalidatedWhileReceiving(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: segmentSize >> 20, Conf: map[string]string{
		"max_slot_wal_keep_size": "2MB", "max_wal_size": "2MB", "min_wal_size": "2MB", "wal_sender_timeout": "2s",
	}})
	s.Exec(t, "SELECT pg_create_physical_replication_slot('gap', true)")
	p := basin.start(t, nil, "-D", pgtest.TempDir(t), "-d", s.ConnString(), "-S", "gap")
	s.WaitFor(t, "SELECT state FROM pg_stat_replication", "streaming")
	p.signal(t, syscall.SIGSTOP)
	// The server can end its process, and by that the slot, only once the receiver
	// takes what fills the socket: a CHECKPOINT would wait for that.
	eventually(t, "end of the slot", func() bool {
		writeNoise(t, s, 2)
		return strings.Contains(s.Log(t), `to release replication slot "gap"`)
	})
	p.signal(t, syscall.SIGCONT)
	p.hasGap(t, `replication slot "gap"`)
}

// snapshot returns names, sizes and times of all in a directory.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var seen strings.Builder
	for _, name := range entries(t, dir) {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&seen, name, info.Size(), info.ModTime())
	}
	return seen.String()
}
