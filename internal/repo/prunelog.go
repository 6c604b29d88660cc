package repo

import (
	"context"
	"strings"
	"time"

	"basin/internal/object"
)

// PruneLogOptions say how the log that no backup needs is removed. The zero value removes it.
type PruneLogOptions struct {
	Now    time.Time // zero is now
	DryRun bool      // nothing is changed
	// Within is for how long back each moment is to be restored: older log is kept only as far as backups need it to be restored
	// as they were taken. Log that came within that time is kept, whatever needs it. Zero keeps all from the oldest backup on.
	Within time.Duration
	// Superseded is for how long a cluster without a backup is to be superseded, so that all log goes, histories too, and
	// what else is known of the cluster. Zero keeps it.
	Superseded time.Duration
}

// PruneLogReport says what was removed, or would be with DryRun.
type PruneLogReport struct {
	Files   int   // that were removed
	Removed int64 // bytes of those
	Kept    int   // files that are left, but for histories
	Locked  Kept  // of those, what would have been removed too, but is locked
	Waits   bool  // nothing is removed as long as a backup is being made
	// Lacks is why not each moment of the time that PruneLogOptions.Within asks for can be restored; empty if each can, as far as is known.
	Lacks string
}

// PruneLog removes the log before the start of the oldest backup, on all timelines: what is behind it can be
// replayed on a backup, whichever timelines come between. With Within it also removes what leads from one older backup to
// the next. Backups of damaged pages count. Histories
// are kept. Nothing is removed if there is no backup, unless the cluster is superseded, or one is being made, since it is not known where that
// begins: on a standby it may be before all others. The log is listed before leases are read, so that
// nothing is removed that came under a lease that is not known; that of a superseded cluster is listed again, and none of it is removed if any
// came since. In any case parts of segments go that are in
// others, unless these are damaged.
func (c *Cluster) PruneLog(ctx context.Context, o PruneLogOptions) (PruneLogReport, error) {
	var report PruneLogReport
	if !c.repo.CanRead() {
		return report, errNoKey
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	before, err := c.backupIDs(ctx)
	if err != nil {
		return report, err
	}
	files, err := c.logFiles(ctx)
	if err != nil {
		return report, err
	}
	living, err := c.settleLeases(ctx, PruneOptions{Now: o.Now, DryRun: o.DryRun}, new(PruneReport))
	if err != nil {
		return report, err
	}
	commits, err := c.commitsSince(ctx, before, living)
	if err != nil {
		return report, err
	}
	report.Waits = countLiving(living, commits) > 0
	var gone []object.Info
	if len(commits) == 0 && o.Superseded > 0 && !report.Waits {
		if gone, err = c.remains(ctx, o.Now, max(o.Superseded, o.Within)); err != nil {
			return report, err
		}
	}
	if len(gone) == 0 {
		inOthers, err := c.soundOnly(ctx, superseded(files, o.Now))
		if err != nil {
			return report, err
		}
		needed, err := c.neededLog(ctx, commits, files, o)
		if err != nil {
			return report, err
		}
		report.Lacks = needed.lacks
		if len(needed.own) > 0 && !o.DryRun && !report.Waits {
			if err := c.tellThinned(ctx, needed.begin(), o.Now); err != nil {
				return report, err
			}
		}
		for _, info := range files {
			isKept := report.Waits || needed.has(info.Name) || o.Within > 0 && info.Time.After(o.Now.Add(-o.Within))
			if isKept && !inOthers[info.Name] {
				report.Kept++
				continue
			}
			gone = append(gone, info)
		}
	}
	remove := c.remove
	if o.DryRun {
		remove = c.locked
	}
	var names []string
	for _, info := range gone {
		names = append(names, info.Name)
	}
	locked, err := remove(ctx, names)
	for _, info := range gone {
		isLog := strings.HasPrefix(info.Name, c.below("wal/"))
		if until, isLocked := locked[info.Name]; isLocked && isLog {
			report.Locked.add(info.Size, until)
			report.Kept++
		} else if isLog {
			report.Files++
			report.Removed += info.Size
		}
	}
	return report, err
}

// remains returns what is left of a cluster without a backup if it has been superseded for some time: what is known of it, and its log,
// by which it is known the next time that it is superseded, and which is last for that. It is nothing if it is not superseded.
func (c *Cluster) remains(ctx context.Context, now time.Time, forTime time.Duration) (all []object.Info, err error) {
	since, err := c.supersededSince(ctx)
	if err != nil || since.IsZero() || now.Sub(since) < forTime {
		return nil, err
	}
	for _, folder := range []string{"facts/", "wal/"} {
		for info, err := range c.repo.store.List(ctx, c.below(folder), "") {
			if err != nil {
				return nil, err
			}
			if folder == "wal/" && info.Time.After(since) { // it came since it was looked: somebody writes to the cluster
				return nil, nil
			}
			if !strings.HasPrefix(info.Name, c.below("facts/"+factForgotten+"/")) { // which Prune removes when it is time
				all = append(all, info)
			}
		}
	}
	return all, nil
}

// logFiles returns the files of the log, but for histories.
func (c *Cluster) logFiles(ctx context.Context) ([]object.Info, error) {
	var files []object.Info
	for info, err := range c.repo.store.List(ctx, c.below("wal/"), "") {
		if err != nil {
			return nil, err
		}
		name := info.Name[strings.LastIndexByte(info.Name, '/')+1:]
		switch {
		case isHistory(name):
		case isOfSegment(name):
			files = append(files, info)
		default:
			return nil, errForeign(info.Name)
		}
	}
	return files, nil
}
