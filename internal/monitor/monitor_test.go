package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/client"
	"basin/internal/usererr"
)

// stream is a stream of the log as a test wants it.
type stream struct {
	mu sync.Mutex
	s  client.ReceiveStatus
}

func (s *stream) status() client.ReceiveStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s
}

// set changes the stream.
func (s *stream) set(change func(*client.ReceiveStatus)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.s)
}

// readStatus returns what the status file says.
func readStatus(t *testing.T, name string) Status {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var s Status
	if err := json.Unmarshal(content, &s); err != nil {
		t.Fatalf("%v:\n%s", err, content)
	}
	return s
}

func start(t *testing.T, o Options) *Monitor {
	t.Helper()
	m, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestStatusFileTellsALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "status.json")
		var log stream
		m := start(t, Options{
			Version: "1.2.3", Slot: "archive", Directory: "/srv/wal", Progress: log.status, StatusFile: name,
			Warn: func(err error) { t.Error(err) },
		})
		begun := time.Now()
		read := func(state State) Status {
			t.Helper()
			synctest.Wait()
			s := readStatus(t, name)
			if s.State != state {
				t.Errorf("state is %q, want %q", s.State, state)
			}
			return s
		}
		if s := read(Starting); s.Slot != "archive" || s.Version != "1.2.3" || s.PID != os.Getpid() || s.LagBytes != nil || s.LastMessage != nil || s.Ended != nil || s.Format != 1 {
			t.Errorf("at the start: %+v", s)
		}

		m.Connecting()
		m.Connected("7000000000000000001", "archiver")
		m.Opened(func() int { return 2 })
		m.Gaps(nil)
		log.set(func(s *client.ReceiveStatus) {
			*s = client.ReceiveStatus{Timeline: 1, Received: 0x3000000, Flushed: 0x3000000, ServerEnd: 0x3000100}
		})
		m.Streaming()
		time.Sleep(time.Second)
		m.Connecting() // which says nothing of the state
		s := read(Streaming)
		if s.SystemID != "7000000000000000001" || s.ApplicationName != "archiver" || s.Uncompressed != 2 ||
			s.Received != "0/3000000" || s.ServerEnd != "0/3000100" || s.LagBytes == nil || *s.LagBytes != 0x100 || s.LagSeconds != 1 || s.Reconnects != 0 {
			t.Errorf("behind: %+v", s)
		}

		log.set(func(s *client.ReceiveStatus) {
			s.Received, s.Flushed, s.Bytes, s.Segments = 0x3000100, 0x3000080, 256, 3
			s.CaughtUp, s.LastHeard = time.Now(), time.Now()
		})
		time.Sleep(DefaultInterval) // nothing happens: it is written all the same
		s = read(Streaming)
		if *s.LagBytes != 0x80 || s.LagSeconds != 0 || s.Bytes != 256 || s.Segments != 3 || s.Flushed != "0/3000080" ||
			s.LastMessage == nil || time.Since(s.Written) > DefaultInterval || !s.Started.Equal(begun) {
			t.Errorf("caught up: %+v", s)
		}

		m.Disconnected(usererr.Hinted("Look at its log.", "server closed the connection"))
		time.Sleep(time.Minute)
		s = read(Disconnected)
		if s.Errors != 1 || s.LastError == nil || s.LastError.Message != "server closed the connection" || s.LastError.Hint != "Look at its log." ||
			s.LagSeconds != s.Written.Sub(*s.LastMessage).Seconds() || s.LagSeconds < 60 || time.Since(s.Since) != time.Minute {
			t.Errorf("disconnected: %+v", s)
		}

		m.Streaming()
		m.Warned()
		if s := read(Streaming); s.Reconnects != 1 || s.Warnings != 1 || s.LastError == nil {
			t.Errorf("again: %+v", s)
		}

		m.Stopping()
		m.Streaming() // too late
		read(Stopping)
		m.End(fmt.Errorf("slot is gone: %w", client.ErrGap), Ending{Reason: WithGap, ExitStatus: 3})
		s = read(Ended)
		if s.Ended == nil || s.Ended.Reason != WithGap || s.Ended.ExitStatus != 3 || !slices.Equal(s.Gaps, []string{"what follows 0/3000100"}) || s.Errors != 2 {
			t.Errorf("ended: %+v", s)
		}
		if names, _ := filepath.Glob(name + "*"); len(names) != 1 {
			t.Errorf("left behind: %q", names)
		}
		if info, err := os.Stat(name); err != nil || info.Mode() != statusFileMode {
			t.Errorf("mode %v (%v), want %v", info.Mode(), err, statusFileMode)
		}
	})
}

func TestStatusFileHasEveryField(t *testing.T) {
	content, err := json.Marshal(Status{Gaps: []string{}})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(content, &fields); err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../docs/receivewal.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range fields {
		if !strings.Contains(string(guide), "`"+name+"`") {
			t.Errorf("docs/receivewal.md says nothing of the status file's field %s", name)
		}
	}
}

func TestStatusFileThatCannotBeWritten(t *testing.T) {
	if _, err := Start(Options{Progress: new(stream).status, StatusFile: filepath.Join(t.TempDir(), "absent", "status")}); err == nil {
		t.Error("it starts with a status file that cannot be written")
	}
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "dir")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		var warnings []error
		name := filepath.Join(dir, "status")
		m := start(t, Options{Progress: new(stream).status, StatusFile: name, Warn: func(err error) { warnings = append(warnings, err) }})
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * DefaultInterval)
		synctest.Wait()
		if len(warnings) != 1 || !strings.Contains(warnings[0].Error(), "could not create status file") {
			t.Errorf("warned %q, want to be warned once", warnings)
		}
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
		m.End(nil, Ending{Reason: BySignal, Signal: "SIGTERM"})
		if s := readStatus(t, name); s.Ended == nil || s.Ended.Signal != "SIGTERM" || len(warnings) != 1 {
			t.Errorf("%+v, warned %q", s, warnings)
		}
	})
}

