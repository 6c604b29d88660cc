package monitor

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Supervisor is the systemd, or another program that keeps its protocol, that
// started this process and wants to be told how it is.
//
// Source: sd_notify(3) and sd_watchdog_enabled(3). The protocol is a datagram of
// lines; a library for it would be as long as this file.
type Supervisor struct {
	// Watchdog is how long the process is waited for before it is held to be stuck,
	// and ended; zero if it is not watched.
	Watchdog time.Duration

	socket string // path, or @ and a name in the abstract space
	ready  bool   // it was told so
}

// FindSupervisor returns the supervisor that the environment names, or nil. lookup
// is os.LookupEnv or does the same.
func FindSupervisor(lookup func(string) (string, bool)) *Supervisor {
	socket, _ := lookup("NOTIFY_SOCKET")
	if !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@") {
		return nil // none, or one of a kind that is for virtual machines as a whole
	}
	s := &Supervisor{socket: socket}
	if pid, ok := lookup("WATCHDOG_PID"); ok && pid != strconv.Itoa(os.Getpid()) {
		return s
	}
	text, _ := lookup("WATCHDOG_USEC")
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 && n < 1<<53 {
		s.Watchdog = time.Duration(n) * time.Microsecond
	}
	return s
}

// tell is that of an outlet.
//
// A receiver that has been at the same step for half of Watchdog does not say that
// it is alive, so that it is ended when it has been there for no less than Watchdog
// and no more than half as long again. This includes a flush that does not come back.
// Nothing is lost with the process, for what was not flushed the server still holds;
// and a file on a mount that went stale is not had again by waiting.
func (s *Supervisor) tell(status Status) error {
	var lines []string
	if status.streams > 0 && !s.ready {
		lines = append(lines, "READY=1")
	}
	if status.State == Stopping || status.State == Ended {
		lines = append(lines, "STOPPING=1")
	}
	lines = append(lines, "STATUS="+status.summary())
	if s.Watchdog > 0 && status.step < s.Watchdog/2 {
		lines = append(lines, "WATCHDOG=1")
	}
	if err := s.send(strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("could not notify the service manager: %w", err)
	}
	s.ready = status.streams > 0
	return nil
}

func (s *Supervisor) send(text string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(text))
	return err
}
