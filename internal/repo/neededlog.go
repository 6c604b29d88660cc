package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"basin/internal/object"
	"basin/internal/wal"
)

// logNeed says which log backups need, by the numbers of segments, whatever their timelines. The zero value needs all.
type logNeed struct {
	size int64       // bytes of a segment; zero if all log is needed
	from uint64      // number of the segment from which on all are needed
	own  [][2]uint64 // of backups that begin before it, the first and the last that each needs itself

	// lacks is why not each moment can be restored for which log is kept; empty if each can, as far as is known.
	lacks string
}

// has says whether a file of the log is needed, by the name of its object.
func (n *logNeed) has(name string) bool {
	if n.size == 0 {
		return true
	}
	segment, err := wal.ParseSegment(name[strings.LastIndexByte(name, '/')+1:][:24], n.size)
	if err != nil || segment.Number >= n.from {
		return true
	}
	return slices.ContainsFunc(n.own, func(own [2]uint64) bool { return own[0] <= segment.Number && segment.Number <= own[1] })
}

// begin returns where the log begins of which all is needed.
func (n *logNeed) begin() wal.LSN { return wal.Segment{Number: n.from}.Start(n.size) }

// neededLog finds out which log backups, oldest first, need: all from the oldest on, or if each moment is to be restored only for some time
// back, all from where that begins, and before it what each backup needs itself.
func (c *Cluster) neededLog(ctx context.Context, commits []Commit, files []object.Info, o PruneLogOptions) (n logNeed, err error) {
	if len(commits) == 0 {
		return n, nil
	}
	all := logNeed{size: commits[0].SegmentSize, from: math.MaxUint64}
	for _, k := range commits {
		if k.SegmentSize != all.size || !wal.ValidSegmentSize(k.SegmentSize) { // numbers tell nothing then
			return logNeed{}, nil
		}
		all.from = min(all.from, k.firstNeeded())
	}
	if o.Within == 0 {
		return all, nil
	}
	from, lacks, err := c.windowBegin(ctx, commits, files, o.Now.Add(-o.Within))
	if err != nil {
		return n, err
	}
	n = all.since(from, commits)
	n.lacks = lacks
	return n, nil
}

// since returns what is needed if all is only from the segment of a number on, and before it what each backup needs itself.
func (n logNeed) since(from uint64, commits []Commit) logNeed {
	since := logNeed{size: n.size, from: max(from, n.from)}
	for _, k := range commits {
		if first := k.firstNeeded(); first < since.from {
			since.own = append(since.own, [2]uint64{first, k.lastNeeded()})
		}
	}
	return since
}

