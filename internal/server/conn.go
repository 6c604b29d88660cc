package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/protocol"
)

// Limits of what one message of a client may have, in bytes.
const (
	maxMessage = 1 << 20 // a command, or a piece of a manifest: libpq sends at most 8 kB, pg_basebackup 64 kB
	inputSize  = 16 << 10
	maxQueue   = 64 << 10
)

// conn is the connection of a client that was let in. One goroutine reads it at a time;
// any may write, and messages stay whole.
type conn struct {
	net.Conn
	plain *net.TCPConn // the connection itself if it is not encrypted, else nil

	input []byte // what was read and not used: input[read:]
	read  int

	writing sync.Mutex
	output  []byte // messages that are not sent yet
	rest    int    // bytes that are still to come of the message that queuePiece has begun
	failed  error  // of a write that has cut a message
}

// gone waits until the client says that it ends, or has ended; what else it says is left
// to be received.
func (c *conn) gone(ctx context.Context) error {
	head, err := c.peek(ctx)
	if err == nil && head != 'X' {
		return nil
	}
	if err == nil {
		err = errClientGone
	}
	return err
}

func newConn(c net.Conn) *conn {
	plain, _ := c.(*net.TCPConn)
	return &conn{Conn: c, plain: plain, input: make([]byte, 0, inputSize)}
}

// errClientGone is the end of a client that did not say goodbye.
var errClientGone = errors.New("unexpected EOF on client connection")

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// Receive returns the next message of the client, whose body is valid until the next
// call. When ctx ends it returns the cause, and nothing that has come is lost.
func (c *conn) Receive(ctx context.Context) (kind byte, body []byte, err error) {
	defer c.until(ctx)()
	head, err := c.need(ctx, 5)
	if err != nil {
		return 0, nil, err
	}
	kind = head[0]
	if bytes.IndexByte(frontend, kind) < 0 { // what looks like a length is none
		return 0, nil, &Error{Severity: "FATAL", Code: codeProtocolViolation, Message: fmt.Sprintf("invalid frontend message type %d", kind)}
	}
	length := int64(binary.BigEndian.Uint32(head[1:]))
	if length < 4 || length > maxMessage {
		return 0, nil, &Error{Severity: "FATAL", Code: codeProtocolViolation, Message: "invalid message length",
			Detail: fmt.Sprintf("A message of type %q says that it is %d bytes long.", kind, length)}
	}
	message, err := c.need(ctx, int(length)+1)
	if err != nil {
		return 0, nil, err
	}
	c.read += len(message)
	return kind, message[5:], nil
}

// frontend is the types of messages that clients send in a session.
//
// Source: SocketBackend in src/backend/tcop/postgres.c, PostgreSQL 18.
var frontend = []byte("QFXBCDEHPSdcf")

// until lets the end of ctx interrupt what is read, until what it returns is called.
func (c *conn) until(ctx context.Context) func() {
	if ctx.Done() == nil {
		return func() {}
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.SetReadDeadline(longAgo) // fails if the connection is closed, as the read will
		close(interrupted)
	})
	return func() {
		if !stop() {
			<-interrupted
			_ = c.SetReadDeadline(time.Time{})
		}
	}
}

// peek returns the type of the next message and leaves it there.
func (c *conn) peek(ctx context.Context) (kind byte, err error) {
	defer c.until(ctx)()
	head, err := c.need(ctx, 1)
	if err != nil {
		return 0, err
	}
	return head[0], nil
}

// need returns the next n bytes of the input and leaves them there.
func (c *conn) need(ctx context.Context, n int) ([]byte, error) {
	for len(c.input)-c.read < n {
		if c.read > 0 {
			c.input = c.input[:copy(c.input, c.input[c.read:])]
			c.read = 0
		}
		if len(c.input) == cap(c.input) {
			grown := make([]byte, len(c.input), min(2*cap(c.input), maxMessage+inputSize))
			copy(grown, c.input)
			c.input = grown
		}
		got, err := c.Read(c.input[len(c.input):cap(c.input)])
		c.input = c.input[:len(c.input)+got]
		if err != nil && len(c.input) < n {
			switch {
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case errors.Is(err, io.EOF):
				return nil, errClientGone
			}
			return nil, fmt.Errorf("could not receive data from client: %w", err)
		}
	}
	return c.input[c.read : c.read+n], nil
}

