package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"basin/internal/accept"
	"basin/internal/protocol"
)

// connectUpstream connects the session to the cluster, where what is made for it lasts as
// long as the session.
func (s *session) connectUpstream(ctx context.Context) error {
	if s.upstream != nil {
		return nil
	}
	client := Client{User: s.client.User, ApplicationName: s.client.ApplicationName}
	if s.client.Replication == accept.Database {
		client.Database, client.Settings = s.client.Database, sessionSettings(s.client)
	}
	upstream, err := s.server.o.Cluster.Upstream(ctx, client)
	if err != nil {
		return err
	}
	s.upstream = upstream
	if s.cluster.Version < protocol.VersionOptionList { // of which a client has said it here
		return s.sayUnheard(ctx, protocol.IdentifySystem{})
	}
	return nil
}

// releaseUpstream ends the connection to the cluster, which is one of few there, unless
// something was made on it that lasts only as long.
func (s *session) releaseUpstream() {
	if s.upstream != nil && !s.lasting {
		_ = s.upstream.Close() // it is idle
		s.upstream = nil
	}
}

// lasts says whether a command makes something that ends with its connection: a temporary
// slot, or a snapshot for others.
func lasts(command protocol.Command) bool {
	switch c := command.(type) {
	case protocol.CreatePhysicalSlot:
		return c.Temporary
	case protocol.CreateLogicalSlot:
		return c.Temporary || c.Snapshot != protocol.SnapshotNothing
	}
	return false
}

// sayUnheard says a command to the cluster whose answer the client is not to hear.
func (s *session) sayUnheard(ctx context.Context, command protocol.Command) error {
	if err := s.upstream.Send(queryMessage(command.Command(s.cluster.Version))); err != nil {
		return s.lostUpstream(err)
	}
	for {
		switch kind, err := s.upstream.Next(ctx); {
		case err != nil:
			return s.lostUpstream(err)
		case kind == 'Z':
			return nil
		}
	}
}

// relay says a command again to the cluster, and passes its answers on as they are.
func (s *session) relay(ctx context.Context, command protocol.Command) error {
	if err := s.connectUpstream(ctx); err != nil {
		return err
	}
	if err := s.upstream.Send(queryMessage(command.Command(s.cluster.Version))); err != nil {
		return s.lostUpstream(err)
	}
	s.lasting = s.lasting || lasts(command) // perhaps, if it does not fail
	return s.settle(s.unlessGone(ctx, func(ctx context.Context) error { return s.forward(ctx, s.upstream, nil) }))
}

// queryMessage returns a simple query.
func queryMessage(text string) []byte {
	m := binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(4+len(text)+1))
	return append(append(m, text...), 0)
}

// forward passes on what the cluster answers, up to and without its ReadyForQuery. copying,
// if not nil, is told that the cluster has begun to copy in both directions.
func (s *session) forward(ctx context.Context, upstream Upstream, copying func()) error {
	for {
		kind, err := upstream.Next(ctx)
		if err != nil {
			return lost{err}
		}
		if kind == 'Z' {
			return nil
		}
		if err := upstream.Pass(ctx, unsent{s.conn}); err != nil {
			return lost{err}
		}
		if kind == 'W' && copying != nil {
			copying()
		}
		if !upstream.Waiting() {
			if err := s.conn.Flush(); err != nil {
				return err
			}
		}
	}
}

// unsent takes messages, in pieces, that are sent with the next Flush.
type unsent struct{ conn *conn }

func (u unsent) Write(p []byte) (int, error) { return len(p), u.conn.queuePiece(p) }

// lost is what has ended the connection to the cluster, or left it in the middle of
// something.
type lost struct{ error }

func (l lost) Unwrap() error { return l.error }

// settle lets go of a connection to the cluster that is not of use any more, now that nobody
// uses it.
func (s *session) settle(err error) error {
	if l := (lost{}); errors.As(err, &l) {
		return s.lostUpstream(l.error)
	}
	return err
}

// lostUpstream says what the end of the connection to the cluster means. What was made for
// the session there, such as a temporary slot, is lost with it: so it ends.
func (s *session) lostUpstream(err error) error {
	if s.upstream != nil {
		_ = s.upstream.Close()
		s.upstream, s.lasting = nil, false
	}
	if isGone(err) || errors.As(err, new(*Error)) {
		return err
	}
	return &Error{Severity: "FATAL", Code: "08006", Message: fmt.Sprintf("the connection to the cluster was lost: %v", err),
		Hint: "Connect again once the cluster is up."}
}

