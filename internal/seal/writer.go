package seal

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"
)

// memoryLimit bounds, in bytes, what one writer holds unless it was told otherwise,
// however many processors there are. The collector may let the heap grow to twice of
// it, and a whole program that compresses is to stay below 192 MiB.
const memoryLimit = 64 << 20

// spareBlocks are the blocks beside those being compressed: one is filled while
// another is written.
const spareBlocks = 2

// NewWriter returns a writer that compresses what it is given as spec says, and
// writes it to dst. Close finishes the stream and must be called, after an error
// too; it does not close dst.
//
// Blocks are compressed side by side, on as many processors as there are or as
// spec allows workers, and dst is written from one goroutine of the writer's own
// until Close returns. An error of dst comes from a later Write or from Close,
// as it was. What was not written for an error is lost.
//
// Levels have PostgreSQL's numbers, but not always its results. With gzip they
// are about as small as zlib's. With lz4, 0 to 2 are the same, higher ones 5 to
// 7 % larger. With zstd there are four: to 2, to 5, to 9 and above. Long looks 32
// MiB back (from level 10 on 16 MiB), at level 6 at least, and uses one processor.
func NewWriter(dst io.Writer, spec Spec) (io.WriteCloser, error) {
	return NewWriterWithin(dst, spec, memoryLimit)
}

// NewWriterWithin is NewWriter with another limit than 64 MiB on the memory, in
// bytes, that the writer holds: with less of it there are fewer workers, down to one,
// and zstd's frames and long window are smaller. What one worker needs it gets; with
// zstd's levels from 10 on that is 38 MiB, of tables, and at most 5 MiB otherwise.
func NewWriterWithin(dst io.Writer, spec Spec, memory int) (io.WriteCloser, error) {
	if !spec.LevelSet {
		spec.Level = defaultLevel(spec.Algorithm)
	}
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("invalid compression specification: %w", err)
	}
	processors := runtime.GOMAXPROCS(0)
	switch spec.Algorithm {
	case None:
		return plainWriter{dst}, nil
	case Gzip:
		f := gzipFormat(spec.Level)
		return newBlockWriter(dst, f, f.workersWithin(processors, memory)), nil
	case LZ4:
		f := lz4Format(spec.Level)
		return newBlockWriter(dst, f, f.workersWithin(processors, memory)), nil
	case Zstd:
		if spec.Long {
			return newBlockWriter(dst, zstdLongFormat(spec.Level, memory), 1), nil
		}
		workers := processors
		if spec.WorkersSet {
			workers = max(1, min(workers, spec.Workers))
		}
		f := zstdFormat(spec.Level, workers, memory)
		return newBlockWriter(dst, f, f.workersWithin(workers, memory)), nil
	}
	return nil, fmt.Errorf("cannot compress with %v", spec.Algorithm)
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// format is one way to make a stream of blocks that are compressed apart.
type format struct {
	block      int // bytes of input in a block
	before     int // bytes of the preceding block that an encoder is shown
	state      int // bytes an encoder holds, about, beside blocks
	header     []byte
	see        func(src []byte)                 // is shown the input in order; may be nil
	newEncoder func() (encoder, error)          // is called once for every worker, by it
	trailer    func(size int64) ([]byte, error) // is called last, with the bytes of input
}

// encoder appends a block's compressed form to dst.
type encoder func(dst, before, src []byte) ([]byte, error)

// holds returns how many bytes a writer with that many workers holds, about.
func (f format) holds(workers int) int {
	return workers*(2*f.block+f.state) + spareBlocks*2*f.block
}

// workersWithin returns how many workers, at most n, keep to a limit on memory in
// bytes. Within the usual one two are always had, though with zstd's highest levels
// they hold 73 MiB.
func (f format) workersWithin(n, memory int) int {
	least := 1
	if memory >= memoryLimit {
		least = 2
	}
	for n > least && f.holds(n) > memory {
		n--
	}
	return n
}

// blockWriter has its input compressed by workers and writes the results in order.
//
// A block goes round: from free to Write, which fills it; to a worker through
// todo and, at the same moment, to the goroutine that writes through inOrder;
// when both are done with it, back to free. The channels have room for every
// block, so only taking one from free ever waits, and after an error the blocks
// go on round, but nothing is done with them.
type blockWriter struct {
	dst     io.Writer
	format  format
	workers int

	filling *block // nil if Write has none
	last    *block // the one filled before, for the end of it
	made    int    // blocks in existence
	working int    // workers in existence
	size    int64  // bytes of input
	stopped bool
	closed  bool

	free, todo, inOrder chan *block

	running sync.WaitGroup
	failure atomic.Pointer[error]
	begun   bool // the header was written; belongs to the goroutine that writes while it runs
}

