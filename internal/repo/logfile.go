package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"sync"

	"basin/internal/seal"
	"basin/internal/wal"
)

const (
	// WholeLog is how large a segment is at most, in bytes, that is in memory as a whole: it is fetched with one request, rather than some
	// for what is known of it and then its frames.
	WholeLog = 64 << 20
	// logRun is how much of a larger one is fetched with a request, in bytes, and runsAhead how many such requests
	// are made before they are needed.
	logRun    = 4 * (logFrame + seal.Overhead)
	runsAhead = 2
	// framesAhead is how many frames are opened before they are needed.
	framesAhead = 2
	// decoderSlack is how much room the zstd decoder wants behind what it writes, in bytes, to copy in long words.
	decoderSlack = 64
)

// LogFile is a file of the log that is there, and is handed over once.
type LogFile struct {
	Facts LogFacts

	cluster *Cluster
	at      string // name of the object
	size    int64  // of the object, in bytes
	box     *seal.Box
	data    []byte // the object; nil if it is fetched by and by
	content []byte // what is made up of parts, if box is nil
}

// OpenLog opens a file of the log. One that is not there is fs.ErrNotExist. The first part of a segment, up to what
// LongestPartial says, is there if parts are that make it up. segmentSize is in bytes, zero if it is not known: of a larger
// segment than usual little is in memory at once if it is.
func (c *Cluster) OpenLog(ctx context.Context, name string, segmentSize int64) (*LogFile, error) {
	f, err := c.openLogFile(ctx, name, segmentSize)
	if p, ok := parseLogPart(name); ok && p.from == 0 && errors.Is(err, fs.ErrNotExist) {
		content, facts, err := c.joinedWithFacts(ctx, p)
		if err != nil {
			return nil, err
		}
		return &LogFile{Facts: facts, content: content}, nil
	}
	return f, err
}

// openLogFile is OpenLog for what is one object.
func (c *Cluster) openLogFile(ctx context.Context, name string, segmentSize int64) (*LogFile, error) {
	open := c.openWhole
	if IsSegment(name) && segmentSize > WholeLog {
		open = c.openFacts
	}
	f, err := open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) && IsSegment(name) && segmentSize > WholeLog {
		err = c.checkAbsence(ctx, name, err)
	}
	if err != nil {
		return nil, err
	}
	return f, f.checkFrames()
}

// checkAbsence returns absent, which says that a file of the log is not listed, if the file is not there either: what is not listed yet
// may be.
func (c *Cluster) checkAbsence(ctx context.Context, name string, absent error) error {
	at, err := c.logName(name)
	if err != nil {
		return err
	}
	if _, err = c.repo.store.Get(ctx, at, 0, 1); err == nil {
		return fmt.Errorf("%s is there, and the store does not list it", at)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return absent
	}
	return err
}

// openWhole opens a file of the log of which all is fetched.
func (c *Cluster) openWhole(ctx context.Context, name string) (*LogFile, error) {
	at, err := c.logName(name)
	if err != nil {
		return nil, err
	}
	data, err := c.repo.store.Get(ctx, at, 0, -1)
	if err != nil {
		return nil, err
	}
	size := int64(len(data))
	if size < c.repo.logBegin()+footerSize {
		return nil, fmt.Errorf("%s: %w", at, seal.ErrDamaged)
	}
	box, err := c.repo.openLog(ctx, at, data)
	if err != nil {
		return nil, err
	}
	facts, err := c.readFacts(name, at, box, data, data, size)
	return &LogFile{Facts: facts, cluster: c, at: at, box: box, size: size, data: data}, err
}

// Log returns the content of a file of the log that OpenLog opens.
func (c *Cluster) Log(ctx context.Context, name string) ([]byte, error) {
	f, err := c.OpenLog(ctx, name, 0)
	if err != nil {
		return nil, err
	}
	return f.Content(ctx)
}

// logFile returns the content of a file of the log that is one object.
func (c *Cluster) logFile(ctx context.Context, name string) ([]byte, error) {
	f, err := c.openLogFile(ctx, name, 0)
	if err != nil {
		return nil, err
	}
	return f.Content(ctx)
}

// checkFrames sees that the object can have the frames.
func (f *LogFile) checkFrames() error {
	if f.Facts.Size < 0 || f.Facts.Size > wal.MaxSegmentSize || int64(len(f.Facts.Frames)) != (f.Facts.Size+logFrame-1)/logFrame {
		return f.damaged()
	}
	left := f.size - f.cluster.repo.logBegin()
	for _, length := range f.Facts.Frames {
		if length < 0 || length > logFrame+seal.Overhead || length > left {
			return f.damaged()
		}
		left -= length
	}
	return nil
}

func (f *LogFile) damaged() error { return fmt.Errorf("%s: %w", f.Facts.Name, seal.ErrDamaged) }

// CopyTo writes the content to w, as it is opened: what was written counts for nothing if there is an error, as only at the end is it
// known whether it is all right. It is called once. Each frame is authenticated, and the whole is compared with its CRC-32C, or with its
// SHA-256, which takes as long as to open it, if it was stored before it had one.
func (f *LogFile) CopyTo(ctx context.Context, w io.Writer) error {
	if f.box != nil && f.Facts.CRC32C != nil {
		return f.copyTo(ctx, w, crc32.New(castagnoli), binary.BigEndian.AppendUint32(nil, *f.Facts.CRC32C))
	}
	return f.copyTo(ctx, w, sha256.New(), f.Facts.SHA256)
}

