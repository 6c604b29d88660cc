package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// endOf reads a log to its end and returns where that is, and why.
func endOf(t testing.TB, f *forge, log []byte) (records int, end LSN, reason error) {
	t.Helper()
	r := NewRecordReader(bytes.NewReader(log), f.start, f.segmentSize)
	r.input.buffer = f.buffer
	for ; ; records++ {
		record, err := r.Next()
		if err == io.EOF {
			f.buffer = r.input.buffer // tests that read often need but one
			return records, r.End(), r.Reason()
		}
		if err != nil || record.End != f.ends[records] {
			t.Fatalf("record %d ends at %s, not at %s, %v", records, record.End, f.ends[records], err)
		}
	}
}

// TestRecordsOfEachKind lets records of all lengths fall on the borders of pages
// and segments of all sizes, and reads them in pieces of many sizes.
func TestRecordsOfEachKind(t *testing.T) {
	for _, m := range pageMagics {
		for _, order := range []byteOrder{littleEndian, bigEndian} {
			for size := minPageSize; size <= maxPageSize; size *= 2 {
				if m.major != 18 && size != defaultPageSize {
					continue // the two do not depend on each other
				}
				f := newForge(0xFFF00000) // to beyond 4 GiB
				f.major, f.magic, f.order, f.pageSize = m.major, m.magic, order, size
				f.fill(f.start+MinSegmentSize+1, 3*size)
				what := fmt.Sprintf("version %d, big-endian %t, pages of %d bytes", m.major, order, size)
				if n, end, reason := endOf(t, f, f.log); n != len(f.ends) || end != f.at() || reason != nil {
					t.Errorf("%s: %d of %d records, to %s of %s, then %v", what, n, len(f.ends), end, f.at(), reason)
				}
			}
		}
	}
}

func TestRecordLengths(t *testing.T) {
	f := newForge(0x300000)
	f.pageSize = minPageSize
	random := rand.New(rand.NewPCG(1, 2))
	type want struct {
		lsn, prev LSN
		data      []byte
	}
	var wants []want
	add := func(n int) {
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		prev := f.prev
		wants = append(wants, want{f.record(uint8(1+n%21), uint8(n), uint32(n), data), prev, data})
	}
	for n := range 2 * minPageSize {
		add(n)
		if n%100 == 0 {
			add(300 << 10) // over many pages
		}
	}
	for what, wrap := range map[string]func(io.Reader) io.Reader{
		"at once":         func(r io.Reader) io.Reader { return r },
		"byte by byte":    iotest.OneByteReader,
		"by halves":       iotest.HalfReader,
		"end with a byte": iotest.DataErrReader,
		"in vain at times": func(r io.Reader) io.Reader {
			return &reluctant{Reader: r}
		},
	} {
		n := 0
		_, r := readAll(t, wrap(bytes.NewReader(f.log)), f.start, f.segmentSize, func(r Record) {
			w := wants[n]
			length := len(w.data)
			got := fmt.Sprint(r.LSN, r.End, r.Prev, r.XID, r.Length, r.ResourceManager, r.Info)
			want := fmt.Sprint(w.lsn, f.ends[n], w.prev, uint32(length), length+recordHeaderSize, 1+length%21, uint8(length))
			if got != want || !bytes.Equal(r.Data, w.data) {
				t.Fatalf("%s: record %d is %s, want %s", what, n, got, want)
			}
			n++
		})
		if n != len(wants) || r.Reason() != nil || r.End() != f.at() {
			t.Errorf("%s: %d of %d records, to %s, then %v", what, n, len(wants), r.End(), r.Reason())
		}
	}
}

// reluctant yields nothing every other time.
type reluctant struct {
	io.Reader
	calls int
}

func (r *reluctant) Read(p []byte) (int, error) {
	if r.calls++; r.calls%2 == 0 {
		return 0, nil
	}
	return r.Reader.Read(p)
}

// small is a log of small pages, with records in and over them.
func small() *forge {
	f := newForge(0x300000)
	f.pageSize = minPageSize
	for _, n := range []int{0, 1, 500, 7, 8, 3000, 9, 400, 0, 0, 1200, 3} {
		f.record(10, 0, 7, bytes.Repeat([]byte{byte(n)}, n))
	}
	return f
}

