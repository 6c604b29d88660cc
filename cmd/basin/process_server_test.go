package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// patience is how long anything may take that takes seconds on an idle machine.
const patience = 2 * time.Minute

// program is basin under one of its names, run as the user that the servers run
// as, so that a server can be started on what it wrote. A copy of the test binary
// stands for it: the folder of the original is closed to that user.
type program struct {
	path string
	home string // is empty unless a test puts something there
}

func newProgram(t testing.TB, name string) *program {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := pgtest.TempDir(t)
	p := &program{path: filepath.Join(dir, "bin", name), home: filepath.Join(dir, "home")}
	for _, d := range []string{filepath.Dir(p.path), p.home} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", "--reflink=auto", self, p.path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pgtest.Own(t, dir)
	return p
}

// command returns a run of the program, in an environment that holds nothing but
// what is given. It has a process group of its own, so that a test can tell
// whether it left a process behind.
func (p *program) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, p.path, args...)
	c.Env = append([]string{
		"HOME=" + p.home, "LC_ALL=C.UTF-8", "TZ=UTC", "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(),
	}, env...)
	c.Dir = p.home
	c.SysProcAttr = pgtest.ProcessAttributes(syscall.SIGKILL)
	return c
}

// run runs the program to its end.
func (p *program) run(t testing.TB, env []string, args ...string) ending {
	t.Helper()
	return p.start(t, env, args...).wait(t)
}

// start starts the program. It is killed if it is still there when the test ends.
func (p *program) start(t testing.TB, env []string, args ...string) *process {
	t.Helper()
	return startCommand(t, p.command(context.WithoutCancel(t.Context()), env, args...))
}

// process is a program on its way.
type process struct {
	cmd            *exec.Cmd
	stdout, stderr text
	done           chan struct{}
	err            error // of Wait, once done is closed
}

func startCommand(t testing.TB, c *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: c, done: make(chan struct{})}
	if c.Stdout == nil {
		c.Stdout = &p.stdout
	}
	c.Stderr = &p.stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = c.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
		default:
			_ = c.Process.Kill()
			<-p.done
		}
	})
	return p
}

// signal sends the program a signal.
func (p *process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%v: %v\n%s", s, err, p.stderr.String())
	}
}

// wait waits for the end of the program.
func (p *process) wait(t testing.TB) ending {
	t.Helper()
	return p.waitWithin(t, patience)
}

func (p *process) waitWithin(t testing.TB, limit time.Duration) ending {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // it tells what it is waiting for
		<-p.done
		t.Fatalf("%q: not done within %v; it said:\n%s", p.cmd.Args, limit, p.stderr.String())
	}
	if p.err != nil && !errors.As(p.err, new(*exec.ExitError)) {
		t.Fatal(p.err)
	}
	e := ending{args: p.cmd.Args, stdout: p.stdout.String(), stderr: p.stderr.String()}
	if status := p.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		e.signal = status.Signal()
	} else {
		e.status = status.ExitStatus()
	}
	if err := syscall.Kill(-p.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("%q left a process behind (%v)", p.cmd.Args, err)
	}
	return e
}

// ending is how a program ended, and what it said until then.
type ending struct {
	args           []string
	status         int
	signal         syscall.Signal // zero if it ended by itself
	stdout, stderr string
}

// succeeded fails the test unless the program did its work without a complaint.
func (e ending) succeeded(t testing.TB) {
	t.Helper()
	if e.status != exitSuccess || e.signal != 0 || e.stderr != "" {
		t.Fatalf("%s", e)
	}
}

// failed fails the test unless the program ended with status 1, without having
// panicked, and said every one of the texts.
func (e ending) failed(t testing.TB, texts ...string) {
	t.Helper()
	if e.status != exitFailure || e.signal != 0 || strings.Contains(e.stderr, "goroutine ") {
		t.Fatalf("%s", e)
	}
	e.said(t, texts...)
}

// said fails the test unless each of the texts is in what the program said.
func (e ending) said(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(e.stderr, text) {
			t.Errorf("%s\nwithout saying: %s", e, text)
		}
	}
}

func (e ending) String() string {
	how := fmt.Sprintf("ended with status %d", e.status)
	if e.signal != 0 {
		how = fmt.Sprintf("was ended by %v", e.signal)
	}
	return fmt.Sprintf("%q %s:\n%s", e.args, how, e.stderr)
}

// text collects output while others read it.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p.
func (b *text) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns all that was written so far.
func (b *text) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually asks until something holds, and fails the test if it takes too long.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

// entries returns the names in a directory.
func entries(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range list {
		names = append(names, entry.Name())
	}
	slices.Sort(names)
	return names
}

// absent fails the test if there is something at a path.
func absent(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is there (%v)", path, err)
	}
}

// present fails the test if there is nothing at a path.
func present(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// sideBySide is the settings of a server that many backups are taken of at once.
// Each makes a checkpoint, which would take the log from under another that has
// not made its slot yet.
func sideBySide() map[string]string {
	return map[string]string{"wal_keep_size": "1GB", "max_wal_senders": "100", "max_replication_slots": "100"}
}

// tool runs one of PostgreSQL's own programs and fails the test if that fails.
func tool(t testing.TB, major int, name string, args ...string) {
	t.Helper()
	if out, err := pgtest.Command(t, major, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
