package wal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// checkServerSummaries compares summaries of what a server has written, up to end, with its
// records.
func checkServerSummaries(t *testing.T, w written, end LSN, timeline Timeline, history History) []Summary {
	t.Helper()
	rules := PageRules{SystemID: w.system, SegmentSize: w.size, Major: w.major, Timeline: timeline, History: history}
	log := w.log[:end-w.start]
	all := summarizeAll(t, log, w.start, rules)
	incomplete := checkSummaries(t, log, w.start, rules, all)
	if all[0].IsIncomplete {
		incomplete--
	}
	if incomplete > len(all)/4 { // those in which a commit ends that has long lists
		t.Errorf("%d of %d summaries are incomplete", incomplete, len(all))
	}
	return all
}

// TestServersSummaries asks a server what it does, and finds that again.
func TestServersSummaries(t *testing.T) {
	for _, major := range []int{13, 15, 17, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			c, size := config(major)
			s := pgtest.Start(t, c)
			began := lsnOf(t, s, "pg_current_wal_insert_lsn()")
			s.Exec(t, "CREATE TABLE numbers (n int)")
			path := s.Tablespace(t, "elsewhere")
			oid := s.Query(t, "SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")
			var points []string
			for i := range 6 {
				s.Exec(t, "BEGIN; INSERT INTO numbers VALUES (1); SAVEPOINT a; INSERT INTO numbers VALUES (2); COMMIT")
				at := s.Query(t, fmt.Sprintf("SELECT pg_create_restore_point('point %d')", i))
				points = append(points, fmt.Sprintf("point %d to %s", i, at))
				s.Exec(t, "BEGIN; INSERT INTO numbers VALUES (3); PREPARE TRANSACTION 'later'")
				emit(t, s, 700000)
				s.Exec(t, "COMMIT PREPARED 'later'")
				if i == 3 {
					s.Exec(t, "SELECT pg_switch_wal()")
				}
			}
			committed := strings.Fields(s.Query(t, "SELECT min(xmin::text::bigint) || ' ' || max(xmin::text::bigint) FROM numbers WHERE n <> 2"))
			first := s.Query(t, "SELECT to_char(min(pg_xact_commit_timestamp(xmin)) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM numbers")
			last := s.Query(t, "SELECT to_char(max(pg_xact_commit_timestamp(xmin)) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM numbers")
			redo := s.Query(t, "SELECT 1 FROM pg_create_restore_point('last')") // after which is but the checkpoint
			system := systemOf(t, s)
			s.Stop(t, pgtest.Fast)
			w := readLog(t, s, size, system, 1)
			_, r := readAll(t, bytes.NewReader(w.log), w.start, w.size, nil)
			all := checkServerSummaries(t, w, r.End(), 1, nil)

			var whole Transactions
			var found, tablespaces []string
			switches := 0
			for _, summary := range all {
				for _, p := range summary.RestorePoints {
					found = append(found, fmt.Sprintf("%s to %s", p.Name, p.End))
				}
				for _, n := range summary.Tablespaces {
					tablespaces = append(tablespaces, fmt.Sprint(n.OID, " ", n.Path))
				}
				if summary.IsSwitched {
					switches++
				}
				if n := summary.Transactions; n.Count > 0 && summary.Start+LSN(size) > began {
					if whole.Count == 0 {
						whole = n
					}
					whole.Latest, whole.Highest = n.Latest, max(whole.Highest, n.Highest)
					whole.Count += n.Count
				}
			}
			if got := strings.Join(found[:len(found)-1], ", "); got != strings.Join(points, ", ") || redo != "1" {
				t.Errorf("restore points are %s, want %s", got, points)
			}
			if got := strings.Join(tablespaces, ", "); got != oid+" "+path {
				t.Errorf("tablespaces are %q, want %s %s", got, oid, path)
			}
			const clock = "2006-01-02 15:04:05.000000"
			least, greatest := strconv.FormatUint(uint64(whole.Lowest), 10), strconv.FormatUint(uint64(whole.Highest), 10)
			if whole.Earliest.Format(clock) > first || whole.Latest.Format(clock) != last || least > committed[0] || greatest != committed[1] || switches == 0 {
				t.Errorf("transactions are %v, %d switches; want %v from %s to %s", whole, switches, committed, first, last)
			}
			if c := all[len(all)-1].Checkpoint; c == nil || !c.IsShutdown || c.LSN != all[len(all)-1].Last || c.Redo != c.LSN {
				t.Errorf("the last checkpoint is %v", c)
			}
			// Whoever looks for the first commit after a time looks into no other segment.
			readAll(t, bytes.NewReader(w.log), w.start, w.size, func(r Record) {
				end, ok := r.Commit()
				if !ok {
					return
				}
				s := all[(r.End-1-w.start)/LSN(size)]
				if before := end.Time.Add(-time.Microsecond); !s.IsIncomplete && !s.Transactions.Latest.After(before) {
					t.Errorf("the commit at %s is not after %s in its segment's summary", r.LSN, before)
				}
			})
		})
	}
}

