package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"slices"
	"strings"
	"sync"

	"basin/internal/usererr"
	"basin/internal/wal"
)

// Reach is how far the log in a repository leads from a backup on.
type Reach struct {
	Timeline wal.Timeline // that the log is followed to
	End      wal.LSN      // behind the log that is there without a gap
	Last     string       // name of the last file of the log
	Segments []string     // names of the segments, in order, or of the part behind which the server left one for the next
	// Resumes is the name of the first file behind the gap, if there is one. IsMinimal says that the log in it is there, and of no use.
	Resumes   string
	IsMinimal bool // the server went on with wal_level=minimal
}

// History returns where a timeline comes from, as the repository knows it.
func (c *Cluster) History(ctx context.Context, t wal.Timeline) (wal.History, error) {
	if t == 1 {
		return nil, nil
	}
	content, err := c.Log(ctx, wal.HistoryName(t))
	if err != nil {
		return nil, err
	}
	history, err := wal.ParseHistory(t, content)
	return clipped(history), err
}

// NewestTimeline returns the newest timeline that comes from where a backup is.
func (c *Cluster) NewestTimeline(ctx context.Context, from Commit) (wal.Timeline, error) {
	timelines, err := c.Timelines(ctx)
	if err != nil {
		return 0, err
	}
	for _, t := range slices.Backward(timelines) {
		if t <= from.Stop.Timeline {
			break
		}
		history, err := c.History(ctx, t)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its log alone leads nowhere
		}
		if err != nil {
			return 0, err
		}
		if end, ok := history.End(from.Stop.Timeline); ok && end >= from.Stop.LSN {
			return t, nil
		}
	}
	return from.Stop.Timeline, nil
}

// branch is a timeline from a segment on.
type branch struct {
	timeline wal.Timeline
	first    uint64  // number of the segment that it begins in
	last     uint64  // that it is left in
	end      wal.LSN // where it is left
}

// branches returns the timelines that lead to t, the newest first.
func branches(t wal.Timeline, history wal.History, segmentSize int64) []branch {
	all := []branch{{timeline: t, last: math.MaxUint64, end: math.MaxUint64}}
	for i := len(history) - 1; i >= 0; i-- {
		fork := wal.SegmentAt(wal.Position{LSN: history[i].End}, segmentSize).Number
		all[len(all)-1].first = fork
		all = append(all, branch{timeline: history[i].Timeline, last: fork, end: history[i].End})
	}
	return all
}

// Reach follows the log from a backup's start to the end of a timeline. It is an error that wraps ErrUnreachable if that
// is not on the backup's line, or if the log does not lead to where the backup ends.
func (c *Cluster) Reach(ctx context.Context, from Commit, t wal.Timeline) (Reach, error) {
	history, err := c.History(ctx, t)
	if errors.Is(err, fs.ErrNotExist) {
		return Reach{}, unreachable{usererr.Hinted("basin list shows the timelines that are there.", "timeline %d is not in the repository: %w", t, fs.ErrNotExist)}
	}
	if err != nil {
		return Reach{}, err
	}
	if end, ok := history.End(from.Stop.Timeline); t != from.Stop.Timeline && (!ok || end < from.Stop.LSN) {
		return Reach{}, unreachable{usererr.Hinted("Choose a backup that ended before the timelines parted.",
			"timeline %d does not come from where backup %s is, %v on timeline %d", t, from.ID, from.Stop.LSN, from.Stop.Timeline)}
	}
	size := from.SegmentSize
	if !wal.ValidSegmentSize(size) {
		return Reach{}, fmt.Errorf("backup %s: segments of %d bytes", from.ID, size)
	}
	line := branches(t, history, size)
	first := wal.SegmentAt(from.Start, size)
	log := c.listLine(ctx, line, first.Number, size)
	defer log.stop()
	reach := Reach{Timeline: t}
	number, end, rest := first.Number, wal.LSN(math.MaxUint64), line
	for ; end == math.MaxUint64; number++ {
		found, err := log.at(number, len(rest))
		if err != nil {
			return Reach{}, err
		}
		name := ""
		if found != nil {
			name = found.Name(size)
		} else if found, name, err = c.left(ctx, log, rest, number, size); err != nil {
			return Reach{}, err
		}
		if found == nil {
			break
		}
		rest = upTo(line, found.Timeline) // recovery never goes back to an older one
		if b := rest[len(rest)-1]; number == b.last {
			// Only the first part of it counts: what a newer timeline began with there is missing, or there is a part of it.
			newer := rest[:len(rest)-1]
			part, partName, err := c.left(ctx, log, newer, number, size)
			if err != nil {
				return Reach{}, err
			}
			if part == nil {
				end = b.end
			} else {
				rest, name = upTo(line, part.Timeline), partName
			}
		}
		reach.Last = name
		reach.Segments = append(reach.Segments, reach.Last)
	}
	reach.End = min(wal.Segment{Number: number}.Start(size), end)
	behind, err := log.behind(number, len(rest))
	if err != nil {
		return Reach{}, err
	}
	if behind != nil {
		reach.Resumes = behind.Name(size)
	}
	if end < math.MaxUint64 { // where a timeline was left
		rest, number = rest[:len(rest)-1], number-1
	}
	if err := c.reachPartial(ctx, rest, number, size, &reach); err != nil {
		return reach, err
	}
	if n := len(reach.Segments); n > 0 && end < math.MaxUint64 && reach.Last != reach.Segments[n-1] {
		reach.Segments = reach.Segments[:n-1] // in place of which that part is read
	}
	if err := c.cutMinimal(ctx, from.Start.LSN, line, size, &reach); err != nil {
		return reach, err
	}
	if reach.End < from.Stop.LSN {
		return reach, unreachable{usererr.Hinted("Choose an older or newer backup; basin list shows them. If the missing log is elsewhere, push it: basin wal push FILE.",
			"log that backup %s needs is missing: it is there up to %v, and the backup ends at %v", from.ID, reach.End, from.Stop.LSN)}
	}
	return reach, nil
}

