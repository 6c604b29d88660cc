package main

import (
	"context"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// openOutput returns the standard output as a file whose writes end with ctx.
//
// A pipe whose reader has stalled would otherwise hold up the process however
// often it is told to end. It is opened again, since what is set on the one that
// was inherited would hold for everybody who has it. Other files do not stall:
// they are returned as they are.
func openOutput(ctx context.Context) *os.File {
	info, err := os.Stdout.Stat()
	if err != nil || info.Mode()&fs.ModeNamedPipe == 0 {
		return os.Stdout
	}
	pipe, err := os.OpenFile("/dev/stdout", os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return os.Stdout
	}
	context.AfterFunc(ctx, func() { _ = pipe.SetWriteDeadline(time.Unix(1, 0)) })
	return pipe
}