// TestServersWriteMinimalLog has servers go on with wal_level=minimal for a while, and with other settings that a hot standby needs.
func TestServersWriteMinimalLog(t *testing.T) {
	for _, major := range []int{10, 11, 12, 13, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			c, size := config(major)
			s := pgtest.Start(t, c)
			system := systemOf(t, s)
			s.Exec(t, "CREATE TABLE numbers (n int)")
			var began LSN
			for _, level := range []string{"minimal", "replica"} {
				senders := "10"
				if level == "minimal" {
					began = lsnOf(t, s, "pg_current_wal_insert_lsn()")
					senders = "0"
				}
				s.Exec(t, "ALTER SYSTEM SET wal_level = "+level, "ALTER SYSTEM SET max_wal_senders = "+senders, "ALTER SYSTEM SET max_connections = 187",
					"ALTER SYSTEM SET max_prepared_transactions = 7", "ALTER SYSTEM SET max_locks_per_transaction = 65", "ALTER SYSTEM SET max_worker_processes = 9")
				s.Stop(t, pgtest.Fast)
				s.Start(t)
				s.Exec(t, "INSERT INTO numbers SELECT generate_series(1, 50000)")
			}
			s.Stop(t, pgtest.Fast)
			w := readLog(t, s, size, system, 1)
			_, r := readAll(t, bytes.NewReader(w.log), w.start, w.size, nil)
			var found []LSN
			var told Parameters
			for _, summary := range checkServerSummaries(t, w, r.End(), 1, nil) {
				if at := summary.Minimal; at >= began {
					found = append(found, at)
				}
				if summary.Start+LSN(size) > began {
					told.Raise(summary.Parameters)
				}
			}
			if len(found) != 1 {
				t.Errorf("behind %v the server is told to go on with wal_level=minimal at %v", began, found)
			}
			want := Parameters{MaxConnections: 187, MaxWorkerProcesses: 9, MaxWALSenders: 10, MaxPreparedTransactions: 7, MaxLocksPerTransaction: 65}
			if major < 12 {
				want.MaxWALSenders = 0
			}
			if told != want {
				t.Errorf("the server tells of %+v, want %+v", told, want)
			}
		})
	}
}

// TestServersSplice lets two copies of a cluster go on, each on its own, on one
// timeline, and takes a segment of each.
func TestServersSplice(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			c, size := config(major)
			s := pgtest.Start(t, c)
			s.Exec(t, "CREATE TABLE numbers (n int, what text)")
			emit(t, s, 3200000)
			system := systemOf(t, s)
			s.Stop(t, pgtest.Fast)
			clone := filepath.Join(pgtest.TempDir(t), "clone")
			if err := os.CopyFS(clone, os.DirFS(s.DataDir)); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(clone, 0o700); err != nil {
				t.Fatal(err)
			}
			pgtest.Own(t, clone)
			s.Start(t)
			other := pgtest.StartDir(t, major, clone, nil)
			forked := lsnOf(t, s, "pg_current_wal_insert_lsn()")
			var logs [2]written
			var ends [2]LSN
			for i, server := range []*pgtest.Server{s, other} {
				server.Exec(t, fmt.Sprintf("INSERT INTO numbers SELECT g, repeat('x', 50 + 3 * %d) FROM generate_series(1, 40000) g", i))
				server.Stop(t, pgtest.Fast)
				logs[i] = readLog(t, server, size, system, 1)
				_, r := readAll(t, bytes.NewReader(logs[i].log), logs[i].start, size, nil)
				ends[i] = r.End()
			}
			a := checkServerSummaries(t, logs[0], ends[0], 1, nil)
			b := checkServerSummaries(t, logs[1], ends[1], 1, nil)
			same, refused := 0, 0
			for i := 1; i < min(len(a), len(b)); i++ {
				if a[i].Start+LSN(size) <= forked {
					same++
					continue
				}
				if a[i].Start <= forked {
					continue // both come after what is common
				}
				for _, pair := range [][2]Summary{{a[i-1], b[i]}, {b[i-1], a[i]}} {
					if s, err := pair[1].After(&pair[0]); err == nil {
						t.Errorf("%+v is taken to come after %+v", s, pair[0])
					} else if refused++; refused <= 2 {
						t.Log(err)
					}
				}
			}
			if same == 0 || refused < 4 {
				t.Errorf("%d segments are the same, %d were refused", same, refused)
			}
		})
	}
}

