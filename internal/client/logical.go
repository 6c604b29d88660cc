package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"basin/internal/protocol"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// LogicalSink is where the records of a logical slot go, each with a newline
// behind it: a file, or the standard output. Its methods are called from one
// goroutine.
type LogicalSink interface {
	// Open is called when a stream has begun, and after Close. A sink that is
	// open stays as it is.
	Open() error
	// Write takes whole records. After an error none of them is there, and they
	// will come again.
	Write(records []byte) error
	// Sync makes what was written durable, as far as the sink can: only that is
	// acknowledged to the server as flushed. After an error the sink is of no
	// more use, as nobody knows what of it will last.
	Sync() error
	// Close closes the sink if it is open.
	Close() error
}

// LogicalOptions say what is wanted of a logical slot, and how.
type LogicalOptions struct {
	Slot   string
	Plugin []protocol.PluginOption // for the output plugin, in this order
	Start  wal.LSN                 // where to begin; zero is where the slot was left
	End    wal.LSN                 // a record that lies behind it is not wanted; zero is no end

	StatusInterval time.Duration // between reports to the server; zero reports only when asked
	SyncInterval   time.Duration // between syncs of the sink, if there is something to sync; zero never syncs, and acknowledges all the same
	// Timeout is how long the server may be silent, although it was asked for a
	// sign of life, before it is given up. Zero waits for ever: a server may be
	// busy for long with a large transaction that yields nothing.
	Timeout time.Duration

	Stop   <-chan struct{}   // once it is closed no more is wanted
	Reopen <-chan struct{}   // whenever it yields, the sink is closed and opened again
	Step   func(text string) // if not nil, is told each step as pg_recvlogical --verbose words it
}

// LogicalReceiver brings the records of a logical slot to a sink, over one
// connection after another. What was written is not asked for again, unless a
// connection ended within a transaction: then that transaction comes again from
// its beginning.
//
// Source: src/bin/pg_basebackup/pg_recvlogical.c, PostgreSQL 18.
type LogicalReceiver struct {
	vigil // of the connection in use
	sink  LogicalSink
	o     LogicalOptions

	records []byte // that came and are not written, each with its newline
	whole   int    // bytes of records that are complete

	received wal.LSN   // up to the last whole record
	written  wal.LSN   // the same without those in records
	synced   wal.LSN   // what the slot may forget
	dirty    bool      // something written is not synced
	syncedAt time.Time // the last time
	stopping bool      // Stop was closed

	reopening atomic.Bool // Reopen has yielded
}

// NewLogicalReceiver returns a receiver that has received nothing.
func NewLogicalReceiver(sink LogicalSink, o LogicalOptions) *LogicalReceiver {
	return &LogicalReceiver{sink: sink, o: o}
}

const (
	// writeSize is how many bytes of records are gathered, at most, while more are there.
	writeSize = 256 << 10
	// maxRecord is the longest record, in bytes: a server cannot make a longer message.
	maxRecord = 1<<30 - 1 // MaxAllocSize
)

// Receive streams over a connection, which it uses up and the caller closes. It
// returns whether the end that was asked for is reached, by End or Stop; an
// error with it is about how the server took leave. Else more can be received
// over another connection, unless the sink is of no more use. An error of nil
// then means that the server shut down.
//
// Source: StreamLogicalLog in src/bin/pg_basebackup/pg_recvlogical.c, PostgreSQL 18.
func (r *LogicalReceiver) Receive(ctx context.Context, c *Conn) (done bool, err error) {
	r.vigil = vigil{
		conn: c, progress: new(ReceiveProgress), timeout: r.o.Timeout, interval: r.o.StatusInterval,
		report: r.sendStatus, asked: r.doAsked, due: r.syncInTime,
	}
	defer r.begin(ctx)()
	defer r.watchAsked()()
	c.wait = r.wait
	r.records, r.whole, r.received = r.records[:0], 0, r.written
	r.syncedAt = time.Now()

	if err = r.startStreaming(ctx); err == nil {
		err = r.stream(ctx)
	}
	err = cause(ctx, err)
	begun := r.streaming
	r.streaming = false
	// Whether the connection ends at a record or behind it is chance.
	if unwritten := r.flush(); unwritten != nil {
		return false, errors.Join(err, unwritten)
	}
	lost := c.err != nil && errors.Is(err, c.err)
	if lost && begun {
		what := "could not receive data from WAL stream"
		if r.ended {
			what = "could not read COPY data"
		}
		err = fmt.Errorf("%s: %w", what, err)
	}
	// A server that went before it took leave may not know what we have; it can
	// be told over another connection, if there is time for that.
	return r.ended && (!lost || r.stopping), err
}

