package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// written is what a real server has written: whole segments from some on, all of
// its log, and then perhaps segments that are kept for later.
type written struct {
	major   int
	system  uint64
	dataDir string
	size    int64 // of a segment
	start   LSN
	log     []byte
	names   []string // of the segments

	lastCheckpoint string // before it stopped, as SQL tells of it
	lastCommit     string // the same
}

// readLog reads the segments of a timeline that a stopped server has.
func readLog(t testing.TB, s *pgtest.Server, size int64, system string, timeline Timeline) written {
	t.Helper()
	signed, err := strconv.ParseInt(system, 10, 64) // as SQL has it
	if err != nil {
		t.Fatal(err)
	}
	w := written{major: s.Major, system: uint64(signed), dataDir: s.DataDir, size: size}
	entries, err := os.ReadDir(filepath.Join(s.DataDir, "pg_wal"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		segment, err := ParseSegment(entry.Name(), size)
		if err != nil || segment.Timeline != timeline {
			continue
		}
		if len(w.names) == 0 {
			w.start = segment.Start(size)
		}
		if want := w.start + LSN(len(w.log)); segment.Start(size) != want {
			t.Fatalf("%s is not at %s", entry.Name(), want)
		}
		content, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		w.log = append(w.log, content...)
		w.names = append(w.names, entry.Name())
	}
	if len(w.names) == 0 {
		t.Fatal("there are no segments")
	}
	return w
}

// config returns a cluster that keeps all of its log, in the smallest segments.
func config(major int) (pgtest.Config, int64) {
	c := pgtest.Config{Major: major, WALSegmentSizeMB: 1, Conf: map[string]string{
		"wal_level":                 "logical",
		"wal_keep_size":             "1GB",
		"wal_compression":           "on",
		"max_prepared_transactions": "5",
		"track_commit_timestamp":    "on",
	}}
	size := int64(MinSegmentSize)
	if major < 11 {
		c.WALSegmentSizeMB, size = 0, DefaultSegmentSize
	}
	if major < 13 {
		delete(c.Conf, "wal_keep_size")
		c.Conf["wal_keep_segments"] = "1000"
	}
	return c, size
}

// write lets a server write records of many kinds, and returns what it has
// written after it has stopped.
func write(t testing.TB, major int) written {
	t.Helper()
	c, size := config(major)
	s := pgtest.Start(t, c)
	load := pgtest.StartLoad(t.Context(), t, s, 2)
	pgtest.Fill(t, s, 1)
	for i := range 3 {
		s.Exec(t,
			fmt.Sprintf("CREATE TABLE dropped_%d (id int PRIMARY KEY, what text)", i),
			fmt.Sprintf("BEGIN; INSERT INTO dropped_%d SELECT g, repeat('x', 100) FROM generate_series(1, 1000) g; SAVEPOINT a; DELETE FROM dropped_%[1]d WHERE id %% 2 = 0; SAVEPOINT b; UPDATE dropped_%[1]d SET what = 'y'; COMMIT", i),
			fmt.Sprintf("BEGIN; SAVEPOINT a; UPDATE dropped_%d SET what = 'z'; RELEASE a; CREATE TABLE kept_%[1]d (); DROP TABLE dropped_%[1]d; PREPARE TRANSACTION 'some name %[1]d'", i),
			fmt.Sprintf("COMMIT PREPARED 'some name %d'", i),
			"BEGIN; CREATE TABLE never (); PREPARE TRANSACTION 'never'",
			"ROLLBACK PREPARED 'never'",
			"BEGIN; CREATE TABLE never (); ROLLBACK",
			"SELECT pg_logical_emit_message(false, 'big', repeat('big ', 800000))", // longer than three segments
			"SELECT pg_logical_emit_message(true, 'big', repeat('x', 70000 + 8 * "+strconv.Itoa(i)+"))",
			"SELECT pg_switch_wal()",
			"SELECT pg_create_restore_point('here')",
			"SELECT pg_switch_wal()",
			"CHECKPOINT",
		)
	}
	for n := range 300 { // records of all lengths fall on the borders of pages in many ways
		s.Exec(t, fmt.Sprintf("SELECT pg_logical_emit_message(false, '', repeat('x', %d)), pg_logical_emit_message(false, '', repeat('y', %d))", n*8, 8192-n))
		if load.Committed() > 300 {
			break
		}
	}
	load.Stop(t)
	s.Exec(t, "CREATE TABLE last ()", "CHECKPOINT")
	const clock = "AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"
	checkpoint := s.Query(t, `SELECT format('%s: from %s on timeline %s after %s, images %s, before %s, at %s', checkpoint_lsn, redo_lsn,
		timeline_id, prev_timeline_id, full_page_writes, next_xid, to_char(checkpoint_time `+clock+`')) FROM pg_control_checkpoint()`)
	commit := s.Query(t, `SELECT format('%s at %s', xid, to_char(timestamp `+clock+`.US')) FROM pg_last_committed_xact()`)
	system := systemOf(t, s)
	s.Stop(t, pgtest.Fast)
	w := readLog(t, s, size, system, 1)
	w.lastCheckpoint, w.lastCommit = checkpoint, commit
	return w
}

// readAll returns all records, without their data, and the reader.
func readAll(t testing.TB, input io.Reader, start LSN, size int64, each func(Record)) ([]Record, *RecordReader) {
	t.Helper()
	var records []Record
	r := NewRecordReader(input, start, size)
	for {
		record, err := r.Next()
		if err == io.EOF {
			return records, r
		}
		if err != nil {
			t.Fatal(err)
		}
		if each != nil {
			each(record)
		}
		record.Data = nil
		records = append(records, record)
	}
}

func TestServers(t *testing.T) {
	for _, major := range pgtest.Majors() {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			w := write(t, major)
			records, r := readAll(t, bytes.NewReader(w.log), w.start, w.size, nil)
			if len(records) == 0 {
				t.Fatalf("no records: %v", r.Reason())
			}
			last := records[len(records)-1]
			if last.ResourceManager != xlogManager || last.Info&infoOfManager != 0 { // XLOG_CHECKPOINT_SHUTDOWN
				t.Errorf("the last record is not the checkpoint at the end: %v, then %v", last, r.Reason())
			}
			t.Logf("%d segments, %d records, then %v", len(w.names), len(records), r.Reason())
			checkPages(t, w, r.End())
			checkStarts(t, w, records)
			checkServerSummaries(t, w, r.End(), 1, nil)
			checkDecoded(t, w)
			if pgtest.Full(major) {
				checkDump(t, w)
			}
		})
	}
}

