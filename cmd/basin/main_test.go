package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be basin under each of its names.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"basin":          main,
		"pg_basebackup":  main,
		"pg_receivewal":  main,
		"pg_recvlogical": main,
		"waiter":         waiter,
		"broken":         broken,
	})
}

// waiter is a command that says it is there and waits until it is interrupted.
func waiter() {
	endWith(nil, func(ctx context.Context) int {
		fmt.Println("waiting")
		<-ctx.Done()
		fmt.Println(signalFirst(ctx, ctx.Err()))
		return exitFailure
	})
}

func TestSignalEndsProcess(t *testing.T) {
	for _, test := range []struct {
		reason string
		shell  string // what runs the program
		send   []syscall.Signal
		want   syscall.Signal
	}{
		{"interrupted", `exec "$0"`, []syscall.Signal{syscall.SIGINT}, syscall.SIGINT},
		{"terminated", `exec "$0"`, []syscall.Signal{syscall.SIGTERM}, syscall.SIGTERM},
		{"terminal gone", `exec "$0"`, []syscall.Signal{syscall.SIGHUP}, syscall.SIGHUP},
		{"terminal gone under nohup", `trap "" HUP; exec "$0"`, []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM}, syscall.SIGTERM},
	} {
		t.Run(test.reason, func(t *testing.T) {
			program, err := exec.LookPath("waiter") // where testscript.Main put it
			if err != nil {
				t.Fatal(err)
			}
			c := exec.Command("/bin/sh", "-c", test.shell, program)
			stdout, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stdout)
			if !lines.Scan() || lines.Text() != "waiting" {
				t.Errorf("it said %q first", lines.Text())
			}
			for _, s := range test.send {
				if err := c.Process.Signal(s); err != nil {
					t.Error(err)
				}
			}
			if want := "interrupted by " + unix.SignalName(test.want); !lines.Scan() || lines.Text() != want {
				t.Errorf("it said %q then, want %q", lines.Text(), want)
			}
			err = c.Wait()
			status, ok := c.ProcessState.Sys().(syscall.WaitStatus)
			if !ok || !status.Signaled() || status.Signal() != test.want {
				t.Errorf("it ended with %v, want %v", err, test.want)
			}
		})
	}
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata", RequireUniqueNames: true})
}

func TestEditDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"backup", "backup", 0},
		{"bakup", "backup", 1},
		{"bcakup", "backup", 2}, // a swap is two replacements
		{"kitten", "sitting", 3},
	} {
		if got := editDistance(test.a, test.b); got != test.want {
			t.Errorf("editDistance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestSignalComesFirst(t *testing.T) {
	broken := os.ErrClosed
	ctx, cancel := context.WithCancelCause(context.Background())
	if got := signalFirst(ctx, broken); got != broken {
		t.Errorf("before the signal: %v", got)
	}
	cancel(interrupted{15})
	if got := signalFirst(ctx, broken); got.Error() != "interrupted by SIGTERM" {
		t.Errorf("after the signal: %v", got)
	}
	if got := signalFirst(ctx, nil); got != nil {
		t.Errorf("after a success in spite of the signal: %v", got)
	}
}
