package server

import (
	"context"
	"errors"
	"io/fs"

	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/connect"
	"basin/internal/protocol"
	"basin/internal/usererr"
)

// Error is an error, or a notice, as a client is told of it.
type Error struct {
	Severity string // ERROR, FATAL, WARNING, NOTICE; empty is ERROR
	Code     string // SQLSTATE; empty is XX000
	Message  string
	Detail   string // may be empty
	Hint     string // may be empty
	Position int    // in the command, in characters from 1; zero is nowhere
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// SQLSTATEs that the server answers with.
//
// Source: src/backend/utils/errcodes.txt, PostgreSQL 18.
const (
	codeProtocolViolation   = "08P01"
	codeFeatureNotSupported = "0A000"
	codeSyntaxError         = "42601"
	codePrivilege           = "42501"
	codeNotInState          = "55000"
	codeTooManyConnections  = "53300"
	codeShutdown            = "57P01"
	codeCanceled            = "57014"
	codeProgramLimit        = "54000"
	codeInvalidParameter    = "22023"
	codeUndefinedFile       = "58P01"
	codeIO                  = "58030"
	codeDataCorrupted       = "XX001"
	codeInternal            = "XX000"
)

// asError returns what a client is told of err.
func asError(err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	if e := (*protocol.CommandError)(nil); errors.As(err, &e) {
		return &Error{Code: e.SQLState, Message: e.Message, Detail: e.Detail, Hint: e.Hint, Position: e.Position}
	}
	if e := (*connect.ServerError)(nil); errors.As(err, &e) { // the cluster's own words
		return &Error{Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.Hint}
	}
	e := &Error{Code: codeInternal, Message: err.Error(), Detail: usererr.Detail(err), Hint: usererr.Hint(err)}
	coded := (interface{ SQLState() string })(nil)
	switch {
	case errors.As(err, &coded):
		e.Code = coded.SQLState()
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e.Code = codeCanceled
	case errors.Is(err, fs.ErrNotExist):
		e.Code = codeUndefinedFile
	}
	return e
}

// message returns the error as it goes to the client: an ErrorResponse, or a
// NoticeResponse for what ends nothing.
func (e *Error) message() pgproto3.BackendMessage {
	r := pgproto3.ErrorResponse{
		Severity: e.Severity, Code: e.Code, Message: e.Message, Detail: e.Detail, Hint: e.Hint, Position: int32(e.Position),
	}
	if r.Severity == "" {
		r.Severity = "ERROR"
	}
	if r.Code == "" {
		r.Code = codeInternal
	}
	r.SeverityUnlocalized = r.Severity
	switch r.Severity {
	case "ERROR", "FATAL", "PANIC":
		return &r
	}
	return (*pgproto3.NoticeResponse)(&r)
}
