package localfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// writeBackStride is how many bytes of a file are written before the disk is
// told to begin on them: enough for one long transfer, little enough that the
// sync at the end finds most of it done.
const writeBackStride = 8 << 20

// Writer writes a file from its beginning on. It is an io.Writer and nothing
// more: the pieces it is given become one write each, never a splice or a copy
// between files, which the readers of backups have no use for.
//
// Its errors are in PostgreSQL's words.
type Writer struct {
	file      *os.File
	path      string
	writeBack bool
	written   int64
	started   int64 // bytes the disk was told to begin on
}

// NewWriter returns a writer to f, which it owns. path is what errors call the
// file.
func NewWriter(f *os.File, path string) *Writer {
	return &Writer{file: f, path: path}
}

// NewWriter returns a writer to f as the function of that name does. If s is to
// sync the file by itself, the disk is put to work as bytes come.
func (s Syncer) NewWriter(f *os.File, path string) *Writer {
	return &Writer{file: f, path: path, writeBack: !s.Off && !s.byFileSystem()}
}

// Write writes p to the file.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.written += int64(n)
	if err != nil {
		return n, Errorf(err, w.path, `could not write to file "%s"`, w.path)
	}
	if w.writeBack && w.written-w.started >= writeBackStride {
		writeBack(w.file, w.started, w.written-w.started)
		w.started = w.written
	}
	return n, nil
}

// Written returns how many bytes were written.
func (w *Writer) Written() int64 { return w.written }

// Sync makes what was written durable.
func (w *Writer) Sync() error { return syncOpen(w.file, w.path) }

// Close closes the file, which is written but not durable. Closed once already,
// it does nothing.
func (w *Writer) Close() error {
	if w.file == nil {
		return nil
	}
	if w.writeBack && w.written > w.started {
		writeBack(w.file, w.started, 0)
	}
	err := w.file.Close()
	w.file = nil
	if err != nil {
		return Errorf(err, w.path, `could not close file "%s"`, w.path)
	}
	return nil
}

// ErrNotRegular is what OpenRegular does not open.
var ErrNotRegular = errors.New("it is not a regular file")

// OpenRegular opens a file to read it. Anything else is ErrNotRegular: to open a named pipe
// would wait for somebody who writes it. Other errors are those of the system.
func OpenRegular(path string) (*os.File, fs.FileInfo, error) { return openRegular(path, os.Stat) }

// OpenRegularHere is OpenRegular that follows no link at the end of path.
func OpenRegularHere(path string) (*os.File, fs.FileInfo, error) { return openRegular(path, os.Lstat) }

func openRegular(path string, stat func(string) (fs.FileInfo, error)) (*os.File, fs.FileInfo, error) {
	info, err := stat(path)
	switch {
	case err != nil:
		return nil, nil, err
	case !info.Mode().IsRegular():
		return nil, nil, ErrNotRegular
	}
	f, err := openToRead(path)
	return f, info, err
}

// openToRead is os.Open without what that does to find out whether a file can be waited
// for, which is six more calls of the system for one that cannot.
func openToRead(path string) (*os.File, error) {
	for {
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		default:
			return os.NewFile(uintptr(fd), path), nil
		}
	}
}

// TempFile makes a file in a directory that has no name any more, and is gone when it is
// closed.
func TempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".basin-*")
	if err != nil {
		return nil, Errorf(err, dir, "could not create a temporary file in \"%s\"", dir)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(Errorf(err, dir, "could not remove file \"%s\"", f.Name()), f.Close())
	}
	return f, nil
}

// Reserve makes f size bytes long, with disk space behind them: a disk that is too
// full says so now. What f holds stays, what is added reads as zeros. path is what
// errors call the file.
//
// Source: dir_open_for_write in src/bin/pg_basebackup/walmethods.c, PostgreSQL 18.
func Reserve(f *os.File, path string, size int64) error {
	done, err := reserve(f, size)
	if err == nil && !done {
		err = writeZeros(f, size)
	}
	if err != nil {
		return Errorf(err, path, `could not write to file "%s"`, path)
	}
	return nil
}

// writeZeros adds zeros to f until it is size bytes long.
func writeZeros(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for off := info.Size(); off < size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
			return err
		}
	}
	return nil
}

// StartWriteBack asks the system to begin writing n bytes of f from off on to
// disk, and does not wait; n of zero is to the end. It is advice, of which no error
// comes: whoever wants to know syncs.
func StartWriteBack(f *os.File, off, n int64) { writeBack(f, off, n) }

// copyBuffer is the size in bytes of what is read at once from a reader that
// does not write by itself.
const copyBuffer = 256 << 10

// Copy writes to w all that r holds, and returns an error if that is not size
// bytes; less than zero is any number. name is what errors call what is copied.
// A reader that is an io.WriterTo hands over its pieces as they lie in memory.
// Errors of r and w come back as they are; once ctx is done, its error.
func Copy(ctx context.Context, w io.Writer, r io.Reader, name string, size int64) error {
	pieces := &pieceWriter{ctx: ctx, w: w}
	var n int64
	var err error
	if from, ok := r.(io.WriterTo); ok {
		n, err = from.WriteTo(pieces)
	} else {
		room := int64(copyBuffer)
		if size >= 0 {
			room = min(room, size+1) // one more, to see a reader that goes on
		}
		n, err = io.CopyBuffer(pieces, r, make([]byte, room))
	}
	if err != nil {
		return err
	}
	if size >= 0 && n != size {
		return fmt.Errorf("\"%s\": %d bytes came where %d were announced", name, n, size)
	}
	return nil
}

// pieceWriter hides every method of w but Write, and ends when ctx does.
type pieceWriter struct {
	ctx context.Context
	w   io.Writer
}

func (p *pieceWriter) Write(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}
