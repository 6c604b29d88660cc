// Package objecttest knows what every object.Store promises, and tests it.
package objecttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basin/internal/object"
)

// Run tests the stores that open returns. Each is empty, and is for one part of
// the suite alone.
func Run(t *testing.T, open func(t *testing.T) object.Store) {
	for _, part := range []struct {
		name string
		test func(t *testing.T, s object.Store)
	}{
		{"Names", testNames},
		{"Taken", testTaken},
		{"Race", testRace},
		{"Ranges", testRanges},
		{"Order", testOrder},
		{"Pages", testPages},
		{"Large", testLarge},
		{"File", testFile},
		{"Delete", testDelete},
		{"Emptied", testEmptied},
		{"Cancelled", testCancelled},
		{"Caller", testCaller},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, open(t)) })
	}
}

// Content returns n bytes that look like no others; the same for the same seed.
func Content(seed uint64, n int) []byte {
	data := make([]byte, n)
	for i := range data {
		seed = seed*6364136223846793005 + 1442695040888963407
		data[i] = byte(seed >> 56)
	}
	return data
}

// Names returns the names that List yields, or fails the test.
func Names(t *testing.T, s object.Store, prefix, after string) []string {
	t.Helper()
	var names []string
	for info, err := range s.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatalf("list %q after %q: %v", prefix, after, err)
		}
		names = append(names, info.Name)
	}
	return names
}

