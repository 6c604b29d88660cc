package repo

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"basin/internal/object"
	"basin/internal/wal"
)

// neededLog says which log backups need, by the numbers of segments, whatever their timelines. The zero value needs all.
type neededLog struct {
	size int64       // bytes of a segment; zero if all log is needed
	from uint64      // number of the segment from which on all are needed
	own  [][2]uint64 // of backups that begin before it, the first and the last that each needs itself
}

// has says whether a file of the log is needed, by the name of its object.
func (n *neededLog) has(name string) bool {
	if n.size == 0 {
		return true
	}
	segment, err := wal.ParseSegment(name[strings.LastIndexByte(name, '/')+1:][:24], n.size)
	if err != nil || segment.Number >= n.from {
		return true
	}
	return slices.ContainsFunc(n.own, func(own [2]uint64) bool { return own[0] <= segment.Number && segment.Number <= own[1] })
}

// neededLog finds out which log backups, oldest first, need: all from the oldest on, or if each moment is to be restored only for some time
// back, all from where that begins, and before it what each backup needs itself.
func (c *Cluster) neededLog(ctx context.Context, commits []Commit, files []object.Info, o PruneLogOptions) (n neededLog, err error) {
	if len(commits) == 0 {
		return n, nil
	}
	all := neededLog{size: commits[0].SegmentSize, from: math.MaxUint64}
	for _, k := range commits {
		if k.SegmentSize != all.size || !wal.ValidSegmentSize(k.SegmentSize) { // numbers tell nothing then
			return neededLog{}, nil
		}
		all.from = min(all.from, k.firstNeeded())
	}
	if o.Within == 0 {
		return all, nil
	}
	from, err := c.windowBegin(ctx, commits, files, o.Now.Add(-o.Within))
	if err != nil {
		return n, err
	}
	n = neededLog{size: all.size, from: max(from, all.from)}
	for _, k := range commits {
		if first := k.firstNeeded(); first < n.from {
			n.own = append(n.own, [2]uint64{first, k.lastNeeded()})
		}
	}
	return n, nil
}

// firstNeeded returns the number of the first segment that a backup needs.
func (c *Commit) firstNeeded() uint64 {
	first := c.Start.LSN
	for _, r := range c.Ranges {
		first = min(first, r.Start)
	}
	return wal.SegmentAt(wal.Position{LSN: first}, c.SegmentSize).Number
}

// lastNeeded returns the number of the last segment that a backup needs.
func (c *Commit) lastNeeded() uint64 {
	last := max(c.Start.LSN, c.Stop.LSN)
	for _, r := range c.Ranges {
		last = max(last, r.End)
	}
	return wal.SegmentAt(wal.Position{LSN: last}, c.SegmentSize).Number
}

// windowBegin returns the number of the segment from which on log is needed so that each moment since a time can be restored.
//
// Those are moments of the timelines to which log came since, and of the newest one. Each is led to by the newest backup that ended before
// that time, is on its line, and can be restored; and by those that ended since.
func (c *Cluster) windowBegin(ctx context.Context, commits []Commit, files []object.Info, since time.Time) (uint64, error) {
	cannot, err := c.CannotRestore(ctx, commits)
	if err != nil {
		return 0, err
	}
	from := uint64(math.MaxUint64)
	var before []Commit
	for _, k := range commits {
		switch {
		case k.timeOf().After(since):
			from = min(from, k.firstNeeded())
		case !k.Damaged && cannot[k.ID] == nil:
			before = append(before, k)
		}
	}
	if len(before) == 0 { // nothing leads to the beginning of that time, and the first that leads behind it may be any of those that are there
		return 0, nil
	}
	living, err := c.livingTimelines(ctx, before[len(before)-1], files, since)
	if err != nil {
		return 0, err
	}
	for _, t := range living {
		history, err := c.History(ctx, t)
		if errors.Is(err, fs.ErrNotExist) { // it is not known what leads there
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		for _, k := range slices.Backward(before) {
			if end, ok := history.End(k.Stop.Timeline); k.Stop.Timeline == t || ok && k.Stop.LSN <= end {
				from = min(from, k.firstNeeded())
				break
			}
		}
	}
	return from, nil
}

// livingTimelines returns the timelines to which log came since a time, the newest of all, and that which comes from where a backup is.
func (c *Cluster) livingTimelines(ctx context.Context, newest Commit, files []object.Info, since time.Time) ([]wal.Timeline, error) {
	t, err := c.NewestTimeline(ctx, newest)
	if err != nil {
		return nil, err
	}
	living := []wal.Timeline{t}
	last := wal.Timeline(0)
	for _, info := range files {
		name := info.Name[strings.LastIndexByte(info.Name, '/')+1:]
		segment, err := wal.ParseSegment(name[:24], wal.MinSegmentSize) // of which the timeline alone counts
		if err != nil {
			return nil, err
		}
		last = max(last, segment.Timeline)
		if info.Time.After(since) {
			living = append(living, segment.Timeline)
		}
	}
	if last != 0 {
		living = append(living, last)
	}
	slices.Sort(living)
	return slices.Compact(living), nil
}
