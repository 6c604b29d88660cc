package wal

import "time"

// isTold says whether a Summary tells what a record of this kind has.
func isTold(manager, info uint8) bool {
	switch manager {
	case transactionManager:
		switch info & transactionWhat {
		case transactionCommit, transactionCommitPrepared, transactionAbort, transactionAbortPrepared:
			return true
		}
	case xlogManager:
		switch info & infoOfManager {
		case xlogCheckpointShutdown, xlogCheckpointOnline, xlogParameterChange, xlogRestorePoint, xlogEndOfRecovery, xlogSwitch:
			return true
		}
	case tablespaceManager:
		return info&infoOfManager == tablespaceCreate
	}
	return false
}

// count takes in what a record tells that ends in the segment.
func (s *Summary) count(r Record) {
	s.Last, s.End = r.LSN, r.End
	if !isTold(r.ResourceManager, r.Info) {
		return
	}
	if end, ok := r.Commit(); ok {
		s.Transactions.count(end)
	} else if end, ok := r.Abort(); ok {
		s.Transactions.count(end)
	} else if p, ok := r.RestorePoint(); ok {
		p.Time = toCalendar(p.Time)
		s.RestorePoints = addPlace(s, s.RestorePoints, NamedPlace{p, r.LSN, r.End})
	} else if t, ok := r.NewTablespace(); ok {
		s.Tablespaces = addPlace(s, s.Tablespaces, TablespacePlace{t, r.LSN})
	} else if e, ok := r.EndOfRecovery(); ok {
		s.Timelines = addPlace(s, s.Timelines, TimelinePlace{e.Timeline, e.PreviousTimeline, r.LSN})
	} else if c, ok := r.Checkpoint(); ok {
		s.Checkpoint = &CheckpointPlace{r.LSN, c.Redo, c.IsShutdown, toCalendar(c.Time)}
		if c.IsShutdown && c.Timeline != c.PreviousTimeline {
			s.Timelines = addPlace(s, s.Timelines, TimelinePlace{c.Timeline, c.PreviousTimeline, r.LSN})
		}
	} else if p, ok := r.ParameterChange(); ok {
		s.Parameters.Raise(p.Parameters)
		if p.IsMinimal && s.Minimal == 0 {
			s.Minimal = r.LSN
		}
	} else if r.isSwitch() {
		s.IsSwitched = true
	} else {
		s.IsIncomplete = true // its parts are not those that are known here
	}
}

// countBefore takes in what a record tells that ends in the segment before all others.
func (s *Summary) countBefore(r Record) {
	var own Summary
	own.count(r)
	if t := own.Transactions; t.Count > 0 {
		s.Transactions.count(TransactionEnd{t.Lowest, t.Earliest})
	}
	s.RestorePoints = append(own.RestorePoints, s.RestorePoints...)
	s.Tablespaces = append(own.Tablespaces, s.Tablespaces...)
	s.Timelines = append(own.Timelines, s.Timelines...)
	if s.Checkpoint == nil {
		s.Checkpoint = own.Checkpoint
	}
	s.Parameters.Raise(own.Parameters)
	if own.Minimal != 0 {
		s.Minimal = own.Minimal
	}
	s.IsIncomplete = s.IsIncomplete || own.IsIncomplete
}

// addPlace adds one more of what the log has in the segment.
func addPlace[T any](s *Summary, places []T, place T) []T {
	if len(places) == maxPlaces {
		s.IsIncomplete = true
		return places
	}
	return append(places, place)
}

// count takes in a commit or an abort.
func (t *Transactions) count(end TransactionEnd) {
	at := toCalendar(end.Time)
	if t.Count == 0 {
		*t = Transactions{Earliest: at, Latest: at, Lowest: end.XID, Highest: end.XID}
	}
	t.Count++
	if at.Before(t.Earliest) {
		t.Earliest = at
	}
	if at.After(t.Latest) {
		t.Latest = at
	}
	t.Lowest, t.Highest = min(t.Lowest, end.XID), max(t.Highest, end.XID)
}

// toCalendar returns t, or the next time to it that JSON can have.
func toCalendar(t time.Time) time.Time {
	first, last := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC)
	switch {
	case t.Before(first):
		return first
	case t.After(last):
		return last
	}
	return t
}
