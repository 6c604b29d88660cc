package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"basin/internal/pgtest"
)

// promote makes a server of a standby, and waits until it takes changes.
func promote(t testing.TB, standby *pgtest.Server) {
	t.Helper()
	ctl := pgtest.Command(t, standby.Major, "pg_ctl", "promote", "--wait", "--pgdata="+standby.DataDir)
	if out, err := ctl.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// historyOf reads the history file of a timeline.
func historyOf(t testing.TB, s *pgtest.Server, timeline Timeline) History {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", HistoryName(timeline)))
	if err != nil {
		t.Fatal(err)
	}
	history, err := ParseHistory(timeline, content)
	if err != nil {
		t.Fatal(err)
	}
	return history
}

func lsnOf(t testing.TB, s *pgtest.Server, expression string) LSN {
	t.Helper()
	lsn, err := ParseLSN(s.Query(t, "SELECT "+expression))
	if err != nil {
		t.Fatal(err)
	}
	return lsn
}

// emit adds a record to a server's log, and returns where the next will begin.
func emit(t testing.TB, s *pgtest.Server, length int) LSN {
	t.Helper()
	s.Exec(t, fmt.Sprintf("SELECT pg_logical_emit_message(false, '', repeat('x', %d))", length))
	return lsnOf(t, s, "pg_current_wal_insert_lsn()")
}

// toPage adds records until one ends where a page within a segment does, and
// returns that. Where it cannot tell, it returns zero.
func toPage(t testing.TB, s *pgtest.Server) LSN {
	t.Helper()
	at := emit(t, s, 1000)
	after := emit(t, s, 1000)
	page := (after + defaultPageSize) &^ (defaultPageSize - 1)
	overhead := int(after-at) - 1000
	if page-at < 3000 || overhead < 0 || overhead > 100 || page&(MinSegmentSize-1) == 0 {
		return 0
	}
	if emit(t, s, int(page-after)-overhead) != page+shortHeaderSize {
		return 0
	}
	return page
}

// toSegment switches to the next segment and returns where that begins.
func toSegment(t testing.TB, s *pgtest.Server) LSN {
	t.Helper()
	s.Exec(t, "SELECT pg_switch_wal()")
	return (lsnOf(t, s, "pg_current_wal_insert_lsn()") - longHeaderSize)
}

// endAt lets a server come to a border, and ends it when its standby has all of
// the log up to there and nothing more. That others write, too, is overcome by
// patience.
func endAt(t testing.TB, s, standby *pgtest.Server, border func(testing.TB, *pgtest.Server) LSN) LSN {
	t.Helper()
	for range 50 {
		end := border(t, s)
		if end == 0 || end&(defaultPageSize-1) != 0 {
			continue
		}
		standby.WaitFor(t, "SELECT pg_last_wal_replay_lsn() >= '"+end.String()+"'", "t")
		s.Kill(t)
		if lsnOf(t, standby, "pg_last_wal_receive_lsn()") == end {
			return end
		}
		s.Start(t)
	}
	t.Fatal("the log does not end at a border")
	return 0
}

// TestTimelines promotes standbys at various places of a page.
func TestTimelines(t *testing.T) {
	for _, c := range []struct {
		major  int
		where  string
		border func(testing.TB, *pgtest.Server) LSN
	}{
		{10, "within a page", nil},
		{14, "within a page", nil},
		{18, "within a page", nil},
		{11, "between pages", toPage},
		{18, "between pages", toPage},
		{18, "between segments", toSegment},
	} {
		t.Run(strconv.Itoa(c.major)+" "+c.where, func(t *testing.T) {
			t.Parallel()
			conf, size := config(c.major)
			s := pgtest.Start(t, conf)
			standby := s.Standby(t, nil)
			s.Exec(t, "SELECT pg_switch_wal()")
			emit(t, s, 50000)
			var end LSN
			if c.border != nil {
				end = endAt(t, s, standby, c.border)
			} else {
				s.WaitReplay(t, standby)
			}
			promote(t, standby)
			history := historyOf(t, standby, 2)
			if len(history) != 1 || history[0].Timeline != 1 || history[0].End == 0 || end != 0 && history[0].End != end {
				t.Errorf("history is %v, want 1 to %s", history, end)
			}
			emit(t, standby, 50000)
			if c.border == nil { // go on from there
				next := standby.Standby(t, nil)
				emit(t, standby, 50000)
				standby.WaitReplay(t, next)
				promote(t, next)
				emit(t, next, 50000)
				further := historyOf(t, next, 3)
				if len(further) != 2 || further[0] != history[0] || further[1].Timeline != 2 || further[1].End <= history[0].End {
					t.Errorf("history is %v, after %v", further, history)
				}
				checkTimeline(t, next, size, 3, further)
			} else {
				s.Start(t)
			}
			checkTimeline(t, standby, size, 2, history)
			emit(t, s, 50000)
			checkOld(t, s, size, history)
		})
	}
}

func systemOf(t testing.TB, s *pgtest.Server) string {
	t.Helper()
	return s.Query(t, "SELECT system_identifier FROM pg_control_system()")
}

// checkTimeline stops a server and looks at all that it has of its timeline.
func checkTimeline(t *testing.T, s *pgtest.Server, size int64, timeline Timeline, history History) {
	t.Helper()
	system := systemOf(t, s)
	s.Stop(t, pgtest.Fast)
	w := readLog(t, s, size, system, timeline)
	fork := history[len(history)-1]
	var begins int
	records, r := readAll(t, bytes.NewReader(w.log), w.start, w.size, func(r Record) {
		e, ok := r.EndOfRecovery()
		if !ok {
			return
		}
		begins++
		if e.Timeline != timeline || e.PreviousTimeline != fork.Timeline || r.LSN < fork.End || !isRecent(e.Time) {
			t.Errorf("at %s timeline %d is said to begin after %d, at %s", r.LSN, e.Timeline, e.PreviousTimeline, e.Time)
		}
	})
	if len(records) == 0 || records[len(records)-1].ResourceManager != xlogManager || r.Reason() != ErrUnwritten || begins != 1 {
		t.Errorf("timeline %d: %d records, %d of which begin it, then %v", timeline, len(records), begins, r.Reason())
	}
	if pgtest.Full(s.Major) {
		checkDump(t, w)
	}
	used := w.log[:r.End()-w.start]
	rules := PageRules{SystemID: w.system, SegmentSize: w.size, Major: w.major, Timeline: timeline, History: history}
	if err := inPieces(t, rules, w.start, used); err != nil {
		t.Errorf("timeline %d from %s, %v: %v", timeline, w.start, history, err)
	}
	rules.History = nil
	if err := NewPageChecker(rules, w.start).Check(used); err != nil {
		t.Errorf("timeline %d without a history: %v", timeline, err)
	}
	checkBeginning(t, s, w, r.End(), timeline, history)
	if w.start == fork.End {
		return
	}
	if first := Timeline(binary.LittleEndian.Uint32(used[4:])); first >= timeline {
		t.Errorf("timeline %d has no older page: the first is of %d", timeline, first)
	}
	var refused *PageError
	rules.Timeline, rules.History = fork.Timeline, history[:len(history)-1] // as if it did not end
	after := (fork.End + defaultPageSize - 1) &^ (defaultPageSize - 1)
	if err := NewPageChecker(rules, w.start).Check(used); !errors.As(err, &refused) || refused.LSN != after {
		t.Errorf("timeline %d begins in pages after %s: %v", timeline, after, err)
	}
}

// checkOld stops a server whose timeline was left, and finds its pages refused
// from there on.
func checkOld(t *testing.T, s *pgtest.Server, size int64, history History) {
	t.Helper()
	system := systemOf(t, s)
	s.Stop(t, pgtest.Fast)
	w := readLog(t, s, size, system, 1)
	_, r := readAll(t, bytes.NewReader(w.log), w.start, w.size, nil)
	used := w.log[:r.End()-w.start]
	rules := PageRules{SystemID: w.system, SegmentSize: w.size, Major: w.major, Timeline: 1}
	if err := NewPageChecker(rules, w.start).Check(used); err != nil {
		t.Errorf("the old timeline: %v", err)
	}
	rules.Timeline, rules.History = 2, history
	after := (history[0].End + defaultPageSize - 1) &^ (defaultPageSize - 1)
	want := fmt.Sprintf("invalid write-ahead log page at %s: it is of timeline 1, not 2", after)
	if err := NewPageChecker(rules, w.start).Check(used); err == nil || err.Error() != want {
		t.Errorf("the old timeline after %v: %v, want %s", history, err, want)
	}
}