// lineLog are the segments of the timelines of a line, the newest first. No more is listed than is asked for: behind a gap there may be
// much.
type lineLog []*listedLog

// listedLog are the segments of a timeline of a line that are there.
type listedLog struct {
	branch
	size int64 // of a segment, in bytes
	next func() (string, error, bool)
	stop func()

	isBegun bool
	isThere bool   // the one that is next is
	number  uint64 // of that
}

// listLine lists the segments of a line from a number on.
func (c *Cluster) listLine(ctx context.Context, line []branch, from uint64, size int64) lineLog {
	var log lineLog
	for _, b := range line {
		l := &listedLog{branch: b, size: size}
		start := wal.Segment{Timeline: b.timeline, Number: max(from, b.first)}
		l.next, l.stop = iter.Pull2(c.LogNames(ctx, b.timeline, start.Name(size)))
		log = append(log, l)
	}
	return log
}

// stop ends the lists.
func (f lineLog) stop() {
	for _, l := range f {
		l.stop()
	}
}

// to goes to the first segment of a number, or behind it. Numbers never fall.
func (l *listedLog) to(number uint64) error {
	for !l.isBegun || l.isThere && l.number < max(number, l.first) {
		name, err, ok := l.next()
		switch {
		case err != nil:
			return err
		case ok && !IsSegment(name):
			continue
		}
		l.isBegun, l.isThere = true, ok
		if !ok {
			break
		}
		segment, err := wal.ParseSegment(name, l.size)
		if err != nil {
			return err
		}
		l.number = segment.Number
	}
	l.isThere = l.isThere && l.number <= l.last
	return nil
}

// at returns which segment of a number is read in recovery, of so many timelines that are left: that of the newest that is there.
//
// Source: XLogFileReadAnyTLI in src/backend/access/transam/xlogrecovery.c, PostgreSQL 18.
func (f lineLog) at(number uint64, left int) (*wal.Segment, error) {
	for _, l := range f[:left] {
		if err := l.to(number); err != nil {
			return nil, err
		}
		if l.isThere && l.number == number {
			return &wal.Segment{Timeline: l.timeline, Number: number}, nil
		}
	}
	return nil, nil
}

// behind returns the first segment from a number on, of so many timelines that are left.
func (f lineLog) behind(number uint64, left int) (first *wal.Segment, err error) {
	for _, l := range f[:left] {
		if err := l.to(number); err != nil {
			return nil, err
		}
		if l.isThere && (first == nil || l.number < first.Number) {
			first = &wal.Segment{Timeline: l.timeline, Number: l.number}
		}
	}
	return first, nil
}

