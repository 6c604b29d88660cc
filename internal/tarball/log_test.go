package tarball

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"basin/internal/backup"
	"basin/internal/wal"
	"basin/internal/wal/keepertest"
)

var _ wal.Keeper = (*Log)(nil)

// framed is a compressor that cannot flush.
type framed struct{ io.WriteCloser }

func TestLogKeepsItsPromises(t *testing.T) {
	for _, c := range []struct {
		name    string
		options LogOptions
	}{
		{"plain tar", LogOptions{}},
		{"not synced", LogOptions{Sync: unsynced}},
		{"gzip that can flush", LogOptions{Compress: compressGzip, Suffix: ".gz"}},
		{"gzip aside", LogOptions{Compress: compressAside, Suffix: ".gz"}},
		{"gzip that cannot flush", LogOptions{Suffix: ".gz", Compress: func(w io.Writer) (io.WriteCloser, error) {
			z, err := compressGzip(w)
			return framed{z}, err
		}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			keepertest.Suite{Open: func(t *testing.T, dir string) keepertest.Subject {
				o := c.options
				o.Dir = claim(t, dir)
				l, err := NewLog(o)
				if err != nil {
					t.Fatal(err)
				}
				return keepertest.Subject{Keeper: l, Read: func(t *testing.T) map[string]string {
					raw, err := unpacked(filepath.Join(dir, "pg_wal.tar"+o.Suffix), o.Compress != nil)
					if err != nil {
						t.Fatal(err)
					}
					files := map[string]string{}
					for key, e := range readTar(t, 0, raw) {
						if e.Kind != backup.File || e.Mode != 0o600 {
							t.Errorf("%s has kind %d and mode %o", key.Path, e.Kind, e.Mode)
						}
						files[key.Path] = e.Content
					}
					return files
				}}
			}}.Run(t)
		})
	}
}

func TestOneSegmentAtATime(t *testing.T) {
	l, err := NewLog(LogOptions{Dir: claim(t, t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := l.Begin("000000010000000000000001", wal.MinSegmentSize); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Begin("000000010000000000000002", wal.MinSegmentSize); err == nil {
		t.Error("another begins")
	}
	if l.Commit() == nil {
		t.Error("a log with an open segment is whole")
	}
}

// TestLogThatIsNotWholeHasNoEnd gives up a log at every state.
func TestLogThatIsNotWholeHasNoEnd(t *testing.T) {
	for _, compress := range []func(io.Writer) (io.WriteCloser, error){nil, compressGzip, compressAside} {
		for _, c := range []struct {
			reason string
			do     func(l *Log) error
		}{
			{"empty", func(*Log) error { return nil }},
			{"within a segment", func(l *Log) error {
				w, err := l.Begin("000000010000000000000001", wal.MinSegmentSize)
				return errors.Join(err, w.Flush())
			}},
			{"segment abandoned", func(l *Log) error {
				w, err := l.Begin("000000010000000000000001", wal.MinSegmentSize)
				return errors.Join(err, w.Flush(), w.Abandon())
			}},
			{"between members", func(l *Log) error { return l.History("00000002.history", []byte("history")) }},
		} {
			t.Run(c.reason, func(t *testing.T) {
				dir := t.TempDir()
				l, err := NewLog(LogOptions{Dir: claim(t, dir), Compress: compress})
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(c.do(l), l.Close()); err != nil {
					t.Fatal(err)
				}
				raw, err := unpacked(filepath.Join(dir, "pg_wal.tar"), compress != nil)
				if err == nil && bytes.HasSuffix(raw, make([]byte, backup.TarEnd)) {
					t.Errorf("%d bytes with an end", len(raw))
				}
			})
		}
	}
}
