package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// forgedPages is a log that starts at 0/300000. It has a page that begins with a
// record at 0/302000, a record that goes on over the pages 0/304000 to 0/308000,
// and one over the segment's end at 0/400000, and it leaves that segment early.
func forgedPages() *forge {
	f := newForge(0x300000)
	f.fill(0x301000, 200)
	f.pad(0x302000)
	f.fill(0x302E00, 200)
	f.pad(0x303000)
	f.record(10, 0, 7, make([]byte, 5*defaultPageSize/2))
	f.fill(0x3FE100, 8000)
	f.record(10, 0, 7, make([]byte, 2*defaultPageSize))
	f.record(10, 0, 7, make([]byte, 2*defaultPageSize))
	f.leave()
	f.begin()
	return f
}

// inPieces returns what a checker says that gets the log in pieces, small ones
// where headers are, which must be the same as with all at once.
func inPieces(t *testing.T, rules PageRules, start LSN, log []byte) error {
	t.Helper()
	all := NewPageChecker(rules, start)
	want := all.Check(log)
	for _, piece := range []int{1, 5, 24, 8192} {
		c := NewPageChecker(rules, start)
		var got error
		for p := log; len(p) > 0 && got == nil; {
			n := piece
			if left := int(-c.Position() & (defaultPageSize - 1)); left < defaultPageSize-longHeaderSize && left > 0 {
				n = max(n, left-3)
			}
			n = min(n, len(p))
			got = c.Check(p[:n])
			p = p[n:]
		}
		if (got == nil) != (want == nil) || got != nil && got.Error() != want.Error() || c.Position() != all.Position() {
			t.Errorf("in pieces of %d bytes the error is %v at %s, at once %v at %s", piece, got, c.Position(), want, all.Position())
		}
	}
	if want == nil {
		if end := start + LSN(len(log)); all.Position() != end {
			t.Errorf("the checker is at %s, not %s", all.Position(), end)
		}
		return nil
	}
	var page *PageError
	if !errors.As(want, &page) || page.LSN != all.Position() {
		t.Errorf("error is %v, the checker is at %s", want, all.Position())
	}
	if again := all.Check(log[:1]); again != want {
		t.Errorf("error is %v, and then %v", want, again)
	}
	return want
}

