package repo

import (
	"hash/crc32"
	"sync"
)

// shifts are what CRC-32Cs become when a block of zeros follows, for each byte of them. They are
// linear, so that of a whole one is what its bytes have in common by exclusive or. Most commands need none.
var shifts = sync.OnceValue(func() *[4][256]uint32 {
	var t [4][256]uint32
	for i := range t {
		for bit := range 8 {
			with := 1 << bit
			t[i][with] = ^crc32.Update(^(uint32(with) << (8 * i)), castagnoli, zeroPage[:])
			for low := 1; low < with; low++ {
				t[i][with|low] = t[i][with] ^ t[i][low]
			}
		}
	}
	return &t
})

// appendChecksum returns the CRC-32C of what has one, and of a whole block behind that, of which
// nothing else is needed.
func appendChecksum(crc uint32, block block) uint32 {
	shifts := shifts()
	return shifts[0][crc&0xff] ^ shifts[1][crc>>8&0xff] ^ shifts[2][crc>>16&0xff] ^ shifts[3][crc>>24] ^ block.crc
}
