package wal

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// managers are the resource managers by number, as pg_waldump names them.
var managers = []string{"XLOG", "Transaction", "Storage", "CLOG", "Database", "Tablespace", "MultiXact", "RelMap", "Standby",
	"Heap2", "Heap", "Btree", "Hash", "Gin", "Gist", "Sequence", "SPGist", "BRIN", "CommitTs", "ReplicationOrigin", "Generic", "LogicalMessage"}

// TestWaldump compares record by record with what pg_waldump tells of a log of all kinds of
// records. With BASIN_WALDUMP=full it is one of more than a gigabyte, and what came of it
// goes where the documentation is.
func TestWaldump(t *testing.T) {
	t.Parallel()
	size, isFull := int64(64<<20), os.Getenv("BASIN_WALDUMP") == "full"
	if isFull {
		size = 1100 << 20
	}
	majors := []int{15, 18}
	found := make([]agreement, len(majors))
	t.Run("PostgreSQL", func(t *testing.T) {
		for i, major := range majors {
			t.Run(strconv.Itoa(major), func(t *testing.T) {
				t.Parallel()
				l := writeVaried(t, major, size)
				found[i] = compareDump(t, major, l.dir, l.names, NewRecordReader(l.open(), l.start, l.segmentSize))
				for manager, name := range managers {
					if found[i].records[manager] == 0 {
						t.Errorf("there is no record of %s", name)
					}
				}
				t.Log(found[i])
			})
		}
	})
	if isFull && !t.Failed() {
		page := filepath.Join("..", "..", "docs", "waldump.md")
		if err := os.WriteFile(page, []byte(agreementPage(found)), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// agreement is a log that was read the same by pg_waldump.
type agreement struct {
	version string
	bytes   int64
	records [256]int // by resource manager
	longest uint32   // bytes of a record
}

func (a agreement) sum() (sum int) {
	for _, n := range a.records {
		sum += n
	}
	return sum
}

func (a agreement) String() string {
	return fmt.Sprintf("%s: %d records in %d bytes, of up to %d bytes", a.version, a.sum(), a.bytes, a.longest)
}

// agreementPage returns docs/waldump.md.
func agreementPage(found []agreement) string {
	var b strings.Builder
	b.WriteString("# The reader of records beside pg_waldump\n\n" +
		"Written by `make waldump`. A server writes log of all kinds of records for a while, to\n" +
		"more than a gigabyte; then each line that its pg_waldump prints is compared with the\n" +
		"record that basin reads there: resource manager, length with and without images of\n" +
		"pages, transaction, position, the position of the one before, each block that it\n" +
		"refers to; the times of commits and aborts, checkpoints, restore points. All agree.\n\n")
	row := func(name string, value func(agreement) any) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, a := range found {
			fmt.Fprintf(&b, " %v |", value(a))
		}
		b.WriteString("\n")
	}
	row("PostgreSQL", func(a agreement) any { return a.version })
	b.WriteString("|---|" + strings.Repeat("---:|", len(found)) + "\n")
	row("bytes of log", func(a agreement) any { return a.bytes })
	row("longest record, bytes", func(a agreement) any { return a.longest })
	row("records", func(a agreement) any { return a.sum() })
	for manager, name := range managers {
		row("of "+name, func(a agreement) any { return a.records[manager] })
	}
	return b.String()
}

// checkDump compares what a server has written with what pg_waldump prints of it.
func checkDump(t *testing.T, w written) {
	t.Helper()
	records := NewRecordReader(bytes.NewReader(w.log), w.start, w.size)
	compareDump(t, w.major, filepath.Join(w.dataDir, "pg_wal"), w.names, records)
}

// compareDump compares the records of the named segments with what pg_waldump prints of
// each, line by line as they come.
func compareDump(t *testing.T, major int, dir string, names []string, records *RecordReader) agreement {
	t.Helper()
	result := agreement{version: pgtest.Version(t, major)}
	var complaints bytes.Buffer // about the end of the log, which it does not expect
	dump := pgtest.Command(t, major, "pg_waldump", "--path="+dir, names[0], names[len(names)-1])
	dump.Stderr = &complaints
	out, err := dump.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReaderSize(out, 1<<20)
	start := records.End()
	for {
		line := dumpedLine(t, lines)
		record, err := records.Next()
		switch {
		case err == io.EOF && line == nil:
			if err := dump.Wait(); err != nil && complaints.Len() == 0 {
				t.Errorf("pg_waldump: %v", err)
			}
			result.bytes = int64(records.End() - start)
			return result
		case err == io.EOF:
			t.Fatalf("after %s there is no record, since %v; pg_waldump has\n%s", records.End(), records.Reason(), line)
		case err != nil:
			t.Fatal(err)
		case line == nil:
			_ = dump.Wait() // which complaints explain
			t.Fatalf("the record at %s is none for pg_waldump: %s", record.LSN, complaints.Bytes())
		}
		if want, ok := agrees(t, record, line); !ok {
			t.Fatalf("the record at %s is\n%s\nfor pg_waldump it is\n%s", record.LSN, want, line)
		}
		result.records[record.ResourceManager]++
		result.longest = max(result.longest, record.Length)
	}
}

// dumpedLine returns the next line, nil if there is none. Of one that is longer than the
// buffer it returns what is in that.
func dumpedLine(t *testing.T, lines *bufio.Reader) []byte {
	t.Helper()
	line, err := lines.ReadSlice('\n')
	switch err {
	case nil:
		return line[:len(line)-1]
	case io.EOF:
		return nil
	case bufio.ErrBufferFull:
		line = bytes.Clone(line)
		for err == bufio.ErrBufferFull {
			_, err = lines.ReadSlice('\n')
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// agrees says whether a line of pg_waldump tells of a record what we know, which it returns.
func agrees(t *testing.T, r Record, line []byte) (string, bool) {
	t.Helper()
	f, err := r.fragments()
	if err != nil {
		t.Fatalf("record at %s: %v", r.LSN, err)
	}
	var blocks []byte
	own := int(r.Length)
	for _, b := range f.blocks {
		blocks = fmt.Appendf(blocks, ", blkref #%d: rel %d/%d/%d", b.id, b.relation.tablespace, b.relation.database, b.relation.number)
		if b.fork != 0 {
			blocks = fmt.Appendf(blocks, " fork %s", []string{"main", "fsm", "vm", "init"}[b.fork])
		}
		blocks = fmt.Appendf(blocks, " blk %d", b.number)
		if b.image != nil {
			blocks = append(blocks, " FPW"...)
		}
		own -= len(b.image)
	}
	begin := fmt.Appendf(nil, "rmgr: %-11s len (rec/tot): %6d/%6d, tx: %10d, lsn: %X/%08X, prev %X/%08X, desc: ",
		managers[r.ResourceManager], own, r.Length, r.XID, uint32(r.LSN>>32), uint32(r.LSN), uint32(r.Prev>>32), uint32(r.Prev))
	description, isDumped := bytes.CutPrefix(line, begin)
	at := bytes.Index(description, []byte(", blkref #"))
	if at < 0 {
		at = len(description)
	}
	dumpedBlocks := bytes.ReplaceAll(description[at:], []byte(" FPW for WAL verification"), []byte(" FPW"))
	parts := describeRecord(r)
	ok := isDumped && bytes.Equal(blocks, dumpedBlocks) && hasParts(string(description[:at]), parts)
	if ok && len(parts) == 0 && r.ResourceManager <= transactionManager {
		ok = !slices.ContainsFunc(decoded, func(what string) bool { return bytes.HasPrefix(description, []byte(what)) })
	}
	return fmt.Sprintf("%s%s%s", begin, strings.Join(parts, " … "), blocks), ok
}

// decoded are what describeRecord describes, as pg_waldump names it.
var decoded = []string{"COMMIT", "ABORT", "CHECKPOINT_SHUTDOWN", "CHECKPOINT_ONLINE", "END_OF_RECOVERY", "RESTORE_POINT"}

// describeRecord returns what a description of pg_waldump has of a record that we decode:
// how it begins, and then, in order, what else it has.
func describeRecord(r Record) []string {
	const clock = "2006-01-02 15:04:05.000000 UTC"
	ended := func(what string, e TransactionEnd) []string {
		if w := r.Info & transactionWhat; w == transactionCommitPrepared || w == transactionAbortPrepared {
			what += fmt.Sprintf("_PREPARED %d:", e.XID)
		}
		return []string{what + e.Time.Format(" "+clock)}
	}
	if e, ok := r.Commit(); ok {
		return ended("COMMIT", e)
	}
	if e, ok := r.Abort(); ok {
		return ended("ABORT", e)
	}
	if c, ok := r.Checkpoint(); ok {
		what, end := "ONLINE", "; online"
		if c.IsShutdown {
			what, end = "SHUTDOWN", "; shutdown"
		}
		return []string{
			fmt.Sprintf("CHECKPOINT_%s redo %s; tli %d; prev tli %d; fpw %t; ", what, c.Redo, c.Timeline, c.PreviousTimeline, c.FullPageWrites),
			fmt.Sprintf(" xid %d:%d; oid ", c.NextXID>>32, uint32(c.NextXID)),
			end,
		}
	}
	if e, ok := r.EndOfRecovery(); ok {
		return []string{fmt.Sprintf("END_OF_RECOVERY tli %d; prev tli %d; time %s", e.Timeline, e.PreviousTimeline, e.Time.Format(clock))}
	}
	if p, ok := r.RestorePoint(); ok {
		return []string{"RESTORE_POINT " + p.Name}
	}
	if n, ok := r.NewTablespace(); ok {
		return []string{fmt.Sprintf("CREATE %d \"%s\"", n.OID, n.Path)}
	}
	return nil
}

// hasParts says whether s begins with the first part and has the others after it, in order.
func hasParts(s string, parts []string) bool {
	if len(parts) > 0 && !strings.HasPrefix(s, parts[0]) {
		return false
	}
	for _, part := range parts {
		at := strings.Index(s, part)
		if at < 0 {
			return false
		}
		s = s[at+len(part)-1:] // they may share a space
	}
	return true
}

// TestAgrees changes each number of lines that agree, after which they must not.
func TestAgrees(t *testing.T) {
	p := &parts{order: (&forge{}).appendOrder()}
	for _, c := range []struct {
		manager, info uint8
		data          []byte
		line          string
	}{
		{10, 0x00, slices.Clone(p.u8(0, 0x30).u16(1).u16(3).u16(100).u8(0x03).u32(1663, 5, 16384, 9).u8(1, 0x82).u16(0).u32(7).u8('i', 'm', 'g', 'd').p),
			"rmgr: Heap        len (rec/tot):     58/    61, tx:         27, lsn: 1/00300028, prev 1/002FFFE0, desc: INSERT off: x" +
				", blkref #0: rel 1663/5/16384 blk 9 FPW, blkref #1: rel 1663/5/16384 fork vm blk 7"},
		{1, 0x00, []byte{idMainShort, 8, 1, 0, 0, 0, 0, 0, 0, 0},
			"rmgr: Transaction len (rec/tot):     34/    34, tx:         27, lsn: 1/00300028, prev 1/002FFFE0, desc: COMMIT 2000-01-01 00:00:00.000001 UTC"},
		{0, 0x70, append([]byte{idMainShort, 72, 1, 0, 0, 0, 0, 0, 0, 0, '4', '2'}, make([]byte, 62)...),
			"rmgr: XLOG        len (rec/tot):     98/    98, tx:         27, lsn: 1/00300028, prev 1/002FFFE0, desc: RESTORE_POINT 42"},
	} {
		r := Record{LSN: 0x100300028, Prev: 0x1002FFFE0, XID: 27, Length: uint32(recordHeaderSize + len(c.data)), ResourceManager: c.manager,
			Info: c.info, Data: c.data, major: 18}
		if got, ok := agrees(t, r, []byte(c.line)); !ok {
			t.Errorf("is\n%s\nnot\n%s", got, c.line)
		}
		for i, b := range []byte(c.line) {
			if b < '0' || b > '9' {
				continue
			}
			other := []byte(c.line)
			other[i] = '0' + (b-'0'+1)%10
			if _, ok := agrees(t, r, other); ok {
				t.Errorf("agrees with\n%s", other)
			}
		}
		r.Info ^= 0x10 // now of another kind
		if _, ok := agrees(t, r, []byte(c.line)); ok != (c.manager == 10) {
			t.Errorf("of another kind it agrees with\n%s", c.line)
		}
	}
}
