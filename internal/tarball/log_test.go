package tarball

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/backup/sinktest"
	"basin/internal/wal"
)

var _ wal.Keeper = (*Log)(nil)

// framed is a compressor that cannot flush.
type framed struct{ io.WriteCloser }

func TestLog(t *testing.T) {
	const complete, begun = "000000010000000000000001", "000000010000000000000002"
	content := bytes.Repeat([]byte("x"), wal.MinSegmentSize)
	for _, c := range []struct {
		name    string
		options LogOptions
		abandon bool // or left open
	}{
		{"plain tar", LogOptions{}, true},
		{"segment left open", LogOptions{}, false},
		{"not synced", LogOptions{NoSync: true}, true},
		{"gzip that can flush", LogOptions{Compress: compressGzip, Suffix: ".gz"}, true},
		{"gzip that cannot flush", LogOptions{Suffix: ".gz", Compress: func(w io.Writer) (io.WriteCloser, error) {
			z, err := compressGzip(w)
			return framed{z}, err
		}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			c.options.Dir = t.TempDir()
			l, err := NewLog(c.options)
			must(err)
			w, err := l.Begin(complete, wal.MinSegmentSize)
			must(err)
			if _, err := l.Begin(begun, wal.MinSegmentSize); err == nil {
				t.Error("two segments at a time")
			}
			for _, piece := range [][]byte{content[:1000], content[1000:]} {
				_, err := w.Write(piece)
				must(err)
				must(w.Flush())
			}
			if _, err := w.Write([]byte("x")); err == nil {
				t.Error("a segment takes more than its size")
			}
			must(w.Finish())
			for range 2 {
				must(l.History("00000002.history", []byte("history")))
			}
			if has, err := l.HasHistory("00000002.history"); !has || err != nil {
				t.Errorf("history is not kept: %v", err)
			}
			w, err = l.Begin(begun, wal.MinSegmentSize)
			must(err)
			_, err = w.Write([]byte("begun"))
			must(err)
			if c.abandon {
				must(w.Abandon())
			}
			must(l.Close())
			must(l.Close())

			want := map[string]string{
				complete: string(content), "archive_status/" + complete + ".done": "",
				begun:              "begun" + strings.Repeat("\x00", wal.MinSegmentSize-len("begun")),
				"00000002.history": "history", "archive_status/00000002.history.done": "",
			}
			raw, err := unpacked(filepath.Join(c.options.Dir, "pg_wal.tar"+c.options.Suffix), c.options.Compress != nil)
			must(err)
			got := readTar(t, 0, raw)
			for name, content := range want {
				e, ok := got[sinktest.Key{Path: name}]
				if !ok || e.Content != content || e.Mode != 0o600 {
					t.Errorf("%s: there %t, %d bytes, mode %o", name, ok, len(e.Content), e.Mode)
				}
			}
			if len(got) != len(want) {
				t.Errorf("%d members, want %d", len(got), len(want))
			}
		})
	}
}

func TestSegmentThatEndsEarlyIsNotComplete(t *testing.T) {
	dir := t.TempDir()
	l, err := NewLog(LogOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	w, err := l.Begin("000000010000000000000001", wal.MinSegmentSize)
	if err != nil {
		t.Fatal(err)
	}
	if w.Finish() == nil {
		t.Error("complete without its bytes")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := unpacked(filepath.Join(dir, "pg_wal.tar"), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := readTar(t, 0, raw); len(got) != 1 {
		t.Errorf("%d members, want the segment alone", len(got))
	}
}