// TestRecordsCut cuts a log off at each byte.
func TestRecordsCut(t *testing.T) {
	f := small()
	for cut := range len(f.log) + 1 {
		at := f.start + LSN(cut)
		want := 0
		for want < len(f.ends) && f.ends[want] <= at {
			want++
		}
		n, end, reason := endOf(t, f, f.log[:cut])
		before := f.start
		if want > 0 {
			before = f.ends[want-1]
		}
		if n != want || end != before {
			t.Fatalf("cut at %s: %d records to %s, want %d to %s", at, n, end, want, before)
		}
		// Of a header that comes before a record, any part may be there.
		isBetween := at == before || at <= before+longHeaderSize && before&(minPageSize-1) == 0
		if isBetween && reason != nil || !isBetween && reason != ErrUnfinished {
			t.Errorf("cut at %s, %d bytes after a record, it ends because: %v", at, at-before, reason)
		}
	}
}

// TestRecordBits turns over each bit of a log.
func TestRecordBits(t *testing.T) {
	f := small()
	for i := range f.log {
		at := f.start + LSN(i)
		before := 0 // whole records up to here
		for before < len(f.ends) && f.ends[before] <= at {
			before++
		}
		isHeader := at&(minPageSize-1) < shortHeaderSize || i < longHeaderSize
		for bit := range 8 {
			f.log[i] ^= 1 << bit
			n, _, reason := endOf(t, f, f.log)
			f.log[i] ^= 1 << bit
			switch {
			case n == before && reason != nil:
			case n == len(f.ends) && (isHeader || isPadding(f, i)): // not checked
			case n < len(f.ends) && isHeader && reason != nil && n >= before:
			default:
				t.Errorf("bit %d of byte %d: %d records, not %d, then %v", bit, i, n, before, reason)
			}
		}
	}
}

// isPadding says whether a byte only aligns what follows.
func isPadding(f *forge, i int) bool {
	for _, end := range f.ends {
		if at := f.start + LSN(i); at < end && at >= end-recordAlignment {
			return true
		}
	}
	return false
}

