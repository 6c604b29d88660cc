package main

import "golang.org/x/sys/unix"

// What tcgetattr and tcsetattr with TCSAFLUSH do.
const (
	getTermios      = unix.TCGETS
	setTermiosFlush = unix.TCSETSF
)
