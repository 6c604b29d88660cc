package waldir

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/seal"
	"basin/internal/wal"
)

// receiver brings a log to a directory as the client does.
type receiver struct {
	d     *Directory
	log   *log
	piece int           // bytes of one Write
	every int           // pieces from one Flush to the next; zero is never
	acked func(wal.LSN) // is told what may be acknowledged; may be nil
}

// receive streams from start, where a segment begins, up to end.
func (r receiver) receive(start, end wal.LSN) error {
	var w wal.SegmentWriter
	for at, n := start, 1; at < end; n++ {
		if w == nil {
			var err error
			if w, err = r.d.Begin(r.log.name(at), segmentSize); err != nil {
				return err
			}
		}
		offset := int(at - r.log.start)
		room := segmentSize - offset%segmentSize
		piece := min(r.piece, room, int(end-at))
		if _, err := w.Write(r.log.bytes[offset : offset+piece]); err != nil {
			return errors.Join(err, w.Abandon())
		}
		at += wal.LSN(piece)
		switch {
		case piece == room:
			if err := w.Finish(); err != nil {
				return err
			}
			w = nil
			r.ack(at)
		case r.every > 0 && n%r.every == 0:
			if err := w.Flush(); err != nil {
				return errors.Join(err, w.Abandon())
			}
			r.ack(at)
		}
	}
	if w == nil {
		return nil
	}
	if err := w.Abandon(); err != nil {
		return err
	}
	r.ack(end)
	return nil
}

func (r receiver) ack(at wal.LSN) {
	if r.acked != nil {
		r.acked(at)
	}
}

// goOn streams from where the directory says, or from the beginning of the log.
func (r receiver) goOn(end wal.LSN) error {
	start, ok, err := r.d.Start()
	if err != nil {
		return err
	}
	if !ok {
		start.LSN = r.log.start
	}
	if start.LSN < r.log.start || start.LSN > r.log.end() {
		return fmt.Errorf("starts at %v, the log is from %v to %v", start.LSN, r.log.start, r.log.end())
	}
	return r.receive(start.LSN, end)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open opens a directory that nothing is wrong with.
func open(t *testing.T, o Options) *Directory {
	t.Helper()
	o.SegmentSize = segmentSize
	if o.Warn == nil {
		o.Warn = func(err error) { t.Errorf("warned: %v", err) }
	}
	d, err := Open(o)
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// held returns what is in the files of a segment, the complete ones and the others,
// by name.
func held(d *Directory, name string) (complete, partial map[string][]byte, err error) {
	complete, partial = map[string][]byte{}, map[string][]byte{}
	names, err := d.disk.names(".")
	if err != nil {
		return nil, nil, err
	}
	for _, file := range names {
		e, ok := parseEntry(file, segmentSize)
		if !ok || !strings.HasPrefix(file, name) {
			continue
		}
		r, err := d.reader(e)
		if err != nil {
			return nil, nil, err
		}
		content, err := readAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", file, err)
		}
		if e.partial {
			partial[file] = content
		} else {
			complete[file] = content
		}
	}
	return complete, partial, nil
}

// holds returns an error if the directory has not the log from start up to end: each
// whole segment as one complete file, the rest as a partial one.
func holds(d *Directory, l *log, end wal.LSN) error {
	d.jobs.hold() // which make two of a complete file, for a moment
	defer d.jobs.release()
	for n := 0; l.start+wal.LSN(n*segmentSize) < end; n++ {
		complete, partial, err := held(d, l.nth(n))
		if err != nil {
			return err
		}
		at := l.start + wal.LSN(n*segmentSize)
		want, files := int(min(end-at, segmentSize)), complete
		if want < segmentSize {
			files = partial
		}
		if len(complete)+len(partial) != 1 || len(files) != 1 {
			return fmt.Errorf("segment %s: %d complete files and %d partial ones", l.nth(n), len(complete), len(partial))
		}
		for name, content := range files {
			if len(content) != segmentSize {
				return fmt.Errorf("%s has %d bytes", name, len(content))
			}
			if i := firstDifference(content[:want], l.segment(n)[:want]); i >= 0 {
				return fmt.Errorf("%s is wrong from byte %d on", name, i)
			}
		}
	}
	return nil
}

var methods = []seal.Algorithm{seal.None, seal.Gzip, seal.LZ4, seal.Zstd}

// TestMethodChanges goes from each method to each other, in the midst of a segment.
func TestMethodChanges(t *testing.T) {
	l := newLog(1, 5, 2).fill(6*segmentSize, 30000)
	names := func(d *Directory) []string {
		names, err := d.disk.names(".")
		must(t, err)
		return names
	}
	for _, first := range methods {
		for _, then := range methods {
			t.Run(fmt.Sprintf("%v to %v", first, then), func(t *testing.T) {
				t.Parallel()
				o := Options{Path: t.TempDir(), Compression: seal.Spec{Algorithm: first}}
				d := open(t, o)
				end := l.start + 2*segmentSize + 200_000
				must(t, receiver{d: d, log: l, piece: 50_000}.goOn(end))
				must(t, d.Close())
				o.Compression.Algorithm = then
				d = open(t, o)
				start, ok, err := d.Start()
				if want := (wal.Position{LSN: l.start + 2*segmentSize, Timeline: 1}); start != want || !ok || err != nil {
					t.Fatalf("starts at %v, %t, %v", start, ok, err)
				}
				reached, ok, err := d.End()
				if whole := lastEnd(l, end); reached.LSN != whole || !ok || err != nil {
					t.Errorf("reaches %v, %t, %v; want %v", reached, ok, err, whole)
				}
				must(t, holds(d, l, end))
				end += 2 * segmentSize
				must(t, receiver{d: d, log: l, piece: 70_000}.goOn(end))
				must(t, d.Close())
				d = open(t, o)
				must(t, holds(d, l, end))
				a, b := seal.Suffix(first), seal.Suffix(then)
				want := []string{l.nth(0) + a, l.nth(1) + a, l.nth(2) + b, l.nth(3) + b, l.nth(4) + b + ".partial"}
				if diff := cmp.Diff(want, names(d)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
	t.Run("through all", func(t *testing.T) {
		t.Parallel()
		o := Options{Path: t.TempDir()}
		for i, method := range []seal.Algorithm{seal.None, seal.Gzip, seal.LZ4, seal.Zstd, seal.None} {
			o.Compression.Algorithm = method
			d := open(t, o)
			end := l.start + wal.LSN(i*segmentSize+500_000)
			must(t, receiver{d: d, log: l, piece: 100_000, every: 2}.goOn(end))
			must(t, holds(d, l, end))
			must(t, d.Close())
		}
		d := open(t, o)
		want := []string{l.nth(0) + ".gz", l.nth(1) + ".lz4", l.nth(2) + ".zst", l.nth(3), l.nth(4) + ".partial"}
		if diff := cmp.Diff(want, names(d)); diff != "" {
			t.Error(diff)
		}
	})
}

// lastEnd returns where the last record ends that is whole in the log up to a
// position.
func lastEnd(l *log, upto wal.LSN) wal.LSN {
	i, found := slices.BinarySearch(l.ends, upto)
	if found {
		return upto
	}
	if i == 0 {
		return l.start
	}
	return l.ends[i-1]
}
