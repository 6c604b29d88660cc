package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/accept"
	"basin/internal/protocol"
)

// session is one client that was let in.
type session struct {
	server  *Server
	client  *accept.Session
	conn    *conn
	cluster Description
	log     *slog.Logger

	upstream Upstream  // nil until it is needed
	lasting  bool      // something was made on upstream that ends with it
	parent   *uploaded // the manifest that the client sent last; nil for none

	cancels cancels

	// On an ordinary connection.
	prepared prepared
	files    Files // nil until they are needed
}

// Reasons why a command, or a session, ends before its end.
var (
	errShutdown = &Error{Severity: "FATAL", Code: codeShutdown, Message: "terminating connection due to administrator command"}
	errCanceled = &Error{Code: codeCanceled, Message: "canceling statement due to user request"}
)

// run answers the client until it goes, and returns why it went: nil if it said so.
func (s *session) run(ctx context.Context) error {
	defer s.close()
	defer context.AfterFunc(ctx, func() { _ = s.conn.SetWriteDeadline(time.Now().Add(goodbye)) })()
	idle, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-s.server.stopping:
			stop(errShutdown)
		case <-idle.Done():
		}
	}()
	skipping := false // to the Sync that follows an error in the extended protocol
	for {
		kind, body, err := s.conn.Receive(idle)
		if err != nil {
			return s.leave(err)
		}
		switch {
		case kind == 'X':
			return nil
		case kind == 'S':
			skipping = false
			clear(s.prepared.portals)
			err = s.ready()
		case skipping:
		case kind == 'Q':
			err = s.query(ctx, body)
		case (kind == 'P' || kind == 'B' || kind == 'E' || kind == 'D' || kind == 'C') && s.client.Replication == accept.None:
			skipping, err = s.extended(ctx, kind, body)
		case kind == 'P', kind == 'B', kind == 'E', kind == 'D', kind == 'C':
			skipping = true
			err = s.fail(&Error{Code: codeProtocolViolation, Message: "extended query protocol not supported in a replication connection"})
		case kind == 'F':
			err = s.fail(&Error{Code: codeProtocolViolation, Message: "fastpath function calls not supported in a replication connection"})
			err = errors.Join(err, s.ready())
		case kind == 'd', kind == 'c', kind == 'f': // what is left of a COPY that has failed
		case kind == 'H':
			err = s.conn.Flush()
		}
		if err != nil {
			return err
		}
	}
}

// leave tells the client why it is left, if it is not it that has gone.
func (s *session) leave(err error) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		_ = s.conn.SetWriteDeadline(time.Now().Add(goodbye)) // a client that does not read is not waited for
		_ = s.conn.Queue(e.message())
		_ = s.conn.Flush() // it may have gone: then nobody is to be told
	}
	return err
}

// fail tells the client of an error that ends what it has asked for.
func (s *session) fail(err error) error {
	e := asError(err)
	s.log.Warn("command failed", "sqlstate", e.Code, "error", e.Message, "detail", e.Detail)
	if err := s.conn.Queue(e.message()); err != nil {
		return err
	}
	return s.conn.Flush()
}

// ready says that the next command may come.
func (s *session) ready() error {
	if err := s.conn.Queue(&pgproto3.ReadyForQuery{TxStatus: 'I'}); err != nil {
		return err
	}
	return s.conn.Flush()
}

// ending is an error that ends the session, not the command alone.
type ending struct{ error }

func (e ending) Unwrap() error { return e.error }

// query answers a simple query. An error that it returns is the end of the session.
func (s *session) query(ctx context.Context, body []byte) error {
	var q pgproto3.Query
	if err := q.Decode(body); err != nil {
		return errors.Join(s.fail(&Error{Code: codeProtocolViolation, Message: "invalid string in message"}), s.ready())
	}
	err := s.interruptible(ctx, func(ctx context.Context) error { return s.execute(ctx, q.String) })
	if err == nil {
		return s.ready()
	}
	if err := s.failed(err); err != nil {
		return err
	}
	return s.ready()
}

// failed tells the client of an error. One that it returns is the end of the session.
func (s *session) failed(err error) error {
	if e := (*Error)(nil); errors.As(err, &e) && e.Severity == "FATAL" || errors.As(err, new(ending)) {
		return s.leave(err)
	}
	if isGone(err) {
		return err
	}
	return s.fail(err)
}

// interruptible does what one command says, unless that is ended before its end: then its
// error is why.
func (s *session) interruptible(ctx context.Context, do func(context.Context) error) error {
	ctx, end := s.cancels.begin(ctx)
	defer end()
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(context.Cause(ctx), errShutdown) {
			_ = s.conn.SetWriteDeadline(time.Now().Add(goodbye)) // a client that does not read is not waited for
		}
	})
	defer stop()
	err := do(ctx)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// goodbye is how long a client that is left may take to read why.
const goodbye = time.Second

// endAtStop ends the command in hand when the server is to end, unless it ends before.
func (s *session) endAtStop(ctx context.Context) {
	go func() {
		select {
		case <-s.server.stopping:
			s.cancels.end(errShutdown)
		case <-ctx.Done():
		}
	}()
}

// execute does what one command says.
func (s *session) execute(ctx context.Context, text string) error {
	if s.client.Replication == accept.None {
		if known, ok := s.find(text); ok {
			s.endAtStop(ctx)
			return s.simple(ctx, known)
		}
	}
	command, err := protocol.ParseCommand(text, s.cluster.Major())
	if err != nil {
		return err
	}
	s.log.Debug("command", "text", text)
	if sql, ok := command.(protocol.SQL); ok {
		return s.sql(ctx, sql)
	}
	if s.client.Replication == accept.None {
		return &Error{Code: codeSyntaxError, Message: "replication commands need a replication connection",
			Hint: "Add replication=true to the connection string."}
	}
	if _, drains := command.(protocol.StartPhysicalReplication); !drains {
		s.endAtStop(ctx)
	}
	switch c := command.(type) {
	case protocol.IdentifySystem:
		return s.identifySystem(ctx)
	case protocol.TimelineHistory:
		return s.timelineHistory(ctx, c)
	case protocol.UploadManifest:
		return s.uploadManifest(ctx)
	case protocol.BaseBackup:
		return s.baseBackup(ctx, c)
	case protocol.Show:
		return s.show(ctx, c)
	case protocol.StartPhysicalReplication:
		return s.startReplication(ctx, c)
	case protocol.StartLogicalReplication:
		return s.relayStream(ctx, c)
	}
	return s.relay(ctx, command)
}

// close lets go of what the session has.
func (s *session) close() {
	if s.upstream != nil {
		_ = s.upstream.Close() // the client has gone, or will
	}
	if s.parent != nil {
		s.parent.close()
	}
}
