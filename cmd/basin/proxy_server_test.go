package main

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"basin/internal/connect"
	"basin/internal/pgtest"
)

// wire is what happens to the bytes of one connection on their way from the
// server: an error ends the connection in both directions.
type wire func(to io.Writer, from io.Reader) error

// proxy stands before a server, on a port of its own, and does something to each
// connection, given by its number from 1. It returns the connection string.
func proxy(t *testing.T, s *pgtest.Server, wireOf func(number int32) wire) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var number atomic.Int32
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
				if err != nil {
					return
				}
				defer far.Close()
				pass := wireOf(number.Add(1))
				done := make(chan struct{}, 2)
				go func() { _, _ = io.Copy(far, near); done <- struct{}{} }()
				go func() { _ = pass(near, far); done <- struct{}{} }()
				<-done // the end of one direction is the end of both
			}()
		}
	}()
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres sslmode=disable", listener.Addr().(*net.TCPAddr).Port)
}

// whole lets everything pass.
func whole(to io.Writer, from io.Reader) error {
	_, err := io.Copy(to, from)
	return err
}

// cutAfter lets n bytes pass and then cuts the connection.
func cutAfter(n int64) wire {
	return func(to io.Writer, from io.Reader) error {
		_, err := io.CopyN(to, from, n)
		return err
	}
}

// stallAfter lets n bytes pass and then nothing, for as long as the client waits.
func stallAfter(n int64, stalled chan<- struct{}) wire {
	return func(to io.Writer, from io.Reader) error {
		if _, err := io.CopyN(to, from, n); err != nil {
			return err
		}
		close(stalled)
		select {} // until the test ends: the other direction tells that the client has gone
	}
}

// drip lets single bytes pass, and later pieces of all sizes.
func drip(to io.Writer, from io.Reader) error {
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{io.LimitReader(from, 100_000)}, make([]byte, 1)); err != nil {
		return err
	}
	for size := 1; ; size = size%9973 + 17 {
		if n, err := io.CopyN(to, from, int64(size)); err != nil || n == 0 {
			return err
		}
	}
}

// only does something to one connection and leaves the others alone.
func only(number int32, w wire) func(int32) wire {
	return func(n int32) wire {
		if n == number {
			return w
		}
		return whole
	}
}

func TestBadNetwork(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	for _, test := range []struct {
		reason string
		wires  func(int32) wire
		args   []string
		said   string // empty: it succeeds
	}{
		{"slow and in pieces, log streamed", func(int32) wire { return drip }, nil, ""},
		{"slow and in pieces, log fetched", func(int32) wire { return drip }, []string{"-Ft", "-X", "fetch"}, ""},
		{"cut in the greeting", only(1, cutAfter(100)), nil, "server closed the connection unexpectedly"},
		{"cut in the backup", only(1, cutAfter(1_000_000)), nil, "server closed the connection unexpectedly"},
		{"cut in the backup, tar", only(1, cutAfter(1_000_000)), []string{"-Ft", "-z"}, "server closed the connection unexpectedly"},
		{"cut in the fetched log", only(1, cutAfter(24_000_000)), []string{"-X", "fetch"}, "server closed the connection unexpectedly"},
		{"cut in the greeting of the log", only(2, cutAfter(100)), []string{slowly}, "server closed the connection unexpectedly"},
		{"cut in the log", only(2, cutAfter(1000)), []string{slowly}, "background process terminated unexpectedly"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			work := pgtest.TempDir(t)
			dir := filepath.Join(work, "backup")
			e := basin.run(t, nil, append([]string{"-D", dir, "-d", proxy(t, s, test.wires), "-c", "fast"}, test.args...)...)
			if test.said != "" {
				e.failed(t, test.said)
				if got := entries(t, work); len(got) > 0 {
					t.Errorf("left behind: %q", got)
				}
				return
			}
			e.succeeded(t)
			if len(test.args) == 0 {
				tool(t, s.Major, "pg_verifybackup", dir)
			}
		})
	}
	t.Run("silent from the start", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(pgtest.TempDir(t), "backup")
		begin := time.Now()
		server := proxy(t, s, only(1, stallAfter(0, make(chan struct{}))))
		basin.run(t, nil, "-D", dir, "-d", server+" connect_timeout=2").failed(t, "timeout expired")
		if took := time.Since(begin); took < 2*time.Second {
			t.Errorf("gave up after %v", took)
		}
		absent(t, dir)
	})
	t.Run("silent from the start, of basin's own commands", func(t *testing.T) {
		t.Parallel()
		own := newProgram(t, "basin")
		location := filepath.Join(pgtest.TempDir(t), "repository")
		own.run(t, nil, "init", "--repository", location).succeeded(t)
		server := proxy(t, s, only(1, stallAfter(0, make(chan struct{}))))
		p := own.start(t, nil, "backup", "--repository", location, "-d", server)
		p.waitWithin(t, 2*connect.DefaultTimeout).says(t, exitFailure, "connection to server at \"127.0.0.1\"", "timeout expired", "connect_timeout")
	})
	t.Run("silent for the log", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(pgtest.TempDir(t), "backup")
		server := proxy(t, s, only(2, stallAfter(0, make(chan struct{}))))
		basin.run(t, nil, "-D", dir, slowly, "-c", "fast", "-d", server+" connect_timeout=2").failed(t, "timeout expired")
		absent(t, dir)
	})
	for _, connection := range []int32{1, 2} {
		t.Run(fmt.Sprintf("silent later, interrupted, connection %d", connection), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(pgtest.TempDir(t), "backup")
			stalled := make(chan struct{})
			server := proxy(t, s, only(connection, stallAfter(900, stalled)))
			p := basin.start(t, nil, "-D", dir, slowly, "-c", "fast", "-d", server)
			select {
			case <-stalled:
			case <-p.done:
				t.Fatalf("%s", p.wait(t))
			}
			p.signal(t, syscall.SIGINT)
			if e := p.waitWithin(t, 20*time.Second); e.signal != syscall.SIGINT {
				t.Errorf("%s", e)
			}
			absent(t, dir)
		})
	}
}

// TestServerStands has a server whose processes do nothing any more, as on a
// machine with a broken disk.
func TestServerStands(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{})
	h := hold(t, basin, s)
	sender := h.pid(t, s, "backup")
	if err := syscall.Kill(sender, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(sender, syscall.SIGCONT)
	h.signal(t, syscall.SIGTERM)
	if e := h.waitWithin(t, 20*time.Second); e.signal != syscall.SIGTERM {
		t.Errorf("%s", e)
	}
	h.cleaned(t)
	if err := syscall.Kill(sender, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.forgotten(t, s)
}
