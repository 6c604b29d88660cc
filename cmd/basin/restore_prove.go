package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// joined yields what is known of the files of the log, the newest first, with what of each began in the
// one before.
func (r *restoreRun) joined(ctx context.Context, reach repo.Reach) iter.Seq2[repo.LogFacts, error] {
	return func(yield func(repo.LogFacts, error) bool) {
		var newer *repo.LogFacts
		for facts, err := range r.cluster.Facts(ctx, reach) {
			if err != nil {
				yield(facts, err)
				return
			}
			if newer != nil && !yield(joinedTo(*newer, facts.Summary), nil) {
				return
			}
			newer = &facts
		}
		if newer != nil {
			yield(joinedTo(*newer, nil), nil)
		}
	}
}

// joinedTo returns facts with what began in the file before. If that is not known they are incomplete.
func joinedTo(facts repo.LogFacts, before *wal.Summary) repo.LogFacts {
	if facts.Summary == nil {
		return facts
	}
	s, err := facts.Summary.After(before)
	if err != nil {
		s, _ = facts.Summary.After(nil) // which is never an error
	}
	facts.Summary = &s
	return facts
}

// proveEnd makes a target of the end of the log, so that recovery fails if it does not come to it. A time
// behind all commits is that, too: PostgreSQL would look for a commit behind it, and find none.
func (r *restoreRun) proveEnd(ctx context.Context, p *restorePlan) error {
	last := wal.LSN(0)
	for facts, err := range r.joined(ctx, p.reach) {
		if err != nil {
			return err
		}
		s := facts.Summary
		if s == nil {
			if facts.Problem != "" {
				r.warn("%s is damaged, and recovery may end there: %s", facts.Name, facts.Problem)
			}
			return nil // PostgreSQL finds the end by itself
		}
		if last == 0 {
			if last = s.Last; last >= p.reach.End { // a newer timeline left there, of which nothing is there
				if last, err = r.lastBefore(ctx, p, facts.Name); err != nil {
					return err
				}
			}
		}
		if p.target.kind == "time" && p.reach.IsMinimal && s.End > p.reach.End { // of which the rest is of no use
			ends, err := r.endsOf(ctx, p.reach, p.commit.SegmentSize, facts.Name, func(e transactionEnd) bool { return e.at < p.reach.End && e.Time.After(p.target.time) })
			if err != nil || len(ends) > 0 {
				return err
			}
			continue
		}
		if last == 0 || p.target.kind == "time" && s.Transactions.Count == 0 && !s.IsIncomplete {
			continue
		}
		if p.target.kind == "time" && (s.IsIncomplete || s.Transactions.Latest.After(p.target.time)) {
			return nil
		}
		break
	}
	if p.target.kind == "time" && p.reach.Resumes != "" { // what is missing may have what was wanted
		return logMissing(p.reach, "A target before the gap can be reached.", "no transaction has ended yet after %s", stamp(p.target.time))
	}
	if last < p.commit.Stop.LSN { // nothing happened since the backup, and PostgreSQL would not come to any target
		switch p.target.kind {
		case "time":
			p.why = "no transaction has ended after " + stamp(p.target.time)
		case "immediate":
			p.why = "nothing was written since the backup"
		}
		p.target = recoveryTarget{timeline: p.target.timeline}
		return nil
	}
	if p.target.kind == "immediate" {
		return nil
	}
	if p.target.kind == "time" {
		p.why = "no transaction has ended after " + stamp(p.target.time)
	}
	p.target = recoveryTarget{kind: "lsn", lsn: last, timeline: p.target.timeline, action: p.target.action}
	if p.why == "" && p.target.action == "" {
		p.target.action = "promote"
	}
	return nil
}

// lastBefore returns where the last record begins in a file of the log before the end of what counts of it; zero if none does.
func (r *restoreRun) lastBefore(ctx context.Context, p *restorePlan, name string) (last wal.LSN, err error) {
	err = r.eachRecord(ctx, p.reach, p.commit.SegmentSize, name, func(record wal.Record) {
		if record.LSN < p.reach.End {
			last = record.LSN
		}
	})
	return last, err
}