func create(t *testing.T, s object.Store, name string, data []byte) {
	t.Helper()
	if err := s.Create(t.Context(), name, data); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

func holds(t *testing.T, s object.Store, name string, want []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatalf("get %s: %v", name, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("get %s: %d bytes, which are not the %d that were created", name, len(got), len(want))
	}
}

// answers fails the test if err is not the answer that is wanted.
func answers(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// isOnly fails the test if there is anything but these objects.
func isOnly(t *testing.T, s object.Store, want ...string) {
	t.Helper()
	if got := Names(t, s, "", ""); !slices.Equal(got, want) {
		t.Fatalf("list: %q, want %q", got, want)
	}
}

func testNames(t *testing.T, s object.Store) {
	good := []string{
		"a", "Z9", "a.b_c-d", ".hidden", "...", "-", "d/e/f/g/h", "x/.y",
		"0/" + strings.Repeat("n", 255),
		strings.Repeat("long-element/", 58) + "end",
	}
	for _, name := range good {
		create(t, s, name, []byte(name))
	}
	for _, name := range good {
		holds(t, s, name, []byte(name))
	}
	for _, name := range []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a/..",
		"a b", "a\\b", "a~", "~a", "ä", "a\x00", "a\n", "a*", "a?b", "a%2fb", "\xff",
		strings.Repeat("n", 256), strings.Repeat("long-element/", 60) + "end",
	} {
		answers(t, fmt.Sprintf("create %q", name), s.Create(t.Context(), name, nil), fs.ErrInvalid)
		_, err := s.Get(t.Context(), name, 0, -1)
		answers(t, fmt.Sprintf("get %q", name), err, fs.ErrInvalid)
		answers(t, fmt.Sprintf("delete %q", name), s.Delete(t.Context(), name), fs.ErrInvalid)
	}
	for _, prefix := range []string{"/", "a//", "../", "./", "a/../", "~", "a b"} {
		for _, err := range s.List(t.Context(), prefix, "") {
			answers(t, fmt.Sprintf("list %q", prefix), err, fs.ErrInvalid)
		}
	}
	slices.Sort(good)
	isOnly(t, s, good...)
}

func testTaken(t *testing.T, s object.Store) {
	create(t, s, "f/taken", []byte("first"))
	answers(t, "other bytes", s.Create(t.Context(), "f/taken", []byte("second")), fs.ErrExist)
	answers(t, "the same bytes", s.Create(t.Context(), "f/taken", []byte("first")), fs.ErrExist)
	answers(t, "no bytes", s.Create(t.Context(), "f/taken", nil), fs.ErrExist)
	holds(t, s, "f/taken", []byte("first"))
	create(t, s, "f/empty", nil)
	answers(t, "taken by an empty one", s.Create(t.Context(), "f/empty", []byte("x")), fs.ErrExist)
	holds(t, s, "f/empty", nil)
	isOnly(t, s, "f/empty", "f/taken")
}

// testRace lets 16 create one object, while others look.
func testRace(t *testing.T, s object.Store) {
	const racers, size = 16, 200_000
	for round := range 5 {
		name := fmt.Sprintf("race/%d/name", round)
		start, done := make(chan struct{}), make(chan struct{})
		errs := make([]error, racers)
		var creators, readers sync.WaitGroup
		for i := range racers {
			creators.Go(func() {
				<-start
				errs[i] = s.Create(t.Context(), name, Content(uint64(i), size))
			})
		}
		for range 2 {
			readers.Go(func() {
				<-start
				for isDone := false; !isDone; {
					select {
					case <-done:
						isDone = true
					default:
					}
					switch got, err := s.Get(t.Context(), name, 0, -1); {
					case errors.Is(err, fs.ErrNotExist):
					case err != nil:
						t.Errorf("get meanwhile: %v", err)
					case len(got) != size:
						t.Errorf("get meanwhile: %d bytes of %d", len(got), size)
					}
				}
			})
		}
		close(start)
		creators.Wait()
		close(done)
		readers.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Errorf("round %d: %d and %d have won", round, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("round %d: %v, want %v", round, err, fs.ErrExist)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody has won", round)
		}
		holds(t, s, name, Content(uint64(winner), size))
	}
}

func testRanges(t *testing.T, s object.Store) {
	data := Content(1, 1000)
	create(t, s, "r/some", data)
	create(t, s, "r/none", nil)
	for _, test := range []struct {
		name   string
		off, n int64
		want   []byte
		err    error
	}{
		{"r/some", 0, -1, data, nil},
		{"r/some", 0, 1000, data, nil},
		{"r/some", 0, 1, data[:1], nil},
		{"r/some", 999, 1, data[999:], nil},
		{"r/some", 10, 90, data[10:100], nil},
		{"r/some", 10, -1, data[10:], nil},
		{"r/some", 10, -7, data[10:], nil}, // any negative number
		{"r/some", 0, 0, nil, nil},
		{"r/some", 500, 0, nil, nil},
		{"r/some", 1000, 0, nil, nil},  // at the end
		{"r/some", 1000, -1, nil, nil}, // at the end
		{"r/some", 1000, 1, nil, fs.ErrInvalid},
		{"r/some", 999, 2, nil, fs.ErrInvalid},
		{"r/some", 0, 1001, nil, fs.ErrInvalid},
		{"r/some", 1001, -1, nil, fs.ErrInvalid},
		{"r/some", 1001, 0, nil, fs.ErrInvalid},
		{"r/some", -1, 1, nil, fs.ErrInvalid},
		{"r/some", -1, -1, nil, fs.ErrInvalid},
		{"r/some", 1, math.MaxInt64, nil, fs.ErrInvalid}, // whose end overflows
		{"r/some", math.MaxInt64, math.MaxInt64, nil, fs.ErrInvalid},
		{"r/none", 0, -1, nil, nil},
		{"r/none", 0, 0, nil, nil},
		{"r/none", 0, 1, nil, fs.ErrInvalid},
		{"r/none", 1, -1, nil, fs.ErrInvalid},
		{"r/absent", 0, -1, nil, fs.ErrNotExist},
		{"r/absent", 0, 0, nil, fs.ErrNotExist},
		{"r/absent", 5, 5, nil, fs.ErrNotExist},
		{"absent/absent", 0, -1, nil, fs.ErrNotExist},
		{"r", 0, -1, nil, fs.ErrNotExist}, // a folder
	} {
		got, err := s.Get(t.Context(), test.name, test.off, test.n)
		if !errors.Is(err, test.err) || !bytes.Equal(got, test.want) {
			t.Errorf("get %s, %d bytes from %d on: %d bytes, %v; want %d, %v",
				test.name, test.n, test.off, len(got), err, len(test.want), test.err)
		}
		for _, room := range []int{0, 90, 2000} {
			again, other := object.GetTo(t.Context(), s, test.name, test.off, test.n, bytes.Repeat([]byte{'x'}, room))
			if !bytes.Equal(again, got) || !errors.Is(other, test.err) {
				t.Errorf("get %s into %d bytes: %d bytes, %v; want %d, %v", test.name, room, len(again), other, len(got), test.err)
			}
		}
	}
}

func testOrder(t *testing.T, s object.Store) {
	isOnly(t, s)
	began := time.Now()
	all := []string{ // sorted by bytes, not as folders are
		"a-b/c", "a.b", "a/b-c", "a/b.c", "a/b/0", "a/b/c/d", "a/b/e", "a/b0", "a/bc/d", "a/c", "a0", "aB", "ab/c", "b",
	}
	for i, name := range slices.Backward(all) {
		create(t, s, name, make([]byte, i))
	}
	for _, test := range []struct {
		prefix, after string
		want          []string
	}{
		{"", "", all},
		{"a", "", all[:13]},
		{"a/", "", all[2:10]},
		{"a/b", "", all[2:9]}, // as text
		{"a/b/", "", all[4:7]},
		{"a/b/c", "", all[5:6]},
		{"a/b/c/", "", all[5:6]},
		{"a/b/c/d", "", all[5:6]},
		{"a/b/c/d/", "", nil}, // an object, no folder
		{"a/b/c/dd", "", nil},
		{"b", "", all[13:]},
		{"c", "", nil},
		{"c/d/", "", nil},
		{"a/x/", "", nil},
		{"", "a-b/c", all[1:]},
		{"", "a/b", all[2:]}, // a name that is not there
		{"", "a/b/c/d", all[6:]},
		{"", "a/b/", all[4:]},
		{"", "a/b/zzz", all[7:]},
		{"", "b", nil},
		{"", "0", all},
		{"a/b", "a/b/0", all[5:9]},
		{"a/b/", "a", all[4:7]}, // before them all
		{"a/b/", "a/c", nil},    // behind them all
	} {
		if got := Names(t, s, test.prefix, test.after); !slices.Equal(got, test.want) {
			t.Errorf("list %q after %q: %q, want %q", test.prefix, test.after, got, test.want)
		}
	}
	i := 0
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if info.Size != int64(i) {
			t.Errorf("%s: size %d, want %d", info.Name, info.Size, i)
		}
		if age := info.Time.Sub(began); age < -2*time.Second || age > time.Hour { // whole seconds are all that some know
			t.Errorf("%s: made at %v, want some time from %v on", info.Name, info.Time, began)
		}
		if i++; i == 3 {
			break // which a list has to bear
		}
	}
}

