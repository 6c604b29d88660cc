package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"testing"
)

// broken is a command that breaks in a wal get, in the way that its first argument says.
func broken() {
	_ = os.Setenv("BASIN_CONFIG", os.DevNull)
	if status := run(context.Background(), []string{"basin", "wal", "get", "a", "b"}, os.Stdout, os.Stderr); status != exitUnknown {
		os.Exit(status)
	}
	switch os.Args[1] {
	case "panic":
		go panic("on purpose")
		select {}
	case "stack":
		debug.SetMaxStack(1 << 16)
		os.Exit(fillStack(1 << 20))
	case "memory":
		limit := syscall.Rlimit{Cur: 1 << 28, Max: 1 << 28}
		if err := syscall.Setrlimit(syscall.RLIMIT_AS, &limit); err != nil {
			panic(err)
		}
		hoard = make([]byte, 1<<32)
	}
	os.Exit(exitSuccess)
}

var hoard []byte // what broken asks for

func fillStack(n int) int {
	if n == 0 {
		return 0
	}
	return n + fillStack(n-1)
}

// TestBrokenGetIsNoAbsence is about a wal get that Go's runtime ends: that has status 2, which PostgreSQL takes for
// the end of the log.
func TestBrokenGetIsNoAbsence(t *testing.T) {
	for _, how := range []string{"panic", "stack", "memory"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath("broken") // where testscript.Main put it
			if err != nil {
				t.Fatal(err)
			}
			c := exec.Command(program, how)
			c.Dir = t.TempDir()
			out, err := c.CombinedOutput()
			if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGABRT || status.CoreDump() {
				t.Errorf("it ended with %v: %s", err, out)
			}
			if left, err := filepath.Glob(filepath.Join(c.Dir, "*")); err != nil || len(left) > 0 {
				t.Errorf("it left %v, error %v", left, err)
			}
		})
	}
}

// TestGuardedGet runs what restore_command is.
func TestGuardedGet(t *testing.T) {
	for _, test := range []struct {
		command string
		want    int // less than zero is 126 or more, however it comes to that
	}{
		{"true", 0},
		{"(exit 1)", 1},
		{"(exit 2)", exitUnknown}, // Go's runtime
		{"(exit 125)", exitUnknown},
		{"(exit 126)", 126},
		{"/nowhere/basin", 127},
		{"sh -c 'kill -ABRT $$'", 128 + 6},
		{"sh -c 'kill -TERM $$'", 128 + 15}, // as the server does when it is stopped
		{"(ulimit -v 200000; exec basin wal get a b)", -1},
		{"(ulimit -v 600000; exec basin wal get a b)", -1},
	} {
		c := exec.Command("sh", "-c", guarded(test.command))
		c.Env = append(os.Environ(), "BASIN_CONFIG="+os.DevNull)
		out, err := c.CombinedOutput()
		if got := c.ProcessState.ExitCode(); got != test.want && (test.want >= 0 || got < exitUnknown) {
			t.Errorf("%s: status %d, %v: %s", test.command, got, err, out)
		}
	}
}
