package live

import (
	"context"
	"io"
	"sync"
)

// reader hands out the bytes of a file in pieces, as they lie in memory. It is an
// io.Reader, an io.WriterTo, and what backup.Pieces asks for.
type reader struct {
	// next returns the bytes that follow, which are valid until the next call, and io.EOF
	// once all were digested.
	next  func() ([]byte, error)
	close func() error

	rest []byte
	err  error // of next
}

// Piece returns between one and limit of the next bytes, valid until the next call.
func (r *reader) Piece(limit int) ([]byte, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return nil, r.err
		}
		r.rest, r.err = r.next()
	}
	piece := r.rest[:min(len(r.rest), limit)]
	r.rest = r.rest[len(piece):]
	return piece, nil
}

// Read reads the bytes that follow.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	piece, err := r.Piece(len(p))
	return copy(p, piece), err
}

// WriteTo writes the rest to w.
func (r *reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		piece, err := r.Piece(chunkSize)
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(piece)
		if written += int64(n); err != nil {
			return written, err
		}
	}
}

// Close lets go of the file.
func (r *reader) Close() error { return r.close() }

var chunkPool = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

// direct returns a reader that reads a file by itself, with memory of its own. closed is
// called with the first Close.
func (f *file) direct(ctx context.Context, closed func()) *reader {
	buf := chunkPool.Get().(*[]byte)
	at := int64(0)
	next := func() ([]byte, error) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if at == f.member.Size {
			if err := f.finish(); err != nil {
				return nil, err
			}
			return nil, io.EOF
		}
		c := &chunk{file: f, at: at, data: (*buf)[:min(chunkSize, f.member.Size-at)]}
		if c.err = f.fill(c); c.err != nil {
			return nil, c.err
		}
		f.settle(c)
		at += int64(len(c.data))
		return c.data, nil
	}
	var once sync.Once
	return &reader{next: next, close: func() (err error) {
		once.Do(func() {
			if at == f.member.Size { // whoever reads as many bytes as there are need not ask for the end
				err = f.finish()
			}
			if other := f.Close(); err == nil {
				err = other
			}
			chunkPool.Put(buf)
			closed()
		})
		return err
	}}
}
