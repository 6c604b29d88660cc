package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"basin/internal/wal"
)

// clipped returns a history as it has to be. PostgreSQL that was told to recover to a timeline, and ended before that began, writes that it
// left it, and not the one on which it was: at a position before the beginning.
//
// Source: writeTimeLineHistory in src/backend/access/transam/timeline.c, which is given recoveryTargetTLI, PostgreSQL 18.
func clipped(h wal.History) wal.History {
	for n := len(h); n > 1 && h[n-1].End < h[n-2].End; n = len(h) {
		end := h[n-1].End
		h = slices.Clone(h[:n-1])
		h[n-2].End = end
	}
	return h
}

// Life is when a timeline was written to, as far as that is in the repository.
type Life struct {
	Timeline wal.Timeline
	Left     wal.Timeline // that it comes from; zero for none
	At       wal.LSN      // where it left that

	// Began and Ended are when the first and the last transaction of its own ended, or a backup, by their servers' clocks. If there is
	// log and none in it, they are when the first and the last file came. They are zero if there is no log.
	Began, Ended time.Time
	Arrived      time.Time // when its newest file came, be it the history

	history wal.History
}

// IsOn says whether the timeline is another one, or comes from it.
func (l *Life) IsOn(t wal.Timeline) bool {
	_, ok := l.history.End(t)
	return ok || l.Timeline == t
}

// leads says whether a backup is on the line of the timeline.
func (l *Life) leads(k *Commit) bool {
	end, ok := l.history.End(k.Stop.Timeline)
	return k.Stop.Timeline == l.Timeline || ok && k.Stop.LSN <= end
}

// Leading returns those of some backups that are on the line of the timeline.
func (l *Life) Leading(commits []Commit) []Commit {
	return slices.DeleteFunc(slices.Clone(commits), func(k Commit) bool { return !l.leads(&k) })
}

// leading returns those of some backups that are on the line of a timeline.
func (c *Cluster) leading(ctx context.Context, commits []Commit, t wal.Timeline) ([]Commit, error) {
	history, err := c.History(ctx, t)
	if err != nil {
		return nil, err
	}
	l := Life{Timeline: t, history: history}
	return l.Leading(commits), nil
}

// Lives returns when each timeline was written to, those of the backups among them, by number. One of which it is not known where it comes from
// is left out. If there is but one it is not looked into.
func (c *Cluster) Lives(ctx context.Context, commits []Commit) ([]Life, error) {
	timelines, err := c.Timelines(ctx)
	if err != nil || len(commits) == 0 {
		return nil, err
	}
	size := commits[len(commits)-1].SegmentSize
	if !wal.ValidSegmentSize(size) {
		return nil, fmt.Errorf("segments of %d bytes", size)
	}
	for _, k := range commits {
		timelines = append(timelines, k.Stop.Timeline)
	}
	slices.Sort(timelines)
	timelines = slices.DeleteFunc(slices.Compact(timelines), func(t wal.Timeline) bool { return t == 0 })
	var lives []Life
	for _, t := range timelines {
		l := Life{Timeline: t}
		l.history, err = c.History(ctx, t)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && len(timelines) > 1 {
			err = c.live(ctx, &l, commits, size)
		}
		if err != nil {
			return nil, err
		}
		lives = append(lives, l)
	}
	return lives, nil
}

// live finds out when a timeline was written to.
func (c *Cluster) live(ctx context.Context, l *Life, commits []Commit, size int64) error {
	if n := len(l.history); n > 0 {
		l.Left, l.At = l.history[n-1].Timeline, l.history[n-1].End
	}
	first := wal.SegmentAt(wal.Position{LSN: l.At, Timeline: l.Timeline}, size).Name(size)
	var names []string
	var came []time.Time
	for info, err := range c.repo.store.List(ctx, c.below(fmt.Sprintf("wal/%08X/", uint32(l.Timeline))), "") {
		if err != nil {
			return err
		}
		if info.Time.After(l.Arrived) {
			l.Arrived = info.Time
		}
		name := info.Name[strings.LastIndexByte(info.Name, '/')+1:]
		if !isHistory(name) && wal.KindOf(name) != wal.BackupFile && isOfSegment(name) && name >= first {
			names, came = append(names, name), append(came, info.Time)
		}
	}
	var err error
	if l.Began, err = c.someEnd(ctx, names, first, l.At, size, false); err != nil {
		return err
	}
	slices.Reverse(names)
	if l.Ended, err = c.someEnd(ctx, names, first, l.At, size, true); err != nil {
		return err
	}
	if len(came) > 0 && l.Began.IsZero() && l.Left != 0 {
		l.Began, l.Ended = slices.MinFunc(came, time.Time.Compare), slices.MaxFunc(came, time.Time.Compare)
	}
	for _, k := range commits {
		if k.Stop.Timeline != l.Timeline {
			continue
		}
		if l.Began.IsZero() || k.Ended.Before(l.Began) {
			l.Began = k.Ended
		}
		if k.Ended.After(l.Ended) {
			l.Ended = k.Ended
		}
	}
	return nil
}

