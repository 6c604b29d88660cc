package main

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"basin/internal/conninfo"
	"basin/internal/getopt"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Rows of the tables of options, of the kinds that several commands have.

// flagOption sets field.
func flagOption(long string, short byte, field *bool) getopt.Option {
	return getopt.Option{Long: long, Short: short, Flag: func() error { *field = true; return nil }}
}

// textOption takes its value as it is. given, if not nil, learns that there is one.
func textOption(long string, short byte, field *string, given map[string]bool) getopt.Option {
	return getopt.Option{Long: long, Short: short, Value: func(value string) error {
		*field = value
		if given != nil {
			given[long] = true
		}
		return nil
	}}
}

// promptOption says when a password is asked for.
func promptOption(long string, short byte, field *passwordPrompt, when passwordPrompt) getopt.Option {
	return getopt.Option{Long: long, Short: short, Flag: func() error { *field = when; return nil }}
}

// secondsOption takes whole seconds, none at all included.
func secondsOption(long string, short byte, field *time.Duration) getopt.Option {
	name := "--" + long
	if short != 0 {
		name = fmt.Sprintf("-%c/--%s", short, long)
	}
	return getopt.Option{Long: long, Short: short, Value: func(value string) error {
		seconds, err := parseInt(value, name, 0, math.MaxInt32/1000)
		*field = time.Duration(seconds) * time.Second
		return err
	}}
}

// parsePosition reads a position in the log, such as 16/B374D848. Blanks around
// it are dropped; the original takes anything behind it.
func parsePosition(s, which string) (wal.LSN, error) {
	at, err := wal.ParseLSN(strings.Trim(s, cSpaces))
	if err != nil {
		return 0, fmt.Errorf("could not parse %s position \"%s\"", which, s)
	}
	return at, nil
}

// connectionOptions say which server is meant. Empty texts leave it to the
// environment and the defaults.
type connectionOptions struct {
	ConnectionString string
	Host             string
	Port             string
	User             string
	Password         passwordPrompt
}

// connectionRequest returns what the options ask of package conninfo for a program.
func (o *connectionOptions) connectionRequest(program string) conninfo.Request {
	return conninfo.Request{
		ConnString: o.ConnectionString, Program: program, Host: o.Host, Port: o.Port, User: o.User,
	}
}

// logFormat returns basin's own option that says in which form what follows is reported.
func (c call) logFormat() getopt.Option {
	return getopt.Option{Long: "log-format", Whole: true, Value: c.report.setFormat}
}

// parse reads the command line of a command and returns its operands.
func (c call) parse(table []getopt.Option) (operands []string, err error) {
	parsing := getopt.Parsing{StopAtOperand: c.posix}
	operands, err = parsing.Parse(c.argv, table)
	if e := (*getopt.Error)(nil); errors.As(err, &e) {
		return nil, &usererr.Error{Err: e, Hint: c.usageHint()}
	}
	return operands, err
}
