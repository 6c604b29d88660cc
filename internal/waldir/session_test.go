package waldir

import (
	"bytes"
	"errors"
	"testing"

	"basin/internal/seal"
	"basin/internal/wal"
)

// session is a directory on a memory that promises what it acknowledges.
type session struct {
	t *testing.T
	m *memory
	o Options
	d *Directory

	every int // pieces from one Flush to the next
	begun int // steps before the directory was opened
}

func newSession(t *testing.T, o Options) *session {
	o.SegmentSize, o.Path = segmentSize, "dir"
	o.Warn = func(err error) { t.Errorf("warned: %v", err) }
	return &session{t: t, m: newMemory(), o: o, every: 2}
}

// open opens the directory, with another method of compression.
func (s *session) open(method seal.Algorithm) *session {
	s.t.Helper()
	if s.d == nil {
		s.begun = len(s.m.steps)
	}
	s.o.Compression.Algorithm = method
	var err error
	s.d, err = openOn(s.m, s.o)
	must(s.t, err)
	return s
}

// receive goes on with a log.
func (s *session) receive(l *log, end wal.LSN) *session {
	s.t.Helper()
	r := receiver{d: s.d, log: l, piece: 130_000, every: s.every, acked: func(at wal.LSN) { s.m.promise(promise{log: l, upto: at}) }}
	must(s.t, r.goOn(end))
	return s
}

func (s *session) history(name, content string) *session {
	s.t.Helper()
	must(s.t, s.d.History(name, []byte(content)))
	s.m.promise(promise{history: name, content: content})
	return s
}

func (s *session) close() *session {
	s.t.Helper()
	must(s.t, s.d.Close())
	return s
}

// packed returns compressed bytes.
func packed(t *testing.T, data []byte, method seal.Algorithm) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := seal.NewWriter(&b, seal.Spec{Algorithm: method})
	must(t, err)
	_, err = w.Write(data)
	must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

// TestWhatWasFoundLasts is about a segment that another program left and did not sync,
// pg_receivewal with --no-sync perhaps: once the stream goes on after it, or it is all
// that is left of the segment, it is durable.
func TestWhatWasFoundLasts(t *testing.T) {
	l := newLog(1, 5, 3).fill(2*segmentSize, 20_000)
	for name, files := range map[string]map[string][]byte{
		"complete":            {l.nth(0): l.segment(0)},
		"compressed":          {l.nth(0) + ".lz4": packed(t, l.segment(0), seal.LZ4)},
		"compressed, and not": {l.nth(0): l.segment(0), l.nth(0) + ".gz": packed(t, l.segment(0), seal.Gzip)},
		"partial":             {l.nth(0) + ".partial": l.segment(0)},
		"partial, compressed": {l.nth(0) + ".zst.partial": packed(t, l.segment(0), seal.Zstd)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t, Options{})
			for file, content := range files {
				f, err := s.m.create(file)
				must(t, err)
				_, err = f.WriteAt(content, 0)
				must(t, err)
			}
			s.open(seal.None)
			w := newWorld()
			start, ok, err := s.d.Start()
			if err != nil || !ok {
				t.Fatalf("starts at %v, %t, %v", start, ok, err)
			}
			if start.LSN == l.start {
				_, err := s.d.Begin(l.nth(0), segmentSize)
				must(t, err)
			}
			for _, step := range s.m.steps {
				w.take(step)
			}
			for _, luck := range w.lucks() {
				d, err := openOn(w.left(luck), s.o)
				must(t, err)
				if err := kept(d, []promise{{log: l, upto: l.start + segmentSize}}); err != nil {
					t.Errorf("power fails, names %d but %d, data %s: %v", luck.names, luck.not, luck.data, err)
				}
				must(t, d.Close())
			}
			s.close()
		})
	}
}