// provePosition sees that a record begins at a position or behind it: recovery stops at such a one, and else does not come
// to the target. The log may be there further than its last record, as the rest of a segment is zeros.
//
// Source: recoveryStopsBefore and recoveryStopsAfter in src/backend/access/transam/xlogrecovery.c, PostgreSQL 18.
func (r *restoreRun) provePosition(ctx context.Context, p *restorePlan) error {
	for facts, err := range r.joined(ctx, p.reach) {
		if err != nil {
			return err
		}
		s := facts.Summary
		switch {
		case s == nil || s.IsIncomplete, s.Last >= p.target.lsn:
			return nil // or PostgreSQL finds the end by itself
		case s.Last == 0: // no record ends in it
			continue
		}
		hint := "Without a target all that is there is recovered."
		if s.Last >= p.commit.Stop.LSN {
			hint = fmt.Sprintf("--target-lsn=%v recovers to that record. ", s.Last) + hint
		}
		if p.reach.Resumes != "" {
			return logMissing(p.reach, hint, "the last record on timeline %d before that begins at %v, and the target is %v", p.reach.Timeline, s.Last, p.target.lsn)
		}
		return usererr.Hinted(hint, "the last record of the log on timeline %d begins at %v, and the target is %v", p.reach.Timeline, s.Last, p.target.lsn)
	}
	return nil
}

// proveName sees that a restore point is there, behind the backup.
func (r *restoreRun) proveName(ctx context.Context, p *restorePlan) error {
	var places []string
	for facts, err := range r.joined(ctx, p.reach) {
		if err != nil {
			return err
		}
		if facts.Summary == nil {
			return nil // it may be there
		}
		for _, point := range facts.Summary.RestorePoints {
			if point.Name == p.target.name && point.LSN >= p.commit.Stop.LSN && point.LSN < p.reach.End {
				places = append(places, point.End.String())
				p.stops = point.LSN
			}
		}
	}
	switch {
	case len(places) == 0 && p.reach.Resumes != "":
		return logMissing(p.reach, "", "there is no restore point \"%s\" between backup %s and there", p.target.name, p.commit.ID)
	case len(places) == 0:
		return usererr.Hinted("Is the name right? Recovery can only stop at one behind the end of a backup, and on its way to one timeline, which --target-timeline names.",
			"there is no restore point \"%s\" between backup %s, which ends at %v, and the end of the log, %v", p.target.name, p.commit.ID, p.commit.Stop.LSN, p.reach.End)
	case len(places) == 1:
		return nil
	}
	return usererr.Hinted("Choose one with --target-lsn.", "there are several restore points \"%s\", the newest first: %s", p.target.name, strings.Join(places, ", "))
}

// proveTransaction sees that a transaction ended behind the backup: recovery stops there, and nowhere if
// it did not. Of a savepoint the end is one, too, if it was rolled back.
//
// Source: recoveryStopsAfter in src/backend/access/transam/xlogrecovery.c, PostgreSQL 18.
func (r *restoreRun) proveTransaction(ctx context.Context, p *restorePlan) error {
	xid := uint32(p.target.xid) // servers leave the epoch out
	var known wal.Transactions  // behind the backup
	before := false             // it ended before the backup did
	for facts, err := range r.joined(ctx, p.reach) {
		if err != nil {
			return err
		}
		s := facts.Summary
		if s != nil && s.Start+wal.LSN(s.SegmentSize) <= p.commit.Stop.LSN {
			break
		}
		if s != nil && s.Transactions.Count > 0 {
			known = spanOf(known, s.Transactions)
		}
		if r.without[facts.Name] || s != nil && !s.IsIncomplete && !(s.Transactions.Count > 0 && s.Transactions.Lowest <= xid && xid <= s.Transactions.Highest) {
			continue
		}
		ends, err := r.endsOf(ctx, p.reach, p.commit.SegmentSize, facts.Name, func(e transactionEnd) bool { return e.XID == xid })
		if err != nil {
			return err
		}
		for _, end := range ends {
			if end.at >= p.reach.End { // what a newer timeline has left
				continue
			}
			if end.at >= p.commit.Stop.LSN {
				p.note, p.stops = end.String(), end.at
				return nil
			}
			before = true
		}
		if len(ends) == 0 {
			r.without[facts.Name] = true
		}
	}
	hint := "A transaction that wrote nothing, or was open at the end of the log, has no end there. The number may be that of a subtransaction, as of a savepoint or of a block with EXCEPTION, " +
		"as xmin of a row may be: recovery stops at the transaction that it is in. --target-time and --target-lsn name a moment."
	if known.Count > 0 {
		hint = fmt.Sprintf("Those that ended there have numbers from %d to %d. ", known.Lowest, known.Highest) + hint
	}
	switch {
	case before:
		return usererr.Hinted("Choose an older backup.", "transaction %d ended before backup %s did, at %v", p.target.xid, p.commit.ID, p.commit.Stop.LSN)
	case p.reach.Resumes != "":
		return logMissing(p.reach, hint, "no transaction %d has ended between backup %s and there", p.target.xid, p.commit.ID)
	}
	return usererr.Hinted(hint, "no transaction %d has ended between backup %s, which ends at %v, and the end of the log, %v",
		p.target.xid, p.commit.ID, p.commit.Stop.LSN, p.reach.End)
}