func TestPageChecker(t *testing.T) {
	put16 := func(l LSN, off int, v uint16) func(f *forge, r *PageRules) {
		return func(f *forge, _ *PageRules) { binary.LittleEndian.PutUint16(f.log[int(l-f.start)+off:], v) }
	}
	put32 := func(l LSN, off int, v uint32) func(f *forge, r *PageRules) {
		return func(f *forge, _ *PageRules) { binary.LittleEndian.PutUint32(f.log[int(l-f.start)+off:], v) }
	}
	put64 := func(l LSN, off int, v uint64) func(f *forge, r *PageRules) {
		return func(f *forge, _ *PageRules) { binary.LittleEndian.PutUint64(f.log[int(l-f.start)+off:], v) }
	}
	zero := func(from, to LSN) func(f *forge, r *PageRules) {
		return func(f *forge, _ *PageRules) { clear(f.log[from-f.start : to-f.start]) }
	}
	const invalid = "invalid write-ahead log page at "
	for _, c := range []struct {
		why    string
		change func(f *forge, r *PageRules)
		want   string // empty if all is in order
	}{
		{"intact", func(*forge, *PageRules) {}, ""},
		{"little is known", func(_ *forge, r *PageRules) { *r = PageRules{SegmentSize: r.SegmentSize} }, ""},
		{"a version that is not known here", func(_ *forge, r *PageRules) { r.Major = 99 }, ""},
		{"what is between headers", put64(0x306000, 24, 1), ""},
		{"empty", func(f *forge, _ *PageRules) { f.log = nil }, ""},
		{"begins within a segment", func(f *forge, _ *PageRules) { f.log, f.start = f.log[0x4000:], f.start+0x4000 }, ""},
		{"begins within a page", func(f *forge, _ *PageRules) { f.log, f.start = f.log[0x3456:], f.start+0x3456 }, ""},
		{"ends within a header", func(f *forge, _ *PageRules) { f.log = f.log[:0x2008] }, ""},
		{"may be removed", put16(0x302000, 2, 0x0004), ""},
		{"a record was given up", func(f *forge, _ *PageRules) {
			put16(0x306000, 2, pageOverwrites)(f, nil)
			put32(0x306000, 16, 0)(f, nil)
			f.log = f.log[:0x8000] // what follows no longer does
		}, ""},

		{"another place", put64(0x302000, 8, 0x502000), invalid + "0/302000: its header says 0/502000"},
		{"a page is missing", func(f *forge, _ *PageRules) { f.log = slices.Delete(f.log, 0x20000, 0x22000) },
			invalid + "0/320000: its header says 0/322000"},
		{"a byte is missing", func(f *forge, _ *PageRules) { f.log = slices.Delete(f.log, 0x3000, 0x3001) },
			invalid + "0/304000: its magic number is 01D1, not D118"},
		{"another name", func(f *forge, _ *PageRules) { f.start += MinSegmentSize }, invalid + "0/400000: its header says 0/300000"},
		{"another cluster", put64(0x300000, 24, 43), invalid + "0/300000: it is of another cluster: its system identifier is 43, not 42"},
		{"another cluster later", put64(0x400000, 24, 43), invalid + "0/400000: it is of another cluster: its system identifier is 43, not 42"},
		{"two clusters, neither of which is known", func(f *forge, r *PageRules) {
			r.SystemID = 0
			put64(0x400000, 24, 43)(f, r)
		}, invalid + "0/400000: it is of another cluster: its system identifier is 43, not 42"},
		{"another size of segments", func(_ *forge, r *PageRules) { r.SegmentSize = DefaultSegmentSize; r.SegmentSize >>= 3 },
			invalid + "0/300000: its header is that of a segment's first page"},
		{"another size of segments said", put32(0x300000, 32, 2<<20), invalid + "0/300000: it is of another cluster: its segments have 2097152 bytes, not 1048576"},
		{"another version", func(_ *forge, r *PageRules) { r.Major = 17 }, invalid + "0/300000: it is of PostgreSQL 18 (magic number D118), not 17"},
		{"no version", put16(0x300000, 0, 0x1234), invalid + "0/300000: its magic number 1234 is of no known version of PostgreSQL"},
		{"another version later", put16(0x302000, 0, 0xD117), invalid + "0/302000: its magic number is D117, not D118"},
		{"another byte order later", put16(0x302000, 0, 0x18D1), invalid + "0/302000: its magic number is 18D1, not D118"},
		{"unknown flag", put16(0x302000, 2, 0x0010), invalid + "0/302000: its flags are 0010, of which only 000F are known"},
		{"first page not as such", put16(0x300000, 2, 0), invalid + "0/300000: its header is not that of a segment's first page"},
		{"first page in the midst", put16(0x302000, 2, pageIsFirst), invalid + "0/302000: its header is that of a segment's first page"},
		{"pages of no bytes", put32(0x300000, 36, 0), invalid + "0/300000: no page has 0 bytes, as its header says"},
		{"pages of three KiB", put32(0x300000, 36, 3072), invalid + "0/300000: no page has 3072 bytes, as its header says"},
		{"pages of 128 KiB", put32(0x300000, 36, 128<<10), invalid + "0/300000: no page has 131072 bytes, as its header says"},
		{"another size of pages", put32(0x400000, 36, 4096), invalid + "0/400000: it is of another cluster: its pages have 4096 bytes, not 8192"},
		{"no timeline", put32(0x302000, 4, 0), invalid + "0/302000: it is of no timeline"},
		{"a later timeline", put32(0x302000, 4, 2), invalid + "0/302000: it is of timeline 2, not 1"},
		{"an earlier timeline", func(f *forge, r *PageRules) {
			r.Timeline = 0
			put32(0x300000, 4, 2)(f, r)
		}, invalid + "0/302000: it is of timeline 1, after one of 2"},
		{"goes on and does not", put16(0x304000, 2, 0), "invalid write-ahead log page at 0/304000: its flags are 0000, with 16408 bytes of a record that began before"},
		{"does not go on and does", put16(0x302000, 2, pageContinues), invalid + "0/302000: its flags are 0001, with 0 bytes of a record that began before"},
		{"goes on and is given up", put16(0x304000, 2, pageContinues|pageOverwrites), invalid + "0/304000: its flags are 0009, with 16408 bytes of a record that began before"},
		{"goes on elsewhere", put32(0x306000, 16, 8200), invalid + "0/306000: it begins with 8200 bytes of a record of which 8240 are left"},
		{"record without an end", func(f *forge, r *PageRules) {
			put16(0x306000, 2, 0)(f, r)
			put32(0x306000, 16, 0)(f, r)
		}, invalid + "0/306000: it begins with 0 bytes of a record of which 8240 are left"},

		{"zeros to the end of the segment", zero(0x3F0000, 0x400000), ""},
		{"zeros do not last", zero(0x3F0000, 0x3FE000), invalid + "0/3FE000: it follows a page of zeros, and is not zeros to the end of the segment"},
		{"one byte is not zero", func(f *forge, r *PageRules) {
			zero(0x3F0000, 0x400000)(f, r)
			f.log[0xF4321] = 1
		}, invalid + "0/3F4000: it follows a page of zeros, and is not zeros to the end of the segment"},
		{"the last byte is not zero", func(f *forge, r *PageRules) {
			zero(0x3F0000, 0x400000)(f, r)
			f.log[0xFFFFF] = 1
		}, invalid + "0/3FE000: it follows a page of zeros, and is not zeros to the end of the segment"},
		{"a header of zeros, then data", zero(0x302000, 0x302018), invalid + "0/302000: it follows a page of zeros, and is not zeros to the end of the segment"},
		{"a segment of zeros", zero(0x300000, 0x400000), invalid + "0/300000: its magic number 0000 is of no known version of PostgreSQL"},
		{"the next segment is zeros", zero(0x3F0000, 0x402000), invalid + "0/400000: its magic number is 0000, not D118"},
		{"zeros within a record", zero(0x306000, 0x400000), invalid + "0/306000: its magic number is 0000, not D118"},
		{"version 10 leaves no zeros", func(f *forge, r *PageRules) {
			*f = *newForge(0x300000)
			f.major, f.magic = 10, magicOf(10)
			f.leave()
			*r = f.rules()
		}, invalid + "0/302000: its magic number is 0000, not D097"},
	} {
		t.Run(c.why, func(t *testing.T) {
			f := forgedPages()
			rules := f.rules()
			c.change(f, &rules)
			err := inPieces(t, rules, f.start, f.log)
			if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
				t.Errorf("error is %v, want %s", err, c.want)
			}
		})
	}
}