// notified is a socket as systemd has one.
type notified struct {
	name  string
	lines chan string // that were heard
}

// newNotified must be called outside of a bubble, in which nothing waits for a socket.
func newNotified(t *testing.T) *notified {
	t.Helper()
	n := &notified{name: filepath.Join(t.TempDir(), "notify"), lines: make(chan string, 1000)}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			size, err := conn.Read(buf)
			if err != nil {
				return
			}
			for line := range strings.SplitSeq(string(buf[:size]), "\n") {
				n.lines <- line
			}
		}
	}()
	return n
}

// heard returns the lines that were sent since it was last called.
func (n *notified) heard(t *testing.T) (lines []string) {
	t.Helper()
	const mark = "that is all"
	if err := (&Supervisor{socket: n.name}).send(mark); err != nil {
		t.Fatal(err)
	}
	for line := range n.lines {
		if line == mark {
			break
		}
		lines = append(lines, line)
	}
	return lines
}

func count(lines []string, line string) (n int) {
	for _, l := range lines {
		if l == line {
			n++
		}
	}
	return n
}

func TestSupervisorIsTold(t *testing.T) {
	n := newNotified(t)
	synctest.Test(t, func(t *testing.T) {
		var log stream
		m := start(t, Options{Progress: log.status, Supervisor: &Supervisor{socket: n.name}, Warn: func(err error) { t.Error(err) }})
		m.Connecting()
		synctest.Wait()
		m.Disconnected(errors.New("slot is active\nfor another"))
		synctest.Wait()
		if lines := n.heard(t); count(lines, "READY=1") != 0 || count(lines, "STATUS=starting") != 1 || count(lines, "STATUS=disconnected: slot is active") != 1 {
			t.Errorf("before the first stream: %q", lines)
		}
		log.set(func(s *client.ReceiveStatus) {
			*s = client.ReceiveStatus{Timeline: 2, Received: 0x3000100, Flushed: 0x3000000, ServerEnd: 0x3000100}
		})
		m.Streaming()
		m.Disconnected(errors.New("that was short"))
		m.Streaming()
		time.Sleep(time.Minute)
		lines := n.heard(t)
		if count(lines, "READY=1") != 1 || !slices.Contains(lines, "STATUS=streaming timeline 2 at 0/3000100, 256 bytes not flushed") {
			t.Errorf("during the stream: %q", lines)
		}
		m.End(nil, Ending{Reason: AtEndPosition})
		if lines := n.heard(t); count(lines, "STOPPING=1") != 1 || count(lines, "READY=1") != 0 || count(lines, "STATUS=ended: end position") != 1 || count(lines, "WATCHDOG=1") != 0 {
			t.Errorf("at the end: %q", lines)
		}
	})
}

func TestWatchdogStopsWhenTheReceiverHangs(t *testing.T) {
	const watchdog = 20 * time.Second
	n := newNotified(t)
	synctest.Test(t, func(t *testing.T) {
		var log stream
		m := start(t, Options{
			Progress: log.status, Interval: time.Hour,
			Supervisor: &Supervisor{socket: n.name, Watchdog: watchdog},
			Warn:       func(err error) { t.Error(err) },
		})
		defer m.End(nil, Ending{})
		alive := func(during string, want bool) {
			t.Helper()
			n.heard(t)
			time.Sleep(10 * watchdog)
			synctest.Wait()
			got := count(n.heard(t), "WATCHDOG=1")
			if want && got < 20 || !want && got > 1 { // one was due before it had been there for too long
				t.Errorf("%s: told %d times that it is alive", during, got)
			}
		}
		m.Streaming()
		alive("waiting for the server", true)
		log.set(func(s *client.ReceiveStatus) { s.BusySince = time.Now() })
		alive("in a flush that does not return", false)
		log.set(func(s *client.ReceiveStatus) { s.BusySince = time.Time{} })
		alive("after the flush", true)
		m.Disconnected(errors.New("gone"))
		alive("between two attempts, and never at the next", false)
		m.Streaming()
		alive("after a long attempt", true)
	})
}

func TestFindSupervisor(t *testing.T) {
	pid := fmt.Sprint(os.Getpid())
	for _, test := range []struct {
		reason      string
		environment map[string]string
		want        *Supervisor
	}{
		{"none", nil, nil},
		{"not watched", map[string]string{"NOTIFY_SOCKET": "/run/notify"}, &Supervisor{socket: "/run/notify"}},
		{"abstract", map[string]string{"NOTIFY_SOCKET": "@notify"}, &Supervisor{socket: "@notify"}},
		{"of a virtual machine", map[string]string{"NOTIFY_SOCKET": "vsock:2:1234"}, nil},
		{"watched", map[string]string{"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": pid},
			&Supervisor{socket: "/run/notify", Watchdog: 3 * time.Second}},
		{"watched, whoever it is", map[string]string{"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000"},
			&Supervisor{socket: "/run/notify", Watchdog: 3 * time.Second}},
		{"another is watched", map[string]string{"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": pid + "1"},
			&Supervisor{socket: "/run/notify"}},
		{"no number", map[string]string{"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "soon"}, &Supervisor{socket: "/run/notify"}},
		{"a number of no meaning", map[string]string{"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "-1"}, &Supervisor{socket: "/run/notify"}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			got := FindSupervisor(func(name string) (string, bool) {
				value, ok := test.environment[name]
				return value, ok
			})
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
