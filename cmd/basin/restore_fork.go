package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// errTwoLines is a time at which the cluster was written to on a timeline that another one left before.
var errTwoLines = errors.New("two timelines")

// checkLine refuses a time that the newest timeline knows nothing of, since it began later, while the one that it left was
// written to until then. Which of the two is meant the user is to say: recovery would come to the newest one's state, which is
// that of an earlier moment.
func (r *restoreRun) checkLine(ctx context.Context, p *restorePlan) error {
	if p.target.kind != "time" || p.target.timeline != 0 || p.reach.Timeline == p.commit.Stop.Timeline {
		return nil
	}
	history, err := r.cluster.History(ctx, p.reach.Timeline)
	if err != nil {
		return err
	}
	child := p.reach.Timeline
	for _, left := range slices.Backward(history) {
		if left.Timeline < p.commit.Stop.Timeline {
			return nil
		}
		began, err := r.endedBehind(ctx, p, p.reach, left.End)
		if err != nil || began {
			return err
		}
		parent, err := r.cluster.Reach(ctx, p.commit, left.Timeline)
		if err != nil {
			return err
		}
		went, err := r.endedBehind(ctx, p, parent, left.End)
		if err != nil {
			return err
		}
		if went {
			return usererr.Hinted(fmt.Sprintf("--target-timeline=%d restores what was there then. --target-timeline=%d restores what timeline %d was at %v.",
				left.Timeline, p.reach.Timeline, left.Timeline, left.End),
				"at %s there were %w: timeline %d went on behind %v, where timeline %d left it later",
				stamp(p.target.time), errTwoLines, left.Timeline, left.End, child)
		}
		child = left.Timeline
	}
	return nil
}

// endedBehind says whether a transaction ended in the log, at a position or behind it, until the time that is the target.
func (r *restoreRun) endedBehind(ctx context.Context, p *restorePlan, reach repo.Reach, from wal.LSN) (bool, error) {
	size := p.commit.SegmentSize
	first := wal.SegmentAt(wal.Position{LSN: from}, size).Number
	isUntil := func(t time.Time) bool { return !t.After(p.target.time) }
	for facts, err := range r.joined(ctx, reach) {
		if err != nil {
			return false, err
		}
		segment, err := wal.ParseSegment(facts.Name[:24], size)
		if err != nil {
			return false, err
		}
		if segment.Number < first {
			break
		}
		if s := facts.Summary; s == nil || s.Transactions.Count == 0 || !isUntil(s.Transactions.Earliest) {
			continue
		}
		if segment.Number > first {
			return true, nil
		}
		ends, err := r.endsOf(ctx, reach, size, facts.Name, func(e transactionEnd) bool { return e.at >= from && isUntil(e.Time) })
		return len(ends) > 0, err
	}
	return false, nil
}

// endTimeline returns on which timeline recovery ends: one that another has left behind that place, or the newest. It is what PostgreSQL is told
// to recover to, since that writes down that its next timeline left this one, wherever it was.
func (r *restoreRun) endTimeline(ctx context.Context, p *restorePlan) (wal.Timeline, error) {
	t := p.reach.Timeline
	if r.o.Standby || t == p.commit.Stop.Timeline {
		return t, nil
	}
	history, err := r.cluster.History(ctx, t)
	if err != nil {
		return t, err
	}
	for _, left := range slices.Backward(history) {
		if left.Timeline < p.commit.Stop.Timeline {
			break
		}
		until, err := r.endsBefore(ctx, p, left.End)
		if err != nil || until == 0 {
			return t, err
		}
		own, err := r.cluster.Reach(ctx, p.commit, left.Timeline)
		if errors.Is(err, repo.ErrUnreachable) || err == nil && own.End < until { // of the segment in which it was left the newer one alone may be there
			return t, nil
		}
		if err != nil {
			return t, err
		}
		t = left.Timeline
	}
	return t, nil
}

