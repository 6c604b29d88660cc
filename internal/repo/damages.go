package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

// headsAtOnce is how many heads of damaged objects are read at the same time.
const headsAtOnce = 16

// headOf tells an object from another one that was written under its name: by its head, in which there is a salt. It is empty if there is none.
func headOf(ctx context.Context, store object.Store, name string) (string, error) {
	head, err := store.Get(ctx, name, 0, seal.HeadSize)
	if errors.Is(err, fs.ErrInvalid) { // it is shorter
		head, err = store.Get(ctx, name, 0, -1)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	}
	return fmt.Sprintf("%08x", checksum(head)), nil
}

// isWritten says whether an object begins as one that was written, and did not change since: what was damaged before may be so more.
func isWritten(ctx context.Context, store object.Store, name string) (bool, error) {
	head, err := store.Get(ctx, name, 0, seal.HeadSize)
	if object.IsAnswer(err) {
		return false, nil
	}
	return err == nil && seal.IsHead(head), err
}

// headsOf returns the heads of objects, by their names.
func headsOf(ctx context.Context, store object.Store, names []string) (map[string]string, error) {
	heads := make(map[string]string)
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(headsAtOnce)
	for _, name := range names {
		group.Go(func() error {
			head, err := headOf(ctx, store, name)
			mu.Lock()
			defer mu.Unlock()
			heads[name] = head
			return err
		})
	}
	return heads, group.Wait()
}

// leaveOutNew leaves out damages whose objects were written anew since verify looked at them.
func (v *Verification) leaveOutNew(ctx context.Context, store object.Store, then map[string]string) error {
	now, err := headsOf(ctx, store, v.Damages)
	if err != nil {
		return err
	}
	v.gone, v.missed = make(map[string]bool), make(map[string]bool)
	v.Damages = slices.DeleteFunc(v.Damages, func(name string) bool {
		head, isKnown := then[name] // older programs did not note it
		v.gone[name], v.missed[name] = now[name] == "", isKnown && head == ""
		if err != nil || !isKnown || now[name] == "" || now[name] == head {
			return false
		}
		var isNew bool
		isNew, err = isWritten(ctx, store, name)
		return isNew
	})
	return err
}

// StillDamaged returns of the damages those that still concern something: what is there, and what is not and is needed to restore a backup, or a
// moment that is to be restored. What prune has removed, and what a backup needed that was forgotten, is left out.
func (c *Cluster) StillDamaged(ctx context.Context, v Verification) ([]string, error) {
	if !slices.ContainsFunc(v.Damages, func(name string) bool { return v.gone[name] }) {
		return v.Damages, nil
	}
	commits, err := c.Backups(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil { // it is not known what is needed
		return v.Damages, nil
	}
	isNeeded, err := c.neededObjects(ctx, commits, v)
	if err != nil {
		return nil, err
	}
	need, err := c.keptLog(ctx, commits)
	if err != nil {
		return nil, err
	}
	var still []string
	for _, name := range v.Damages {
		is := true
		if v.gone[name] {
			folder, rest, _ := strings.Cut(strings.TrimPrefix(name, c.below("")), "/")
			switch folder {
			case "backups", "facts", "leases": // which nothing else needs
				is = false
			case "packs", "parts":
				is = isNeeded[name]
			case "wal":
				is, err = c.isLogNeeded(ctx, rest[strings.LastIndexByte(rest, '/')+1:], v.missed[name], commits, need)
			}
		}
		if err != nil {
			return nil, err
		}
		if is {
			still = append(still, name)
		}
	}
	return still, nil
}

// neededObjects returns which of the packs and parts that are damaged, and are not there any more, a backup needs.
func (c *Cluster) neededObjects(ctx context.Context, commits []Commit, v Verification) (map[string]bool, error) {
	gone := slices.DeleteFunc(slices.Clone(v.Damages), func(name string) bool {
		return !v.gone[name] || !strings.HasPrefix(name, c.below("packs/")) && !strings.HasPrefix(name, c.below("parts/"))
	})
	needed := make(map[string]bool)
	for i := range commits {
		names, err := c.Needs(ctx, &commits[i], gone)
		switch {
		case isLacking(err): // it is not known which packs it needs
			names = gone
		case err != nil:
			return nil, err
		}
		for _, name := range names {
			needed[name] = true
		}
	}
	return needed, nil
}

// isLogNeeded says whether a file of the log that is not there is needed, by its name. A segment that was missing already when verify looked, and not
// only damaged, was missed by backups alone.
func (c *Cluster) isLogNeeded(ctx context.Context, name string, wasMissing bool, commits []Commit, need logNeed) (bool, error) {
	switch {
	case isHistory(name):
		return true, nil
	case IsSegment(name) && wasMissing:
		return c.isMissedByBackup(ctx, name, commits)
	case wal.KindOf(name) == wal.BackupFile, !need.has(name):
		return false, nil
	case IsSegment(name):
		return true, nil
	}
	at, err := c.logName(name[:24])
	if err != nil {
		return false, err
	}
	if head, err := headOf(ctx, c.repo.store, at); err != nil || head != "" { // the whole segment is there
		return false, err
	}
	parts, _, err := c.segmentParts(ctx, name[:24])
	if err != nil {
		return false, err
	}
	part, isKnown := parseLogPart(name)
	_, end := cover(parts)
	return !isKnown || part.to > end, nil
}

// isMissedByBackup says whether a backup cannot be restored since a segment is not there, nor what it needs of it.
func (c *Cluster) isMissedByBackup(ctx context.Context, name string, commits []Commit) (bool, error) {
	for i := range commits {
		for segment := range commits[i].segments() {
			if segment != name {
				continue
			}
			_, err := c.LongestPartial(ctx, name)
			if err == nil {
				_, err = c.Reach(ctx, commits[i], commits[i].Stop.Timeline)
			}
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrUnreachable) {
				return true, nil
			}
			if err != nil {
				return false, err
			}
		}
	}
	return false, nil
}