// Check reads the content, and compares it with its SHA-256. It is called in place of CopyTo.
func (f *LogFile) Check(ctx context.Context) error {
	return f.copyTo(ctx, io.Discard, sha256.New(), f.Facts.SHA256)
}

// copyTo is CopyTo with a digest.
func (f *LogFile) copyTo(ctx context.Context, w io.Writer, digest hash.Hash, want []byte) error {
	if f.box == nil {
		_, err := w.Write(f.content)
		return err
	}
	ring := make(buffers, framesAhead+1)
	open := func(_ context.Context, frame sealedFrame) ([]byte, error) {
		content, err := f.box.Open(ring.take(frame.size+decoderSlack), frame.data, frame.at, frame.size)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", f.Facts.Name, err)
		case len(content) != frame.size:
			return nil, f.damaged()
		}
		return content, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for content, err := range inSequence(ctx, f.frames(ctx), framesAhead, open) {
		if err != nil {
			return err
		}
		var hashing sync.WaitGroup // which may take as long as to write, or to open
		hashing.Go(func() { digest.Write(content) })
		_, err := w.Write(content)
		hashing.Wait()
		if err != nil {
			cancel() // what is being fetched is not waited for
			return err
		}
		ring.give(content)
	}
	if !bytes.Equal(digest.Sum(nil), want) {
		return f.damaged()
	}
	return nil
}

// Content returns the content, as CopyTo writes it.
func (f *LogFile) Content(ctx context.Context) ([]byte, error) {
	if f.box == nil {
		return f.content, nil
	}
	content := bytes.NewBuffer(make([]byte, 0, f.Facts.Size))
	if err := f.CopyTo(ctx, content); err != nil {
		return nil, err
	}
	return content.Bytes(), nil
}

// sealedFrame is a frame as it is stored.
type sealedFrame struct {
	at   int64 // in the object, in bytes
	data []byte
	size int // of the content, in bytes
}

// frames yields the frames.
func (f *LogFile) frames(ctx context.Context) iter.Seq2[sealedFrame, error] {
	return func(yield func(sealedFrame, error) bool) {
		left := f.Facts.Size
		for run, err := range f.fetched(ctx) {
			if err != nil {
				yield(sealedFrame{}, err)
				return
			}
			begun := int64(0)
			for _, length := range run.lengths {
				end := begun + length
				size := min(left, logFrame)
				if !yield(sealedFrame{run.at + begun, run.data[begun:end:end], int(size)}, nil) {
					return
				}
				begun, left = end, left-size
			}
		}
	}
}

// frameRun are frames that follow each other.
type frameRun struct {
	at      int64   // in the object, in bytes
	lengths []int64 // of the frames, in bytes
	data    []byte
}

// fetched yields runs of frames, which are fetched if that is not done.
func (f *LogFile) fetched(ctx context.Context) iter.Seq2[frameRun, error] {
	if f.data != nil {
		at := f.cluster.repo.logBegin()
		return func(yield func(frameRun, error) bool) {
			yield(frameRun{at, f.Facts.Frames, f.data[at:]}, nil)
		}
	}
	return inSequence(ctx, f.runs(), runsAhead, func(ctx context.Context, run frameRun) (frameRun, error) {
		size := int64(0)
		for _, length := range run.lengths {
			size += length
		}
		var err error
		run.data, err = f.cluster.repo.store.Get(ctx, f.at, run.at, size)
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%s was removed while it was read", f.Facts.Name) // which is no proof that it is absent
		}
		return run, err
	})
}

// runs yields the runs that are fetched with a request each.
func (f *LogFile) runs() iter.Seq2[frameRun, error] {
	return func(yield func(frameRun, error) bool) {
		at, frames := f.cluster.repo.logBegin(), f.Facts.Frames
		for len(frames) > 0 {
			n, size := 0, int64(0)
			for n < len(frames) && (n == 0 || size+frames[n] <= logRun) {
				size += frames[n]
				n++
			}
			if !yield(frameRun{at: at, lengths: frames[:n]}, nil) {
				return
			}
			at, frames = at+size, frames[n:]
		}
	}
}

// buffers are those that serve again.
type buffers chan []byte

// take returns an empty one, which has so much room in bytes if it is new.
func (b buffers) take(room int) []byte {
	select {
	case p := <-b:
		return p[:0]
	default:
		return make([]byte, 0, room)
	}
}

// give gives one back.
func (b buffers) give(p []byte) {
	select {
	case b <- p:
	default:
	}
}

// inSequence does something to each of what comes, to so many beside the one that is yielded, and yields what becomes of them in the same
// order. It ends with the first error. Nothing of it is at work when it has ended.
func inSequence[A, B any](ctx context.Context, from iter.Seq2[A, error], ahead int, do func(ctx context.Context, a A) (B, error)) iter.Seq2[B, error] {
	type done struct {
		b   B
		err error
	}
	return func(yield func(B, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var working sync.WaitGroup
		defer working.Wait()
		defer cancel()
		coming := make(chan chan done, ahead)
		working.Go(func() {
			defer close(coming)
			for a, err := range from {
				one := make(chan done, 1)
				select {
				case coming <- one:
				case <-ctx.Done():
					return
				}
				if err != nil {
					one <- done{err: err}
					return
				}
				working.Go(func() {
					b, err := do(ctx, a)
					one <- done{b, err}
				})
			}
		})
		for one := range coming {
			if d := <-one; !yield(d.b, d.err) || d.err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			var none B
			yield(none, err)
		}
	}
}