// keptLog finds out which log prune has left since backups, oldest first, need it: all from the oldest on, but for what was thinned.
func (c *Cluster) keptLog(ctx context.Context, commits []Commit) (logNeed, error) {
	all, err := c.neededLog(ctx, commits, nil, PruneLogOptions{})
	if err != nil || all.size == 0 {
		return all, err
	}
	fact, _, err := c.thinned(ctx)
	if err != nil {
		return all, err
	}
	return all.since(wal.SegmentAt(wal.Position{LSN: max(fact.From, fact.Furthest)}, all.size).Number, commits), nil
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

// clockSlack is by how much the clock of a host that makes backups may be behind that of the store.
const clockSlack = time.Hour

// windowBegin returns the number of the segment from which on log is needed so that each moment since a time can be restored, and why not
// each can, if that is known.
//
// Those are moments of the timelines to which log came since, and of the newest one. Each is led to by the newest backup that ended before
// that time, is on its line, and can be restored; and by those that ended since.
func (c *Cluster) windowBegin(ctx context.Context, commits []Commit, files []object.Info, since time.Time) (from uint64, lacks string, err error) {
	cannot, err := c.CannotRestore(ctx, commits)
	if err != nil {
		return 0, "", err
	}
	from = math.MaxUint64
	var before []Commit
	for _, k := range commits {
		switch {
		case k.timeOf().After(since.Add(-clockSlack)):
			from = min(from, k.firstNeeded())
		case !k.Damaged && cannot[k.ID] == nil:
			before = append(before, k)
		}
	}
	if len(before) == 0 { // the first that leads behind it may be any of those that are there
		return 0, "no backup from before " + since.UTC().Format(time.RFC3339) + " can be restored", nil
	}
	living, err := c.livingTimelines(ctx, before[len(before)-1], files, since)
	if err != nil {
		return 0, "", err
	}
	for _, t := range living {
		onLine, err := c.leading(ctx, before, t)
		if errors.Is(err, fs.ErrNotExist) { // it is not known what leads there
			return 0, wal.HistoryName(t) + " is missing", nil
		}
		if err != nil {
			return 0, "", err
		}
		if len(onLine) == 0 {
			continue
		}
		leads, err := c.newestWhole(ctx, onLine)
		if err != nil {
			return 0, "", err
		}
		if leads == nil {
			return 0, fmt.Sprintf("no backup that leads to timeline %d is whole", t), nil
		}
		from = min(from, leads.firstNeeded())
		reach, err := c.Reach(ctx, *leads, t)
		if err != nil && !errors.Is(err, ErrUnreachable) {
			return 0, "", err
		}
		if err != nil || reach.Resumes != "" {
			lacks = fmt.Sprintf("from backup %s, which leads to timeline %d, log is there up to %v only", leads.ID, t, reach.End)
		}
	}
	return from, lacks, nil
}

// newestWhole returns the newest of some backups that is whole as CheckIndex says; nil if that is none.
func (c *Cluster) newestWhole(ctx context.Context, of []Commit) (*Commit, error) {
	for _, k := range slices.Backward(of) {
		err := c.CheckIndex(ctx, k)
		if err == nil {
			return &k, nil
		}
		if !isLacking(err) {
			return nil, err
		}
	}
	return nil, nil
}

// thinnedFact says that log was thinned: from where on all of it was left.
type thinnedFact struct {
	From wal.LSN   `json:"from"`
	At   time.Time `json:"at"`
	// Furthest is the last such position of all times: what was removed once does not come back when log is kept for longer.
	Furthest wal.LSN `json:"furthest,omitempty"`
}

// ThinnedTo returns from where on all log was left when it was thinned last; zero if it never was.
func (c *Cluster) ThinnedTo(ctx context.Context) (wal.LSN, error) {
	fact, _, err := c.thinned(ctx)
	return fact.From, err
}

// thinned returns what is told of thinning, and the names of the facts.
func (c *Cluster) thinned(ctx context.Context) (last thinnedFact, names []string, err error) {
	for f, err := range c.facts(ctx, factThinned) {
		var fact thinnedFact
		if err == nil {
			err = f.read(&fact)
		}
		if err != nil {
			return last, nil, fmt.Errorf("what is told of thinned log: %w", err)
		}
		if names = append(names, f.name); !fact.At.Before(last.At) {
			last = fact
		}
	}
	return last, names, nil
}

// tellThinned tells from where on all log is left, before it is thinned.
func (c *Cluster) tellThinned(ctx context.Context, from wal.LSN, now time.Time) error {
	last, names, err := c.thinned(ctx)
	if err != nil || last.From == from {
		return err
	}
	if _, err := c.putFact(ctx, factThinned, thinnedFact{from, now.UTC(), max(from, last.From, last.Furthest)}); err != nil {
		return err
	}
	_, err = c.remove(ctx, names)
	return err
}

// Thinned knows which log is not there on purpose. The zero value knows of none.
type Thinned struct{ left logNeed }

// Thinned returns which log of the cluster is not there on purpose, as prune has thinned it. commits are its backups, oldest first.
func (c *Cluster) Thinned(ctx context.Context, commits []Commit) (Thinned, error) {
	left, err := c.keptLog(ctx, commits)
	return Thinned{left}, err
}

// Explains says whether log that is missing from a position on, up to a file of the log, is so on purpose. It is not if prune had left any of it.
func (t Thinned) Explains(from wal.LSN, resumes string) bool {
	if t.left.size == 0 || len(resumes) < 24 {
		return false
	}
	behind, err := wal.ParseSegment(resumes[:24], t.left.size)
	if err != nil || behind.Number > t.left.from {
		return false
	}
	first := wal.SegmentAt(wal.Position{LSN: from}, t.left.size).Number
	return !slices.ContainsFunc(t.left.own, func(own [2]uint64) bool { return own[0] < behind.Number && first <= own[1] })
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
