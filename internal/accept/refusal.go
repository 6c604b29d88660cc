package accept

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"basin/internal/usererr"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Refusal is the error that a client is told before the connection is closed.
type Refusal struct {
	Code    string // SQLSTATE
	Message string
	Detail  string // may be empty
	Hint    string // may be empty
}

// Error returns what the client was told, in one line.
func (r *Refusal) Error() string {
	if r.Detail != "" {
		return r.Message + ": " + r.Detail
	}
	return r.Message
}

// SQLState returns the SQLSTATE.
func (r *Refusal) SQLState() string { return r.Code }

// The SQLSTATEs of this package's own refusals.
//
// Source: src/backend/utils/errcodes.txt, PostgreSQL 18.
const (
	codeProtocolViolation    = "08P01"
	codeFeatureNotSupported  = "0A000"
	codeInvalidValue         = "22023" // invalid_parameter_value
	codeInvalidAuthorization = "28000" // invalid_authorization_specification
	codeInvalidPassword      = "28P01"
	codeCannotConnectNow     = "57P03"
	codeConfigFileError      = "F0000"
	codeInternalError        = "XX000"
)

// refuse returns a refusal. The message is as for fmt.Sprintf.
func refuse(code, message string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(message, args...)}
}

// refusalOf makes a refusal of an error of the caller's, unless it is one.
func refusalOf(err error) error {
	if r := (*Refusal)(nil); errors.As(err, &r) {
		return err
	}
	r := &Refusal{Code: codeInternalError, Message: err.Error(), Detail: usererr.Detail(err), Hint: usererr.Hint(err)}
	if e := (*pgconn.PgError)(nil); errors.As(err, &e) { // of a server behind this one
		r = &Refusal{e.Code, e.Message, e.Detail, e.Hint}
	}
	if e := (interface{ SQLState() string })(nil); errors.As(err, &e) && len(e.SQLState()) == 5 {
		r.Code = e.SQLState()
	}
	return &refused{r, err}
}

// refused is a refusal for a reason that the caller knows.
type refused struct {
	refusal *Refusal
	reason  error
}

func (r *refused) Error() string   { return r.reason.Error() }
func (r *refused) Unwrap() []error { return []error{r.refusal, r.reason} }

// because adds to a refusal what the client is not told.
func (r *Refusal) because(format string, args ...any) error {
	return &refused{r, fmt.Errorf("%s: %w", r.Message, fmt.Errorf(format, args...))}
}

// encode returns the message that tells it. All that comes before a session
// ends the connection.
//
// Source: send_message_to_frontend in src/backend/utils/error/elog.c, PostgreSQL 18.
func (r *Refusal) encode() ([]byte, error) {
	return (&pgproto3.ErrorResponse{
		Severity: "FATAL", SeverityUnlocalized: "FATAL",
		Code: cmp.Or(r.Code, codeInternalError), Message: r.Message, Detail: r.Detail, Hint: r.Hint,
	}).Encode(nil)
}

// sayGoodbye tells a client why it is refused and closes the connection. It
// does not wait for long.
func (g *guest) sayGoodbye(err error) {
	// A client that does not read must not keep us.
	_ = g.conn.SetDeadline(time.Now().Add(time.Second)) // a failure shows in the write
	if r := (*Refusal)(nil); errors.As(err, &r) && !g.mute {
		message, err := r.encode()
		if g.old {
			message, err = []byte("EFATAL:  "+r.Message+"\n\x00"), nil
		}
		if err == nil {
			_, _ = g.conn.Write(message) // it may be gone
		}
	}
	_ = g.conn.Close()
}
