package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/wal"
)

// farSource yields files that take long to read, and last one that is not Apart.
type farSource struct {
	sizes  []int
	next   int
	inHand bool  // the one that is not Apart was not read to its end
	fails  error // of the third file, in its middle
	closed bool
}

func (s *farSource) Begin(context.Context) (Start, error) { return Start{}, nil }
func (s *farSource) End(context.Context) (wal.Position, error) {
	return wal.Position{LSN: 7}, nil
}
func (s *farSource) Close() error { s.closed = true; return nil }

// farLatency is how long each of its reads takes.
const farLatency = 30 * time.Millisecond

func (s *farSource) Next(context.Context) (Member, io.Reader, error) {
	if s.inHand {
		return Member{}, nil, errors.New("the file in hand is read still")
	}
	if s.next == 0 {
		s.next++
		return Member{Path: "folder", Kind: Dir}, nil, nil
	}
	n := s.next - 1
	if n > len(s.sizes) {
		return Member{}, nil, io.EOF
	}
	s.next++
	m := Member{Path: fmt.Sprint(n), Kind: File, Apart: n < len(s.sizes), Size: 5}
	content := []byte("last\n")
	if m.Apart {
		m.Size = int64(s.sizes[n])
		content = farContent(n, s.sizes[n])
	} else {
		s.inHand = true
	}
	r := &farReader{source: s, isLast: !m.Apart, rest: content}
	if n == 2 {
		r.fails = s.fails
	}
	return m, r, nil
}

func farContent(n, size int) []byte { return bytes.Repeat([]byte{byte(n + 1)}, size) }

type farReader struct {
	source *farSource
	isLast bool
	rest   []byte
	fails  error
}

func (r *farReader) Read(p []byte) (int, error) {
	time.Sleep(farLatency)
	if r.fails != nil && len(r.rest) < 100 {
		return 0, r.fails
	}
	if len(r.rest) == 0 {
		if r.isLast {
			r.source.inHand = false
		}
		return 0, io.EOF
	}
	n := copy(p, r.rest[:(len(r.rest)+1)/2])
	r.rest = r.rest[n:]
	return n, nil
}

// gathering is a sink that has what came.
type gathering struct {
	Nowhere
	got [][]byte
}

func (g *gathering) Put(_ context.Context, m Member, r io.Reader) error {
	if m.Kind != File {
		return nil
	}
	content, err := io.ReadAll(r)
	g.got = append(g.got, content)
	return err
}

// TestReadAhead reads files side by side: they are the same, in the same order, and come sooner.
func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sizes := []int{0, 1, 1000, aheadBytes, 3*aheadBytes + 7, 20, 30, 40, 50, 60, 70, 80}
		took := func(wrap func(Source) Source) time.Duration {
			t.Helper()
			begun := time.Now()
			src := wrap(&farSource{sizes: sizes})
			var g gathering
			if err := Copy(t.Context(), &g, src, Options{}); err != nil {
				t.Fatal(err)
			}
			if err := src.Close(); err != nil {
				t.Fatal(err)
			}
			for n, size := range sizes {
				if !bytes.Equal(g.got[n], farContent(n, size)) {
					t.Errorf("file %d is another", n)
				}
			}
			if len(g.got) != len(sizes)+1 || string(g.got[len(sizes)]) != "last\n" {
				t.Errorf("%d files", len(g.got))
			}
			return time.Since(begun)
		}
		slow := took(func(s Source) Source { return s })
		fast := took(func(s Source) Source { return WithReadAhead(s, 8) })
		if fast > slow/3 {
			t.Errorf("it took %v, and %v without", fast, slow)
		}
	})
}

// TestReadAheadEnds has a file fail, and has a copy be given up: nothing goes on behind that.
func TestReadAheadEnds(t *testing.T) {
	failure := errors.New("it fails")
	for _, files := range []int{1, 8} {
		synctest.Test(t, func(t *testing.T) {
			far := &farSource{sizes: slices.Repeat([]int{5000}, 20), fails: failure}
			src := WithReadAhead(far, files)
			if err := Copy(t.Context(), &gathering{}, src, Options{}); !errors.Is(err, failure) {
				t.Errorf("got %v", err)
			}
			if err := src.Close(); err != nil || !far.closed {
				t.Error(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			src = WithReadAhead(&farSource{sizes: slices.Repeat([]int{5000}, 20)}, files)
			defer src.Close()
			for range 3 {
				if _, _, err := src.Next(ctx); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			for range 30 {
				if _, _, err := src.Next(ctx); err != nil {
					return
				}
			}
			t.Error("it goes on")
		})
	}
}

// late yields a large file, that can be read at once, after it was to end.
type late struct {
	farSource
	asked chan struct{} // closed once it is asked
}

func (s *late) Next(ctx context.Context) (Member, io.Reader, error) {
	if s.next++; s.next == 1 {
		close(s.asked)
	}
	<-ctx.Done()
	time.Sleep(time.Second) // by which Close has looked into the queue
	return Member{Path: "1", Kind: File, Apart: true, Size: 8 << 20}, &Zeros{Left: 8 << 20}, nil
}

// TestReadAheadEndsWhileItIsAsked closes a source while the next file of it comes.
func TestReadAheadEndsWhileItIsAsked(t *testing.T) {
	for range 20 { // of what is ready either may be chosen
		synctest.Test(t, func(t *testing.T) {
			far := &late{asked: make(chan struct{})}
			src := WithReadAhead(far, 2)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-far.asked
				cancel()
			}()
			if _, _, err := src.Next(ctx); err == nil {
				t.Error("it goes on")
			}
			if err := src.Close(); err != nil || !far.closed {
				t.Error(err)
			}
		})
	}
}
