package backup

import (
	"context"
	"errors"
	"io"
	"sync"

	"basin/internal/wal"
)

// aheadBytes is how much of a file is read at once, in bytes. Twice as much is in memory before it is asked for.
const aheadBytes = 1 << 20

// errClosed is a file that is read no more.
var errClosed = errors.New("the file is closed")

// WithReadAhead returns src with files that are Apart read before they are asked for, so many side by side: where each read
// takes long, as from a store far away. src is read from another goroutine, until Close.
func WithReadAhead(src Source, files int) Source {
	return &aheadSource{Source: src, queue: make(chan aheadMember, files)}
}

// aheadSource is a source that is read ahead.
type aheadSource struct {
	Source
	queue   chan aheadMember
	cancel  context.CancelFunc // nil before the first Next
	asking  sync.WaitGroup     // for members
	reading sync.WaitGroup     // files
	taken   chan struct{}      // is closed when the member in hand is not used any more; nil if nobody waits for that
}

// aheadMember is what Next has returned.
type aheadMember struct {
	m     Member
	r     io.Reader
	err   error
	taken chan struct{}
}

// Next returns the next member.
func (s *aheadSource) Next(ctx context.Context) (Member, io.Reader, error) {
	if s.cancel == nil {
		var working context.Context
		working, s.cancel = context.WithCancel(ctx)
		s.asking.Go(func() { s.read(working) })
	}
	if s.taken != nil {
		close(s.taken)
		s.taken = nil
	}
	select {
	case a := <-s.queue:
		s.taken = a.taken
		return a.m, a.r, a.err
	case <-ctx.Done():
		return Member{}, nil, context.Cause(ctx)
	}
}

// read reads the source up to its end.
func (s *aheadSource) read(ctx context.Context) {
	for {
		a := aheadMember{}
		a.m, a.r, a.err = s.Source.Next(ctx)
		switch {
		case a.err == nil && a.r != nil && a.m.Apart:
			f := &aheadFile{r: a.r, chunks: make(chan aheadChunk, 1), closed: make(chan struct{})}
			size := int64(aheadBytes)
			if a.m.Size >= 0 {
				size = min(size, a.m.Size+1) // one more, so that the end is found
			}
			s.reading.Go(func() { f.fill(int(size)) })
			a.r = f
		case a.err == nil && a.r != nil:
			a.taken = make(chan struct{})
		}
		select {
		case s.queue <- a:
		case <-ctx.Done():
			if f, ok := a.r.(*aheadFile); ok {
				_ = f.Close() // nobody has got it
			}
			return
		}
		if a.err != nil {
			return
		}
		if a.taken != nil { // what it has is valid up to the next Next
			select {
			case <-a.taken:
			case <-ctx.Done():
				return
			}
		}
	}
}

// End returns where the backup ends.
func (s *aheadSource) End(ctx context.Context) (wal.Position, error) { return s.Source.End(ctx) }

// Close ends the source.
func (s *aheadSource) Close() error {
	if s.cancel != nil {
		s.cancel()
	}
	s.asking.Wait() // it may put one more into the queue
	for {
		select {
		case a := <-s.queue:
			if f, ok := a.r.(*aheadFile); ok {
				_ = f.Close() // nobody has got it
			}
			continue
		default:
		}
		break
	}
	s.reading.Wait()
	return s.Source.Close()
}

// aheadFile is a file that is read ahead.
type aheadFile struct {
	r      io.Reader
	chunks chan aheadChunk
	closed chan struct{}
	rest   []byte
	err    error // behind rest
	once   sync.Once
}

// aheadChunk is bytes of a file, and how it ends behind them.
type aheadChunk struct {
	p   []byte
	err error
}

// fill reads the file, so many bytes at once, up to its end, and closes it.
func (f *aheadFile) fill(size int) {
	if c, ok := f.r.(io.Closer); ok {
		defer c.Close() // it was only read
	}
	for {
		p := make([]byte, size)
		n, err := io.ReadFull(f.r, p)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		select {
		case f.chunks <- aheadChunk{p[:n], err}:
		case <-f.closed:
			return
		}
		if err != nil {
			return
		}
	}
}

// Read reads what follows.
func (f *aheadFile) Read(p []byte) (int, error) {
	for len(f.rest) == 0 {
		if f.err != nil {
			return 0, f.err
		}
		select {
		case c := <-f.chunks:
			f.rest, f.err = c.p, c.err
		case <-f.closed:
			return 0, errClosed
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// Close ends the reading. What is being read comes to its end first.
func (f *aheadFile) Close() error {
	f.once.Do(func() { close(f.closed) })
	return nil
}
