package feed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"basin/internal/seal"
	"basin/internal/wal"
)

// Reader reads the log of one timeline from the files it is in. It holds one of
// them open, is used from one goroutine, and must be closed.
type Reader struct {
	feed     *Feed
	timeline wal.Timeline
	file     *segmentFile // nil for none
}

// Reader returns a reader of the log of a timeline.
func (f *Feed) Reader(t wal.Timeline) *Reader {
	return &Reader{feed: f, timeline: t}
}

// maxAttempts is how often a segment is opened that goes away while it is read.
// A name that another file takes again and again is none to wait for.
const maxAttempts = 10

// ReadAt reads the log from a position on, as much as p holds and the segment has,
// which must be flushed, and for a timeline that was left before its switchpoint.
// It returns less only with an error. A segment that is nowhere any more is an
// error that wraps fs.ErrNotExist.
func (r *Reader) ReadAt(ctx context.Context, p []byte, at wal.LSN) (int, error) {
	size := r.feed.o.SegmentSize
	segment := wal.SegmentAt(wal.Position{LSN: at, Timeline: r.timeline}, size)
	offset := int64(at - segment.Start(size))
	p = p[:min(int64(len(p)), size-offset)]
	for range maxAttempts {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := r.open(ctx, segment, at+wal.LSN(len(p))); err != nil {
			return 0, fmt.Errorf("segment %s: %w", segment.Name(size), err)
		}
		err := r.file.readAt(p, offset)
		// What was read is right only if the file was not made into another segment
		// meanwhile. The server renames it before it writes to it.
		switch stays, statErr := r.file.stays(); {
		case statErr != nil:
			err = errors.Join(err, statErr)
		case !stays:
			err = nil
		case err == nil:
			return len(p), nil
		}
		path := r.file.path
		if err := errors.Join(err, r.Close()); err != nil {
			return 0, fmt.Errorf("read %s at %d: %w", path, offset, err)
		}
	}
	return 0, fmt.Errorf("segment %s: is replaced all the time", segment.Name(size))
}

// Close closes the file that is open, if any. The reader can go on.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.close()
	r.file = nil
	return err
}

