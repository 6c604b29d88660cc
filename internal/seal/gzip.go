package seal

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/klauspost/compress/flate"
)

const (
	// gzipBlock gains nothing by being larger: at 1 MiB a table of an
	// application is 0.03 % smaller.
	gzipBlock = 512 << 10
	// gzipBefore is half of deflate's window. The other half would cost one part
	// in fifty of the speed for nothing that can be measured.
	gzipBefore = 16 << 10
	gzipState  = 2 << 20
)

// gzipFormat writes one gzip member. Every block is deflated with the end of the
// preceding one for a dictionary, and ends on a whole byte; so the blocks can be
// strung together, as pigz does.
//
// Levels 1 to 9 are those of klauspost/compress, each about as small as zlib's
// and several times as fast; -1 is 6.
func gzipFormat(level int) format {
	if level < 0 {
		level = 6 // Z_DEFAULT_COMPRESSION
	}
	header := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3} // RFC 1952: deflate, no name, no time, Unix
	switch level {
	case 1:
		header[8] = 4 // XFL: fastest
	case 9:
		header[8] = 2 // XFL: smallest
	}
	sum := uint32(0)
	return format{
		block:  gzipBlock,
		before: gzipBefore,
		state:  gzipState,
		header: header,
		see:    func(src []byte) { sum = crc32.Update(sum, crc32.IEEETable, src) },
		newEncoder: func() (encoder, error) {
			deflate, err := flate.NewWriterDict(nil, level, nil)
			return func(dst, before, src []byte) ([]byte, error) {
				out := bytes.NewBuffer(dst)
				deflate.ResetDict(out, before)
				if _, err := deflate.Write(src); err != nil {
					return nil, err
				}
				if err := deflate.Flush(); err != nil {
					return nil, err
				}
				return out.Bytes(), nil
			}, err
		},
		trailer: func(size int64) ([]byte, error) {
			end := []byte{0x03, 0x00} // the last block, which is empty
			end = binary.LittleEndian.AppendUint32(end, sum)
			return binary.LittleEndian.AppendUint32(end, uint32(size)), nil
		},
	}
}