// testPages has more objects than a store lists at once.
func testPages(t *testing.T, s object.Store) {
	const count = 1200
	want := make([]string, count)
	for i := range want {
		want[i] = fmt.Sprintf("pages/%02d/%04d", i/100, i)
	}
	var creators sync.WaitGroup
	for first := range 8 {
		creators.Go(func() {
			for i := first; i < count; i += 8 {
				if err := s.Create(t.Context(), want[i], []byte{1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	creators.Wait()
	for _, from := range []int{0, 1, 999, 1000, 1001, 1199} {
		after := ""
		if from > 0 {
			after = want[from-1]
		}
		if got := Names(t, s, "pages/", after); !slices.Equal(got, want[from:]) {
			t.Errorf("list after %q: %d names, which are not the %d that come", after, len(got), count-from)
		}
	}
	if got := Names(t, s, "pages/03/", ""); !slices.Equal(got, want[300:400]) {
		t.Errorf("list one folder: %d names, not its 100", len(got))
	}
}

func testLarge(t *testing.T, s object.Store) {
	data := Content(2, 32<<20)
	create(t, s, "large/object", data)
	holds(t, s, "large/object", data)
	got, err := s.Get(t.Context(), "large/object", 31<<20, 4096)
	if err != nil || !bytes.Equal(got, data[31<<20:31<<20+4096]) {
		t.Errorf("get near the end: %d bytes, %v", len(got), err)
	}
}

// testFile makes objects of what is read.
func testFile(t *testing.T, s object.Store) {
	data := Content(3, 300_000)
	for _, size := range []int{len(data) - 1, 1, 0} { // what is behind does not count
		name := fmt.Sprintf("file/%d", size)
		for _, want := range []error{nil, fs.ErrExist} {
			answers(t, name, object.CreateFrom(t.Context(), s, name, bytes.NewReader(data), int64(size)), want)
		}
		holds(t, s, name, data[:size])
	}
	answers(t, "a name that cannot be", object.CreateFrom(t.Context(), s, "~", bytes.NewReader(data), 1), fs.ErrInvalid)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	answers(t, "cancelled", object.CreateFrom(ctx, s, "file/never", bytes.NewReader(data), 1), context.Canceled)
	isOnly(t, s, "file/0", "file/1", fmt.Sprintf("file/%d", len(data)-1))
}

func testDelete(t *testing.T, s object.Store) {
	create(t, s, "d/e/one", []byte("1"))
	create(t, s, "d/e/two", []byte("2"))
	for range 2 { // the second time it is absent
		if err := s.Delete(t.Context(), "d/e/one"); err != nil {
			t.Fatalf("delete: %v", err)
		}
	}
	_, err := s.Get(t.Context(), "d/e/one", 0, -1)
	answers(t, "get what was deleted", err, fs.ErrNotExist)
	for _, name := range []string{"absent", "absent/absent", "d/e", "d/e/one/x"} {
		if err := s.Delete(t.Context(), name); err != nil {
			t.Errorf("delete %s, which is no object: %v", name, err)
		}
	}
	isOnly(t, s, "d/e/two")
	create(t, s, "d/e/one", []byte("again"))
	holds(t, s, "d/e/one", []byte("again"))
}

// testEmptied deletes the last object of a folder while others are made in it.
func testEmptied(t *testing.T, s object.Store) {
	const workers, rounds = 4, 25
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			name := fmt.Sprintf("e/f/g/%d", w)
			for range rounds {
				if err := s.Create(t.Context(), name, []byte(name)); err != nil {
					t.Errorf("create: %v", err)
					return
				}
				if got, err := s.Get(t.Context(), name, 0, -1); err != nil || string(got) != name {
					t.Errorf("get: %q, %v", got, err)
				}
				if err := s.Delete(t.Context(), name); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	all.Wait()
	isOnly(t, s)
}

func testCancelled(t *testing.T, s object.Store) {
	create(t, s, "c/before", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	answers(t, "create", s.Create(ctx, "c/after", []byte("x")), context.Canceled)
	_, err := s.Get(ctx, "c/before", 0, -1)
	answers(t, "get", err, context.Canceled)
	answers(t, "delete", s.Delete(ctx, "c/before"), context.Canceled)
	listed := false
	for _, err := range s.List(ctx, "", "") {
		answers(t, "list", err, context.Canceled)
		listed = true
	}
	if !listed {
		t.Error("list: ends without an error")
	}
	isOnly(t, s, "c/before")
}

// testCaller checks that a store keeps and returns bytes of its own.
func testCaller(t *testing.T, s object.Store) {
	data := []byte("mine")
	create(t, s, "m", data)
	data[0] = 'x'
	holds(t, s, "m", []byte("mine"))
	got, err := s.Get(t.Context(), "m", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	got[0] = 'x'
	holds(t, s, "m", []byte("mine"))
}
