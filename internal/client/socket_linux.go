package client

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a connection that is waited for by the thread that reads it, and by
// nobody else. One of package net is watched by the runtime, which wakes another
// thread for all that comes, whether or not somebody waits: that costs a stream of
// small messages more than all that is done with them.
//
// One goroutine uses it at a time; deadlines, and its end, may come from any.
type socket struct {
	net.Conn // is closed, and knows the addresses
	fd       int
	wake     int // an eventfd, which is waited for beside the socket

	using  sync.RWMutex // is locked to close fd and wake
	closed atomic.Bool

	readUntil, writeUntil atomic.Int64 // in nanoseconds since clock; zero is for ever

	yielded time.Time
}

// clock is when deadlines are counted from, so that they do not move with the system's time.
var clock = time.Now()

// newSocket takes a connection over. One that is more than a socket, as with TLS, or
// that cannot be taken over stays as it is.
func newSocket(conn net.Conn) net.Conn {
	holder, ok := conn.(interface{ File() (*os.File, error) })
	if !ok {
		return conn
	}
	file, err := holder.File()
	if err != nil {
		return conn
	}
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return conn
	}
	fd, failed := -1, error(nil)
	err = raw.Control(func(of uintptr) { fd, failed = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil || failed != nil {
		return conn
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fd) // conn has it still
		return conn
	}
	_ = conn.Close() // fd is of the same
	return &socket{Conn: conn, fd: fd, wake: wake}
}

func (s *socket) Read(p []byte) (int, error) {
	s.using.RLock()
	defer s.using.RUnlock()
	s.yield()
	for {
		if err := s.await(unix.POLLIN, &s.readUntil); err != nil {
			return 0, err
		}
		n, err := unix.Read(s.fd, p)
		switch {
		case err == nil && n == 0 && len(p) > 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case !isPassing(err):
			return 0, s.failed("read", err)
		}
	}
}

func (s *socket) Write(p []byte) (written int, err error) {
	s.using.RLock()
	defer s.using.RUnlock()
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	for written < len(p) {
		n, err := unix.Write(s.fd, p[written:])
		switch {
		case err == nil:
			written += n
		case !isPassing(err):
			return written, s.failed("write", err)
		default:
			if err := s.await(unix.POLLOUT, &s.writeUntil); err != nil {
				return written, err
			}
		}
	}
	return written, nil
}

// isPassing says whether what failed is to be tried again.
func isPassing(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }

// await waits until the socket can be read or written, but no longer than until.
func (s *socket) await(events int16, until *atomic.Int64) error {
	both := [2]unix.PollFd{{Fd: int32(s.fd), Events: events}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	for {
		if s.closed.Load() {
			return net.ErrClosed
		}
		timeout := -1 // milliseconds
		if at := until.Load(); at != 0 {
			left := time.Duration(at) - time.Since(clock)
			if left <= 0 {
				return os.ErrDeadlineExceeded
			}
			timeout = int(min(left/time.Millisecond, 1<<30)) + 1
		}
		_, err := unix.Poll(both[:], timeout)
		switch {
		case isPassing(err):
		case err != nil:
			return s.failed("poll", err)
		case both[1].Revents != 0:
			var count [8]byte
			_, _ = unix.Read(s.wake, count[:]) // what it is for is looked at above
		case both[0].Revents != 0:
			return nil
		}
	}
}

// yieldPeriod is shorter than the 10 ms after which the runtime takes a processor for
// used too long by one.
const yieldPeriod = 5 * time.Millisecond

// yield gives the processor to another goroutine now and then. One that never does,
// because it waits in system calls alone, would have it taken away in each of these,
// and the thread that does this busy.
//
// Source: retake and sysmon in runtime/proc.go, Go 1.26.
func (s *socket) yield() {
	if now := time.Now(); now.Sub(s.yielded) > yieldPeriod {
		s.yielded = now
		runtime.Gosched()
	}
}

func (s *socket) failed(call string, err error) error {
	return &net.OpError{
		Op: call, Net: s.LocalAddr().Network(), Source: s.LocalAddr(), Addr: s.RemoteAddr(),
		Err: os.NewSyscallError(call, err),
	}
}

func (s *socket) SetReadDeadline(t time.Time) error { return s.setDeadline(&s.readUntil, t) }

func (s *socket) SetWriteDeadline(t time.Time) error { return s.setDeadline(&s.writeUntil, t) }

func (s *socket) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

// setDeadline interrupts who waits if the deadline is over. Another is for those who
// begin to wait.
func (s *socket) setDeadline(until *atomic.Int64, t time.Time) error {
	if t.IsZero() {
		until.Store(0)
		return nil
	}
	at := t.Sub(clock)
	if at == 0 {
		at = -1
	}
	until.Store(int64(at))
	if !t.After(time.Now()) {
		s.awaken()
	}
	return nil
}

// awaken has who waits look again what there is to be waited for.
func (s *socket) awaken() {
	s.using.RLock()
	defer s.using.RUnlock()
	if !s.closed.Load() {
		s.signal()
	}
}

func (s *socket) signal() {
	_, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // it is never full
}

// Close ends what waits, and the connection.
func (s *socket) Close() error {
	if s.closed.Swap(true) {
		return net.ErrClosed
	}
	s.signal()
	s.using.Lock()
	defer s.using.Unlock()
	return errors.Join(unix.Close(s.fd), unix.Close(s.wake))
}

// pause has the thread sleep, which takes less than to have the goroutine do so.
func pause(d time.Duration) {
	for left := unix.NsecToTimespec(int64(d)); errors.Is(unix.Nanosleep(&left, &left), unix.EINTR); {
	}
}

// isReadable says whether a connection has something to be read, or its end. Below TLS
// that may be less than can be made anything of.
func isReadable(conn net.Conn) (is bool) {
	look := func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		is = n > 0 && err == nil
	}
	if s, ok := conn.(*socket); ok {
		s.using.RLock()
		defer s.using.RUnlock()
		if !s.closed.Load() {
			look(uintptr(s.fd))
		}
		return is
	}
	if over, ok := conn.(layered); ok {
		conn = over.NetConn()
	}
	if below, ok := conn.(syscall.Conn); ok {
		if raw, err := below.SyscallConn(); err == nil {
			_ = raw.Control(look) // fails if the connection is closed, as the next read will
		}
	}
	return is
}
