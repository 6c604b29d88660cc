package wal

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

const mib = 1 << 20

// segmentSizes are all that there are.
var segmentSizes = []int64{1 * mib, 2 * mib, 4 * mib, 8 * mib, 16 * mib, 32 * mib, 64 * mib, 128 * mib, 256 * mib, 512 * mib, 1024 * mib}

func TestLSN(t *testing.T) {
	for _, c := range []struct {
		text string
		lsn  LSN
	}{
		{"0/0", 0},
		{"0/1", 1},
		{"0/2000028", 0x2000028},
		{"0/FFFFFFFF", 0xFFFFFFFF},
		{"1/0", 1 << 32},
		{"16/B374D848", 0x16B374D848},
		{"FFFFFFFF/FFFFFFFF", math.MaxUint64},
	} {
		if got := c.lsn.String(); got != c.text {
			t.Errorf("%#x prints as %q, want %q", uint64(c.lsn), got, c.text)
		}
		if got, err := ParseLSN(c.text); err != nil || got != c.lsn {
			t.Errorf("%q is %#x, %v, want %#x", c.text, uint64(got), err, uint64(c.lsn))
		}
	}
}

func TestParseLSN(t *testing.T) {
	for _, c := range []struct {
		text string
		lsn  LSN
		ok   bool
	}{
		{"16/b374d848", 0x16B374D848, true}, // lower case
		{"00000016/0374D848", 0x160374D848, true},
		{"0/01", 1, true},
		{"", 0, false},
		{"0", 0, false},
		{"/", 0, false},
		{"0/", 0, false},
		{"/0", 0, false},
		{"0/0/0", 0, false},
		{"000000000/0", 0, false}, // nine digits
		{"0/000000001", 0, false},
		{"100000000/0", 0, false},
		{"G/0", 0, false},
		{"0/G", 0, false},
		{" 0/1", 0, false},
		{"0/1 ", 0, false},
		{"0/1\n", 0, false},
		{"+1/0", 0, false},
		{"0/-1", 0, false},
		{"0x1/0", 0, false},
		{"0/1_0", 0, false},
		{"0\\1", 0, false},
	} {
		got, err := ParseLSN(c.text)
		if got != c.lsn || (err == nil) != c.ok {
			t.Errorf("%q is %v, %v, want %v, ok %t", c.text, got, err, c.lsn, c.ok)
		}
	}
}

func TestValidSegmentSize(t *testing.T) {
	for _, size := range segmentSizes {
		if !ValidSegmentSize(size) {
			t.Errorf("%d is not valid", size)
		}
	}
	for _, size := range []int64{math.MinInt64, -16 * mib, -1, 0, 1, mib / 2, mib - 1, mib + 1, 3 * mib, 1023 * mib, 2048 * mib, 1 << 62, math.MaxInt64} {
		if ValidSegmentSize(size) {
			t.Errorf("%d is valid", size)
		}
	}
}

func TestParseSegmentSize(t *testing.T) {
	for _, c := range []struct {
		text string
		size int64 // zero if it is an error
	}{
		{"1MB", 1 * mib}, {"2MB", 2 * mib}, {"4MB", 4 * mib}, {"8MB", 8 * mib}, {"16MB", 16 * mib}, {"32MB", 32 * mib},
		{"64MB", 64 * mib}, {"128MB", 128 * mib}, {"256MB", 256 * mib}, {"512MB", 512 * mib}, {"1GB", 1024 * mib},
		{"1024MB", 1024 * mib},
		{"2GB", 0}, {"0MB", 0}, {"0GB", 0}, {"3MB", 0}, {"-16MB", 0},
		{"16", 0}, {"16777216", 0}, {"16kB", 0}, {"16B", 0}, {"16M", 0}, {"1G", 0}, {"1TB", 0}, {"16mb", 0},
		{"16BM", 0}, {"16MBMB", 0}, {"16MGB", 0}, {"MB", 0}, {"GB", 0}, {"", 0}, {"16 MB", 0}, {" 16MB", 0}, {"16MB ", 0},
		{"4294967296MB", 0}, {"17592186044416MB", 0}, // would be a power of two, or zero, if they were cut off
		{"99999999999999999999GB", 0},
	} {
		got, err := ParseSegmentSize(c.text)
		if got != c.size || (err == nil) != (c.size != 0) {
			t.Errorf("%q is %d, %v, want %d", c.text, got, err, c.size)
		}
	}
}

func TestSegment(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int64
		segment Segment
	}{
		{"000000010000000000000000", 16 * mib, Segment{1, 0}},
		{"000000010000000000000001", 16 * mib, Segment{1, 1}},
		{"0000000100000000000000FF", 16 * mib, Segment{1, 255}}, // last of a log
		{"000000010000000100000000", 16 * mib, Segment{1, 256}},
		{"0000000200000001000000FF", 16 * mib, Segment{2, 511}},
		{"00000001000000010000000A", 16 * mib, Segment{1, 266}},
		{"FFFFFFFFFFFFFFFF000000FF", 16 * mib, Segment{math.MaxUint32, 1<<40 - 1}}, // the last there can be
		{"000000010000000000000FFF", 1 * mib, Segment{1, 4095}},
		{"000000010000000100000000", 1 * mib, Segment{1, 4096}},
		{"FFFFFFFFFFFFFFFF00000FFF", 1 * mib, Segment{math.MaxUint32, 1<<44 - 1}},
		{"00000001000000000000003F", 64 * mib, Segment{1, 63}},
		{"000000010000000100000000", 64 * mib, Segment{1, 64}},
		{"000000010000000000000003", 1024 * mib, Segment{1, 3}},
		{"000000010000000100000000", 1024 * mib, Segment{1, 4}},
		{"FFFFFFFFFFFFFFFF00000003", 1024 * mib, Segment{math.MaxUint32, 1<<34 - 1}},
	} {
		if got := c.segment.Name(c.size); got != c.name {
			t.Errorf("%v of %d MiB is %s, want %s", c.segment, c.size/mib, got, c.name)
		}
		if got, err := ParseSegment(c.name, c.size); err != nil || got != c.segment {
			t.Errorf("%s of %d MiB is %v, %v, want %v", c.name, c.size/mib, got, err, c.segment)
		}
	}
}

