package repo

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync"
	"testing"

	"basin/internal/object"
)

// reopen returns a cluster as a new process sees it.
func reopen(t testing.TB, c *Cluster, store object.Store) *Cluster {
	t.Helper()
	r, err := Open(t.Context(), store, c.repo.o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.Cluster(c.name.Name, c.name.SystemID)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// memory returns a copy of the store of a cluster, which is in memory.
func memory(c *Cluster) *object.Memory { return c.repo.store.(*object.Memory).Clone() }

// errCut is a store that is not reached.
var errCut = errors.New("the store is not reached")

// cut is a store whose operations are counted, of which one fails.
type cut struct {
	object.Store
	at    int  // which fails, from 1; 0 is none
	after bool // it fails when it has been done
	stays bool // all that come behind it fail too
	// before, if not nil, is called before each operation, with its number.
	before func(number int)

	mu    sync.Mutex
	count int
}

// do does an operation.
func (s *cut) do(operation func() error) error {
	s.mu.Lock()
	s.count++
	if s.before != nil {
		s.before(s.count)
	}
	fails := s.count == s.at
	dead := s.stays && s.at > 0 && s.count > s.at
	s.mu.Unlock()
	if dead || fails && !s.after {
		return errCut
	}
	if err := operation(); err != nil {
		return err
	}
	if fails {
		return errCut
	}
	return nil
}

func (s *cut) Create(ctx context.Context, name string, data []byte) error {
	return s.do(func() error { return s.Store.Create(ctx, name, data) })
}

func (s *cut) Delete(ctx context.Context, name string) error {
	return s.do(func() error { return s.Store.Delete(ctx, name) })
}

func (s *cut) Get(ctx context.Context, name string, off, n int64) (data []byte, err error) {
	err = s.do(func() error {
		data, err = s.Store.Get(ctx, name, off, n)
		return err
	})
	return data, err
}

func (s *cut) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		if err := s.do(func() error { return nil }); err != nil {
			yield(object.Info{}, err)
			return
		}
		s.Store.List(ctx, prefix, after)(yield)
	}
}

// gate is a store that stops before it makes a commit.
type gate struct {
	object.Store
	reached chan struct{} // is closed then
	pass    chan struct{} // lets it go on when it is closed
}

func newGate(s object.Store) *gate {
	return &gate{Store: s, reached: make(chan struct{}), pass: make(chan struct{})}
}

func (s *gate) Create(ctx context.Context, name string, data []byte) error {
	if strings.HasSuffix(name, "/commit") {
		close(s.reached)
		<-s.pass
	}
	return s.Store.Create(ctx, name, data)
}

// late is a backup that is all there but for its commit.
type late struct {
	gate   *gate
	sink   *Sink
	failed chan error
}

// hold makes a backup, and stops before its commit.
func hold(t testing.TB, c *Cluster, tr tree, o SinkOptions) *late {
	t.Helper()
	g := newGate(c.repo.store)
	l := &late{gate: g, sink: reopen(t, c, g).NewSink(o), failed: make(chan error, 1)}
	go func() { l.failed <- copyTree(t.Context(), l.sink, tr) }()
	select {
	case <-g.reached:
	case err := <-l.failed:
		t.Fatalf("the backup ended before its commit: %v", err)
	}
	return l
}

// goOn lets the backup end.
func (l *late) goOn() error {
	close(l.gate.pass)
	return errors.Join(<-l.failed, l.sink.Close())
}
