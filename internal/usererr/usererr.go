// Package usererr knows what an error owes to the person who reads it: what
// went wrong, and what to do next.
//
// It prints nothing and ends no process; the command line does both.
package usererr

import (
	"errors"
	"fmt"
)

// Error is an error with the two lines PostgreSQL's programs print below it.
type Error struct {
	Err    error
	Detail string // more of what happened; may be empty
	Hint   string // what to do next; may be empty
}

// Error returns the message of the wrapped error alone.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// Hinted returns an error with a hint. The rest is as for fmt.Errorf.
func Hinted(hint, format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Hint: hint}
}

// Detail returns the detail of the first error in err's tree that has one.
func Detail(err error) string {
	for e := (*Error)(nil); errors.As(err, &e); err = e.Err {
		if e.Detail != "" {
			return e.Detail
		}
	}
	return ""
}

// Hint returns the hint of the first error in err's tree that has one.
func Hint(err error) string {
	for e := (*Error)(nil); errors.As(err, &e); err = e.Err {
		if e.Hint != "" {
			return e.Hint
		}
	}
	return ""
}