// sendFailure is the error of what a client did not get.
type sendFailure struct{ error }

func (f *sendFailure) Error() string { return "could not send data to client: " + f.error.Error() }
func (f *sendFailure) Unwrap() error { return f.error }

// errCut is a message to the client that has no end.
var errCut = &sendFailure{errors.New("a message to it was cut")}

// usable says whether another message may be sent. Behind one that was cut nothing may: it
// would be taken for the rest of it, for a piece of the log even.
func (c *conn) usable() error {
	if c.rest > 0 {
		return errCut
	}
	return c.failed
}

// Send writes whole messages, which lie in pieces, behind those that Queue has. With TLS each
// piece would become a record of its own: then they are put together first.
func (c *conn) Send(pieces ...[]byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.usable(); err != nil {
		return err
	}
	if c.plain == nil {
		for _, p := range pieces {
			c.output = append(c.output, p...)
		}
		return c.flush()
	}
	all := net.Buffers(pieces)
	if len(c.output) > 0 {
		all = slices.Insert(all, 0, c.output)
	}
	n, err := all.WriteTo(c.plain)
	c.output = c.output[:0]
	return c.sent(int(n), err)
}

// sent says what became of a write.
func (c *conn) sent(n int, err error) error {
	if err == nil {
		return nil
	}
	err = &sendFailure{err}
	if n > 0 {
		c.failed = err
	}
	return err
}

// queueBytes keeps whole messages for the next Flush, which comes by itself once there
// are many.
func (c *conn) queueBytes(p []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.usable(); err != nil {
		return err
	}
	return c.queue(p)
}

// queuePiece keeps a piece of a message for the next Flush. The first begins with the type
// and the length of the message.
func (c *conn) queuePiece(p []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.failed != nil {
		return c.failed
	}
	if c.rest == 0 {
		c.rest = 1 + int(binary.BigEndian.Uint32(p[1:]))
	}
	c.rest -= len(p)
	if err := c.queue(p); err != nil {
		c.failed = err // a piece may have been sent before
		return err
	}
	return nil
}

// queue is queueBytes for who is writing.
func (c *conn) queue(p []byte) error {
	c.output = append(c.output, p...)
	if len(c.output) < maxQueue {
		return nil
	}
	return c.flush()
}

// Queue keeps messages for the next Flush.
func (c *conn) Queue(messages ...pgproto3.BackendMessage) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.usable(); err != nil {
		return err
	}
	for _, m := range messages {
		var err error
		if c.output, err = m.Encode(c.output); err != nil {
			return fmt.Errorf("message to client: %w", err)
		}
	}
	return nil
}

// queueRows keeps a set of rows, and its end, for the next Flush. A value is a string, a
// []byte, or nil for NULL.
func (c *conn) queueRows(columns []protocol.Column, tag string, rows ...[]any) error {
	message := protocol.AppendRowDescription(nil, columns)
	for _, row := range rows {
		values := make([][]byte, len(row))
		for i, value := range row {
			switch v := value.(type) {
			case string:
				values[i] = []byte(v)
			case []byte:
				values[i] = v
			}
		}
		message = protocol.AppendDataRow(message, values...)
	}
	if err := c.queueBytes(message); err != nil {
		return err
	}
	return c.Queue(&pgproto3.CommandComplete{CommandTag: []byte(tag)})
}

// Flush sends what Queue has.
func (c *conn) Flush() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.usable(); err != nil {
		return err
	}
	return c.flush()
}

// flush is Flush for who is writing.
func (c *conn) flush() error {
	if len(c.output) == 0 {
		return nil
	}
	n, err := c.Write(c.output)
	c.output = c.output[:0]
	return c.sent(n, err)
}
