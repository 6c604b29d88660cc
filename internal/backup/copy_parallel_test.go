package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// apartCopy is a copy of members of which most are Apart, into a sink that takes them side
// by side.
type apartCopy struct {
	mu     sync.Mutex
	now    int // being put
	most   int // at once
	put    []string
	opened int
	closed int

	members []Member
	taken   int
	// inPut is called in each Put and PutApart.
	inPut func(ctx context.Context, m Member) error
}

// apartMembers are a directory, n files that are Apart, and one that is not.
func apartMembers(n int) []Member {
	members := []Member{{Path: "base", Kind: Dir}}
	for i := range n {
		members = append(members, Member{Path: fmt.Sprint("base/", i), Kind: File, Apart: true})
	}
	return append(members, Member{Path: "control", Kind: File})
}

type closingReader struct {
	io.Reader
	c *apartCopy
}

func (r closingReader) Close() error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.closed++
	return nil
}

func (c *apartCopy) Next(context.Context) (Member, io.Reader, error) {
	if c.taken == len(c.members) {
		return Member{}, nil, io.EOF
	}
	m := c.members[c.taken]
	c.taken++
	if m.Kind == Dir {
		return m, nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Apart {
		c.opened++
	}
	return m, closingReader{strings.NewReader("x"), c}, nil
}

func (c *apartCopy) Put(ctx context.Context, m Member, _ io.Reader) error {
	c.mu.Lock()
	c.now++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	err := c.inPut(ctx, m)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now--
	c.put = append(c.put, m.Path)
	return err
}

// apartSource and apartSink are the two sides of an apartCopy.
type (
	apartSource struct {
		Source
		*apartCopy
	}
	apartSink struct {
		Nowhere
		*apartCopy
	}
	parallelSink struct{ apartSink }
)

func (s apartSource) Next(ctx context.Context) (Member, io.Reader, error) {
	return s.apartCopy.Next(ctx)
}
func (s apartSink) Put(ctx context.Context, m Member, r io.Reader) error {
	return s.apartCopy.Put(ctx, m, r)
}
func (s parallelSink) PutApart(ctx context.Context, m Member, r io.Reader) error {
	return s.apartCopy.Put(ctx, m, r)
}

func (c *apartCopy) run(ctx context.Context, sink Sink, workers int) error {
	return copyMembers(ctx, sink, apartSource{apartCopy: c}, workers)
}

func TestMembersThatAreApartArePutSideBySide(t *testing.T) {
	for _, test := range []struct {
		reason  string
		sink    func(apartSink) Sink
		workers int
		most    int
	}{
		{"one worker", func(s apartSink) Sink { return parallelSink{s} }, 1, 1},
		{"none given", func(s apartSink) Sink { return parallelSink{s} }, 0, 1},
		{"a sink that takes one at a time", func(s apartSink) Sink { return s }, 4, 1},
		{"four workers", func(s apartSink) Sink { return parallelSink{s} }, 4, 4},
	} {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &apartCopy{members: apartMembers(20)}
				enough := make(chan struct{}) // is closed once as many are put at once as there can be
				c.inPut = func(_ context.Context, m Member) error {
					c.mu.Lock()
					defer c.mu.Unlock()
					if m.Path == "control" && (c.now != 1 || len(c.put) != 21) {
						t.Errorf("the control file comes after %d others, beside %d", len(c.put), c.now-1)
					}
					if c.now == test.most && m.Apart {
						select {
						case <-enough:
						default:
							close(enough)
						}
					}
					c.mu.Unlock()
					if m.Apart {
						<-enough
					}
					c.mu.Lock()
					return nil
				}
				if err := c.run(t.Context(), test.sink(apartSink{apartCopy: c}), test.workers); err != nil {
					t.Fatal(err)
				}
				if c.most != test.most || len(c.put) != 22 {
					t.Errorf("%d were put, at most %d at once", len(c.put), c.most)
				}
				if c.opened != 20 || c.closed != 20 {
					t.Errorf("%d of %d readers were closed", c.closed, c.opened)
				}
			})
		})
	}
}

// TestOneOfManyFails has one of several members fail while others are put, which then are
// told to give up.
func TestOneOfManyFails(t *testing.T) {
	for _, workers := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			c := &apartCopy{members: apartMembers(20)}
			c.inPut = func(ctx context.Context, m Member) error {
				switch m.Path {
				case "base/4":
					return errSink
				case "base/3", "base/5":
					if workers > 1 {
						<-ctx.Done()
						return ctx.Err()
					}
				case "control":
					t.Error("the control file is put")
				}
				return nil
			}
			if err := c.run(t.Context(), parallelSink{apartSink{apartCopy: c}}, workers); !errors.Is(err, errSink) {
				t.Errorf("error is %v, not the first", err)
			}
			if c.closed != c.opened || c.now != 0 {
				t.Errorf("%d of %d readers were closed, %d are still put", c.closed, c.opened, c.now)
			}
			if len(c.put) > 5+2*workers {
				t.Errorf("%d members were put", len(c.put))
			}
		})
	}
}

// TestManyAreCancelled ends the context while members are put.
func TestManyAreCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := &apartCopy{members: apartMembers(20)}
		c.inPut = func(ctx context.Context, m Member) error {
			if m.Apart {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		done := make(chan error, 1)
		go func() { done <- c.run(ctx, parallelSink{apartSink{apartCopy: c}}, 3) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
		if c.closed != c.opened || c.opened > 4 {
			t.Errorf("%d of %d readers were closed", c.closed, c.opened)
		}
	})
}