// startStreaming has the server begin.
func (r *LogicalReceiver) startStreaming(ctx context.Context) error {
	from := max(r.o.Start, r.written)
	r.step("starting log streaming at %v (slot %s)", from, r.o.Slot)
	command := protocol.StartLogicalReplication{Slot: r.o.Slot, From: from, Options: r.o.Plugin}.Command(r.conn.Version)
	if err := r.conn.send(command); err != nil {
		return err
	}
	if err := r.conn.expect(ctx, 'W'); err != nil {
		return fmt.Errorf("could not send replication command \"%s\": %w", command, err)
	}
	r.step("streaming initiated")
	r.streaming = true
	if err := r.sendStatus(false); err != nil {
		return err
	}
	if r.stopping {
		return r.stopNow()
	}
	return r.sink.Open()
}

// stream reads the COPY up to its end.
func (r *LogicalReceiver) stream(ctx context.Context) error {
	for {
		kind, err := r.conn.next(ctx)
		switch {
		case sqlState(err) != "":
			return fmt.Errorf("unexpected termination of replication stream: %w", err)
		case err != nil:
			return err
		}
		switch {
		case kind == 'd' && r.ended: // was on its way; the next head skips it
		case kind == 'd':
			err = r.message(ctx)
		case kind == 'c' && r.ended:
		case kind == 'C': // a server that shuts down sends it at once
			return nil
		default:
			return fmt.Errorf("unexpected termination of replication stream: %w", errUnexpected(kind))
		}
		if err != nil {
			return err
		}
		if _, err := r.syncInTime(); err != nil {
			return err
		}
		if err := r.reportInTime(); err != nil {
			return err
		}
	}
}

// message deals with one CopyData message.
func (r *LogicalReceiver) message(ctx context.Context) error {
	if r.conn.left == 0 {
		return fmt.Errorf("streaming header too small: %d", 0)
	}
	kind, err := r.conn.peek(ctx)
	if err != nil {
		return err
	}
	switch kind {
	case protocol.StreamData:
		return r.record(ctx)
	case protocol.StreamKeepalive:
		msg, err := r.conn.body(ctx)
		if err != nil {
			return err
		}
		k, err := protocol.ParseKeepalive(msg)
		if err != nil || r.ended {
			return err
		}
		return r.keepalive(k)
	}
	return fmt.Errorf("unrecognized streaming header: \"%c\"", kind)
}

// keepalive learns how far the server has come. All records that lie before
// that have come too.
func (r *LogicalReceiver) keepalive(k protocol.Keepalive) error {
	r.received = max(r.received, k.End)
	switch {
	case r.o.End != 0 && k.End >= r.o.End:
		return r.leave("end position %v reached by keepalive", r.o.End)
	case k.Reply:
		if err := r.sync(); err != nil {
			return err
		}
		return r.sendStatus(false)
	}
	return nil
}

// record takes one record.
func (r *LogicalReceiver) record(ctx context.Context) error {
	c := r.conn
	if c.left <= protocol.DataHeaderSize {
		return fmt.Errorf("streaming header too small: %d", c.left)
	}
	header, err := c.bytes(ctx, protocol.DataHeaderSize)
	if err != nil || r.ended {
		return err
	}
	at, _ := protocol.ParseDataHeader(header)
	switch {
	case r.o.End != 0 && at > r.o.End:
		return r.leave("end position %v reached by WAL record at %v", r.o.End, at)
	case c.left > maxRecord:
		return fmt.Errorf("unexpected length of a record: %d bytes", c.left)
	}
	r.records = slices.Grow(r.records, c.left+1)
	for c.left > 0 {
		piece, err := c.fragment(ctx, c.left)
		if err != nil {
			return err
		}
		if r.ended { // while we waited for the piece
			r.records = r.records[:r.whole]
			return nil
		}
		r.records = append(r.records, piece...)
	}
	r.records = append(r.records, '\n')
	r.whole = len(r.records)
	r.received = max(r.received, at)
	switch {
	case at == r.o.End && at != 0:
		return r.leave("end position %v reached by WAL record at %v", r.o.End, at)
	case r.whole >= writeSize:
		return r.flush()
	}
	return nil
}

// flush hands what is whole to the sink.
func (r *LogicalReceiver) flush() error {
	if r.whole > 0 {
		err := r.sink.Write(r.records[:r.whole])
		r.records = r.records[:copy(r.records, r.records[r.whole:])]
		r.whole = 0
		if len(r.records) == 0 && cap(r.records) > 4*writeSize {
			r.records = nil // one record was large
		}
		if err != nil {
			r.received = r.written // they will come again
			return err
		}
		r.dirty = true
	}
	r.written = r.received
	if !r.dirty || r.o.SyncInterval == 0 {
		r.synced = r.written
	}
	return nil
}

