package localfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Appender appends to a log file: what a write brings is there whole or, where
// it can be taken back, not at all. It is for one goroutine.
type Appender struct {
	file    *os.File
	path    string
	out     io.Writer // file, or a way to it
	regular bool      // can be synced, and cut
	dir     *os.File  // holds the name of a new file, which is not durable yet; else nil
	mended  bool
}

// OpenAppender opens a file to append to, or makes it. A file that ends within a
// line, as after a crash while it was written to, gets a newline; see Mended.
func OpenAppender(path string, mode fs.FileMode) (*Appender, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	created := errors.Is(err, fs.ErrNotExist)
	if created {
		file, err = os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, mode)
	}
	if err != nil {
		return nil, Errorf(err, path, "could not open log file \"%s\"", path)
	}
	a, err := NewAppender(file, path, file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if created && a.regular {
		a.dir = openHolder(path)
	}
	if err := a.mend(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// NewAppender appends to a file that is open already, through out if that is
// another way to it. path is what errors call the file.
func NewAppender(file *os.File, path string, out io.Writer) (*Appender, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, Errorf(err, path, "could not stat file \"%s\"", path)
	}
	return &Appender{file: file, path: path, out: out, regular: info.Mode().IsRegular()}, nil
}

// openHolder opens the directory that a file's name is in, or returns nil: that
// of a directory which may not be read cannot be made durable by us.
func openHolder(path string) *os.File {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil
	}
	return dir
}

// mend begins a new line if the file ends within one. What is not a regular file,
// or may not be read, is left alone.
func (a *Appender) mend() error {
	info, err := a.file.Stat()
	if err != nil || !a.regular || info.Size() == 0 {
		return nil
	}
	reader, err := os.Open(a.path)
	if err != nil {
		return nil
	}
	defer reader.Close()
	last := make([]byte, 1)
	if other, err := reader.Stat(); err != nil || !os.SameFile(info, other) {
		return nil
	}
	if _, err := reader.ReadAt(last, info.Size()-1); err != nil || last[0] == '\n' {
		return nil
	}
	a.mended = true
	_, err = a.Write([]byte("\n"))
	return err
}

// Mended says whether the file ended within a line when it was opened.
func (a *Appender) Mended() bool { return a.mended }

// Write appends p. If it returns an error and more than zero, that many bytes
// of p are in the file, and could not be taken back.
func (a *Appender) Write(p []byte) (int, error) {
	n, err := a.out.Write(p)
	if err == nil {
		return n, nil
	}
	err = Errorf(err, a.path, "could not write %d bytes to log file \"%s\"", len(p)-n, a.path)
	if n == 0 {
		return 0, err
	}
	if kept := a.takeBack(int64(n)); kept != nil {
		return n, errors.Join(err, Errorf(kept, a.path, "could not take back %d bytes of \"%s\"", n, a.path))
	}
	return 0, err
}

// takeBack removes the last n bytes that were written.
func (a *Appender) takeBack(n int64) error {
	if !a.regular {
		return errors.New("not a regular file")
	}
	end, err := a.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	info, err := a.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() != end {
		return fmt.Errorf("its size is %d and should be %d: somebody else writes to it", info.Size(), end)
	}
	if err := a.file.Truncate(end - n); err != nil {
		return err
	}
	_, err = a.file.Seek(end-n, io.SeekStart) // for a file that was not opened to append
	return err
}

// Sync makes what was written durable, and the name of a file that was made for
// it. What is not a regular file cannot be, and is left alone.
func (a *Appender) Sync() error {
	if !a.regular {
		return nil
	}
	if err := syncOpen(a.file, a.path); err != nil {
		return err
	}
	if a.dir == nil {
		return nil
	}
	dir := a.dir
	a.dir = nil
	return errors.Join(syncOpen(dir, dir.Name()), dir.Close())
}

// Close closes the file, which is written but not durable.
func (a *Appender) Close() error {
	if a.dir != nil {
		_ = a.dir.Close() // was only read
		a.dir = nil
	}
	if err := a.file.Close(); err != nil {
		return Errorf(err, a.path, `could not close file "%s"`, a.path)
	}
	return nil
}
