package pgdata

import (
	"encoding/binary"
	"strconv"
	"strings"

	"basin/internal/wal"
)

// PageSize is how long a page of a relation is, in bytes: BLCKSZ of nearly all servers.
const PageSize = 8192

// SegmentPages is how many pages one file of a relation has at most: RELSEG_SIZE of
// nearly all servers.
const SegmentPages = 131072

// Page is one page of a relation.
//
// Source: PageHeaderData in src/include/storage/bufpage.h, PostgreSQL 18.
type Page []byte

// LSN returns up to where the log has changed the page.
func (p Page) LSN() wal.LSN {
	return wal.LSN(binary.LittleEndian.Uint32(p))<<32 | wal.LSN(binary.LittleEndian.Uint32(p[4:]))
}

// IsNew says whether nothing was written to the page yet, when it has no checksum.
//
// Source: PageIsNew in src/include/storage/bufpage.h, PostgreSQL 18.
func (p Page) IsNew() bool { return binary.LittleEndian.Uint16(p[14:]) == 0 }

// Checksum returns the checksum that the page has.
func (p Page) Checksum() uint16 { return binary.LittleEndian.Uint16(p[checksumAt:]) }

// checksumAt is where the checksum is in a page: pd_checksum.
const checksumAt = 8

const (
	lanes   = 32        // N_SUMS
	prime   = 16777619  // FNV_PRIME
	rowSize = 4 * lanes // bytes that are mixed into all lanes at once
)

// laneOffsets are what the lanes begin with.
//
// Source: checksumBaseOffsets in src/include/storage/checksum_impl.h, PostgreSQL 18.
var laneOffsets = [lanes]uint32{
	0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
	0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
	0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
	0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
}

// ComputeChecksum returns the checksum that the page is to have as that block of its
// relation's fork, counted over all files of it.
//
// Source: pg_checksum_page in src/include/storage/checksum_impl.h, PostgreSQL 18.
func (p Page) ComputeChecksum(block uint32) uint16 {
	sums := laneOffsets
	var first [rowSize]byte
	copy(first[:], p)
	first[checksumAt], first[checksumAt+1] = 0, 0 // it counts as zero
	mixRows(&sums, first[:])
	mixRows(&sums, p[rowSize:PageSize])
	result := uint32(0)
	for _, sum := range sums {
		result ^= mix(mix(sum, 0), 0)
	}
	return uint16((result^block)%65535 + 1)
}

// mixRowsPlain is mixRows for every processor.
func mixRowsPlain(sums *[lanes]uint32, rows []byte) {
	for ; len(rows) >= rowSize; rows = rows[rowSize:] {
		for i := range sums {
			sums[i] = mix(sums[i], binary.LittleEndian.Uint32(rows[4*i:]))
		}
	}
}

// mix is CHECKSUM_COMP.
func mix(sum, word uint32) uint32 {
	word ^= sum
	return word*prime ^ word>>17
}

// RelationSegment says whether a path below the data directory is that of a file of a
// relation, and which segment of it: those have pages with checksums.
//
// Source: sendDir and parse_filename_for_nontemp_relation in src/backend, PostgreSQL 18.
func RelationSegment(path string) (segment uint32, ok bool) {
	parts := strings.Split(path, "/")
	switch {
	case parts[0] == "global" && len(parts) == 2:
	case parts[0] == "base" && len(parts) == 3:
	case parts[0] == "pg_tblspc" && len(parts) == 5:
	default:
		return 0, false
	}
	name, number, isLater := strings.Cut(parts[len(parts)-1], ".")
	for _, fork := range []string{"_fsm", "_vm", "_init"} {
		name = strings.TrimSuffix(name, fork)
	}
	if !isNumber(name) {
		return 0, false
	}
	if !isLater {
		return 0, true
	}
	n, err := strconv.ParseUint(number, 10, 32)
	return uint32(n), err == nil && n > 0 && isNumber(number)
}

// isNumber says whether s is a number without a leading zero that fits into 32 bits.
func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil && s[0] != '0' && s[0] != '+'
}