// endsBefore returns up to where log is needed if recovery ends before a place in it where a timeline was left; zero if it does not, or that is not known.
func (r *restoreRun) endsBefore(ctx context.Context, p *restorePlan, fork wal.LSN) (wal.LSN, error) {
	size := p.commit.SegmentSize
	forkSegment := wal.SegmentAt(wal.Position{LSN: fork}, size).Number
	behind := func(number uint64) wal.LSN { return min(fork, wal.Segment{Number: number + 1}.Start(size)) }
	switch at := cmp.Or(p.stops, p.target.lsn); {
	case p.target.kind == "immediate":
		return p.commit.Stop.LSN, nil
	case p.target.kind == "time":
		return r.timeBefore(ctx, p, fork, forkSegment, behind)
	case at == 0 || at >= fork:
		return 0, nil
	case p.target.kind != "lsn" || wal.SegmentAt(wal.Position{LSN: at}, size).Number < forkSegment:
		return behind(wal.SegmentAt(wal.Position{LSN: at}, size).Number), nil
	default: // a record has to begin between the two
		name := fileOf(p.reach, forkSegment, size)
		isThere := false
		err := r.eachRecord(ctx, p.reach, size, name, func(record wal.Record) { isThere = isThere || at <= record.LSN && record.LSN < fork })
		if err != nil || !isThere {
			return 0, err
		}
		return fork, nil
	}
}

// timeBefore is endsBefore for a time: whether a transaction ended after it, or at it if that is excluded, before the place.
func (r *restoreRun) timeBefore(ctx context.Context, p *restorePlan, fork wal.LSN, forkSegment uint64, behind func(uint64) wal.LSN) (wal.LSN, error) {
	size := p.commit.SegmentSize
	isAfter := func(t time.Time) bool { return t.After(p.target.time) || p.target.exclusive && t.Equal(p.target.time) }
	reach := p.reach
	reach.Segments = slices.DeleteFunc(slices.Clone(reach.Segments), func(name string) bool {
		s, err := wal.ParseSegment(name, size)
		return err != nil || s.Number > forkSegment
	})
	if last, err := wal.ParseSegment(reach.Last[:24], size); err == nil && last.Number > forkSegment && len(reach.Segments) > 0 {
		reach.Last = reach.Segments[len(reach.Segments)-1]
	}
	for facts, err := range r.joined(ctx, reach) {
		if err != nil {
			return 0, err
		}
		s := facts.Summary
		if s == nil || s.IsIncomplete {
			return 0, nil
		}
		if s.Transactions.Count == 0 {
			continue
		}
		segment, err := wal.ParseSegment(facts.Name[:24], size)
		if err != nil {
			return 0, err
		}
		if segment.Number < forkSegment {
			if !isAfter(s.Transactions.Latest) {
				return 0, nil
			}
			return behind(segment.Number), nil
		}
		ends, err := r.endsOf(ctx, reach, size, facts.Name, func(e transactionEnd) bool { return e.at < fork })
		if err != nil {
			return 0, err
		}
		if slices.ContainsFunc(ends, func(e transactionEnd) bool { return isAfter(e.Time) }) {
			return fork, nil
		}
		if len(ends) > 0 {
			return 0, nil
		}
	}
	return 0, nil
}

// fileOf returns the file of a segment that recovery reads.
func fileOf(reach repo.Reach, number uint64, size int64) string {
	for _, name := range reach.Segments {
		if s, err := wal.ParseSegment(name, size); err == nil && s.Number == number {
			return name
		}
	}
	return reach.Last
}

// living returns the backups that lead to what the cluster is now: if a newer timeline replaced what the newest are of, since the cluster was restored
// to an earlier moment, those before that moment. Another one that was written to at the same time is told.
func (r *restoreRun) living(ctx context.Context, commits []repo.Commit) ([]repo.Commit, error) {
	i := len(commits) - 1
	for i >= 0 && commits[i].Damaged {
		i--
	}
	if i < 0 || r.o.Backup != "" || r.o.Target.timeline != 0 {
		return commits, nil
	}
	rival, err := r.cluster.Rival(ctx, commits[i])
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		r.warn("whether a newer timeline has replaced that of the newest backup is not known: %s", err)
		return commits, nil
	}
	if rival == nil {
		return commits, nil
	}
	if !rival.Replaces() {
		r.warn("timeline %d, which left timeline %d at %v, was written to while that was; it is not restored, but with --target-timeline=%[1]d", rival.Timeline, rival.Left, rival.At)
		return commits, nil
	}
	lead, err := r.cluster.Leading(ctx, commits, rival.Timeline)
	if err != nil {
		return nil, err
	}
	if len(lead) == 0 {
		return nil, usererr.Hinted(fmt.Sprintf("--target-timeline=%d restores what was there before. basin backup takes a backup of what is there now.", rival.Left),
			"timeline %d left timeline %d at %v and replaced what was behind that, and no backup leads there", rival.Timeline, rival.Left, rival.At)
	}
	r.warn("timeline %d left timeline %d at %v and replaced what was behind that, of which backup %s is: it is left out. --target-timeline=%[2]d restores that",
		rival.Timeline, rival.Left, rival.At, commits[i].ID)
	return lead, nil
}
