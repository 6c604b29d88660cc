package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"basin/internal/protocol"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// ReceiveOptions say which part of the log is wanted, and how.
type ReceiveOptions struct {
	SystemID string       // the cluster it must come from; empty for any
	Start    wal.Position // the stream begins with the segment this lies in
	Segment  int64        // size of the server's segments, in bytes
	Slot     string       // replication slot to use; empty for none
	Durable  bool         // the slot lets go of a segment only once the keeper has made it durable

	// Stop yields the position up to which the log is wanted, once it is known.
	Stop <-chan wal.Position

	StatusInterval time.Duration // between reports to the server; zero reports only when asked
	// Timeout is how long the server may be silent, although it was asked for a
	// sign of life, before it is given up. Zero is DefaultTimeout.
	Timeout time.Duration
}

// DefaultTimeout is how long a silent server is waited for: as long as a
// standby does by default (wal_receiver_timeout).
const DefaultTimeout = 60 * time.Second

// ReceiveWAL streams the log into keeper until the position that o.Stop yields
// is reached, following the server from timeline to timeline. It uses up the
// connection, which the caller closes.
//
// Source: ReceiveXlogStream in src/bin/pg_basebackup/receivelog.c, PostgreSQL 18.
func ReceiveWAL(ctx context.Context, c *Conn, keeper wal.Keeper, o ReceiveOptions) error {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if err := c.checkStreaming(); err != nil {
		return err
	}
	r := &receiver{conn: c, keeper: keeper, o: o, timeline: o.Start.Timeline}
	r.pos = wal.SegmentAt(o.Start, o.Segment).Start(o.Segment)
	r.flushed = r.pos
	r.blocks, r.next = make(chan block, 1), make(chan struct{})
	defer close(r.next)
	go r.read()
	c.wait = r.wait
	if err := r.checkSystem(ctx); err != nil {
		return err
	}
	for {
		done, err := r.receiveTimeline(ctx)
		if err != nil {
			return errors.Join(err, r.leaveSegment())
		}
		if done {
			return nil
		}
	}
}

// receiver is the state of one stream.
type receiver struct {
	conn   *Conn
	keeper wal.Keeper
	o      ReceiveOptions

	timeline wal.Timeline
	pos      wal.LSN      // of the next byte
	flushed  wal.LSN      // up to here the slot may let go
	stop     wal.Position // zero as long as it is not known
	ended    bool         // we told the server that we want no more
	segment  wal.SegmentWriter

	blocks  chan block    // what was read from the connection
	next    chan struct{} // asks for one more of them
	reading bool          // it was asked for

	streaming bool      // statuses may be sent
	reported  time.Time // when the last status was sent
	silent    time.Time // since when the server has been waited for
	asked     time.Time // when it was then asked for a sign of life; zero if it was not
}

// checkSystem refuses another cluster, and one that has not come to the timeline yet.
func (r *receiver) checkSystem(ctx context.Context) error {
	if r.o.SystemID == "" {
		return nil
	}
	system, err := r.conn.IdentifySystem(ctx)
	switch {
	case err != nil:
		return err
	case system.ID != r.o.SystemID:
		return &usererr.Error{
			Err:    errors.New("system identifier does not match between base backup and streaming connection"),
			Detail: fmt.Sprintf("The backup is of the cluster %s, the stream would be of %s.", r.o.SystemID, system.ID),
		}
	case r.timeline > system.Position.Timeline:
		return fmt.Errorf("starting timeline %d is not present in the server", r.timeline)
	}
	return nil
}

// receiveTimeline streams up to the stop point or to the end of the timeline,
// and returns whether it was the stop point.
func (r *receiver) receiveTimeline(ctx context.Context) (done bool, err error) {
	if err := r.fetchHistory(ctx); err != nil {
		return false, err
	}
	if r.reached() {
		return true, nil
	}
	command := protocol.StartReplication(r.o.Slot, wal.Position{LSN: r.pos, Timeline: r.timeline})
	if err := r.conn.send(command); err != nil {
		return false, err
	}
	kind, err := r.conn.next(ctx)
	if err != nil {
		return false, fmt.Errorf("could not send replication command \"%s\": %w", "START_REPLICATION", err)
	}
	switch kind {
	case 'W':
		closed, err := r.stream(ctx)
		if closed || err != nil {
			return closed, err
		}
		kind = 0
	case 'T': // the timeline ended where we begin
	default:
		return false, errUnexpected(kind)
	}
	return r.endOfStream(ctx, kind)
}

