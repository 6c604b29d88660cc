package waldir

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"basin/internal/wal"
)

// Facts about the log that is made here: PostgreSQL 18's.
//
// Source: src/include/access/xlog_internal.h, xlogrecord.h, rmgrlist.h, xact.h,
// PostgreSQL 18.
const (
	segmentSize = wal.MinSegmentSize
	pageSize    = 8192
	pageMagic   = 0xD118
	cluster     = 7300000000000000001 // a system identifier

	managerXLOG = 0
	managerXact = 1
	managerHeap = 10
)

// log is write-ahead log as a server would have written it: pages of records with
// right checksums.
type log struct {
	system   uint64
	timeline wal.Timeline
	start    wal.LSN // of a segment
	bytes    []byte
	prev     wal.LSN
	random   *rand.ChaCha8
	noise    int       // which part of a record does not compress: the second, the tenth
	starts   []wal.LSN // of records
	ends     []wal.LSN
}

// newLog begins a log at a segment.
func newLog(timeline wal.Timeline, segment uint64, seed byte) *log {
	return &log{
		system: cluster, timeline: timeline, start: wal.LSN(segment * segmentSize),
		random: rand.NewChaCha8([32]byte{seed}), noise: 10,
	}
}

// end returns where the next byte goes.
func (l *log) end() wal.LSN { return l.start + wal.LSN(len(l.bytes)) }

// page writes the header of a page if one begins here, which has the rest of a
// record of that many bytes.
func (l *log) page(rest int) {
	if len(l.bytes)%pageSize != 0 {
		return
	}
	var info uint16
	if rest > 0 {
		info |= 1 // XLP_FIRST_IS_CONTRECORD
	}
	isLong := len(l.bytes)%segmentSize == 0
	if isLong {
		info |= 2 // XLP_LONG_HEADER
	}
	at := uint64(l.end())
	b := binary.LittleEndian.AppendUint16(l.bytes, pageMagic)
	b = binary.LittleEndian.AppendUint16(b, info)
	b = binary.LittleEndian.AppendUint32(b, uint32(l.timeline))
	b = binary.LittleEndian.AppendUint64(b, at)
	b = binary.LittleEndian.AppendUint32(b, uint32(rest))
	b = binary.LittleEndian.AppendUint32(b, 0)
	if isLong {
		b = binary.LittleEndian.AppendUint64(b, l.system)
		b = binary.LittleEndian.AppendUint32(b, segmentSize)
		b = binary.LittleEndian.AppendUint32(b, pageSize)
	}
	l.bytes = b
}

// record adds a record and returns where it is.
func (l *log) record(manager, info byte, xid uint32, data []byte) wal.LSN {
	var head []byte // of the main data
	if len(data) < 256 {
		head = []byte{255, byte(len(data))} // XLR_BLOCK_ID_DATA_SHORT
	} else {
		head = binary.LittleEndian.AppendUint32([]byte{254}, uint32(len(data)))
	}
	body := append(head, data...)
	b := binary.LittleEndian.AppendUint32(nil, uint32(24+len(body)))
	b = binary.LittleEndian.AppendUint32(b, xid)
	b = binary.LittleEndian.AppendUint64(b, uint64(l.prev))
	b = append(b, info, manager, 0, 0)
	table := crc32.MakeTable(crc32.Castagnoli)
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(crc32.Update(0, table, body), table, b))
	b = append(b, body...)

	l.page(0)
	at := l.end()
	for rest := b; len(rest) > 0; {
		l.page(len(rest))
		n := min(len(rest), pageSize-len(l.bytes)%pageSize)
		l.bytes = append(l.bytes, rest[:n]...)
		rest = rest[n:]
	}
	for len(l.bytes)%8 != 0 {
		l.bytes = append(l.bytes, 0)
	}
	l.prev = at
	l.starts = append(l.starts, at)
	l.ends = append(l.ends, l.end())
	return at
}

// commit adds the record of a commit.
func (l *log) commit(xid uint32, at time.Time) wal.LSN {
	micros := at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()
	return l.record(managerXact, 0, xid, binary.LittleEndian.AppendUint64(nil, uint64(micros)))
}

// fill adds records of up to most bytes each until the log is n bytes long or longer.
func (l *log) fill(n, most int) *log {
	for len(l.bytes) < n {
		data := make([]byte, 1+l.random.Uint64()%uint64(most))
		_, _ = l.random.Read(data[len(data)-len(data)/l.noise:]) // never fails; the rest compresses well
		data[len(data)-1] |= 1                                   // so that no record is whole without its end
		l.record(managerHeap, 0, 1000, data)
	}
	return l
}

// next adds a switch to the next segment.
func (l *log) next() *log {
	l.record(managerXLOG, 0x40, 0, nil)
	if n := len(l.bytes) % segmentSize; n > 0 {
		l.bytes = append(l.bytes, make([]byte, segmentSize-n)...)
	}
	return l
}

// until returns the log with another end: what is after that is not there.
func (l *log) until(end wal.LSN) *log {
	m := *l
	m.bytes = l.bytes[:end-l.start]
	return &m
}

// fork returns a log that goes on otherwise, from where the n-th record ends, on a
// timeline that may be another. It begins with the segment that this is in.
func (l *log) fork(n int, timeline wal.Timeline, seed byte) *log {
	at := l.ends[n]
	m := newLog(timeline, uint64(at)/segmentSize, seed)
	m.prev, m.noise = l.starts[n], l.noise
	m.bytes = append(m.bytes, l.bytes[m.start-l.start:at-l.start]...)
	return m
}

// recordAt returns which is the last record that ends at or before a position.
func (l *log) recordAt(at wal.LSN) int {
	i, found := slices.BinarySearch(l.ends, at)
	if found {
		return i
	}
	return i - 1
}

// name returns the name of the segment that a position is in.
func (l *log) name(at wal.LSN) string {
	return wal.SegmentAt(wal.Position{LSN: at, Timeline: l.timeline}, segmentSize).Name(segmentSize)
}

// segment returns the bytes of the n-th segment, with zeros for what is not there.
func (l *log) segment(n int) []byte {
	if end := (n + 1) * segmentSize; end <= len(l.bytes) {
		return l.bytes[end-segmentSize : end : end]
	}
	s := make([]byte, segmentSize)
	copy(s, l.bytes[min(n*segmentSize, len(l.bytes)):])
	return s
}

// nth returns the name of the n-th segment.
func (l *log) nth(n int) string { return l.name(l.start + wal.LSN(n*segmentSize)) }

func (l *log) reader() io.Reader { return bytes.NewReader(l.bytes) }

func TestLogIsOne(t *testing.T) {
	l := newLog(1, 3, 1).fill(2*segmentSize+segmentSize/2, 40000).next().fill(4*segmentSize-100, 300)
	rules := wal.PageRules{SystemID: cluster, SegmentSize: segmentSize, Timeline: 1, Major: 18}
	if err := wal.NewPageChecker(rules, l.start).Check(l.bytes); err != nil {
		t.Error(err)
	}
	n := 0
	end, err := lastRecord(l.reader(), l.start, segmentSize, func(wal.Record) error { n++; return nil })
	if err != nil || end != l.end() || n != len(l.ends) {
		t.Errorf("ends at %v after %d records, want %v after %d: %v", end, n, l.end(), len(l.ends), err)
	}
}
