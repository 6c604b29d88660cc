package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"slices"
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
// Those of own are not caught.
func signalContext(parent context.Context, own []os.Signal) (ctx context.Context, stop func()) {
	var signals []os.Signal
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(s) && !slices.Contains(own, s) {
			signals = append(signals, s)
		}
	}
	return untilSignal(parent, signals)
}

func untilSignal(parent context.Context, signals []os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 1)
	for _, s := range signals { // none of them is not all of them
		signal.Notify(caught, s)
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

// receiverContext returns a context that ends with ctx, or by SIGINT or SIGTERM
// even if that was ignored when the process started: shells ignore SIGINT for what
// a script runs in the background, and scripts end receivers by it.
func receiverContext(ctx context.Context) (receiving context.Context, stop func()) {
	return untilSignal(ctx, []os.Signal{syscall.SIGINT, syscall.SIGTERM})
}

// endOfReceiving returns nil if a receiver did what it was asked to by ending: at
// SIGINT and SIGTERM. After another signal it returns an error, by which the
// process ends by that signal.
func endOfReceiving(ctx context.Context) error {
	if i := (interrupted{}); errors.As(context.Cause(ctx), &i) && i.signal != syscall.SIGINT && i.signal != syscall.SIGTERM {
		return i
	}
	return nil
}

// stopGrace is how long after a signal a server may take to end its stream, and the
// reader of our output to take the rest.
const stopGrace = 10 * time.Second

// graceContext returns a context that ends some time after ctx, with the same
// cause: for what is to be brought to its end, but not to be waited for for ever.
func graceContext(ctx context.Context, grace time.Duration) (after context.Context, stop context.CancelFunc) {
	after, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	unwatch := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(grace, func() { cancel(context.Cause(ctx)) })
		context.AfterFunc(after, func() { timer.Stop() })
	})
	return after, func() {
		unwatch()
		cancel(nil)
	}
}

// hangups returns a channel that yields after SIGHUP came, until stop is called.
// It does so even if that was ignored when the process started, as nohup does.
func hangups() (came <-chan struct{}, stop func()) {
	caught, events := make(chan os.Signal, 1), make(chan struct{}, 1)
	signal.Notify(caught, syscall.SIGHUP)
	go func() {
		for range caught {
			select {
			case events <- struct{}{}:
			default: // it is known already
			}
		}
	}()
	return events, func() {
		signal.Stop(caught)
		close(caught)
	}
}

// signalStatus and the number of a signal are what a shell shows as the status of a
// process that the signal ended.
const signalStatus = 128

// dieOf ends the process by the signal, so that whoever waits for it, such as a
// shell running a loop, learns that it was interrupted and not that it failed.
func dieOf(s syscall.Signal) {
	signal.Reset(s)
	if err := syscall.Kill(os.Getpid(), s); err == nil {
		time.Sleep(time.Second) // another thread may be the one to get it
	}
	os.Exit(signalStatus + int(s))
}
