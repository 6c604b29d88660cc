package usererr

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"testing"
)

func TestHintAndDetail(t *testing.T) {
	plain := errors.New("plain")
	hinted := &Error{Err: plain, Hint: "look again"}
	detailed := &Error{Err: io.EOF, Detail: "It was short."}
	both := &Error{Err: plain, Detail: "It was long.", Hint: "cut it"}
	for _, c := range []struct {
		name         string
		err          error
		hint, detail string
	}{
		{"nil", nil, "", ""},
		{"plain", plain, "", ""},
		{"hint alone", hinted, "look again", ""},
		{"detail alone", detailed, "", "It was short."},
		{"both", both, "cut it", "It was long."},
		{"neither", &Error{Err: plain}, "", ""},
		{"wrapped", fmt.Errorf("reading: %w", both), "cut it", "It was long."},
		{"outer first", &Error{Err: hinted, Hint: "outer"}, "outer", ""},
		{"outer has none", &Error{Err: hinted, Detail: "Outer."}, "look again", "Outer."},
		{"one line from each depth", &Error{Err: fmt.Errorf("reading: %w", both), Hint: "outer"}, "outer", "It was long."},
		{"joined: first that has one", errors.Join(plain, hinted, both), "look again", "It was long."},
		{"joined: the first has none", errors.Join(detailed, hinted), "look again", "It was short."},
		{"two wrapped at once", fmt.Errorf("%w and %w", detailed, fmt.Errorf("more: %w", hinted)), "look again", "It was short."},
		{"joined inside", &Error{Err: errors.Join(&Error{Err: plain}, both)}, "cut it", "It was long."},
		{"joined of nothing known", errors.Join(plain, io.EOF), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Hint(c.err); got != c.hint {
				t.Errorf("hint %q, want %q", got, c.hint)
			}
			if got := Detail(c.err); got != c.detail {
				t.Errorf("detail %q, want %q", got, c.detail)
			}
		})
	}
}

func TestErrorLetsTheCauseThrough(t *testing.T) {
	err := Hinted("take a new one", "segment %s: %w", "000000010000000000000001", fs.ErrNotExist)
	if got, want := err.Error(), "segment 000000010000000000000001: file does not exist"; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is hidden")
	}
	if got := Hint(err); got != "take a new one" {
		t.Errorf("hint %q", got)
	}
}
