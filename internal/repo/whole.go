package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"basin/internal/seal"
)

// CheckIndex sees that the index of a backup can be read, that the packs are there that it needs, and that none of them ends before what it
// needs of it. No pack is read.
func (c *Cluster) CheckIndex(ctx context.Context, commit Commit) error {
	w, err := c.listPacks(ctx)
	if err != nil {
		return err
	}
	return w.check(ctx, &commit)
}

// CheckParent sees that a backup can be the parent of the next: as CheckIndex, and that what is told of packs can be read. A pack of which
// that is told may be too short, since the next backup stores anew what it has of it.
func (c *Cluster) CheckParent(ctx context.Context, commit Commit) error {
	w, err := c.listPacks(ctx)
	if err != nil {
		return err
	}
	if w.anew, err = c.avoided(ctx); err != nil {
		return err
	}
	return w.check(ctx, &commit)
}

// NotWhole says of which of some backups the index cannot be read, or packs are missing or too short, by their IDs, and why. Those of damaged pages
// are not looked at. Packs are listed once, and each part of an index is read once.
func (c *Cluster) NotWhole(ctx context.Context, commits []Commit) (map[string]error, error) {
	w, err := c.listPacks(ctx)
	if err != nil {
		return nil, err
	}
	why := make(map[string]error)
	for i := range commits {
		if commits[i].Damaged {
			continue
		}
		err := w.check(ctx, &commits[i])
		switch {
		case isLacking(err):
			why[commits[i].ID] = err
		case err != nil:
			return nil, fmt.Errorf("backup %s: %w", commits[i].ID, err)
		}
	}
	return why, nil
}

// isLacking says whether an error is that something is missing, or is not what was written.
func isLacking(err error) bool {
	return errors.Is(err, seal.ErrDamaged) || errors.Is(err, fs.ErrNotExist)
}

// listedPacks are the packs that are there.
type listedPacks struct {
	cluster *Cluster
	sizes   map[PackID]int64 // in bytes
	anew    map[PackID]bool  // may be too short
	whole   map[ID]bool      // parts of which all is there that they refer to
}

// listPacks lists the packs.
func (c *Cluster) listPacks(ctx context.Context) (*listedPacks, error) {
	w := &listedPacks{cluster: c, sizes: make(map[PackID]int64), whole: make(map[ID]bool)}
	prefix := c.below("packs/")
	for info, err := range c.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		var id PackID
		if id.UnmarshalText([]byte(info.Name[len(prefix):])) == nil {
			w.sizes[id] = info.Size
		}
	}
	return w, nil
}

// lacks returns why an extent is not in the pack, or nil.
func (w *listedPacks) lacks(x extent) error {
	size, isThere := w.sizes[x.at.pack]
	switch end := x.at.frame + int64(x.at.length); {
	case !isThere:
		return fmt.Errorf("%s: %w", w.cluster.packName(x.at.pack), fs.ErrNotExist)
	case end > size && !w.anew[x.at.pack]:
		return fmt.Errorf("%s has %d bytes, and is to have %d at least: %w", w.cluster.packName(x.at.pack), size, end, seal.ErrDamaged)
	}
	return nil
}

// isShort says whether a part refers to anything that is not there.
func (w *listedPacks) isShort(p *part) (bool, error) {
	if len(p.packs) == 0 { // it is of members
		return false, nil
	}
	for i := range p.groups {
		g, err := p.outline(i)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(g.extents, func(x extent) bool { return !x.isZeros() && w.lacks(x) != nil }) {
			return true, nil
		}
	}
	return false, nil
}

// check sees that the index of a backup can be read, and that what it needs is there.
func (w *listedPacks) check(ctx context.Context, commit *Commit) error {
	if _, err := w.cluster.repo.readKey(ctx, commit.DigestKey); err != nil {
		return err
	}
	refs := slices.DeleteFunc(commit.refs(), func(ref PartRef) bool { return w.whole[ref.ID] })
	isShort, err := w.cluster.anyPart(ctx, refs, w.isShort)
	if err != nil {
		return err
	}
	if !isShort {
		for _, ref := range refs {
			w.whole[ref.ID] = true
		}
		return nil
	}
	return w.cluster.eachExtent(ctx, commit, func(_ key, x extent) error { return w.lacks(x) })
}

// refs returns the parts of the index.
func (c *Commit) refs() []PartRef { return slices.Concat(c.levels()...) }

// anyPart says whether any of some parts is something. A part has blocks, too, that a backup does not need: those of a newer level stand for them.
// is is called from several goroutines.
func (c *Cluster) anyPart(ctx context.Context, refs []PartRef, is func(*part) (bool, error)) (bool, error) {
	var found atomic.Bool
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(trailersAtOnce)
	for _, ref := range refs {
		if groupCtx.Err() != nil {
			break
		}
		group.Go(func() error {
			p, err := c.parts.part(groupCtx, ref)
			if err != nil {
				return err
			}
			isOne, err := is(p)
			if isOne {
				found.Store(true)
			}
			return err
		})
	}
	err := group.Wait()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return found.Load(), err
}
