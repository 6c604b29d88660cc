package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"basin/internal/localfs"
	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// PushLog keeps a file of the log. The same content again is no error; another one is an
// *OtherLogError, and nothing is changed. When it returns nil the file is in the repository.
// segmentSize is in bytes; zero is that of the content, which is a whole segment then.
func (c *Cluster) PushLog(ctx context.Context, name string, content []byte, segmentSize int64) error {
	return c.pushLog(ctx, name, logContent{whole: content, size: int64(len(content))}, segmentSize, new(logObject))
}

// PushLogFile is PushLog of a file of so many bytes, of which little is in memory if they are many: it is read as it is sealed, and what
// becomes of it goes to a temporary file. If there is no room for that it is in memory.
func (c *Cluster) PushLogFile(ctx context.Context, name string, file io.ReaderAt, size, segmentSize int64) error {
	content := logContent{file: file, size: size}
	if size <= WholeLog {
		whole := make([]byte, size)
		if err := content.read(whole, 0); err != nil {
			return err
		}
		return c.PushLog(ctx, name, whole, segmentSize)
	}
	temporary, err := localfs.TempFile(c.repo.tempDir())
	if err == nil {
		err = c.pushLog(ctx, name, content, segmentSize, &logObject{file: temporary})
		_ = temporary.Close() // what is in it is not needed any more
		if !errors.As(err, new(*temporaryError)) {
			return err
		}
	}
	return c.pushLog(ctx, name, content, segmentSize, new(logObject))
}

