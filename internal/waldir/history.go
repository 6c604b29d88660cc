package waldir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"basin/internal/localfs"
	"basin/internal/seal"
)

// History makes a timeline's history file durable, compressed as segments are. The
// same content may be there, in whatever form; other content is an error.
func (d *Directory) History(name string, content []byte) error {
	if d.closed {
		return fs.ErrClosed
	}
	if _, ok := parseHistory(name); !ok {
		return fmt.Errorf("%q is not the name of a timeline history file", name)
	}
	for method := seal.None; method <= seal.Zstd; method++ {
		found, err := d.checkHistory(entry{name: name + seal.Suffix(method), method: method}, content)
		if found || err != nil {
			return err
		}
	}
	return d.writeHistory(name, content)
}

// checkHistory says whether a file holds the content. Other content is an error, but
// a file that was never written to its end is set aside.
func (d *Directory) checkHistory(e entry, content []byte) (found bool, err error) {
	switch info, err := d.disk.stat(e.name); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, irregular(d.path(e.name))
	}
	here, readErr, err := d.readFile(e, int64(len(content))+1)
	switch {
	case err != nil:
		return false, err
	case readErr == nil && bytes.Equal(here, content):
		return true, nil
	case readErr != nil:
		_, err := d.setAside(e, fmt.Errorf(`timeline history file "%s" is damaged: %w`, d.path(e.name), readErr))
		return false, err
	case len(here) == 0:
		_, err := d.setAside(e, fmt.Errorf(`timeline history file "%s" is empty`, d.path(e.name)))
		return false, err
	}
	return false, inTheWay(
		"two servers were promoted to the same timeline, and their log must not be mixed: "+
			"choose another directory for this one, or move the files of that timeline away",
		`timeline history file "%s" differs from %s of the server`, d.path(e.name), strings.TrimSuffix(e.name, seal.Suffix(e.method)))
}

// readFile reads the first n bytes that a file holds. damage says that what follows
// those returned cannot be decompressed.
func (d *Directory) readFile(e entry, n int64) (content []byte, damage, err error) {
	r, err := d.reader(e)
	if err != nil {
		return nil, nil, err
	}
	content, damage = io.ReadAll(io.LimitReader(r, n))
	if err := r.Close(); err != nil {
		return nil, nil, err
	}
	return content, damage, nil
}

// writeHistory makes a history file.
func (d *Directory) writeHistory(name string, content []byte) (err error) {
	var packed bytes.Buffer
	w, err := seal.NewWriterWithin(&packed, d.o.Compression, compressMemory*2/3)
	if err != nil {
		return err
	}
	_, err = w.Write(content)
	if err := errors.Join(err, w.Close()); err != nil {
		return err
	}
	name += seal.Suffix(d.o.Compression.Algorithm)
	if err := d.writeNew(localfs.Temporary(name), packed.Bytes()); err != nil {
		return err
	}
	if err := d.give(localfs.Temporary(name), name); err != nil {
		return err
	}
	return d.syncNames()
}

// writeNew writes a file and makes it durable, but for its name. What is left under
// it from an attempt that failed goes.
func (d *Directory) writeNew(name string, content []byte) error {
	if err := d.removeStale(name); err != nil {
		return err
	}
	f, err := d.disk.create(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = d.syncFile(f)
	}
	return errors.Join(err, f.Close())
}
