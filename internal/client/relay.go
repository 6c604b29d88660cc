package client

import (
	"context"
	"encoding/binary"
	"io"
)

// Send sends whole messages as they are. With Next, Pass and Waiting it is for who speaks
// for somebody else, and then for nobody but him.
func (c *Conn) Send(messages []byte) error { return c.write(messages) }

// Next waits for the server's next message and returns its type. What is left of the one
// before is skipped.
func (c *Conn) Next(ctx context.Context) (kind byte, err error) {
	kind, _, err = c.head(ctx)
	return kind, err
}

// Pass writes the message in hand to w as it came.
func (c *Conn) Pass(ctx context.Context, w io.Writer) error {
	head := binary.BigEndian.AppendUint32([]byte{c.kind}, uint32(c.left+4))
	if _, err := w.Write(head); err != nil {
		return err
	}
	for c.left > 0 {
		p, err := c.fragment(ctx, c.left)
		if err != nil {
			return err
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// Waiting says whether the beginning of another message was read already.
func (c *Conn) Waiting() bool { return len(c.unread) > 0 }