// pushLog is PushLog with an object that is empty.
func (c *Cluster) pushLog(ctx context.Context, name string, content logContent, segmentSize int64, o *logObject) error {
	at, err := c.logName(name)
	if err != nil {
		return err
	}
	check, err := c.logCheck(name, content.size, segmentSize)
	if err != nil {
		return &NotLogError{err}
	}
	box, sealed, err := c.repo.newLogBox(at)
	if err != nil {
		return err
	}
	packer, err := smallPacker()
	if err != nil {
		return err
	}
	facts := LogFacts{Name: name, Size: content.size}
	var reading sync.WaitGroup
	reading.Go(func() {
		if err := c.summarize(&facts, content.reader(), content.size, segmentSize); err != nil {
			facts.Problem = err.Error()
		}
	})
	if err = o.add(append(make([]byte, logHead), sealed...)); err == nil {
		err = o.addFrames(ctx, box, packer, content, check, &facts)
	}
	reading.Wait()
	if err != nil {
		return err
	}
	if facts.Problem != "" {
		if isThere, err := c.isFilledUp(ctx, name, at, content); err != nil || isThere {
			return err
		}
	}
	if err := c.checkParts(ctx, name, content); err != nil {
		return err
	}
	if err := c.noteMinimal(ctx, &facts); err != nil {
		return err
	}
	text, err := json.Marshal(facts)
	if err == nil {
		err = o.add(appendTrailer(nil, o.size, box, packer, text))
	}
	if err == nil {
		err = o.setHead(slices.Concat(box.Head(), c.repo.logDigest(name, facts.SHA256)))
	}
	if err == nil {
		err = o.create(ctx, c.repo.store, at)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	return c.compareLog(ctx, name, at, facts.SHA256, cmp.Or(segmentSize, content.size))
}

// compareLog compares a file of the log that is there with one that was to be pushed, which has a digest.
func (c *Cluster) compareLog(ctx context.Context, name, at string, sum []byte, segmentSize int64) error {
	if c.repo.CanRead() {
		have, err := c.OpenLog(ctx, name, segmentSize)
		if err == nil {
			err = have.Check(ctx)
		}
		if err != nil {
			return fmt.Errorf("%s is in the repository already, and cannot be compared: %w", name, err)
		}
		if !bytes.Equal(have.Facts.SHA256, sum) {
			return &OtherLogError{name, have.Facts.SHA256, sum}
		}
		return nil
	}
	head, err := c.repo.store.Get(ctx, at, 0, logHead)
	if err != nil {
		return fmt.Errorf("%s is in the repository already, and cannot be compared: %w", name, err)
	}
	digest := c.repo.logDigest(name, sum)
	if !bytes.Equal(head[seal.HeadSize:], digest) {
		return &OtherLogError{name, head[seal.HeadSize:], digest}
	}
	return nil
}

// summarize notes what is in a segment, of which the content is read. It is an error if that is damaged.
func (c *Cluster) summarize(facts *LogFacts, content io.Reader, length, size int64) error {
	if !isOfSegment(facts.Name) || strings.HasSuffix(facts.Name, ".backup") {
		return nil
	}
	size = cmp.Or(size, length)
	segment, err := wal.ParseSegment(facts.Name[:24], size)
	if err != nil {
		return err
	}
	read := wal.SummarizePart
	if IsSegment(facts.Name) {
		read = wal.Summarize
	} else if p, ok := parseLogPart(facts.Name); ok && p.from > 0 {
		return nil // it is read with what is before it
	}
	s, err := read(content, segment, wal.PageRules{SystemID: c.name.SystemID, SegmentSize: size, Timeline: segment.Timeline})
	if err != nil {
		return err
	}
	facts.Summary = &s
	return nil
}

// logCheck returns what sees that a file of the log, whose content it is given from the beginning on, is what its name says: its pages have
// the addresses, the timeline and the cluster. Of a part of a segment, what follows the log may be anything.
func (c *Cluster) logCheck(name string, length, size int64) (check func(p []byte) error, err error) {
	if !isOfSegment(name) || strings.HasSuffix(name, ".backup") {
		return func([]byte) error { return nil }, nil
	}
	size = cmp.Or(size, length)
	if IsSegment(name) && length != size {
		return nil, fmt.Errorf("%s has %d bytes, and is to have %d", name, length, size)
	}
	if !wal.ValidSegmentSize(size) {
		return nil, fmt.Errorf("%s has %d bytes, and a segment is a power of two from 1 MiB to 1 GiB", name, length)
	}
	segment, err := wal.ParseSegment(name[:24], size)
	if err != nil {
		return nil, err
	}
	left, start := length, segment.Start(size)
	p, isPart := parseLogPart(name)
	switch {
	case isPart && (p.to-p.from != length || p.to <= p.from || p.to > size):
		return nil, fmt.Errorf("%s has %d bytes", name, length)
	case isPart:
		start += wal.LSN(p.from)
	case !IsSegment(name):
		left = min(left, BlockSize)
	}
	pages := wal.NewPageChecker(wal.PageRules{SystemID: c.name.SystemID, SegmentSize: size, Timeline: segment.Timeline}, start)
	return func(p []byte) error {
		p = p[:min(left, int64(len(p)))]
		left -= int64(len(p))
		if err := pages.Check(p); err != nil {
			return usererr.Hinted("Is this the log of another cluster, or was the file written to?", "%s: %w", name, err)
		}
		return nil
	}, nil
}

// logContent is what a file of the log has in it.
type logContent struct {
	whole []byte      // all of it; nil if it is read by and by
	file  io.ReaderAt // that it is read from
	size  int64       // in bytes
}

// read reads what is there from off on.
func (l *logContent) read(p []byte, off int64) error {
	if n, err := l.file.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}

// reader returns what reads all of it.
func (l *logContent) reader() io.Reader {
	if l.whole != nil {
		return bytes.NewReader(l.whole)
	}
	return io.NewSectionReader(l.file, 0, l.size)
}

// pieces yields it from off on, in pieces that are to be frames. They are in the buffers, to which they can be given back, unless all of it
// is in memory.
func (l *logContent) pieces(off int64, ring buffers) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for ; off < l.size; off += logFrame {
			n := min(logFrame, l.size-off)
			piece, err := []byte(nil), error(nil)
			if l.whole != nil {
				piece = l.whole[off : off+n]
			} else {
				piece = ring.take(logFrame)[:n]
				err = l.read(piece, off)
			}
			if !yield(piece, err) || err != nil {
				return
			}
		}
	}
}