type block struct {
	room   []byte // before and src lie in it
	before int    // bytes of room that are the end of the preceding block
	src    []byte // is filled up to its capacity
	out    []byte
	err    error
	done   chan struct{}
}

func newBlockWriter(dst io.Writer, f format, workers int) *blockWriter {
	blocks := workers + spareBlocks
	return &blockWriter{
		dst:     dst,
		format:  f,
		workers: workers,
		free:    make(chan *block, blocks),
		todo:    make(chan *block, blocks),
		inOrder: make(chan *block, blocks),
	}
}

// Write keeps no part of p.
func (w *blockWriter) Write(p []byte) (int, error) {
	if w.closed {
		return 0, fs.ErrClosed
	}
	written := 0
	for {
		if err := w.err(); err != nil {
			w.stop()
			return written, err
		}
		if len(p) == 0 {
			return written, nil
		}
		if w.filling == nil {
			w.filling = w.take()
		}
		b := w.filling
		n := copy(b.src[len(b.src):cap(b.src)], p)
		b.src = b.src[:len(b.src)+n]
		p, written = p[n:], written+n
		if len(b.src) == cap(b.src) {
			w.send()
		}
	}
}

// Close finishes the stream. A second call returns what the first did.
func (w *blockWriter) Close() error {
	if w.closed {
		return w.err()
	}
	w.closed = true
	if w.filling != nil && !w.stopped {
		w.send()
	}
	w.stop()
	if w.err() != nil {
		return w.err()
	}
	trailer, err := w.format.trailer(w.size)
	if err != nil {
		w.fail(err)
		return err
	}
	w.write(trailer)
	return w.err()
}

// take returns an empty block, and waits for one if all are on their way.
func (w *blockWriter) take() *block {
	var b *block
	select {
	case b = <-w.free:
	default:
		if w.made < cap(w.free) {
			w.made++
			b = &block{room: make([]byte, w.format.before+w.format.block), done: make(chan struct{}, 1)}
		} else {
			b = <-w.free
		}
	}
	b.before = 0
	if w.last != nil && w.format.before > 0 {
		// Nobody writes to a block between send and take, and should the last
		// one be this one, its end is moved to the front.
		end := w.last.src
		b.before = copy(b.room, end[max(0, len(end)-w.format.before):])
	}
	b.src = b.room[b.before : b.before : b.before+w.format.block]
	return b
}

// send hands the block that was filled to the workers.
func (w *blockWriter) send() {
	b := w.filling
	w.filling, w.last = nil, b
	w.size += int64(len(b.src))
	if w.format.see != nil {
		w.format.see(b.src)
	}
	if w.working == 0 {
		w.running.Go(w.writeInOrder)
	}
	if w.working < w.workers {
		w.working++
		w.running.Go(w.compress)
	}
	w.todo <- b
	w.inOrder <- b
}

// stop waits until all that was sent is written, or dropped for an error.
func (w *blockWriter) stop() {
	if w.stopped {
		return
	}
	w.stopped = true
	close(w.todo)
	close(w.inOrder)
	w.running.Wait()
	w.filling, w.last = nil, nil
}

func (w *blockWriter) compress() {
	encode, err := w.format.newEncoder()
	for b := range w.todo {
		if b.err = err; err == nil && w.err() == nil {
			b.out, b.err = encode(b.out[:0], b.room[:b.before], b.src)
		}
		b.done <- struct{}{}
	}
}

func (w *blockWriter) writeInOrder() {
	for b := range w.inOrder {
		<-b.done
		if b.err != nil {
			w.fail(b.err)
		}
		if w.err() == nil {
			w.write(b.out)
		}
		w.free <- b
	}
}

// write writes p, and before the first time the header.
func (w *blockWriter) write(p []byte) {
	if !w.begun {
		w.begun = true
		w.write(w.format.header)
	}
	if len(p) == 0 || w.err() != nil {
		return
	}
	n, err := w.dst.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.fail(err)
	}
}

// fail keeps the first error.
func (w *blockWriter) fail(err error) { w.failure.CompareAndSwap(nil, &err) }

func (w *blockWriter) err() error {
	if err := w.failure.Load(); err != nil {
		return *err
	}
	return nil
}
