package main

import (
	"context"
	"io"
	"io/fs"
	"os"
)

// openOutput returns the standard output such that writes to it end with ctx.
//
// A pipe or socket whose reader has stalled would otherwise hold up the process
// however often it is told to end. It cannot be made one that does not block,
// as that would hold for everybody who has it, nor always be opened again: after
// sudo it belongs to another user. Other files do not stall: they are returned
// as they are.
func openOutput(ctx context.Context) io.Writer {
	info, err := os.Stdout.Stat()
	if err != nil || info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0 {
		return os.Stdout
	}
	o := &stallingOutput{ctx: ctx, pieces: make(chan []byte), results: make(chan written, 1)}
	go o.pass(os.Stdout)
	return o
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
