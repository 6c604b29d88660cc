package feed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/seal"
	"basin/internal/wal"
)

const (
	mib    = 1 << 20
	system = 7_000_000_000_000_000_001
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// page returns n bytes of a page of zeros with a header. rest is how much of it
// belongs to a record that began before.
func page(at wal.LSN, t wal.Timeline, rest, n int) []byte {
	p := make([]byte, n)
	native := binary.NativeEndian
	native.PutUint16(p, 0xD118)
	native.PutUint32(p[4:], uint32(t))
	native.PutUint64(p[8:], uint64(at))
	native.PutUint32(p[16:], uint32(rest))
	info := uint16(0)
	if rest > 0 {
		info |= pageContinues
	}
	if at%mib == 0 {
		info |= pageIsFirst
		native.PutUint64(p[24:], system)
		native.PutUint32(p[32:], mib)
		native.PutUint32(p[36:], pageSize)
	}
	native.PutUint16(p[2:], info)
	return p
}

// record puts the length of a record into a page, and returns where the next is.
func record(p []byte, at, length int) int {
	binary.NativeEndian.PutUint32(p[at:], uint32(length))
	return int(aligned(int64(at + length)))
}

// segment returns a segment filled with a byte, but for the header.
func segment(t wal.Timeline, number uint64, fill byte) []byte {
	p := bytes.Repeat([]byte{fill}, mib)
	copy(p, page(wal.LSN(number*mib), t, 0, longHeaderSize))
	return p
}

// TestPositions is about how far a feed says that the log is flushed.
func TestPositions(t *testing.T) {
	const start = wal.LSN(3 * mib)
	first := page(start, 1, 0, pageSize)
	a := record(first, longHeaderSize, 100) // ends at 140, the next begins at 144
	b := record(first, a, 50)
	record(first, b, 2*pageSize)
	second := page(start+pageSize, 1, 2*pageSize, pageSize)
	third := page(start+2*pageSize, 1, 1000, pageSize)
	c := record(third, int(aligned(shortHeaderSize+1000)), 64) // a switch: what follows is empty
	whole := append(append(append([]byte{}, first...), second...), third...)
	at := func(n int, t wal.Timeline) wal.Position { return wal.Position{LSN: start + wal.LSN(n), Timeline: t} }

	for _, c := range []struct {
		reason string
		sent   int // bytes of whole
		want   int
	}{
		{"nothing", 0, -1},
		{"a part of a header", 20, -1},
		{"a header, and the next record does not fit", longHeaderSize, longHeaderSize},
		{"the first record begins", longHeaderSize + 2, longHeaderSize},
		{"a record but for its end", 139, longHeaderSize},
		{"a record but for what aligns it", 140, longHeaderSize},
		{"a record", 144, 144},
		{"the second begins", 150, 144},
		{"a record that goes on after the page", pageSize - 1, b},
		{"a page", pageSize, pageSize},
		{"within the header of the next", pageSize + 3, pageSize},
		{"within the long record's second page", pageSize + 4000, pageSize},
		{"two pages", 2 * pageSize, 2 * pageSize},
		{"the long record but for its end", 2*pageSize + 1020, 2 * pageSize},
		{"the long record", 2*pageSize + 1024, 2*pageSize + 1024},
		{"what follows a switch", 2*pageSize + c + 4, 2*pageSize + c + 4},
		{"more of that", 2*pageSize + 5003, 2*pageSize + 5003},
		{"all", 3 * pageSize, 3 * pageSize},
	} {
		for _, piece := range []int{1, 7, 1000, pageSize, 1 << 20} {
			f := New(Options{SegmentSize: mib})
			f.Advance(at(-1, 1))
			w, err := f.Begin("000000010000000000000003", mib)
			must(t, err)
			for rest := whole[:c.sent]; len(rest) > 0; {
				n := min(piece, len(rest))
				if m, err := w.Write(rest[:n]); m != n || err != nil {
					t.Fatal(m, err)
				}
				rest = rest[n:]
			}
			want := at(c.want, 1)
			if c.sent > 0 && c.want < 0 {
				want = at(0, 1)
			}
			if got, _ := f.Flushed(); got != want {
				t.Errorf("%s, in pieces of %d: flushed to %v, want %v", c.reason, piece, got, want)
			}
		}
	}
}

// TestPositionAdvances is about what moves the position, and when who waits is told.
func TestPositionAdvances(t *testing.T) {
	f := New(Options{SegmentSize: mib})
	var w wal.SegmentWriter
	at := func(l wal.LSN, t wal.Timeline) wal.Position { return wal.Position{LSN: l, Timeline: t} }
	for _, step := range []struct {
		reason string
		do     func() error
		want   wal.Position
	}{
		{"nothing is known", func() error { return nil }, at(0, 0)},
		{"as it is told", func() error { f.Advance(at(0x345678, 1)); return nil }, at(0x345678, 1)},
		{"back", func() error { f.Advance(at(0x300000, 1)); return nil }, at(0x345678, 1)},
		{"an older timeline", func() error { f.Advance(at(0x999999, 0)); return nil }, at(0x345678, 1)},
		{"a segment begins", func() (err error) { w, err = f.Begin("000000010000000000000003", mib); return }, at(0x345678, 1)},
		{"what was known before comes again", func() error { _, err := w.Write(segment(1, 3, 0)[:0x40000]); return err }, at(0x345678, 1)},
		{"the rest", func() error { _, err := w.Write(segment(1, 3, 0)[0x40000:]); return err }, at(0x400000, 1)},
		{"flushing", func() error { return errors.Join(w.Flush(), w.Finish(), w.Abandon()) }, at(0x400000, 1)},
		{"the history of a new timeline", func() error { return f.History("00000002.history", []byte("1\t0/3F0000\tno\n")) }, at(0x3F0000, 2)},
		{"and again", func() error { return f.History("00000002.history", []byte("1\t0/3F0000\tno\n")) }, at(0x3F0000, 2)},
		{"the segment again", func() (err error) {
			w, err = f.Begin("000000020000000000000003", mib)
			if err == nil {
				_, err = w.Write(segment(1, 3, 0)[:0x80000])
			}
			return
		}, at(0x3F0000, 2)},
		{"and on", func() error { _, err := w.Write(segment(1, 3, 0)[0x80000:]); return err }, at(0x400000, 2)},
	} {
		before, changed := f.Flushed()
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.reason, err)
		}
		got, _ := f.Flushed()
		if got != step.want {
			t.Errorf("%s: flushed to %v, want %v", step.reason, got, step.want)
		}
		told := false
		select {
		case <-changed:
			told = true
		default:
		}
		if told != (got != before) {
			t.Errorf("%s: told of a change: %t", step.reason, told)
		}
	}
}

