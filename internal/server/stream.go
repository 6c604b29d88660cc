package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"basin/internal/protocol"
	"basin/internal/wal"
)

// Log is the log of a cluster. Its methods are called from many goroutines.
type Log interface {
	// Flushed returns the position up to which the log may be sent, on the newest
	// timeline, and a channel that is closed at the next change.
	Flushed() (wal.Position, <-chan struct{})
	// HistoryFile returns the content of a timeline's history file; one that is
	// nowhere is fs.ErrNotExist.
	HistoryFile(ctx context.Context, t wal.Timeline) ([]byte, error)
	// Reader returns a reader of one timeline for one client.
	Reader(t wal.Timeline) LogReader
}

// LogReader reads the log of one timeline.
type LogReader interface {
	// ReadAt fills p with the log from a position on. All of it lies in one segment
	// and is flushed. A segment that is nowhere any more is fs.ErrNotExist.
	ReadAt(ctx context.Context, p []byte, at wal.LSN) (n int, err error)
	Close() error
}

// peer is the client's connection while a stream runs. One goroutine receives and
// one sends.
type peer interface {
	// Send writes whole messages, which lie in pieces.
	Send(pieces ...[]byte) error
	// Receive returns the next message of the client; body is valid until the next
	// call. When ctx ends it returns an error, and nothing that has come is lost.
	Receive(ctx context.Context) (kind byte, body []byte, err error)
	// SetWriteDeadline has a Send fail that is not done by then.
	SetWriteDeadline(t time.Time) error
}

// streamOptions say which part of the log is wanted, and how.
type streamOptions struct {
	From        wal.Position  // where it begins; timeline zero is the newest
	Timeout     time.Duration // how long the client may be silent, as wal_sender_timeout; zero is for ever
	SegmentSize int64         // in bytes; must be valid

	// Shutdown, once it is closed, ends the stream when the client has all that is
	// flushed by then. Nil is never.
	Shutdown <-chan struct{}

	// Handover says whether the cluster has to go on with the stream, and returns a
	// channel that is closed when that may have changed. Nil is never.
	Handover func() (bool, <-chan struct{})

	Progress *streamProgress // kept up to date; may be nil
}

// Reasons why a stream ends that the client is told in no message.
var (
	// errStreamTimeout is a client that has been silent for too long.
	errStreamTimeout = errors.New("terminating walsender process due to replication timeout")
	// errStreamShutdown is the end of a stream whose client has all of it. It was told
	// so with a CommandComplete, and waits for the connection to be closed.
	errStreamShutdown = errors.New("the stream has ended, as the server shuts down")
	// errStreamLeft is a client that said that it ends.
	errStreamLeft = errors.New("the client has ended the connection")
)

// handover ends a stream, between two messages, that the cluster has to go on with: its
// client wants old rows to be kept, or commits wait for it.
type handover struct {
	Message []byte       // of the client, that is for the cluster: the CopyData's body; may be nil
	Sent    wal.Position // up to where the client was sent the log
}

func (h *handover) Error() string {
	return fmt.Sprintf("the cluster has to go on with the stream, at %v", h.Sent.LSN)
}

// stream answers START_REPLICATION for the physical log without a slot, but for the
// ReadyForQuery at the end. An error that the client is to be told of is an *Error,
// or whatever else is no ending; after an ending the connection is to be closed, and
// after a *handover the client is still within the stream.
//
// Source: StartReplication in src/backend/replication/walsender.c, PostgreSQL 18.
func stream(ctx context.Context, p peer, log Log, o streamOptions) (err error) {
	s := &sender{peer: p, log: log, o: o, timeline: o.From.Timeline, at: o.From.LSN}
	if s.o.Progress == nil {
		s.o.Progress = new(streamProgress)
	}
	flushed, _ := log.Flushed()
	if s.timeline == 0 {
		s.timeline = flushed.Timeline
	}
	if s.timeline != flushed.Timeline {
		if err := s.leaveTimeline(ctx, flushed.Timeline); err != nil {
			return err
		}
		if s.at > s.end {
			return &Error{
				Message: fmt.Sprintf("requested starting point %v on timeline %d is not in this server's history", s.at, s.timeline),
				Detail:  fmt.Sprintf("This server's history forked from timeline %d at %v.", s.timeline, s.end),
			}
		}
		if s.at == s.end {
			return s.finish() // nothing to send: there is no COPY
		}
	}
	if err := s.send([]byte{'W', 0, 0, 0, 7, 0, 0, 0}); err != nil { // CopyBothResponse of no columns
		return err
	}
	if s.next == 0 && s.at > flushed.LSN {
		return &Error{Message: fmt.Sprintf("requested starting point %v is ahead of the WAL flush position of this server %v", s.at, flushed.LSN)}
	}
	s.reader = log.Reader(s.timeline)
	err = s.copyBoth(ctx)
	if closeErr := s.reader.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return s.finish()
}

