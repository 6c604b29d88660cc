package object

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"time"
)

// RetryOptions say how often and how patiently a store is asked again.
type RetryOptions struct {
	Attempts int           // of a call, the first included; zero is 10
	Timeout  time.Duration // of an attempt; zero is three minutes
	Wait     time.Duration // before the second attempt, doubled for each after; zero is 200 ms
	MaxWait  time.Duration // the longest that is waited; zero is 15 s

	// Tell, if any, is told of each attempt that failed and how long is waited before
	// the next. It may be called from several goroutines at once.
	Tell func(err error, wait time.Duration)
}

// Retry returns a store that asks s again if it gives no answer, after a pause of
// half to all of what the options say, drawn by lot so that many do not come back
// at once. The last error is returned.
//
// A Create whose answer was lost may have made the object. If the name turns out
// to be taken after that, the object is read: with the same bytes it is taken for
// ours. List goes on behind the last object it has yielded, and counts its
// attempts from there.
//
// A store that does not mind its context makes an attempt last longer. Of a Locker
// it is one, too.
func Retry(s Store, o RetryOptions) Store {
	o.Attempts = cmp.Or(o.Attempts, 10)
	o.Timeout = cmp.Or(o.Timeout, 3*time.Minute)
	o.Wait = cmp.Or(o.Wait, 200*time.Millisecond)
	o.MaxWait = cmp.Or(o.MaxWait, 15*time.Second)
	r := &retry{s, o}
	if locker, ok := s.(Locker); ok {
		return &retryLocker{r, locker}
	}
	return r
}

type retry struct {
	store   Store
	options RetryOptions
}

// again calls attempt until it gives an answer. A deadline of one attempt is none.
func (r *retry) again(ctx context.Context, attempt func(ctx context.Context) error) error {
	for failures := 0; ; {
		err := r.once(ctx, attempt)
		if failures++; !r.mayTry(ctx, err, failures) {
			return r.counted(err, failures)
		}
		if waited := r.pause(ctx, err, failures); waited != nil {
			return fmt.Errorf("%w, after: %w", waited, err)
		}
	}
}

func (r *retry) once(ctx context.Context, attempt func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.Timeout)
	defer cancel()
	return attempt(ctx)
}

// mayTry says whether there is to be another attempt after some that have failed.
func (r *retry) mayTry(ctx context.Context, err error, failures int) bool {
	return err != nil && !IsAnswer(err) && ctx.Err() == nil && failures < r.options.Attempts
}

// counted adds to an error that is no answer how often it was tried.
func (r *retry) counted(err error, failures int) error {
	if err == nil || IsAnswer(err) || failures < 2 {
		return err
	}
	return fmt.Errorf("after %d attempts: %w", failures, err)
}

