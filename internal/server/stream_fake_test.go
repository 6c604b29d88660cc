package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/protocol"
	"basin/internal/wal"
)

const mib = 1 << 20

// shelf is a Log in memory, whose bytes say where they are.
type shelf struct {
	mu        sync.Mutex
	flushed   wal.Position
	changed   chan struct{}
	histories map[wal.Timeline]string
	gone      wal.LSN // what was before is removed
	open      int     // readers
	err       error
}

func newShelf(at wal.LSN, t wal.Timeline) *shelf {
	return &shelf{flushed: wal.Position{LSN: at, Timeline: t}, changed: make(chan struct{}), histories: make(map[wal.Timeline]string)}
}

func (s *shelf) Flushed() (wal.Position, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flushed, s.changed
}

func (s *shelf) advance(at wal.LSN, t wal.Timeline) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flushed = wal.Position{LSN: at, Timeline: t}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *shelf) HistoryFile(_ context.Context, t wal.Timeline) ([]byte, error) {
	if content, ok := s.histories[t]; ok {
		return []byte(content), nil
	}
	return nil, fs.ErrNotExist
}

func (s *shelf) Reader(t wal.Timeline) LogReader {
	s.open++
	return &shelfReader{s, t}
}

type shelfReader struct {
	s *shelf
	t wal.Timeline
}

// logAt fills p with the log of a timeline from a position on.
func logAt(p []byte, t wal.Timeline, at wal.LSN) []byte {
	for i := range p {
		l := at + wal.LSN(i)
		p[i] = byte(l) ^ byte(l>>8)*3 ^ byte(l>>16)*5 ^ byte(t)
	}
	return p
}

func (r *shelfReader) ReadAt(_ context.Context, p []byte, at wal.LSN) (int, error) {
	if at/mib != (at+wal.LSN(len(p))-1)/mib {
		return 0, fmt.Errorf("%d bytes at %v are not of one segment", len(p), at)
	}
	if r.s.err != nil {
		return 0, r.s.err
	}
	if at < r.s.gone {
		return 0, fmt.Errorf("somewhere: %w", fs.ErrNotExist)
	}
	return len(logAt(p, r.t, at)), nil
}

func (r *shelfReader) Close() error {
	r.s.open--
	return nil
}

// wire is a peer in memory: what is sent waits until the client reads it.
type wire struct {
	down chan []byte
	up   chan []byte
	gone chan struct{} // closed by the client

	mu  sync.Mutex
	cut chan struct{} // closed once nothing more can be sent
}

func newWire() *wire {
	return &wire{down: make(chan []byte), up: make(chan []byte, 100), gone: make(chan struct{}), cut: make(chan struct{})}
}

func (w *wire) SetWriteDeadline(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.IsZero() {
		w.cut = make(chan struct{})
	} else {
		close(w.cut)
	}
	return nil
}

func (w *wire) Send(pieces ...[]byte) error {
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	for p := slices.Concat(pieces...); len(p) > 0; {
		n := 1 + int(binary.BigEndian.Uint32(p[1:]))
		select {
		case w.down <- bytes.Clone(p[:n]):
		case <-cut:
			return os.ErrDeadlineExceeded
		case <-w.gone:
			return io.ErrClosedPipe
		}
		p = p[n:]
	}
	return nil
}

