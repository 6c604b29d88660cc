package seal

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"basin/internal/usererr"
)

const (
	// zstdMaxWindow is what libzstd takes without being told (ZSTD_WINDOWLOG_LIMIT_DEFAULT).
	zstdMaxWindow = 128 << 20
	readSource    = 64 << 10  // bytes asked of the source at once; decoders ask for a few
	readAhead     = 256 << 10 // bytes of one buffer; large against what it costs to pass it on
	readBuffers   = 3         // one is read from, one is ready, one is filled
)

// NewReader returns a reader of what src holds compressed with a: one stream, or
// several after each other. It reads src and decompresses in a goroutine of its
// own, which the first Read starts and which runs a little ahead.
//
// io.EOF means that the last stream was complete. What is damaged, cut short, or
// not of that method ends in an error that names it; an error of src comes as it
// was. A zstd window of more than 128 MiB is refused.
//
// Close must be called. It waits for a Read of src that is under way, and does
// not close src.
func NewReader(src io.Reader, a Algorithm) (io.ReadCloser, error) {
	switch a {
	case None:
		return io.NopCloser(src), nil
	case Gzip, LZ4, Zstd:
		return &reader{src: source{Reader: src}, algorithm: a, buffers: readBuffers}, nil
	}
	return nil, fmt.Errorf("cannot decompress %v", a)
}

// NewFrameReader is NewReader with zstd frames decompressed side by side, so many at
// once, if they are as small as a Writer's. Memory is up to
// 24 MiB for each, and for two more; 5 MiB with a Writer's frames.
func NewFrameReader(src io.Reader, a Algorithm, atOnce int) (io.ReadCloser, error) {
	r, err := NewReader(src, a)
	if r, ok := r.(*reader); ok && a == Zstd && atOnce > 1 {
		r.atOnce, r.buffers = atOnce, atOnce+2 // one is read from, one is filled with what is compressed
	}
	return r, err
}

// reader passes on, chunk by chunk, what its goroutine decompresses.
type reader struct {
	src       source
	algorithm Algorithm
	buffers   int
	atOnce    int // frames that are decompressed side by side; zero is none

	rest    []byte // of the chunk at hand
	current chunk  // the chunk at hand
	closed  bool

	chunks  chan chan chunk // each yields one
	free    chan []byte
	stop    chan struct{}
	running sync.WaitGroup
}

// chunk is a piece of the decompressed stream; one with an error is the last.
type chunk struct {
	data []byte
	err  error
}

func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fs.ErrClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	if r.chunks == nil {
		r.start()
	}
	for len(r.rest) == 0 {
		if r.current.err != nil {
			return 0, r.current.err
		}
		if r.current.data != nil {
			r.free <- r.current.data
		}
		r.current = <-<-r.chunks
		r.rest = r.current.data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	if r.chunks != nil {
		close(r.stop)
		r.running.Wait()
	}
	r.rest, r.current = nil, chunk{}
	return nil
}

func (r *reader) start() {
	r.chunks = make(chan chan chunk, r.buffers+1) // there is room for every buffer, and an error
	r.free = make(chan []byte, r.buffers)
	r.stop = make(chan struct{})
	for range r.buffers {
		r.free <- make([]byte, readAhead)
	}
	r.running.Go(r.decompress)
}

// decompress sends chunks until the stream ends or the reader is closed.
func (r *reader) decompress() {
	buffered := bufio.NewReaderSize(&r.src, readSource)
	src := io.Reader(buffered)
	if r.atOnce > 0 {
		if src = r.decompressFrames(buffered); src == nil {
			return
		}
	}
	stream, err := decompressor(src, r.algorithm)
	if err != nil {
		r.send(chunk{err: r.explain(err)})
		return
	}
	defer stream.Close()
	for {
		select {
		case <-r.stop:
			return
		case buffer := <-r.free:
			data, err := fill(stream, buffer[:min(cap(buffer), readAhead)])
			if err != nil {
				err = r.explain(err)
			}
			r.send(chunk{data, err})
			if err != nil {
				return
			}
		}
	}
}

// send sends a chunk that is there.
func (r *reader) send(c chunk) {
	sent := make(chan chunk, 1)
	sent <- c
	r.chunks <- sent
}

// fill reads until the buffer is full or the stream ends.
func fill(stream io.Reader, buffer []byte) ([]byte, error) {
	n := 0
	for n < len(buffer) {
		m, err := stream.Read(buffer[n:])
		n += m
		if err != nil {
			return buffer[:n], err
		}
	}
	return buffer, nil
}

// explain returns the error of a reader whose decompressor ended with err.
func (r *reader) explain(err error) error {
	if r.src.err != nil && !errors.Is(r.src.err, io.EOF) {
		return r.src.err
	}
	if errors.Is(err, io.EOF) {
		if r.src.read > 0 {
			return io.EOF
		}
		err = io.ErrUnexpectedEOF
	}
	return r.algorithm.explain(err)
}

// explain words the error of a decompressor, which is not io.EOF.
func (a Algorithm) explain(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return usererr.Hinted("the data is cut short", "decompress %v data: %w", a, io.ErrUnexpectedEOF)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return usererr.Hinted("compress again with a lower level or a smaller long-distance window",
			"decompress %v data: its window is larger than %d MiB", a, zstdMaxWindow>>20)
	}
	return fmt.Errorf("decompress %v data: %w", a, err)
}

// source remembers how reading ended, to tell its errors from damage.
type source struct {
	io.Reader
	read int64
	err  error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	s.read += int64(n)
	if err != nil {
		s.err = err
	}
	return n, err
}

// decompressor returns the decoder of a. None of them starts a goroutine.
func decompressor(src io.Reader, a Algorithm) (io.ReadCloser, error) {
	switch a {
	case Gzip:
		return gzip.NewReader(src)
	case LZ4:
		return io.NopCloser(lz4.NewReader(src)), nil
	}
	stream, err := zstd.NewReader(src,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(zstdMaxWindow),
		zstd.WithDecodeBuffersBelow(0))
	if err != nil {
		return nil, err
	}
	return stream.IOReadCloser(), nil
}
