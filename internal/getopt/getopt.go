// Package getopt knows how glibc reads a command line: options and operands in
// any order, clusters such as -nNv, arguments joined or apart, long options cut
// short to what is still unique, and the words of its complaints.
//
// It knows no option of any program, converts no argument, reads no environment
// and prints nothing.
package getopt

import (
	"fmt"
	"strings"
)

// Option is one option of a program. Exactly one of Flag and Value is set.
type Option struct {
	Long  string // without the dashes; empty if there is none
	Short byte   // zero if there is none

	// Whole keeps the option from answering to anything but its whole name, so
	// that an option can be added to a program whose users' abbreviations must
	// stay unique.
	Whole bool

	Flag  func() error             // is called for an option without an argument
	Value func(value string) error // is called for an option with an argument
}

// Error is a command line that getopt_long would refuse.
type Error struct {
	message string
}

// Error returns glibc's complaint, which begins with argv[0] as it was given.
//
// Source: process_long_option and _getopt_internal_r in posix/getopt.c, glibc 2.36.
func (e *Error) Error() string { return e.message }

// Parsing says how a command line is read. The zero value reads it as glibc does by default.
type Parsing struct {
	// StopAtOperand ends the options at the first operand, as the environment
	// variable POSIXLY_CORRECT asks glibc to.
	StopAtOperand bool
}

// Parse reads argv, whose first element is the name the program was called by,
// and calls the functions of the options it meets, in order. It returns the
// operands, in order.
//
// It ends at the first error: an *Error of its own, or what an option's function returned.
func (p Parsing) Parse(argv []string, options []Option) (operands []string, err error) {
	if len(argv) == 0 {
		return nil, nil
	}
	s := scanner{program: argv[0], rest: argv[1:], options: options}
	for len(s.rest) > 0 {
		word := s.rest[0]
		isOption := len(word) > 1 && word[0] == '-' // a lone dash is an operand
		if !isOption && p.StopAtOperand {
			break
		}
		s.rest = s.rest[1:]
		switch {
		case !isOption:
			operands = append(operands, word)
		case word == "--":
			return append(operands, s.rest...), nil
		case strings.HasPrefix(word, "--"):
			err = s.long(word[2:])
		default:
			err = s.cluster(word[1:])
		}
		if err != nil {
			return nil, err
		}
	}
	return append(operands, s.rest...), nil
}

// scanner holds what is left of a command line.
type scanner struct {
	program string
	rest    []string
	options []Option
}

// long handles a word that began with two dashes, of which word is the rest.
func (s *scanner) long(word string) error {
	name, value, joined := strings.Cut(word, "=")
	option, err := s.findLong(name, word)
	switch {
	case err != nil:
		return err
	case option.Flag != nil && joined:
		return s.errorf("option '--%s' doesn't allow an argument", option.Long)
	case option.Flag != nil:
		return option.Flag()
	case !joined && len(s.rest) == 0:
		return s.errorf("option '--%s' requires an argument", option.Long)
	case !joined:
		value, s.rest = s.rest[0], s.rest[1:]
	}
	return option.Value(value)
}

// findLong returns the option that name is, or is the only possible beginning of.
// word is what errors quote, which is name and the argument joined to it.
func (s *scanner) findLong(name, word string) (*Option, error) {
	var found *Option
	var possible []string
	for i := range s.options {
		option := &s.options[i]
		switch {
		case option.Long == "":
		case option.Long == name:
			return option, nil
		case !option.Whole && strings.HasPrefix(option.Long, name):
			found = option
			possible = append(possible, "'--"+option.Long+"'")
		}
	}
	switch {
	case found == nil:
		return nil, s.errorf("unrecognized option '--%s'", word)
	case len(possible) > 1:
		return nil, s.errorf("option '--%s' is ambiguous; possibilities: %s", word, strings.Join(possible, " "))
	}
	return found, nil
}

// cluster handles the letters after one dash: any number of options without an
// argument, or one with it, which is the rest of the letters or the next word.
func (s *scanner) cluster(letters string) error {
	for i := range len(letters) {
		option := s.findShort(letters[i])
		switch {
		case option == nil:
			return s.errorf("invalid option -- '%s'", letters[i:i+1]) // a byte, even within a rune
		case option.Flag != nil:
			if err := option.Flag(); err != nil {
				return err
			}
		case i+1 < len(letters):
			return option.Value(letters[i+1:])
		case len(s.rest) == 0:
			return s.errorf("option requires an argument -- '%s'", letters[i:i+1])
		default:
			value := s.rest[0]
			s.rest = s.rest[1:]
			return option.Value(value)
		}
	}
	return nil
}

func (s *scanner) findShort(letter byte) *Option {
	for i := range s.options {
		if letter != 0 && s.options[i].Short == letter {
			return &s.options[i]
		}
	}
	return nil
}

func (s *scanner) errorf(format string, args ...any) error {
	return &Error{message: s.program + ": " + fmt.Sprintf(format, args...)}
}
