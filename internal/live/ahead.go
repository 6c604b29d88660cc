package live

import (
	"context"
	"io"
	"sync"

	"basin/internal/backup"
)

const (
	defaultAhead   = 8 << 20 // bytes
	defaultWorkers = 2
	// filesAhead is how many members are found before they are wanted, beside those that are
	// in memory.
	filesAhead = 64
)

// ahead reads files before they are wanted, in the order in which they will be: one goroutine
// finds and opens them, several others read, check and digest their chunks. A chunk is handed
// out as it lies in memory, and then used again.
type ahead struct {
	cancel context.CancelFunc
	events chan event
	free   chan []byte // buffers; one that is nil is yet to be made
	work   sync.WaitGroup

	current *file // which is handed out
	at      int64 // how far
	chunk   *chunk
}

// event is a member, a chunk of the file that came last, a notice, or an error.
type event struct {
	member backup.Member
	file   *file
	chunk  *chunk
	notice *Notice
	err    error
}

// readAhead begins to read what a walker finds.
func (s *Source) readAhead() *ahead {
	ctx, cancel := context.WithCancel(context.Background())
	buffers := max(1, (positive(s.o.Ahead, defaultAhead)+chunkSize-1)/chunkSize)
	a := &ahead{
		cancel: cancel,
		events: make(chan event, buffers+filesAhead),
		free:   make(chan []byte, buffers),
	}
	for range buffers {
		a.free <- nil
	}
	tasks := make(chan *chunk, buffers) // as many as there are buffers: to send to it never waits
	for range positive(s.o.Workers, defaultWorkers) {
		a.work.Go(func() {
			for c := range tasks {
				if ctx.Err() == nil {
					c.err = c.file.fill(c)
				}
				c.file.settle(c)
			}
		})
	}
	a.work.Go(func() {
		defer close(a.events)
		defer close(tasks)
		a.find(ctx, s, tasks)
	})
	return a
}

// positive returns n, or what to take if that is not above zero.
func positive(n, otherwise int) int {
	if n > 0 {
		return n
	}
	return otherwise
}

// find opens files and has their chunks read.
func (a *ahead) find(ctx context.Context, s *Source, tasks chan<- *chunk) {
	w := s.newWalker(func(n Notice) { a.send(ctx, event{notice: &n}) })
	defer w.close()
	for {
		m, f, err := w.next(ctx)
		if err == io.EOF {
			return
		}
		if err != nil {
			a.send(ctx, event{err: err})
			return
		}
		if !a.send(ctx, event{member: m, file: f}) {
			if f != nil {
				_ = f.Close() // was only read
			}
			return
		}
		if f == nil {
			continue
		}
		for at := int64(0); at < m.Size; at += chunkSize {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-ctx.Done():
				return
			}
			if buf == nil {
				buf = make([]byte, chunkSize)
			}
			c := &chunk{file: f, at: at, data: buf[:min(chunkSize, m.Size-at)], done: make(chan struct{})}
			tasks <- c
			if !a.send(ctx, event{chunk: c}) {
				return
			}
		}
	}
}

// send returns false if nobody wants it any more.
func (a *ahead) send(ctx context.Context, e event) bool {
	select {
	case a.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// next returns the next member, after what is left of the one before, and io.EOF after the
// last.
func (a *ahead) next(ctx context.Context, s *Source) (backup.Member, io.Reader, error) {
	if err := a.skip(ctx); err != nil {
		return backup.Member{}, nil, err
	}
	for {
		e, err := a.receive(ctx)
		switch {
		case err != nil:
			return backup.Member{}, nil, err
		case e.notice != nil:
			s.mu.Lock()
			s.o.notify(*e.notice)
			s.mu.Unlock()
		case e.file == nil:
			return e.member, nil, nil
		default:
			a.current, a.at = e.file, 0
			r := &reader{next: func() ([]byte, error) { return a.piece(ctx) }}
			r.close = func() error { return nil } // it is read to its end by what comes next
			return e.member, r, nil
		}
	}
}

// receive returns what comes next, and io.EOF after the last.
func (a *ahead) receive(ctx context.Context) (event, error) {
	select {
	case e, ok := <-a.events:
		if !ok {
			return e, io.EOF
		}
		return e, e.err
	case <-ctx.Done():
		return event{}, context.Cause(ctx)
	}
}

// skip passes over what is left of the file that was handed out.
func (a *ahead) skip(ctx context.Context) error {
	for a.current != nil {
		if _, err := a.piece(ctx); err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// piece returns the next chunk of the file that is handed out, valid until the next call.
func (a *ahead) piece(ctx context.Context) ([]byte, error) {
	a.release()
	f := a.current
	if f == nil {
		return nil, io.EOF
	}
	if a.at == f.member.Size {
		a.current = nil
		err := f.finish()
		if closed := f.Close(); err == nil {
			err = closed
		}
		if err == nil {
			err = io.EOF
		}
		return nil, err
	}
	e, err := a.receive(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.chunk.done:
	case <-ctx.Done():
		a.chunk = e.chunk // is given back once it is read
		return nil, context.Cause(ctx)
	}
	a.chunk = e.chunk
	if e.chunk.err != nil {
		return nil, e.chunk.err
	}
	a.at += int64(len(e.chunk.data))
	return e.chunk.data, nil
}

// release gives the buffer of the chunk back that was handed out last.
func (a *ahead) release() {
	if a.chunk == nil {
		return
	}
	<-a.chunk.done
	a.free <- a.chunk.data[:chunkSize]
	a.chunk = nil
}

// close stops the reading, and closes what is open.
func (a *ahead) close() {
	a.cancel()
	a.work.Wait()
	if a.current != nil {
		_ = a.current.Close() // was only read
	}
	for e := range a.events {
		if e.file != nil {
			_ = e.file.Close() // was only read
		}
	}
}
