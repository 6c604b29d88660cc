package wal

import (
	"fmt"
	"io/fs"
)

// A Keeper is where a stream of the log is kept, segment by segment: a pg_wal
// directory, a tar file, an archive.
//
// Its methods are called from one goroutine. Segments are begun in the order of
// the stream and one at a time.
type Keeper interface {
	// Begin starts the named segment, which will be size bytes long and is
	// written from its first byte on.
	Begin(name string, size int64) (SegmentWriter, error)
	// History keeps a timeline's history file. The same file may come again; one
	// of that name with another content is an error, and nothing is overwritten.
	History(name string, content []byte) error
}

// OtherHistory returns the error for a history file that is there, as path, with
// another content than the one that is to be kept. It is an fs.ErrExist.
func OtherHistory(path string) error { return &otherHistory{path} }

type otherHistory struct{ path string }

func (e *otherHistory) Error() string {
	return fmt.Sprintf("timeline history file \"%s\" is there with another content than the server's: two servers were promoted to the same timeline", e.path)
}

func (e *otherHistory) Is(target error) bool { return target == fs.ErrExist }

// A SegmentWriter takes the bytes of one segment in order.
type SegmentWriter interface {
	Write(p []byte) (int, error)
	// Flush makes what was written so far durable: only that may be
	// acknowledged to a server as flushed.
	Flush() error
	// Finish says that the segment is complete, and makes it so under its final name.
	Finish() error
	// Abandon closes a segment that the stream left before its end; what was
	// written stays, in the form the keeper documents.
	Abandon() error
}
