package pgdata

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/wal"
)

// summaryEntry is what a WAL summary says of one fork: of each chunk, the numbers as they are
// in the file.
type summaryEntry struct {
	r      RelationFork
	limit  uint32
	chunks [][]uint16
}

// summary returns a file as a server writes it.
func summary(entries ...summaryEntry) []byte {
	p := binary.LittleEndian.AppendUint32(nil, summaryMagic)
	for _, e := range entries {
		for _, n := range []uint32{e.r.Tablespace, e.r.Database, e.r.Relation, uint32(e.r.Fork), e.limit, uint32(len(e.chunks))} {
			p = binary.LittleEndian.AppendUint32(p, n)
		}
		for _, c := range e.chunks {
			p = binary.LittleEndian.AppendUint16(p, uint16(len(c)))
		}
		for _, c := range e.chunks {
			for _, n := range c {
				p = binary.LittleEndian.AppendUint16(p, n)
			}
		}
	}
	return sealSummary(append(p, make([]byte, 24)...))
}

func sealSummary(p []byte) []byte {
	return binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, castagnoli))
}

var (
	accounts = RelationFork{Tablespace: 1663, Database: 5, Relation: 16400}
	database = RelationFork{Tablespace: 1663, Database: 5}
)

func TestReadSummary(t *testing.T) {
	all := make([]uint16, chunkEntries) // bits: each sixteenth block
	for i := range all {
		all[i] = 1
	}
	for _, test := range []struct {
		reason  string
		files   [][]byte
		limit   uint32
		changed bool
		blocks  map[uint32]int // of the first 3*65536, how many there are in each chunk
		some    []uint32       // which are among them
	}{
		{"nothing", [][]byte{summary()}, NoLimit, false, nil, nil},
		{"another fork", [][]byte{summary(summaryEntry{RelationFork{1663, 5, 16400, VisibilityFork}, 0, nil})}, NoLimit, false, nil, nil},
		{"one block", [][]byte{summary(summaryEntry{accounts, NoLimit, [][]uint16{{7}}})}, NoLimit, true, map[uint32]int{0: 1}, []uint32{7}},
		{"without order", [][]byte{summary(summaryEntry{accounts, NoLimit, [][]uint16{{7, 5, 9, 5}}})}, NoLimit, true, map[uint32]int{0: 3}, []uint32{5, 7, 9}},
		{"made anew", [][]byte{summary(summaryEntry{accounts, 0, nil})}, 0, true, nil, nil},
		{"chunks", [][]byte{summary(summaryEntry{accounts, NoLimit, [][]uint16{{7}, {}, {0, 65535}}})}, NoLimit, true, map[uint32]int{0: 1, 2: 2}, []uint32{7, 131072, 196607}},
		{"bits", [][]byte{summary(summaryEntry{accounts, NoLimit, [][]uint16{{}, all}})}, NoLimit, true, map[uint32]int{1: 4096}, []uint32{65536, 65552}},
		{"two files", [][]byte{
			summary(summaryEntry{accounts, NoLimit, [][]uint16{{7, 100}}}),
			summary(summaryEntry{accounts, NoLimit, [][]uint16{{8, 7}}}),
		}, NoLimit, true, map[uint32]int{0: 3}, []uint32{7, 8, 100}},
		{"cut off later", [][]byte{
			summary(summaryEntry{accounts, NoLimit, [][]uint16{{7, 100}, {1}}}),
			summary(summaryEntry{accounts, 50, [][]uint16{{60}}}),
		}, 50, true, map[uint32]int{0: 2}, []uint32{7, 60}},
		{"cut off before", [][]byte{
			summary(summaryEntry{accounts, 50, [][]uint16{{60}}}),
			summary(summaryEntry{accounts, NoLimit, [][]uint16{{7, 100}, {1}}}),
		}, 50, true, map[uint32]int{0: 3, 1: 1}, []uint32{7, 60, 100, 65537}},
		{"cut off less later", [][]byte{
			summary(summaryEntry{accounts, 50, [][]uint16{{60}}}),
			summary(summaryEntry{accounts, 55, [][]uint16{{70}}}),
		}, 50, true, map[uint32]int{0: 2}, []uint32{60, 70}},
		{"bits cut off", [][]byte{
			summary(summaryEntry{accounts, NoLimit, [][]uint16{all, all}}),
			summary(summaryEntry{accounts, 65536 + 33, nil}),
		}, 65536 + 33, true, map[uint32]int{0: 4096, 1: 3}, []uint32{65536, 65552, 65568}},
		{"bits cut off between words", [][]byte{
			summary(summaryEntry{accounts, NoLimit, [][]uint16{all}}),
			summary(summaryEntry{accounts, 64, nil}),
		}, 64, true, map[uint32]int{0: 4}, []uint32{0, 16, 32, 48}},
	} {
		var c BlockChanges
		for _, file := range test.files {
			if err := c.ReadSummary(bytes.NewReader(file), "x"); err != nil {
				t.Errorf("%s: %v", test.reason, err)
			}
		}
		limit, changed := c.Limit(accounts)
		if limit != test.limit || changed != test.changed {
			t.Errorf("%s: limit is %d, %t", test.reason, limit, changed)
		}
		blocks := c.Blocks(accounts, 0, 3*chunkBlocks)
		counts := map[uint32]int{}
		for _, b := range blocks {
			counts[b/chunkBlocks]++
		}
		if !maps.Equal(counts, test.blocks) || !slices.IsSorted(blocks) {
			t.Errorf("%s: blocks are %v", test.reason, counts)
		}
		for _, b := range test.some {
			if !slices.Contains(blocks, b) || !slices.Equal(c.Blocks(accounts, b, b+1), []uint32{b}) {
				t.Errorf("%s: block %d is not there", test.reason, b)
			}
		}
	}
}

