package server

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"basin/internal/protocol"
)

// sendError is a message that the client did not get whole.
type sendError struct{ error }

func (e *sendError) Unwrap() error { return e.error }

// send sends whole messages, which lie in pieces. After an error nothing more can be said.
func (s *sender) send(pieces ...[]byte) error {
	if err := s.peer.Send(pieces...); err != nil {
		return ending{&sendError{err}}
	}
	return nil
}

func (s *sender) sendCopyDone() error {
	s.ended = true
	return s.send([]byte{'c', 0, 0, 0, 4})
}

// sendKeepalive tells the client that the server is there, and up to where it was
// sent the log. ask has it answer.
//
// Source: WalSndKeepalive in src/backend/replication/walsender.c, PostgreSQL 18.
func (s *sender) sendKeepalive(ask bool) error {
	return s.send(copyMessage('d', protocol.Keepalive{End: s.at, Reply: ask}.Append(nil, time.Now())))
}

// finish tells the client that the stream has ended, and if its timeline has too,
// what follows it.
func (s *sender) finish() error {
	var m []byte
	if s.next != 0 {
		m = protocol.AppendRowDescription(m, protocol.NextTimelineColumns())
		m = protocol.AppendDataRow(m, strconv.AppendUint(nil, uint64(s.next), 10), []byte(s.end.String()))
	}
	for _, tag := range []string{"START_STREAMING", "START_REPLICATION"} {
		m = append(m, commandComplete(tag)...)
	}
	return s.send(m)
}

// commandComplete returns the message that ends a command.
func commandComplete(tag string) []byte {
	m := binary.BigEndian.AppendUint32([]byte{'C'}, uint32(4+len(tag)+1))
	return append(append(m, tag...), 0)
}

var errShortMessage = &Error{Code: codeProtocolViolation, Message: "insufficient data left in message"}

// hearing is what one message of a client comes to.
type hearing struct {
	status *protocol.Status // nil if it is none
	done   bool             // CopyDone
	err    error            // the client is not to be listened to any more
}

// parseClient reads a message of a client that is streamed to.
//
// Source: ProcessRepliesIfAny and ProcessStandbyMessage in
// src/backend/replication/walsender.c, PostgreSQL 18.
func parseClient(kind byte, body []byte) (h hearing) {
	switch kind {
	case 'd':
	case 'c':
		return hearing{done: true}
	case 'X':
		return hearing{err: ending{errStreamLeft}}
	default:
		return hearing{err: &Error{Severity: "FATAL", Code: codeProtocolViolation, Message: fmt.Sprintf("invalid standby message type \"%s\"", shown(kind))}}
	}
	if len(body) == 0 {
		return hearing{err: &Error{Code: codeProtocolViolation, Message: "no data left in message"}}
	}
	switch body[0] {
	case protocol.StreamStatus:
		status, _, err := protocol.ParseStatus(body)
		if err != nil {
			return hearing{err: errShortMessage}
		}
		return hearing{status: &status}
	case protocol.StreamFeedback:
		f, _, err := protocol.ParseFeedback(body)
		switch {
		case err != nil:
			return hearing{err: errShortMessage}
		case f.Xmin != 0 || f.CatalogXmin != 0: // which only the cluster can heed
			return hearing{err: &handover{Message: append([]byte(nil), body...)}}
		}
		return hearing{}
	}
	return hearing{err: &Error{Severity: "FATAL", Code: codeProtocolViolation, Message: fmt.Sprintf("unexpected message type \"%s\"", shown(body[0]))}}
}

// shown returns a byte as a text that a message may have.
func shown(b byte) string {
	if b < ' ' || b > '~' {
		return fmt.Sprintf("\\x%02x", b)
	}
	return string(rune(b))
}
