package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// promptPassword asks for a password.
func promptPassword(ctx context.Context) (string, error) { return promptSecret(ctx, "Password: ") }

// promptSecret asks for what is not to be seen, on the terminal that the program was
// started from. Where there is none it is a line of standard input, as scripts give it.
//
// Source: simple_prompt in src/common/sprompt.c, PostgreSQL 18.
func promptSecret(ctx context.Context, prompt string) (string, error) {
	in, out := os.Stdin, os.Stderr
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		defer tty.Close()
		in, out = tty, tty
	}
	if term.IsTerminal(int(in.Fd())) {
		show, err := hideTyping(int(in.Fd())) // before a fast typist is asked
		if err != nil {
			return "", err
		}
		defer show()
	}
	if _, err := fmt.Fprint(out, prompt); err != nil {
		return "", err
	}
	defer fmt.Fprintln(out)
	return answerOr(ctx, func() (string, error) { return readLine(in) })
}

// hideTyping has a terminal show no more of what is typed, and forget what was
// typed before, until show is called.
func hideTyping(fd int) (show func(), err error) {
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, err
	}
	silent := *before
	silent.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, setTermiosFlush, &silent); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, setTermiosFlush, before) }, nil // a terminal that is gone shows nothing
}

// answerOr returns what read does, or the cause of ctx's end if that comes
// first. Neither a terminal nor standard input can be read with a deadline: a
// read that is not answered is left behind.
func answerOr(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return a.text, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// readLine reads one line, byte by byte: what follows is not ours.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for {
		var b [1]byte
		switch _, err := io.ReadFull(r, b[:]); {
		case errors.Is(err, io.EOF), err == nil && b[0] == '\n':
			return strings.TrimSuffix(string(line), "\r"), nil
		case err != nil:
			return "", err
		}
		line = append(line, b[0])
	}
}
