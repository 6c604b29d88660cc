package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
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

// Rival is a timeline that does not come from where a backup is, but left the same line before.
type Rival struct {
	Timeline wal.Timeline
	Left     wal.Timeline // that it, or one that it comes from, has left
	At       wal.LSN      // where it did

	Began time.Time // when the first transaction ended on it, by its server's clock
	Ended time.Time // when the last one did on the backup's line, or the backup itself
}

// Replaces says whether nothing happened on the backup's line since the rival began: a restore to an earlier moment replaced it. Else both
// were written to at a time, as by a copy that archives.
func (r *Rival) Replaces() bool { return r.Began.After(r.Ended) }

// Leading returns those of some backups that are on the line of a timeline.
func (c *Cluster) Leading(ctx context.Context, commits []Commit, t wal.Timeline) ([]Commit, error) {
	history, err := c.History(ctx, t)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(commits), func(k Commit) bool {
		end, ok := history.End(k.Stop.Timeline)
		return k.Stop.Timeline != t && (!ok || k.Stop.LSN > end)
	}), nil
}

// Rival returns the newest timeline on which something happened and that left the line of a backup before where that is; of several one that replaces it, if
// there is such a one. It is nil if there is none.
func (c *Cluster) Rival(ctx context.Context, from Commit) (*Rival, error) {
	own, err := c.NewestTimeline(ctx, from)
	if err != nil {
		return nil, err
	}
	timelines, err := c.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	var found *Rival
	var line wal.History
	for _, t := range slices.Backward(timelines) {
		if t <= own {
			break
		}
		if line == nil && own > 1 {
			if line, err = c.History(ctx, own); err != nil {
				return found, err
			}
		}
		r, err := c.rival(ctx, from, t, own, line)
		if err != nil {
			return nil, err
		}
		if r != nil && (found == nil || r.Replaces()) {
			found = r
		}
		if found != nil && found.Replaces() {
			break
		}
	}
	return found, nil
}

// rival returns a timeline as a rival of a backup, whose line is that of another one with a history. It is nil if it is none.
func (c *Cluster) rival(ctx context.Context, from Commit, t, own wal.Timeline, line wal.History) (*Rival, error) {
	history, err := c.History(ctx, t)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // its log leads nowhere
	}
	if err != nil {
		return nil, err
	}
	for i, fork := range slices.Backward(history) {
		end, isOn := line.End(fork.Timeline)
		if fork.Timeline != own && (!isOn || end < fork.End) {
			continue
		}
		r := &Rival{Timeline: t, Left: fork.Timeline, At: fork.End, Ended: from.Ended}
		branch := append([]wal.Timeline{}, t)
		for _, later := range slices.Backward(history[i+1:]) {
			branch = append(branch, later.Timeline)
		}
		for _, b := range slices.Backward(branch) { // oldest first
			if r.Began, err = c.firstEnd(ctx, b, fork.End, from.SegmentSize); err != nil || !r.Began.IsZero() {
				break
			}
		}
		if err != nil || r.Began.IsZero() {
			return nil, err
		}
		reach, err := c.Reach(ctx, from, own)
		if errors.Is(err, ErrUnreachable) {
			return r, nil
		}
		if err != nil {
			return nil, err
		}
		last, err := c.LastCommit(ctx, reach)
		if last.After(r.Ended) {
			r.Ended = last
		}
		return r, err
	}
	return nil, nil
}

// firstEndFiles is of how many files, the oldest first, it is asked when the first transaction ended.
const firstEndFiles = 64

// firstEnd returns when the first transaction ended in the log of a timeline from a position on; it is the zero time if there is none in the first
// files.
func (c *Cluster) firstEnd(ctx context.Context, t wal.Timeline, from wal.LSN, size int64) (time.Time, error) {
	if !wal.ValidSegmentSize(size) {
		return time.Time{}, nil
	}
	first := wal.SegmentAt(wal.Position{LSN: from, Timeline: t}, size)
	n := 0
	for name, err := range c.LogNames(ctx, t, first.Name(size)) {
		if err != nil {
			return time.Time{}, err
		}
		if isHistory(name) || !isOfSegment(name) || wal.KindOf(name) == wal.BackupFile {
			continue
		}
		if n++; n > firstEndFiles {
			break
		}
		facts, err := c.LogFacts(ctx, name)
		if err != nil {
			return time.Time{}, err
		}
		if facts.Summary == nil || facts.Summary.Transactions.Count == 0 {
			continue
		}
		if name[:24] > first.Name(size) {
			return facts.Summary.Transactions.Earliest, nil
		}
		at, err := c.firstEndIn(ctx, name, from, facts.Summary.Start, size)
		if err != nil || !at.IsZero() {
			return at, err
		}
	}
	return time.Time{}, nil
}

// firstEndIn returns when the first transaction ended in a file of the log, that begins at a position, from another one on.
func (c *Cluster) firstEndIn(ctx context.Context, name string, from, start wal.LSN, size int64) (time.Time, error) {
	content, err := c.Log(ctx, name)
	if err != nil {
		return time.Time{}, err
	}
	records := wal.NewRecordReader(bytes.NewReader(content), start, size)
	for {
		record, err := records.Next()
		if err == io.EOF {
			return time.Time{}, nil
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("%s: %w", name, err)
		}
		if record.LSN < from {
			continue
		}
		if end, ok := record.Commit(); ok {
			return end.Time, nil
		}
		if end, ok := record.Abort(); ok {
			return end.Time, nil
		}
	}
}
