package main

import (
	"context"
	"io/fs"
	"os"

	"basin/internal/localfs"
)

// logicalOutput is where pg_recvlogical writes: a file, or the standard output.
type logicalOutput struct {
	ctx    context.Context // ends writes to a standard output that has stalled
	path   string          // a dash is the standard output
	mode   fs.FileMode     // of a file that is made
	warn   func(format string, args ...any)
	file   *localfs.Appender // nil if it is not open
	broken error             // why nothing more can be written; nil if it can
}

// Open opens the output unless it is open.
func (o *logicalOutput) Open() (err error) {
	switch {
	case o.file != nil:
		return nil
	case o.path == "-":
		out, err := openOutput(o.ctx)
		if err != nil {
			return err
		}
		o.file, err = localfs.NewAppender(os.Stdout, o.path, out)
		return err
	}
	if o.file, err = localfs.OpenAppender(o.path, o.mode); err != nil {
		return err
	}
	if o.file.Mended() {
		o.warn("file \"%s\" ended within a line, which may be a part of a record; what follows begins a new line", o.path)
	}
	return nil
}

// Write writes whole records. If a part of them was written, and cannot be taken
// back, the output is broken: to write them again would make more of the part.
func (o *logicalOutput) Write(records []byte) error {
	n, err := o.file.Write(records)
	if err != nil && (n > 0 || o.ctx.Err() != nil) {
		o.broken = err
	}
	return err
}

// Sync makes what was written durable, if it is in a regular file. If that fails
// the output is broken: the system may have dropped what it could not write.
func (o *logicalOutput) Sync() error {
	err := o.file.Sync()
	if err != nil {
		o.broken = err
	}
	return err
}

// Close closes a file that is open. The standard output stays open.
func (o *logicalOutput) Close() error {
	if o.file == nil || o.path == "-" {
		return nil
	}
	err := o.file.Close()
	o.file = nil
	return err
}