// begin returns the first bytes of it.
func (l *logContent) begin(n int64) ([]byte, error) {
	if l.whole != nil {
		return l.whole[:n], nil
	}
	p := make([]byte, n)
	return p, l.read(p, 0)
}

// isZeros says whether there are zeros alone from off on.
func (l *logContent) isZeros(off int64) (bool, error) {
	ring := make(buffers, 1)
	for piece, err := range l.pieces(off, ring) {
		if err != nil || len(bytes.Trim(piece, "\x00")) > 0 {
			return false, err
		}
		if l.whole == nil {
			ring.give(piece)
		}
	}
	return true, nil
}

// logObject is an object that is being made of a file of the log.
type logObject struct {
	size int64    // of all that was added, in bytes
	data []byte   // that
	file *os.File // that it is in, so that data is what is being added alone; nil if it is in memory
}

// temporaryError is a temporary file that there is no room for.
type temporaryError struct{ error }

// Unwrap returns what is wrong.
func (e *temporaryError) Unwrap() error { return e.error }

// add adds bytes.
func (o *logObject) add(p []byte) error { return o.grown(append(o.data, p...)) }

// grown notes what has become of data.
func (o *logObject) grown(data []byte) error {
	if o.file == nil {
		o.data, o.size = data, int64(len(data))
		return nil
	}
	n, err := o.file.WriteAt(data, o.size)
	o.data, o.size = data[:0], o.size+int64(n)
	if err != nil {
		return &temporaryError{err}
	}
	return nil
}

// addFrames adds the frames of a content, which is checked, and notes their lengths and its digest. What of them is packed is sealed at
// once, so that little is there twice.
func (o *logObject) addFrames(ctx context.Context, box *seal.Box, packer *seal.Packer, content logContent, check func(p []byte) error, facts *LogFacts) error {
	ahead := runtime.GOMAXPROCS(0)
	ring, unpacked := make(buffers, ahead+1), make(buffers, ahead+2)
	sum, crc := sha256.New(), uint32(0)
	pieces := func(yield func([]byte, error) bool) {
		for piece, err := range content.pieces(0, unpacked) {
			if err == nil {
				if err = check(piece); err != nil {
					err = &NotLogError{err}
				}
				_, _ = sum.Write(piece) // never fails
				crc = crc32.Update(crc, castagnoli, piece)
			}
			if !yield(piece, err) || err != nil {
				return
			}
		}
	}
	pack := func(_ context.Context, piece []byte) ([]byte, error) {
		packed := packer.Pack(ring.take(0), piece)
		if content.whole == nil {
			unpacked.give(piece)
		}
		return packed, nil
	}
	begun := o.size
	for packed, err := range inSequence(ctx, pieces, ahead, pack) {
		if err != nil {
			return err
		}
		before := o.size
		if frame := len(packed) + seal.Overhead; cap(o.data)-len(o.data) < frame { // the others are expected to be like those before
			room := int64(frame)
			if o.file == nil {
				count := len(facts.Frames) + 1
				all := (before - begun + room) * content.size / min(int64(count)*logFrame, content.size)
				room = all + all/8 - before + begun + tailSize
			}
			o.data = slices.Grow(o.data, int(room))
		}
		if err := o.grown(box.Seal(o.data, packed, before)); err != nil {
			return err
		}
		facts.Frames = append(facts.Frames, o.size-before)
		ring.give(packed)
	}
	facts.SHA256, facts.CRC32C = sum.Sum(nil), &crc
	return nil
}

// setHead writes over the beginning.
func (o *logObject) setHead(head []byte) error {
	if o.file == nil {
		copy(o.data, head)
		return nil
	}
	if _, err := o.file.WriteAt(head, 0); err != nil {
		return &temporaryError{err}
	}
	return nil
}

// create stores it.
func (o *logObject) create(ctx context.Context, store object.Store, name string) error {
	if o.file == nil {
		return store.Create(ctx, name, o.data)
	}
	return object.CreateFrom(ctx, store, name, o.file, o.size)
}
