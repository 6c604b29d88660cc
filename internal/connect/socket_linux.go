package connect

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// setTCPUserTimeout sets for how many milliseconds sent data may stay
// unacknowledged.
func setTCPUserTimeout(c syscall.RawConn, ms int) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
	})
	return errors.Join(err, failed)
}

// peerUID returns the user that the process at the other end belongs to.
func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