// TestServersOverwritten lets servers find their log cut off within a record when
// they start, which they leave there as it is.
func TestServersOverwritten(t *testing.T) {
	for _, major := range []int{10, 13, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			c, size := config(major)
			s := pgtest.Start(t, c)
			begun := emit(t, s, 1000)
			emit(t, s, int(size*5/2))
			s.Exec(t, "CREATE TABLE lost ()")
			system := systemOf(t, s)
			s.Stop(t, pgtest.Immediate)
			first := SegmentAt(Position{LSN: begun, Timeline: 1}, size).Number
			for n := first + 2; ; n++ {
				err := os.Remove(filepath.Join(s.DataDir, "pg_wal", Segment{Timeline: 1, Number: n}.Name(size)))
				if errors.Is(err, fs.ErrNotExist) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			s.Start(t)
			emit(t, s, 10000)
			s.Stop(t, pgtest.Fast)

			w := readLog(t, s, size, system, 1)
			records, r := readAll(t, bytes.NewReader(w.log), w.start, w.size, nil)
			const overwrites = 0xD0 // XLOG_OVERWRITE_CONTRECORD
			i := slices.IndexFunc(records, func(r Record) bool {
				return r.ResourceManager == xlogManager && r.Info&infoOfManager == overwrites
			})
			want := Segment{Number: first + 2}.Start(size) + longHeaderSize
			if i < 1 || records[i].LSN != want || records[i].Prev != records[i-1].LSN || r.Reason() != ErrUnwritten {
				t.Fatalf("no record overwrites another at %s: %d of %d, then %v", want, i, len(records), r.Reason())
			}
			checkPages(t, w, r.End())
			checkStarts(t, w, records)
			checkServerSummaries(t, w, r.End(), 1, nil)
			if pgtest.Full(major) {
				checkDump(t, w)
			}
		})
	}
}

// checkPages lets the checker see all that was written, in pieces of many sizes.
func checkPages(t *testing.T, w written, end LSN) {
	t.Helper()
	used := int(end - w.start)
	rules := PageRules{SystemID: w.system, SegmentSize: w.size, Major: w.major, Timeline: 1}
	for _, piece := range []int{1, 7, 23, 24, 39, 40, 8191, 8192, 8193, 128 << 10, used} {
		log := w.log[:used]
		if piece < 1000 {
			log = log[:min(used, 4<<20)]
		}
		c := NewPageChecker(rules, w.start)
		for part := range slices.Chunk(log, piece) {
			if err := c.Check(part); err != nil {
				t.Fatalf("in pieces of %d bytes: %v", piece, err)
			}
		}
		if c.Position() != w.start+LSN(len(log)) {
			t.Errorf("the checker is at %s, not %s", c.Position(), end)
		}
	}
	for at := 0; at < used; at += int(w.size) {
		if err := NewPageChecker(rules, w.start+LSN(at)).Check(w.log[at:min(at+int(w.size), used)]); err != nil {
			t.Error(err)
		}
	}
}

