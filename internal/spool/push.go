package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"basin/internal/repo"
	"basin/internal/usererr"
)

const (
	// pieceSize is how many bytes of a segment go up at once as a part of it, and pieceTime how long
	// it is waited for them.
	pieceSize = 1 << 20
	pieceTime = time.Second

	longestPause = 15 * time.Second
	pushTimeout  = 10 * time.Minute // of a call of the repository
	tellAgain    = time.Minute      // that it is still not reached
)

// push pushes what there is to push, in the order of the stream, until s.ctx ends.
func (s *Spool) push() {
	defer close(s.pushed)
	pause, told := s.o.Pause, time.Time{}
	for {
		f := s.work()
		if f == nil {
			return
		}
		err := s.pushFile(f)
		if s.ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		wasSince := s.since
		switch {
		case err == nil:
			s.since = time.Time{}
		case errors.Is(err, fs.ErrExist):
			err = usererr.Hinted("Another server has written this log into the repository: is this one a copy of it, or was it restored to an earlier state? Nothing was overwritten, and what was received is in the spool. Receive it under another --cluster, or remove what is wrong.", "%w", err)
			s.failed = err
		case errors.As(err, new(*repo.NotLogError)), errors.As(err, new(*localError)):
			err = usererr.Hinted("Is its disk in order? What the server acknowledged by it is to be got from there again, or is lost: look at the file. If it is of no use move it away, start the receiver again, and take a new backup.",
				"what is in the spool cannot be pushed, and nothing behind it is: %w", err)
			s.failed = err
		case s.since.IsZero():
			s.since = time.Now()
		}
		failed := s.failed
		s.change()
		s.mu.Unlock()
		switch {
		case err == nil:
			if !wasSince.IsZero() {
				s.warn(fmt.Errorf("the repository takes the log again, after %v", time.Since(wasSince).Round(time.Second)))
			}
			pause, told = s.o.Pause, time.Time{}
			continue
		case failed != nil:
			s.warn(err)
			return
		case time.Since(told) >= tellAgain:
			s.warn(fmt.Errorf("log has to wait in the spool: %w", err))
			told = time.Now()
		}
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return
		}
		pause = min(2*pause, longestPause)
	}
}

// work waits for a file of which something is to be pushed, and returns nil if nothing is any more.
func (s *Spool) work() *file {
	for {
		s.mu.Lock()
		f, at := s.next(time.Now())
		changed := s.changed
		s.mu.Unlock()
		if f != nil && s.ctx.Err() == nil {
			return f
		}
		var due <-chan time.Time
		if !at.IsZero() {
			due = time.After(time.Until(at))
		}
		select {
		case <-changed:
		case <-due:
		case <-s.ctx.Done():
			return nil
		}
	}
}

// next returns the first file of which something is to be pushed at a time, or when there is one. s.mu is held.
func (s *Spool) next(now time.Time) (f *file, at time.Time) {
	for _, f := range s.queue {
		switch {
		case f.isThere:
		case f.isComplete:
			return f, at
		case f.end <= f.pushed:
		case f.isLeft || s.hurry || f.end-f.pushed >= pieceSize || now.Sub(f.came) >= pieceTime:
			return f, at
		default:
			at = f.came.Add(pieceTime)
		}
	}
	return nil, at
}

// pushFile pushes what there is of a file, and removes what need not be here any more.
func (s *Spool) pushFile(f *file) error {
	ctx, cancel := context.WithTimeout(s.ctx, pushTimeout)
	defer cancel()
	cluster, err := s.open(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	from, end, isWhole := f.pushed, f.end, f.isComplete
	var content []byte
	if isWhole {
		s.mu.Unlock() // it does not change any more
		content, err = os.ReadFile(filepath.Join(s.o.Directory.Path, f.name))
	} else {
		content, err = s.readPart(f.name, from, end)
		s.mu.Unlock()
	}
	if err != nil && !passes(err) {
		err = &localError{err}
	}
	if err != nil {
		return err
	}
	name, size := f.name, s.o.Directory.SegmentSize
	if !isWhole {
		name = repo.PartName(f.name, from, end)
	}
	if err := cluster.PushLog(ctx, name, content, size); err != nil {
		return err
	}
	s.mu.Lock()
	if isWhole {
		f.isThere = true
	} else {
		f.pushed, f.came = end, time.Time{}
		if f.end > end {
			f.came = time.Now()
		}
	}
	gone := s.clear()
	s.change()
	s.mu.Unlock()
	for _, path := range gone {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.warn(fmt.Errorf("what is in the repository is to be removed from the spool: %w", err))
		}
	}
	return nil
}

// passes says whether an error on reading a file is of this process or this moment, and not of the file.
func passes(err error) bool {
	return slices.ContainsFunc([]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ESTALE, syscall.EAGAIN},
		func(passing error) bool { return errors.Is(err, passing) })
}

// localError is a file in the spool that can never be read.
type localError struct{ error }

// Unwrap returns why.
func (e *localError) Unwrap() error { return e.error }

// open returns the cluster in the repository.
func (s *Spool) open(ctx context.Context) (*repo.Cluster, error) {
	s.mu.Lock()
	cluster := s.cluster
	s.mu.Unlock()
	if cluster != nil {
		return cluster, nil
	}
	cluster, err := s.o.Repository(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster = cluster
	return cluster, nil
}

// readPart reads what is in the spool of a segment, from one offset to another. s.mu is held, so that the file is not made anew
// meanwhile; it may become complete.
func (s *Spool) readPart(name string, from, end int64) ([]byte, error) {
	path := filepath.Join(s.o.Directory.Path, name)
	f, err := os.Open(path + ".partial")
	if errors.Is(err, fs.ErrNotExist) {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // it was only read
	content := make([]byte, end-from)
	if _, err := f.ReadAt(content, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return content, nil
}

// clear takes out of the queue what is in the repository, but for the newest segment, by which it is known where the
// stream goes on. It returns the paths of files to remove; histories stay. s.mu is held.
func (s *Spool) clear() (gone []string) {
	newest := -1
	for i, f := range s.queue {
		if !f.isHistory {
			newest = i
		}
	}
	var rest []*file
	for i, f := range s.queue {
		path := filepath.Join(s.o.Directory.Path, f.name)
		switch {
		case f.isHistory && f.isThere:
		case !f.isHistory && f.isThere && i < newest:
			gone = append(gone, path)
		case !f.isHistory && !f.isComplete && f.isLeft && f.end <= f.pushed && i < newest && s.isOld(f, s.queue[newest]):
			gone = append(gone, path+".partial")
		default:
			rest = append(rest, f)
		}
	}
	s.queue = rest
	return gone
}

// isOld says whether a segment of which a part is here is of a timeline that was left for that of another.
func (s *Spool) isOld(f, newest *file) bool { return f.name[:8] < newest.name[:8] }