// fetchHistory gets the history file of the timeline unless it has none or the
// keeper has it.
func (r *receiver) fetchHistory(ctx context.Context) error {
	if r.timeline == 1 {
		return nil
	}
	name := wal.HistoryName(r.timeline)
	if has, err := r.keeper.HasHistory(name); has || err != nil {
		return err
	}
	command := protocol.TimelineHistory(r.timeline)
	rows, err := r.conn.Query(ctx, command)
	if err != nil {
		return fmt.Errorf("could not send replication command \"%s\": %w", "TIMELINE_HISTORY", err)
	}
	if len(rows) != 1 || len(rows[0]) != 2 {
		return fmt.Errorf("unexpected response to TIMELINE_HISTORY command: got %s, expected 1 row and 2 fields", shape(rows))
	}
	if got := rows[0].text(0); got != name {
		return fmt.Errorf("server reported unexpected history file name for timeline %d: %s", r.timeline, got)
	}
	return r.keeper.History(name, rows[0][1])
}

// stream reads the COPY that carries the log, up to its end. It returns whether
// the server, shutting down, closed the connection behind all that was wanted.
func (r *receiver) stream(ctx context.Context) (closed bool, err error) {
	r.ended, r.streaming = false, true
	defer func() { r.streaming = false }()
	if err := r.report(false); err != nil {
		return false, err
	}
	if err := r.checkStop(); err != nil {
		return false, err
	}
	for {
		kind, err := r.conn.next(ctx)
		switch {
		case sqlState(err) != "":
			return false, fmt.Errorf("unexpected termination of replication stream: %w", err)
		case err != nil:
			return false, err
		}
		switch kind {
		case 'd':
			if err := r.message(ctx); err != nil {
				return false, err
			}
		case 'c':
			if err := r.leaveSegment(); err != nil {
				return false, err
			}
			if !r.ended {
				r.ended = true
				return false, r.conn.writeCopyDone()
			}
			return false, nil
		case 'C': // the server shuts down: it ends without CopyDone
			if r.reached() {
				return true, nil
			}
			return false, errors.New("replication stream was terminated before stop point")
		default:
			return false, errUnexpected(kind)
		}
		if r.o.StatusInterval > 0 && time.Since(r.reported) >= r.o.StatusInterval {
			if err := r.report(false); err != nil {
				return false, err
			}
		}
	}
}

