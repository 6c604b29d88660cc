package wal

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestPiece cuts bytes in all ways and puts them together again.
func TestPiece(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, length := range []int{0, 1, 8, 24, keptOfPiece, keptOfPiece + 1, 700, 100003} {
		p := make([]byte, length)
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		cuts := []int{0, 1, 8, 24, 100, keptOfPiece, length / 2, length - 1, length}
		for _, first := range cuts {
			for _, second := range cuts {
				if first < 0 || second < first || second > length {
					continue
				}
				var a, b, c Piece
				a.add(p[:first])
				b.add(p[first:second])
				c.add(p[second:])
				for _, got := range []Piece{a.joined(b).joined(c), a.joined(b.joined(c))} {
					isPrefix := bytes.HasPrefix(p, got.Bytes) && len(got.Bytes) >= min(first, keptOfPiece) && len(got.Bytes) <= keptOfPiece
					if got.Length != int64(length) || got.Sum != crc32.Checksum(p, castagnoli) || !isPrefix {
						t.Errorf("%d bytes cut at %d and %d: %d bytes, %d kept, checksum %08X", length, first, second, got.Length, len(got.Bytes), got.Sum)
					}
					if n := min(24, len(got.Bytes)); got.withoutFirst(n) != crc32.Checksum(p[n:], castagnoli) {
						t.Errorf("%d bytes without the first %d have another checksum", length, n)
					}
				}
			}
		}
	}
}

func TestNewTablespace(t *testing.T) {
	for _, c := range []struct {
		why           string
		manager, info uint8
		main          func(p *parts)
		want          string
	}{
		{"plain", 5, 0x00, func(p *parts) { p.u32(16385).u8('/', 'a', 0) }, `16385 at "/a"`},
		{"info of the caller", 5, 0x01, func(p *parts) { p.u32(16385).u8('/', 'a', 0) }, `16385 at "/a"`},
		{"in place", 5, 0x00, func(p *parts) { p.u32(16385).u8(0) }, `16385 at ""`},
		{"dropped", 5, 0x10, func(p *parts) { p.u32(16385).u8('/', 'a', 0) }, "none"},
		{"of another manager", 4, 0x00, func(p *parts) { p.u32(16385).u8('/', 'a', 0) }, "none"},
		{"no end of the path", 5, 0x00, func(p *parts) { p.u32(16385).u8('/', 'a') }, "none"},
		{"no path", 5, 0x00, func(p *parts) { p.u32(16385) }, "none"},
		{"no tablespace", 5, 0x00, func(p *parts) { p.u8(1, 2, 3) }, "none"},
	} {
		t.Run(c.why, func(t *testing.T) {
			eachLayout(t, nil, c.manager, c.info, c.main, func(r Record) string {
				n, ok := r.NewTablespace()
				if !ok {
					return "none"
				}
				return fmt.Sprintf("%d at %q", n.OID, n.Path)
			}, c.want)
		})
	}
}

// FuzzSummaryAfter joins whatever was stored as summaries.
func FuzzSummaryAfter(f *testing.F) {
	g := newForge(0x300000)
	g.come(0x3FFFF8)
	g.end(transactionCommit, 7, 1, 3)
	g.fill(0x410000, 300)
	var stored [2][]byte
	for i, log := range [][]byte{g.log[:MinSegmentSize], g.log[MinSegmentSize:]} {
		s, err := SummarizePart(bytes.NewReader(log), Segment{1, 3 + uint64(i)}, g.rules())
		if err != nil {
			f.Fatal(err)
		}
		if stored[i], err = json.Marshal(s); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(stored[0], stored[1])
	f.Add([]byte(`{"start":"0/1","segmentSize":1,"continues":30,"open":{"length":30,"piece":{"length":-1,"bytes":"AAAA"}}}`),
		[]byte(`{"start":"0/2","segmentSize":1,"continues":31,"rest":{"length":31,"bytes":""}}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var before, s Summary
		if json.Unmarshal(first, &before) != nil || json.Unmarshal(second, &s) != nil {
			return
		}
		joined, err := s.After(&before)
		if err != nil {
			return
		}
		if _, err := json.Marshal(joined); err != nil {
			t.Error(err)
		}
	})
}

// TestSummaryStored has what is stored of two segments, which others read.
func TestSummaryStored(t *testing.T) {
	g := newForge(0x300000)
	g.come(0x3FFFF8)
	g.end(transactionCommit, 7, 1, 0)
	g.name("x")
	for i, want := range []string{
		`{"systemId":"42","major":18,"segmentSize":1048576,"timeline":1,"start":"0/300000","firstTimeline":1,"lastTimeline":1,"length":1048576,` +
			`"first":"0/300028","last":"0/3FE058","end":"0/3FFFF8","open":{"lsn":"0/3FFFF8","length":34,"piece":{"length":8,"sum":SUM,"bytes":"BYTES"}}}`,
		`{"systemId":"42","major":18,"segmentSize":1048576,"timeline":1,"start":"0/400000","firstTimeline":1,"lastTimeline":1,"length":176,` +
			`"ended":"more has not come","continues":26,"rest":{"length":26,"sum":SUM,"bytes":"BYTES"},"restEnd":"0/400048",` +
			`"first":"0/400048","firstPrev":"0/3FFFF8","last":"0/400048","end":"0/4000B0",` +
			`"transactions":{"count":1,"earliest":"2000-01-01T00:00:00.000001Z","latest":"2000-01-01T00:00:00.000001Z","lowest":7,"highest":7},` +
			`"restorePoints":[{"name":"x","time":"2024-02-29T12:34:56.789012Z","lsn":"0/400048","end":"0/4000B0"}]}`,
	} {
		log := g.log[i*MinSegmentSize : min((i+1)*MinSegmentSize, len(g.log))]
		s, err := SummarizePart(bytes.NewReader(log), Segment{1, 3 + uint64(i)}, g.rules())
		if err != nil {
			t.Fatal(err)
		}
		piece := s.Rest
		if s.Open != nil {
			piece = s.Open.Piece
		} else {
			before, err := SummarizePart(bytes.NewReader(g.log[:MinSegmentSize]), Segment{1, 3}, g.rules())
			if err != nil {
				t.Fatal(err)
			}
			if s, err = s.After(&before); err != nil {
				t.Fatal(err)
			}
		}
		want = strings.NewReplacer("SUM", fmt.Sprint(piece.Sum), "BYTES", base64.StdEncoding.EncodeToString(piece.Bytes)).Replace(want)
		if got, err := json.Marshal(s); err != nil || string(got) != want {
			t.Errorf("is\n%s\nwant\n%s\n%v", got, want, err)
		}
	}
}