func TestReadSummaryOfManyBlocks(t *testing.T) {
	var c BlockChanges
	var want []uint32
	for b := uint32(3); b < 2*chunkBlocks; b += 5 { // more than a list holds
		c.Mark(accounts, b)
		want = append(want, b)
	}
	if diff := cmp.Diff(want, c.Blocks(accounts, 0, 2*chunkBlocks)); diff != "" {
		t.Errorf("blocks differ")
	}
	if _, changed := c.Limit(database); changed {
		t.Error("the database is new")
	}
}

func TestReadSummaryDamaged(t *testing.T) {
	intact := summary(summaryEntry{database, 0, nil}, summaryEntry{accounts, NoLimit, [][]uint16{{7, 9}}})
	changed := func(change func([]byte) []byte) []byte { return change(bytes.Clone(intact)) }
	resealed := func(at int, to uint32) []byte {
		p := bytes.Clone(intact[:len(intact)-4])
		binary.LittleEndian.PutUint32(p[at:], to)
		return sealSummary(p)
	}
	for _, test := range []struct {
		reason, message string
		file            []byte
	}{
		{"intact", "", intact},
		{"empty", "ends unexpectedly", nil},
		{"wrong magic", "has wrong magic number", changed(func(p []byte) []byte { p[0]++; return p })},
		{"a bit changed", "has wrong checksum", changed(func(p []byte) []byte { p[4+24+24+2]++; return p })},
		{"cut off in the checksum", "ends unexpectedly", intact[:len(intact)-1]},
		{"cut off in an entry", "ends unexpectedly", intact[:40]},
		{"more behind the end", "goes on after its end", append(bytes.Clone(intact), 0)},
		{"a fork that is none", "invalid fork number", resealed(4+12, 4)},
		{"too many chunks", "chunks of blocks", resealed(4+24+20, chunkBlocks+1)},
		{"too large a chunk", "has a chunk of 65535 entries", resealed(4+24+24, 0xffff)},
	} {
		var c BlockChanges
		err := c.ReadSummary(bytes.NewReader(test.file), "x")
		if err == nil != (test.message == "") || err != nil && !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
}

func FuzzReadSummary(f *testing.F) {
	f.Add(summary(summaryEntry{database, 0, nil}, summaryEntry{accounts, 70, [][]uint16{{7, 9}, {1}}}))
	f.Add(summary())
	f.Fuzz(func(t *testing.T, file []byte) {
		if len(file) > 4 { // so that more than the checksum is looked at
			file = sealSummary(file[:len(file)-4])
		}
		var c BlockChanges
		if err := c.ReadSummary(bytes.NewReader(file), "x"); err != nil {
			return
		}
		for r, changes := range c.relations {
			for number := range changes.chunks {
				for _, b := range c.Blocks(r, number*chunkBlocks, number*chunkBlocks+chunkBlocks-1) {
					if b/chunkBlocks != number {
						t.Errorf("block %d in chunk %d", b, number)
					}
				}
			}
		}
	})
}

func TestParseSummaryName(t *testing.T) {
	for _, test := range []struct {
		name string
		want SummaryFile
		ok   bool
	}{
		{"0000000100000000010000280000000102000060.summary", SummaryFile{1, 0x1000028, 0x102000060}, true},
		{"FFFFFFFF00000000010000280000000102000060.summary", SummaryFile{0xFFFFFFFF, 0x1000028, 0x102000060}, true},
		{"0000000100000000010000280000000102000060.summary.tmp", SummaryFile{}, false},
		{"000000010000000001000028000000010200006.summary", SummaryFile{}, false},
		{"000000010000000001000028000000010200006a.summary", SummaryFile{}, false},
		{"temp.summary", SummaryFile{}, false},
	} {
		got, ok := ParseSummaryName(test.name)
		if got != test.want || ok != test.ok || ok && got.Name() != test.name {
			t.Errorf("%s: %+v, %t, %s", test.name, got, ok, got.Name())
		}
	}
	if got := (SummaryFile{Timeline: 2, Start: wal.LSN(1), End: wal.LSN(2)}).Name(); len(got) != 48 {
		t.Errorf("name is %s", got)
	}
}

func TestParseRelationPath(t *testing.T) {
	for _, test := range []struct {
		path    string
		want    RelationFork
		segment uint32
		ok      bool
	}{
		{"base/5/16400", accounts, 0, true},
		{"base/5/16400.3", accounts, 3, true},
		{"base/5/16400_vm", RelationFork{1663, 5, 16400, VisibilityFork}, 0, true},
		{"base/5/16400_fsm.1", RelationFork{1663, 5, 16400, FreeSpaceFork}, 1, true},
		{"global/1262_init", RelationFork{1664, 0, 1262, InitFork}, 0, true},
		{"pg_tblspc/16384/PG_18_202506291/5/16400", RelationFork{16384, 5, 16400, MainFork}, 0, true},
		{"base/5/PG_VERSION", RelationFork{}, 0, false},
		{"base/five/16400", RelationFork{}, 0, false},
		{"pg_tblspc/x/PG_18_202506291/5/16400", RelationFork{}, 0, false},
		{"base/5/INCREMENTAL.16400", RelationFork{}, 0, false},
	} {
		got, segment, ok := ParseRelationPath(test.path)
		if ok != test.ok || ok && (got != test.want || segment != test.segment) {
			t.Errorf("%s: %+v, %d, %t", test.path, got, segment, ok)
		}
	}
}

func TestIsTemporaryRelation(t *testing.T) {
	for name, want := range map[string]bool{
		"t3_16450": true, "t3_16450_fsm": true, "t3_16450_vm.2": true, "t12_16450.1": true,
		"t3_": false, "t_16450": false, "3_16450": false, "t3_16450_x": false, "t3_16450.": false, "t3_16450_fsm.x": false, "t3x_16450": false, "": false, "t": false,
	} {
		if got := IsTemporaryRelation(name); got != want {
			t.Errorf("%q: %t", name, got)
		}
	}
}

func TestIncrementalIsWrittenAsItIsRead(t *testing.T) {
	for _, blocks := range [][]uint32{nil, {7}, {0, 1, 2, 131071}} {
		t.Run(fmt.Sprint(len(blocks)), func(t *testing.T) {
			want := incrementalFile(9, blocks...)
			header := Incremental{Truncation: 9, Blocks: blocks}
			if got := header.AppendTo([]byte("x")); !bytes.Equal(got[1:], want[:header.HeaderSize()]) {
				t.Errorf("header is %x", got[1:])
			}
		})
	}
}