// sender is the state of one stream.
type sender struct {
	peer   peer
	log    Log
	o      streamOptions
	reader LogReader

	timeline wal.Timeline // that is sent
	at       wal.LSN      // up to where it was
	// next is the timeline that follows, if the cluster has left the one that is sent,
	// and end is where. The client may have been sent more than that before.
	next wal.Timeline
	end  wal.LSN

	ended   bool    // CopyDone was sent
	stopped bool    // the server shuts down
	stop    wal.LSN // up to where the log is sent then
	asked   time.Time
	batch   []byte   // what is sent at once, without heads
	heads   []byte   // of the messages of that
	pieces  [][]byte // both, in turns
}

// copyBoth sends and receives until both sides have said that they are done.
func (s *sender) copyBoth(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	// A client that reads nothing more holds up neither the timeout nor the end.
	interrupted := make(chan struct{})
	keep := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = s.peer.SetWriteDeadline(time.Now()) // fails if the connection is closed, as Send will
	})
	l := &listener{woken: make(chan struct{}, 1), goOn: make(chan struct{}, 1), progress: s.o.Progress, heard: time.Now()}
	if s.o.Timeout > 0 {
		l.timeout = s.o.Timeout
		l.watch = time.AfterFunc(s.o.Timeout, func() { cancel(ending{errStreamTimeout}) })
		defer l.watch.Stop()
	}
	s.o.Progress.sent(wal.Position{LSN: s.at, Timeline: s.timeline})
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		l.listen(ctx, s.peer)
	}()
	err := s.run(ctx, l)
	if !keep() {
		<-interrupted
		if !errors.As(err, new(*sendError)) { // no message was cut: more can follow
			_ = s.peer.SetWriteDeadline(time.Time{})
		}
	}
	cause := context.Cause(ctx)
	cancel(nil)
	<-listening
	if cause != nil && err != nil {
		return cause
	}
	if h := (*handover)(nil); errors.As(err, &h) {
		return s.settle(h, l.take())
	}
	return err
}

// settle ends a stream that is to be handed over, though not before what the client has said
// meanwhile, which the cluster will not hear, is answered.
func (s *sender) settle(h *handover, last said) error {
	if last.done {
		return s.sendCopyDone()
	}
	if wants := (*handover)(nil); errors.As(last.err, &wants) {
		h.Message = wants.Message
	} else if last.err != nil && (!errors.As(last.err, new(ending)) || errors.Is(last.err, errStreamLeft)) {
		return last.err
	}
	if last.reply {
		if err := s.sendKeepalive(false); err != nil {
			return err
		}
	}
	return h
}

// run is the loop of copyBoth.
//
// Source: WalSndLoop and XLogSendPhysical in src/backend/replication/walsender.c,
// PostgreSQL 18.
func (s *sender) run(ctx context.Context, l *listener) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if done, err := s.answer(l); done || err != nil {
			return err
		}
		over, reconsider := s.handover()
		if over {
			return &handover{Sent: wal.Position{LSN: s.at, Timeline: s.timeline}}
		}
		limit, changed, err := s.limit(ctx)
		if err != nil {
			return err
		}
		if s.next != 0 && s.at >= s.end && !s.ended {
			if err := s.sendCopyDone(); err != nil {
				return err
			}
		}
		if s.at < limit && !s.ended {
			if err := s.sendLog(ctx, limit); err != nil {
				return err
			}
			continue
		}
		if s.closing() && s.confirmed() {
			if err := s.send(commandComplete("COPY 0")); err != nil {
				return err
			}
			return ending{errStreamShutdown}
		}
		if err := s.wait(ctx, l, changed, reconsider); err != nil {
			return err
		}
	}
}

// answer does what the client has said calls for, and asks it for a sign of life
// in time. done says that the client ends the stream.
func (s *sender) answer(l *listener) (done bool, err error) {
	heard := l.take()
	if h := (*handover)(nil); errors.As(heard.err, &h) {
		if s.ended { // it will say so again in the stream that follows
			heard.err = nil
			l.forgive()
		}
		h.Sent = wal.Position{LSN: s.at, Timeline: s.timeline}
	}
	if heard.reply && (heard.err == nil || errors.As(heard.err, new(*handover))) {
		if err := s.sendKeepalive(false); err != nil {
			return false, err
		}
	}
	if heard.err != nil {
		return false, heard.err
	}
	if heard.done {
		if s.ended {
			return true, nil
		}
		return true, s.sendCopyDone()
	}
	if ask := l.due(s.closing(), s.asked); !ask.IsZero() && !time.Now().Before(ask) {
		l.ask()
		s.asked = time.Now()
		return false, s.sendKeepalive(true)
	}
	return false, nil
}

// wait waits until there is something to do.
func (s *sender) wait(ctx context.Context, l *listener, changed, reconsider <-chan struct{}) error {
	var due <-chan time.Time
	if ask := l.due(s.closing(), s.asked); !ask.IsZero() {
		timer := time.NewTimer(time.Until(ask))
		defer timer.Stop()
		due = timer.C
	}
	shutdown := s.o.Shutdown
	if s.stopped {
		shutdown = nil
	}
	if s.stopped || s.ended {
		changed = nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.woken:
	case <-changed:
	case <-reconsider:
	case <-shutdown:
	case <-due:
	}
	return nil
}

