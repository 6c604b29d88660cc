//go:build !linux

package connect

import (
	"errors"
	"net"
	"syscall"
)

// setTCPUserTimeout does nothing: like libpq, it is content where the system
// has no such option.
func setTCPUserTimeout(syscall.RawConn, int) error { return nil }

// peerUID is an error, since requirepeer must not pass unchecked.
func peerUID(*net.UnixConn) (int, error) { return 0, errors.ErrUnsupported }
