package verify

import (
	"context"
	"errors"
	"sync"
)

// readSize is how many bytes of a file are read at once, by each reader. They are to be
// in the processor's cache still when their checksum is computed.
const readSize = 256 << 10

// work is a piece of work, and what it found is told by what it returns, which may be
// nil. It has a buffer of readSize bytes to itself meanwhile.
type work func(buf []byte) (tell func() error)

// errEnded is what tells that nothing that follows is to be looked at.
var errEnded = errors.New("ended")

// queue has work done side by side, and what was found told in the order of the work.
type queue struct {
	ctx  context.Context
	next func() work // returns nil at the end; is called by one at a time

	mu    sync.Mutex
	taken int                  // pieces of work
	told  int                  // of them
	ended map[int]func() error // those that ended before one that was taken earlier
	err   error                // why no more is to be done
}

// inOrder has done what next returns, by so many workers. The first error of telling ends
// it, which is no error if it is errEnded; so does the end of ctx.
func inOrder(ctx context.Context, workers int, next func() work) error {
	q := &queue{ctx: ctx, next: next, ended: make(map[int]func() error)}
	var working sync.WaitGroup
	for range workers {
		working.Go(q.work)
	}
	working.Wait()
	switch {
	case q.err == nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(q.err, errEnded):
		return nil
	}
	return q.err
}

func (q *queue) work() {
	buf := make([]byte, readSize)
	for n, do := q.take(); do != nil; n, do = q.take() {
		q.give(n, do(buf))
	}
}

// take returns the next piece of work and its number, nil if there is none.
func (q *queue) take() (n int, do work) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil || q.ctx.Err() != nil {
		return 0, nil
	}
	n, q.taken = q.taken, q.taken+1
	return n, q.next()
}

// give takes what a piece of work found, and tells of those that come next. What was
// found until the end of the context is not all, and is not told.
func (q *queue) give(n int, tell func() error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended[n] = tell
	for q.err == nil && q.ctx.Err() == nil {
		tell, ok := q.ended[q.told]
		if !ok {
			return
		}
		delete(q.ended, q.told)
		q.told++
		if tell != nil {
			q.err = tell()
		}
	}
}