// checkStarts reads from each segment on, and finds the same records.
func checkStarts(t *testing.T, w written, records []Record) {
	t.Helper()
	for at := 0; at < len(w.log); at += int(w.size) {
		start := w.start + LSN(at)
		for len(records) > 0 && records[0].LSN < start {
			records = records[1:]
		}
		r := NewRecordReader(bytes.NewReader(w.log[at:]), start, w.size)
		for i, want := range records[:min(len(records), 100)] {
			if got, err := r.Next(); err != nil || got.LSN != want.LSN || got.End != want.End {
				t.Errorf("record %d from %s on is at %s, not at %s: %v", i, start, got.LSN, want.LSN, err)
			}
		}
		if len(records) == 0 && r.End() != start {
			t.Errorf("from %s on there are records to %s", start, r.End())
		}
	}
}

// checkDecoded looks for what was committed, aborted and named, and for checkpoints.
func checkDecoded(t *testing.T, w written) {
	t.Helper()
	const clock = "2006-01-02 15:04:05"
	var commits, prepared, aborts, named, shutdowns, online int
	var lastCommit, lastOnline string
	readAll(t, bytes.NewReader(w.log), w.start, w.size, func(r Record) {
		if _, err := r.fragments(); err != nil {
			t.Fatalf("record at %s: %v", r.LSN, err)
		}
		commit, isCommit := r.Commit()
		abort, isAbort := r.Abort()
		point, isNamed := r.RestorePoint()
		checkpoint, isCheckpoint := r.Checkpoint()
		isOurs := r.LSN > 0x3000000 // and not of when the template of the cluster was made
		switch what := r.Info & transactionWhat; {
		case r.ResourceManager == transactionManager:
			isEnd := what == transactionCommit || what == transactionCommitPrepared || what == transactionAbort || what == transactionAbortPrepared
			end := commit
			if isAbort {
				end = abort
				aborts++
			}
			isPrepared := what == transactionCommitPrepared || what == transactionAbortPrepared
			switch {
			case isEnd != (isCommit || isAbort):
				t.Errorf("the end of a transaction at %s is none, or is none and is read as one", r.LSN)
			case isEnd && (end.XID == 0 || isOurs && !isRecent(end.Time) || isPrepared == (end.XID == r.XID)):
				t.Errorf("the end of a transaction at %s is %v", r.LSN, end)
			case isPrepared:
				prepared++
			}
			if isCommit {
				commits++
				lastCommit = fmt.Sprintf("%d at %s", commit.XID, commit.Time.Format(clock+".000000"))
			}
		case isNamed:
			named++
			if point.Name != "here" || !isRecent(point.Time) {
				t.Errorf("the restore point at %s is %v", r.LSN, point)
			}
		case isCheckpoint && checkpoint.IsShutdown:
			shutdowns++
			if checkpoint.Redo != r.LSN || checkpoint.Timeline != 1 || isOurs && !isRecent(checkpoint.Time) {
				t.Errorf("the checkpoint at %s is %v", r.LSN, checkpoint)
			}
		case isCheckpoint:
			online++
			lastOnline = fmt.Sprintf("%s: from %s on timeline %d after %d, images %.1s, before %d:%d, at %s", r.LSN, checkpoint.Redo, checkpoint.Timeline,
				checkpoint.PreviousTimeline, strconv.FormatBool(checkpoint.FullPageWrites), checkpoint.NextXID>>32, uint32(checkpoint.NextXID),
				checkpoint.Time.Format(clock))
		}
	})
	if prepared != 6 || commits < 100 || aborts < 6 || named != 3 || shutdowns == 0 || online < 4 {
		t.Errorf("%d commits, %d aborts, %d of both of prepared transactions, %d names, %d and %d checkpoints",
			commits, aborts, prepared, named, shutdowns, online)
	}
	if lastCommit != w.lastCommit {
		t.Errorf("the last commit is %s, the server's was %s", lastCommit, w.lastCommit)
	}
	if lastOnline != w.lastCheckpoint {
		t.Errorf("the last checkpoint is\n%s\nthe server's was\n%s", lastOnline, w.lastCheckpoint)
	}
}

// isRecent says whether a time is of this test.
func isRecent(at time.Time) bool { return time.Since(at) < time.Hour && time.Until(at) < time.Minute }
