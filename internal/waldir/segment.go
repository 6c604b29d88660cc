package waldir

import (
	"errors"
	"fmt"
	"io/fs"

	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// writeBackStride is how many bytes of a segment are written before the disk is
// told to begin on them, as with all that localfs writes.
const writeBackStride = 8 << 20

// zeroStride is up to how many bytes of zeros QuickFlush keeps written before the log,
// zeroRest how many of them are left when more are written. That is done with a
// flush, which writes to the disk anyway.
//
// Space that was only reserved has to be noted as written by the file system, in
// its journal, when it is first flushed. Measured with ext4 on a virtual disk, for
// each of 1900 appends of 8 KiB and a flush of it, median: 254 µs with reserved
// space, 169 µs with zeros in it, and 165 to 170 µs with zeros 64 KiB to 1 MiB
// ahead; for 200 bytes, which seldom reach a new page, 155 to 165 µs in all three
// ways, and 245 µs for a file that grows. But zeros for the whole segment make its
// first flush take 12 ms, those 256 KiB ahead none more than 2 ms; between 64 KiB and 1
// MiB ahead, commits that wait for the flush show no difference.
const (
	zeroStride = 64 << 10
	zeroRest   = 16 << 10
)

// zeros are what is written ahead.
var zeros [zeroStride]byte

// segment is one that is being written. It is a wal.SegmentWriter.
type segment struct {
	dir   *Directory
	name  string // that it will have
	file  file   // called so with .partial
	start wal.LSN
	size  int64 // in bytes
	pos   int64 // of the next byte

	// Up to valid the file holds whole records, from before. What comes for there is
	// compared; nothing is written.
	valid int64

	zeroed  int64 // with QuickFlush: up to here the file was written
	started int64 // up to here the disk was told to begin
	dirty   bool  // something was written since the last flush
	named   bool  // the file's name, and that it is as long as it is, are durable
	failed  error
	closed  bool
}

// Begin starts the named segment, or goes on with what is here of it already:
// complete it must not be. The server is expected to send it from its beginning. A
// *ConflictError of Write says that it sends something else than what is here.
//
// A complete file that is damaged is set aside, as NAME.damaged, and what is left of
// its log counts as that of a partial one. Partial files of all forms, as pg_receivewal
// leaves them after a change of the compression method, become one.
func (d *Directory) Begin(name string, size int64) (wal.SegmentWriter, error) {
	switch {
	case d.closed:
		return nil, fs.ErrClosed
	case d.open != nil:
		return nil, fmt.Errorf("segment %s is not finished", d.open.name)
	}
	seg, err := d.segmentNamed(name, size)
	if err != nil {
		return nil, err
	}
	s := &segment{dir: d, name: name, start: seg.Start(size), size: size}
	if err := s.prepare(seg); err != nil {
		return nil, err
	}
	d.open = s
	delete(d.left, s.partial())
	return s, nil
}

// partial returns the name of the file that is written.
func (s *segment) partial() string { return s.name + partialSuffix }

// create makes the file, which is not there.
func (s *segment) create() error {
	f, err := s.dir.disk.create(s.partial())
	if err != nil {
		return err
	}
	if err := f.reserve(s.size); err != nil {
		return errors.Join(err, f.Close(), s.dir.disk.remove(s.partial()))
	}
	s.file = f
	return nil
}

// Write takes the next bytes. Once it has failed it goes on doing so.
func (s *segment) Write(p []byte) (int, error) {
	switch {
	case s.failed != nil:
		return 0, s.failed
	case s.closed:
		return 0, fs.ErrClosed
	case s.pos+int64(len(p)) > s.size:
		return 0, fmt.Errorf("write-ahead log of segment %s goes on past its %d bytes", s.name, s.size)
	}
	compared := int(min(max(s.valid-s.pos, 0), int64(len(p))))
	if compared > 0 {
		if s.failed = s.compare(p[:compared]); s.failed != nil {
			return 0, s.failed
		}
		s.pos += int64(compared)
	}
	n, err := s.write(p[compared:])
	s.failed = err
	return compared + n, err
}

// write writes bytes that were not here before.
func (s *segment) write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.dirty = true
	n, err := s.file.WriteAt(p, s.pos)
	s.pos += int64(n)
	if err == nil && !s.dir.o.NoSync && s.pos-s.started >= writeBackStride {
		s.file.startWriteBack(s.started, s.pos-s.started)
		s.started = s.pos
	}
	return n, err
}