// message deals with one CopyData message.
func (r *receiver) message(ctx context.Context) error {
	if r.conn.left == 0 {
		return fmt.Errorf("streaming header too small: %d", 0)
	}
	kind, err := r.conn.peek(ctx)
	if err != nil {
		return err
	}
	switch kind {
	case protocol.StreamData:
		return r.data(ctx)
	case protocol.StreamKeepalive:
		msg, err := r.conn.body(ctx)
		if err != nil {
			return err
		}
		k, err := protocol.ParseKeepalive(msg)
		if err != nil {
			return err
		}
		if !k.Reply {
			return nil
		}
		if err := r.flush(); err != nil {
			return err
		}
		return r.report(false)
	}
	return fmt.Errorf("unrecognized streaming header: \"%c\"", kind)
}

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
	if at := protocol.ParseDataHeader(header); at != r.pos && !r.ended {
		return &usererr.Error{
			Err:  fmt.Errorf("got WAL data at %v, expected %v", at, r.pos),
			Hint: "The stream has a gap or a repetition. Take the backup again.",
		}
	}
	for c.left > 0 && !r.ended {
		if r.segment == nil {
			name := wal.SegmentAt(wal.Position{LSN: r.pos, Timeline: r.timeline}, r.o.Segment).Name(r.o.Segment)
			if r.segment, err = r.keeper.Begin(name, r.o.Segment); err != nil {
				return err
			}
		}
		room := r.o.Segment - int64(r.pos)%r.o.Segment
		piece, err := c.fragment(ctx, int(min(int64(c.left), room)))
		if err != nil {
			return err
		}
		if r.ended { // the stop point became known while we waited for the piece
			return nil
		}
		if _, err := r.segment.Write(piece); err != nil {
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

func (r *receiver) finishSegment() error {
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
	r.flushed = r.pos
	return r.checkStop()
}

// flush lets the slot go of all that came: a server that shuts down waits for it.
func (r *receiver) flush() error {
	if r.o.Slot == "" || r.segment == nil {
		return nil
	}
	if r.o.Durable {
		if err := r.segment.Flush(); err != nil {
			return err
		}
	}
	r.flushed = r.pos
	return nil
}

// leaveSegment closes the segment in hand, if any, before its end.
func (r *receiver) leaveSegment() error {
	segment := r.segment
	r.segment = nil
	if segment == nil {
		return nil
	}
	return segment.Abandon()
}

// stopAt learns the stop point.
func (r *receiver) stopAt(stop wal.Position) error {
	r.stop = stop
	if !r.streaming {
		return nil
	}
	return r.checkStop()
}

func (r *receiver) reached() bool {
	return r.stop.LSN != 0 && r.pos >= r.stop.LSN && r.timeline >= r.stop.Timeline
}

// checkStop ends the stream if the stop point is reached.
func (r *receiver) checkStop() error {
	if r.ended || !r.reached() {
		return nil
	}
	if err := r.leaveSegment(); err != nil {
		return err
	}
	r.ended = true
	return r.conn.writeCopyDone()
}

// endOfStream reads what follows the COPY: nothing but completions if the
// stream was ended by us, where the next timeline begins if by the server.
// kind is the answer in hand, or zero.
func (r *receiver) endOfStream(ctx context.Context, kind byte) (done bool, err error) {
	var next Row
	for ; kind != 'Z'; kind, err = r.conn.next(ctx) {
		if err != nil {
			return false, fmt.Errorf("unexpected termination of replication stream: %w", err)
		}
		switch kind {
		case 0, 'T', 'C':
		case 'D':
			if next, err = r.conn.row(ctx); err != nil {
				return false, err
			}
		default:
			return false, errUnexpected(kind)
		}
	}
	if r.reached() {
		return true, nil
	}
	if len(next) != 2 {
		return false, errors.New("replication stream was terminated before stop point")
	}
	timeline, err := parseTimeline(next.text(0))
	if err != nil {
		return false, fmt.Errorf("unexpected result set after end-of-timeline: %w", err)
	}
	at, err := wal.ParseLSN(next.text(1))
	if err != nil {
		return false, fmt.Errorf("could not parse next timeline's starting point \"%s\"", next.text(1))
	}
	switch {
	case timeline <= r.timeline:
		return false, fmt.Errorf("server reported unexpected next timeline %d, following timeline %d", timeline, r.timeline)
	case at > r.pos:
		return false, fmt.Errorf("server stopped streaming timeline %d at %v, but reported next timeline %d to begin at %v", r.timeline, r.pos, timeline, at)
	}
	r.timeline = timeline
	r.pos = wal.SegmentAt(wal.Position{LSN: at}, r.o.Segment).Start(r.o.Segment)
	return false, nil
}

// report tells the server how far we are.
func (r *receiver) report(wantReply bool) error {
	if r.ended {
		return nil // after CopyDone nothing may be sent
	}
	s := protocol.Status{Write: r.pos, Reply: wantReply}
	if r.o.Slot != "" {
		s.Flush = r.flushed // the slot lets go of what we have for good
	}
	now := time.Now()
	r.reported = now
	return r.conn.writeCopyData(s.Append(nil, now))
}

// read reads a block whenever one is asked for, so that wait can do other
// things meanwhile. It ends with the stream, or when the connection is closed.
func (r *receiver) read() {
	buf := make([]byte, blockSize)
	for range r.next {
		n, err := r.conn.conn.Read(buf)
		r.blocks <- block{buf[:n], err}
	}
}

// wait waits for the next block of the stream, and meanwhile reports in time,
// notices a server that fell silent, and learns the stop point.
func (r *receiver) wait(ctx context.Context) (block, error) {
	if !r.reading {
		r.next <- struct{}{}
		r.reading = true
		// Not when the server was last heard: our own disk may have taken the time since.
		r.silent, r.asked = time.Now(), time.Time{}
	}
	select {
	case end := <-r.o.Stop:
		if err := r.stopAt(end); err != nil {
			return block{}, err
		}
	default: // under load the loop below may never get to it
	}
	for {
		timer := time.NewTimer(r.untilNext())
		select {
		case b := <-r.blocks:
			timer.Stop()
			r.reading = false
			return b, nil
		case <-ctx.Done():
			timer.Stop()
			return block{}, context.Cause(ctx)
		case end := <-r.o.Stop:
			timer.Stop()
			if err := r.stopAt(end); err != nil {
				return block{}, err
			}
		case <-timer.C:
			if err := r.alarm(); err != nil {
				return block{}, err
			}
		}
	}
}

// talks says whether reports can be sent: during the COPY, until we end it.
func (r *receiver) talks() bool { return r.streaming && !r.ended }

// deadline is when something must be done about the server's silence: to ask
// for a sign of life after half the time, to give up after the other half.
func (r *receiver) deadline() time.Time {
	switch {
	case !r.talks():
		return r.silent.Add(r.o.Timeout)
	case r.asked.IsZero():
		return r.silent.Add(r.o.Timeout / 2)
	}
	return r.asked.Add(r.o.Timeout / 2)
}

// untilNext is how long nothing needs to be done if the server says nothing.
func (r *receiver) untilNext() time.Duration {
	until := time.Until(r.deadline())
	if r.o.StatusInterval > 0 && r.talks() {
		until = min(until, time.Until(r.reported.Add(r.o.StatusInterval)))
	}
	return max(until, 0)
}

// alarm does what is due.
func (r *receiver) alarm() error {
	switch {
	case time.Now().Before(r.deadline()):
		if r.talks() && time.Since(r.reported) >= r.o.StatusInterval {
			return r.report(false)
		}
		return nil
	case r.talks() && r.asked.IsZero():
		r.asked = time.Now()
		return r.report(true)
	}
	return usererr.Hinted("See whether the server and the network are up, then start again.",
		"terminating WAL stream: nothing came from the server for %v", r.o.Timeout)
}
