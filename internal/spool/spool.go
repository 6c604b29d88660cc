// Package spool receives the log into a repository by way of a directory on this host, the spool: what came
// is durable there at once, and goes up from there beside the stream, whole segments and what has come of the one
// that is being received. What is in the repository is removed here, but for the newest.
//
// It promises that log which was acknowledged is in the spool, or in the repository, or in both; whoever opens a
// spool again first pushes what is in it. A spool has a bound, behind which nothing is received.
//
// It does not know where the log comes from; how log is kept in a directory is waldir's business, and what a
// repository is that of package repo.
package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/localfs"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
	"basin/internal/waldir"
)

// Options are the options of a Spool. Directory and Repository are required; the rest may be zero.
type Options struct {
	// Directory says where the spool is, and how it is written to. It keeps segments as they are: Compression
	// is to be none.
	Directory waldir.Options

	// Repository opens the cluster in the repository. It is called again, by another goroutine, as long as
	// it fails.
	Repository func(ctx context.Context) (*repo.Cluster, error)

	// Limit is how many bytes of whole segments may wait for the repository; zero is DefaultLimit. The one that
	// is being received comes on top of it.
	Limit int64

	// InRepository says that what is flushed is in the repository then, and not only in the spool.
	InRepository bool

	// Pause is between attempts to push what could not be pushed: the first, which is doubled for each after, up
	// to longestPause; zero is half a second.
	Pause time.Duration
}

// DefaultLimit is 64 segments of the usual size, in bytes.
const DefaultLimit = 64 * wal.DefaultSegmentSize

// marker is the file that says that a directory is a spool, from which segments are removed.
const marker = "basin-spool"

// Spool is a directory through which log goes into a repository. It is a wal.Keeper.
type Spool struct {
	*waldir.Directory
	o      Options
	ctx    context.Context // of pushing
	cancel context.CancelFunc
	pushed chan struct{} // closed once nothing is pushed any more

	mu      sync.Mutex
	changed chan struct{}   // closed, and made anew, whenever something below has
	cluster *repo.Cluster   // nil as long as the repository could not be opened
	queue   []*file         // in the order of the stream
	kept    map[string]bool // histories that are in the repository, or in the queue
	hurry   bool            // what there is is pushed at once
	failed  error           // why nothing more can be pushed until somebody has decided
	warned  int             // which share of the limit was warned of
	since   time.Time       // since when nothing could be pushed; zero if it could
}

// ErrFull is why no segment is begun: as many wait for the repository as may.
var ErrFull = usererr.Hinted("Nothing is acknowledged that is not kept: the server holds the log, if there is a slot, and goes on when the repository takes what waits. Make room in the repository, or see why it is not reached; or raise --spool-limit.",
	"the spool is full: no more log is received until the repository takes what is in it")

// Open opens the spool, of which nobody else may have opened it, and begins to push what is in it. If there is
// something in it, the repository need not be reached for now. Pushing ends with Close.
func Open(ctx context.Context, o Options) (*Spool, error) {
	if o.Limit == 0 {
		o.Limit = DefaultLimit
	}
	if o.Pause == 0 {
		o.Pause = 500 * time.Millisecond
	}
	if warn := o.Directory.Warn; warn != nil {
		var warning sync.Mutex // the directory and who pushes have news of their own
		o.Directory.Warn = func(err error) {
			warning.Lock()
			defer warning.Unlock()
			warn(err)
		}
	}
	s := &Spool{o: o, changed: make(chan struct{}), pushed: make(chan struct{}), kept: make(map[string]bool)}
	files, err := s.mark()
	if err != nil {
		return nil, err
	}
	cluster, err := o.Repository(ctx)
	switch {
	case err != nil && len(files) == 0:
		return nil, err
	case err != nil:
		s.warn(fmt.Errorf("the log in the spool has to wait: %w", err))
	}
	s.cluster = cluster
	if s.Directory, err = waldir.Open(o.Directory); err != nil {
		return nil, err
	}
	if err := s.takeStock(); err != nil {
		return nil, errors.Join(err, s.Directory.Close())
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go s.push()
	return s, nil
}

// isSegment says whether a name is that of a segment in a spool, whole or not.
func isSegment(name string) bool {
	kind := wal.KindOf(name)
	return kind == wal.SegmentFile || kind == wal.PartialFile
}

// mark sees that the directory is a spool, or makes it one if there is no log in it. It returns the names of
// files of the log in it.
func (s *Spool) mark() (files []string, err error) {
	dir := s.o.Directory.Path
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
	}
	isMarked := false
	var strange string
	for _, e := range entries {
		switch name := e.Name(); {
		case name == marker:
			isMarked = true
		case isSegment(name) || wal.KindOf(name) == wal.HistoryFile:
			files = append(files, name)
			strange = name
		case len(name) >= 24 && isSegment(name[:24]):
			strange = name
		}
	}
	switch {
	case isMarked:
		return files, nil
	case strange != "":
		return nil, usererr.Hinted("Name an empty directory: what is in a spool is removed once it is in the repository. To have what is in this one there too, use basin wal push.",
			"directory \"%s\" is no spool, and there is log in it: \"%s\"", dir, strange)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
	}
	defer root.Close() // nothing is written through it that is not synced
	f, err := root.OpenFile(marker, os.O_CREATE|os.O_WRONLY, localfs.FileModeOwner)
	if err != nil {
		return nil, localfs.Errorf(err, dir, "could not create file \"%s\"", filepath.Join(dir, marker))
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	return nil, localfs.SyncRoot(root, dir)
}

// takeStock makes a queue of what is in the spool.
func (s *Spool) takeStock() error {
	entries, err := os.ReadDir(s.o.Directory.Path) // sorted by name, which is the order of the stream
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if wal.KindOf(name) == wal.HistoryFile {
			s.kept[name] = true
			s.queue = append(s.queue, &file{name: name, isHistory: true, isComplete: true})
		}
	}
	for _, e := range entries {
		if !isSegment(e.Name()) {
			continue
		}
		name, isPartial := strings.CutSuffix(e.Name(), ".partial")
		f := &file{name: name, isComplete: !isPartial, isLeft: true}
		if isPartial {
			if f.end, err = s.measure(name); err != nil {
				return err
			}
		}
		s.queue = append(s.queue, f)
	}
	return nil
}

