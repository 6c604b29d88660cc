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

// checkStandby sees that a standby can follow the timeline of the plan, and says whether it finds the next one by itself: not if there is a newer one that does not
// come from there, which PostgreSQL would take for it.
func (r *restoreRun) checkStandby(ctx context.Context, p *restorePlan) error {
	if !r.o.Standby {
		return nil
	}
	t := p.reach.Timeline
	if last := fmt.Sprintf("%08X", uint32(t)); p.reach.Last != "" && p.reach.Last[:8] != last && t != p.commit.Stop.Timeline {
		return usererr.Hinted("Have the primary archive a segment first: SELECT pg_switch_wal().",
			"timeline %d left the one before at %v, and none of its log is in the repository: a standby would replay what it left behind", t, p.reach.End)
	}
	timelines, err := r.cluster.Timelines(ctx)
	if err != nil {
		return err
	}
	for _, newer := range timelines {
		if newer <= t {
			continue
		}
		if history, err := r.cluster.History(ctx, newer); err == nil {
			if end, ok := history.End(t); ok && end >= p.commit.Stop.LSN {
				continue
			}
		}
		p.isFixed = true
		r.warn("timeline %d does not come from timeline %d: the standby follows that one alone, and no later promotion by itself", newer, t)
		return nil
	}
	return nil
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
	switch at := cmp.Or(p.stops, p.target.lsn); {
	case p.target.kind == "immediate":
		return p.commit.Stop.LSN, nil
	case p.target.kind == "time":
		return r.timeBefore(ctx, p, fork)
	case at == 0 || at >= fork:
		return 0, nil
	default:
		return r.recordBefore(ctx, p, at, fork)
	}
}

// recordBefore is endsBefore for a position: recovery ends with the first record from there on, which need not come before the place.
func (r *restoreRun) recordBefore(ctx context.Context, p *restorePlan, at, fork wal.LSN) (wal.LSN, error) {
	size := p.commit.SegmentSize
	for _, name := range filesTo(p.reach, fork, size) {
		segment, err := wal.ParseSegment(name[:24], size)
		if err != nil {
			return 0, err
		}
		end := segment.Start(size) + wal.LSN(size)
		if end <= at {
			continue
		}
		isThere := false
		err = r.eachRecord(ctx, p.reach, size, name, func(record wal.Record) { isThere = isThere || at <= record.LSN && record.LSN < fork })
		if err != nil {
			return 0, err
		}
		if isThere {
			return min(fork, end), nil
		}
	}
	return 0, nil
}

// timeBefore is endsBefore for a time: recovery ends with the first transaction that ended after it, or at it if that is excluded.
func (r *restoreRun) timeBefore(ctx context.Context, p *restorePlan, fork wal.LSN) (wal.LSN, error) {
	size := p.commit.SegmentSize
	isAfter := p.target.isBefore
	files := filesTo(p.reach, fork, size)
	var failed error
	// Times of transactions rise, but for those that end at the same time: where a file has none, the next one tells.
	first, _ := slices.BinarySearchFunc(files, true, func(name string, _ bool) int {
		for i := slices.Index(files, name); i < len(files) && failed == nil; i++ {
			facts, err := r.cluster.LogFacts(ctx, files[i])
			if err != nil {
				failed = err
				break
			}
			if s := facts.Summary; s != nil && s.Transactions.Count > 0 {
				if isAfter(s.Transactions.Latest) {
					return 1
				}
				return -1
			}
		}
		return 1
	})
	if failed != nil || first == len(files) {
		return 0, failed
	}
	for _, name := range files[first:] {
		ends, err := r.endsOf(ctx, p.reach, size, name, func(e transactionEnd) bool { return e.at < fork && e.at >= p.commit.Stop.LSN && isAfter(e.Time) })
		if err != nil {
			return 0, err
		}
		if len(ends) > 0 {
			segment, err := wal.ParseSegment(name[:24], size)
			return min(fork, segment.Start(size)+wal.LSN(size)), err
		}
	}
	return 0, nil
}

// isBefore says whether the target, a time, leaves out what ended at another.
func (t recoveryTarget) isBefore(ended time.Time) bool {
	return ended.After(t.time) || t.exclusive && ended.Equal(t.time)
}

