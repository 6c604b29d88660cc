package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"
)

// ErrFault is wrapped by the errors that Failing makes up.
var ErrFault = errors.New("fault")

// Fault is what becomes of a call.
type Fault int

// The faults. Those other than None are errors that wrap ErrFault, and no answer.
const (
	None   Fault = iota // the call is made, as ever
	Before              // the call is not made
	After               // the call is made, and its answer lost
	Half                // as After; but a List yields the first half of what there is before it fails
)

// The names of calls.
const (
	CallCreate = "create"
	CallGet    = "get"
	CallList   = "list"
	CallDelete = "delete"
)

// Call is a call that a store has received.
type Call struct {
	Number int    // from 1 on, in the order in which they came
	Method string // CallCreate, CallGet, CallList or CallDelete
	Name   string // of the object, or the prefix of a List
}

// Failing is a store that hands its calls on to another, records them, and
// fails as a test wants. It is for tests and simulations.
type Failing struct {
	Store Store

	// Fail, if any, says what becomes of a call. It may wait, which makes the store
	// a slow one. Calls made at the same time may be in it at the same time.
	Fail func(ctx context.Context, c Call) Fault

	mutex sync.Mutex
	calls []Call
}

// CrashAt returns a store that dies with its k-th call, counted from 1: what
// becomes of that one is up to the fault, and none after it is made.
func CrashAt(s Store, k int, fault Fault) *Failing {
	return &Failing{Store: s, Fail: func(_ context.Context, c Call) Fault {
		switch {
		case c.Number < k:
			return None
		case c.Number == k:
			return fault
		}
		return Before
	}}
}

// SlowBy returns what makes all calls of a Failing last longer, or until they are
// cancelled.
func SlowBy(wait time.Duration) func(ctx context.Context, c Call) Fault {
	return func(ctx context.Context, _ Call) Fault {
		select {
		case <-ctx.Done():
			return Before
		case <-time.After(wait):
			return None
		}
	}
}

// Calls returns the calls so far, in the order in which they came.
func (f *Failing) Calls() []Call {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	return slices.Clone(f.calls)
}

// receive records a call, and returns what becomes of it.
func (f *Failing) receive(ctx context.Context, method, name string) (Fault, error) {
	f.mutex.Lock()
	c := Call{len(f.calls) + 1, method, name}
	f.calls = append(f.calls, c)
	f.mutex.Unlock()
	if f.Fail == nil {
		return None, nil
	}
	fault := f.Fail(ctx, c)
	if fault == None {
		return None, nil
	}
	if err := ctx.Err(); err != nil {
		return fault, err
	}
	return fault, fmt.Errorf("%w: call %d, %s %q", ErrFault, c.Number, method, name)
}

// call makes a call, or not, as it is its fault.
func (f *Failing) call(ctx context.Context, method, name string, do func() error) error {
	fault, err := f.receive(ctx, method, name)
	switch fault {
	case None:
		return do()
	case Before:
		return err
	}
	_ = do() // whose answer is lost
	return err
}

// Create makes an object, or fails.
func (f *Failing) Create(ctx context.Context, name string, data []byte) error {
	return f.call(ctx, CallCreate, name, func() error { return f.Store.Create(ctx, name, data) })
}

// CreateFrom makes an object, or fails.
func (f *Failing) CreateFrom(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	return f.call(ctx, CallCreate, name, func() error { return CreateFrom(ctx, f.Store, name, content, size) })
}

// Get returns a part of an object, or fails.
func (f *Failing) Get(ctx context.Context, name string, off, n int64) (data []byte, err error) {
	err = f.call(ctx, CallGet, name, func() error {
		var err error
		data, err = f.Store.Get(ctx, name, off, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// List yields objects, all, the first half or none, and then may fail. It is
// received when it is run.
func (f *Failing) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		fault, err := f.receive(ctx, CallList, prefix)
		if fault == None {
			f.Store.List(ctx, prefix, after)(yield)
			return
		}
		if fault != Before {
			var infos []Info
			for info, err := range f.Store.List(ctx, prefix, after) {
				if err != nil {
					yield(Info{}, err)
					return
				}
				infos = append(infos, info)
			}
			if fault == Half {
				infos = infos[:(len(infos)+1)/2]
			}
			for _, info := range infos {
				if !yield(info, nil) {
					return
				}
			}
		}
		yield(Info{}, err)
	}
}

// Delete removes an object, or fails.
func (f *Failing) Delete(ctx context.Context, name string) error {
	return f.call(ctx, CallDelete, name, func() error { return f.Store.Delete(ctx, name) })
}