// relayStream lets the cluster stream to the client, and the client answer, until the
// stream ends on both sides.
func (s *session) relayStream(ctx context.Context, command protocol.Command) error {
	if err := s.connectUpstream(ctx); err != nil {
		return err
	}
	if err := s.upstream.Send(queryMessage(command.Command(s.cluster.Version))); err != nil {
		return s.lostUpstream(err)
	}
	return s.both(ctx, false)
}

// both passes on what the cluster and the client say, from when the cluster begins to copy,
// or at once if it has begun.
func (s *session) both(ctx context.Context, begun bool) error {
	group, ctx := errgroup.WithContext(ctx)
	answers, stop := context.WithCancel(ctx)
	upstream := s.upstream // of both, until both have ended
	listen := func() { group.Go(func() error { return s.answers(answers, upstream) }) }
	group.Go(func() error {
		defer stop()
		if begun {
			listen()
			return s.forward(ctx, upstream, nil)
		}
		return s.forward(ctx, upstream, listen)
	})
	err := group.Wait()
	if err != nil { // the one that ended well has left the other in the middle
		err = s.settle(lost{err})
	}
	return err
}

// relayOn has the cluster go on with a stream that this server began, since the client has
// said what only the cluster can heed.
func (s *session) relayOn(ctx context.Context, h *handover) error {
	if err := s.connectUpstream(ctx); err != nil {
		return err
	}
	command := protocol.StartPhysicalReplication{From: h.Sent}
	if err := s.upstream.Send(queryMessage(command.Command(s.cluster.Version))); err != nil {
		return s.lostUpstream(err)
	}
	kind, err := s.nextAnswer(ctx)
	if err != nil {
		return s.settle(err)
	}
	if kind != 'W' { // an error, or the cluster has left the timeline just there
		if kind != 'E' {
			if err := s.endCopy(ctx); err != nil {
				return s.settle(lost{err})
			}
		}
		if err := s.upstream.Pass(ctx, unsent{s.conn}); err != nil {
			return s.lostUpstream(err)
		}
		return s.settle(s.forward(ctx, s.upstream, nil))
	}
	if h.Message != nil {
		if err := s.upstream.Send(copyMessage('d', h.Message)); err != nil {
			return s.lostUpstream(err)
		}
	}
	return s.both(ctx, true)
}

// nextAnswer returns the type of the cluster's next message that is an answer; what it says
// beside that is passed on.
func (s *session) nextAnswer(ctx context.Context) (kind byte, err error) {
	for {
		kind, err := s.upstream.Next(ctx)
		if err != nil {
			return 0, lost{err}
		}
		if kind != 'N' && kind != 'S' {
			return kind, nil
		}
		if err := s.upstream.Pass(ctx, unsent{s.conn}); err != nil {
			return 0, lost{err}
		}
	}
}

// endCopy ends the COPY that the client is in.
func (s *session) endCopy(ctx context.Context) error {
	if err := s.conn.Send([]byte{'c', 0, 0, 0, 4}); err != nil {
		return err
	}
	for {
		kind, _, err := s.conn.Receive(ctx)
		if err != nil {
			return err
		}
		switch kind {
		case 'c':
			return nil
		case 'd':
		case 'X':
			return errClientGone
		default:
			return badStandbyMessage(kind)
		}
	}
}

// copyMessage returns a message of a COPY.
func copyMessage(kind byte, body []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
}

func badStandbyMessage(kind byte) *Error {
	return &Error{Severity: "FATAL", Code: codeProtocolViolation, Message: fmt.Sprintf("invalid standby message type \"%c\"", kind)}
}

// answers passes on what the client sends while it is streamed to. Once it has ended the
// COPY on its side, what else it says is for after the stream.
//
// Source: ProcessRepliesIfAny in src/backend/replication/walsender.c, PostgreSQL 18.
func (s *session) answers(ctx context.Context, upstream Upstream) error {
	for {
		kind, body, err := s.conn.Receive(ctx)
		if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			return nil // the stream has ended
		}
		if err != nil {
			return err
		}
		switch kind {
		case 'd', 'c', 'f':
		case 'X':
			return errClientGone
		default:
			return badStandbyMessage(kind)
		}
		if err := upstream.Send(copyMessage(kind, body)); err != nil {
			return lost{err}
		}
		if kind == 'd' {
			continue
		}
		err = s.conn.gone(ctx)
		if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			return nil
		}
		return err
	}
}