func TestStreamIsRefused(t *testing.T) {
	f := New(Options{SegmentSize: mib})
	for _, c := range []struct {
		do   func() error
		want string
	}{
		{func() error { _, err := f.Begin("00000001000000000000000X", mib); return err }, "not the name"},
		{func() error { _, err := f.Begin("000000010000000000000003", 2*mib); return err }, "is of 2097152 bytes, not of 1048576"},
		{func() error { return f.History("0000002.history", nil) }, "not the name"},
		{func() error { return f.History("00000002.hist", nil) }, "not the name"},
		{func() error { return f.History("00000002.history", []byte("x")) }, "line 1"},
	} {
		if err := c.do(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}

// place makes files in a folder, compressed as their names say.
func place(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		var b bytes.Buffer
		w, err := seal.NewWriter(&b, seal.Spec{Algorithm: seal.BySuffix(name)})
		must(t, err)
		_, err = w.Write(content)
		must(t, errors.Join(err, w.Close()))
		must(t, os.WriteFile(filepath.Join(dir, name), b.Bytes(), 0o600))
	}
}

func TestHistoryFile(t *testing.T) {
	o := Options{Dir: t.TempDir(), ArchiveDir: t.TempDir(), SegmentSize: mib}
	f := New(o)
	must(t, f.History("00000006.history", []byte("1\t0/16\n")))
	place(t, o.Dir, map[string][]byte{"00000002.history": []byte("log")})
	place(t, o.ArchiveDir, map[string][]byte{
		"00000002.history": []byte("archive"), "00000003.history": []byte("plain"),
		"00000004.history.gz": []byte("gzip"), "00000005.history.zst": []byte("zstd"),
	})
	for timeline, want := range map[wal.Timeline]string{2: "log", 3: "plain", 4: "gzip", 5: "zstd", 6: "1\t0/16\n"} {
		if got, err := f.HistoryFile(t.Context(), timeline); string(got) != want || err != nil {
			t.Errorf("history of %d: %q, %v, want %q", timeline, got, err, want)
		}
	}
	if _, err := f.HistoryFile(t.Context(), 7); !errors.Is(err, fs.ErrNotExist) || fmt.Sprint(err) != "timeline history 00000007.history: file does not exist" {
		t.Errorf("missing: %v", err)
	}
}
