package repo

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"basin/internal/backup"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// removedAtOnce is how many objects are removed at the same time.
const removedAtOnce = 8

// PruneOptions say how what is not needed is removed. The zero value removes it.
type PruneOptions struct {
	Now    time.Time // zero is now
	DryRun bool      // nothing is changed
	// Share is the part of a pack that is to be in use, lest the next backup stores what is in
	// use anew, so that the pack can be removed: zero is a half, and less than zero lets all packs be.
	Share float64
	// DiscardFailed has what backups stored that failed be removed at once, although the next one could take it over.
	DiscardFailed bool
}

// PruneReport says what was removed, or would be with DryRun.
type PruneReport struct {
	Backups int      // that are there
	Living  int      // backups that are being made
	GivenUp []string // backups whose leases were over, that will never be there
	Parts   int      // that were removed
	Packs   int      // that were removed
	Removed int64    // bytes of what was removed
	Kept    int64    // bytes of parts and packs that are left
	Failed  Kept     // what is left of backups that failed, for the next one to take over, and until when
	Locked  Kept     // what would have been removed too, but is locked
	Thin    int      // packs that the next backup needs no more
}

// Prune removes the packs and parts that no backup needs, and none that is being made. It is safe beside
// writers, on whatever host, and beside another prune. If anything that says what is needed cannot be read
// nothing is removed.
//
// The order makes it safe. First it is listed what there is. Whatever is found was made under
// a lease that was taken before. Then leases are read: one that is there and not over
// keeps what has its digits, and its parent. To one that is over the commit is made
// impossible. A lease that is not there any more has ended, so if there is a commit it is
// found in the end, when commits are read.
//
// A writer that comes later than that is safe by its parent, whose commit it reads after it took its
// lease: that is found too, unless it was forgotten meanwhile. So the commits are listed before, and if one
// has gone nothing is removed. One that came behind that list and has gone again is known by what forget tells
// before it removes it.
func (c *Cluster) Prune(ctx context.Context, o PruneOptions) (PruneReport, error) {
	var report PruneReport
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if !c.repo.CanRead() {
		return report, errNoKey
	}
	forgotten, err := c.forgotten(ctx)
	if err != nil {
		return report, err
	}
	before, err := c.backupIDs(ctx)
	if err != nil {
		return report, err
	}
	packs, err := c.sizes(ctx, "packs/")
	if err != nil {
		return report, err
	}
	parts, err := c.sizes(ctx, "parts/")
	if err != nil {
		return report, err
	}
	if o.DiscardFailed && !o.DryRun {
		if err := c.endFailed(ctx, o.Now); err != nil {
			return report, err
		}
	}
	living, err := c.settleLeases(ctx, o, &report)
	if err != nil {
		return report, err
	}
	commits, err := c.commitsSince(ctx, before, living)
	if err != nil {
		return report, err
	}
	since, err := c.forgotten(ctx)
	if err != nil {
		return report, err
	}
	for name := range since {
		if _, ok := forgotten[name]; !ok {
			return report, usererr.Hinted("Try again.", "a backup is being removed, so that nothing else is")
		}
	}
	report.Backups, report.Living = len(commits), countLiving(living, commits)
	n := &need{cluster: c, packs: make(map[PackID]bool), parts: make(map[ID]bool), closed: make(map[ID]bool)}
	used, err := n.add(ctx, commits)
	if err != nil {
		return report, err
	}
	prefixes := make(map[[leaseSize]byte]bool)
	failed := make(map[[leaseSize]byte]time.Time) // until when that is kept which nobody needs but perhaps the next one
	for _, l := range living {
		if prefixes[l.prefix] = true; l.lease.GivenUp {
			failed[l.prefix] = l.lease.Until
		}
	}
	for _, l := range living {
		for _, digits := range l.lease.Adopts {
			adopted, err := parsePrefix(digits)
			if err != nil {
				return report, err
			}
			prefixes[adopted] = true
			delete(failed, adopted)
		}
	}
	keeps := func(id ID, size int64, needed map[ID]bool) bool {
		prefix := [leaseSize]byte(id[:leaseSize])
		if !needed[id] && !prefixes[prefix] {
			return false
		}
		if until, isFailed := failed[prefix]; isFailed && !needed[id] {
			report.Failed.add(size, until)
		}
		report.Kept += size
		return true
	}
	gone := make(map[string]int64) // bytes of what is to be removed
	var partNames, packNames []string
	for id, size := range parts {
		if keeps(id, size, n.parts) {
			continue
		}
		partNames = append(partNames, c.partName(id))
		gone[c.partName(id)] = size
	}
	for id, size := range packs {
		if keeps(id, size, n.packs) {
			continue
		}
		packNames = append(packNames, c.packName(id))
		gone[c.packName(id)] = size
	}
	remove := c.remove
	if o.DryRun {
		remove = c.locked
	}
	names := slices.Concat(partNames, packNames)
	slices.Sort(names)
	for name, at := range forgotten {
		if !o.DryRun && o.Now.Sub(at) > forgottenTime {
			names = append(names, name)
		}
	}
	locked, err := remove(ctx, names)
	for name, size := range gone {
		if until, isLocked := locked[name]; isLocked {
			report.Locked.add(size, until)
			report.Kept += size
			delete(gone, name)
			continue
		}
		report.Removed += size
	}
	if err != nil {
		return report, err
	}
	report.Parts, report.Packs = count(gone, partNames), count(gone, packNames)
	if !o.DryRun && c.repo.info.Encrypted {
		if err := c.decryptFacts(ctx, factDamaged); err != nil {
			return report, err
		}
	}
	report.Thin, err = c.thin(ctx, o, used, packs)
	return report, err
}

