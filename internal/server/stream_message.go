package server

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/protocol"
	"basin/internal/wal"
)

// sendError is a message that the client did not get whole.
type sendError struct{ error }

func (e *sendError) Unwrap() error { return e.error }

// send sends whole messages. After an error nothing more can be said.
func (s *sender) send(p []byte) error {
	if err := s.peer.Send(p); err != nil {
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
	m := []byte{'d', 0, 0, 0, 4 + 18, protocol.StreamKeepalive}
	m = binary.BigEndian.AppendUint64(m, uint64(s.at))
	m = binary.BigEndian.AppendUint64(m, streamTime(time.Now()))
	if ask {
		m = append(m, 1)
	} else {
		m = append(m, 0)
	}
	return s.send(m)
}

// finish tells the client that the stream has ended, and if its timeline has too,
// what follows it.
func (s *sender) finish() error {
	var m []byte
	var err error
	if s.next != 0 {
		m, err = appendNextTimeline(m, s.next, s.end)
	}
	for _, tag := range []string{"START_STREAMING", "START_REPLICATION"} {
		m = append(m, commandComplete(tag)...)
	}
	if err != nil {
		return err
	}
	return s.send(m)
}

// appendNextTimeline appends the row that says which timeline follows, and where.
func appendNextTimeline(m []byte, next wal.Timeline, at wal.LSN) ([]byte, error) {
	description := pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{
		{Name: []byte("next_tli"), DataTypeOID: 20, DataTypeSize: 8, TypeModifier: -1},           // int8
		{Name: []byte("next_tli_startpos"), DataTypeOID: 25, DataTypeSize: -1, TypeModifier: -1}, // text
	}}
	row := pgproto3.DataRow{Values: [][]byte{strconv.AppendUint(nil, uint64(next), 10), []byte(at.String())}}
	m, err := description.Encode(m)
	if err != nil {
		return nil, err
	}
	return row.Encode(m)
}

// commandComplete returns the message that ends a command.
func commandComplete(tag string) []byte {
	m := binary.BigEndian.AppendUint32([]byte{'C'}, uint32(4+len(tag)+1))
	return append(append(m, tag...), 0)
}

// streamTime returns a time as messages of a stream have it: microseconds since the
// beginning of 2000.
func streamTime(t time.Time) uint64 {
	const epoch = 946684800 * 1e6 // since Unix's
	return uint64(t.UnixMicro() - epoch)
}

// First byte of hot standby feedback (PqReplMsg_HotStandbyFeedback), and the length
// of both messages that a client sends.
//
// Source: ProcessStandbyReplyMessage and ProcessStandbyHSFeedbackMessage in
// src/backend/replication/walsender.c, PostgreSQL 10 to 18.
const (
	streamFeedback = 'h'
	statusSize     = 1 + 8 + 8 + 8 + 8 + 1
	feedbackSize   = 1 + 8 + 4 + 4 + 4 + 4
)

var errShortMessage = &Error{Code: codeProtocolViolation, Message: "insufficient data left in message"}

// parseStatus reads a status message, its first byte included.
func parseStatus(m []byte) (protocol.Status, error) {
	if len(m) < statusSize {
		return protocol.Status{}, errShortMessage
	}
	at := func(i int) wal.LSN { return wal.LSN(binary.BigEndian.Uint64(m[i:])) }
	return protocol.Status{Write: at(1), Flush: at(9), Apply: at(17), Reply: m[33] != 0}, nil
}

// wantsRows says whether hot standby feedback, its first byte included, wants any
// row to be kept: by its xmin or its catalog_xmin.
func wantsRows(m []byte) (bool, error) {
	if len(m) < feedbackSize {
		return false, errShortMessage
	}
	return binary.BigEndian.Uint32(m[9:]) != 0 || binary.BigEndian.Uint32(m[17:]) != 0, nil
}

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
		status, err := parseStatus(body)
		return hearing{status: &status, err: err}
	case streamFeedback:
		wants, err := wantsRows(body)
		if wants && err == nil {
			err = &handover{Message: append([]byte(nil), body...)}
		}
		return hearing{err: err}
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
