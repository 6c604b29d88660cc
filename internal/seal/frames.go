package seal

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

const (
	// frameMost is how many bytes a frame has at most that is decompressed beside others.
	frameMost = 8 << 20
	// frameSlack is what the decoder wants behind what it writes, to be fast.
	frameSlack = 64
)

// decompressFrames sends what zstd frames hold as long as each tells how much that is, and
// it is not much. It returns a reader of the rest, which any other frame begins, damage
// or the end; nil if the reader was closed.
func (r *reader) decompressFrames(src *bufio.Reader) io.Reader {
	// It has no goroutine, and nothing to be closed for.
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(r.atOnce), zstd.WithDecoderMaxWindow(zstdMaxWindow))
	if err != nil {
		return src
	}
	used := make(chan []byte, r.buffers+1) // to be filled with frames again
	for {
		var packed []byte
		select {
		case packed = <-used:
		default:
		}
		packed, size, ok := readFrame(src, packed[:0])
		if !ok {
			return io.MultiReader(bytes.NewReader(packed), src)
		}
		select {
		case <-r.stop:
			return nil
		case buffer := <-r.free:
			if cap(buffer) < size+frameSlack {
				buffer = make([]byte, 0, size+frameSlack)
			}
			sent := make(chan chunk, 1)
			r.running.Go(func() {
				data, err := decoder.DecodeAll(packed, buffer[:0])
				if err != nil {
					data, err = decompressDamaged(packed, buffer)
				}
				used <- packed
				sent <- chunk{data, err}
			})
			r.chunks <- sent
		}
	}
}

// decompressDamaged returns of a damaged frame what comes before the damage, and the
// error that there is without other frames beside it.
func decompressDamaged(packed, buffer []byte) ([]byte, error) {
	stream, err := decompressor(bytes.NewReader(packed), Zstd)
	if err != nil {
		return nil, Zstd.explain(err)
	}
	defer stream.Close()
	data, err := fill(stream, buffer[:cap(buffer)])
	if errors.Is(err, io.EOF) {
		return data, nil
	}
	return data, Zstd.explain(err)
}

// readFrame reads a zstd frame that holds size bytes, into a slice. If it is none that
// can be decompressed beside others, or not all of it is there, ok is false, and packed
// is what was taken of src.
//
// Source: RFC 8878, 3.1.1.
func readFrame(src *bufio.Reader, into []byte) (packed []byte, size int, ok bool) {
	packed = into
	read := func(n int) bool {
		packed = slices.Grow(packed, n)
		got, err := io.ReadFull(src, packed[len(packed):len(packed)+n])
		packed = packed[:len(packed)+got]
		return err == nil
	}
	var header zstd.Header
	begin, _ := src.Peek(zstd.HeaderMaxSize) // the last frame may be shorter
	err := header.Decode(begin)
	if err != nil || !header.HasFCS || header.FrameContentSize > frameMost || header.DictionaryID != 0 || !read(header.HeaderSize) {
		return packed, 0, false
	}
	size = int(header.FrameContentSize)
	for last := false; !last; {
		if !read(3) {
			return packed, 0, false
		}
		block := packed[len(packed)-3:]
		n := int(block[0])>>3 | int(block[1])<<5 | int(block[2])<<13
		if kind := block[0] >> 1 & 3; kind == 1 { // RLE: one byte stands for all
			n = 1
		}
		last = block[0]&1 != 0
		if n > frameMost || len(packed)+n > 2*frameMost || !read(n) { // that is no frame
			return packed, 0, false
		}
	}
	if header.HasCheckSum && !read(4) {
		return packed, 0, false
	}
	return packed, size, true
}
