// Package keepertest knows what every wal.Keeper promises, and tests it: what was
// streamed can be read back, a segment cut short has its full size and no mark,
// and what went wrong leaves nothing open.
//
// It does not know what a keeper keeps its files in; the keeper's own test says
// how to read them back. It is for tests only.
package keepertest

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"basin/internal/backup/sinktest"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Keeper is a wal.Keeper that is told whether its log is whole.
type Keeper interface {
	wal.Keeper
	Commit() error // the log is whole; no segment is open
	Close() error  // before Commit, the log is not whole; may be called again
}

// Subject is one keeper, and how to see what it did.
type Subject struct {
	Keeper Keeper
	// Read returns the content of the files of the log, by name, the marks among
	// them as archive_status/NAME.done. It is called once the keeper is closed.
	Read func(t *testing.T) map[string]string
}

// Suite is the tests of one kind of keeper.
type Suite struct {
	// Open makes a subject that keeps its log in dir, which is there and empty.
	// What it opens beside the keeper it closes at the end of the test.
	Open func(t *testing.T, dir string) Subject
}

// Segments of the suite, and a history between them.
const (
	first   = "000000010000000000000001"
	second  = "000000010000000000000002"
	history = "00000002.history"

	historyContent = "1\t0/3000000\tno reason\n"

	size = wal.MinSegmentSize
)

// Run runs the suite. It must not run beside other tests: it counts open files.
func (s Suite) Run(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	before := sinktest.OpenFiles(t)
	t.Run("what was streamed can be read back", s.whole)
	t.Run("cut", s.cut)
	t.Run("refused", s.refused)
	t.Run("no room", s.noRoom)
	t.Run("after the end", s.ended)
	if after := sinktest.OpenFiles(t); after != before {
		t.Errorf("%d files are open, were %d", after, before)
	}
}

// content returns a segment's bytes, which do not compress.
func content() []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// begin starts a segment and writes to it.
func begin(t *testing.T, k Keeper, name string, pieces ...[]byte) wal.SegmentWriter {
	t.Helper()
	w, err := k.Begin(name, size)
	must(t, err)
	for _, p := range pieces {
		_, err := w.Write(p)
		must(t, err)
	}
	return w
}

// end commits the log and compares what is kept with want.
func (s Subject) end(t *testing.T, want map[string]string) {
	t.Helper()
	must(t, s.Keeper.Commit())
	must(t, s.Keeper.Close())
	got := s.Read(t)
	for name, content := range want {
		if kept, ok := got[name]; !ok || kept != content {
			t.Errorf("%s: there %t, %d bytes, or others than came", name, ok, len(kept))
		}
	}
	names := func(m map[string]string) map[string]int {
		sizes := map[string]int{}
		for name, content := range m {
			sizes[name] = len(content)
		}
		return sizes
	}
	if diff := cmp.Diff(names(want), names(got)); diff != "" {
		t.Errorf("sizes of what is kept (-want +got):\n%s", diff)
	}
}

func mark(name string) string { return "archive_status/" + name + ".done" }

func (s Suite) whole(t *testing.T) {
	subject, content := s.Open(t, t.TempDir()), content()
	k := subject.Keeper
	defer k.Close()
	w := begin(t, k, first)
	for _, piece := range [][]byte{content[:1000], nil, content[1000:]} {
		_, err := w.Write(piece)
		must(t, err)
		must(t, w.Flush())
	}
	must(t, w.Finish())
	for range 2 {
		must(t, k.History(history, []byte(historyContent)))
	}
	if err := k.History(history, []byte("1\t0/4000000\tanother\n")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("another history of the same name: %v", err)
	}
	must(t, begin(t, k, second, content).Finish())
	subject.end(t, map[string]string{
		first: string(content), mark(first): "", second: string(content), mark(second): "",
		history: historyContent, mark(history): "",
	})
}

// cut abandons a segment at every state it can have.
func (s Suite) cut(t *testing.T) {
	content := content()
	for _, n := range []int{0, 1, 512, 300_001, size} {
		for _, then := range []string{"nothing follows", "flushed", "another follows", "a history follows"} {
			t.Run(fmt.Sprintf("after %d bytes, %s", n, then), func(t *testing.T) {
				subject := s.Open(t, t.TempDir())
				defer subject.Keeper.Close()
				w := begin(t, subject.Keeper, first, content[:n])
				if then == "flushed" {
					must(t, w.Flush())
				}
				must(t, w.Abandon())
				want := map[string]string{first: string(content[:n]) + string(make([]byte, size-n))}
				switch then {
				case "another follows":
					must(t, begin(t, subject.Keeper, second, content).Finish())
					want[second], want[mark(second)] = string(content), ""
				case "a history follows":
					must(t, subject.Keeper.History(history, []byte(historyContent)))
					want[history], want[mark(history)] = historyContent, ""
				}
				subject.end(t, want)
			})
		}
	}
}

// refused gives a segment too much, and finishes it too early.
func (s Suite) refused(t *testing.T) {
	subject, content := s.Open(t, t.TempDir()), content()
	defer subject.Keeper.Close()
	w := begin(t, subject.Keeper, first, content)
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a segment takes more than its size")
	}
	must(t, w.Finish())
	if begin(t, subject.Keeper, second, content[:5]).Finish() == nil {
		t.Error("a segment without its bytes is complete")
	}
	subject.end(t, map[string]string{
		first: string(content), mark(first): "", second: string(content[:5]) + string(make([]byte, size-5)),
	})
}

func (s Suite) noRoom(t *testing.T) {
	dir := t.TempDir()
	sinktest.Fillable(t, dir, size/2)
	subject := s.Open(t, dir)
	k := subject.Keeper
	err := func() error {
		w, err := k.Begin(first, size)
		if err != nil {
			return err
		}
		for piece := range slices.Chunk(content(), 64<<10) {
			if _, err = w.Write(piece); err != nil {
				break
			}
		}
		if err == nil {
			err = w.Flush()
		}
		_ = w.Abandon() // for what it holds
		return err
	}()
	if !sinktest.IsNoRoom(err) || usererr.Hint(err) == "" {
		t.Errorf("error is %v (%s)", err, usererr.Hint(err))
	}
	for range 2 {
		if err := k.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

// ended calls what may not be called any more.
func (s Suite) ended(t *testing.T) {
	for name, end := range map[string]func(k Keeper) error{
		"committed": Keeper.Commit,
		"given up":  func(Keeper) error { return nil },
		"in the midst": func(k Keeper) error {
			w, err := k.Begin(first, size)
			if err != nil {
				return err
			}
			if _, err := w.Write([]byte("begun")); err != nil {
				return err
			}
			return w.Abandon()
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := s.Open(t, t.TempDir()).Keeper
			must(t, end(k))
			for range 2 {
				must(t, k.Close())
			}
			if _, err := k.Begin(second, size); err == nil {
				t.Error("a segment begins")
			}
			if k.History(history, nil) == nil {
				t.Error("a history is kept")
			}
			if k.Commit() == nil {
				t.Error("commits")
			}
		})
	}
}
