package connect

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// wire is a connection on which messages come and go. It reads each message
// to its last byte and not one further, and nothing reads beside it: what
// follows the last message that was asked for is there for whoever takes the
// connection over.
type wire struct {
	conn   net.Conn
	notice func(text string) // nil drops them
	failed error             // what the first write that failed said
}

// Lengths of messages in bytes, as the length word has them: it counts itself,
// and not the kind before it.
const (
	lengthSize      = 4
	longestRequest  = 2000    // of authentication and negotiation, in PQconnectPoll in fe-connect.c
	longestRefusal  = 30000   // MAX_ERRLEN there, before authentication
	longestMessage  = 30000   // of most kinds, in pqParseInput3 in fe-protocol3.c
	longestLongKind = 1 << 20 // of those that may be longer; libpq knows no bound
)

// send writes a message, or several. That it failed is told by the next
// receive: a server that closes the connection on us may have said why.
func (w *wire) send(message []byte) {
	if w.failed != nil {
		return
	}
	if _, w.failed = w.conn.Write(message); w.failed != nil {
		// What the server said is here already or will never be.
		_ = w.conn.SetReadDeadline(time.Now().Add(time.Second)) // a failure shows in the read
	}
}

// header reads the first five bytes of a message: its kind, and its length,
// which counts itself but not the kind.
func (w *wire) header() (kind byte, length int64, err error) {
	var b [5]byte
	if _, err := w.read(b[:]); err != nil {
		return 0, 0, err
	}
	return b[0], int64(binary.BigEndian.Uint32(b[1:])), nil
}

// body reads the rest of a message of that length.
func (w *wire) body(length int64) ([]byte, error) {
	b := make([]byte, length-lengthSize)
	_, err := w.read(b)
	return b, err
}

func (w *wire) read(b []byte) (int, error) {
	n, err := io.ReadFull(w.conn, b)
	if err != nil && w.failed != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = w.failed
	}
	return n, err
}

// receive reads one message of a server that has let us in. An error that it
// sends is a *pgconn.PgError; notices and such are dealt with here, and are
// not returned.
//
// Source: pqParseInput3 in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func (w *wire) receive() (kind byte, body []byte, err error) {
	for {
		kind, length, err := w.header()
		if err != nil {
			return 0, nil, err
		}
		longest := int64(longestMessage)
		switch kind {
		case 'T', 'D', 'E', 'N', 'A': // VALID_LONG_MESSAGE_TYPE, as far as they come here
			longest = longestLongKind
		}
		if length < lengthSize || length > longest {
			return 0, nil, fmt.Errorf("lost synchronization with server: got message type \"%c\", length %d", kind, length)
		}
		body, err := w.body(length)
		if err != nil {
			return 0, nil, err
		}
		switch kind {
		case 'E':
			return 0, nil, decodeError(body)
		case 'N':
			var n pgproto3.NoticeResponse
			if err := n.Decode(body); err != nil {
				return 0, nil, errMalformed(kind)
			}
			if w.notice != nil {
				w.notice(NoticeText(n.Severity, n.Message, n.Detail, n.Hint))
			}
		case 'A': // of no interest to anyone here
		default:
			return kind, body, nil
		}
	}
}

// decodeError returns what an ErrorResponse says.
func decodeError(body []byte) error {
	var e pgproto3.ErrorResponse
	if err := e.Decode(body); err != nil {
		return errors.New("received invalid error message")
	}
	return pgconn.ErrorResponseToPgError(&e)
}

// errMalformed is the error for a message whose body is not of its kind.
//
// Source: pqParseInput3 in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func errMalformed(kind byte) error {
	return fmt.Errorf("message contents do not agree with length in message type \"%c\"", kind)
}

// terminate tells the server goodbye and closes the connection. It does not
// wait for long.
func terminate(conn net.Conn) error {
	// A server that reads no more must not keep us: its socket buffer may be full.
	_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = conn.Write([]byte{'X', 0, 0, 0, 4}) // Terminate; the close below says the same
	return conn.Close()
}
