package waldir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// TestRestOfRecordIsKept is about a record that began in a segment before: the rest of
// it has no checksum of its own, and is not overwritten by something else either.
func TestRestOfRecordIsKept(t *testing.T) {
	for _, c := range []struct {
		reason string
		length int            // bytes of the record, which begins shortly before the end of the first segment
		absent []int          // segments that are not there
		valid  bool           // whether the rest is known to be of a record
		method seal.Algorithm // of the segments before
	}{
		{"begun in the segment before", 60_000, nil, true, seal.None},
		{"begun in the segment before, compressed", 60_000, nil, true, seal.LZ4},
		{"begun two segments before", segmentSize + 60_000, nil, true, seal.None},
		{"begun five segments before", 4*segmentSize + 60_000, nil, true, seal.Zstd},
		{"begun in a segment that is not there", 60_000, []int{0}, false, seal.None},
		{"begun before one that is not there", 2*segmentSize + 60_000, []int{1}, false, seal.None},
	} {
		t.Run(c.reason, func(t *testing.T) {
			l := newLog(1, 5, 9).fill(segmentSize-20_000, 5000)
			for len(l.bytes) < segmentSize-10_000 {
				l.fill(len(l.bytes)+1, 500)
			}
			data := make([]byte, c.length)
			data[len(data)-1] = 1
			l.record(managerHeap, 0, 1000, data)
			last, end := (len(l.bytes)-1)/segmentSize, l.end()
			l.fill((last+1)*segmentSize, 40_000)

			dir := t.TempDir()
			for n := range last {
				must(t, os.WriteFile(filepath.Join(dir, l.nth(n)+seal.Suffix(c.method)), packed(t, l.segment(n), c.method), 0o600))
			}
			for _, n := range c.absent {
				must(t, os.Remove(filepath.Join(dir, l.nth(n)+seal.Suffix(c.method))))
			}
			partial := l.until(end + 8).segment(last)
			must(t, os.WriteFile(filepath.Join(dir, l.nth(last)+".partial"), partial, 0o600))
			d := open(t, Options{Path: dir})
			other := patched(l.segment(last), int(end-l.start)%segmentSize-4, 7)
			w, err := d.Begin(l.nth(last), segmentSize)
			must(t, err)
			_, err = w.Write(other)
			var conflict *ConflictError
			if !c.valid {
				must(t, err)
				must(t, w.Finish())
				return
			}
			want := &ConflictError{Segment: l.nth(last), File: filepath.Join(dir, l.nth(last)+".partial"), At: end - 4, End: end}
			if !errors.As(err, &conflict) || cmp.Diff(want, conflict) != "" || usererr.Hint(err) == "" {
				t.Fatalf("error is %v", err)
			}
			for what, err := range map[string]error{"flush": w.Flush(), "finish": w.Finish()} {
				if !errors.As(err, &conflict) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if _, err := w.Write(nil); !errors.As(err, &conflict) {
				t.Errorf("write: %v", err)
			}
			must(t, d.Close())
			if got, err := os.ReadFile(filepath.Join(dir, l.nth(last)+".partial")); string(got) != string(partial) {
				t.Errorf("the file is not what it was; %v", err)
			}
		})
	}
}

// TestConflictKeepsItsName is about a partial segment that the user is told of: it is
// not compressed under another name.
func TestConflictKeepsItsName(t *testing.T) {
	l := newLog(1, 5, 9).fill(segmentSize, 5000)
	d := open(t, Options{Path: t.TempDir(), Compression: seal.Spec{Algorithm: seal.Gzip}})
	must(t, receiver{d: d, log: l, piece: 100_000}.receive(l.start, l.start+300_000))
	err := receiver{d: d, log: newLog(1, 5, 10).fill(segmentSize, 5000), piece: 100_000}.receive(l.start, l.start+300_000)
	if err == nil {
		t.Fatal("the segments are of two clusters")
	}
	must(t, d.Close())
	names, err := filepath.Glob(filepath.Join(d.o.Path, "*"))
	if want := []string{filepath.Join(d.o.Path, l.nth(0)+".partial")}; err != nil || cmp.Diff(want, names) != "" {
		t.Errorf("files are %q, %v", names, err)
	}
}

// TestAfterASwitch is about the rest of a segment that a server has left: it counts as
// log, but the file does not hold it yet, and up to version 10 it is not only zeros.
func TestAfterASwitch(t *testing.T) {
	l := newLog(1, 5, 9).fill(300_000, 5000)
	l.next()
	whole := l.segment(0)
	for page := (300_000/pageSize + 3) * pageSize; page < segmentSize; page += pageSize {
		copy(whole[page:], whole[pageSize:pageSize+16])
	}
	dir := t.TempDir()
	d := open(t, Options{Path: dir})
	must(t, receiver{d: d, log: l, piece: 50_000}.receive(l.start, l.ends[len(l.ends)-2]+24))
	if end, ok, err := d.End(); end.LSN >= l.start+segmentSize || !ok || err != nil {
		t.Errorf("reaches %v, %t, %v", end, ok, err)
	}
	w, err := d.Begin(l.nth(0), segmentSize)
	must(t, err)
	_, err = w.Write(whole)
	must(t, err)
	must(t, w.Finish())
	if got, err := os.ReadFile(filepath.Join(dir, l.nth(0))); string(got) != string(whole) {
		t.Errorf("the segment is another; %v", err)
	}
}

// TestWhatFollowsTheLastRecordMayChange is about a server that has crashed: what it
// had sent of a record that was not complete comes again as another.
func TestWhatFollowsTheLastRecordMayChange(t *testing.T) {
	l := newLog(1, 5, 9).fill(segmentSize, 50_000)
	cut := l.start + 300_000
	again := l.fork(l.recordAt(cut), 1, 11).fill(segmentSize, 50_000)
	for _, method := range methods {
		for _, quick := range []bool{false, true} {
			dir := t.TempDir()
			o := Options{Path: dir, Compression: seal.Spec{Algorithm: method}, QuickFlush: quick}
			d := open(t, o)
			must(t, receiver{d: d, log: l, piece: 50_000, every: 1}.receive(l.start, cut))
			must(t, d.Close())
			d = open(t, o)
			must(t, receiver{d: d, log: again, piece: 70_000, every: 1}.receive(l.start, l.start+400_000))
			must(t, receiver{d: d, log: again, piece: 70_000, every: 1}.receive(l.start, l.start+segmentSize))
			must(t, d.Close())
			must(t, holds(open(t, o), again, l.start+segmentSize))
		}
	}
}

// TestOneSegmentAtATime is about what a receiver may not do.
func TestOneSegmentAtATime(t *testing.T) {
	l := newLog(1, 5, 9).fill(segmentSize, 50_000)
	d := open(t, Options{Path: t.TempDir()})
	for _, c := range []struct {
		name string
		size int64
	}{{l.nth(0), 2 * segmentSize}, {"00000002.history", segmentSize}, {l.nth(0) + ".partial", segmentSize}} {
		if _, err := d.Begin(c.name, c.size); err == nil {
			t.Errorf("%s of %d bytes begins", c.name, c.size)
		}
	}
	w, err := d.Begin(l.nth(0), segmentSize)
	must(t, err)
	if _, err := d.Begin(l.nth(1), segmentSize); err == nil || !strings.Contains(err.Error(), l.nth(0)) {
		t.Errorf("error is %v", err)
	}
	if _, err := d.SetApart(1, l.start); err == nil {
		t.Error("a segment that is open is set apart")
	}
	must(t, d.Close()) // abandons it
	for what, err := range map[string]error{"flush": w.Flush(), "finish": w.Finish()} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	must(t, w.Abandon())
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("write: no error")
	}
	if _, _, err := d.Start(); err == nil {
		t.Error("start: no error")
	}
	if _, _, err := d.End(); err == nil {
		t.Error("end: no error")
	}
	if _, err := d.SetApart(1, 0); err == nil {
		t.Error("set apart: no error")
	}
}