func TestPagesOfEachKind(t *testing.T) {
	for _, m := range pageMagics {
		for _, order := range []byteOrder{littleEndian, bigEndian} {
			for size := minPageSize; size <= maxPageSize; size *= 2 {
				if m.major != 18 && size != defaultPageSize {
					continue // the two do not depend on each other
				}
				f := newForge(0xFFF00000) // to beyond 4 GiB
				f.major, f.magic, f.order, f.pageSize = m.major, m.magic, order, size
				f.fill(f.start+MinSegmentSize+1, 3000)
				for _, major := range []int{0, m.major} {
					rules := f.rules()
					rules.Major = major
					if err := NewPageChecker(rules, f.start).Check(f.log); err != nil {
						t.Errorf("version %d, big-endian %t, pages of %d bytes: %v", m.major, order, size, err)
					}
				}
			}
		}
	}
}

// TestPagesOfTimelines has a log of timeline 5, which came from 3, which came from
// 1, whose pages are of this or that timeline.
func TestPagesOfTimelines(t *testing.T) {
	const start = LSN(0x300000)
	page := func(n LSN) LSN { return start + n*defaultPageSize }
	within, atBorder := History{{1, page(2) + 100}, {3, page(4) + 100}}, History{{1, page(2)}, {3, page(4)}}
	for _, c := range []struct {
		why      string
		timeline Timeline
		history  History
		pages    []Timeline
		bad      int // the page that is refused; none if it is negative
	}{
		{"a page is of the timeline of its first byte", 5, within, []Timeline{1, 1, 1, 3, 3, 5, 5}, -1},
		{"switched where a page begins", 5, atBorder, []Timeline{1, 1, 3, 3, 5, 5, 5}, -1},
		{"too late", 5, within, []Timeline{1, 1, 1, 1, 3, 5, 5}, 3},
		{"too early", 5, within, []Timeline{1, 1, 3, 3, 3, 5, 5}, 2},
		{"too late by a border", 5, atBorder, []Timeline{1, 1, 1, 3, 5, 5, 5}, 2},
		{"too early by a border", 5, atBorder, []Timeline{1, 3, 3, 3, 5, 5, 5}, 1},
		{"the old one goes on", 5, within, []Timeline{1, 1, 1, 3, 3, 3}, 5},
		{"the oldest goes on", 5, within, []Timeline{1, 1, 1, 1}, 3},
		{"a timeline that it never was on", 5, within, []Timeline{1, 1, 2}, 2},
		{"a later one", 5, within, []Timeline{1, 1, 1, 3, 3, 6}, 5},
		{"all of it after the last switch", 5, History{{1, 100}, {3, 200}}, []Timeline{5, 5}, -1},
		{"old pages after the last switch", 5, History{{1, 100}, {3, 200}}, []Timeline{3, 5}, 0},
		{"two switches within a page", 5, History{{1, page(1) + 100}, {3, page(1) + 200}}, []Timeline{1, 1, 5}, -1},
		{"stopped before the parent began", 5, History{{1, page(4)}, {3, page(2)}}, []Timeline{1, 1, 5, 5, 5}, -1},
		{"history is not known", 5, nil, []Timeline{2, 2, 3, 4, 5, 5}, -1},
		{"history is not known, as it never goes", 5, nil, []Timeline{2, 3, 2}, 2},
		{"history is not known, but its end", 5, nil, []Timeline{5, 6}, 1},
		{"no history before the oldest", 5, History{{3, page(3)}}, []Timeline{1, 2, 3, 5}, -1},
		{"no history before the oldest, as it never goes", 5, History{{3, page(3)}}, []Timeline{1, 2, 1}, 2},
		{"no history before the oldest, but its end", 5, History{{3, page(3)}}, []Timeline{1, 4}, 1},
		{"the first timeline", 1, nil, []Timeline{1, 1}, -1},
		{"not the first timeline", 1, nil, []Timeline{1, 2}, 1},
		{"any timeline", 0, nil, []Timeline{1, 7, 7, 9}, -1},
		{"any timeline, as it never goes", 0, nil, []Timeline{1, 7, 6}, 2},
	} {
		t.Run(c.why, func(t *testing.T) {
			f := newForge(start)
			for _, timeline := range c.pages {
				f.timeline = timeline
				f.page(0)
				f.write(make([]byte, f.left()))
			}
			rules := f.rules()
			rules.Timeline, rules.History = c.timeline, c.history
			want := "<nil>"
			if c.bad >= 0 {
				want = fmt.Sprint(page(LSN(c.bad)))
			}
			got := "<nil>"
			if err := inPieces(t, rules, f.start, f.log); err != nil {
				got = err.(*PageError).LSN.String()
			}
			if got != want {
				t.Errorf("refused is %s, want %s", got, want)
			}
		})
	}
}