func TestRecordReader(t *testing.T) {
	const segment = MinSegmentSize
	for _, c := range []struct {
		why    string
		forge  func(f *forge)
		n      int    // records
		end    LSN    // of the last
		reason string // empty if there is none
	}{
		{"nothing", func(f *forge) {}, 0, 0x300000, ""},
		{"a page that is empty yet", func(f *forge) { f.begin() }, 0, 0x300000, ""},
		{"intact", func(f *forge) { *f = *two(f.start) }, 2, 0x300060, ""},
		{"zeros in the page", func(f *forge) { *f = *two(f.start); f.zeros(16) }, 2, 0x300060, ErrUnwritten.Error()},
		{"zeros to the end of the segment", func(f *forge) { *f = *two(f.start); f.zeros(segment - 0x60) }, 2, 0x300060, ErrUnwritten.Error()},
		{"zeros from a page on", func(f *forge) { f.pad(0x302000); f.zeros(segment - 0x2000) }, 1, 0x302000, ErrUnwritten.Error()},
		{"zeros from the first page on", func(f *forge) { f.zeros(segment) }, 0, 0x300000, ErrUnwritten.Error()},
		{"zeros, less than a length", func(f *forge) { *f = *two(f.start); f.zeros(3) }, 2, 0x300060, ErrUnfinished.Error()},
		{"a length of zero, and more", func(f *forge) { *f = *two(f.start); f.zeros(16); f.log = append(f.log, 1) }, 2, 0x300060,
			"invalid write-ahead log record at 0/300060: no record has 0 bytes"},
		{"a header of zeros, and more", func(f *forge) { f.pad(0x302000); f.zeros(24); f.log = append(f.log, 1) }, 1, 0x302000,
			"invalid write-ahead log page at 0/302000: its magic number is 0000, not D118"},
		{"used before", func(f *forge) {
			f.pad(0x302000)
			old := newForge(0x102000)
			old.fill(0x104000, 100)
			f.log = append(f.log, old.log...)
		}, 1, 0x302000, "invalid write-ahead log page at 0/302000: its header says 0/102000"},
		{"used before, from within a page on", func(f *forge) {
			*f = *two(f.start)
			old := two(0x100000)
			old.record(10, 0, 7, nil)
			f.log = append(f.log, old.log[0x60:]...)
		}, 2, 0x300060, "invalid write-ahead log record at 0/300060: the one before is at 0/300040, not at 0/100040"},

		{"a switch", func(f *forge) { f.leave(); f.record(10, 0, 7, nil) }, 2, 0x400040, ""},
		{"a switch at the end of a page", func(f *forge) {
			f.pad(0x302000 - 24)
			f.leave()
			f.record(10, 0, 7, nil)
		}, 3, 0x400040, ""},
		{"a switch at the end of a segment", func(f *forge) {
			f.fill(0x3FE000, 100)
			f.ends = nil
			f.pad(0x400000 - 24)
			f.leave()
			f.record(10, 0, 7, nil)
		}, -1, 0x400040, ""},
		{"a switch, of which no more has come", func(f *forge) { f.leave(); f.log = f.log[:100] }, 1, 0x400000, ""},
		{"a switch with headers after it", func(f *forge) {
			f.leave()
			old := newForge(0x302000)
			old.page(0)
			copy(f.log[0x2000:], old.log)
			f.record(10, 0, 7, nil)
		}, 2, 0x400040, ""},

		{"given up", func(f *forge) {
			f.pad(0x301000)
			keep := f.prev
			f.record(10, 0, 7, make([]byte, 20000))
			f.log = f.log[:0x4000]
			f.prev, f.ends = keep, f.ends[:1]
			f.flags = pageOverwrites
			f.record(xlogManager, 0xD0, 0, make([]byte, 16))
			f.record(10, 0, 7, nil)
		}, 3, 0x304058, ""},
		{"given up in the first bytes", func(f *forge) {
			f.pad(0x301FF8)
			keep := f.prev
			f.record(10, 0, 7, make([]byte, 20000))
			f.log = f.log[:0x2000]
			f.prev, f.ends = keep, f.ends[:1]
			f.flags = pageOverwrites
			f.record(xlogManager, 0xD0, 0, make([]byte, 16))
		}, 2, 0x302040, ""},
		{"given up where a segment begins", func(f *forge) {
			f.leave()
			f.pad(0x402000 - 8)
			f.fill(0x4FF000, 100)
			f.ends = nil
			keep := f.prev
			f.record(10, 0, 7, make([]byte, 20000))
			f.log = f.log[:0x200000]
			f.prev = keep
			f.flags = pageOverwrites
			f.record(xlogManager, 0xD0, 0, make([]byte, 16))
		}, -1, 0x500050, ""},

		{"no contrecord", func(f *forge) {
			f.pad(0x301000)
			f.record(10, 0, 7, make([]byte, 5000))
			f.log = f.log[:0x2000]
			f.record(10, 0, 7, nil)
		}, 1, 0x301000, "invalid write-ahead log record at 0/301000: the page at 0/302000 does not continue it"},
		{"another contrecord", func(f *forge) {
			f.pad(0x301000)
			f.record(10, 0, 7, make([]byte, 5000))
			f.log = f.log[:0x2000]
			f.page(16)
			f.log = append(f.log, make([]byte, 16)...)
		}, 1, 0x301000, "invalid write-ahead log record at 0/301000: the page at 0/302000 continues a record of which 16 bytes are left, of this it is 928"},
		{"a contrecord of none", func(f *forge) {
			f.pad(0x302000)
			f.page(16)
			f.log = append(f.log, make([]byte, 16)...)
		}, 1, 0x302000, "invalid write-ahead log record at 0/302018: the rest of another is here"},
		{"longer than any", func(f *forge) {
			*f = *two(f.start)
			f.log = binary.LittleEndian.AppendUint32(f.log, 1<<30+1)
		}, 2, 0x300060, "invalid write-ahead log record at 0/300060: no record has 1073741825 bytes"},
		{"shorter than any", func(f *forge) {
			*f = *two(f.start)
			f.log = binary.LittleEndian.AppendUint32(f.log, 23)
		}, 2, 0x300060, "invalid write-ahead log record at 0/300060: no record has 23 bytes"},
		{"no manager", func(f *forge) { f.record(22, 0, 0, nil) }, 0, 0x300000,
			"invalid write-ahead log record at 0/300028: there is no resource manager 22"},
		{"a manager of an extension", func(f *forge) { f.record(128, 0, 0, nil) }, 1, 0x300040, ""},
		{"a manager of an extension before there were any", func(f *forge) { f.major, f.magic = 14, magicOf(14); f.record(128, 0, 0, nil) }, 0, 0x300000,
			"invalid write-ahead log record at 0/300028: there is no resource manager 128"},
		{"the one before is after it", func(f *forge) { f.prev = 0x300028; f.record(10, 0, 0, nil) }, 0, 0x300000,
			"invalid write-ahead log record at 0/300028: the one before cannot be at 0/300028"},
		{"the one before is another", func(f *forge) { *f = *two(f.start); f.prev -= 8; f.record(10, 0, 0, nil); f.ends = f.ends[:2] }, 2, 0x300060,
			"invalid write-ahead log record at 0/300060: the one before is at 0/300040, not at 0/300038"},

		{"begins with the rest of a record", func(f *forge) {
			f.page(100)
			f.log = append(f.log, make([]byte, 104)...)
			f.record(10, 0, 7, nil)
		}, 1, 0x300028 + 104 + 24, ""},
		{"begins with the rest of a record to the end of a page", func(f *forge) {
			f.page(8192 - 40)
			f.log = append(f.log, make([]byte, 8192-40)...)
			f.record(10, 0, 7, nil)
		}, 1, 0x302030, ""},
		{"begins with the rest of a record over pages", func(f *forge) {
			f.write(make([]byte, 20000))
			f.record(10, 0, 7, nil)
		}, 1, 0x304E90, ""},
		{"has nothing but a part of a record", func(f *forge) { f.page(1 << 20); f.write(make([]byte, 8192-40)) }, 0, 0x300000, ErrUnfinished.Error()},
		{"has nothing but the rest of a record", func(f *forge) { f.write(make([]byte, 20000)) }, 0, 0x300000, ""},
		{"begins with a record that was given up", func(f *forge) {
			f.page(1 << 20)
			f.log = append(f.log, make([]byte, f.left())...)
			f.flags = pageOverwrites
			f.record(10, 0, 7, nil)
		}, 1, 0x302030, ""},
		{"begins with a record that does not go on", func(f *forge) {
			f.page(1 << 20)
			f.log = append(f.log, make([]byte, f.left())...)
			f.record(10, 0, 7, nil)
			f.ends = nil
		}, 0, 0x300000, "invalid write-ahead log page at 0/302000: it begins with 0 bytes of a record of which 1040424 are left"},
		{"begins with garbage", func(f *forge) { f.log = bytes.Repeat([]byte{0xA5}, 10000) }, 0, 0x300000,
			"invalid write-ahead log page at 0/300000: its magic number A5A5 is of no known version of PostgreSQL"},
	} {
		t.Run(c.why, func(t *testing.T) {
			f := newForge(0x300000)
			c.forge(f)
			records, r := readAll(t, bytes.NewReader(f.log), f.start, f.segmentSize, nil)
			if c.n >= 0 && len(records) != c.n || r.End() != c.end {
				t.Errorf("%d records to %s, want %d to %s", len(records), r.End(), c.n, c.end)
			}
			got := ""
			if r.Reason() != nil {
				got = r.Reason().Error()
			}
			if got != c.reason {
				t.Errorf("ends because %q, want %q", got, c.reason)
			}
			if _, err := r.Next(); err != io.EOF {
				t.Errorf("after io.EOF comes %v", err)
			}
		})
	}
}

