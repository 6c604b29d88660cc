package connect

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"basin/internal/conninfo"
	"basin/internal/usererr"
)

// Unless the user says otherwise a server that vanished is noticed within two
// minutes, busy or idle. libpq leaves this to the system, for which it is two
// hours of silence or a quarter of an hour of unanswered data: time in which
// no write-ahead log arrives and nobody knows.
const (
	keepAliveIdle     = 60 * time.Second
	keepAliveInterval = 10 * time.Second
	keepAliveCount    = 6
	tcpUserTimeout    = 120 * time.Second
)

// newDialer returns a dialer that sets the socket options that the parameters
// ask for. Zero or less leaves an option as the system has it, as in libpq.
//
// Source: setKeepalivesIdle and the like in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func newDialer(p conninfo.Params) (net.Dialer, error) {
	// The first error is as good as any; these values have been checked.
	var failed error
	number := func(keyword string, otherwise int) int {
		n, ok, err := p.Int(keyword)
		if err != nil && failed == nil {
			failed = err
		}
		switch {
		case !ok:
			return otherwise
		case n <= 0:
			return -1 // net.KeepAliveConfig's word for the system's value
		}
		return n
	}
	enabled := number("keepalives", 1) > 0
	d := net.Dialer{KeepAlive: -1}
	if enabled {
		d.KeepAliveConfig = net.KeepAliveConfig{
			Enable:   true,
			Idle:     time.Duration(number("keepalives_idle", int(keepAliveIdle/time.Second))) * time.Second,
			Interval: time.Duration(number("keepalives_interval", int(keepAliveInterval/time.Second))) * time.Second,
			Count:    number("keepalives_count", keepAliveCount),
		}
	}
	otherwise := -1 // who wants no keepalives wants to wait for a server
	if enabled {
		otherwise = int(tcpUserTimeout / time.Millisecond)
	}
	if ms := number("tcp_user_timeout", otherwise); ms > 0 {
		d.Control = func(network, _ string, c syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			return setTCPUserTimeout(c, ms)
		}
	}
	return d, failed
}

// dialError words an error of dialing as libpq does.
//
// Source: connectFailureMessage in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func dialError(t target, err error) error {
	question := "Is the server running on that host and accepting TCP/IP connections?"
	if t.host.IsSocket() {
		question = "Is the server running locally and accepting connections on that socket?"
	}
	return fmt.Errorf("%w\n\t%s", systemError(err), question)
}

// systemError reduces an error of the net package to what the system said, in
// the system's own spelling: what was dialed is told already.
func systemError(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return errnoError{number}
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// errnoError is an error of the system with a capital letter, as strerror has
// it and as everybody searches for it.
type errnoError struct{ syscall.Errno }

func (e errnoError) Error() string {
	s := e.Errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

func (e errnoError) Unwrap() error { return e.Errno }

// checkPeer makes sure that the process at the other end of a Unix-domain
// socket belongs to the named user. Over TCP, and without a name, it is
// content.
func checkPeer(conn net.Conn, name string) error {
	socket, ok := conn.(*net.UnixConn)
	if !ok || name == "" {
		return nil
	}
	uid, err := peerUID(socket)
	if err != nil {
		return fmt.Errorf("could not get peer credentials: %w", err)
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return fmt.Errorf("local user with ID %d does not exist", uid)
	}
	if u.Username != name {
		return &usererr.Error{
			Err:  fmt.Errorf("requirepeer specifies \"%s\", but actual peer user name is \"%s\"", name, u.Username),
			Hint: "name the operating system user that the server runs as, or give no requirepeer",
		}
	}
	return nil
}
