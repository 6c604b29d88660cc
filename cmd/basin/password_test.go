package main

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
)

func TestReadLine(t *testing.T) {
	for _, test := range []struct {
		reason, in, want string
		left             int // bytes
	}{
		{"what follows is left", "secret\nmore", "secret", 4},
		{"as Windows ends lines", "secret\r\nmore", "secret", 4},
		{"without an end", "secret", "secret", 0},
		{"nothing", "", "", 0},
		{"blanks belong to it", " a b \n", " a b ", 0},
	} {
		r := strings.NewReader(test.in)
		if got, err := readLine(r); got != test.want || err != nil || r.Len() != test.left {
			t.Errorf("%s: got %q, %v, and %d bytes are left", test.reason, got, err, r.Len())
		}
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add("secret\r\nmore")
	f.Fuzz(func(t *testing.T, in string) {
		r := strings.NewReader(in)
		got, err := readLine(r)
		line, rest, _ := strings.Cut(in, "\n")
		if err != nil || got != strings.TrimSuffix(line, "\r") || r.Len() != len(rest) {
			t.Errorf("%q: got %q, %v, and %d bytes are left", in, got, err, r.Len())
		}
	})
}

func TestAnswerOrEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		if got, err := answerOr(ctx, func() (string, error) { return "secret", nil }); got != "secret" || err != nil {
			t.Errorf("an answer: %q, %v", got, err)
		}
		r, w := io.Pipe()
		defer w.Close() // lets the read that is left behind end
		done := make(chan error)
		go func() {
			_, err := answerOr(ctx, func() (string, error) { return readLine(r) })
			done <- err
		}()
		synctest.Wait()
		cancel(interrupted{syscall.SIGTERM})
		if err := <-done; !errors.Is(err, interrupted{syscall.SIGTERM}) {
			t.Errorf("no answer: %v", err)
		}
	})
}

// The program has no terminal, and its standard input stays open and silent.
func TestSignalEndsPrompt(t *testing.T) {
	program, err := exec.LookPath("pg_basebackup") // where testscript.Main put it
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "-W", "-h", "/none", "-D", t.TempDir()+"/backup")
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stderr, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	prompt := make([]byte, len("Password: "))
	if _, err := io.ReadFull(stderr, prompt); err != nil || string(prompt) != "Password: " {
		t.Errorf("it said %q first, %v", prompt, err)
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(stderr); err != nil || string(rest) != "\npg_basebackup: error: interrupted by SIGTERM\n" {
		t.Errorf("it said %q then, %v", rest, err)
	}
	_ = c.Wait() // how it ended is what is looked at
	if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended with %v, want SIGTERM", c.ProcessState)
	}
}
