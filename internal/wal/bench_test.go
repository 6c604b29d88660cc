package wal

import (
	"bytes"
	"io"
	"strconv"
	"testing"

	"basin/internal/pgtest"
)

// What passes the checker on its way to disk costs no more than its headers.
func BenchmarkPageChecker(b *testing.B) {
	f := newForge(DefaultSegmentSize)
	f.segmentSize = DefaultSegmentSize
	f.fill(2*DefaultSegmentSize, 1000)
	full := f.log[:DefaultSegmentSize]
	f = newForge(DefaultSegmentSize)
	f.segmentSize = DefaultSegmentSize
	f.leave()
	for _, segment := range []struct {
		what string
		log  []byte
	}{{"full", full}, {"zeros", f.log}} {
		for _, piece := range []int{128 << 10, 8 << 10, 512} {
			b.Run(segment.what+"/"+strconv.Itoa(piece), func(b *testing.B) {
				b.SetBytes(int64(len(segment.log)))
				b.ReportAllocs()
				rules := f.rules()
				for b.Loop() {
					c := NewPageChecker(rules, f.start)
					for p := segment.log; len(p) > 0; {
						n := min(piece, len(p))
						if err := c.Check(p[:n]); err != nil {
							b.Fatal(err)
						}
						p = p[n:]
					}
				}
			})
		}
	}
}

func BenchmarkRecordReader(b *testing.B) {
	for _, longest := range []int{100, 400, 8000, 100000} {
		f := newForge(DefaultSegmentSize)
		f.segmentSize = DefaultSegmentSize
		f.fill(2*DefaultSegmentSize, longest)
		b.Run(strconv.Itoa(longest), func(b *testing.B) {
			benchmarkReader(b, f.log, f.start, f.segmentSize, f.at())
		})
	}
}

// BenchmarkSummarize reads a segment of small records, of large ones, and one that a record of many segments fills.
func BenchmarkSummarize(b *testing.B) {
	for _, longest := range []int{100, 400, 8000, 100 << 20} {
		f := newForge(DefaultSegmentSize)
		f.segmentSize = DefaultSegmentSize
		if longest > DefaultSegmentSize {
			f.record(10, 0, 7, make([]byte, longest))
		} else {
			f.fill(2*DefaultSegmentSize, longest)
		}
		log := f.log[:DefaultSegmentSize]
		b.Run(strconv.Itoa(longest), func(b *testing.B) {
			b.SetBytes(int64(len(log)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Summarize(bytes.NewReader(log), Segment{1, 1}, f.rules()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVariedLog reads what a server has written, in memory, beside pg_waldump, which
// has it in the memory of the system. It begins after the record of more than two segments,
// which costs both more than all others.
func BenchmarkVariedLog(b *testing.B) {
	l := writeVaried(b, pgtest.Newest, 320<<20)
	log, err := io.ReadAll(l.open())
	if err != nil {
		b.Fatal(err)
	}
	start, n := l.start, 0
	_, r := readAll(b, bytes.NewReader(log), l.start, l.segmentSize, func(r Record) {
		if n++; int64(r.Length) > l.segmentSize {
			start, n = (r.End+LSN(l.segmentSize))&^LSN(l.segmentSize-1), 0
		}
	})
	end := r.End()
	log = log[start-l.start : end-l.start]
	b.Logf("%d bytes, some %d records", len(log), n)
	b.Run("basin", func(b *testing.B) { benchmarkReader(b, log, start, l.segmentSize, end) })
	b.Run("pg_waldump", func(b *testing.B) {
		b.SetBytes(int64(len(log)))
		for b.Loop() {
			dump := pgtest.Command(b, pgtest.Newest, "pg_waldump", "--quiet", "--path="+l.dir, "--start="+start.String(), "--end="+end.String())
			if out, err := dump.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	})
}

func benchmarkReader(b *testing.B, log []byte, start LSN, segmentSize int64, end LSN) {
	b.SetBytes(int64(len(log)))
	b.ReportAllocs()
	for b.Loop() {
		r := NewRecordReader(bytes.NewReader(log), start, segmentSize)
		for {
			if _, err := r.Next(); err == io.EOF {
				break
			}
		}
		if r.End() != end {
			b.Fatal(r.End(), r.Reason())
		}
	}
}
