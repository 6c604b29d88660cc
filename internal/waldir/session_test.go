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
