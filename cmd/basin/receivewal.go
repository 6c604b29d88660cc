package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"basin/internal/client"
	"basin/internal/conninfo"
	"basin/internal/localfs"
	"basin/internal/monitor"
	"basin/internal/usererr"
	"basin/internal/wal"
	"basin/internal/waldir"
)

// receiveWAL is pg_receivewal.
func receiveWAL(ctx context.Context, c call) error {
	o, err := parseReceiveWAL(c)
	if err != nil {
		return err
	}
	r := &receiveWALRun{report: c.report, o: o, open: openFolder}
	return r.run(ctx)
}

// logPlace is where a receiver keeps the log: a waldir.Directory, or a spool.Spool.
type logPlace interface {
	wal.Keeper
	Start() (start wal.Position, ok bool, err error)
	End() (end wal.Position, ok bool, err error)
	SetApart(timeline wal.Timeline, fork wal.LSN) (waldir.Apart, error)
	Gaps() []waldir.Gap
	GiveUp() bool
	Backlog() int
	Close() error

	// Ready waits until there is room for log.
	Ready(ctx context.Context) error
	// StartFrom is Start for a place with nothing to go on from. slot is from where on the slot holds the log, zero if
	// that is not known.
	StartFrom(ctx context.Context, server, slot wal.Position) (start wal.Position, ok bool, err error)
}

// folder is a directory that is a place of its own.
type folder struct{ *waldir.Directory }

// openFolder opens a directory in which the log is to stay.
func openFolder(_ context.Context, o waldir.Options) (logPlace, error) {
	d, err := waldir.Open(o)
	if err != nil {
		return nil, err
	}
	return folder{d}, nil
}

// Ready waits for nothing: whether there is room the file system tells.
func (folder) Ready(context.Context) error { return nil }

// StartFrom returns where the slot stands.
func (folder) StartFrom(_ context.Context, _, slot wal.Position) (wal.Position, bool, error) {
	return slot, slot.LSN != 0, nil
}

// receiveWALRun is one receiver of the log at work.
type receiveWALRun struct {
	report *report
	o      receiveWALOptions

	open     func(context.Context, waldir.Options) (logPlace, error)
	prepare  func(context.Context) error // if not nil, is called on each new connection
	reopened func(context.Context) error // if not nil, opens what is there from before without a server, and sets dir
	afterGap string                      // what to do about a gap; empty is what the gap's error says
	behind   string                      // what to do about a server that has less log; empty leaves it to the server to say so

	params conninfo.Params // as given, and with the password once it was asked for
	conn   *client.Conn    // nil while there is none

	system   client.System // as the server last identified itself
	segment  int64         // size of the server's segments, in bytes
	fileMode fs.FileMode   // of files made from the log
	dir      logPlace
	backOff  backOff      // between attempts
	furthest wal.Position // that was received
	apart    setApart     // what was last told to be set apart
	progress client.ReceiveProgress
	monitor  *monitor.Monitor // is told what happens
	told     func() error     // why the receiver was told to end, if it was
}

// run does the slot's action, or receives until it is told to end.
//
// Source: main in src/bin/pg_basebackup/pg_receivewal.c, PostgreSQL 18.
func (r *receiveWALRun) run(ctx context.Context) error {
	if r.o.CreateSlot || r.o.DropSlot {
		return r.slotAction(ctx)
	}
	if err := r.startMonitor(); err != nil {
		return err
	}
	err := r.receive(ctx)
	r.endMonitor(err)
	return err
}

// receive receives until it is told to end.
func (r *receiveWALRun) receive(ctx context.Context) error {
	r.told = func() error { return context.Cause(ctx) }
	if err := checkDirectory(r.o.Directory); err != nil {
		return err
	}
	var err error
	if r.params, err = r.connectionParams(); err != nil {
		return err
	}
	defer r.disconnect()
	if r.reopened != nil {
		if err := r.reopened(ctx); err != nil {
			return err
		}
	}
	if err := r.connect(ctx, r.o.Password); err != nil {
		return r.endEarly(ctx, err)
	}
	// Not before: a password that is asked for may be refused by a signal.
	ctx, stop := receiverContext(ctx)
	defer stop()
	r.told = func() error { return context.Cause(ctx) }
	defer context.AfterFunc(ctx, r.monitor.Stopping)()
	if r.dir == nil {
		systemID, err := strconv.ParseUint(r.system.ID, 10, 64)
		if err != nil {
			return fmt.Errorf("system identifier: %w", err)
		}
		if r.dir, err = r.open(ctx, r.directoryOptions(systemID)); err != nil {
			return err
		}
	}
	r.monitor.Opened(r.dir.Backlog)
	err = r.loop(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Cause(ctx))) { // by which a receiver is ended
		r.verbose("received interrupt signal, exiting")
		err = endOfReceiving(ctx)
	}
	r.monitor.Stopping() // what is left may take its time
	if closed := r.dir.Close(); err == nil {
		err = closed
	}
	if err != nil && ctx.Err() != nil && !errors.As(err, new(interrupted)) {
		r.report.error(err) // what was to be kept is not, which a signal is no excuse for
		return reported{err}
	}
	return err
}

