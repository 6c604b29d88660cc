package server

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"basin/internal/backup"
	"basin/internal/protocol"
)

const (
	// gathered is how many bytes go into one message if they come in small pieces.
	gathered = 64 << 10
	// whole is from how many bytes on a piece becomes a message as it lies in memory. Any
	// chunking is allowed, and libpq makes room for any message.
	whole = 16 << 10
	// longest is how many bytes one message has at most.
	longest = 256 << 10
	// atOnce is how many bytes are sent at once, if they lie together: what it costs to send
	// depends on how often that is done.
	atOnce = 4 * longest
	// progressInterval is how often a client is told of progress at least.
	progressInterval = time.Second
)

// copyOut sends the messages of the COPY that a base backup is.
//
// Source: src/backend/backup/basebackup_copy.c, PostgreSQL 18.
type copyOut struct {
	ctx  context.Context
	conn *conn
	// single says that all archives are in one COPY, in which the first byte of a message
	// says what is in it, as from 15 on. Before, each is a COPY of its own.
	single bool
	pace   []*rate.Limiter

	sent *atomic.Int64 // bytes that went to the client

	message []byte   // one that is being gathered: its head and what it has so far
	heads   []byte   // of messages that are sent at once
	pieces  [][]byte // those, in turns with what is in them
	told    time.Time
	done    *atomic.Int64 // bytes of archives, before they were compressed
}

// headSize is how long the head of a message is.
func (o *copyOut) headSize() int {
	if o.single {
		return 6
	}
	return 5
}

// appendHead appends the head of a message with so many bytes of payload.
func (o *copyOut) appendHead(dst []byte, payload int) []byte {
	dst = append(dst, 'd')
	dst = binary.BigEndian.AppendUint32(dst, uint32(o.headSize()-1+payload))
	if o.single {
		dst = append(dst, protocol.CopyPayload)
	}
	return dst
}

// Write sends bytes of an archive or of the manifest, or keeps them to be sent with others.
func (o *copyOut) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		if len(p) >= whole {
			n, err := o.writeWhole(p)
			written += n
			if err != nil {
				return written, err
			}
			p = p[n:]
			continue
		}
		if len(o.message) == 0 {
			o.message = o.appendHead(o.message, 0)
		}
		n := min(len(p), o.headSize()+gathered-len(o.message))
		o.message = append(o.message, p[:n]...)
		written += n
		p = p[n:]
		if len(o.message) == o.headSize()+gathered {
			if err := o.flush(); err != nil {
				return written, err
			}
		}
	}
	return written, o.progress(false)
}

// writeWhole sends the first of the bytes as they lie in memory, and returns how many.
func (o *copyOut) writeWhole(p []byte) (int, error) {
	if err := o.flush(); err != nil {
		return 0, err
	}
	p = p[:min(len(p), atOnce)]
	if len(o.pace) > 0 {
		p = p[:min(len(p), longest)]
	}
	if err := o.wait(len(p)); err != nil {
		return 0, err
	}
	o.heads, o.pieces = o.heads[:0], o.pieces[:0]
	for piece := range slices.Chunk(p, longest) {
		begun := len(o.heads)
		o.heads = o.appendHead(o.heads, len(piece))
		o.pieces = append(o.pieces, o.heads[begun:], piece)
	}
	return len(p), o.conn.Send(o.pieces...)
}

// flush puts the message that was gathered before the next one that is sent.
func (o *copyOut) flush() error {
	if len(o.message) == 0 {
		return nil
	}
	if err := o.wait(len(o.message) - o.headSize()); err != nil {
		return err
	}
	binary.BigEndian.PutUint32(o.message[1:], uint32(len(o.message)-1))
	err := o.conn.queueBytes(o.message)
	o.message = o.message[:0]
	return err
}

// wait counts n more bytes and waits until they may go.
func (o *copyOut) wait(n int) error {
	o.sent.Add(int64(n))
	for _, l := range o.pace {
		if err := backup.Wait(o.ctx, l, n); err != nil {
			return err
		}
	}
	return nil
}

// progress tells how much is done, if it is time or must be.
func (o *copyOut) progress(must bool) error {
	if !o.single {
		return nil
	}
	now := time.Now()
	if !must && now.Sub(o.told) < progressInterval {
		return nil
	}
	o.told = now
	if err := o.flush(); err != nil {
		return err
	}
	return o.send(protocol.AppendProgress(nil, o.done.Load()))
}

// send sends a message of another kind than payload.
func (o *copyOut) send(body []byte) error {
	head := binary.BigEndian.AppendUint32([]byte{'d'}, uint32(4+len(body)))
	return o.conn.Send(append(head, body...))
}

// archive begins an archive.
func (o *copyOut) archive(a protocol.Archive) error {
	if !o.single {
		return o.begin()
	}
	if err := o.flush(); err != nil {
		return err
	}
	return o.send(a.Append(nil))
}

// endArchive ends the archive in hand.
func (o *copyOut) endArchive() error {
	if !o.single {
		return o.end()
	}
	return o.progress(true)
}

// manifest begins the manifest.
func (o *copyOut) manifest() error {
	if !o.single {
		return o.begin()
	}
	if err := o.flush(); err != nil {
		return err
	}
	return o.send([]byte{protocol.CopyManifest})
}

// endManifest ends the manifest.
func (o *copyOut) endManifest() error {
	if !o.single {
		return o.end()
	}
	return o.flush()
}

// begin begins a COPY: a CopyOutResponse of no columns.
func (o *copyOut) begin() error { return o.conn.Send([]byte{'H', 0, 0, 0, 7, 0, 0, 0}) }

// end ends a COPY.
func (o *copyOut) end() error {
	if err := o.flush(); err != nil {
		return err
	}
	return o.conn.Send([]byte{'c', 0, 0, 0, 4})
}

var _ backup.Sink = (*archives)(nil)
