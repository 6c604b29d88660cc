// Package waldir knows how write-ahead log is kept in a directory: whole segments
// under their names, compressed or not, the one that is being received as
// .partial, and history files; what pg_receivewal leaves there is understood.
//
// It promises that no log is lost once Flush or Finish has returned nil, and that
// nothing that could be the only copy of any log is ever overwritten. What comes
// again from a server is compared with what is here; what differs, or is damaged,
// stays or is set aside, and whoever runs the program is told.
//
// It does not know where the log comes from, and it does not decide what is
// streamed: it says where to go on. How much log is kept, and for how long, is not
// its business either.
package waldir

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"basin/internal/localfs"
	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Options are the options of a Directory. Path and SegmentSize are required; the
// rest may be zero.
type Options struct {
	Path        string      // of the directory, which must be there
	SegmentSize int64       // of the server's segments, in bytes
	Compression seal.Spec   // of segments once they are complete, and of history files
	FileMode    fs.FileMode // of new files, less the umask; zero is 0600

	// NoSync leaves it to the system when what was written becomes durable. Then
	// Flush and Finish promise nothing.
	NoSync bool
	// QuickFlush is for a server that waits for every Flush: a Flush takes less
	// time, and what is written takes twice the transfer to the disk.
	QuickFlush bool

	// SystemID is the system identifier of the server's cluster; zero is any. Log of
	// another cluster is an error.
	SystemID uint64

	// Warn, if not nil, is told of what was found or went wrong and did not keep
	// the log from being received. It is called from one goroutine at a time, and
	// not always the caller's.
	Warn func(error)
}

// Directory is a directory of write-ahead log. It is a wal.Keeper.
//
// A segment is written to a file of its full size that is called .partial, and not
// compressed. Once complete it is durable under its name before anything else is
// done; only then, beside the stream, it is compressed if that was asked for, and
// the compressed file replaces it once it is durable too and was read back.
//
// Source: pg_receivewal.c and the directory methods of walmethods.c in
// src/bin/pg_basebackup, PostgreSQL 18, from which it differs as said above:
// there a segment is compressed while it is received, and a partial one is
// overwritten from its beginning.
type Directory struct {
	o    Options
	disk disk

	warning sync.Mutex
	warned  map[string]bool // by text: what was found is told once

	gaps           []Gap             // that Start has found
	wrong          map[string]bool   // files whose size Start has found wrong; nil if it has not looked yet
	tried, givenUp wal.Segment       // damaged ones that Start was to have again, and that cannot be had
	open           *segment          // the one being written, or nil
	left           map[string]string // partial segments of this process: what they are called when complete, by file
	jobs           compressor
	closed         bool
}

// Open opens the directory, which no other Directory may have open, here or in
// another process. What a crash left half done in it is brought to an end.
func Open(o Options) (*Directory, error) {
	if !wal.ValidSegmentSize(o.SegmentSize) {
		return nil, fmt.Errorf("no segment has %d bytes", o.SegmentSize)
	}
	if o.FileMode == 0 {
		o.FileMode = localfs.FileModeOwner
	}
	disk, err := openDisk(o.Path, o.FileMode)
	if err != nil {
		return nil, err
	}
	return openOn(disk, o)
}

// openOn is Open with a disk, which it owns.
func openOn(disk disk, o Options) (*Directory, error) {
	d := &Directory{o: o, disk: disk, warned: map[string]bool{}, left: map[string]string{}}
	d.jobs.compress = d.compressSegment
	err := disk.lock()
	if err == nil {
		err = d.tidy()
	}
	if err != nil {
		return nil, errors.Join(err, disk.close())
	}
	return d, nil
}

// inUse is the error of a directory that another process has open.
func inUse(path string) error {
	return usererr.Hinted("only one program can receive log into a directory: stop the other one, or choose another directory",
		`directory "%s" is in use by another process`, path)
}

// obstacle is a file that is in the way until somebody has decided what is to become
// of it: to try again is of no use. It is an fs.ErrExist.
type obstacle struct{ error }

func (o *obstacle) Unwrap() error        { return o.error }
func (o *obstacle) Is(target error) bool { return target == fs.ErrExist }

// inTheWay returns the error of an obstacle, with a hint. The rest is as for fmt.Errorf.
func inTheWay(hint, format string, args ...any) error {
	return &usererr.Error{Err: &obstacle{fmt.Errorf(format, args...)}, Hint: hint}
}

// irregular is the error of a name that something else than a file has.
func irregular(path string) error {
	return inTheWay("move it away: a file of write-ahead log belongs here", `"%s" is not a regular file`, path)
}

// Close waits until what was complete is compressed, compresses the partial
// segments that were left, and lets go of the directory. What cannot be compressed
// stays as it is, and Warn is told. It may be called more than once.
func (d *Directory) Close() error {
	if d.closed {
		return nil
	}
	var err error
	if d.open != nil {
		err = d.open.Abandon()
	}
	d.closed = true
	d.jobs.drain()
	d.jobs.hold() // for good
	if d.o.Compression.Algorithm != seal.None {
		d.compressPartials()
	}
	return errors.Join(err, d.disk.close())
}

// path returns what errors call a file.
func (d *Directory) path(name string) string { return filepath.Join(d.o.Path, name) }

// warn tells the caller of a problem.
func (d *Directory) warn(err error) {
	if d.o.Warn == nil {
		return
	}
	d.warning.Lock()
	defer d.warning.Unlock()
	d.o.Warn(err)
}

