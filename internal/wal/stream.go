package wal

// A Keeper is where a stream of the log is kept, segment by segment: a pg_wal
// directory, a tar file, an archive.
//
// Its methods are called from one goroutine. Segments are begun in the order of
// the stream and one at a time.
type Keeper interface {
	// Begin starts the named segment, which will be size bytes long and is
	// written from its first byte on.
	Begin(name string, size int64) (SegmentWriter, error)
	// History keeps a timeline's history file. The same file may come again.
	History(name string, content []byte) error
	// HasHistory says whether the named history file need not be fetched.
	HasHistory(name string) (bool, error)
}

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
