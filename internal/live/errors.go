package live

import (
	"fmt"

	"basin/internal/usererr"
)

// SQLSTATEs of what the server would say itself.
//
// Source: src/backend/utils/errcodes.txt, PostgreSQL 18.
const (
	codeWarning       = "01000" // warning
	codeState         = "55000" // object_not_in_prerequisite_state
	codeParameter     = "22023" // invalid_parameter_value
	codeUndefinedFile = "58P01" // undefined_file
)

// stateError is an error that has an SQLSTATE.
type stateError struct {
	error
	code string
}

// SQLState returns the SQLSTATE.
func (e *stateError) SQLState() string { return e.code }

// Unwrap returns the error itself.
func (e *stateError) Unwrap() error { return e.error }

// failed returns an error with an SQLSTATE. The rest is as for fmt.Errorf.
func failed(code, format string, args ...any) error {
	return &stateError{fmt.Errorf(format, args...), code}
}

// explained is failed with a detail and a hint, each of which may be empty.
func explained(code, detail, hint, format string, args ...any) error {
	return &stateError{&usererr.Error{Err: fmt.Errorf(format, args...), Detail: detail, Hint: hint}, code}
}
