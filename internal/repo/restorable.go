package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"basin/internal/wal"
)

// Restorable is what can be restored of one timeline.
type Restorable struct {
	Timeline wal.Timeline
	Parent   wal.Timeline // that it comes from; zero if it comes from none
	Fork     wal.LSN      // where it left that
	Windows  []Window     // oldest first; none if no backup and log lead there
	// Unreachable is why some of it cannot be restored: errors that wrap ErrUnreachable.
	Unreachable []error
}

// ErrUnreachable is wrapped by errors that tell what backup and log do not lead to, whoever asks again: what leads there
// is not in the repository. Of an error of the store nothing of that kind is known.
var ErrUnreachable = errors.New("no backup and log lead there")

// unreachable is an error that wraps ErrUnreachable, whose text it does not have.
type unreachable struct{ error }

// Unwrap returns the error.
func (u unreachable) Unwrap() error { return u.error }

// Is says whether it is ErrUnreachable.
func (u unreachable) Is(target error) bool { return target == ErrUnreachable }

// Window is a stretch of a timeline of which each moment can be restored.
type Window struct {
	Backup string    // the oldest that leads there
	Start  wal.LSN   // the end of that, or where the timeline begins
	Since  time.Time // when that backup ended; zero if the stretch begins where the timeline does
	End    wal.LSN   // behind the last of the log
	// Until is when the last transaction before End ended, by the cluster's clock; zero if that is not known.
	Until time.Time
	// Resumes is the name of the first file of the log behind the stretch, between which and it
	// there are files missing; empty if there is none.
	Resumes   string
	IsMinimal bool // what is behind the stretch the server wrote with wal_level=minimal
}

// lastCommitFiles is of how many files, the newest first, it is asked when the last transaction ended.
const lastCommitFiles = 16

// Restorable returns what can be restored of each timeline, sorted by number, with some of the
// backups, oldest first. Those of damaged pages do not count. What could not be read, and may lead anywhere, is told in
// the error, beside the rest. It lists the log, and reads little of it.
func (c *Cluster) Restorable(ctx context.Context, commits []Commit) ([]Restorable, error) {
	commits = slices.DeleteFunc(slices.Clone(commits), func(k Commit) bool { return k.Damaged })
	timelines, err := c.Timelines(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range commits {
		timelines = append(timelines, k.Stop.Timeline)
	}
	slices.Sort(timelines)
	var all []Restorable
	var problems []error
	for _, t := range slices.Compact(timelines) {
		r, err := c.restorable(ctx, t, commits)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		for i, err := range r.Unreachable {
			r.Unreachable[i] = fmt.Errorf("timeline %d: %w", t, err)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("timeline %d: %w", t, err))
		}
		all = append(all, r)
	}
	return all, errors.Join(problems...)
}

// restorable returns what can be restored of a timeline.
func (c *Cluster) restorable(ctx context.Context, t wal.Timeline, commits []Commit) (Restorable, error) {
	r := Restorable{Timeline: t}
	history, err := c.History(ctx, t)
	if errors.Is(err, fs.ErrNotExist) {
		r.Unreachable = []error{unreachable{fmt.Errorf("it is not known where it comes from, as %s is missing", wal.HistoryName(t))}}
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if n := len(history); n > 0 {
		r.Parent, r.Fork = history[n-1].Timeline, history[n-1].End
	}
	var before, own []Commit // that end before it begins, and on it
	for _, k := range commits {
		end, isBefore := history.End(k.Stop.Timeline)
		switch {
		case k.Stop.Timeline == t:
			own = append(own, k)
		case isBefore && k.Stop.LSN <= end:
			before = append(before, k)
		}
	}
	var reached wal.LSN
	var problems []error
	if n := len(before); n > 0 {
		w, err := c.window(ctx, before[n-1], t)
		switch {
		case errors.Is(err, ErrUnreachable): // the backup's own timeline tells of it
		case err != nil:
			problems = append(problems, err)
		case w.End > r.Fork:
			w.Start, w.Since = r.Fork, time.Time{}
			r.Windows = append(r.Windows, w)
			reached = w.End
		}
	}
	for _, k := range own {
		if k.Stop.LSN <= reached {
			continue
		}
		switch w, err := c.window(ctx, k, t); {
		case errors.Is(err, ErrUnreachable):
			r.Unreachable = append(r.Unreachable, err)
		case err != nil:
			problems = append(problems, err)
		default:
			r.Windows = append(r.Windows, w)
			reached = w.End
		}
	}
	return r, errors.Join(problems...)
}

// window follows the log from a backup on.
func (c *Cluster) window(ctx context.Context, from Commit, t wal.Timeline) (Window, error) {
	reach, err := c.Reach(ctx, from, t)
	if err != nil {
		return Window{}, err
	}
	w := Window{Backup: from.ID, Start: from.Stop.LSN, Since: from.Ended, End: reach.End, Resumes: reach.Resumes, IsMinimal: reach.IsMinimal}
	w.Until, err = c.LastCommit(ctx, reach)
	return w, err
}

// LastCommit returns when the last transaction ended whose end is in the log, by the cluster's clock. It is the zero time
// if the newest files of the log have none. It reads few objects.
func (c *Cluster) LastCommit(ctx context.Context, r Reach) (time.Time, error) {
	n := 0
	for facts, err := range c.Facts(ctx, r) {
		if err != nil {
			return time.Time{}, err
		}
		if s := facts.Summary; s != nil && s.Transactions.Count > 0 {
			return s.Transactions.Latest, nil
		}
		if n++; n == lastCommitFiles {
			break
		}
	}
	return time.Time{}, nil
}
