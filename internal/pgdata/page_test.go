package pgdata

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func TestRelationSegment(t *testing.T) {
	for path, want := range map[string]int{
		"base/1/1259": 0, "base/16384/2619_fsm": 0, "base/16384/2619_vm": 0, "base/16384/16400_init": 0, "base/16384/16400.7": 7,
		"base/16384/2619_fsm.1": 1, "global/1262": 0, "pg_tblspc/16400/PG_18_202506291/5/16401.2": 2, "base/1/4294967295": 0,
		"base/1/pg_filenode.map": -1, "base/1/PG_VERSION": -1, "global/pg_control": -1, "base/1/1259.0": -1, "base/1/1259.x": -1,
		"base/1/1259.01": -1, "base/1/t3_1259": -1, "base/1/INCREMENTAL.1259": -1, "base/1/4294967296": -1, "base/1259": -1,
		"PG_VERSION": -1, "": -1, "base/1/": -1, "base/1/_vm": -1, "base/1/+5": -1, "pg_xact/0000": -1, "pg_tblspc/16400/PG_18_202506291/5": -1,
	} {
		segment, ok := RelationSegment(path)
		if got := int(segment); ok != (want >= 0) || ok && got != want {
			t.Errorf("%s: %d, %v", path, got, ok)
		}
	}
}

// TestChecksumIsOfThePageAtItsBlock knows nothing of what the server computes; that is
// compared with pages of real servers where backups are verified.
func TestChecksumIsOfThePageAtItsBlock(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	page := make(Page, PageSize)
	for i := range page {
		page[i] = byte(random.Uint32())
	}
	sum := page.ComputeChecksum(5)
	binary.LittleEndian.PutUint16(page[8:], sum)
	if page.ComputeChecksum(5) != sum || page.Checksum() != sum {
		t.Error("the checksum is not left out of itself")
	}
	if page.ComputeChecksum(6) == sum {
		t.Error("the block does not count")
	}
	for range 1000 {
		at := random.IntN(PageSize)
		if at == 8 || at == 9 {
			continue
		}
		other := bytes.Clone(page)
		other[at] ^= 1 << random.IntN(8)
		if Page(other).ComputeChecksum(5) == sum {
			t.Errorf("byte %d does not count", at)
		}
	}
	if !Page(make([]byte, PageSize)).IsNew() || page.IsNew() || page.LSN() == 0 {
		t.Error("the header is read otherwise")
	}
}

func TestRowsAreMixedAlike(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for n := 1; n <= PageSize/rowSize; n++ {
		rows := make([]byte, n*rowSize)
		for i := range rows {
			rows[i] = byte(random.Uint32())
		}
		plain, other := laneOffsets, laneOffsets
		mixRowsPlain(&plain, rows)
		mixRows(&other, rows)
		if plain != other {
			t.Fatalf("%d rows: %x, not %x", n, other, plain)
		}
	}
}

func BenchmarkComputeChecksum(b *testing.B) {
	page := make(Page, PageSize)
	b.SetBytes(PageSize)
	for b.Loop() {
		page.ComputeChecksum(1)
	}
}
