package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// timelineListing is what list --json prints of what can be restored of a timeline.
type timelineListing struct {
	Timeline wal.Timeline    `json:"timeline"`
	Parent   wal.Timeline    `json:"parent,omitempty"` // that it comes from
	Fork     *wal.LSN        `json:"fork,omitempty"`   // where it left that
	Windows  []windowListing `json:"windows"`          // oldest first
}

// windowListing is a stretch of which each moment can be restored.
type windowListing struct {
	Backup  string     `json:"backup"`  // the oldest that leads there
	FromLSN wal.LSN    `json:"fromLSN"` // the end of that, or where the timeline begins
	From    *time.Time `json:"from"`    // when that backup ended; null where the timeline begins
	ToLSN   wal.LSN    `json:"toLSN"`   // the end of the log
	To      *time.Time `json:"to"`      // when the last transaction ended in it; null if that is not known
	gapListing
}

// gapListing is log that is missing behind what is there, if there is more behind it.
type gapListing struct {
	Resumes string `json:"gap,omitempty"`      // the first file behind it, up to which nothing can be restored
	Cause   string `json:"gapCause,omitempty"` // one of these below; empty if it is not known

	from wal.LSN // that it begins at
}

// Why log is missing.
const (
	gapThinned = "thinned" // prune has removed it, as it was told to
	gapLost    = "lost"
	gapMinimal = "minimal" // it is there, and the server wrote it with wal_level=minimal
)

// text tells people of a gap.
func (g gapListing) text() string {
	switch g.Cause {
	case gapThinned:
		return fmt.Sprintf("behind that log was removed by prune --keep-log, up to %s", g.Resumes)
	case gapMinimal:
		return "behind that the server wrote log with wal_level=minimal, to which no backup before it leads"
	case gapLost:
		return fmt.Sprintf("behind that log is lost, up to %s, to which no backup before it leads", g.Resumes)
	}
	return fmt.Sprintf("behind that is no log, up to %s, to which no backup before it leads", g.Resumes)
}

// newGap returns what is known of a gap at once: why log is missing is to be found out, but where it is there and of no use.
func newGap(resumes string, isMinimal bool, from wal.LSN) gapListing {
	g := gapListing{Resumes: resumes, from: from}
	if isMinimal {
		g.Cause = gapMinimal
	}
	return g
}

