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
	const whole, half = "d\x00\x00\x00\x08wxyz", "d\x00\x00\x00\x08wx"
	for _, c := range []struct {
		reason string
		say    func(c *conn) error
		want   string
		err    error // of what is said then
	}{
		{"a whole message", func(c *conn) error { return c.Send([]byte(whole)) }, whole + "c\x00\x00\x00\x04", nil},
		{"a message in pieces", func(c *conn) error {
			return errors.Join(c.queuePiece([]byte(half)), c.queuePiece([]byte("yz")))
		}, whole + "c\x00\x00\x00\x04", nil},
		{"a piece of a message", func(c *conn) error { return c.queuePiece([]byte(half)) }, "", errCut},
		{"a message that was interrupted", func(c *conn) error {
			_ = c.SetWriteDeadline(time.Now())
			err := c.Send([]byte(whole))
			_ = c.SetWriteDeadline(time.Time{})
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return errors.New("it was sent")
			}
			return nil
		}, "", os.ErrDeadlineExceeded},
	} {
		t.Run(c.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server := net.Pipe()
				got := make(chan string)
				go func() {
					p, _ := io.ReadAll(client)
					got <- string(p)
				}()
				s := newConn(server)
				if err := c.say(s); err != nil {
					t.Error(err)
				}
				for what, say := range map[string]func() error{
					"Send":       func() error { return s.Send(nil) },
					"sendPieces": func() error { return s.sendPieces(nil, nil) },
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