// someEndFiles is of how many files it is asked at most when a transaction ended.
const someEndFiles = 1024

// someEnd returns when the first transaction ended that one of some files of the log tells of, or with isLast the last, from a position on; it is the zero
// time if none does. first is the name of the segment of that position.
func (c *Cluster) someEnd(ctx context.Context, names []string, first string, from wal.LSN, size int64, isLast bool) (time.Time, error) {
	for i, name := range names[:min(len(names), someEndFiles)] {
		if i&(i-1) == 0 || i%factsAtOnce == 0 { // often one is enough: so there are more at once the farther it goes
			var working sync.WaitGroup
			for _, next := range names[i:min(i+min(max(i, 1), factsAtOnce), len(names))] {
				working.Go(func() { _, _ = c.knownFacts(ctx, next) }) // what cannot be read is told below
			}
			working.Wait()
		}
		facts, err := c.knownFacts(ctx, name)
		if isLacking(err) { // it tells nothing
			continue
		}
		if err != nil {
			return time.Time{}, err
		}
		s := facts.Summary
		if s == nil || s.Transactions.Count == 0 {
			continue
		}
		at := s.Transactions.Earliest
		if isLast {
			at = s.Transactions.Latest
		}
		if name[:24] == first && from > s.Start { // of which the beginning is another timeline's
			at, err = c.endIn(ctx, name, from, s.Start, size, isLast)
			if isLacking(err) {
				continue
			}
			if err != nil {
				return at, err
			}
		}
		if !at.IsZero() {
			return at, nil
		}
	}
	return time.Time{}, nil
}

// endIn returns when the first, or the last, transaction ended in a file of the log, that begins at a position, from another one on.
func (c *Cluster) endIn(ctx context.Context, name string, from, start wal.LSN, size int64, isLast bool) (at time.Time, err error) {
	content, err := c.Log(ctx, name)
	if err != nil {
		return at, err
	}
	records := wal.NewRecordReader(bytes.NewReader(content), start, size)
	for at.IsZero() || isLast {
		record, err := records.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return at, fmt.Errorf("%s: %w", name, err)
		}
		if record.LSN < from {
			continue
		}
		if end, ok := record.Commit(); ok {
			at = end.Time
		} else if end, ok := record.Abort(); ok {
			at = end.Time
		}
	}
	return at, nil
}

// lifeSlack is by how much a timeline may have begun before the one ended that it replaced: the clocks of two servers differ, and the one that was left may
// have ended a little later.
const lifeSlack = time.Minute

// MainLine returns the timeline that the cluster is on now: each that began when the one before it had ended, and went on, replaced it, as a promotion and a
// restore to an earlier moment do. One that began while another was written to, and is so still, is that of a copy that archives. It is nil if there is none.
func MainLine(lives []Life) *Life {
	var main *Life
	lives = slices.Clone(lives)
	slices.SortStableFunc(lives, func(a, b Life) int { return a.Began.Compare(b.Began) })
	for i := range lives {
		l := &lives[i]
		switch {
		case l.Began.IsZero(): // there is no log of it
		case main == nil:
			main = l
		case l.Began.After(main.Ended.Add(-lifeSlack)) && l.Ended.After(main.Ended):
			main = l
		}
	}
	if main == nil && len(lives) > 0 {
		return &lives[0]
	}
	return main
}

// elsewhere returns the timelines to which something came since the newest of some good backups, oldest first, which is not on their line.
func (c *Cluster) elsewhere(ctx context.Context, good []Commit) ([]Life, error) {
	lives, err := c.Lives(ctx, good)
	if err != nil || len(lives) < 2 {
		return nil, err
	}
	newest := &good[len(good)-1]
	return slices.DeleteFunc(lives, func(l Life) bool {
		return l.leads(newest) || !l.Ended.After(newest.Ended) && !l.Arrived.After(newest.Ended)
	}), nil
}
