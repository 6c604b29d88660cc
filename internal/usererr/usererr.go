// Package usererr knows what an error owes to the person who reads it: what
// went wrong, and what to do next.
//
// It prints nothing and ends no process; the command line does both.
package usererr

import "fmt"

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
	return first(err, func(e *Error) string { return e.Detail })
}

// Hint returns the hint of the first error in err's tree that has one.
func Hint(err error) string {
	return first(err, func(e *Error) string { return e.Hint })
}

// first returns what line says of the first error in err's tree of which it
// says anything. The order is that of errors.As, which stops at the first Error
// and so cannot be used here: another branch may know more.
func first(err error, line func(*Error) string) string {
	if e, ok := err.(*Error); ok && line(e) != "" {
		return line(e)
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return first(e.Unwrap(), line)
	case interface{ Unwrap() []error }:
		for _, branch := range e.Unwrap() {
			if s := first(branch, line); s != "" {
				return s
			}
		}
	}
	return ""
}
