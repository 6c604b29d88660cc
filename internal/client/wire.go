package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"basin/internal/usererr"
)

// blockSize is how much is read from the socket at once, in bytes. It is more
// than the socket's buffer usually holds, so that the server can go on filling
// it while the block is written: the two go side by side without a second
// thread here, whose wake-ups cost more than they bring.
const blockSize = 256 << 10

// maxBody is the longest message, in bytes, that is taken whole. It is a guard
// against garbage: bulk data comes in fragments and has no limit.
const maxBody = 64 << 20

// wire cuts what a server sends into messages. One goroutine uses it.
//
// A message is read by head, then body or fragments until its length is used
// up. When wait returns an error nothing that was read is lost.
type wire struct {
	conn net.Conn

	// wait returns the next bytes, valid until the next call, or how the
	// connection ended. It is a field so that a stream can wait for other things as well.
	wait func(ctx context.Context) (block, error)

	buf     []byte          // what read fills
	watched context.Context // interrupts the connection when it ends
	unwatch func()

	unread  []byte // what is left of the block in hand
	partial []byte // a header or body of which more is to come
	kind    byte   // type of the message in hand
	left    int    // bytes of its body not handed out
	inBody  bool   // the header of the message in hand was read
	err     error  // what ended the stream
}

// block is what one read of the socket returned.
type block struct {
	p   []byte
	err error
}

func newWire(conn net.Conn) *wire {
	w := &wire{conn: conn, buf: make([]byte, blockSize)}
	w.wait = w.read
	return w
}

func (w *wire) close() error {
	w.release()
	return w.conn.Close()
}

// release lets go of the context of earlier reads: its end does nothing to the
// connection any more.
func (w *wire) release() {
	if w.unwatch != nil {
		w.unwatch()
		w.unwatch, w.watched = nil, nil
		_ = w.conn.SetReadDeadline(time.Time{}) // fails if the connection is closed, as the next read will
	}
}

// read waits for the next block. Once ctx ends it returns the cause, and the
// connection can be read no more.
func (w *wire) read(ctx context.Context) (block, error) {
	if ctx != w.watched {
		w.release()
		interrupted := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			_ = w.conn.SetReadDeadline(longAgo)
			close(interrupted)
		})
		w.watched = ctx
		w.unwatch = func() {
			if !stop() {
				<-interrupted
			}
		}
	}
	n, err := w.conn.Read(w.buf)
	if err != nil && ctx.Err() != nil {
		return block{}, context.Cause(ctx)
	}
	return block{w.buf[:n], err}, nil
}

// more gets another block into hand. It is called when unread is empty.
func (w *wire) more(ctx context.Context) error {
	for len(w.unread) == 0 {
		if w.err != nil {
			return w.err
		}
		b, err := w.wait(ctx)
		if err != nil {
			return err
		}
		w.unread = b.p
		if b.err != nil {
			w.err = lostConnection(b.err)
		}
	}
	return nil
}

// lostConnection says what the end of the socket means to the user.
func lostConnection(err error) error {
	if errors.Is(err, io.EOF) {
		return &usererr.Error{
			Err:  errors.New("server closed the connection unexpectedly"),
			Hint: "This probably means the server terminated abnormally before or while processing the request; its log tells more.",
		}
	}
	return &usererr.Error{
		Err:  fmt.Errorf("could not receive data from server: %w", err),
		Hint: "The connection was lost; see whether the server and the network are up, then start again.",
	}
}

// take returns n contiguous bytes, valid until the next call.
func (w *wire) take(ctx context.Context, n int) ([]byte, error) {
	if len(w.partial) == 0 && len(w.unread) >= n {
		p := w.unread[:n]
		w.unread = w.unread[n:]
		return p, nil
	}
	for len(w.partial) < n {
		if len(w.unread) == 0 {
			if err := w.more(ctx); err != nil {
				return nil, err
			}
		}
		m := min(n-len(w.partial), len(w.unread))
		w.partial = append(w.partial, w.unread[:m]...)
		w.unread = w.unread[m:]
	}
	p := w.partial
	w.partial = w.partial[:0] // the bytes stay until something is appended
	return p, nil
}

// head returns the type of the next message and the length of its body.
// What is left of the message in hand is skipped.
func (w *wire) head(ctx context.Context) (kind byte, length int, err error) {
	if w.inBody {
		for w.left > 0 {
			if _, err := w.fragment(ctx, w.left); err != nil {
				return 0, 0, err
			}
		}
		w.inBody = false
	}
	h, err := w.take(ctx, 5)
	if err != nil {
		return 0, 0, err
	}
	length = int(int32(binary.BigEndian.Uint32(h[1:]))) - 4
	if length < 0 {
		return 0, 0, fmt.Errorf("invalid message length from server: type \"%c\", length %d", h[0], length+4)
	}
	w.kind, w.left, w.inBody = h[0], length, true
	return w.kind, length, nil
}

// bytes returns the next n bytes of the body in hand, contiguous and valid
// until the next call.
func (w *wire) bytes(ctx context.Context, n int) ([]byte, error) {
	if n > w.left || n > maxBody {
		return nil, fmt.Errorf("unexpected length of message from server: type \"%c\", %d bytes left, %d wanted", w.kind, w.left, n)
	}
	p, err := w.take(ctx, n)
	if err == nil {
		w.left -= n
	}
	return p, err
}

// body returns what is left of the body in hand.
func (w *wire) body(ctx context.Context) ([]byte, error) { return w.bytes(ctx, w.left) }

// fragment returns between 1 and limit bytes of the body in hand as they lie in
// memory, valid until the next call. There must be some left.
func (w *wire) fragment(ctx context.Context, limit int) ([]byte, error) {
	if len(w.unread) == 0 {
		if err := w.more(ctx); err != nil {
			return nil, err
		}
	}
	n := min(limit, w.left, len(w.unread))
	p := w.unread[:n]
	w.unread = w.unread[n:]
	w.left -= n
	return p, nil
}

// peek returns the next byte of the body in hand and leaves it there.
func (w *wire) peek(ctx context.Context) (byte, error) {
	if len(w.unread) == 0 {
		if err := w.more(ctx); err != nil {
			return 0, err
		}
	}
	return w.unread[0], nil
}
