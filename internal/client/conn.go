package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/connect"
)

// Conn is a replication connection. One goroutine uses it at a time.
type Conn struct {
	*wire

	ServerVersion string // as the server gives it: 18.6, 15.20 (Debian …)
	Version       int    // as server_version_num: 180006
	PID           uint32 // of the server's process; it names temporary slots

	// writeTimeout is how long the server may take to read what is written to it; zero
	// waits for ever.
	writeTimeout time.Duration

	// Notice, if not nil, is given what the server says beside its answers. It may
	// be called from another goroutine than the one that uses the connection.
	Notice func(*pgconn.Notice)
}

// NewConn takes a session over. From then on the Conn is what is to be closed.
func NewConn(s *connect.Session) *Conn {
	c := newConn(s.Conn)
	c.ServerVersion, c.Version, c.PID = s.ServerVersion, s.Version, s.PID
	return c
}

// newConn returns a Conn that knows nothing of its server.
func newConn(conn net.Conn) *Conn { return &Conn{wire: newWire(conn)} }

// Close ends the connection. The server abandons what it was doing.
func (c *Conn) Close() error {
	// A server that reads no more must not keep us: its socket buffer may be full.
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.conn.Write([]byte{'X', 0, 0, 0, 4}) // Terminate; the close below says the same
	return c.close()
}

// Row is one row of an answer. A NULL is nil.
type Row [][]byte

func (r Row) text(i int) string { return string(r[i]) }

// errUnexpected is an answer that does not belong where it came.
func errUnexpected(kind byte) error {
	return fmt.Errorf("unexpected message of type \"%c\" from server", kind)
}

// next returns the type of the next message that is an answer. Notices and
// reports of settings are dealt with; an ErrorResponse becomes an error, after
// which the server still sends ReadyForQuery.
func (c *Conn) next(ctx context.Context) (kind byte, err error) {
	for {
		kind, _, err := c.head(ctx)
		if err != nil {
			return 0, err
		}
		switch kind {
		case 'N':
			body, err := c.body(ctx)
			if err != nil {
				return 0, err
			}
			var n pgproto3.NoticeResponse
			if err := n.Decode(body); err != nil {
				return 0, err
			}
			if c.Notice != nil {
				c.Notice((*pgconn.Notice)(pgconn.ErrorResponseToPgError((*pgproto3.ErrorResponse)(&n))))
			}
		case 'S', 'A': // settings and notifications: nothing here depends on them
		case 'E':
			body, err := c.body(ctx)
			if err != nil {
				return 0, err
			}
			return 0, decodeError(body)
		default:
			return kind, nil
		}
	}
}

// expect reads one answer of the given type; its body stays to be read.
func (c *Conn) expect(ctx context.Context, want byte) error {
	kind, err := c.next(ctx)
	if err != nil {
		return err
	}
	if kind != want {
		return errUnexpected(kind)
	}
	return nil
}

// send sends a command as a simple query.
func (c *Conn) send(command string) error {
	q := pgproto3.Query{String: command}
	msg, err := q.Encode(nil)
	if err != nil {
		return err
	}
	return c.write(msg)
}

func (c *Conn) write(msg []byte) error {
	if c.writeTimeout > 0 {
		_ = c.conn.SetWriteDeadline(time.Now().Add(c.writeTimeout)) // fails if the connection is closed, as the write will
	}
	if _, err := c.conn.Write(msg); err != nil {
		return fmt.Errorf("could not send data to server: %w", err)
	}
	return nil
}

// writeCopyData sends one CopyData message.
func (c *Conn) writeCopyData(data []byte) error {
	msg := make([]byte, 0, 5+len(data))
	msg = append(msg, 'd')
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(data)+4))
	return c.write(append(msg, data...))
}

func (c *Conn) writeCopyDone() error { return c.write([]byte{'c', 0, 0, 0, 4}) }

// Query runs a command that answers with at most one set of rows.
func (c *Conn) Query(ctx context.Context, command string) ([]Row, error) {
	if err := c.send(command); err != nil {
		return nil, err
	}
	var rows []Row
	for {
		kind, err := c.next(ctx)
		if err != nil {
			return nil, c.drain(ctx, err)
		}
		switch kind {
		case 'T', 'C':
		case 'D':
			row, err := c.row(ctx)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		case 'Z':
			return rows, nil
		default:
			return nil, errUnexpected(kind)
		}
	}
}

// drain reads up to ReadyForQuery after the server sent an error, so that the
// connection can be used again, and returns that error.
func (c *Conn) drain(ctx context.Context, cause error) error {
	if sqlState(cause) == "" {
		return cause
	}
	// What ended ctx may be the error of a server too, on another connection.
	for ctx.Err() == nil {
		kind, err := c.next(ctx)
		if kind == 'Z' || err != nil && sqlState(err) == "" {
			break
		}
	}
	return cause // the first error is the one that matters
}

// row reads the DataRow in hand.
func (c *Conn) row(ctx context.Context) (Row, error) {
	body, err := c.body(ctx)
	if err != nil {
		return nil, err
	}
	var d pgproto3.DataRow
	if err := d.Decode(body); err != nil {
		return nil, err
	}
	row := make(Row, len(d.Values))
	for i, v := range d.Values {
		row[i] = slices.Clone(v)
	}
	return row, nil
}

// rows reads one set of rows up to its CommandComplete. It is for commands that
// answer with several.
func (c *Conn) rows(ctx context.Context) ([]Row, error) {
	if err := c.expect(ctx, 'T'); err != nil {
		return nil, err
	}
	var rows []Row
	for {
		kind, err := c.next(ctx)
		if err != nil {
			return nil, err
		}
		switch kind {
		case 'D':
			row, err := c.row(ctx)
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		case 'C':
			return rows, nil
		default:
			return nil, errUnexpected(kind)
		}
	}
}
