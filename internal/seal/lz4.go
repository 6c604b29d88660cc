package seal

import (
	"encoding/binary"

	"github.com/pierrec/lz4/v4"
)

const (
	lz4Block = 256 << 10 // LZ4F_max256KB, which PostgreSQL asks for
	lz4State = 1 << 20   // of the hash chain, the largest
	lz4Raw   = 1 << 31   // in a block's size: the block is not compressed
)

// lz4Format writes one LZ4 frame of independent blocks, without checksums, which
// PostgreSQL does not ask for either.
//
// Levels 0, 1 and 2 are liblz4's fast mode, and as fast. From 3 on the search is
// as deep as liblz4's and takes as long, but one match is not weighed against
// the next: what comes out is 5 to 7 % larger, and from 9 on all is the same.
func lz4Format(level int) format {
	return format{
		block: lz4Block,
		state: lz4State,
		// Magic number; version 1, blocks independent; blocks of 256 KiB; the
		// second byte of the two before's xxHash-32.
		header: []byte{0x04, 0x22, 0x4d, 0x18, 0x60, 0x50, 0xfb},
		newEncoder: func() (encoder, error) {
			compress := lz4BlockCompressor(level)
			return func(dst, _, src []byte) ([]byte, error) {
				// Smaller than the input by a byte at least, or not at all.
				need := 4 + len(src)
				if cap(dst) < need {
					dst = make([]byte, 4+lz4.CompressBlockBound(lz4Block))
				}
				dst = dst[:cap(dst)]
				n, err := compress(src, dst[4:])
				if err != nil {
					return nil, err
				}
				if n == 0 || n >= len(src) {
					binary.LittleEndian.PutUint32(dst, uint32(len(src))|lz4Raw)
					return dst[:4+copy(dst[4:], src)], nil
				}
				binary.LittleEndian.PutUint32(dst, uint32(n))
				return dst[:4+n], nil
			}, nil
		},
		trailer: func(int64) ([]byte, error) { return make([]byte, 4), nil }, // EndMark
	}
}

func lz4BlockCompressor(level int) func(src, dst []byte) (int, error) {
	if level < 3 { // LZ4HC_CLEVEL_MIN, as liblz4 1.9 has it
		return new(lz4.CompressorCCompat).CompressBlock
	}
	// nbSearches of clTable in liblz4's lz4hc.c: 4 at level 3, 256 at level 9.
	high := &lz4.CompressorHC{Level: lz4.CompressionLevel(1 << (level - 1))}
	return high.CompressBlock
}
