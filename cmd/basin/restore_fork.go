package main

import (
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
