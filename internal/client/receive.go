package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"basin/internal/protocol"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// ReceiveOptions say which part of the log is wanted, and how.
type ReceiveOptions struct {
	SystemID string       // the cluster it must come from, a decimal number; empty for any
	Start    wal.Position // the stream begins with the segment this lies in
	Segment  int64        // size of the server's segments, in bytes
	Slot     string       // replication slot to use; empty for none
	Durable  bool         // the server is told that something is flushed only once the keeper has made it durable

	// Synchronous makes what came durable as soon as nothing more is waiting to
	// be read, and tells the server at once: a commit there may wait for it.
	Synchronous bool

	// Watch hands over what came as soon as nothing more is waiting to be read, and tells the
	// server of nothing that it is flushed: a slot stays where it is, and no commit counts on us.
	Watch bool

	// Stop yields the position up to which the log is wanted, once it is known.
	Stop <-chan wal.Position

	StatusInterval time.Duration // between reports to the server; zero reports only when asked
	// Timeout is how long the server may be silent, although it was asked for a
	// sign of life, before it is given up. Zero is DefaultTimeout.
	Timeout time.Duration

	Progress *ReceiveProgress // kept up to date; may be nil

	// Started, if not nil, is told where the stream begins once the server has begun
	// to send, Finished the end of each segment that is complete, Switched where the
	// stream goes on to another timeline.
	Started, Finished, Switched func(wal.Position)
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
	if err := c.CheckStreaming(); err != nil {
		return err
	}
	if o.Progress == nil {
		o.Progress = new(ReceiveProgress)
	}
	r := &receiver{keeper: keeper, o: o, timeline: o.Start.Timeline, stops: make(chan wal.Position, 1)}
	r.out = bufio.NewWriterSize(nil, writeBuffer)
	r.vigil = vigil{
		conn: c, progress: o.Progress, timeout: o.Timeout, interval: o.StatusInterval,
		report: r.sendStatus, asked: r.learnStop, due: r.keepInTime,
	}
	r.pos = wal.SegmentAt(o.Start, o.Segment).Start(o.Segment)
	r.written, r.flushed = r.pos, r.pos
	r.progress.begin(r.timeline, r.pos)
	r.progress.works()
	defer r.progress.rests()
	defer r.begin(ctx)()
	defer r.watchStop()()
	c.wait = r.read
	if err := r.checkSystem(ctx); err != nil {
		return err
	}
	for {
		done, err := r.receiveTimeline(ctx)
		if err != nil {
			return r.abandonAfter(cause(ctx, err))
		}
		if done {
			return nil
		}
	}
}

// receiver is the state of one stream.
type receiver struct {
	vigil
	keeper wal.Keeper
	o      ReceiveOptions

	timeline wal.Timeline
	history  wal.History // of the timeline
	pages    *wal.PageChecker
	pos      wal.LSN // of the next byte
	written  wal.LSN // up to here, at least, the segment was given the log; the rest is in out
	flushed  wal.LSN // up to here the server may let go
	told     wal.LSN // what flushed was when the server was last told
	stops    chan wal.Position
	stop     wal.Position // zero as long as it is not known
	segment  wal.SegmentWriter
	out      *bufio.Writer // to the segment
	started  bool          // the server has begun to send

	// isServed is that the server has the log from where the stream begins: it has sent some, or there is none beyond. Before that it is told
	// of nothing that it is flushed, as its slot would be moved to there, and stay there if that log is gone.
	isServed bool

	synced     time.Time     // when the last flush of a synchronous stream ended
	syncPeriod time.Duration // how long it took

	gathered   time.Time // when log was last let gather
	gatheredTo wal.LSN   // where the stream was then
}

