//go:build !linux

package client

import (
	"net"
	"time"
)

// newSocket is of use where the runtime is known to take more time than it needs.
func newSocket(conn net.Conn) net.Conn { return conn }

// pause is of no use where it is not known whether something is there already.
func pause(time.Duration) {}

func isReadable(net.Conn) bool { return false }