// zeroAhead writes zeros to the space that what comes next will be written to.
func (s *segment) zeroAhead() error {
	if !s.dir.o.QuickFlush || s.zeroed == s.size || s.pos+zeroRest <= s.zeroed {
		return nil
	}
	from, to := max(s.zeroed, s.pos), min(s.pos+zeroStride, s.size)
	_, err := s.file.WriteAt(zeros[:to-from], from)
	s.zeroed = to
	return err
}

// compare returns an error if p is not what the file holds.
func (s *segment) compare(p []byte) error {
	here := make([]byte, len(p))
	if _, err := s.file.ReadAt(here, s.pos); err != nil {
		return err
	}
	i := firstDifference(p, here)
	if i < 0 {
		return nil
	}
	return &usererr.Error{
		Err: &ConflictError{
			Segment: s.name,
			File:    s.dir.path(s.partial()),
			At:      s.start + wal.LSN(s.pos) + wal.LSN(i),
			End:     s.start + wal.LSN(s.valid),
		},
		Hint: "The server was restored to an earlier state, or is a copy of the one that the log here is of. " +
			"Nothing was overwritten; to go on with this server, move the file away.",
	}
}

// ConflictError says that a server sends other log than was received before.
type ConflictError struct {
	Segment string  // its name
	File    string  // path of what is here of it
	At      wal.LSN // of the first byte that differs
	End     wal.LSN // up to here the file holds whole records
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf(`segment %s of the server differs at %s from what is in "%s", which holds valid log up to %s`,
		e.Segment, e.At, e.File, e.End)
}

// Flush makes durable what was written so far. The first time that includes the
// name of the file. After an error the segment takes no more: nobody knows what of
// it is on disk until the file is read again, which Begin does.
func (s *segment) Flush() error {
	switch {
	case s.failed != nil:
		return s.failed
	case s.closed:
		return fs.ErrClosed
	}
	s.failed = s.flush()
	return s.failed
}

func (s *segment) flush() error {
	if s.dir.o.NoSync {
		return nil
	}
	if !s.named {
		if err := errors.Join(s.zeroAhead(), s.sync()); err != nil {
			return err
		}
		if err := s.dir.syncNames(); err != nil {
			return err
		}
		s.named = true
		return nil
	}
	if !s.dirty {
		return nil
	}
	if err := s.zeroAhead(); err != nil {
		return err
	}
	if err := s.file.datasync(); err != nil {
		return err
	}
	s.dirty = false
	return nil
}

// sync makes the file durable, but for its name.
func (s *segment) sync() error {
	if err := s.dir.syncFile(s.file); err != nil {
		return err
	}
	s.dirty = false
	return nil
}

// Finish makes the segment durable under its final name. That it is compressed, if
// it is to be, comes later.
func (s *segment) Finish() error {
	switch {
	case s.closed:
		return fs.ErrClosed
	case s.failed != nil:
		return errors.Join(s.failed, s.close())
	case s.pos != s.size:
		err := fmt.Errorf("segment %s ends after %d of %d bytes", s.name, s.pos, s.size)
		return errors.Join(err, s.Abandon())
	}
	if s.dirty {
		if err := s.sync(); err != nil {
			return errors.Join(err, s.close())
		}
	}
	if err := s.close(); err != nil {
		return err
	}
	if err := s.dir.give(s.partial(), s.name); err != nil {
		return err
	}
	if err := s.dir.syncNames(); err != nil {
		return err
	}
	delete(s.dir.left, s.partial())
	if s.dir.o.Compression.Algorithm != seal.None {
		s.dir.jobs.add(s.name)
	}
	return nil
}

// Abandon makes durable what was written, and leaves it as .partial. With
// compression it stays uncompressed until the directory is closed.
func (s *segment) Abandon() error {
	if s.closed {
		return nil
	}
	var err error
	if s.failed == nil {
		err = s.flush()
	}
	return errors.Join(err, s.close())
}

// close lets go of the file.
func (s *segment) close() error {
	s.closed = true
	s.dir.open = nil
	if conflict := (*ConflictError)(nil); !errors.As(s.failed, &conflict) { // else it keeps the name that was told
		s.dir.left[s.partial()] = s.name
	}
	return s.file.Close()
}