// TestServersSwitchOverBorder lets a server's switch begin in one segment and leave the next.
func TestServersSwitchOverBorder(t *testing.T) {
	for _, major := range []int{13, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			c, size := config(major)
			s := pgtest.Start(t, c)
			for try := range LSN(100) {
				missing := 8 * (1 + try%2)
				if s.Exec(t, "SELECT pg_switch_wal()"); emitTo(t, s, size, missing) {
					s.Exec(t, "SELECT pg_switch_wal()")
					system := systemOf(t, s)
					emit(t, s, 100)
					s.Stop(t, pgtest.Fast)
					w := readLog(t, s, size, system, 1)
					_, r := readAll(t, bytes.NewReader(w.log), w.start, w.size, nil)
					all := checkServerSummaries(t, w, r.End(), 1, nil)
					last := all[len(all)-2]
					if !last.IsSwitched || last.First != 0 || last.Continues != 24-int64(missing) || last.End != last.Start+LSN(size) {
						t.Errorf("no switch leaves the segment before the last: %+v", last)
					}
					return
				}
			}
			t.Error("the log does not come that close to the end of a segment")
		})
	}
}

// emitTo adds records to a server's log up to so many bytes before the end of a segment, and says
// whether it did. Others may write, too.
func emitTo(t *testing.T, s *pgtest.Server, size int64, before LSN) bool {
	at := emit(t, s, 1000)
	after := emit(t, s, 1000)
	overhead := after - at - 1000
	end := (after + LSN(size) - 1) &^ LSN(size-1)
	page := end - defaultPageSize
	if overhead > 100 || page < after {
		return false
	}
	headers := (page - after&^(defaultPageSize-1)) / defaultPageSize * shortHeaderSize
	after = emit(t, s, int(page+1000-after-headers))
	if after < page || after > page+5000 {
		return false
	}
	return emit(t, s, int(end-before-after-overhead)) == end-before
}

// checkBeginning looks at how the summaries of a timeline come after that of the timeline before.
func checkBeginning(t *testing.T, s *pgtest.Server, w written, end LSN, timeline Timeline, history History) {
	t.Helper()
	all := checkServerSummaries(t, w, end, timeline, history)
	fork := history[len(history)-1]
	if places := all[0].Timelines; len(places) != 1 || places[0].Timeline != timeline || places[0].Previous != fork.Timeline || places[0].LSN < fork.End {
		t.Errorf("timeline %d is told to begin at %v", timeline, places)
	}
	if first := all[0].FirstTimeline; (first == timeline) != (w.start == fork.End) {
		t.Errorf("the first page is told to be of timeline %d", first)
	}
	segment := SegmentAt(Position{LSN: w.start - 1, Timeline: fork.Timeline}, w.size)
	log, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", segment.Name(w.size)))
	if err != nil {
		t.Fatal(err)
	}
	rules := PageRules{SystemID: w.system, SegmentSize: w.size, Major: w.major, History: history[:len(history)-1]}
	before, err := Summarize(bytes.NewReader(log), segment, rules)
	if err != nil {
		t.Fatal(err)
	}
	rules.History = history
	segment = SegmentAt(Position{LSN: w.start, Timeline: timeline}, w.size)
	first, err := SummarizePart(bytes.NewReader(w.log), segment, rules)
	if err != nil {
		t.Fatal(err)
	}
	if first, err = first.After(&before); err != nil || first.Last <= before.Last {
		t.Errorf("timeline %d after %d: %v, %v", timeline, fork.Timeline, first, err)
	}
	if _, err := before.After(&first); err == nil {
		t.Error("a segment comes before its successor")
	}
}
