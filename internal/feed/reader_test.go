package feed

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"basin/internal/wal"
)

// TestWhereLogIsRead is about which file the bytes of a segment are taken from.
// Each is filled with a letter that says which it is.
func TestWhereLogIsRead(t *testing.T) {
	const (
		name  = "000000010000000000000003"
		heir  = "000000020000000000000003"
		heir3 = "000000030000000000000003"
	)
	type files = map[string][]byte
	good := func(fill byte) []byte { return segment(1, 3, fill) }
	foreign := good('x')
	foreign[24]++ // the system identifier
	for _, c := range []struct {
		reason       string
		log, archive files
		newest       wal.Timeline
		history      string // of newest
		at           wal.LSN
		want         string // which file, or a part of the error
	}{
		{"from the log", files{name: good('a')}, files{name: good('b')}, 1, "", 0x300000, "a"},
		{"from the archive", nil, files{name: good('b')}, 1, "", 0x300000, "b"},
		{"compressed with gzip", nil, files{name + ".gz": good('b')}, 1, "", 0x300000, "b"},
		{"compressed with lz4", nil, files{name + ".lz4": good('b')}, 1, "", 0x3FFF00, "b"},
		{"compressed with zstd", nil, files{name + ".zst": good('b')}, 1, "", 0x380000, "b"},
		{"as a promotion renamed it", files{name + ".partial": good('a')}, nil, 1, "", 0x300000, "a"},
		{"a part in the archive is not used", nil, files{name + ".partial": good('b'), name + ".gz.partial": good('b')}, 1, "", 0x300000, "segment " + name + ": file does not exist"},
		{"nowhere", nil, nil, 1, "", 0x300000, "segment " + name + ": file does not exist"},
		{"a file to be written yet", files{name: segment(1, 1, 'x')}, nil, 1, "", 0x300000, "its header says 0/100000"},
		{"a file to be written yet, and the archive", files{name: segment(1, 1, 'x')}, files{name: good('b')}, 1, "", 0x300000, "b"},
		{"an empty page", files{name: make([]byte, mib)}, nil, 1, "", 0x300000, "file does not exist"},
		{"another cluster", files{name: foreign}, nil, 1, "", 0x300000, "file does not exist"},
		{"cut short", files{name: good('a')[:mib-1]}, nil, 1, "", 0x300000, "its file has 1048575 bytes, not 1048576"},
		{"cut short, compressed", nil, files{name + ".zst": good('b')[:1000]}, 1, "", 0x310000, "unexpected EOF"},
		{"of a later timeline", files{name: segment(2, 3, 'x')}, nil, 1, "", 0x300000, "it is of timeline 2, not 1"},

		{"the switchpoint's, from the next timeline's", files{heir: good('h')}, nil, 2, "1\t0/380000\t\n", 0x300000, "h"},
		{"which is better than its own", files{heir: good('h'), name: good('a')}, nil, 2, "1\t0/380000\t\n", 0x300000, "h"},
		{"but not past the switchpoint", files{heir: good('h'), name: good('a')}, nil, 2, "1\t0/380000\t\n", 0x37FFFF, "a"},
		{"from the archive's", nil, files{heir + ".lz4": good('h')}, 2, "1\t0/380000\t\n", 0x300000, "h"},
		{"another segment's has its own", files{heir: good('h')}, nil, 2, "1\t0/480000\t\n", 0x300000, "file does not exist"},
		{"the switchpoint begins the segment", files{heir: good('h')}, nil, 2, "1\t0/400000\t\n", 0x3F0000, "file does not exist"},
		{"two timelines on", files{heir3: good('i'), heir: good('h')}, nil, 3, "1\t0/380000\t\n2\t0/390000\t\n", 0x300000, "i"},
		{"two timelines on, of which the second began later", files{heir3: good('i'), heir: good('h')}, nil, 3, "1\t0/380000\t\n2\t0/490000\t\n", 0x300000, "h"},
		{"two timelines on, of which the first was left early", files{heir3: good('i'), heir: good('h')}, nil, 3, "1\t0/380000\t\n2\t0/310000\t\n", 0x300000, "h"},
		{"no ancestor", files{heir: good('h'), heir3: good('i')}, nil, 3, "2\t0/380000\t\n", 0x300000, "file does not exist"},
		{"no history", files{heir: good('h'), name: good('a')}, nil, 2, "", 0x300000, "a"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			o := Options{Dir: t.TempDir(), ArchiveDir: t.TempDir(), SegmentSize: mib, SystemID: system, Major: 18}
			place(t, o.Dir, c.log)
			place(t, o.ArchiveDir, c.archive)
			if c.history != "" {
				place(t, o.Dir, files{wal.HistoryName(c.newest): []byte(c.history)})
			}
			f := New(o)
			f.Advance(wal.Position{LSN: 0x500000, Timeline: c.newest})
			r := f.Reader(1)
			defer r.Close()
			p := make([]byte, 100)
			n, err := r.ReadAt(t.Context(), p, c.at)
			switch {
			case err != nil && strings.Contains(err.Error(), c.want):
				if !errors.Is(err, fs.ErrNotExist) && !strings.Contains(c.want, "EOF") {
					t.Errorf("%v is no fs.ErrNotExist", err)
				}
			case err != nil || n != len(p) || string(p[50]) != c.want:
				t.Errorf("read %d bytes of %q, %v, want %s", n, p[50], err, c.want)
			}
		})
	}
}