// directoryOptions say how the directory is written to.
func (r *receiveWALRun) directoryOptions(systemID uint64) waldir.Options {
	return waldir.Options{
		Path: r.o.Directory, SegmentSize: r.segment, Compression: r.o.Compression, FileMode: r.fileMode,
		NoSync: r.o.NoSync, QuickFlush: r.o.Synchronous, SystemID: systemID,
		Warn: r.warn,
	}
}

// checkDirectory makes sure that the directory is there before a server is asked
// for anything.
func checkDirectory(path string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return localfs.Errorf(err, path, "could not open directory \"%s\"", path)
	}
	return root.Close()
}

// errSilent is what a server did that does not answer.
var errSilent = usererr.Hinted("See whether the server is overloaded or stopped.", "the server did not answer for %v", client.DefaultTimeout)

// connectTimeout is how long one server is waited for unless the user says
// otherwise, in seconds: the next of the list may be the primary by now.
const connectTimeout = "10"

// connectionParams returns the parameters of all connections, complete.
func (r *receiveWALRun) connectionParams() (conninfo.Params, error) {
	params, err := r.o.connectionRequest(r.report.name).Params()
	if err != nil {
		return params, err
	}
	if params, err = params.Complete(conninfo.ThisSystem()); err != nil {
		return params, err
	}
	if params.Value("connect_timeout") == "" {
		err = params.Set("connect_timeout", connectTimeout)
	}
	return params, err
}

func (r *receiveWALRun) verbose(format string, args ...any) {
	if r.o.Verbose {
		r.report.info(format, args...)
	}
}

// warn reports what ends nothing.
func (r *receiveWALRun) warn(err error) {
	r.report.warn(err)
	r.monitor.Warned()
}

// connect opens a connection and learns, or checks, what does not change from one
// to the next.
func (r *receiveWALRun) connect(ctx context.Context, prompt passwordPrompt) error {
	r.monitor.Connecting()
	session, err := dial(ctx, r.report, r.params, prompt)
	if err != nil {
		return err
	}
	r.params = session.Params
	r.conn = converse(r.report, session)
	ctx, cancel := context.WithTimeoutCause(ctx, client.DefaultTimeout, errSilent)
	defer cancel()
	return r.identify(ctx)
}

// identify learns what the server is, and sees that it is the right one.
func (r *receiveWALRun) identify(ctx context.Context) error {
	if err := r.conn.CheckStreaming(); err != nil {
		return fatal{err}
	}
	group, err := r.conn.GroupAccess(ctx)
	if err != nil {
		return err
	}
	_, r.fileMode = setModes(group)
	system, err := r.conn.IdentifySystem(ctx)
	if err != nil {
		return err
	}
	segment, err := r.conn.SegmentSize(ctx)
	if err != nil {
		return err
	}
	if r.system.ID != "" && system.ID != r.system.ID {
		return fatal{usererr.Hinted("Name the servers of one cluster only, and receive each cluster into a directory of its own.",
			"the server is of cluster %s, but the log so far is of cluster %s", system.ID, r.system.ID)}
	}
	if r.dir != nil && segment != r.segment {
		return fatal{fmt.Errorf("segments of the server have %d bytes, and those of the log so far %d", segment, r.segment)}
	}
	r.system, r.segment = system, segment
	r.monitor.Connected(system.ID, cmp.Or(r.params.Value("application_name"), r.params.Value("fallback_application_name")))
	if r.prepare != nil {
		return r.prepare(ctx)
	}
	return nil
}

func (r *receiveWALRun) disconnect() {
	if r.conn != nil {
		_ = r.conn.Close() // all that was wanted has come, or will not
		r.conn = nil
	}
}

