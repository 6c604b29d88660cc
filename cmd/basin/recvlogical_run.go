package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"basin/internal/client"
	"basin/internal/conninfo"
	"basin/internal/localfs"
	"basin/internal/protocol"
)

// recvLogicalRun is one call of pg_recvlogical on its way.
type recvLogicalRun struct {
	report *report
	o      recvLogicalOptions

	params   conninfo.Params // of the next connection
	conn     *client.Conn    // nil if there is none
	fileMode fs.FileMode
	hangup   <-chan struct{}
}

// runRecvLogical does what is to be done with the slot: it is dropped, or made,
// or streamed from.
//
// Source: main in src/bin/pg_basebackup/pg_recvlogical.c, PostgreSQL 18.
func runRecvLogical(ctx context.Context, r *report, o recvLogicalOptions) error {
	l := &recvLogicalRun{report: r, o: o, fileMode: localfs.FileModeOwner}
	request := conninfo.Request{
		Program: r.name, Host: o.Host, Port: o.Port, User: o.User,
		Logical: o.given["dbname"], Database: o.Database,
	}
	var err error
	if l.params, err = request.Params(); err != nil {
		return err
	}
	if err := l.connect(ctx, o.Password); err != nil {
		return err
	}
	defer l.disconnect()
	// Not before: a password that is asked for may be refused by a signal.
	ctx, stop := receiverContext(ctx)
	defer stop()
	hangup, forget := hangups()
	defer forget()
	l.hangup = hangup

	system, err := l.conn.IdentifySystem(ctx)
	switch {
	case err != nil:
		return err
	case !o.DropSlot && system.Database == "":
		return errors.New("could not establish database-specific replication connection")
	}
	if o.DropSlot {
		l.verbose("dropping replication slot \"%s\"", o.Slot)
		return l.conn.DropSlot(ctx, o.Slot)
	}
	if o.CreateSlot {
		if err := l.createSlot(ctx); err != nil {
			return err
		}
	}
	if !o.Start {
		return nil
	}
	return l.receive(ctx)
}

// connect opens a connection and learns what everything else depends on.
//
// Source: GetConnection in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (l *recvLogicalRun) connect(ctx context.Context, prompt passwordPrompt) error {
	session, err := dialPatiently(ctx, l.report, l.params, prompt)
	if err != nil {
		return err
	}
	l.params = session.Params // with the password, if one was asked for
	l.conn = converse(l.report, session)
	if err := l.conn.CheckLogical(); err != nil {
		return err
	}
	if l.o.given["dbname"] {
		if err := l.conn.ClearSearchPath(ctx); err != nil {
			return err
		}
	}
	group, err := l.conn.GroupAccess(ctx)
	if err != nil {
		return err
	}
	_, l.fileMode = setModes(group)
	return nil
}

func (l *recvLogicalRun) disconnect() {
	if l.conn != nil {
		_ = l.conn.Close() // all that was wanted has come, or will not
		l.conn = nil
	}
}

func (l *recvLogicalRun) createSlot(ctx context.Context) error {
	o, version := l.o, l.conn.Version
	l.verbose("creating replication slot \"%s\"", o.Slot)
	err := l.conn.CreateLogicalSlot(ctx, protocol.CreateLogicalSlot{
		Slot: o.Slot, Plugin: o.Plugin, TwoPhase: o.TwoPhase, Failover: o.Failover,
	})
	switch {
	case client.SlotExists(err) && o.IfNotExists:
		return nil
	case err != nil:
		return err
	}
	for _, option := range []struct {
		given bool
		since int
		name  string
	}{
		{o.Failover, protocol.VersionFailover, "--enable-failover"},
		{o.TwoPhase, protocol.VersionTwoPhase, "--enable-two-phase"},
	} {
		if option.given && version < option.since {
			l.report.warning("%s is ignored: a server of version %s does not know it", option.name, l.conn.ServerVersion)
		}
	}
	return nil
}

// reconnectPause is between a lost connection and the next.
const reconnectPause = 5 * time.Second // RECONNECT_SLEEP_TIME

// receive streams from the slot until an end that was asked for, over one
// connection after another.
func (l *recvLogicalRun) receive(ctx context.Context) error {
	working, stop := graceContext(ctx, stopGrace)
	defer stop()
	output := &logicalOutput{ctx: working, path: l.o.File, mode: l.fileMode, warn: l.report.warning}
	options := client.LogicalOptions{
		Slot: l.o.Slot, Plugin: l.o.Options, Start: l.o.StartPosition, End: l.o.EndPosition,
		StatusInterval: l.o.StatusInterval, SyncInterval: l.o.SyncInterval, Timeout: l.o.ReceiverTimeout,
		Stop: ctx.Done(), Reopen: l.hangup,
	}
	if l.o.Verbose {
		options.Step = func(text string) { l.report.info("%s", text) }
	}
	receiver := client.NewLogicalReceiver(output, options)
	err := l.receiveAll(ctx, working, receiver, output)
	if output.broken != nil {
		return err
	}
	// Whatever the end, what was written is to last.
	if err := receiver.Close(); err != nil {
		l.report.error(err)
		return reported{err}
	}
	return err
}

func (l *recvLogicalRun) receiveAll(ctx, working context.Context, receiver *client.LogicalReceiver, output *logicalOutput) error {
	for {
		done, err := l.receiveOnce(ctx, working, receiver)
		switch {
		case output.broken != nil: // which a signal is no excuse for
			l.report.error(err)
			return reported{err}
		case done && err != nil && working.Err() != nil:
			l.report.warning("the server did not end the stream within %v of being told to; it may send again what it was told of last", stopGrace)
		case err != nil && (ctx.Err() == nil || !errors.Is(err, context.Cause(ctx))):
			l.report.error(err)
		}
		switch {
		case done || ctx.Err() != nil:
			return endOfReceiving(ctx)
		case l.o.NoLoop:
			return errDisconnected
		}
		l.report.info("disconnected; waiting %d seconds to try again", int(reconnectPause.Seconds()))
		if err := l.pause(ctx, receiver); err != nil {
			return err
		}
	}
}

// receiveOnce streams over the connection at hand, or over a new one.
func (l *recvLogicalRun) receiveOnce(ctx, working context.Context, receiver *client.LogicalReceiver) (done bool, err error) {
	defer l.disconnect()
	if l.conn == nil {
		if err := l.reconnect(ctx); err != nil {
			return false, err
		}
	}
	return receiver.Receive(working, l.conn)
}

func (l *recvLogicalRun) reconnect(ctx context.Context) error {
	if l.o.ReceiverTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, l.o.ReceiverTimeout,
			fmt.Errorf("could not connect to server: it took more than %v", l.o.ReceiverTimeout))
		defer cancel()
	}
	prompt := l.o.Password
	if prompt == promptAlways {
		prompt = promptIfNeeded // the password is known by now
	}
	return l.connect(ctx, prompt)
}

// pause waits before the next connection. A file whose name was given to another
// is closed meanwhile.
func (l *recvLogicalRun) pause(ctx context.Context, receiver *client.LogicalReceiver) error {
	over := time.After(reconnectPause)
	for {
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return nil
		case <-l.hangup:
			if err := receiver.Close(); err != nil {
				l.report.error(err)
				return reported{err}
			}
		}
	}
}

func (l *recvLogicalRun) verbose(format string, args ...any) {
	if l.o.Verbose {
		l.report.info(format, args...)
	}
}
