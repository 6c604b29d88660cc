package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// interrupted is the cause of a context that a signal ended.
type interrupted struct {
	signal syscall.Signal
}

func (i interrupted) Error() string { return "interrupted by " + unix.SignalName(i.signal) }

// signalFirst returns the signal that ended ctx, if one did, and else err: what
// broke because of a signal says nothing more.
func signalFirst(ctx context.Context, err error) error {
	if i := (interrupted{}); err != nil && errors.As(context.Cause(ctx), &i) {
		return i
	}
	return err
}

// signalContext returns a context that the first signal to end the process
// cancels, with interrupted as the cause. The second one has its usual effect,
// for those who do not want to wait for the cleaning up.
//
// Signals that were ignored when the process started, as nohup does, stay ignored.
func signalContext(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(s) {
			signal.Notify(caught, s)
		}
	}
	go func() {
		select {
		case s := <-caught:
			cancel(interrupted{s.(syscall.Signal)})
		case <-ctx.Done():
		}
		signal.Stop(caught)
	}()
	return ctx, func() { cancel(nil) }
}

// dieOf ends the process by the signal, so that whoever waits for it, such as a
// shell running a loop, learns that it was interrupted and not that it failed.
func dieOf(s syscall.Signal) {
	signal.Reset(s)
	if err := syscall.Kill(os.Getpid(), s); err == nil {
		time.Sleep(time.Second) // another thread may be the one to get it
	}
	os.Exit(128 + int(s))
}