// open has a file open that has the segment's bytes up to end.
func (r *Reader) open(ctx context.Context, segment wal.Segment, end wal.LSN) error {
	newest, _ := r.feed.Flushed()
	// Once a timeline is left, the file of the one that follows is better: the server
	// may never have written the last of the old one.
	if f := r.file; f != nil && f.number == segment.Number && f.newest == newest.Timeline && end <= f.end {
		return nil
	}
	if err := r.Close(); err != nil {
		return err
	}
	files, err := r.feed.filesOf(ctx, segment, end, newest.Timeline)
	if err != nil {
		return err
	}
	missing := fs.ErrNotExist
	for _, f := range files {
		err := f.open(r.feed.rules(segment.Timeline))
		var page *wal.PageError
		switch {
		case err == nil:
			r.file = &f
			return nil
		case errors.As(err, &page):
			// Not written yet, or of another cluster: as good as missing, but worth telling.
			missing = fmt.Errorf("%w: %s: %w", fs.ErrNotExist, f.path, page)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return missing
}

func (f *Feed) rules(t wal.Timeline) wal.PageRules {
	return wal.PageRules{SystemID: f.o.SystemID, SegmentSize: f.o.SegmentSize, Major: f.o.Major, Timeline: t}
}

// segmentFile is a file that has the bytes of a segment up to a position, if it
// is there.
type segmentFile struct {
	path   string
	method seal.Algorithm
	number uint64       // of the segment
	start  wal.LSN      // of the segment
	end    wal.LSN      // up to which the bytes are those of the timeline that is read
	newest wal.Timeline // when it was chosen
	isLive bool         // in pg_wal, where the server makes it into another segment

	size    int64 // of a segment
	file    *os.File
	info    fs.FileInfo
	decoder io.ReadCloser // of what is compressed
	stream  io.Reader     // of decoder, with what was read ahead
	at      int64         // of stream
}

// filesOf returns the files that may hold the segment's bytes up to end, best
// first. newest is the cluster's timeline.
func (f *Feed) filesOf(ctx context.Context, segment wal.Segment, end wal.LSN, newest wal.Timeline) ([]segmentFile, error) {
	size := f.o.SegmentSize
	own := segmentFile{number: segment.Number, start: segment.Start(size), newest: newest, size: size}
	own.end = own.start + wal.LSN(size)
	timelines, switchpoint, err := f.heirs(ctx, segment, end, newest)
	if err != nil {
		return nil, err
	}
	var files []segmentFile
	add := func(dir string, methods ...seal.Algorithm) {
		for _, t := range append(timelines, segment.Timeline) {
			file := own
			if t != segment.Timeline {
				file.end = switchpoint
			}
			name := wal.Segment{Timeline: t, Number: segment.Number}.Name(size)
			for _, method := range methods {
				file.path = filepath.Join(dir, name+seal.Suffix(method))
				file.method, file.isLive = method, dir == f.o.Dir
				files = append(files, file)
			}
		}
	}
	add(f.o.Dir, seal.None)
	// A promotion renames the segment that the old timeline ends in before we hear of it.
	renamed := own
	renamed.path, renamed.isLive = filepath.Join(f.o.Dir, segment.Name(size)+".partial"), true
	files = append(files, renamed)
	if f.o.ArchiveDir != "" {
		add(f.o.ArchiveDir, seal.None, seal.Gzip, seal.LZ4, seal.Zstd)
	}
	return files, nil
}

// heirs returns the timelines, newest first, that began within a segment of a
// timeline that was left there, and where that was. Their files begin with the
// same bytes: the server copies them. There are none if the bytes up to end are
// more than that.
//
// Source: WalSndSegmentOpen in src/backend/replication/walsender.c, PostgreSQL 18,
// which knows the next one.
func (f *Feed) heirs(ctx context.Context, segment wal.Segment, end wal.LSN, newest wal.Timeline) ([]wal.Timeline, wal.LSN, error) {
	if segment.Timeline >= newest {
		return nil, 0, nil
	}
	content, err := f.HistoryFile(ctx, newest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	history, err := wal.ParseHistory(newest, content)
	if err != nil {
		return nil, 0, err
	}
	switchpoint, ok := history.End(segment.Timeline)
	if !ok || end > switchpoint {
		return nil, 0, nil
	}
	var heirs []wal.Timeline
	for i, fork := range history {
		if fork.Timeline < segment.Timeline {
			continue
		}
		// One that was left before the switchpoint has less of the bytes, as have its own heirs.
		if wal.SegmentAt(wal.Position{LSN: fork.End}, f.o.SegmentSize).Number != segment.Number || fork.End < switchpoint {
			break
		}
		heir := newest
		if i+1 < len(history) {
			heir = history[i+1].Timeline
		}
		heirs = append(heirs, heir)
	}
	slices.Reverse(heirs)
	return heirs, switchpoint, nil
}

// open opens the file and looks at its first page.
func (f *segmentFile) open(rules wal.PageRules) error {
	for range maxAttempts {
		err := f.openOnce(rules)
		if err == nil {
			return nil
		}
		gone := false
		if f.file != nil {
			stays, statErr := f.stays()
			gone = !stays && statErr == nil
			err = errors.Join(err, f.close())
		}
		if !gone {
			return err
		}
	}
	return fmt.Errorf("%s is replaced all the time", f.path)
}

func (f *segmentFile) openOnce(rules wal.PageRules) (err error) {
	if f.file, err = os.Open(f.path); err != nil {
		return err
	}
	if f.info, err = f.file.Stat(); err != nil {
		return err
	}
	if f.method == seal.None && f.info.Size() != f.size {
		return &wal.PageError{LSN: f.start, Reason: fmt.Sprintf("its file has %d bytes, not %d", f.info.Size(), f.size)}
	}
	var head [longHeaderSize]byte
	if f.method == seal.None {
		_, err = f.file.ReadAt(head[:], 0)
	} else {
		if f.decoder, err = seal.NewReader(f.file, f.method); err != nil {
			return err
		}
		_, err = io.ReadFull(f.decoder, head[:])
		f.stream, f.at = io.MultiReader(bytes.NewReader(head[:]), f.decoder), 0
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", f.path, err)
	}
	return wal.NewPageChecker(rules, f.start).Check(head[:])
}

// stays says whether the name still leads to the file. What a segment is kept in
// elsewhere than in pg_wal does not change.
func (f *segmentFile) stays() (bool, error) {
	if !f.isLive {
		return true, nil
	}
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(info, f.info), err
}

// readAt fills p with what is at an offset, in bytes.
func (f *segmentFile) readAt(p []byte, offset int64) error {
	if f.method == seal.None {
		n, err := f.file.ReadAt(p, offset)
		if n == len(p) {
			return nil
		}
		return err
	}
	if offset < f.at {
		if err := f.rewind(); err != nil {
			return err
		}
	}
	skipped, err := io.CopyN(io.Discard, f.stream, offset-f.at)
	f.at += skipped
	if err == nil {
		var n int
		n, err = io.ReadFull(f.stream, p)
		f.at += int64(n)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// rewind goes back to the beginning of what is compressed.
func (f *segmentFile) rewind() error {
	if err := f.decoder.Close(); err != nil {
		return err
	}
	_, err := f.file.Seek(0, io.SeekStart)
	if err != nil {
		return err
	}
	f.decoder, err = seal.NewReader(f.file, f.method)
	f.stream, f.at = f.decoder, 0
	return err
}

func (f *segmentFile) close() error {
	var err error
	if f.decoder != nil {
		err = f.decoder.Close()
	}
	err = errors.Join(err, f.file.Close())
	f.decoder, f.stream, f.file = nil, nil, nil
	return err
}
