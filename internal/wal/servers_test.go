package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
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
	system := s.Query(t, "SELECT system_identifier FROM pg_control_system()")
	s.Stop(t, pgtest.Fast)
	return readLog(t, s, size, system, 1)
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
			checkCommits(t, w)
			if pgtest.Full(major) {
				checkDump(t, w, r.End())
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
			if pgtest.Full(major) {
				checkDump(t, w, r.End())
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

// checkCommits looks for what was committed.
func checkCommits(t *testing.T, w written) {
	t.Helper()
	var commits, prepared int
	readAll(t, bytes.NewReader(w.log), w.start, w.size, func(r Record) {
		if _, err := r.fragments(); err != nil {
			t.Fatalf("record at %s: %v", r.LSN, err)
		}
		c, ok := r.Commit()
		switch what := r.Info & transactionWhat; {
		case !ok && r.ResourceManager == transactionManager && (what == 0 || what == transactionCommitPrepared):
			t.Errorf("the commit at %s is none", r.LSN)
		case !ok:
			return
		case c.XID == 0 || time.Since(c.Time) > time.Hour && r.LSN > 0x3000000 || time.Until(c.Time) > time.Minute:
			t.Errorf("the commit at %s is %v", r.LSN, c)
		case what == transactionCommitPrepared:
			prepared++
			if c.XID == r.XID {
				t.Errorf("the commit at %s is by %d itself", r.LSN, c.XID)
			}
		}
		commits++
	})
	if prepared != 3 || commits < 100 {
		t.Errorf("%d commits, %d of prepared transactions", commits, prepared)
	}
}

var (
	dumpLine   = regexp.MustCompile(`^rmgr: (\S+) +len \(rec/tot\): +(\d+)/ *(\d+), tx: +(\d+), lsn: ([0-9A-F/]+), prev ([0-9A-F/]+), desc: (.*)$`)
	dumpCommit = regexp.MustCompile(`^COMMIT(?:_PREPARED)?( (?:\d+: )?\d+-\d+-\d+ \d+:\d+:\d+\.\d+)`)
	dumpImage  = regexp.MustCompile(` FPW for WAL verification| FPW`)
)

// managers are the resource managers by number, as pg_waldump names them.
var managers = []string{"XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap", "Standby",
	"Heap2", "Heap", "Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs", "ReplicationOrigin", "Generic", "LogicalMessage"}

// checkDump compares record by record with what pg_waldump prints.
func checkDump(t *testing.T, w written, end LSN) {
	t.Helper()
	last := w.names[(int64(end-w.start)-1)/w.size]
	var complaints bytes.Buffer // it complains about the end of the log
	dump := pgtest.Command(t, w.major, "pg_waldump", "--path="+filepath.Join(w.dataDir, "pg_wal"), w.names[0], last)
	dump.Stderr = &complaints
	out, err := dump.Output()
	if err != nil && !strings.Contains(complaints.String(), end.String()) {
		t.Logf("%v: %s", err, complaints.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	n := 0
	readAll(t, bytes.NewReader(w.log), w.start, w.size, func(r Record) {
		if n++; n > len(lines) {
			return
		}
		want, got := dumpedOf(t, lines[n-1]), dumped(t, r)
		if got != want {
			t.Fatalf("record %d is\n%s\nnot\n%s\n%s", n, got, want, lines[n-1])
		}
	})
	if n != len(lines) {
		t.Errorf("%d records, not %d", n, len(lines))
	}
}

// dumpedOf returns what a line of pg_waldump says, in our words.
func dumpedOf(t *testing.T, line string) string {
	t.Helper()
	m := dumpLine.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("cannot read %q", line)
	}
	lsn, err1 := ParseLSN(m[5])
	prev, err2 := ParseLSN(m[6])
	if err1 != nil || err2 != nil {
		t.Fatalf("cannot read %q", line)
	}
	desc, blocks, _ := strings.Cut(m[7], ", blkref #")
	var commit string
	if m[1] == "Transaction" && dumpCommit.MatchString(desc) {
		commit = dumpCommit.FindStringSubmatch(desc)[1]
	}
	if blocks != "" {
		blocks = " #" + dumpImage.ReplaceAllString(blocks, " image")
	}
	return fmt.Sprintf("%s %s of %s bytes, transaction %s, at %s after %s%s%s", m[1], m[2], m[3], m[4], lsn, prev, commit, strings.ReplaceAll(blocks, ", blkref #", " #"))
}

// dumped returns what dumpedOf returns of the same record.
func dumped(t *testing.T, r Record) string {
	t.Helper()
	f, err := r.fragments()
	if err != nil {
		t.Fatalf("record at %s: %v", r.LSN, err)
	}
	var blocks strings.Builder
	own := int(r.Length)
	for _, b := range f.blocks {
		fmt.Fprintf(&blocks, " #%d: rel %d/%d/%d", b.id, b.relation.tablespace, b.relation.database, b.relation.number)
		if b.fork != 0 {
			fmt.Fprintf(&blocks, " fork %s", []string{"main", "fsm", "vm", "init"}[b.fork])
		}
		fmt.Fprintf(&blocks, " blk %d", b.number)
		if b.image != nil {
			blocks.WriteString(" image")
		}
		own -= len(b.image)
	}
	var commit string
	if c, ok := r.Commit(); ok {
		if c.XID != r.XID {
			commit = fmt.Sprintf(" %d:", c.XID)
		}
		commit += c.Time.Format(" 2006-01-02 15:04:05.000000")
	}
	return fmt.Sprintf("%s %d of %d bytes, transaction %d, at %s after %s%s%s",
		managers[r.ResourceManager], own, r.Length, r.XID, r.LSN, r.Prev, commit, blocks.String())
}
