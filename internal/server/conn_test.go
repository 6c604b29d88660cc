package server

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// TestConnSaysNothingBehindHalfAMessage is about what can be said after a message: an error
// that follows half of one would be taken for the other half.
func TestConnSaysNothingBehindHalfAMessage(t *testing.T) {
	const whole, half, done = "d\x00\x00\x00\x08wxyz", "d\x00\x00\x00\x08wx", "c\x00\x00\x00\x04"
	late := func(say func(c *conn) error) func(c *conn) error {
		return func(c *conn) error {
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			err := say(c)
			_ = c.SetWriteDeadline(time.Time{})
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return errors.New("it was sent")
			}
			return nil
		}
	}
	filled := copyMessage('d', make([]byte, maxQueue))
	for _, c := range []struct {
		reason string
		reads  int // bytes, before the client pauses
		say    func(c *conn) error
		want   string
		err    error // of what is said then
	}{
		{"a whole message", 1000, func(c *conn) error { return c.Send([]byte(whole)) }, whole + done, nil},
		{"a message in pieces", 1000, func(c *conn) error {
			return errors.Join(c.queuePiece([]byte(half)), c.queuePiece([]byte("yz")))
		}, whole + done, nil},
		{"a piece of a message", 1000, func(c *conn) error { return c.queuePiece([]byte(half)) }, "", errCut},
		{"a message that was interrupted", 2, late(func(c *conn) error { return c.Send([]byte(whole)) }), whole[:2], os.ErrDeadlineExceeded},
		{"a message in two that was interrupted", 6, late(func(c *conn) error {
			return c.Send([]byte(whole)[:5], []byte(whole)[5:])
		}), whole[:6], os.ErrDeadlineExceeded},
		{"a message that was queued and interrupted", 2, late(func(c *conn) error {
			return errors.Join(c.queueBytes([]byte(whole)), c.Flush())
		}), whole[:2], os.ErrDeadlineExceeded},
		{"a message that was not begun", 0, late(func(c *conn) error { return c.Send([]byte(whole)) }), done, nil},
		{"a piece that was not begun", 0, late(func(c *conn) error { return c.queuePiece(filled) }), "", os.ErrDeadlineExceeded},
	} {
		t.Run(c.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				got := make(chan string)
				go func() {
					first := make([]byte, c.reads)
					n := 0
					if c.reads < 1000 {
						n, _ = io.ReadFull(client, first)
						<-time.After(2 * time.Second)
					}
					p, _ := io.ReadAll(client)
					got <- string(first[:n]) + string(p)
				}()
				s := newConn(server)
				if err := c.say(s); err != nil {
					t.Error(err)
				}
				for what, say := range map[string]func() error{
					"Send":       func() error { return s.Send(nil) },
					"queueBytes": func() error { return s.queueBytes(nil) },
					"Queue":      func() error { return s.Queue() },
					"Flush":      func() error { return s.Flush() },
				} {
					if err := say(); !errors.Is(err, c.err) {
						t.Errorf("%s: %v, want %v", what, err, c.err)
					}
				}
				if err := errors.Join(s.Queue(&pgproto3.CopyDone{}), s.Flush()); !errors.Is(err, c.err) {
					t.Errorf("error %v, want %v", err, c.err)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if p := <-got; p != c.want {
					t.Errorf("the client got %q, want %q", p, c.want)
				}
			})
		})
	}
}
