package spool

import (
	"context"
	"errors"
	"time"

	"basin/internal/usererr"
	"basin/internal/wal"
)

// file is a segment in the spool, or a history.
type file struct {
	name       string // without .partial
	isHistory  bool
	isComplete bool
	isLeft     bool      // nobody is writing to it
	isThere    bool      // all of it is in the repository
	end        int64     // how much there is of it; of no use if it is complete
	pushed     int64     // how much of that is in the repository as parts, which are of this process
	came       time.Time // when the first came that is not; zero if all is
}

// flushTimeout is how long the repository may take for what a commit waits for, before the stream is
// given up.
const flushTimeout = 30 * time.Second

// errSlow is why a stream ends whose server waits for the repository.
var errSlow = usererr.Hinted("See why the repository is not reached. Nothing is lost: the server holds what was not acknowledged.",
	"the repository did not take the log for %v, which is to be acknowledged only then", flushTimeout)

// Begin starts a segment, or goes on with what is here of it. If the spool is full that is ErrFull.
func (s *Spool) Begin(name string, size int64) (wal.SegmentWriter, error) {
	s.mu.Lock()
	full, failed := s.isFull(), s.failed
	s.mu.Unlock()
	switch {
	case failed != nil:
		return nil, failed
	case full:
		return nil, ErrFull
	}
	// What is pushed meanwhile is read under the lock: a file may be made anew here.
	s.mu.Lock()
	defer s.mu.Unlock()
	w, err := s.Directory.Begin(name, size)
	if err != nil {
		return nil, err
	}
	f := s.find(name)
	if f == nil {
		f = &file{name: name}
		s.queue = append(s.queue, f)
	}
	f.isLeft, f.isComplete, f.isThere = false, false, false
	s.change()
	return &segment{SegmentWriter: w, spool: s, file: f, size: size}, nil
}

// find returns a file of the queue, nil if it is not there. s.mu is held.
func (s *Spool) find(name string) *file {
	for _, f := range s.queue {
		if f.name == name {
			return f
		}
	}
	return nil
}

// History keeps a timeline's history file, and pushes it before the segments that come.
func (s *Spool) History(name string, content []byte) error {
	if err := s.Directory.History(name, content); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.kept[name] {
		s.kept[name] = true
		s.queue = append(s.queue, &file{name: name, isHistory: true, isComplete: true})
		s.change()
	}
	return nil
}

// segment is one that is being received.
type segment struct {
	wal.SegmentWriter // in the spool
	spool             *Spool
	file              *file
	size              int64
	pos               int64
}

// Write takes the bytes that follow.
func (g *segment) Write(p []byte) (int, error) {
	n, err := g.SegmentWriter.Write(p)
	g.pos += int64(n)
	s := g.spool
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.pos > g.file.end {
		g.file.end = g.pos
		if g.file.came.IsZero() {
			g.file.came = time.Now()
			s.change()
		} else if g.file.end-g.file.pushed >= pieceSize {
			s.change()
		}
	}
	if err == nil {
		err = s.failed
	}
	return n, err
}

// Flush makes durable what was written so far: in the spool, and in the repository if it is to be acknowledged only then.
func (g *segment) Flush() error {
	if err := g.SegmentWriter.Flush(); err != nil || !g.spool.o.InRepository || g.pos == g.size { // Finish comes next
		return err
	}
	return g.spool.await(func() bool { return g.file.pushed >= g.pos || g.file.isThere })
}

// Finish makes the segment complete in the spool, and in the repository if it is to be acknowledged only then.
func (g *segment) Finish() error {
	if err := g.SegmentWriter.Finish(); err != nil {
		g.leave()
		return err
	}
	s := g.spool
	s.mu.Lock()
	g.file.isComplete, g.file.isLeft = true, true
	s.change()
	warn := s.warnOfLimit()
	s.mu.Unlock()
	warn()
	if !s.o.InRepository {
		return nil
	}
	return s.await(func() bool { return g.file.isThere })
}

// Abandon leaves the segment as it is in the spool. What came of it is pushed.
func (g *segment) Abandon() error {
	err := g.SegmentWriter.Abandon()
	g.leave()
	return err
}

func (g *segment) leave() {
	g.spool.mu.Lock()
	defer g.spool.mu.Unlock()
	g.file.isLeft = true
	g.spool.change()
}

// await has all be pushed at once, and waits until it is in the repository. holds is called with the lock.
func (s *Spool) await(holds func() bool) error {
	ctx, cancel := context.WithTimeout(s.ctx, flushTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurry = true
	defer func() { s.hurry = false }()
	s.change()
	for !holds() {
		if s.failed != nil {
			return s.failed
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if err := ctx.Err(); err != nil && !holds() {
			if errors.Is(err, context.DeadlineExceeded) {
				return errSlow
			}
			return err
		}
	}
	return nil
}
