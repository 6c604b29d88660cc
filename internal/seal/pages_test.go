package seal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
)

const pageSize = 8192 // BLCKSZ

// heap returns the first n bytes, at most 9 MiB, of what heapPages makes.
func heap(n int) []byte { return pagesOnce()[:n:n] }

var pagesOnce = sync.OnceValue(func() []byte { return heapPages(9 * mib) })

// heapPages returns n bytes that compress like a table of an application: heap
// pages of rows with a serial key, an md5 token, a timestamp and a little jsonb
// text. The same n gives the same bytes, and a shorter n their beginning.
func heapPages(n int) []byte {
	pages := make([]byte, 0, n+pageSize)
	random := rand.New(rand.NewPCG(18, 6))
	for row := uint32(1); len(pages) < n; {
		page := make([]byte, pageSize)
		lower, upper := 24, pageSize // SizeOfPageHeaderData; pd_special
		for {
			tuple := heapTuple(random, row)
			if upper-len(tuple) < lower+4 { // sizeof(ItemIdData)
				break
			}
			upper -= len(tuple)
			copy(page[upper:], tuple)
			binary.LittleEndian.PutUint32(page[lower:], uint32(len(tuple))<<17|1<<15|uint32(upper))
			lower += 4
			row++
		}
		binary.LittleEndian.PutUint64(page, uint64(len(pages))*3) // pd_lsn
		binary.LittleEndian.PutUint16(page[8:], uint16(random.Uint32()))
		binary.LittleEndian.PutUint16(page[12:], uint16(lower))
		binary.LittleEndian.PutUint16(page[14:], uint16(upper))
		binary.LittleEndian.PutUint16(page[16:], pageSize)
		binary.LittleEndian.PutUint16(page[18:], pageSize|4) // PG_PAGE_LAYOUT_VERSION
		pages = append(pages, page...)
	}
	return pages[:n:n]
}

// heapTuple returns one row, its header included, padded to eight bytes.
func heapTuple(random *rand.Rand, row uint32) []byte {
	events := [...]string{"login", "logout", "purchase", "view", "refund", "search"}
	countries := [...]string{"DE", "US", "FR", "JP", "BR", "IN", "GB", "IT"}
	tuple := bytes.NewBuffer(make([]byte, 0, 320))
	header := [24]byte{18: 6, 20: 2, 21: 9, 22: 24} // natts, infomask, hoff
	binary.LittleEndian.PutUint32(header[:], 730+row/1000)
	binary.LittleEndian.PutUint32(header[12:], row/40)
	binary.LittleEndian.PutUint16(header[16:], uint16(row%40+1))
	tuple.Write(header[:])
	var fixed [16]byte
	binary.LittleEndian.PutUint64(fixed[:], uint64(row))
	binary.LittleEndian.PutUint64(fixed[8:], 780_000_000_000_000+uint64(row)*1_000_000+random.Uint64N(1_000_000))
	tuple.Write(fixed[:])
	var token [16]byte
	binary.LittleEndian.PutUint64(token[:], random.Uint64())
	binary.LittleEndian.PutUint64(token[8:], random.Uint64())
	tuple.WriteByte(67) // a varlena of 32 bytes
	tuple.WriteString(hex.EncodeToString(token[:]))
	fmt.Fprintf(tuple, `{"event": %q, "country": %q, "user_id": %d, "amount": %d.%02d, "session": "%08x", "tags": ["web", "v%d"]}`,
		events[random.IntN(len(events))], countries[random.IntN(len(countries))], random.IntN(200_000),
		random.IntN(500), random.IntN(100), random.Uint32(), random.IntN(9))
	for tuple.Len()%8 != 0 {
		tuple.WriteByte(0)
	}
	return tuple.Bytes()
}