// notice is warn of something that is found again and again, and is told once.
func (d *Directory) notice(err error) {
	if text := err.Error(); !d.warned[text] {
		d.warned[text] = true
		d.warn(err)
	}
}

// syncNames makes the names in the directory durable.
func (d *Directory) syncNames() error {
	if d.o.NoSync {
		return nil
	}
	return d.disk.sync(".")
}

// syncFile makes an open file durable, but for its name.
func (d *Directory) syncFile(f file) error {
	if d.o.NoSync {
		return nil
	}
	return f.sync()
}

// give gives a file another name, which must be free: fs.ErrExist. At every moment,
// and after a crash, the file has one of the names at least.
func (d *Directory) give(from, to string) error {
	err := d.disk.rename(from, to)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if err := d.linkNew(from, to); err != nil {
		return err
	}
	if _, err := d.disk.stat(from); errors.Is(err, fs.ErrNotExist) {
		return nil // it was renamed
	}
	// Should the old name be gone first, the new one must last.
	if err := d.syncNames(); err != nil {
		return err
	}
	return d.disk.remove(from)
}

// linkNew gives a file a second name, which must be free. Where files can have but
// one, it is renamed: nobody else makes such a name between the two steps, as the
// directory is locked.
func (d *Directory) linkNew(from, to string) error {
	err := d.disk.link(from, to)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	switch _, err := d.disk.stat(to); {
	case err == nil:
		return fmt.Errorf(`could not rename file "%s" to "%s": %w`, d.path(from), d.path(to), fs.ErrExist)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return d.disk.replace(from, to)
}

// list returns the segments and parts of segments in the directory, or in one of
// those in it, those of the lowest timeline first and then by number. What has such
// a name and is no file is told of and left out.
func (d *Directory) list(dir string) ([]entry, error) {
	names, err := d.disk.names(dir)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, name := range names { // sorted, which is that order
		e, ok := parseEntry(name, d.o.SegmentSize)
		if !ok {
			continue
		}
		e.name = filepath.Join(dir, name)
		info, err := d.disk.stat(e.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			d.notice(fmt.Errorf(`"%s" is not a regular file, skipping`, d.path(e.name)))
			continue
		}
		e.bytes = info.Size()
		entries = append(entries, e)
	}
	return entries, nil
}

// maxPairs is how many segments that are there twice are looked at when the
// directory is opened. A crash leaves one or two; who keeps both forms of all
// segments must not wait until each was read.
const maxPairs = 4

// tidy removes what is of no use after a crash, and makes durable what is there.
func (d *Directory) tidy() error {
	names, err := d.disk.names(".")
	if err != nil {
		return err
	}
	for _, name := range names {
		if !isTemporary(name, d.o.SegmentSize) {
			continue
		}
		if err := d.removeFile(name); err != nil {
			return err
		}
	}
	entries, err := d.list(".")
	if err != nil {
		return err
	}
	pairs := 0
	for i := len(entries) - 1; i >= 0 && pairs < maxPairs; i-- {
		if e := entries[i]; !e.partial && e.method == seal.None {
			found, err := d.tidyPair(e, entries[i+1:])
			if err != nil {
				return err
			}
			if found {
				pairs++
			}
		}
	}
	d.jobs.backlog = d.unfinished(entries)
	d.jobs.release()
	return d.syncNames()
}

// removeFile removes a file, but nothing that is no file.
func (d *Directory) removeFile(name string) error {
	info, err := d.disk.stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return err
	}
	return d.disk.remove(name)
}

// tidyPair removes what there is twice of a complete segment that is not compressed;
// following are the files whose names come after its. It returns whether there was
// another.
func (d *Directory) tidyPair(e entry, following []entry) (found bool, err error) {
	for _, other := range following {
		if other.segment != e.segment {
			break
		}
		stays, surplus := other, e
		switch {
		case !other.partial:
		case other.method == seal.None:
			stays, surplus = e, other // it was to be renamed, and where that cannot be done it was linked
		default:
			continue
		}
		found = true
		same, err := d.same(e, other)
		switch {
		case err == nil && same:
			if err := d.rely(stays); err != nil {
				return true, err
			}
			if err := d.disk.remove(surplus.name); err != nil {
				return true, err
			}
			if surplus == e {
				return true, nil
			}
		case other.partial: // left behind by pg_receivewal after a change of the method
		case err != nil:
			d.notice(fmt.Errorf(`"%s" is not what is in "%s", which is kept: %w`, d.path(other.name), d.path(e.name), err))
		default:
			d.notice(fmt.Errorf(`"%s" is not what is in "%s"; both are kept`, d.path(other.name), d.path(e.name)))
		}
	}
	return found, nil
}

// unfinished returns the complete segments that are yet to be compressed: those
// after the newest compressed one. What is not compressed before that was not meant
// to be.
func (d *Directory) unfinished(entries []entry) []string {
	if d.o.Compression.Algorithm == seal.None {
		return nil
	}
	var names []string
	for _, e := range slices.Backward(entries) {
		switch {
		case e.partial:
		case e.method != seal.None:
			slices.Reverse(names)
			return names
		default:
			names = append(names, e.name)
		}
	}
	return nil // none was ever compressed
}

// segmentNamed returns the segment of that name, and an error if its size is not
// the directory's.
func (d *Directory) segmentNamed(name string, size int64) (wal.Segment, error) {
	if size != d.o.SegmentSize {
		return wal.Segment{}, fmt.Errorf("segment %s has %d bytes, the directory is one of segments of %d", name, size, d.o.SegmentSize)
	}
	return wal.ParseSegment(name, size)
}