// sync makes what came durable.
func (r *LogicalReceiver) sync() error {
	if err := r.flush(); err != nil {
		return err
	}
	r.syncedAt = time.Now()
	if r.dirty && r.o.SyncInterval > 0 {
		if err := r.sink.Sync(); err != nil {
			return err
		}
	}
	r.dirty, r.synced = false, r.written
	return nil
}

// Close makes what came durable and closes the sink. Another Receive will open it
// again.
func (r *LogicalReceiver) Close() error {
	return errors.Join(r.sync(), r.sink.Close())
}

// reopen closes the sink and opens it again, as another file if its name has
// been given to another.
func (r *LogicalReceiver) reopen() error {
	if err := r.Close(); err != nil || !r.streaming {
		return err
	}
	return r.sink.Open()
}

// leave ends the stream: all that came is durable, the server knows, and no
// more is wanted. why is the step it is for.
func (r *LogicalReceiver) leave(why string, args ...any) error {
	if err := r.sync(); err != nil {
		return err
	}
	if err := r.sendStatus(false); err != nil {
		return err
	}
	if err := r.conn.writeCopyDone(); err != nil {
		return err
	}
	r.ended = true
	r.step(why, args...)
	return nil
}

// stopNow ends the stream, or has it end as soon as it has begun.
func (r *LogicalReceiver) stopNow() error {
	r.stopping = true
	if !r.talks() {
		return nil
	}
	return r.leave("received interrupt signal, exiting")
}

// sendStatus tells the server how far we are.
func (r *LogicalReceiver) sendStatus(wantReply bool) error {
	r.step("confirming write up to %v, flush to %v (slot %s)", r.written, r.synced, r.o.Slot)
	now := time.Now()
	r.reported = now
	s := protocol.Status{Write: r.written, Flush: r.synced, Reply: wantReply}
	if err := r.conn.writeCopyData(s.Append(nil, now)); err != nil {
		return fmt.Errorf("could not send feedback packet: %w", err)
	}
	return nil
}

func (r *LogicalReceiver) step(format string, args ...any) {
	if r.o.Step != nil {
		r.o.Step(fmt.Sprintf(format, args...))
	}
}

// syncInTime syncs if that is due, and says for how long it is not.
func (r *LogicalReceiver) syncInTime() (time.Duration, error) {
	if !r.dirty || r.o.SyncInterval == 0 {
		return math.MaxInt64, nil
	}
	if until := time.Until(r.syncedAt.Add(r.o.SyncInterval)); until > 0 {
		return until, nil
	}
	return math.MaxInt64, r.sync()
}

// watchAsked has a read see that something is asked for, until it is told to end.
func (r *LogicalReceiver) watchAsked() (end func()) {
	over := make(chan struct{})
	interrupt := r.interrupter()
	go func() {
		for stop := r.o.Stop; ; interrupt() {
			select {
			case <-over:
				return
			case <-stop:
				stop = nil
			case <-r.o.Reopen:
				r.reopening.Store(true)
			}
		}
	}()
	return func() { close(over) }
}

// wait waits for the next block of the stream. What came is written before.
func (r *LogicalReceiver) wait(ctx context.Context) (block, error) {
	if err := r.flush(); err != nil {
		return block{}, err
	}
	return r.read(ctx)
}

// doAsked does what was asked for meanwhile.
func (r *LogicalReceiver) doAsked() error {
	if r.reopening.CompareAndSwap(true, false) {
		if err := r.reopen(); err != nil {
			return err
		}
	}
	if r.stopping {
		return nil
	}
	select {
	case <-r.o.Stop:
		return r.stopNow()
	default:
		return nil
	}
}

// CheckLogical says whether logical slots of this server can be received from.
//
// Source: pg_recvlogical 18 has no such check; what it would send to a server
// before 10 is another form of its commands.
func (c *Conn) CheckLogical() error {
	if c.Version < minVersion {
		return usererr.Hinted("Servers from PostgreSQL 10 on are supported.", "incompatible server version %s", c.ServerVersion)
	}
	return nil
}

// ClearSearchPath sees to it that no function of a user is called in place of
// the server's own. It is for a connection to a database, where SQL is run.
//
// Source: GetConnection in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c *Conn) ClearSearchPath(ctx context.Context) error {
	const statement = "SELECT pg_catalog.set_config('search_path', '', false);" // ALWAYS_SECURE_SEARCH_PATH_SQL
	if _, err := c.Query(ctx, statement); err != nil {
		return fmt.Errorf("could not clear \"search_path\": %w", err)
	}
	return nil
}
