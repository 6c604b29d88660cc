package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"basin/internal/protocol"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// data passes a piece of the log on to the segments it belongs to.
func (r *receiver) data(ctx context.Context) error {
	c := r.conn
	if c.left < protocol.DataHeaderSize {
		return fmt.Errorf("streaming header too small: %d", c.left)
	}
	header, err := c.bytes(ctx, protocol.DataHeaderSize)
	if err != nil {
		return err
	}
	at, end := protocol.ParseDataHeader(header)
	if at != r.pos && !r.ended {
		return usererr.Hinted("The stream has a gap or a repetition; nothing of it was kept. See whether the server is the one that it should be.",
			"got WAL data at %v, expected %v", at, r.pos)
	}
	r.isServed = true
	r.progress.heard(end)
	for c.left > 0 && !r.ended {
		if r.segment == nil {
			name := wal.SegmentAt(wal.Position{LSN: r.pos, Timeline: r.timeline}, r.o.Segment).Name(r.o.Segment)
			if r.segment, err = r.keeper.Begin(name, r.o.Segment); err != nil {
				return err
			}
			r.out.Reset(r.segment)
		}
		room := r.o.Segment - int64(r.pos)%r.o.Segment
		piece, err := c.fragment(ctx, int(min(int64(c.left), room)))
		if err != nil {
			return err
		}
		if r.ended { // the stop point became known while we waited for the piece
			return nil
		}
		if err := r.pages.Check(piece); err != nil {
			return err
		}
		if _, err := r.out.Write(piece); err != nil {
			return err
		}
		r.pos += wal.LSN(len(piece))
		if int64(len(piece)) == room {
			if err := r.finishSegment(); err != nil {
				return err
			}
		}
	}
	return r.checkStop()
}

// writeBuffer is how many bytes of the log are gathered, at most, while more of what
// was read is dealt with: many small messages cost one write.
const writeBuffer = 64 << 10

// writeOut hands what was gathered to the segment.
func (r *receiver) writeOut() error {
	if r.written == r.pos {
		return nil
	}
	if err := r.out.Flush(); err != nil {
		return err
	}
	r.progress.received(r.pos, int(r.pos-r.written))
	r.written = r.pos
	return nil
}

func (r *receiver) finishSegment() error {
	if err := r.writeOut(); err != nil {
		return err
	}
	segment := r.segment
	r.segment = nil
	if r.o.Durable {
		if err := segment.Flush(); err != nil {
			return errors.Join(err, segment.Abandon())
		}
	}
	if err := segment.Finish(); err != nil {
		return err
	}
	r.setFlushed()
	r.progress.segments.Add(1)
	if r.o.Finished != nil {
		r.o.Finished(wal.Position{LSN: r.pos, Timeline: r.timeline})
	}
	return r.checkStop()
}

// reportsFlush says whether the server is told what is durable: a slot holds the
// log until then, and commits may wait for it.
func (r *receiver) reportsFlush() bool { return !r.o.Watch && (r.o.Slot != "" || r.o.Synchronous) }

// flush makes all that came durable, if the server is told of that.
func (r *receiver) flush() error {
	if !r.reportsFlush() || r.segment == nil || r.flushed == r.pos {
		return nil
	}
	if err := r.writeOut(); err != nil {
		return err
	}
	if r.o.Durable {
		begun := time.Now()
		if err := r.segment.Flush(); err != nil {
			return err
		}
		r.synced = time.Now()
		r.syncPeriod = r.synced.Sub(begun)
	}
	r.setFlushed()
	return nil
}

func (r *receiver) setFlushed() {
	r.flushed = r.pos
	r.progress.flushed(r.pos)
}

// manyBytes are, in one read, a sign that more is on its way.
const manyBytes = 16 << 10

// keepInTime writes what came, and makes it durable if the stream is synchronous, and
// tells the server. If much comes it lets that come first, so that one flush serves
// many commits, but spends as much time on the one as on the other. It returns how
// long it lets it come.
func (r *receiver) keepInTime() (time.Duration, error) {
	if err := r.writeOut(); err != nil {
		return 0, err
	}
	if !r.o.Synchronous || !r.talks() {
		return math.MaxInt64, nil
	}
	if r.segment != nil && r.flushed != r.pos {
		if until := time.Until(r.synced.Add(r.syncPeriod)); until > 0 && r.lastRead >= manyBytes {
			return until, nil
		}
		if err := r.flush(); err != nil {
			return 0, err
		}
	}
	if r.flushed == r.told || !r.isServed {
		return math.MaxInt64, nil
	}
	return math.MaxInt64, r.report(false)
}

// leaveSegment closes the segment in hand, if any, before its end.
func (r *receiver) leaveSegment() error {
	if err := r.flush(); err != nil {
		return r.abandonAfter(err)
	}
	return r.abandon()
}

// abandonAfter is abandon after an error, which it adds to.
func (r *receiver) abandonAfter(err error) error {
	if also := r.abandon(); !errors.Is(err, also) {
		return errors.Join(err, also)
	}
	return err
}

// abandon closes the segment in hand, if any, as it is: after an error the server
// is told no more.
func (r *receiver) abandon() error {
	if r.segment == nil {
		return nil
	}
	err := r.writeOut()
	segment := r.segment
	r.segment = nil
	if abandoned := segment.Abandon(); err == nil {
		err = abandoned
	}
	return err
}