// measure returns up to which offset a partial segment holds whole records.
func (s *Spool) measure(name string) (int64, error) {
	size := s.o.Directory.SegmentSize
	segment, err := wal.ParseSegment(name, size)
	if err != nil {
		return 0, err
	}
	f, err := os.Open(filepath.Join(s.o.Directory.Path, name+".partial"))
	if err != nil {
		return 0, err
	}
	defer f.Close() // it was only read
	rules := wal.PageRules{SystemID: s.o.Directory.SystemID, SegmentSize: size, Timeline: segment.Timeline}
	summary, err := wal.SummarizePart(f, segment, rules)
	if page := (*wal.PageError)(nil); errors.As(err, &page) {
		return 0, nil // nothing had come of it, or it is of another cluster, which Start tells
	}
	return summary.Length, err
}

// change says that something has changed. s.mu is held.
func (s *Spool) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Backlog returns how many whole segments are yet to be pushed.
func (s *Spool) Backlog() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting()
}

// waiting returns how many whole segments are yet to be pushed. s.mu is held.
func (s *Spool) waiting() (n int) {
	for _, f := range s.queue {
		if f.isComplete && !f.isHistory && !f.isThere {
			n++
		}
	}
	return n
}

// Ready waits until there is room for log. That it has to wait is told, as is why.
func (s *Spool) Ready(ctx context.Context) error {
	for isTold := false; ; isTold = true {
		s.mu.Lock()
		changed, full, failed := s.changed, s.isFull(), s.failed
		s.mu.Unlock()
		if failed != nil {
			return failed
		}
		if !full {
			return nil
		}
		if !isTold {
			s.warn(ErrFull)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isFull says whether as much waits as may. s.mu is held.
func (s *Spool) isFull() bool {
	return int64(s.waiting())*s.o.Directory.SegmentSize >= s.o.Limit
}

// warn tells of what ends nothing.
func (s *Spool) warn(err error) {
	if s.o.Directory.Warn != nil {
		s.o.Directory.Warn(err)
	}
}

// warnOfLimit tells that the spool fills, once for each of some shares of it. s.mu is held; what is
// returned, if anything, is to be called when it is not.
func (s *Spool) warnOfLimit() func() {
	waits := int64(s.waiting()) * s.o.Directory.SegmentSize
	share := int(waits * 100 / s.o.Limit)
	switch {
	case share < 25:
		s.warned = 0
	case share >= 90 && s.warned < 90:
		s.warned = 90
	case share >= 50 && s.warned < 50:
		s.warned = 50
	default:
		return func() {}
	}
	if s.warned == 0 {
		return func() {}
	}
	why := "the repository does not take it as fast as it comes"
	if !s.since.IsZero() {
		why = "the repository has taken nothing since " + s.since.UTC().Format(time.RFC3339)
	}
	return func() {
		s.warn(usererr.Hinted("When it is full nothing more is received nor acknowledged, and the server has to hold the log.",
			"%s of log wait in the spool, of %s at most: %s", humanize.IBytes(uint64(waits)), humanize.IBytes(uint64(s.o.Limit)), why))
	}
}

// StartFrom returns where to stream from if nothing is in the spool: where the repository ends, or if the slot holds
// log from a position on, which is zero else, the first segment from there that is not in it. It returns false if the
// repository has no log. A server that is not on the newest timeline of it is an error.
func (s *Spool) StartFrom(ctx context.Context, server, slot wal.Position) (wal.Position, bool, error) {
	s.mu.Lock()
	cluster, failed := s.cluster, s.failed
	s.mu.Unlock()
	if cluster == nil || failed != nil {
		return slot, false, errors.Join(errNotReached, failed)
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	end, ok, err := cluster.LogEnd(ctx, s.o.Directory.SegmentSize, wal.Position{})
	switch {
	case err != nil:
		return end, false, err
	case !ok:
		return slot, slot.LSN != 0, nil
	case end.Timeline > server.Timeline:
		return end, false, usererr.Hinted("A newer server was promoted: name the one that is the primary now. If this one was restored to an earlier state, receive it under another --cluster.",
			"the repository has log of timeline %d, and the server is on timeline %d", end.Timeline, server.Timeline)
	case slot.LSN == 0 || end.Timeline == slot.Timeline && end.LSN <= slot.LSN:
		return end, true, nil
	}
	end, _, err = cluster.LogEnd(ctx, s.o.Directory.SegmentSize, slot)
	return end, true, err
}

// errNotReached is why it is not known where the repository ends.
var errNotReached = errors.New("it is not known where the repository ends, since it is not reached")

// SetApart is that of the directory, once all is in the repository: what is set apart is there too.
func (s *Spool) SetApart(timeline wal.Timeline, fork wal.LSN) (waldir.Apart, error) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, flushTimeout, usererr.Hinted("It is tried again.", "log of a timeline that was left is yet to be pushed before it is set apart"))
	defer cancel()
	if err := s.Drain(ctx); err != nil {
		return waldir.Apart{}, err
	}
	apart, err := s.Directory.SetApart(timeline, fork)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, moved := range apart.Moved {
		s.forget(strings.TrimSuffix(moved, ".partial"))
	}
	return apart, err
}

// forget takes a file out of the queue. s.mu is held.
func (s *Spool) forget(name string) {
	for i, f := range s.queue {
		if f.name == name {
			s.queue = append(s.queue[:i:i], s.queue[i+1:]...)
			s.change()
			return
		}
	}
}

// Drain pushes all that is in the spool, and returns once it is in the repository.
func (s *Spool) Drain(ctx context.Context) error {
	for {
		s.mu.Lock()
		s.hurry = true
		s.change()
		f, _ := s.next(time.Now())
		s.hurry = f != nil
		changed, failed := s.changed, s.failed
		s.mu.Unlock()
		if failed != nil || f == nil {
			return failed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// closeTimeout is how long the repository may take at the end.
const closeTimeout = 10 * time.Second

// Close pushes what is left, if that does not take long, and lets go of the spool. What is not in
// the repository then stays in the spool, and is told of.
func (s *Spool) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.Drain(ctx)
	if err != nil && ctx.Err() != nil {
		s.warn(usererr.Hinted("It is pushed when the receiver is started again with this spool.",
			"the repository does not take the log that is left in \"%s\"", s.o.Directory.Path))
		err = nil
	}
	s.cancel()
	select {
	case <-s.pushed:
	case <-ctx.Done(): // a store that hangs
	}
	return errors.Join(err, s.Directory.Close())
}

// Holds says of which cluster the log in a spool is, and how many bytes a segment of it has. It returns false if
// there is none. That dir is not there is no error.
func Holds(dir string) (systemID uint64, segmentSize int64, ok bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, false, nil
	}
	if err != nil {
		return 0, 0, false, localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
	}
	for _, e := range entries {
		if !isSegment(e.Name()) {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return 0, 0, false, err
		}
		page := make([]byte, firstPage)
		n, err := io.ReadFull(f, page)
		if closed := f.Close(); closed != nil || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return 0, 0, false, errors.Join(err, closed)
		}
		systemID, isPage := wal.SystemID(page[:n])
		segmentSize, hasSize := wal.SegmentSize(page[:n])
		if isPage && hasSize {
			return systemID, segmentSize, true, nil
		}
	}
	return 0, 0, false, nil
}

// firstPage is how many bytes of a segment tell what it is of.
const firstPage = 512