// TestPageBits turns over each bit of headers of each kind.
func TestPageBits(t *testing.T) {
	f := forgedPages()
	for _, c := range []struct {
		why  string
		page LSN
		size int
	}{
		{"first of a segment", 0x300000, longHeaderSize},
		{"begins with a record", 0x302000, shortHeaderSize},
		{"goes on", 0x304000, shortHeaderSize},
		{"goes on still", 0x306000, shortHeaderSize},
		{"has the end", 0x308000, shortHeaderSize},
		{"first of a segment, and goes on", 0x400000, longHeaderSize},
	} {
		header := f.log[c.page-f.start:][:c.size]
		continues := header[2]&pageContinues != 0
		// What is left of a record that has just begun can be any number.
		isNew := c.page == 0x304000 || c.page == 0x400000
		for bit := range 8 * c.size {
			header[bit/8] ^= 1 << (bit % 8)
			err := NewPageChecker(f.rules(), f.start).Check(f.log)
			header[bit/8] ^= 1 << (bit % 8)
			switch at := bit / 8; {
			case at >= 20 && at < 24: // padding
			case at == 2 && bit%8 == 2: // XLP_BKP_REMOVABLE
			case at == 2 && bit%8 == 3 && !continues:
			case at >= 16 && at < 20 && continues && isNew:
				// noticed where the next page begins with another number, if it does
			case err == nil:
				t.Errorf("page %s: bit %d of byte %d is not noticed", c.why, bit%8, at)
			}
			if err == nil {
				continue
			}
			if at := err.(*PageError).LSN; at != c.page && at != c.page+defaultPageSize {
				t.Errorf("page %s: bit %d of byte %d is noticed at %s", c.why, bit%8, bit/8, at)
			}
		}
	}
}

func FuzzPageChecker(f *testing.F) {
	small := newForge(0x300000)
	small.pageSize = minPageSize
	small.fill(small.start+5000, 3000)
	f.Add(small.log, uint64(small.start), uint8(0), uint32(1), uint16(7))
	big := newForge(0x5FE000)
	big.order = bigEndian
	big.fill(big.start+0x3000, 5000)
	f.Add(big.log, uint64(big.start), uint8(18), uint32(3), uint16(1))
	f.Add(make([]byte, 100), uint64(1<<64-50), uint8(11), uint32(1), uint16(3))
	f.Fuzz(func(t *testing.T, log []byte, start uint64, major uint8, timeline uint32, piece uint16) {
		rules := PageRules{SegmentSize: MinSegmentSize, Major: int(major), Timeline: Timeline(timeline), History: History{{1, 0x301000}, {2, 0x304000}}}
		all, parts := NewPageChecker(rules, LSN(start)), NewPageChecker(rules, LSN(start))
		want := all.Check(log)
		var got error
		for p := range slices.Chunk(log, int(piece)+1) {
			if got = parts.Check(p); got != nil {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) || all.Position() != parts.Position() {
			t.Errorf("at once %v at %s, in pieces of %d bytes %v at %s", want, all.Position(), int(piece)+1, got, parts.Position())
		}
		if want == nil && all.Position() != LSN(start)+LSN(len(log)) {
			t.Errorf("the checker is at %s", all.Position())
		}
	})
}