func TestNames(t *testing.T) {
	const name = "00000002000000010000000A"
	segment := wal.Segment{Timeline: 2, Number: 1<<12 + 10}
	for text, want := range map[string]entry{
		name:                  {segment: segment},
		name + ".gz":          {segment: segment, method: seal.Gzip},
		name + ".lz4":         {segment: segment, method: seal.LZ4},
		name + ".zst":         {segment: segment, method: seal.Zstd},
		name + ".partial":     {segment: segment, partial: true},
		name + ".gz.partial":  {segment: segment, method: seal.Gzip, partial: true},
		name + ".lz4.partial": {segment: segment, method: seal.LZ4, partial: true},
		name + ".zst.partial": {segment: segment, method: seal.Zstd, partial: true},
		name[:23]:             {}, name + "0": {}, name + ".partial.gz": {}, name + ".gz.lz4": {}, name + ".gz.partial.partial": {},
		"00000002000000010000000a": {}, "000000020000000100001000": {}, "00000000" + name[8:]: {}, name + ".done": {}, name + ".GZ": {}, "": {},
		name + ".damaged": {}, name + ".tmp": {}, name + ".00000028.backup": {},
	} {
		want.name = text
		if got, ok := parseEntry(text, segmentSize); ok != (want.segment.Number > 0) || ok && got != want {
			t.Errorf("%q is %+v, %t", text, got, ok)
		}
	}
	for text, want := range map[string]bool{
		name + ".damaged": true, name + ".gz.partial.damaged.12": true, name + ".damaged.damaged": false,
		name: false, name + ".damagedx": false, "x.damaged": false, "00000002.history.damaged": false,
	} {
		if got, ok := parseDamaged(text, segmentSize); ok != want || ok && (got.segment != segment || got.name != text || !got.damaged) {
			t.Errorf("%q is %+v, %t", text, got, ok)
		}
	}
	for text, want := range map[string]bool{
		name + ".gz.tmp": true, name + ".partial.tmp": true, name + ".zst.partial.tmp": true,
		"00000002.history.tmp": true, "00000002.history.lz4.tmp": true,
		name + ".tmp": false, name + ".gz": false, "x.tmp": false, "2.history.tmp": false, ".tmp": false,
	} {
		if got := isTemporary(text, segmentSize); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}
