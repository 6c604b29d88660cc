package repo

import (
	"context"
	"errors"
	"fmt"

	"basin/internal/wal"
)

// CannotRestore says of which of some backups, oldest first, it is known that they cannot be restored as things are, by their IDs,
// and why: log is missing up to where they end, their index cannot be read, or verify found damaged what they need. Those
// of damaged pages are not looked at. What could not be found out is an error.
func (c *Cluster) CannotRestore(ctx context.Context, commits []Commit) (map[string]error, error) {
	found, err := c.Verification(ctx)
	if err != nil {
		return nil, err
	}
	why := make(map[string]error)
	var log followed
	for _, k := range commits {
		if k.Damaged {
			continue
		}
		lacking, err := c.lacking(ctx, k, found.Damages, &log)
		if err != nil {
			return nil, fmt.Errorf("backup %s: %w", k.ID, err)
		}
		if lacking != nil {
			why[k.ID] = lacking
		}
	}
	return why, nil
}

// followed is log of a timeline that is there without a gap. What comes of the zero value holds nothing.
type followed struct {
	from wal.Position
	to   wal.LSN
	on   wal.Timeline // that it was followed to
}

// holds says whether the log that a backup needs is in it.
func (f *followed) holds(k Commit) bool {
	return f.on != 0 && f.on == k.Stop.Timeline && f.from.Timeline == k.Start.Timeline && f.from.LSN <= k.Start.LSN && k.Stop.LSN <= f.to
}

// lacking returns why a backup cannot be restored, or nil if nothing is known that keeps it from being. The log is listed only
// if it was not followed to the end of the backup already.
func (c *Cluster) lacking(ctx context.Context, k Commit, damages []string, log *followed) (why, err error) {
	if !log.holds(k) {
		reach, err := c.Reach(ctx, k, k.Stop.Timeline)
		if errors.Is(err, ErrUnreachable) {
			return err, nil
		}
		if err != nil {
			return nil, err
		}
		*log = followed{from: k.Start, to: reach.End, on: k.Stop.Timeline}
	}
	damaged, err := c.Needs(ctx, &k, damages)
	switch {
	case isLacking(err):
		return err, nil
	case err != nil:
		return nil, err
	case len(damaged) > 0:
		return fmt.Errorf("backup %s needs %s, which verify found damaged or missing", k.ID, damaged[0]), nil
	}
	return nil, nil
}