// count returns how many of the names are those of something.
func count(of map[string]int64, names []string) (n int) {
	for _, name := range names {
		if _, ok := of[name]; ok {
			n++
		}
	}
	return n
}

// backupIDs returns the identifiers of all commits, be they backups or tombstones, sorted.
func (c *Cluster) backupIDs(ctx context.Context) ([]string, error) {
	prefix := c.below("backups/")
	var ids []string
	for info, err := range c.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		id, ok := strings.CutSuffix(strings.TrimPrefix(info.Name, prefix), "/commit")
		if !ok {
			return nil, errForeign(info.Name)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// errForeign is an object that this program does not know.
func errForeign(name string) error {
	return usererr.Hinted("Use a newer basin, or remove it if it is none of basin's.", "%q is no object that this program knows", name)
}

// sizes returns the sizes of the objects of a folder, in bytes.
func (c *Cluster) sizes(ctx context.Context, folder string) (map[ID]int64, error) {
	prefix := c.below(folder)
	sizes := make(map[ID]int64)
	for info, err := range c.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		var id ID
		if err := id.UnmarshalText([]byte(info.Name[len(prefix):])); err != nil {
			return nil, errForeign(info.Name)
		}
		sizes[id] = info.Size
	}
	return sizes, nil
}

// countLiving returns how many of the leases are of backups that are being made. One of a backup that is there was
// left by a host that may not remove it.
func countLiving(leases []*heldLease, commits []Commit) (n int) {
	for _, l := range leases {
		isThere := slices.ContainsFunc(commits, func(k Commit) bool { return k.ID == l.lease.Backup })
		if !l.lease.GivenUp && !isThere {
			n++
		}
	}
	return n
}

// endFailed has the leases of backups that failed be over now. A backup that adopts what was stored under one has taken its own lease
// before it looks for the last time whether that one lasts: if it does not see by then that it is over, its own lease is seen by whoever reads
// leases after this.
func (c *Cluster) endFailed(ctx context.Context, now time.Time) error {
	leases, err := c.leases(ctx)
	if err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	for _, l := range leases {
		if !l.lease.GivenUp || l.isOver(now) {
			continue
		}
		ended := l.lease
		ended.Until = now.UTC()
		content, err := json.Marshal(ended)
		if err != nil {
			return err
		}
		name := c.leaseName(l.prefix, len(l.names))
		if _, err := c.repo.put(ctx, kindLease, name, content); err != nil && !errors.Is(err, fs.ErrExist) { // else another prune does the same
			return fmt.Errorf("discard what backup %s stored, which failed: %w", l.lease.Backup, err)
		}
	}
	return nil
}

// settleLeases returns the leases that are not over. Of others it makes the commits impossible that there
// are not by now, and then removes them.
func (c *Cluster) settleLeases(ctx context.Context, o PruneOptions, report *PruneReport) (living []*heldLease, err error) {
	leases, err := c.leases(ctx)
	if err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	for _, l := range leases {
		if !l.isOver(o.Now) && !(o.DryRun && o.DiscardFailed && l.lease.GivenUp) {
			living = append(living, l)
			continue
		}
		if l.lease.Backup == "" {
			return nil, fmt.Errorf("lease %s names no backup", hex.EncodeToString(l.prefix[:]))
		}
		if o.DryRun {
			continue
		}
		_, err := c.repo.put(ctx, kindCommit, c.commitName(l.lease.Backup), nil)
		if err == nil {
			report.GivenUp = append(report.GivenUp, l.lease.Backup)
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("give up backup %s, whose lease is over: %w", l.lease.Backup, err)
		}
		last := len(l.names) - 1 // which says that the lease is over: no other is to be the last
		for _, names := range [][]string{l.names[:last], l.names[last:]} {
			if _, err := c.remove(ctx, names); err != nil {
				return nil, err
			}
		}
	}
	return living, nil
}

// commitsSince reads all commits, oldest first. Those that were there before are to be there,
// and what living leases rely on.
func (c *Cluster) commitsSince(ctx context.Context, before []string, living []*heldLease) ([]Commit, error) {
	ids, err := c.backupIDs(ctx)
	if err != nil {
		return nil, err
	}
	var commits []Commit
	have := make(map[string]bool)
	all := make(map[string]bool)
	for _, id := range ids {
		commit, err := c.Backup(ctx, id)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it was forgotten meanwhile, which is told below
			continue
		case errors.Is(err, errTombstone):
		case err != nil:
			return nil, fmt.Errorf("backup %s, so that it is not known what is needed: %w", id, err)
		default:
			commits = append(commits, commit)
			have[id] = true
		}
		all[id] = true
	}
	for _, id := range slices.Concat(before, ids) {
		if !all[id] {
			return nil, usererr.Hinted("Try again.", "backup %s was removed meanwhile, so that nothing else is", id)
		}
	}
	for _, l := range living {
		if l.lease.Parent != "" && !have[l.lease.Parent] && !all[l.lease.Backup] {
			return nil, usererr.Hinted("Try again when that backup is there, or its lease is over.",
				"backup %s is gone, on which backup %s relies, which %s is making until %s at most", l.lease.Parent, l.lease.Backup, l.lease.Host, l.lease.Until.Format(time.RFC3339))
		}
	}
	return commits, nil
}

