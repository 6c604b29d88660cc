package connect

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// ServerError is an error that a server sent. It reads as libpq prints it.
type ServerError struct {
	*pgconn.PgError
}

// Error returns the text of NoticeText, and below it in what context the error
// came up, if the server says so.
//
// Source: pqBuildErrorMessage3 in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func (e *ServerError) Error() string {
	text := NoticeText(e.Severity, e.Message, e.PgError.Detail, e.PgError.Hint)
	if e.Where != "" {
		text += "\nCONTEXT:  " + e.Where
	}
	return text
}

// Unwrap returns the parsed error, for its SQLSTATE.
func (e *ServerError) Unwrap() error { return e.PgError }

// NoticeText returns an error or a notice in the form in which libpq prints
// it: severity and message, and below them detail and hint, which may be empty.
//
// Source: pqBuildErrorMessage3 in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func NoticeText(severity, message, detail, hint string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s:  %s", severity, message)
	if detail != "" {
		s.WriteString("\nDETAIL:  " + detail)
	}
	if hint != "" {
		s.WriteString("\nHINT:  " + hint)
	}
	return s.String()
}
