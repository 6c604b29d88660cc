package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/backup"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// restorePlan is what is restored, and how far.
type restorePlan struct {
	commit  repo.Commit
	reach   repo.Reach
	target  recoveryTarget // that there is: of a time behind all commits, the end of the log
	stops   wal.LSN        // of the last record that is replayed; zero if that is not known beforehand
	ends    wal.Timeline   // on which that is, as far as is known
	isFixed bool           // a standby follows the timeline, and none that comes from it
	why     string         // it is another one than was asked for; empty if it is not
	note    string         // about the target; empty if there is nothing to say
	space   []spaceNeed
	rate    int64                 // bytes of it that come in a second; zero if that is not known
	conf    *restoredConf         // nil if that which is in the backup does
	raised  []raisedSetting       // that recovery needs
	made    []wal.TablespacePlace // tablespaces that recovery makes
	clear   []backup.Tablespace   // those of them where one of the cluster is that is restored in place: they are emptied
	make    []backup.Tablespace   // those where nothing is
}

// plan chooses the backup and sees that the log leads to the target.
func (r *restoreRun) plan(ctx context.Context) (*restorePlan, error) {
	commits, err := r.cluster.Backups(ctx)
	if err != nil && r.o.Backup == "" {
		r.warn("some backups cannot be read: %s", err)
	}
	found, err := r.cluster.Verification(ctx)
	if err != nil {
		r.warn("what was found damaged before is not known: %s", err)
	}
	if commits, err = r.living(ctx, commits); err != nil {
		return nil, err
	}
	var refused []error
	var best *restorePlan // with log missing behind where it leads
	isDamaged := false    // a newer backup
	for i := len(commits) - 1; i >= 0; i-- {
		commit := commits[i]
		if r.o.Backup != "" && commit.ID != r.o.Backup || r.o.Backup == "" && commit.Damaged {
			continue
		}
		plan, err := r.planFrom(ctx, commit)
		if err == nil {
			err = r.checkDamage(ctx, plan, found)
			isDamaged = isDamaged || err != nil
		}
		if err == nil && r.o.Backup == "" && r.o.Target.kind == "" && plan.reach.Resumes != "" { // an older one may lead further
			if best == nil || plan.reach.End > best.reach.End {
				best = plan
			}
			continue
		}
		if err == nil && best != nil {
			if plan.reach.End <= best.reach.End {
				break
			}
			r.warn("an older backup than the newest is restored: from backup %s log is there up to %v only", best.commit.ID, best.reach.End)
			return plan, nil
		}
		if err == nil {
			if len(refused) > 0 && (isDamaged || r.o.Target.kind == "") { // an earlier target is why, else
				r.warn("an older backup than the newest is restored: %s", refused[0])
			}
			return plan, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if errors.Is(err, errTwoLines) {
			return nil, err
		}
		refused = append(refused, err)
	}
	if best != nil {
		return best, nil
	}
	if len(refused) > 0 {
		return nil, mostTelling(refused)
	}
	if r.o.Backup != "" {
		return nil, usererr.Hinted("basin list shows the backups.", "there is no backup %s of %s", r.o.Backup, r.cluster.Name())
	}
	return nil, usererr.Hinted("basin backup takes one.", "there is no backup of %s", r.cluster.Name())
}

// refusal is why a backup does not lead to the target.
type refusal struct {
	error
	why refusalReason
}

// Unwrap returns what is said.
func (r refusal) Unwrap() error { return r.error }

// refusalReason is what a refusal says of other backups.
type refusalReason int

const (
	isMissing  refusalReason = iota // log is, behind which the target may be
	isTooYoung                      // the backup is: it ended behind the target
)

// mostTelling returns which of several refusals, that of the newest backup first, tells why the target is not reached: log that is missing, or
// what is said of the newest backup that is old enough.
func mostTelling(refused []error) error {
	is := func(err error, why refusalReason) bool {
		var r refusal
		return errors.As(err, &r) && r.why == why
	}
	for _, err := range refused {
		if is(err, isMissing) {
			return err
		}
	}
	for _, err := range refused {
		if !is(err, isTooYoung) {
			return err
		}
	}
	return refused[0]
}

// gapHint is what can be done where log is missing.
const gapHint = "If the missing log is elsewhere, push it: basin wal push FILE. If basin prune --keep-log has removed it, only backups of that time can be restored, as they were taken: basin list."

// logMissing returns the error that log is missing, or of no use, behind which the target may be.
func logMissing(reach repo.Reach, hint, format string, args ...any) error {
	what := gapHint
	if reach.IsMinimal {
		what = "What came later can be restored with backups that were taken later: basin list."
	}
	return refusal{usererr.Hinted(strings.TrimSpace(what+" "+hint), "%s: %s", reach.Missing(), fmt.Sprintf(format, args...)), isMissing}
}

// checkDamage refuses a backup of which it is known that it is not whole, so that this is not learnt when half of it is restored.
// If it was asked for by name, it is restored as far as it goes.
func (r *restoreRun) checkDamage(ctx context.Context, p *restorePlan, found repo.Verification) error {
	err := checkWhole(ctx, r.cluster, &p.commit, found)
	if r.o.Backup != "" && errors.Is(err, errNotWhole) {
		r.warn("%s", err)
		return nil
	}
	return err
}

// planFrom sees that a backup and the log lead to the target.
func (r *restoreRun) planFrom(ctx context.Context, commit repo.Commit) (*restorePlan, error) {
	t := r.o.Target
	if t.kind == "time" && !t.time.After(commit.Ended) {
		return nil, refusal{usererr.Hinted("basin list shows when each backup ended: a target lies behind the end of one.",
			"backup %s ended at %s, and the target is %s", commit.ID, stamp(commit.Ended), stamp(t.time)), isTooYoung}
	}
	if t.kind == "lsn" && t.lsn < commit.Stop.LSN {
		return nil, refusal{usererr.Hinted("basin list shows where each backup ends.", "backup %s ends at %v, and the target is %v", commit.ID, commit.Stop.LSN, t.lsn), isTooYoung}
	}
	timeline := t.timeline
	if timeline == 0 {
		timeline = r.line
	}
	if timeline == 0 {
		var err error
		if timeline, err = r.cluster.NewestTimeline(ctx, commit); err != nil {
			return nil, err
		}
	}
	reach, err := r.cluster.Reach(ctx, commit, timeline)
	if err != nil {
		return nil, err
	}
	if t.kind == "lsn" && t.lsn > reach.End && reach.Resumes != "" {
		return nil, logMissing(reach, "A target up to there can be reached.", "that is on timeline %d, from backup %s on, and the target is %v", timeline, commit.ID, t.lsn)
	}
	if t.kind == "lsn" && t.lsn > reach.End {
		return nil, usererr.Hinted("A target up to there can be reached.", "the log is there up to %v on timeline %d, and the target is %v", reach.End, timeline, t.lsn)
	}
	plan := &restorePlan{commit: commit, reach: reach, target: t, stops: t.lsn}
	if err := r.checkLine(ctx, plan); err != nil {
		return nil, err
	}
	if err := r.checkClock(ctx, plan); err != nil {
		return nil, err
	}
	if err := r.prove(ctx, plan); err != nil {
		return nil, err
	}
	if plan.ends, err = r.endTimeline(ctx, plan); err != nil {
		return nil, err
	}
	if err := r.checkStandby(ctx, plan); err != nil {
		return nil, err
	}
	return plan, r.checkTablespaces(ctx, plan)
}

// prove sees that recovery comes to the target.
func (r *restoreRun) prove(ctx context.Context, p *restorePlan) error {
	switch {
	case r.o.Standby:
		return nil
	case p.target.kind == "name":
		return r.proveName(ctx, p)
	case p.target.kind == "xid":
		return r.proveTransaction(ctx, p)
	case p.target.kind == "lsn":
		return r.provePosition(ctx, p)
	}
	return r.proveEnd(ctx, p)
}

// isBefore says whether recovery does not come to a position, in a segment with such transactions. The log of the backup itself is
// replayed whatever the target is.
func (p *restorePlan) isBefore(at wal.LSN, transactions wal.Transactions) bool {
	switch {
	case at < p.commit.Stop.LSN:
		return false
	case p.stops != 0:
		return p.stops < at
	case p.target.kind == "time":
		return transactions.Count > 0 && transactions.Earliest.After(p.target.time)
	}
	return p.target.kind == "immediate"
}

// text tells the plan.
func (p *restorePlan) text(r *restoreRun) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Restores %s into \"%s\"%s\n", r.cluster.Name(), r.o.Directory, r.manner())
	if from := r.o.location(); from != "" {
		fmt.Fprintf(&b, "  from      %s\n", from)
	}
	fmt.Fprintf(&b, "  backup    %s, %s in %s files, ended %s\n", p.commit.ID, humanize.IBytes(uint64(p.commit.Size)), humanize.Comma(p.commit.Files), stamp(p.commit.Ended))
	fmt.Fprintf(&b, "  server    PostgreSQL %d\n", majorOf(p.commit.ServerVersion))
	fmt.Fprintf(&b, "  log       from %v to %v, timeline %d: %s\n", p.commit.Start.LSN, p.reach.End, p.reach.Timeline, humanize.IBytes(uint64(p.reach.End-p.commit.Start.LSN)))
	if p.reach.Resumes != "" {
		fmt.Fprintf(&b, "            %s: what is there cannot be reached\n", p.reach.Missing())
	}
	fmt.Fprintf(&b, "  target    %s\n", r.o.Target)
	if p.ends != p.reach.Timeline {
		fmt.Fprintf(&b, "            on timeline %d\n", p.ends)
	}
	if p.why != "" {
		fmt.Fprintf(&b, "            %s: recovers to %v, which is all that is there\n", p.why, p.target)
	}
	if p.note != "" {
		fmt.Fprintf(&b, "            %s\n", p.note)
	}
	b.WriteString(p.tablespaces(r))
	b.WriteString(p.conf.plan())
	b.WriteString(p.raisedText())
	b.WriteString(r.part.plan())
	if p.rate > 0 {
		fmt.Fprintf(&b, "  time      about %s, at %s/s, as a sample came just now; then the log is replayed\n", clock(p.duration()), humanize.IBytes(uint64(p.rate)))
	}
	for _, n := range p.space {
		b.WriteString("  space     " + n.String() + "\n")
	}
	return b.String()
}

// duration returns how long the backup takes to come, in whole seconds; zero if that is not known.
func (p *restorePlan) duration() time.Duration {
	if p.rate == 0 {
		return 0
	}
	return time.Duration(math.Ceil(float64(p.commit.Size)/float64(p.rate))) * time.Second
}

// manner tells what becomes of what is in the data directory.
func (r *restoreRun) manner() string {
	switch {
	case r.o.Format == formatTar:
		return " as tar files"
	case r.into.IsUnfinished():
		return ", going on with a restore that did not end"
	case r.into.Exists:
		return ", in place: what is equal stays, and what the backup does not have is removed"
	}
	return ""
}

// majorOf returns the major version of server_version_num.
func majorOf(version int) int {
	if version < 100000 {
		return version / 100
	}
	return version / 10000
}