// handover says whether the cluster has to go on, and returns a channel that is closed
// when that may have changed. A stream that is at its end is left alone.
func (s *sender) handover() (bool, <-chan struct{}) {
	if s.o.Handover == nil || s.ended || s.stopped {
		return false, nil
	}
	return s.o.Handover()
}

// limit returns up to where the log may be sent now, and a channel that is closed
// when that changes.
func (s *sender) limit(ctx context.Context) (wal.LSN, <-chan struct{}, error) {
	flushed, changed := s.log.Flushed()
	if s.next == 0 && flushed.Timeline != s.timeline {
		if err := s.leaveTimeline(ctx, flushed.Timeline); err != nil {
			return 0, nil, err
		}
	}
	limit := flushed.LSN
	if s.next != 0 {
		limit = s.end
	}
	select {
	case <-s.o.Shutdown:
		if !s.stopped {
			s.stopped, s.stop = true, max(limit, s.at)
		}
		limit = min(limit, s.stop)
	default:
	}
	return limit, changed, nil
}

// leaveTimeline learns where the cluster left the timeline that is sent. newest is
// the cluster's own.
//
// Source: tliSwitchPoint in src/backend/access/transam/timeline.c, PostgreSQL 18.
func (s *sender) leaveTimeline(ctx context.Context, newest wal.Timeline) error {
	unknown := &Error{Message: fmt.Sprintf("requested timeline %d is not in this server's history", s.timeline)}
	if s.timeline > newest {
		return unknown
	}
	content, err := s.log.HistoryFile(ctx, newest)
	if errors.Is(err, fs.ErrNotExist) {
		return unknown
	}
	if err != nil {
		return err
	}
	history, err := wal.ParseHistory(newest, content)
	if err != nil {
		return err
	}
	end, ok := history.End(s.timeline)
	if !ok {
		return unknown
	}
	s.end, s.next = end, history.Child(s.timeline, newest)
	return nil
}

// closing says whether all was sent that will be.
func (s *sender) closing() bool { return s.stopped && (s.ended || s.at >= s.stop) }

// confirmed says whether the client has all that it was sent.
func (s *sender) confirmed() bool {
	state := s.o.Progress.state()
	if state.Flush != 0 {
		return state.Flush >= s.at
	}
	return state.Write >= s.at
}

const (
	// maxData is how many bytes of the log one message has at most (MAX_SEND_SIZE).
	maxData = 128 << 10
	// maxAtOnce is how many bytes are read, and then sent, at once: what it costs to send
	// depends on how often that is done.
	maxAtOnce = 4 * maxData
	// pageSize is that of a page of the log (XLOG_BLCKSZ). Records are split at its ends.
	pageSize = 8192
)

// sendLog sends some of the log, of which there is more up to limit.
//
// Source: XLogSendPhysical in src/backend/replication/walsender.c, PostgreSQL 18, which
// sends one message.
func (s *sender) sendLog(ctx context.Context, limit wal.LSN) error {
	segment := wal.SegmentAt(wal.Position{LSN: s.at, Timeline: s.timeline}, s.o.SegmentSize)
	end := min(cut(s.at, limit, maxAtOnce), segment.Start(s.o.SegmentSize)+wal.LSN(s.o.SegmentSize))
	if s.batch == nil {
		s.batch = make([]byte, maxAtOnce)
	}
	log := s.batch[:end-s.at]
	n, err := s.reader.ReadAt(ctx, log, s.at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return missingSegment(segment.Name(s.o.SegmentSize), err)
	case err != nil:
		return err
	case n != len(log):
		return fmt.Errorf("read %d bytes of the log at %v, not %d", n, s.at, len(log))
	}
	s.heads, s.pieces = s.heads[:0], s.pieces[:0]
	for at := s.at; at < end; {
		size := int(cut(at, end, maxData) - at)
		begun := len(s.heads)
		s.heads = append(s.heads, 'd')
		s.heads = binary.BigEndian.AppendUint32(s.heads, uint32(4+protocol.DataHeaderSize+size))
		s.heads = protocol.AppendDataHeader(s.heads, at, limit, time.Now())
		s.pieces = append(s.pieces, s.heads[begun:], log[:size])
		at += wal.LSN(size)
		log = log[size:]
	}
	if err := s.send(s.pieces...); err != nil {
		return err
	}
	s.at = end
	s.o.Progress.sent(wal.Position{LSN: s.at, Timeline: s.timeline})
	return nil
}

// cut returns where what begins at a position is to end: at limit, or if that is more than
// most bytes away, at the end of a page.
func cut(at, limit wal.LSN, most int) wal.LSN {
	if limit-at > wal.LSN(most) {
		return (at + wal.LSN(most)) &^ (pageSize - 1)
	}
	return limit
}

// missingSegment says that a segment is gone, and if there is something else under
// its name, what.
func missingSegment(name string, err error) error {
	e := &Error{Code: codeUndefinedFile, Message: fmt.Sprintf("requested WAL segment %s has already been removed", name)}
	if page := (*wal.PageError)(nil); errors.As(err, &page) {
		e.Detail = page.Error()
	}
	return e
}