// spanOf returns what two know of transactions.
func spanOf(a, b wal.Transactions) wal.Transactions {
	if a.Count == 0 {
		return b
	}
	a.Count += b.Count
	a.Lowest, a.Highest = min(a.Lowest, b.Lowest), max(a.Highest, b.Highest)
	return a
}

// transactionEnd is where a transaction ended.
type transactionEnd struct {
	wal.TransactionEnd
	at         wal.LSN
	isRollback bool
}

// String tells when, and how.
func (e transactionEnd) String() string {
	if e.isRollback {
		return fmt.Sprintf("rolled back at %s, at %v", stamp(e.Time), e.at)
	}
	return fmt.Sprintf("committed at %s, at %v", stamp(e.Time), e.at)
}

// endsOf reads a file of the log, whose segments have so many bytes, and returns those ends of transactions in it that are wanted.
func (r *restoreRun) endsOf(ctx context.Context, reach repo.Reach, size int64, name string, isWanted func(transactionEnd) bool) (ends []transactionEnd, err error) {
	err = r.eachRecord(ctx, reach, size, name, func(record wal.Record) {
		end, isEnd := record.Commit()
		isRollback := !isEnd
		if isRollback {
			end, isEnd = record.Abort()
		}
		if e := (transactionEnd{end, record.LSN, isRollback}); isEnd && isWanted(e) {
			ends = append(ends, e)
		}
	})
	return ends, err
}

// zeros reads zeros without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// eachRecord reads a file of the log, whose segments have so many bytes, and visits the records that end in it.
func (r *restoreRun) eachRecord(ctx context.Context, reach repo.Reach, size int64, name string, visit func(wal.Record)) error {
	files := slices.Clone(reach.Segments)
	if !slices.Contains(files, name) {
		files = append(files, name) // a part, which is the last
	}
	first := slices.Index(files, name)
	segment, err := wal.ParseSegment(name[:24], size)
	if err != nil {
		return err
	}
	// A record that ends in it may have begun before.
	for from := first; from > 0; {
		from--
		facts, err := r.cluster.LogFacts(ctx, files[from])
		if err != nil {
			return err
		}
		first = from
		if facts.Summary == nil || facts.Summary.First != 0 {
			break
		}
	}
	var content []io.Reader
	for _, file := range files[first : slices.Index(files, name)+1] {
		b, err := r.cluster.Log(ctx, file)
		if err != nil {
			return err
		}
		content = append(content, bytes.NewReader(b))
		if file != name && int64(len(b)) < size { // a part that the server left for the next segment
			content = append(content, io.LimitReader(zeros{}, size-int64(len(b))))
		}
	}
	start, err := wal.ParseSegment(files[first][:24], size)
	if err != nil {
		return err
	}
	records := wal.NewRecordReader(io.MultiReader(content...), start.Start(size), size)
	for {
		record, err := records.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if record.End > segment.Start(size) {
			visit(record)
		}
	}
}