// checkClock refuses a backup for a time if a transaction committed before it ended, and behind the time: the time is of the server's clock, and when the
// backup ended was told by that of the host that took it.
func (r *restoreRun) checkClock(ctx context.Context, p *restorePlan) error {
	if p.target.kind != "time" {
		return nil
	}
	files := filesTo(p.reach, p.commit.Stop.LSN, p.commit.SegmentSize)
	for _, name := range slices.Backward(files) {
		facts, err := r.cluster.LogFacts(ctx, name)
		if err != nil {
			return err
		}
		s := facts.Summary
		if s == nil || !s.IsIncomplete && s.Transactions.Count > 0 && !p.target.isBefore(s.Transactions.Latest) {
			return nil
		}
		if c := s.Checkpoint; c != nil && c.LSN < p.commit.Stop.LSN && p.target.isBefore(c.Time) { // which is at the backup's beginning, or later
			return p.hasLater("what was there at", c.Time)
		}
		if !s.IsIncomplete && s.Transactions.Count == 0 {
			continue
		}
		ends, err := r.endsOf(ctx, p.reach, p.commit.SegmentSize, name, func(e transactionEnd) bool { return e.at < p.commit.Stop.LSN && !e.isRollback })
		if err != nil {
			return err
		}
		for _, e := range slices.Backward(ends) {
			if p.target.isBefore(e.Time) {
				return p.hasLater("what was committed at", e.Time)
			}
		}
		if len(ends) > 0 { // those before them are older
			return nil
		}
	}
	return nil
}

// hasLater returns the error of a backup that has something that is later than the target.
func (p *restorePlan) hasLater(what string, at time.Time) error {
	return refusal{usererr.Hinted("The clocks of the server and of the host that took the backup differ: basin check tells by how much. Choose an older backup, or a later time.",
		"backup %s has %s %s, by the server's clock, and the target is %s", p.commit.ID, what, stamp(at), stamp(p.target.time)), isTooYoung}
}

// filesTo returns the files that recovery reads up to a position, in order.
func filesTo(reach repo.Reach, to wal.LSN, size int64) []string {
	files := slices.Clone(reach.Segments)
	if reach.Last != "" && !slices.Contains(files, reach.Last) {
		files = append(files, reach.Last)
	}
	return slices.DeleteFunc(files, func(name string) bool {
		s, err := wal.ParseSegment(name[:24], size)
		return err != nil || s.Start(size) >= to
	})
}

// living returns the backups that lead to what the cluster is now, and notes on which timeline that is: if a newer one replaced what the newest
// backups are of, since the cluster was restored to an earlier moment, those before that moment. Of others that were written to is told.
func (r *restoreRun) living(ctx context.Context, commits []repo.Commit) ([]repo.Commit, error) {
	if r.o.Target.timeline != 0 {
		return commits, nil
	}
	lives, err := r.cluster.Lives(ctx, commits)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		r.warn("on which timeline the cluster is now is not known: %s", err)
		return commits, nil
	}
	main := repo.MainLine(lives)
	if main == nil || len(lives) < 2 {
		return commits, nil
	}
	r.line = main.Timeline
	lead := main.Leading(commits)
	if r.o.Backup != "" {
		if !slices.ContainsFunc(lead, func(k repo.Commit) bool { return k.ID == r.o.Backup }) {
			r.line = 0
		}
		return commits, nil
	}
	isGood := func(k repo.Commit) bool { return !k.Damaged }
	good := slices.DeleteFunc(slices.Clone(commits), func(k repo.Commit) bool { return k.Damaged })
	if len(good) == 0 {
		return commits, nil
	}
	newest := good[len(good)-1]
	if !slices.ContainsFunc(lead, isGood) {
		return nil, usererr.Hinted(fmt.Sprintf("--target-timeline=%d restores what was there before. basin backup takes a backup of what is there now.", newest.Stop.Timeline),
			"timeline %d left timeline %d at %v and replaced what was behind that, and no backup leads there", main.Timeline, main.Left, main.At)
	}
	if !slices.ContainsFunc(lead, func(k repo.Commit) bool { return k.ID == newest.ID }) {
		r.warn("timeline %d left timeline %d at %v and replaced what was behind that, of which backup %s is: it is left out. --target-timeline=%d restores that",
			main.Timeline, main.Left, main.At, newest.ID, newest.Stop.Timeline)
	}
	for _, l := range lives {
		switch {
		case main.IsOn(l.Timeline):
		case l.Began.IsZero():
			if l.Timeline > main.Timeline {
				r.warn("timeline %d left timeline %d at %v, and nothing that happened on it is in the repository: it is not restored. --target-timeline=%[1]d restores what it began with", l.Timeline, l.Left, l.At)
			}
		case l.Ended.After(main.Began):
			r.warn("timeline %d, which left timeline %d at %v, was written to while timeline %d was; it is not restored, but with --target-timeline=%[1]d", l.Timeline, l.Left, l.At, main.Timeline)
		}
	}
	return lead, nil
}