// need is what backups need.
type need struct {
	cluster *Cluster
	packs   map[PackID]bool
	parts   map[ID]bool
	closed  map[ID]bool // parts of which all packs are needed
}

// add adds what backups need, that are given oldest first. It returns how many blocks of each pack are used by
// those that are likely to be parents of others.
//
// A pack is needed if a block in it is read when the backup is. Parts name others too, whose
// blocks newer levels have replaced. To know them apart all of an index is gone over, which is done of a backup only if a
// part of it names a pack of which it is not known by now that it is needed.
func (n *need) add(ctx context.Context, commits []Commit) (used map[PackID]int64, err error) {
	used = make(map[PackID]int64)
	parents := likelyParents(commits)
	for i := range parents {
		if err := n.walk(ctx, &commits[i], used); err != nil {
			return nil, err
		}
	}
	for i := len(commits) - 1; i >= 0; i-- {
		if parents[i] {
			continue
		}
		open, err := n.isOpen(ctx, &commits[i])
		if err != nil {
			return nil, err
		}
		if open {
			if err := n.walk(ctx, &commits[i], nil); err != nil {
				return nil, err
			}
		}
	}
	return used, nil
}

// chainTime is how much older than the newest backup one is at most that is likely to be a parent: a host without the private key goes on
// with its own, while others make newer ones.
const chainTime = 7 * 24 * time.Hour

// likelyParents returns which backups will be parents: of those of one digest key the newest that is not damaged. If all are, it is the newest.
func likelyParents(commits []Commit) map[int]bool {
	parents := make(map[int]bool)
	last := len(commits) - 1
	seen := make(map[seal.KeyID]bool)
	for i := last; i >= 0; i-- {
		k := &commits[i]
		if k.Damaged || seen[k.DigestKey] || k.Began.Before(commits[last].Began.Add(-chainTime)) && len(parents) > 0 {
			continue
		}
		seen[k.DigestKey], parents[i] = true, true
	}
	if len(parents) == 0 && last >= 0 {
		parents[last] = true
	}
	return parents
}

// levels yields the parts of a backup's index.
func (c *Commit) levels() []Level { return slices.Concat(c.Members, c.Blocks) }

// isOpen says whether a part of a backup's index names a pack of which it is not known that it is needed.
func (n *need) isOpen(ctx context.Context, commit *Commit) (bool, error) {
	open := false
	for _, level := range commit.levels() {
		for _, ref := range level {
			n.parts[ref.ID] = true
			if n.closed[ref.ID] {
				continue
			}
			p, err := n.cluster.parts.part(ctx, ref)
			if err != nil {
				return false, fmt.Errorf("backup %s: part %v of the index: %w", commit.ID, ref.ID, err)
			}
			unknown := slices.ContainsFunc(p.packs, func(id PackID) bool { return !n.packs[id] })
			n.closed[ref.ID] = !unknown
			open = open || unknown
		}
	}
	return open, nil
}

// walk goes over a backup's index.
func (n *need) walk(ctx context.Context, commit *Commit, used map[PackID]int64) error {
	for _, level := range commit.levels() {
		for _, ref := range level {
			n.parts[ref.ID] = true
		}
	}
	return n.cluster.eachExtent(ctx, commit, func(_ key, x extent) error {
		n.packs[x.at.pack] = true
		if used != nil {
			used[x.at.pack] += int64(len(x.blocks))
		}
		return nil
	})
}

// eachExtent visits all blocks of a backup that lie in packs, by file and block.
func (c *Cluster) eachExtent(ctx context.Context, commit *Commit, visit func(key, extent) error) error {
	index := c.index(commit)
	for g, err := range index.all(ctx, key{}) {
		if err != nil {
			return fmt.Errorf("backup %s: %w", commit.ID, err)
		}
		if g.member.kind != backup.File {
			continue
		}
		blocks, err := index.file(ctx, g.key, g.member.size)
		for err == nil {
			var x extent
			if x, err = blocks.next(ctx); err == nil && !x.isZeros() {
				err = visit(g.key, x)
			}
		}
		if err != io.EOF {
			return fmt.Errorf("backup %s: file %v: %w", commit.ID, g.key, err)
		}
	}
	return nil
}