// pause waits after a number of failures.
func (r *retry) pause(ctx context.Context, err error, failures int) error {
	wait := r.options.MaxWait
	if shift := failures - 1; shift < 32 && r.options.Wait < wait>>shift {
		wait = r.options.Wait << shift
	}
	wait = wait/2 + rand.N(wait/2+1)
	if r.options.Tell != nil {
		r.options.Tell(err, wait)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (r *retry) Create(ctx context.Context, name string, data []byte) error {
	create := func(ctx context.Context) error { return r.store.Create(ctx, name, data) }
	return r.create(ctx, name, create, bytes.NewReader(data), int64(len(data)))
}

// CreateFrom is as the function says.
func (r *retry) CreateFrom(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	create := func(ctx context.Context) error { return CreateFrom(ctx, r.store, name, content, size) }
	return r.create(ctx, name, create, content, size)
}

// create makes an object, which is to hold the first size bytes of content.
func (r *retry) create(ctx context.Context, name string, create func(ctx context.Context) error, content io.ReaderAt, size int64) error {
	var taken error      // what is to be settled by reading
	isUncertain := false // whether an attempt may have made the object
	return r.again(ctx, func(ctx context.Context) error {
		if taken == nil {
			err := create(ctx)
			if err != nil && !IsAnswer(err) {
				isUncertain = true
			}
			switch {
			case !isUncertain || err == nil:
				return err
			case !errors.Is(err, fs.ErrExist):
				if IsAnswer(err) { // which it is not: the object may be there, or come late
					err = fmt.Errorf("after an attempt without an answer: %v", err)
				}
				return err
			}
			taken = err
		}
		isOurs, err := r.holds(ctx, name, content, size)
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile, or not to be seen yet
			taken = nil
			return fmt.Errorf("%s was taken, and then absent", name)
		case err != nil:
			return fmt.Errorf("read back: %w", err)
		case !isOurs:
			return taken
		}
		return nil
	})
}

// readBack is how much of an object is read at once to compare it, in bytes.
const readBack = 32 << 20

// holds says whether an object has the first size bytes of content, and no others.
func (r *retry) holds(ctx context.Context, name string, content io.ReaderAt, size int64) (bool, error) {
	if size <= readBack {
		there, err := r.store.Get(ctx, name, 0, -1)
		if err != nil || int64(len(there)) != size {
			return false, err
		}
		return isAt(content, there, 0)
	}
	var buffer []byte
	for off := int64(0); off < size; off += readBack {
		there, err := GetTo(ctx, r.store, name, off, min(readBack, size-off), buffer)
		if errors.Is(err, fs.ErrInvalid) { // it is shorter
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if is, err := isAt(content, there, off); err != nil || !is {
			return false, err
		}
		buffer = there
	}
	_, err := r.store.Get(ctx, name, size, 1)
	if errors.Is(err, fs.ErrInvalid) { // it is not longer
		return true, nil
	}
	return false, err
}

// isAt says whether some bytes are in content.
func isAt(content io.ReaderAt, p []byte, off int64) (bool, error) {
	ours := make([]byte, len(p))
	if n, err := content.ReadAt(ours, off); n < len(ours) {
		return false, err
	}
	return bytes.Equal(ours, p), nil
}

func (r *retry) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return r.GetTo(ctx, name, off, n, nil)
}

// GetTo is as the function says.
func (r *retry) GetTo(ctx context.Context, name string, off, n int64, buffer []byte) (data []byte, err error) {
	err = r.again(ctx, func(ctx context.Context) error {
		data, err = GetTo(ctx, r.store, name, off, n, buffer)
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

func (r *retry) Delete(ctx context.Context, name string) error {
	return r.again(ctx, func(ctx context.Context) error { return r.store.Delete(ctx, name) })
}

func (r *retry) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		failures := 0
		after := after // so that the sequence can be run again
		for {
			before := after
			more, err := r.list(ctx, prefix, &after, yield)
			if !more {
				return
			}
			if after != before {
				failures = 0
			}
			if failures++; !r.mayTry(ctx, err, failures) {
				if err != nil {
					yield(Info{}, r.counted(err, failures))
				}
				return
			}
			if waited := r.pause(ctx, err, failures); waited != nil {
				yield(Info{}, fmt.Errorf("%w, after: %w", waited, err))
				return
			}
		}
	}
}

// list yields what comes after a name, which it moves on. The timeout is that of
// the store for one object or its first, not that of the caller's work. It
// returns false if no more is wanted.
func (r *retry) list(ctx context.Context, prefix string, after *string, yield func(Info, error) bool) (more bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(r.options.Timeout, func() { cancel(context.DeadlineExceeded) })
	defer timer.Stop()
	for info, err := range r.store.List(ctx, prefix, *after) {
		timer.Stop()
		if err != nil {
			if cause := context.Cause(ctx); errors.Is(cause, context.DeadlineExceeded) {
				err = cause
			}
			return true, err
		}
		*after = info.Name
		if !yield(info, nil) {
			return false, nil
		}
		timer.Reset(r.options.Timeout)
	}
	return true, nil
}