// checkSystem refuses another cluster, and one that has not come to the timeline yet.
func (r *receiver) checkSystem(ctx context.Context) error {
	if r.o.SystemID == "" {
		r.isServed = true // as far as that is known
		r.progress.identified(0)
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
		return usererr.Hinted("The log here is of a newer timeline than the server's: it was promoted later than this server was left behind. Name the server that is the primary now.",
			"starting timeline %d is not present in the server", r.timeline)
	}
	r.isServed = r.timeline == system.Position.Timeline && r.pos >= system.Position.LSN
	r.progress.identified(system.Position.LSN)
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
	command := protocol.StartPhysicalReplication{Slot: r.o.Slot, From: wal.Position{LSN: r.pos, Timeline: r.timeline}}
	if err := r.conn.send(command.Command(r.conn.Version)); err != nil {
		return false, err
	}
	kind, err := r.conn.next(ctx)
	if err != nil {
		return false, refusedStream(err, "could not send replication command \"%s\"", "START_REPLICATION")
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

// historian is a keeper that can tell what is in the history files it keeps.
type historian interface {
	KeptHistory(wal.Timeline) (wal.History, bool)
}

// fetchHistory gets the history file of the timeline, if it has one, and has it
// kept. It is asked for each time: two standbys may have been promoted to
// timelines of the same number.
func (r *receiver) fetchHistory(ctx context.Context) error {
	r.history = nil
	if r.timeline == 1 {
		return nil
	}
	content, err := r.conn.TimelineHistory(ctx, r.timeline)
	if keeper, ok := r.keeper.(historian); ok && sqlState(err) == stateUndefinedFile {
		if r.history, ok = keeper.KeptHistory(r.timeline); ok { // the server has removed it, we have it
			return nil
		}
	}
	if err != nil {
		return err
	}
	if r.history, err = wal.ParseHistory(r.timeline, content); err != nil {
		return err
	}
	return r.keeper.History(wal.HistoryName(r.timeline), content)
}

// stream reads the COPY that carries the log, up to its end. It returns whether
// the server, shutting down, closed the connection behind all that was wanted.
func (r *receiver) stream(ctx context.Context) (closed bool, err error) {
	rules, err := r.pageRules()
	if err != nil {
		return false, err
	}
	r.pages = wal.NewPageChecker(rules, r.pos)
	r.ended, r.streaming = false, true
	defer func() { r.streaming = false }()
	// A server without news is to say that it is there. One that lacks the log says so
	// instead, which it does only after it has accepted the command.
	if err := r.report(true); err != nil {
		return false, err
	}
	if err := r.checkStop(); err != nil {
		return false, err
	}
	r.gathered, r.gatheredTo = time.Now(), r.pos
	for {
		if err := r.gather(); err != nil {
			return false, err
		}
		kind, err := r.conn.next(ctx)
		switch {
		case sqlState(err) != "":
			return false, refusedStream(err, "unexpected termination of replication stream")
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
			return false, errTerminated
		default:
			return false, errUnexpected(kind)
		}
		if err := r.reportInTime(); err != nil {
			return false, err
		}
	}
}

// errTerminated is the end of a stream that the server chose.
var errTerminated = usererr.Hinted("The server was shut down, or has ended the stream by itself; its log tells more.",
	"replication stream was terminated before stop point")

// pageRules says what the pages of the stream have to look like.
func (r *receiver) pageRules() (wal.PageRules, error) {
	rules := wal.PageRules{
		SegmentSize: r.o.Segment, Major: r.conn.Version / 10000, Timeline: r.timeline, History: r.history,
	}
	if r.o.SystemID == "" {
		return rules, nil
	}
	var err error
	rules.SystemID, err = strconv.ParseUint(r.o.SystemID, 10, 64)
	return rules, err
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
	if !r.started && r.o.Started != nil {
		r.o.Started(wal.Position{LSN: r.pos, Timeline: r.timeline})
	}
	r.started = true
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
		r.progress.heard(k.End)
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
	if r.reportsFlush() { // the slot need not hold what is kept
		if err := r.report(false); err != nil {
			return err
		}
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
		return false, errTerminated
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
	if r.o.Switched != nil {
		r.o.Switched(wal.Position{LSN: at, Timeline: timeline})
	}
	r.timeline = timeline
	r.pos = wal.SegmentAt(wal.Position{LSN: at}, r.o.Segment).Start(r.o.Segment)
	r.written, r.flushed = r.pos, r.pos
	r.progress.begin(r.timeline, r.pos)
	return false, nil
}

// sendStatus tells the server how far we are.
func (r *receiver) sendStatus(wantReply bool) error {
	if r.ended {
		return nil // after CopyDone nothing may be sent
	}
	if err := r.writeOut(); err != nil {
		return err
	}
	s := protocol.Status{Write: r.pos, Reply: wantReply}
	now := time.Now()
	if r.reported = now; r.isServed {
		if r.told = r.flushed; r.reportsFlush() {
			s.Flush = r.flushed
		}
	}
	return r.conn.writeCopyData(s.Append(nil, now))
}

const (
	gatherPause = 4 * time.Millisecond
	// gatherRate is, in bytes a second, up to what rate log may gather: what comes in a
	// pause has room in a socket's buffer then, which is 208 KiB on Linux.
	gatherRate = 32 << 20
	// gatherTime is over how long the rate is looked at.
	gatherTime = 100 * time.Millisecond
)

// gather lets small messages gather in the socket if no commit waits for them. The
// server sends one for every commit, and to be woken up for each costs more than all
// that is done with it. If more is there already, they come fast enough.
func (r *receiver) gather() error {
	if r.o.Synchronous || r.ended || len(r.conn.unread) > 0 {
		return nil
	}
	if err := r.writeOut(); err != nil || r.o.Watch {
		return err
	}
	now := time.Now()
	elapsed := now.Sub(r.gathered)
	few := float64(r.pos-r.gatheredTo) < gatherRate*elapsed.Seconds()
	if few || elapsed > gatherTime {
		r.gathered, r.gatheredTo = now, r.pos
	}
	if few && !isReadable(r.conn.conn) {
		r.progress.rests()
		pause(gatherPause)
		r.progress.works()
	}
	return nil
}

// watchStop passes stop points on, and has a read see them, until it is told to end.
// One that is there already is known from the start.
func (r *receiver) watchStop() (end func()) {
	select {
	case r.stop = <-r.o.Stop:
	default:
	}
	over := make(chan struct{})
	interrupt := r.interrupter()
	go func() {
		for {
			select {
			case <-over:
				return
			case stop := <-r.o.Stop:
				select {
				case r.stops <- stop:
					interrupt()
				case <-over:
					return
				}
			}
		}
	}()
	return func() { close(over) }
}

// learnStop learns a stop point, if there is a new one.
func (r *receiver) learnStop() error {
	select {
	case stop := <-r.stops:
		return r.stopAt(stop)
	default:
		return nil
	}
}