// two returns a log of two records, that ends 0x60 bytes after its start.
func two(start LSN) *forge {
	f := newForge(start)
	f.record(10, 0, 7, nil)
	f.record(10, 0, 7, make([]byte, 8))
	return f
}

// zeros adds zeros, in place of pages.
func (f *forge) zeros(n int) { f.log = append(f.log, make([]byte, n)...) }

func TestRecordInputFails(t *testing.T) {
	f := two(0x300000)
	bad := errors.New("disk on fire")
	for _, c := range []struct {
		why  string
		log  []byte
		n    int
		err  error
		text string
	}{
		{"between records", f.log, 2, bad, "reading the write-ahead log at 0/300060: disk on fire"},
		{"within a record", f.log[:0x59], 1, bad, "reading the write-ahead log at 0/300040: disk on fire"},
		{"within zeros", append(slices.Clone(f.log), 0, 0, 0, 0, 0, 0, 0, 0), 2, bad, "disk on fire"},
		{"never", nil, 0, io.ErrNoProgress, "reading the write-ahead log at 0/300000"},
		{"cut off", f.log, 2, io.ErrUnexpectedEOF, "unexpected EOF"},
	} {
		input := io.Reader(io.MultiReader(bytes.NewReader(c.log), iotest.ErrReader(c.err)))
		if c.err == io.ErrNoProgress {
			input = idle{}
		}
		r := NewRecordReader(input, f.start, f.segmentSize)
		n := 0
		var err error
		for ; err == nil; n++ {
			_, err = r.Next()
		}
		if n-1 != c.n || !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) || r.Reason() != nil {
			t.Errorf("%s: %d records, then %v (%v)", c.why, n-1, err, r.Reason())
		}
		if _, again := r.Next(); again != err {
			t.Errorf("%s: after %v comes %v", c.why, err, again)
		}
	}
}

