package seal

import (
	"bytes"

	"github.com/klauspost/compress/zstd"
)

const (
	// zstdBlock is the most one frame holds. Larger ones are no smaller and
	// hardly faster, as the window of these levels is.
	zstdBlock = 4 << 20
	// zstdLeastBlock costs 0.4 % of a table's size.
	zstdLeastBlock = 256 << 10
	// zstdLongWindow is a fourth of libzstd's in its long-distance mode, and held
	// twice while compressing.
	zstdLongWindow      = 32 << 20
	zstdLeastLongWindow = 1 << 20
	zstdLongBlock       = 1 << 20
)

// zstdFormat writes a stream of independent zstd frames without checksums, which
// PostgreSQL does not ask for either. With many workers for the memory, in bytes, the
// frames are smaller.
//
// There are four levels: below 3 the fastest, 3 to 5 what libzstd has at 3, 6 to
// 9 about its 7, and from 10 on its 11. Zero is 3, as it is to libzstd.
func zstdFormat(level, workers, memory int) format {
	f := format{block: zstdBlock}
	f.state = zstdTables(level) + f.block + 1<<20 // the encoder keeps a copy of its input
	for f.block > zstdLeastBlock && f.holds(workers) > memory {
		f.block /= 2
		f.state = zstdTables(level) + f.block + 1<<20
	}
	f.newEncoder = func() (encoder, error) {
		frames, err := newZstdEncoder(nil, level, f.block)
		return func(dst, _, src []byte) ([]byte, error) {
			return frames.EncodeAll(src, dst), nil
		}, err
	}
	f.trailer = func(size int64) ([]byte, error) {
		if size > 0 {
			return nil, nil
		}
		// A stream without a frame would be no zstd stream: one frame of a
		// single segment, of no byte, with one raw block, the last, of no byte.
		return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 0x01, 0, 0}, nil
	}
	return f
}

// zstdLongFormat writes one frame with a large window, and no blocks side by
// side, as each needs those before it. The lower levels would not find what is
// far away: a level below 6 is 6. From 10 on the window is half as large, for
// the memory that these levels need themselves. With less memory, in bytes, than is
// usual it is smaller still.
func zstdLongFormat(level, memory int) format {
	level = max(level, 6)
	window := zstdLongWindow
	if zstdLevel(level) == zstd.SpeedBestCompression {
		window /= 2
	}
	for memory < memoryLimit && window > zstdLeastLongWindow && zstdTables(level)+2*window+6*zstdLongBlock > memory {
		window /= 2
	}
	var out bytes.Buffer
	var stream *zstd.Encoder
	start := func() (err error) {
		if stream == nil {
			stream, err = newZstdEncoder(&out, level, window)
		}
		return err
	}
	return format{
		block: zstdLongBlock,
		state: zstdTables(level) + 2*window,
		newEncoder: func() (encoder, error) {
			return func(dst, _, src []byte) ([]byte, error) {
				out.Reset()
				if _, err := stream.Write(src); err != nil {
					return nil, err
				}
				return append(dst, out.Bytes()...), nil
			}, start()
		},
		trailer: func(int64) ([]byte, error) {
			if err := start(); err != nil {
				return nil, err
			}
			out.Reset()
			err := stream.Close()
			return out.Bytes(), err
		},
	}
}

// newZstdEncoder returns an encoder without goroutines. Its dst may be nil if it
// is used for whole frames.
func newZstdEncoder(dst *bytes.Buffer, level, window int) (*zstd.Encoder, error) {
	options := []zstd.EOption{
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), // ZSTD_c_checksumFlag is 0 in PostgreSQL
		zstd.WithEncoderLevel(zstdLevel(level)),
		zstd.WithWindowSize(window),
		zstd.WithZeroFrames(true),
	}
	if dst == nil {
		// The history need hold only one frame. In a stream it would be moved
		// after every megabyte.
		return zstd.NewWriter(nil, append(options, zstd.WithLowerEncoderMem(true))...)
	}
	return zstd.NewWriter(dst, options...)
}

func zstdLevel(level int) zstd.EncoderLevel {
	if level == 0 {
		level = defaultLevel(Zstd)
	}
	return zstd.EncoderLevelFromZstd(level)
}

// zstdTables returns the bytes that an encoder's hash tables take, about.
func zstdTables(level int) int {
	switch zstdLevel(level) {
	case zstd.SpeedFastest:
		return 1 << 20
	case zstd.SpeedDefault:
		return 2 << 20
	case zstd.SpeedBetterCompression:
		return 5 << 20
	}
	return 34 << 20
}
