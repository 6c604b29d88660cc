package backup

import (
	"context"
	"io"

	"golang.org/x/time/rate"
)

// WithRate returns src with files that are read at so many bytes a second together.
func WithRate(src Source, perSecond int64) Source {
	return &paced{Source: src, limiter: NewLimiter(perSecond)}
}

// NewLimiter returns what lets so many bytes a second go, in portions of an eighth of that
// or of 4 KiB.
//
// Source: THROTTLING_FREQUENCY in src/backend/backup/basebackup_throttle.c, PostgreSQL 18.
func NewLimiter(perSecond int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perSecond), int(max(perSecond/8, 4<<10)))
}

// Wait waits until a limiter lets n bytes go, in as many portions as that takes.
func Wait(ctx context.Context, l *rate.Limiter, n int) error {
	for n > 0 {
		part := min(n, l.Burst())
		if err := l.WaitN(ctx, part); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		n -= part
	}
	return nil
}

// paced is a source whose files are held back.
type paced struct {
	Source
	limiter *rate.Limiter
}

// Next returns the next member.
func (p *paced) Next(ctx context.Context) (Member, io.Reader, error) {
	m, r, err := p.Source.Next(ctx)
	if r != nil {
		r = &pacedReader{ctx: ctx, reader: r, limiter: p.limiter}
	}
	return m, r, err
}

// pacedReader reads no faster than it may.
type pacedReader struct {
	ctx     context.Context
	reader  io.Reader
	limiter *rate.Limiter
}

func (r *pacedReader) Read(b []byte) (int, error) {
	n, err := r.reader.Read(b[:min(len(b), r.limiter.Burst())])
	if waited := Wait(r.ctx, r.limiter, n); waited != nil {
		return n, waited
	}
	return n, err
}

// Close closes the reader of a member that is Apart.
func (r *pacedReader) Close() error {
	if c, ok := r.reader.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
