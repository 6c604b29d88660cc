//go:build !linux

package main

import "golang.org/x/sys/unix"

// What tcgetattr and tcsetattr with TCSAFLUSH do.
const (
	getTermios      = unix.TIOCGETA
	setTermiosFlush = unix.TIOCSETAF
)
