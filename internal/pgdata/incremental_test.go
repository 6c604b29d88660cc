package pgdata

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// incrementalFile returns a file as a server writes it, with pages of one letter each.
func incrementalFile(truncation uint32, blocks ...uint32) []byte {
	p := binary.LittleEndian.AppendUint32(nil, incrementalMagic)
	p = binary.LittleEndian.AppendUint32(p, uint32(len(blocks)))
	p = binary.LittleEndian.AppendUint32(p, truncation)
	for _, b := range blocks {
		p = binary.LittleEndian.AppendUint32(p, b)
	}
	if len(blocks) > 0 {
		p = append(p, make([]byte, -len(p)&(PageSize-1))...)
	}
	for i := range blocks {
		p = append(p, bytes.Repeat([]byte{'a' + byte(i)}, PageSize)...)
	}
	return p
}

func TestReadIncremental(t *testing.T) {
	many := make([]uint32, 5000) // whose numbers take more than two pages
	for i := range many {
		many[i] = uint32(3 * i)
	}
	for _, test := range []struct {
		reason             string
		truncation, length uint32
		headerSize         int64
		blocks             []uint32
	}{
		{"nothing changed", 8, 8, 12, nil},
		{"nothing left", 0, 0, 12, nil},
		{"one block", 8, 8, 8192, []uint32{7}},
		{"grown", 8, 10, 8192, []uint32{7, 9}},
		{"many", 8, 3*4999 + 1, 3 * 8192, many},
		{"header of exactly a page", 3000, 3000, 8192, many[:0:0]},
		{"last of a segment", SegmentPages, SegmentPages, 8192, []uint32{SegmentPages - 1}},
	} {
		if strings.HasPrefix(test.reason, "header") {
			for i := range uint32((PageSize - incrementalFixed) / 4) {
				test.blocks = append(test.blocks, i)
			}
		}
		content := incrementalFile(test.truncation, test.blocks...)
		got, err := ReadIncremental(bytes.NewReader(content), int64(len(content)), "x")
		if err != nil || got.Truncation != test.truncation || len(got.Blocks) != len(test.blocks) || len(test.blocks) > 0 && cmp.Diff(test.blocks, got.Blocks) != "" {
			t.Errorf("%s: %+v, %v", test.reason, got, err)
		}
		if got.Length() != test.length || got.HeaderSize() != test.headerSize || got.Size() != int64(len(content)) || got.HeaderSize() > MaxIncrementalHeader {
			t.Errorf("%s: length %d, header of %d bytes, %d bytes of %d", test.reason, got.Length(), got.HeaderSize(), got.Size(), len(content))
		}
	}
}

func TestReadIncrementalThatIsNone(t *testing.T) {
	good := incrementalFile(8, 2, 5)
	with := func(at int, value uint32) []byte {
		p := bytes.Clone(good)
		binary.LittleEndian.PutUint32(p[at:], value)
		return p
	}
	for _, test := range []struct {
		want    string
		content []byte
	}{
		{`could not read file "x": read 0 of 12`, nil},
		{`could not read file "x": read 11 of 12`, good[:11]},
		{`could not read file "x": read 4 of 8`, good[:16]},
		{`file "x" has bad incremental magic number (0xd3ae1f0e, expected 0xd3ae1f0d)`, with(0, incrementalMagic+1)},
		{`file "x" has block count 131073 in excess of segment size 131072`, with(4, SegmentPages+1)},
		{`file "x" has block count 4294967295 in excess of segment size 131072`, with(4, 1<<32-1)},
		{`file "x" has truncation block length 131073 in excess of segment size 131072`, with(8, SegmentPages+1)},
		{`file "x" has block number 131072 in excess of segment size 131072`, with(16, SegmentPages)},
		{`file "x" has block number 2 after 2`, with(16, 2)},
		{`file "x" has block number 1 after 2`, with(16, 1)},
		{`file "x" has 24575 bytes, but 2 blocks and their header have 24576`, good[:len(good)-1]},
		{`file "x" has 24577 bytes, but 2 blocks and their header have 24576`, append(bytes.Clone(good), 0)},
	} {
		if _, err := ReadIncremental(bytes.NewReader(test.content), int64(len(test.content)), "x"); fmt.Sprint(err) != test.want {
			t.Errorf("%v, want %s", err, test.want)
		}
	}
}

func TestCutIncremental(t *testing.T) {
	for path, want := range map[string]string{
		"base/5/INCREMENTAL.1259": "base/5/1259", "global/INCREMENTAL.1262": "global/1262",
		"pg_tblspc/16400/PG_18_202506291/5/INCREMENTAL.16401.2": "pg_tblspc/16400/PG_18_202506291/5/16401.2",
		"INCREMENTAL.config": "", "base/INCREMENTAL.1": "", "base/5/1259": "", "pg_wal/INCREMENTAL.1": "",
		"global/x/INCREMENTAL.1": "", "base/5/incremental.1": "", "": "", "base/5/INCREMENTAL.": "base/5/",
	} {
		whole, ok := CutIncremental(path)
		if ok != (want != "") || ok && whole != want || !ok && whole != path {
			t.Errorf("%s: %s, %v", path, whole, ok)
		}
		if ok && IncrementalPath(whole) != path {
			t.Errorf("%s is not %s", IncrementalPath(whole), path)
		}
	}
}

func FuzzReadIncremental(f *testing.F) {
	for _, seed := range [][]byte{nil, incrementalFile(8), incrementalFile(8, 2, 5), incrementalFile(8, 2, 5)[:20]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		header, err := ReadIncremental(bytes.NewReader(content), int64(len(content)), "x")
		if err != nil {
			return
		}
		if header.Size() != int64(len(content)) || header.Length() > SegmentPages || !bytes.HasPrefix(content, incrementalFile(header.Truncation, header.Blocks...)[:12+4*len(header.Blocks)]) {
			t.Errorf("%+v of %d bytes", header, len(content))
		}
	})
}