// timeIfAny returns a time, or nil for the zero time.
func timeIfAny(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// listWindow returns what is told of a stretch.
func listWindow(w repo.Window) windowListing {
	return windowListing{w.Backup, w.Start, timeIfAny(w.Since), w.End, timeIfAny(w.Until), newGap(w.Resumes, w.IsMinimal, w.End)}
}

// addRestorable adds to a cluster's part of a listing what can be restored, and what cannot and why. What could not be
// read is the error, beside the rest.
func (l *clusterListing) addRestorable(ctx context.Context, c *repo.Cluster, commits []repo.Commit) error {
	l.Restorable, l.Unreachable = []timelineListing{}, []string{}
	found, err := c.Verification(ctx)
	if err != nil {
		return err
	}
	var whole []repo.Commit
	for i := range commits {
		err := checkWhole(ctx, c, &commits[i], found)
		switch {
		case err == nil:
			whole = append(whole, commits[i])
		case errors.Is(err, errNotWhole):
			l.Unreachable = append(l.Unreachable, err.Error())
		default:
			return err
		}
	}
	all, err := c.Restorable(ctx, whole)
	for _, r := range all {
		t := timelineListing{Timeline: r.Timeline, Parent: r.Parent, Windows: []windowListing{}}
		if r.Parent != 0 {
			t.Fork = &r.Fork
		}
		for _, w := range r.Windows {
			t.Windows = append(t.Windows, listWindow(w))
		}
		l.Restorable = append(l.Restorable, t)
		for _, why := range r.Unreachable {
			l.Unreachable = append(l.Unreachable, why.Error())
		}
	}
	var gaps []*gapListing
	for _, t := range l.Restorable {
		for i := range t.Windows {
			gaps = append(gaps, &t.Windows[i].gapListing)
		}
	}
	return errors.Join(err, findGaps(ctx, c, gaps))
}

// findGaps finds out why log is missing. It is not known if a backup cannot be read, which may need it; basin list tells of that.
func findGaps(ctx context.Context, c *repo.Cluster, gaps []*gapListing) error {
	gaps = slices.DeleteFunc(gaps, func(g *gapListing) bool { return g.Resumes == "" || g.Cause != "" })
	if len(gaps) == 0 {
		return nil
	}
	commits, err := c.Backups(ctx)
	if err != nil {
		return nil
	}
	thinned, err := c.Thinned(ctx, commits)
	if err != nil {
		return err
	}
	for _, g := range gaps {
		g.Cause = gapLost
		if thinned.Explains(g.from, g.Resumes) {
			g.Cause = gapThinned
		}
	}
	return nil
}

// errNotWhole is a backup that needs what is damaged or missing.
var errNotWhole = errors.New("is not whole")

// checkWhole returns an error that wraps errNotWhole for a backup that needs what verification has found damaged or missing.
func checkWhole(ctx context.Context, c *repo.Cluster, k *repo.Commit, found repo.Verification) error {
	damaged, err := c.Needs(ctx, k, found.Damages)
	if err != nil || len(damaged) == 0 {
		return err
	}
	more := ""
	if len(damaged) > 1 {
		more = fmt.Sprintf(" and %d more", len(damaged)-1)
	}
	return usererr.Hinted(fmt.Sprintf("basin verify %s reads it again and tells what is affected. basin restore --backup=%[1]s restores what comes before the damage.", k.ID),
		"backup %s %w: it needs %s%s, found damaged or missing by basin verify at %s or before", k.ID, errNotWhole, damaged[0], more, stamp(found.Newest))
}

// restorableLines tells people what can be restored: timelines below those that they come from.
func (l clusterListing) restorableLines(b *bytes.Buffer) {
	known := make(map[wal.Timeline]bool)
	for _, t := range l.Restorable {
		known[t.Timeline] = true
	}
	var branch func(of wal.Timeline, depth int)
	branch = func(of wal.Timeline, depth int) {
		for _, t := range l.Restorable {
			parent := t.Parent
			if !known[parent] {
				parent = 0
			}
			if parent == of {
				t.lines(b, strings.Repeat("  ", depth))
				branch(t.Timeline, depth+1)
			}
		}
	}
	branch(0, 0)
	for _, text := range l.Unreachable {
		fmt.Fprintf(b, "cannot be restored: %s\n", printable(text, false))
	}
}

// lines tells of one timeline.
func (t timelineListing) lines(b *bytes.Buffer, indent string) {
	begin := fmt.Sprintf("%srestorable on timeline %d", indent, t.Timeline)
	if t.Parent != 0 {
		begin += fmt.Sprintf(", which left %d at %v", t.Parent, *t.Fork)
	}
	if len(t.Windows) == 0 {
		fmt.Fprintf(b, "%s: nothing\n", begin)
		return
	}
	for i, w := range t.Windows {
		if i > 0 {
			begin = indent + "  and"
		}
		fmt.Fprintf(b, "%s: from %s to %s\n", begin, w.start(), w.end())
		if w.Resumes != "" {
			fmt.Fprintf(b, "%s  %s\n", indent, w.text())
		}
	}
}

// start tells where a stretch begins.
func (w windowListing) start() string {
	if w.From == nil {
		return w.FromLSN.String()
	}
	return fmt.Sprintf("%s (%v)", w.From.Format("2006-01-02 15:04:05 UTC"), w.FromLSN)
}

// end tells where a stretch ends.
func (w windowListing) end() string {
	if w.To == nil {
		return w.ToLSN.String()
	}
	return fmt.Sprintf("%s (%v)", w.To.Format("2006-01-02 15:04:05.999999 UTC"), w.ToLSN)
}

// showRestorable adds to what is told of a backup to where it leads: on its own timeline, and on the newest that comes
// from there.
func (b *backupListing) showRestorable(ctx context.Context, c *repo.Cluster, k repo.Commit) error {
	found, err := c.Verification(ctx)
	if err == nil {
		err = checkWhole(ctx, c, &k, found)
	}
	if errors.Is(err, errNotWhole) {
		b.Problem, err = err.Error(), nil
	}
	if err != nil {
		return err
	}
	newest, err := c.NewestTimeline(ctx, k)
	if err != nil {
		return err
	}
	for _, t := range []wal.Timeline{k.Stop.Timeline, newest} {
		if t == 0 || t == newest && len(b.Leads) > 0 && b.Leads[0].Timeline == t {
			continue
		}
		reach, err := c.Reach(ctx, k, t)
		if err != nil {
			if !errors.Is(err, repo.ErrUnreachable) {
				return err
			}
			b.Problem = cmp.Or(b.Problem, err.Error())
			continue
		}
		lead := leadListing{Timeline: t, LSN: reach.End, gapListing: newGap(reach.Resumes, reach.IsMinimal, reach.End)}
		last, err := c.LastCommit(ctx, reach)
		if err != nil {
			return err
		}
		lead.To = timeIfAny(last)
		b.Leads = append(b.Leads, lead)
	}
	var gaps []*gapListing
	for i := range b.Leads {
		gaps = append(gaps, &b.Leads[i].gapListing)
	}
	return findGaps(ctx, c, gaps)
}

// leadListing is how far the log leads from a backup on a timeline.
type leadListing struct {
	Timeline wal.Timeline `json:"timeline"`
	LSN      wal.LSN      `json:"toLSN"`
	To       *time.Time   `json:"to"` // when the last transaction ended up to there; null if that is not known
	gapListing
}

// leadLines tells people to where a backup leads.
func (b backupListing) leadLines(line func(name, format string, args ...any)) {
	for _, l := range b.Leads {
		end := windowListing{ToLSN: l.LSN, To: l.To}.end()
		line("restorable", "from its end to %s on timeline %d", end, l.Timeline)
		if l.Resumes != "" {
			line("gap", "%s", l.text())
		}
	}
	if b.Problem != "" {
		line("CANNOT BE RESTORED", "%s", printable(b.Problem, false))
	}
}
