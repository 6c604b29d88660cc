package wal

import (
	"bytes"
	"io"
	"strconv"
	"testing"
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
			b.SetBytes(int64(len(f.log)))
			b.ReportAllocs()
			for b.Loop() {
				r := NewRecordReader(bytes.NewReader(f.log), f.start, f.segmentSize)
				for {
					if _, err := r.Next(); err == io.EOF {
						break
					}
				}
				if r.End() != f.at() {
					b.Fatal(r.End(), r.Reason())
				}
			}
		})
	}
}