// idle yields nothing.
type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

// TestRecordMemory has a record that says it is of 1 GiB, and of which little comes.
func TestRecordMemory(t *testing.T) {
	f := newForge(0x300000)
	f.begin()
	f.log = binary.LittleEndian.AppendUint32(f.log, 1<<30)
	f.log = append(f.log, make([]byte, 20)...)
	f.log = append(f.log, make([]byte, f.left())...)
	for remaining := 1<<30 - f.pageSize + longHeaderSize; f.at() < 0x380000; remaining -= f.pageSize - shortHeaderSize {
		f.page(remaining)
		f.log = append(f.log, make([]byte, f.left())...)
	}
	_, r := readAll(t, bytes.NewReader(f.log), f.start, f.segmentSize, nil)
	if r.Reason() != ErrUnfinished {
		t.Fatal(r.Reason())
	}
	if got := cap(r.pieces); got > 2*len(f.log) {
		t.Errorf("%d bytes of a record that %d came of", got, len(f.log))
	}
}

func FuzzRecordReader(f *testing.F) {
	log := small()
	f.Add(log.log, uint64(log.start), uint16(100))
	log.leave()
	f.Add(log.log[:6000], uint64(log.start), uint16(1))
	big := newForge(0x5FF000)
	big.order = bigEndian
	big.fill(big.start+0x1800, 3000)
	f.Add(big.log, uint64(big.start), uint16(7))
	f.Add(make([]byte, 100), uint64(1<<64-8192), uint16(3))
	for _, major := range []int{10, 18} {
		told := newForge(0x300000)
		told.major, told.magic = major, magicOf(major)
		begin := func() *parts { return &parts{order: told.appendOrder()} }
		told.record(transactionManager, transactionAbort, 7, begin().main(begin().u64(1).p).p)
		told.record(xlogManager, xlogCheckpointOnline, 0, begin().main(checkpoint12(begin()).p).p)
		told.record(xlogManager, xlogRestorePoint, 0, begin().main(restorePoint(begin(), "here").p).p)
		told.record(xlogManager, xlogEndOfRecovery, 0, begin().main(begin().u64(1).u32(2, 1).p).p)
		f.Add(told.log, uint64(told.start), uint16(50))
	}
	f.Fuzz(func(t *testing.T, log []byte, start uint64, piece uint16) {
		all, r := readAll(t, bytes.NewReader(log), LSN(start), MinSegmentSize, func(r Record) {
			if int(r.Length) > len(log) || len(r.Data) != int(r.Length)-recordHeaderSize {
				t.Errorf("a record has %d bytes", r.Length)
			}
			if n := kinds(t, r); n > 1 {
				t.Errorf("the record at %s is of %d kinds", r.LSN, n)
			}
		})
		parts, p := readAll(t, &pieces{log, int(piece) + 1}, LSN(start), MinSegmentSize, nil)
		if fmt.Sprint(all) != fmt.Sprint(parts) || fmt.Sprint(r.Reason()) != fmt.Sprint(p.Reason()) || r.End() != p.End() {
			t.Errorf("at once %d records to %s, %v; in pieces %d to %s, %v", len(all), r.End(), r.Reason(), len(parts), p.End(), p.Reason())
		}
		at := LSN(start)
		for _, record := range all {
			if record.LSN < at && start < 1<<63 || record.End <= record.LSN && start < 1<<63 {
				t.Errorf("record from %s to %s, after %s", record.LSN, record.End, at)
			}
			at = record.End
		}
		if cap(r.pieces) > 4*len(log)+inputSize {
			t.Errorf("%d bytes for %d", cap(r.pieces), len(log))
		}
	})
}

// pieces yields a log in pieces of n bytes at most.
type pieces struct {
	log []byte
	n   int
}

func (p *pieces) Read(into []byte) (int, error) {
	if len(p.log) == 0 {
		return 0, io.EOF
	}
	n := copy(into, p.log[:min(p.n, len(p.log))])
	p.log = p.log[n:]
	return n, nil
}
