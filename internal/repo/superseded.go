package repo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"basin/internal/usererr"
)

// Superseded returns since when nothing more comes of a cluster, neither backups nor log, if another one is in its place: one of the
// same name, as pg_upgrade and initdb make it, of which a backup began since then that can be restored, as far as is known. It is the
// zero time if there is no such other, or a backup of this one is being made.
func (c *Cluster) Superseded(ctx context.Context, now time.Time) (time.Time, error) {
	leases, err := c.leases(ctx)
	if err != nil {
		return time.Time{}, err
	}
	for _, l := range leases {
		if !l.lease.GivenUp && !l.isOver(now) {
			return time.Time{}, nil
		}
	}
	return c.supersededSince(ctx)
}

// supersededSince is Superseded, whether or not backups are being made.
func (c *Cluster) supersededSince(ctx context.Context) (time.Time, error) {
	others, err := c.others(ctx)
	if err != nil || len(others) == 0 {
		return time.Time{}, err
	}
	last, err := c.LastSign(ctx)
	if err == nil && last.IsZero() { // what is left of one that had been removed before
		last, err = c.lastIn(ctx, "facts/")
	}
	if err != nil || last.IsZero() {
		return time.Time{}, err
	}
	if is, err := c.isReplaced(ctx, last); err != nil || !is {
		return time.Time{}, err
	}
	return last, nil
}

// others returns the other clusters of the name.
func (c *Cluster) others(ctx context.Context) ([]*Cluster, error) {
	all, err := c.repo.Clusters(ctx)
	if err != nil {
		return nil, err
	}
	var others []*Cluster
	for _, name := range all {
		if name.Name != c.name.Name || name == c.name {
			continue
		}
		other, err := c.repo.Cluster(name.Name, name.SystemID)
		if err != nil {
			return nil, err
		}
		others = append(others, other)
	}
	return others, nil
}

// isReplaced says whether a backup of another cluster of the name began after a time and can be restored, as far as is known.
func (c *Cluster) isReplaced(ctx context.Context, since time.Time) (bool, error) {
	others, err := c.others(ctx)
	for _, other := range others {
		is, err := other.hasBackupSince(ctx, since)
		if err != nil {
			return false, fmt.Errorf("cluster %v: %w", other.name, err)
		}
		if is {
			return true, nil
		}
	}
	return false, err
}

// LastSign returns when the last backup of a cluster ended, or the last file of its log came, whichever is later. It is the zero time
// if there is neither.
func (c *Cluster) LastSign(ctx context.Context) (last time.Time, err error) {
	commits, err := c.Backups(ctx)
	if err != nil {
		return last, err
	}
	for _, commit := range commits {
		if at := commit.timeOf(); at.After(last) {
			last = at
		}
	}
	came, err := c.lastIn(ctx, "wal/")
	if came.After(last) {
		last = came
	}
	return last, err
}

// lastIn returns when the newest object of a folder was made; it is the zero time if there is none.
func (c *Cluster) lastIn(ctx context.Context, folder string) (last time.Time, err error) {
	for info, err := range c.repo.store.List(ctx, c.below(folder), "") {
		if err != nil {
			return last, err
		}
		if info.Time.After(last) {
			last = info.Time
		}
	}
	return last, nil
}

// hasBackupSince says whether a backup began after a time that can be restored, as far as is known.
func (c *Cluster) hasBackupSince(ctx context.Context, since time.Time) (bool, error) {
	commits, unreadable := c.Backups(ctx) // of which one is enough
	found, err := c.Verification(ctx)
	if err != nil {
		return false, err
	}
	var log followed
	for _, k := range slices.Backward(commits) {
		if k.Damaged || !k.Began.After(since) || c.CheckIndex(ctx, k) != nil {
			continue
		}
		why, err := c.lacking(ctx, k, found.Damages, &log)
		if err != nil {
			return false, err
		}
		if why == nil {
			return true, nil
		}
	}
	return false, unreadable
}

// ForgetSuperseded is Forget for a cluster that has been superseded for some time at least: then the last backup goes, too.
func (c *Cluster) ForgetSuperseded(ctx context.Context, id string, now time.Time, forTime time.Duration) error {
	refused := usererr.Hinted("Look at both with basin list: something of it came meanwhile, or the newer one's backup is gone.", "cluster %v is not superseded any more", c.name)
	since, err := c.Superseded(ctx, now)
	if err != nil {
		return err
	}
	if since.IsZero() || now.Sub(since) < forTime {
		return refused
	}
	return c.forget(ctx, id, now, func(ctx context.Context, _ Commit) error { // also when nothing else is left
		last, err := c.LastSign(ctx)
		if err != nil {
			return err
		}
		is, err := c.isReplaced(ctx, since)
		if err == nil && (!is || last.After(since)) {
			err = refused
		}
		return err
	})
}
