//go:build !linux

package client

import (
	"net"
	"time"
)

// newSocket is of use where the runtime is known to take more time than it needs.
func newSocket(conn net.Conn) net.Conn { return conn }

func pause(d time.Duration) { time.Sleep(d) }
