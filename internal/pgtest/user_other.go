//go:build !linux

package pgtest

import "syscall"

// signalAtEnd does nothing: elsewhere than on Linux a program is not told that its parent ended, and stays if the tests
// were killed.
func signalAtEnd(*syscall.SysProcAttr, syscall.Signal) {}
