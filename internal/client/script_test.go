package client

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"basin/internal/wal"
)

// message is one backend message.
func message(kind byte, body ...byte) []byte {
	m := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))
	return append(m, body...)
}

// joined puts messages one after another.
func joined(messages ...[]byte) []byte { return bytes.Join(messages, nil) }

// copyData is a CopyData message of a kind.
func copyData(kind byte, payload string) []byte {
	return message('d', append([]byte{kind}, payload...)...)
}

// answer is one set of rows; a nil field is NULL.
func answer(rows ...[]any) []byte {
	out := message('T', 0, 0)
	for _, row := range rows {
		body := binary.BigEndian.AppendUint16(nil, uint16(len(row)))
		for _, field := range row {
			s, ok := field.(string)
			if !ok {
				body = append(body, 0xff, 0xff, 0xff, 0xff)
				continue
			}
			body = append(binary.BigEndian.AppendUint32(body, uint32(len(s))), s...)
		}
		out = append(out, message('D', body...)...)
	}
	return append(out, complete("SELECT")...)
}

func complete(tag string) []byte { return message('C', append([]byte(tag), 0)...) }

// errorSaid is an ErrorResponse.
func errorSaid(code, text string) []byte {
	return message('E', []byte("SERROR\x00VERROR\x00C"+code+"\x00M"+text+"\x00\x00")...)
}

var (
	ready    = message('Z', 'I')
	copyOut  = message('H', 0, 0, 0)
	copyBoth = message('W', 0, 0, 0)
	copyDone = message('c')
)

// walData is a piece of the log.
func walData(at wal.LSN, piece []byte) []byte {
	body := []byte{'w'}
	body = binary.BigEndian.AppendUint64(body, uint64(at))
	body = append(body, make([]byte, 16)...)
	return message('d', append(body, piece...)...)
}

// keepalive is a sign of life.
func keepalive(reply byte) []byte {
	return message('d', append(append([]byte{'k'}, make([]byte, 16)...), reply)...)
}

// silent is a connection that yields bytes and swallows what is written.
type silent struct {
	net.Conn
	io.Reader
}

func (s silent) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (s silent) Write(p []byte) (int, error)      { return len(p), nil }
func (s silent) SetWriteDeadline(time.Time) error { return nil }
func (s silent) SetReadDeadline(time.Time) error  { return nil }
func (s silent) SetDeadline(time.Time) error      { return nil }
func (s silent) Close() error                     { return nil }

// replay returns a connection to a server that says the given bytes whatever it is asked.
func replay(t testing.TB, version int, said io.Reader) *Conn {
	c := newConn(silent{Reader: said})
	c.Version, c.ServerVersion = version, "test"
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// server is the far end of a connection, for tests that talk back.
type server struct {
	t    *testing.T
	conn net.Conn
}

// dialogue returns both ends of a connection.
func dialogue(t *testing.T) (*Conn, *server) {
	near, far := net.Pipe()
	c := newConn(near)
	c.Version, c.ServerVersion = 180006, "18.6"
	return c, &server{t, far}
}

// heard reads the next message of the client.
func (s *server) heard() (kind byte, body string) {
	var h [5]byte
	if _, err := io.ReadFull(s.conn, h[:]); err != nil {
		return 0, err.Error()
	}
	b := make([]byte, binary.BigEndian.Uint32(h[1:])-4)
	if _, err := io.ReadFull(s.conn, b); err != nil {
		return 0, err.Error()
	}
	return h[0], string(b)
}

// expect reads the next message and compares it.
func (s *server) expect(kind byte, body string) {
	s.t.Helper()
	if k, b := s.heard(); k != kind || b != body {
		s.t.Errorf("server heard %q %q, want %q %q", k, b, kind, body)
	}
}

// expectQuery reads the next message, which must be a command.
func (s *server) expectQuery(command string) {
	s.t.Helper()
	s.expect('Q', command+"\x00")
}

// say sends messages.
func (s *server) say(messages ...[]byte) {
	s.t.Helper()
	if _, err := s.conn.Write(joined(messages...)); err != nil {
		s.t.Errorf("server could not say: %v", err)
	}
}
