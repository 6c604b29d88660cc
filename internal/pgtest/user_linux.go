package pgtest

import "syscall"

// signalAtEnd has a program get a signal when its parent ends.
func signalAtEnd(a *syscall.SysProcAttr, s syscall.Signal) { a.Pdeathsig = s }