func TestParseSegment(t *testing.T) {
	for _, c := range []struct{ why, name string }{
		{"256th of 256", "000000010000000000000100"},
		{"no timeline", "000000000000000000000001"},
		{"lower case", "00000001000000000000000a"},
		{"history", "00000002.history"},
		{"partial", "000000010000000000000001.partial"},
		{"backup history", "000000010000000000000002.00000028.backup"},
		{"compressed", "000000010000000000000001.gz"},
		{"a digit less", "00000001000000000000001"},
		{"a digit more", "0000000100000000000000010"},
		{"as long, no digit", "00000001000000000000000G"},
		{"as long, dot", "000000010000000000000.01"},
		{"sign", "+0000001000000000000000F"},
		{"directory", "./0000010000000000000001"},
		{"empty", ""},
		{"zero byte", "00000001000000000000000\x00"},
	} {
		if got, err := ParseSegment(c.name, DefaultSegmentSize); err == nil {
			t.Errorf("%s: %q is %v", c.why, c.name, got)
		} else if !strings.Contains(err.Error(), c.name) && c.why != "zero byte" {
			t.Errorf("%s: error %q does not name it", c.why, err)
		}
	}
	for _, size := range segmentSizes {
		last := 1<<32/size - 1
		if _, err := ParseSegment(fmt.Sprintf("0000000100000000%08X", last), size); err != nil {
			t.Errorf("%d MiB, the last of a log: %v", size/mib, err)
		}
		if got, err := ParseSegment(fmt.Sprintf("0000000100000000%08X", last+1), size); err == nil {
			t.Errorf("%d MiB, one more than a log has: %v", size/mib, got)
		}
	}
}

// TestSegmentBorders looks at the bytes on both sides of each kind of border.
func TestSegmentBorders(t *testing.T) {
	for _, size := range segmentSizes {
		for _, border := range []LSN{LSN(size), 2 * LSN(size), 1 << 32, 1<<32 + LSN(size), 1 << 40, 1 << 63, -LSN(size)} {
			after := SegmentAt(Position{border, 7}, size)
			before := SegmentAt(Position{border - 1, 7}, size)
			if after.Start(size) != border {
				t.Errorf("%d MiB: the segment of %v starts at %v", size/mib, border, after.Start(size))
			}
			if before.Number != after.Number-1 || before.Timeline != 7 {
				t.Errorf("%d MiB: the byte before %v is in %v, not before %v", size/mib, border, before, after)
			}
			if last := SegmentAt(Position{border + LSN(size) - 1, 7}, size); last != after {
				t.Errorf("%d MiB: the segment at %v ends in %v", size/mib, border, last)
			}
		}
	}
	if got := SegmentAt(Position{math.MaxUint64, 1}, MinSegmentSize).Number; got != 1<<44-1 {
		t.Errorf("the last byte of all is in segment %d", got)
	}
}

func TestHistoryName(t *testing.T) {
	for _, c := range []struct {
		timeline Timeline
		name     string
	}{
		{1, "00000001.history"},
		{0x1A, "0000001A.history"},
		{math.MaxUint32, "FFFFFFFF.history"},
	} {
		if got := HistoryName(c.timeline); got != c.name {
			t.Errorf("%d: %s, want %s", c.timeline, got, c.name)
		}
	}
}

func FuzzParseLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Add("0/0")
	f.Add("FFFFFFFF/ffffffff")
	f.Add("0/-1")
	f.Fuzz(func(t *testing.T, text string) {
		lsn, err := ParseLSN(text)
		if err != nil {
			if lsn != 0 {
				t.Errorf("%q is %v in spite of %v", text, lsn, err)
			}
			return
		}
		if again, err := ParseLSN(lsn.String()); err != nil || again != lsn {
			t.Errorf("%q is %v, which is %v, %v", text, lsn, again, err)
		}
	})
}

func FuzzParseSegment(f *testing.F) {
	f.Add("0000000200000001000000FF", uint8(4))
	f.Add("000000010000000000000003", uint8(10))
	f.Add("00000002.history", uint8(0))
	f.Fuzz(func(t *testing.T, name string, power uint8) {
		size := segmentSizes[int(power)%len(segmentSizes)]
		s, err := ParseSegment(name, size)
		if err != nil {
			return
		}
		if got := s.Name(size); got != name {
			t.Errorf("%q of %d is %v, whose name is %q", name, size, s, got)
		}
		if at := SegmentAt(Position{s.Start(size), s.Timeline}, size); at != s {
			t.Errorf("%v of %d starts at %v, which is in %v", s, size, s.Start(size), at)
		}
	})
}

func FuzzParseSegmentSize(f *testing.F) {
	f.Add("16MB")
	f.Add("1GB")
	f.Add("-1GB")
	f.Fuzz(func(t *testing.T, text string) {
		if size, err := ParseSegmentSize(text); err == nil && !ValidSegmentSize(size) {
			t.Errorf("%q is %d", text, size)
		}
	})
}
