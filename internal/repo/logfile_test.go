package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

// randomLog returns a segment of cluster 42 that cannot be compressed.
func randomLog(number uint64, size int) []byte {
	const page = BlockSize
	p := make([]byte, size)
	random := rand.New(rand.NewPCG(1, number))
	put := binary.LittleEndian
	for at := 0; at < size; at += 8 {
		put.PutUint64(p[at:], random.Uint64())
	}
	for at := 0; at < size; at += page {
		clear(p[at : at+40])
		put.PutUint16(p[at:], 0xD118)
		put.PutUint32(p[at+4:], 1)
		put.PutUint64(p[at+8:], number*uint64(size)+uint64(at))
	}
	put.PutUint16(p[2:], 2) // XLP_LONG_HEADER
	put.PutUint64(p[24:], 42)
	put.PutUint32(p[32:], uint32(size))
	put.PutUint32(p[36:], page)
	return p
}

// writes does something with each piece that is written.
type writes func(p []byte) error

func (w writes) Write(p []byte) (int, error) {
	if err := w(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// largeSegment is said of segments that are to be fetched by and by.
const largeSegment = 2 * WholeLog

// TestLogIsHandedOver opens a file of the log, lets something happen, and has it written, from an object that is there at once, and from
// one that is fetched by and by.
func TestLogIsHandedOver(t *testing.T) {
	t.Parallel()
	const name = "000000010000000000000005"
	content := randomLog(5, wal.DefaultSegmentSize)
	errFull := errors.New("no room")
	gone := errors.New("it was removed")
	for _, test := range []struct {
		reason string
		change func(data []byte, facts LogFacts, begin int64) // of the object
		want   error                                          // of opening or writing it
	}{
		{"nothing", nil, nil},
		{"the first frame", func(data []byte, _ LogFacts, begin int64) { data[begin+1000]++ }, seal.ErrDamaged},
		{"the last frame", func(data []byte, facts LogFacts, begin int64) {
			for _, n := range facts.Frames {
				begin += n
			}
			data[begin-1]++
		}, seal.ErrDamaged},
		{"its end", func(data []byte, _ LogFacts, _ int64) { data[len(data)-20]++ }, seal.ErrDamaged},
		{"there is no room for it", nil, errFull},
		{"nobody waits for it any more", nil, context.Canceled},
		{"it is removed meanwhile", nil, gone},
	} {
		for _, encrypted := range []bool{false, true} {
			for _, size := range []int64{wal.DefaultSegmentSize, largeSegment} {
				c := newCluster(t, encrypted)
				if err := c.PushLog(t.Context(), name, content, 0); err != nil {
					t.Fatal(err)
				}
				facts, err := c.LogFacts(t.Context(), name)
				if err != nil {
					t.Fatal(err)
				}
				at, _ := c.logName(name)
				data, err := c.repo.store.Get(t.Context(), at, 0, -1)
				if err == nil && test.change != nil {
					test.change(data, facts, c.repo.logBegin())
					err = errors.Join(c.repo.store.Delete(t.Context(), at), c.repo.store.Create(t.Context(), at, data))
				}
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var got bytes.Buffer
				f, err := c.OpenLogInOrder(ctx, name, size)
				if err == nil {
					err = f.CopyTo(ctx, writes(func(p []byte) error {
						got.Write(p)
						switch {
						case test.want == errFull && got.Len() > 2*logFrame:
							return errFull
						case test.want == context.Canceled:
							cancel()
						case test.want == gone:
							return c.repo.store.Delete(ctx, at)
						}
						return nil
					}))
				}
				cancel()
				isWhole := bytes.Equal(got.Bytes(), content)
				switch {
				case test.want == gone && size == largeSegment: // of what it had fetched it was not told
					if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "was removed") {
						t.Errorf("%s: error %v", test.reason, err)
					}
				case test.want == nil || test.want == gone:
					if err != nil || !isWhole {
						t.Errorf("%s, %d: %d bytes, error %v", test.reason, size, got.Len(), err)
					}
				case !errors.Is(err, test.want) || isWhole && test.want != context.Canceled:
					t.Errorf("%s, %d: %d bytes, error %v", test.reason, size, got.Len(), err)
				}
			}
		}
	}
}

// largest notes what is fetched.
type largest struct {
	object.Store
	mu   sync.Mutex
	gets []int64 // how many bytes
}

func (s *largest) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	s.mu.Lock()
	s.gets = append(s.gets, n)
	s.mu.Unlock()
	return s.Store.Get(ctx, name, off, n)
}

