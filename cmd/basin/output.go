package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// openOutput returns the standard output such that writes to it end with ctx.
//
// A pipe or socket whose reader has stalled would otherwise hold up the process
// however often it is told to end. It cannot be made one that does not block,
// as that would hold for everybody who has it, nor always be opened again: after
// sudo it belongs to another user. Other files do not stall: they are returned
// as they are.
//
// A standard output that was closed is an error: Go puts the null device in its
// place, where a backup would be said to succeed and be nowhere.
func openOutput(ctx context.Context) (io.Writer, error) {
	info, err := os.Stdout.Stat()
	if err != nil || wasClosed(os.Stdout, info) {
		return nil, errors.New("could not write to file \"-\": Bad file descriptor")
	}
	if info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 {
		return os.Stdout, nil
	}
	o := &stallingOutput{ctx: ctx, pieces: make(chan []byte), results: make(chan written, 1)}
	go o.pass(os.Stdout)
	return o, nil
}

// wasClosed says whether f is the null device that Go opened where there was
// nothing. Unlike one that a shell opens to write to, it can be read as well.
func wasClosed(f *os.File, info fs.FileInfo) bool {
	null, err := os.Stat(os.DevNull)
	if err != nil || !os.SameFile(null, info) {
		return false
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_ACCMODE == unix.O_RDWR
}

// stallingOutput writes in a goroutine of its own, which is left behind in its
// write when ctx ends.
type stallingOutput struct {
	ctx     context.Context
	pieces  chan []byte
	results chan written
}

// written is what became of one piece.
type written struct {
	n   int
	err error
}

func (o *stallingOutput) pass(w io.Writer) {
	for {
		select {
		case p := <-o.pieces:
			n, err := w.Write(p)
			o.results <- written{n, err}
		case <-o.ctx.Done():
			return
		}
	}
}

// Write writes p, or returns the cause of ctx's end if that comes first.
func (o *stallingOutput) Write(p []byte) (int, error) {
	select {
	case o.pieces <- p:
	case <-o.ctx.Done():
		return 0, context.Cause(o.ctx)
	}
	select {
	case r := <-o.results:
		return r.n, r.err
	case <-o.ctx.Done():
		return 0, context.Cause(o.ctx)
	}
}
