package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"basin/internal/localfs"
)

// logDrafts are the temporary files beside the place of a file of the log, one for each repository that it comes from: several may be
// asked at once, and a slow one may still be writing when another has had the place.
type logDrafts struct {
	path string

	mu      sync.Mutex
	made    int
	there   map[string]bool // names of those that are there
	isEnded bool            // none is made any more
	failed  error           // why nothing can be written here, which no repository is to blame for
}

// logDraft is a temporary file that is whole.
type logDraft struct {
	name string
	size int64 // bytes
}

// write makes a file of what copyTo writes, or leaves none.
func (d *logDrafts) write(copyTo func(w io.Writer) error) (logDraft, error) {
	f, err := d.create()
	if err != nil {
		return logDraft{}, err
	}
	w := &draftWriter{drafts: d, file: f}
	err = copyTo(w)
	if closed := f.Close(); err == nil && closed != nil {
		err = d.fail(closed, f.Name())
	}
	if err != nil {
		return logDraft{}, errors.Join(err, d.remove(f.Name()))
	}
	return logDraft{f.Name(), w.written}, nil
}

// draftWriter writes to a temporary file.
type draftWriter struct {
	drafts  *logDrafts
	file    *os.File
	written int64 // bytes
}

func (w *draftWriter) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.written += int64(n)
	if err != nil {
		err = w.drafts.fail(err, w.file.Name())
	}
	return n, err
}

// create makes a temporary file.
func (d *logDrafts) create() (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isEnded {
		return nil, context.Canceled
	}
	name := localfs.Temporary(d.path)
	if d.made > 0 {
		name = localfs.Temporary(fmt.Sprintf("%s.%d", d.path, d.made))
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, localfs.FileModeOwner)
	if err != nil {
		d.failed = couldNotWrite(err, name)
		return nil, d.failed
	}
	d.made++
	if d.there == nil {
		d.there = make(map[string]bool)
	}
	d.there[name] = true
	return f, nil
}

// couldNotWrite returns an error that is no fs.ErrNotExist: the file of the log is there.
func couldNotWrite(err error, name string) error {
	return hideAbsence(localfs.Errorf(err, name, "could not write file \"%s\"", name))
}

// fail notes that a file cannot be written.
func (d *logDrafts) fail(err error, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = couldNotWrite(err, name)
	return d.failed
}

// writable returns why nothing can be written, if that is known.
func (d *logDrafts) writable() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// remove removes a file, unless it was removed already: another one may have its name by now.
func (d *logDrafts) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.there[name] {
		return nil
	}
	delete(d.there, name)
	return removeIfThere(name)
}

// place gives the place to one of the files, and leaves no other. If err is not nil there is none that could have it.
func (d *logDrafts) place(chosen logDraft, err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.isEnded = true
	if err != nil && d.failed != nil {
		err = d.failed
	}
	if err == nil {
		if err = os.Rename(chosen.name, d.path); err == nil {
			delete(d.there, chosen.name)
		} else {
			err = hideAbsence(localfs.Errorf(err, d.path, "could not rename file \"%s\" to \"%s\"", chosen.name, d.path))
		}
	}
	for name := range d.there {
		if left := removeIfThere(name); left != nil {
			err = errors.Join(err, left)
		}
	}
	d.there = nil
	return err
}