// TestReadOn is about one reader: segment by segment, back, and what is compressed.
func TestReadOn(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	o := Options{Dir: t.TempDir(), ArchiveDir: t.TempDir(), SegmentSize: mib, SystemID: system}
	third, fourth := segment(1, 3, 'c'), segment(1, 4, 'd')
	for i := range 26 {
		third[100_000+i*20_000] = byte('A' + i)
	}
	place(t, o.ArchiveDir, map[string][]byte{"000000010000000000000003.zst": third})
	place(t, o.Dir, map[string][]byte{"000000010000000000000004": fourth})
	f := New(o)
	f.Advance(wal.Position{LSN: 0x500000, Timeline: 1})
	r := f.Reader(1)
	p := make([]byte, 300_000)
	all := append(third, fourth...)
	for _, at := range []int{0, 300_000, 600_000, 900_000, 1 << 20, 0x1E0000, 0x1FFFFF, 50_000, 10, 10, 700_000} {
		n, err := r.ReadAt(t.Context(), p, 0x300000+wal.LSN(at))
		want := all[at:min(at+len(p), (at/mib+1)*mib)]
		if err != nil || !bytes.Equal(p[:n], want) {
			t.Errorf("at %d: %d bytes, %v, want %d", at, n, err, len(want))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.ReadAt(ctx, p, 0x300000); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	must(t, r.Close())
	must(t, r.Close())
}

// TestRecycled has the server make the file that is open into another segment, and
// fill it.
func TestRecycled(t *testing.T) {
	const name, future = "000000010000000000000003", "000000010000000000000009"
	for _, c := range []struct {
		reason string
		then   func(t *testing.T, o Options) // after the file was renamed
		want   string
	}{
		{"and it is gone", func(*testing.T, Options) {}, "segment " + name + ": file does not exist"},
		{"and the archive has it", func(t *testing.T, o Options) {
			place(t, o.ArchiveDir, map[string][]byte{name + ".gz": segment(1, 3, 'b')})
		}, "b"},
		{"and it was restored", func(t *testing.T, o Options) {
			place(t, o.Dir, map[string][]byte{name: segment(1, 3, 'r')})
		}, "r"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			o := Options{Dir: t.TempDir(), ArchiveDir: t.TempDir(), SegmentSize: mib, SystemID: system}
			place(t, o.Dir, map[string][]byte{name: segment(1, 3, 'a')})
			f := New(o)
			f.Advance(wal.Position{LSN: 0x500000, Timeline: 1})
			r := f.Reader(1)
			defer r.Close()
			p := make([]byte, 100)
			_, err := r.ReadAt(t.Context(), p, 0x300000)
			must(t, err)
			must(t, os.Rename(filepath.Join(o.Dir, name), filepath.Join(o.Dir, future)))
			file, err := os.OpenFile(filepath.Join(o.Dir, future), os.O_WRONLY, 0)
			must(t, err)
			_, err = file.Write(segment(1, 9, 'x'))
			must(t, errors.Join(err, file.Close()))
			c.then(t, o)
			_, err = r.ReadAt(t.Context(), p, 0x300100)
			switch {
			case err != nil && err.Error() == c.want && errors.Is(err, fs.ErrNotExist):
			case err != nil || string(p[0]) != c.want:
				t.Errorf("read %q, %v, want %s", p[0], err, c.want)
			}
		})
	}
}

// TestTimelineIsLeft has the cluster go on with a new timeline, without ever having
// had all of the old one's last segment.
func TestTimelineIsLeft(t *testing.T) {
	o := Options{Dir: t.TempDir(), SegmentSize: mib, SystemID: system}
	place(t, o.Dir, map[string][]byte{"000000010000000000000003": segment(1, 3, 'a')})
	f := New(o)
	f.Advance(wal.Position{LSN: 0x340000, Timeline: 1})
	r := f.Reader(1)
	defer r.Close()
	p := make([]byte, 100)
	_, err := r.ReadAt(t.Context(), p, 0x33FF00)
	must(t, err)
	place(t, o.Dir, map[string][]byte{"000000020000000000000003": segment(1, 3, 'h')})
	must(t, f.History("00000002.history", []byte("1\t0/380000\t\n")))
	_, err = r.ReadAt(t.Context(), p, 0x340000)
	if err != nil || p[0] != 'h' {
		t.Errorf("read %q, %v, want the new timeline's", p[0], err)
	}
}
