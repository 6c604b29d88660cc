// Package feed knows the log of a running cluster for those who read along: how
// far it is flushed, on which timeline, and in which files its bytes are.
//
// It learns how far from a stream of the log that the cluster itself sends, of
// which it keeps nothing: what was sent is flushed, and so is in pg_wal. It opens
// no connection, writes no file, and keeps no log from being removed: that is for
// a slot of the stream.
package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"basin/internal/seal"
	"basin/internal/wal"
)

// Options say where the log is, and of which cluster.
type Options struct {
	Dir         string // the cluster's pg_wal
	ArchiveDir  string // where complete segments are kept, compressed or not; empty for nowhere
	SegmentSize int64  // in bytes; must be valid
	SystemID    uint64 // of the cluster; zero for any
	Major       int    // of the server; zero for any
}

// Feed is how far the log of a cluster is flushed. It is a wal.Keeper that a
// stream from the cluster drives; its other methods may be called at any time.
type Feed struct {
	o Options

	mu      sync.Mutex
	flushed wal.Position
	changed chan struct{} // closed once flushed is another
	// histories are the contents of history files that came with the stream.
	histories map[wal.Timeline][]byte
}

// New returns the feed of a cluster of which no log is known yet.
func New(o Options) *Feed {
	return &Feed{o: o, changed: make(chan struct{}), histories: make(map[wal.Timeline][]byte)}
}

// Flushed returns the position up to which the log may be sent, on the newest
// timeline, and a channel that is closed at the next change. The position is a
// boundary of records or of pages.
func (f *Feed) Flushed() (wal.Position, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.flushed, f.changed
}

// Advance tells that the log is flushed up to a position, such as the one that
// IDENTIFY_SYSTEM gives. One that is behind what is known says nothing.
func (f *Feed) Advance(p wal.Position) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.advance(p)
}

// advance is Advance with f locked.
func (f *Feed) advance(p wal.Position) {
	if p.Timeline < f.flushed.Timeline || p.Timeline == f.flushed.Timeline && p.LSN <= f.flushed.LSN {
		return // a stream that was interrupted begins again with the segment
	}
	f.flushed = p
	close(f.changed)
	f.changed = make(chan struct{})
}

// Begin starts a segment of the stream, which nothing is kept of.
func (f *Feed) Begin(name string, size int64) (wal.SegmentWriter, error) {
	segment, err := wal.ParseSegment(name, size)
	if err != nil {
		return nil, err
	}
	if size != f.o.SegmentSize {
		return nil, fmt.Errorf("segment %s is of %d bytes, not of %d", name, size, f.o.SegmentSize)
	}
	start := segment.Start(size)
	return &segmentWriter{feed: f, at: wal.Position{LSN: start, Timeline: segment.Timeline}, seam: seam{page: start}}, nil
}

// History notes a timeline's history. The cluster has come to that timeline, so
// all log up to where it begins is flushed.
func (f *Feed) History(name string, content []byte) error {
	digits, ok := strings.CutSuffix(name, ".history")
	t, err := strconv.ParseUint(digits, 16, 32)
	timeline := wal.Timeline(t)
	if !ok || err != nil || wal.HistoryName(timeline) != name {
		return fmt.Errorf("%q is not the name of a timeline history file", name)
	}
	history, err := wal.ParseHistory(timeline, content)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.histories[timeline] = content
	if timeline > f.flushed.Timeline && len(history) > 0 {
		f.advance(wal.Position{LSN: history[len(history)-1].End, Timeline: timeline})
	}
	return nil
}

// maxHistory bounds, in bytes, what is read of a history file.
const maxHistory = 16 << 20

// HistoryFile returns the content of a timeline's history file. One that is nowhere
// is an error that wraps fs.ErrNotExist.
func (f *Feed) HistoryFile(_ context.Context, t wal.Timeline) ([]byte, error) {
	name := wal.HistoryName(t)
	content, err := readHistory(filepath.Join(f.o.Dir, name), seal.None)
	for method := seal.None; method <= seal.Zstd && errors.Is(err, fs.ErrNotExist) && f.o.ArchiveDir != ""; method++ {
		content, err = readHistory(filepath.Join(f.o.ArchiveDir, name+seal.Suffix(method)), method)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return content, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if content, ok := f.histories[t]; ok {
		return content, nil
	}
	return nil, fmt.Errorf("timeline history %s: %w", name, fs.ErrNotExist)
}

func readHistory(path string, method seal.Algorithm) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r, err := seal.NewReader(file, method)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, maxHistory))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return content, nil
}

// segmentWriter learns how far the log is flushed from the bytes of a segment.
type segmentWriter struct {
	feed *Feed
	at   wal.Position // of the next byte
	seam seam
}

func (s *segmentWriter) Write(p []byte) (int, error) {
	s.seam.pass(s.at.LSN, p)
	s.at.LSN += wal.LSN(len(p))
	s.feed.Advance(wal.Position{LSN: s.seam.last(), Timeline: s.at.Timeline})
	return len(p), nil
}

func (s *segmentWriter) Flush() error   { return nil }
func (s *segmentWriter) Finish() error  { return nil }
func (s *segmentWriter) Abandon() error { return nil }