// loop streams, and begins again when the stream breaks, until the end position
// is reached or ctx ends.
func (r *receiveWALRun) loop(ctx context.Context) error {
	for {
		err := r.attempt(ctx)
		r.disconnect()
		if err == nil || ctx.Err() != nil {
			return err
		}
		switch {
		case errors.Is(err, client.ErrGap) && r.dir.GiveUp():
			r.report.error(err) // there is more to go on from, and Start tells of the gap
			continue
		case errors.Is(err, client.ErrGap):
			if r.afterGap != "" {
				err = usererr.Hinted(r.afterGap, "%w", err)
			}
			return exitStatus{err, exitGap}
		case isFatal(err):
			return err
		}
		r.report.error(err)
		r.monitor.Disconnected(err)
		if r.o.NoLoop {
			return errDisconnected
		}
		pause := r.backOff.next()
		r.report.info("disconnected; waiting %.3g seconds to try again", pause.Seconds())
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// fatal is an error that another attempt would not mend.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// isFatal says whether somebody has to decide what to do about err. That the server
// sends other log than is here already, and that a file is where one has to go, does
// not change by itself; a full disk does.
func isFatal(err error) bool {
	return errors.As(err, new(fatal)) || errors.As(err, new(*waldir.ConflictError)) || errors.Is(err, fs.ErrExist)
}

// attempt connects, unless that is done, and streams until the stream ends.
func (r *receiveWALRun) attempt(ctx context.Context) error {
	if err := r.dir.Ready(ctx); err != nil {
		return err
	}
	if r.conn == nil {
		if err := r.connect(ctx, promptNever); err != nil {
			return err
		}
	}
	return r.stream(ctx)
}

// stream receives the log into the directory from where that ends.
//
// Source: StreamLog in src/bin/pg_basebackup/pg_receivewal.c, PostgreSQL 18.
func (r *receiveWALRun) stream(ctx context.Context) error {
	// A signal ends the stream in good order: what came is made durable, and the
	// server is told. Only if that takes too long is the connection given up.
	working, giveUp := graceContext(ctx, stopGrace)
	defer giveUp()
	stop := make(chan wal.Position, 2)
	if r.o.EndPosition != 0 {
		stop <- wal.Position{LSN: r.o.EndPosition + 1} // a byte beyond has to be there
	}
	told := context.AfterFunc(ctx, func() { stop <- wal.Position{LSN: 1} }) // which is behind us
	defer told()
	start, err := r.start(working)
	if err != nil {
		return err
	}
	start.LSN = wal.SegmentAt(start, r.segment).Start(r.segment)
	r.verbose("starting log streaming at %v (timeline %d)", start.LSN, start.Timeline)
	if r.furthest.Timeline != start.Timeline {
		r.furthest = start
	}
	err = client.ReceiveWAL(working, r.conn, r.dir, client.ReceiveOptions{
		SystemID: r.system.ID, Start: start, Segment: r.segment, Slot: r.o.Slot,
		Durable: !r.o.NoSync, Synchronous: r.o.Synchronous,
		Stop: stop, StatusInterval: r.o.StatusInterval, Progress: &r.progress,
		Started: r.started, Finished: r.finished, Switched: r.switched,
	})
	status := r.progress.Status()
	if reached := (wal.Position{LSN: status.Received, Timeline: status.Timeline}); reached.Timeline != r.furthest.Timeline || reached.LSN > r.furthest.LSN {
		r.furthest = reached
		r.backOff.reset() // what came again is no progress
	}
	if status.Received%wal.LSN(r.segment) != 0 {
		name := wal.SegmentAt(wal.Position{LSN: status.Received, Timeline: status.Timeline}, r.segment).Name(r.segment)
		r.report.info("not renaming \"%s.partial\", segment is not complete", name)
	}
	if err == nil && ctx.Err() == nil {
		r.verbose("stopped log streaming at %v (timeline %d)", status.Received, status.Timeline)
	}
	return err
}

func (r *receiveWALRun) started(wal.Position) { r.monitor.Streaming() }

func (r *receiveWALRun) finished(at wal.Position) {
	r.verbose("finished segment at %v (timeline %d)", at.LSN, at.Timeline)
}

func (r *receiveWALRun) switched(at wal.Position) {
	r.verbose("switched to timeline %d at %v", at.Timeline, at.LSN)
}

// start returns where to stream from.
func (r *receiveWALRun) start(ctx context.Context) (wal.Position, error) {
	start, err := r.startPosition(ctx)
	if server := r.system.Position; err == nil && r.behind != "" && start.Timeline == server.Timeline && start.LSN > server.LSN {
		err = usererr.Hinted(r.behind, "the server is behind: it has log up to %v, and the log so far goes on to %v", server.LSN, start.LSN)
	}
	return start, err
}

// startPosition returns where the log goes on: behind what the directory has, else where
// the slot stands, else where the server does.
func (r *receiveWALRun) startPosition(ctx context.Context) (wal.Position, error) {
	start, ok, err := r.dir.Start()
	r.monitor.Gaps(r.gaps())
	switch {
	case err != nil:
		return start, err
	case ok:
		return r.afterFork(ctx, start)
	}
	var slot wal.Position
	if r.o.Slot != "" && r.conn.CanReadSlots() {
		if slot, err = r.conn.ReadSlot(ctx, r.o.Slot); err != nil {
			return slot, err
		}
	}
	switch start, ok, err = r.dir.StartFrom(ctx, r.system.Position, slot); {
	case err != nil:
		return start, err
	case ok && start == slot:
		return start, nil
	case ok:
		return r.afterFork(ctx, start)
	}
	return r.system.Position, nil
}

// sleep waits, and returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
