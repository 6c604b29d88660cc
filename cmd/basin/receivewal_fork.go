package main

import (
	"context"
	"fmt"
	"time"

	"basin/internal/usererr"
	"basin/internal/wal"
	"basin/internal/waldir"
)

// afterFork looks whether the server has left the timeline of the log that is
// here, as it has after a failover. A server that was behind left it at an
// earlier position than we have log to: what lies past that exists only here. It
// is set apart, and the stream goes on where the new timeline begins.
//
// pg_receivewal asks for the position again and again, which no server has.
func (r *receiveWALRun) afterFork(ctx context.Context, start wal.Position) (wal.Position, error) {
	current := r.system.Position.Timeline
	if start.Timeline >= current {
		return start, nil
	}
	content, err := r.conn.TimelineHistory(ctx, current)
	if err != nil {
		return start, err
	}
	history, err := wal.ParseHistory(current, content)
	if err != nil {
		return start, err
	}
	fork, ok := history.End(start.Timeline)
	if !ok {
		return start, fatal{usererr.Hinted("The server was promoted from an earlier timeline. Name the servers that belong together, or receive into another directory.",
			"the log in \"%s\" is of timeline %d, which is not in the history of the server's timeline %d", r.o.Directory, start.Timeline, current)}
	}
	end := start.LSN
	if partial, ok, err := r.dir.End(); err != nil {
		return start, err
	} else if ok && partial.Timeline == start.Timeline {
		end = max(end, partial.LSN)
	}
	if end <= fork {
		return start, nil
	}
	left := fmt.Errorf("timeline %d was left at %v, but the log received of it goes on to %v: the server that took over had not received it",
		start.Timeline, fork, end)
	apart, err := r.dir.SetApart(start.Timeline, fork)
	if err != nil {
		r.warn(left)
		return start, err
	}
	// Until the first segment of the new timeline is here, each attempt comes to this.
	if found := (setApart{start.Timeline, fork, len(apart.Moved), apart.Commits.Count}); found != r.apart {
		r.warn(left)
		r.tellApart(apart)
		r.apart = found
	}
	return wal.Position{LSN: fork, Timeline: history.Child(start.Timeline, current)}, nil
}

// setApart is what was set apart, so far as to know it again.
type setApart struct {
	timeline       wal.Timeline
	fork           wal.LSN
	moved, commits int
}

// tellApart tells what became of the log that only we have, and which commits are in it.
func (r *receiveWALRun) tellApart(apart waldir.Apart) {
	if len(apart.Moved) > 0 {
		which := "segment " + apart.Moved[0] + " of it is"
		if len(apart.Moved) > 1 {
			which = "segments " + apart.Moved[0] + " to " + apart.Moved[len(apart.Moved)-1] + " of it are"
		}
		r.report.warning("%s now in \"%s\"", which, apart.Directory)
	}
	commits := apart.Commits
	if commits.Count == 0 {
		r.report.warning("no transaction was committed in it")
		return
	}
	which := "1 transaction that was committed in it is lost to the servers, and exists only here; it is"
	if commits.Count > 1 {
		which = fmt.Sprintf("%d transactions that were committed in it are lost to the servers, and exist only here; they are", commits.Count)
	}
	r.report.warning("%s listed in \"%s\"", which, apart.List)
	const told = 5
	for i, c := range commits.First {
		if i == told {
			break
		}
		r.tellCommit(c)
	}
	if commits.Count > told {
		r.report.info("...")
		r.tellCommit(commits.Last)
	}
}

func (r *receiveWALRun) tellCommit(c waldir.Commit) {
	r.report.info("committed only here: transaction %d at %v, %s", c.XID, c.LSN, c.Time.UTC().Format(time.RFC3339Nano))
}
