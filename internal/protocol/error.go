package protocol

import (
	"fmt"
	"unicode/utf8"
)

// SQLSTATEs of what can be wrong with a command.
//
// Source: src/backend/utils/errcodes.txt, PostgreSQL 18.
const (
	stateSyntax             = "42601" // ERRCODE_SYNTAX_ERROR
	stateOutOfRange         = "22003" // ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE
	stateInvalidParameter   = "22023" // ERRCODE_INVALID_PARAMETER_VALUE
	stateUndefinedObject    = "42704" // ERRCODE_UNDEFINED_OBJECT
	stateFeatureUnsupported = "0A000" // ERRCODE_FEATURE_NOT_SUPPORTED
	stateInternal           = "XX000" // ERRCODE_INTERNAL_ERROR
)

// CommandError is what a server answers to a command that it does not take.
type CommandError struct {
	SQLState string
	Message  string // what a server of PostgreSQL says, word for word
	Detail   string // more than that server says; may be empty
	Hint     string // may be empty
	Position int    // of the character that was not expected, counted from 1; zero if there is none
}

// Error returns the message alone.
func (e *CommandError) Error() string { return e.Message }

// syntaxError returns the error for a token that cannot stand where it stands.
func syntaxError(text string, t token) *CommandError {
	e := &CommandError{
		SQLState: stateSyntax, Message: "syntax error", Detail: "The command ends too early.",
		Position: characterAt(text, t.start),
	}
	if t.kind != tokenEnd {
		e.Detail = fmt.Sprintf("Unexpected %s.", excerpt(text[t.start:t.end]))
	}
	return e
}

// optionError returns the error for an option that cannot be as it is.
func optionError(state, format string, args ...any) *CommandError {
	return &CommandError{SQLState: state, Message: fmt.Sprintf(format, args...)}
}

// excerpt returns a piece of a command in quotes, and not all of it if it is long.
func excerpt(s string) string {
	const enough = 40 // bytes
	if len(s) > enough {
		end := enough
		for end > enough-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end] + "..."
	}
	return `"` + s + `"`
}

// characterAt returns the number, from 1, of the character at a byte of text.
func characterAt(text string, offset int) int { return utf8.RuneCountInString(text[:offset]) + 1 }