// upTo returns the timelines of a line that are not older than one of them.
func upTo(line []branch, t wal.Timeline) []branch {
	i := slices.IndexFunc(line, func(b branch) bool { return b.timeline == t })
	return line[:i+1]
}

// partOn returns the longest part of a segment that is there, of the newest timeline of a line that has one; nil if none has.
func (c *Cluster) partOn(ctx context.Context, line []branch, number uint64, size int64) (b *branch, name string, err error) {
	for _, b := range line {
		if b.first > number || number > b.last {
			continue
		}
		name, err := c.LongestPartial(ctx, wal.Segment{Timeline: b.timeline, Number: number}.Name(size))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return &b, name, err
	}
	return nil, "", nil
}

// left returns the segment of a number if there is a part of it behind which the server left it for the next, as it does at the end of a backup:
// that is all there is of it. Parts are read only if there is something of the next.
func (c *Cluster) left(ctx context.Context, log lineLog, line []branch, number uint64, size int64) (*wal.Segment, string, error) {
	b, name, err := c.partOn(ctx, line, number, size)
	if err != nil || b == nil || !strings.Contains(name, ".partial.") { // what follows the log in another may be anything
		return nil, "", err
	}
	next, err := log.behind(number+1, len(line))
	if err != nil {
		return nil, "", err
	}
	if next == nil || next.Number > number+1 {
		if part, _, err := c.partOn(ctx, line, number+1, size); err != nil || part == nil {
			return nil, "", err
		}
	}
	facts, err := c.knownFacts(ctx, name)
	switch {
	case isLacking(err), errors.Is(err, ErrNoKey), errors.As(err, new(*OtherLogError)): // it is not known to be
		return nil, "", nil
	case err != nil:
		return nil, "", err
	case facts.Summary == nil || !facts.Summary.IsSwitched:
		return nil, "", nil
	}
	return &wal.Segment{Timeline: b.timeline, Number: number}, name, nil
}

// reachPartial goes on into a segment of which a part is there.
func (c *Cluster) reachPartial(ctx context.Context, line []branch, number uint64, size int64, reach *Reach) error {
	b, name, err := c.partOn(ctx, line, number, size)
	if err != nil || b == nil {
		return err
	}
	reach.Last = name
	if _, digits, ok := strings.Cut(name, ".partial."); ok {
		var end int64
		if _, err := fmt.Sscanf(digits, "%X", &end); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		reach.End = min(wal.Segment{Number: number}.Start(size)+wal.LSN(end), b.end)
	}
	return nil
}

// files returns the names of the files of the log, the newest first.
func (r *Reach) files() []string {
	all := slices.Clone(r.Segments)
	if n := len(all); r.Last != "" && (n == 0 || all[n-1] != r.Last) {
		all = append(all, r.Last)
	}
	slices.Reverse(all)
	return all
}

// Facts yields what is known of the files of the log, the newest first.
func (c *Cluster) Facts(ctx context.Context, r Reach) iter.Seq2[LogFacts, error] {
	return func(yield func(LogFacts, error) bool) {
		names, ahead := r.files(), 1
		for len(names) > 0 { // often one is enough: so there are more at once the farther it goes
			n := min(ahead, len(names))
			read, errs := make([]LogFacts, n), make([]error, n)
			var working sync.WaitGroup
			for i, name := range names[:n] {
				working.Go(func() { read[i], errs[i] = c.knownFacts(ctx, name) })
			}
			working.Wait()
			for i := range n {
				if !yield(read[i], errs[i]) || errs[i] != nil {
					return
				}
			}
			names, ahead = names[n:], min(2*ahead, factsAtOnce)
		}
	}
}

const (
	// factsAtOnce is how many files of the log are asked for what is known of them at once.
	factsAtOnce = 16
	// factsKept is of how many that is kept, those that were read first: some kilobytes each.
	factsKept = 8192
)

// knownFacts is LogFacts, and reads nothing twice: several backups are tried with the same log.
func (c *Cluster) knownFacts(ctx context.Context, name string) (LogFacts, error) {
	c.mu.Lock()
	facts, ok := c.known[name]
	c.mu.Unlock()
	if ok {
		return facts, nil
	}
	facts, err := c.LogFacts(ctx, name)
	if err != nil {
		return facts, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = make(map[string]LogFacts)
	}
	if len(c.known) < factsKept {
		c.known[name] = facts
	}
	return facts, nil
}