func (w *wire) Receive(ctx context.Context) (byte, []byte, error) {
	if ctx.Err() != nil {
		return 0, nil, ctx.Err()
	}
	select {
	case m := <-w.up:
		return m[0], m[1:], nil
	case <-w.gone:
		return 0, nil, io.EOF
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

// show returns a message of the server in words. Bytes of the log are checked.
func show(m []byte) string {
	body := m[5:]
	switch m[0] {
	case 'W':
		return fmt.Sprintf("W % x", body)
	case 'c':
		return "c"
	case 'C':
		return "C " + strings.TrimSuffix(string(body), "\x00")
	case 'T':
		var r pgproto3.RowDescription
		if err := r.Decode(body); err != nil {
			return err.Error()
		}
		text := "T"
		for _, f := range r.Fields {
			text += fmt.Sprintf(" %s:%d:%d", f.Name, f.DataTypeOID, f.DataTypeSize)
		}
		return text
	case 'D':
		var r pgproto3.DataRow
		if err := r.Decode(body); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("D %s", bytes.Join(r.Values, []byte(" ")))
	case 'd':
		if body[0] == protocol.StreamData {
			at, end := protocol.ParseDataHeader(body)
			p := body[protocol.DataHeaderSize:]
			of := "?"
			for t := range wal.Timeline(9) {
				if bytes.Equal(p, logAt(make([]byte, len(p)), t, at)) {
					of = fmt.Sprint(t)
				}
			}
			return fmt.Sprintf("w %v+%d of %v, timeline %s", at, len(p), end, of)
		}
		if k, err := protocol.ParseKeepalive(body); err == nil && body[0] == protocol.StreamKeepalive && len(body) == 18 {
			return fmt.Sprintf("k %v %t", k.End, k.Reply)
		}
	}
	return fmt.Sprintf("%q", m)
}

// walreceiver is the other end of a wire in a test.
type walreceiver struct {
	*wire
	t    *testing.T
	log  *shelf
	err  chan error // of the stream
	stop chan struct{}
	p    streamProgress
	quit context.CancelCauseFunc

	standbys standbys // it is the one of the name standby
}

// expect reads messages of the server, in words.
func (c *walreceiver) expect(want ...string) {
	c.t.Helper()
	for _, w := range want {
		var got string
		select {
		case m := <-c.down:
			got = show(m)
		case err := <-c.err:
			c.t.Fatalf("ended with %v, want %s", err, w)
		}
		if got != w {
			c.t.Fatalf("server sent %s, want %s", got, w)
		}
	}
}

// quiet checks that the server says nothing for some time.
func (c *walreceiver) quiet(d time.Duration) {
	c.t.Helper()
	select {
	case m := <-c.down:
		c.t.Fatalf("server sent %s, want nothing", show(m))
	case err := <-c.err:
		c.t.Fatalf("ended with %v", err)
	case <-time.After(d):
	}
}

func (c *walreceiver) say(kind byte, body string) { c.up <- append([]byte{kind}, body...) }

func (c *walreceiver) status(write, flush wal.LSN, reply bool) {
	c.say('d', string(protocol.Status{Write: write, Flush: flush, Apply: flush / 2, Reply: reply}.Append(nil, time.Now())))
}

// ends checks how the stream has ended, in words.
func (c *walreceiver) ends(want string) {
	c.t.Helper()
	select {
	case m := <-c.down:
		c.t.Fatalf("server sent %s, want its end", show(m))
	case err := <-c.err:
		if got := showError(err); got != want {
			c.t.Errorf("ended with %s, want %s", got, want)
		}
	}
	if c.log.open != 0 {
		c.t.Error("a reader is left open")
	}
}

// showError returns an error in words: what the client is told, and whether it is the end.
func showError(err error) string {
	text := fmt.Sprint(err)
	var e *Error
	if errors.As(err, &e) {
		text = strings.TrimSpace(fmt.Sprintf("%s %s: %s", e.Severity, e.Code, e.Message))
		if e.Detail != "" {
			text += " (" + e.Detail + ")"
		}
	}
	if errors.As(err, new(ending)) {
		text = "end: " + text
	}
	return text
}

const (
	copyBoth  = "W 00 00 00"
	completes = "C START_STREAMING|C START_REPLICATION"
	nextIs    = "T next_tli:20:8 next_tli_startpos:25:-1|D "
)

func split(s string) []string { return strings.Split(s, "|") }

// streaming runs a stream against a script, in a bubble of fake time.
func streaming(t *testing.T, log func() *shelf, o streamOptions, script func(c *walreceiver)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &walreceiver{wire: newWire(), t: t, log: log(), err: make(chan error, 1), stop: make(chan struct{})}
		o.Shutdown, o.Progress, o.SegmentSize = c.stop, &c.p, mib
		o.Handover = func() (bool, <-chan struct{}) { return c.standbys.has("standby") }
		ctx, cancel := context.WithCancelCause(t.Context())
		c.quit = cancel
		defer cancel(nil)
		go func() { c.err <- stream(ctx, c.wire, c.log, o) }()
		script(c)
	})
}

func from(at wal.LSN, t wal.Timeline) streamOptions {
	return streamOptions{From: wal.Position{LSN: at, Timeline: t}}
}