// TestLittleIsFetchedAhead has who takes what is written be slow: no more of a large segment is fetched than is to be. An ordinary one is
// fetched with one request.
func TestLittleIsFetchedAhead(t *testing.T) {
	t.Parallel()
	const name = "000000010000000000000005"
	c := newCluster(t, false)
	if err := c.PushLog(t.Context(), name, randomLog(5, 32<<20), 0); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		store := &largest{Store: c.repo.store}
		c := reopen(t, c, store)
		store.gets = nil
		f, err := c.OpenLog(t.Context(), name, largeSegment)
		if err != nil {
			t.Fatal(err)
		}
		taken := false
		if err := f.CopyTo(t.Context(), writes(func([]byte) error {
			if !taken {
				synctest.Wait()
				if n := len(store.gets) - 2; n > runsAhead+2 { // without its beginning and its end; that of the frames ahead may be another run
					t.Errorf("%d runs are fetched", n)
				}
			}
			taken = true
			return nil
		})); err != nil {
			t.Fatal(err)
		}
		if most := slices.Max(store.gets); most > logRun || slices.Min(store.gets) < 0 || len(store.gets) != 2+8 {
			t.Errorf("fetched are %v bytes", store.gets)
		}
		store.gets = nil
		if f, err = c.OpenLog(t.Context(), name, wal.DefaultSegmentSize); err == nil {
			err = f.CopyTo(t.Context(), io.Discard)
		}
		if err != nil || len(store.gets) != 1 {
			t.Errorf("fetched are %v bytes, error %v", store.gets, err)
		}
	})
}

// TestInSequence sees that what is done side by side comes in order, and that nothing goes on behind an error or the end of who takes it.
func TestInSequence(t *testing.T) {
	t.Parallel()
	errOdd := errors.New("odd")
	for _, test := range []struct {
		reason           string
		fails, ends, all int // the number with an error, the one after which nobody takes any more, and how many there are
	}{
		{"all", -1, -1, 100},
		{"none", -1, -1, 0},
		{"an error", 50, -1, 100},
		{"an error of what comes first", 0, -1, 100},
		{"an end", -1, 50, 100},
	} {
		synctest.Test(t, func(t *testing.T) {
			numbers := func(yield func(int, error) bool) {
				for i := range test.all {
					if !yield(i, nil) {
						return
					}
				}
			}
			var mu sync.Mutex
			working, most, next := 0, 0, 0
			double := func(_ context.Context, i int) (int, error) {
				mu.Lock()
				working++
				most = max(most, working)
				mu.Unlock()
				time.Sleep(time.Duration(7-i%7) * time.Second) // of fake time, in which none is late
				mu.Lock()
				working--
				mu.Unlock()
				if i == test.fails {
					return 0, errOdd
				}
				return 2 * i, nil
			}
			var last error
			for n, err := range inSequence(t.Context(), numbers, 3, double) {
				if last = err; err != nil {
					continue
				}
				if n != 2*next {
					t.Errorf("%s: got %d, want %d", test.reason, n, 2*next)
				}
				if next++; n == 2*test.ends {
					break
				}
			}
			want := test.all
			if test.fails >= 0 {
				want = test.fails
			} else if test.ends >= 0 {
				want = test.ends + 1
			}
			if next != want || (test.fails >= 0) != errors.Is(last, errOdd) || working != 0 || most > 4 {
				t.Errorf("%s: %d came, error %v, %d are at work and %d were", test.reason, next, last, working, most)
			}
		})
	}
}

// TestLogIsCompared has the digests of a file of the log be others than those of its content: it is damaged, whichever is compared.
func TestLogIsCompared(t *testing.T) {
	t.Parallel()
	c := newCluster(t, true)
	putLog(t, c, 1, 5)
	name := wal.Segment{Timeline: 1, Number: 5}.Name(logSize)
	for _, test := range []struct {
		reason       string
		change       func(*LogFacts)
		copied, read bool // CopyTo and Check find it sound
	}{
		{"as it is", func(*LogFacts) {}, true, true},
		{"stored before it had a CRC", func(f *LogFacts) { f.CRC32C = nil }, true, true},
		{"another CRC", func(f *LogFacts) { *f.CRC32C++ }, false, true},
		{"another SHA-256", func(f *LogFacts) { f.SHA256[3]++ }, true, false},
		{"another SHA-256, and no CRC", func(f *LogFacts) { f.SHA256[3]++; f.CRC32C = nil }, false, false},
	} {
		for what, read := range map[string]func(*LogFile) error{
			"CopyTo": func(f *LogFile) error { return f.CopyTo(t.Context(), io.Discard) },
			"Check":  func(f *LogFile) error { return f.Check(t.Context()) },
		} {
			f, err := c.OpenLog(t.Context(), name, 0)
			if err != nil {
				t.Fatal(err)
			}
			test.change(&f.Facts)
			want := what == "CopyTo" && test.copied || what == "Check" && test.read
			if err := read(f); (err == nil) != want || err != nil && !errors.Is(err, seal.ErrDamaged) {
				t.Errorf("%s, %s: %v", test.reason, what, err)
			}
		}
	}
}
