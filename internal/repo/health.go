package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"basin/internal/object"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Newest is the newest backup that counts, and those that are newer and do not.
type Newest struct {
	Backup     *Commit  // nil if there is none
	Damaged    []string // newer backups of pages with wrong checksums
	Unreadable []error  // why newer backups cannot be read
	Latest     string   // the identifier of the newest of all of these; empty if there is none
}

// Newest returns the newest backup that is not damaged. It reads those alone that are newer.
func (c *Cluster) Newest(ctx context.Context) (Newest, error) {
	var n Newest
	ids, err := c.backupIDs(ctx)
	if err != nil {
		return n, err
	}
	for _, id := range slices.Backward(ids) {
		commit, err := c.Backup(ctx, id)
		switch {
		case ctx.Err() != nil:
			return n, context.Cause(ctx)
		case errors.Is(err, errTombstone), errors.Is(err, fs.ErrNotExist): // it was forgotten meanwhile
			continue
		}
		n.Latest = cmp.Or(n.Latest, id)
		switch {
		case err != nil:
			n.Unreadable = append(n.Unreadable, fmt.Errorf("backup %s: %w", id, err))
		case commit.Damaged:
			n.Damaged = append(n.Damaged, id)
		default:
			n.Backup = &commit
			return n, nil
		}
	}
	return n, nil
}

// RecoveryPoint is what the newest state is that can be restored.
type RecoveryPoint struct {
	Reach
	// Commit is when the last transaction ended that would be there, by the cluster's clock; zero if that is not known.
	Commit time.Time
	// Arrived is when the last file of the log came, by the store's clock; zero if there is no log.
	Arrived time.Time
	// Resumed is when the first file behind the gap came, if there is one.
	Resumed time.Time
}

// RecoveryPoint follows the log from a backup to its end, on a timeline. It reads few objects, and of a segment that
// is there in parts all of those.
func (c *Cluster) RecoveryPoint(ctx context.Context, from Commit, t wal.Timeline) (p RecoveryPoint, err error) {
	if p.Reach, err = c.Reach(ctx, from, t); err != nil {
		return p, err
	}
	if p.Resumes != "" {
		if p.Resumed, err = c.arrived(ctx, p.Resumes); err != nil {
			return p, err
		}
	}
	if p.Commit, err = c.LastCommit(ctx, p.Reach); err != nil || p.Last == "" {
		return p, err
	}
	p.Arrived, err = c.arrived(ctx, p.Last)
	return p, err
}

// arrived returns when a file of the log came, or, of a segment of which there are parts, the last of those.
func (c *Cluster) arrived(ctx context.Context, name string) (last time.Time, err error) {
	at, err := c.logName(name[:min(len(name), 24)])
	if err != nil {
		return last, err
	}
	if !IsSegment(name) {
		at += ".part"
	}
	for info, err := range c.repo.store.List(ctx, at, "") {
		if err != nil {
			return last, err
		}
		if info.Time.After(last) {
			last = info.Time
		}
		if info.Name == at {
			break // what follows are its parts
		}
	}
	return last, nil
}

// Leases returns the leases of backups that are being made, and of those that were broken off and that
// prune has not settled yet, whose time is over.
func (c *Cluster) Leases(ctx context.Context) ([]Lease, error) {
	held, err := c.leases(ctx)
	if err != nil {
		return nil, err
	}
	var leases []Lease
	for _, l := range held {
		if !l.lease.GivenUp { // whose backup failed, and was told so
			leases = append(leases, l.lease)
		}
	}
	return leases, nil
}

// Verification is what is known of reading back what is in the repository.
type Verification struct {
	Packs   int       // that were read, as of the last time
	Oldest  time.Time // when the pack was read that was not for the longest time
	Newest  time.Time // when anything was read last; the zero time is never
	Damages []string  // names of objects that were damaged or missing, and neither found sound nor written anew since

	gone   map[string]bool // of these, that are not there now
	missed map[string]bool // that were not there then
}

// Verification returns what is known of reading back. A pack that came later counts with the next time.
func (c *Cluster) Verification(ctx context.Context) (Verification, error) {
	var v Verification
	var last time.Time
	var heads map[string]string // of damages
	for f, err := range c.facts(ctx, factVerified) {
		var fact verifiedFact
		if err == nil {
			err = f.read(&fact)
		}
		if err != nil {
			return v, fmt.Errorf("facts of verification: %w", err)
		}
		if fact.At.Before(last) { // of two that were written at once
			continue
		}
		last, heads = fact.At, fact.Heads
		v = Verification{Packs: len(fact.Packs), Newest: fact.At, Damages: fact.Damages}
		for _, seconds := range fact.Packs {
			when := time.Unix(seconds, 0).UTC()
			if v.Oldest.IsZero() || when.Before(v.Oldest) {
				v.Oldest = when
			}
			if when.After(v.Newest) {
				v.Newest = when
			}
		}
	}
	return v, v.leaveOutNew(ctx, c.repo.store, heads)
}

// Needs returns the names of objects without which a backup, or the log up to where it ends, is not whole, of those that are
// named, in their order. If packs are named its index is read, unless that is damaged itself.
func (c *Cluster) Needs(ctx context.Context, commit *Commit, of []string) ([]string, error) {
	if len(of) == 0 {
		return nil, nil
	}
	needs := map[string]bool{c.commitName(commit.ID): true}
	for _, level := range commit.levels() {
		for _, ref := range level {
			needs[c.partName(ref.ID)] = true
		}
	}
	isIndexDamaged := slices.ContainsFunc(of, func(name string) bool { return needs[name] }) // so that it is not known which packs there are
	for segment := range commit.segments() {
		if name, err := c.logName(segment); err == nil {
			needs[name] = true
		}
	}
	named := make(map[PackID]bool)
	for _, name := range of {
		var id PackID
		if text, isPack := strings.CutPrefix(name, c.below("packs/")); isPack && id.UnmarshalText([]byte(text)) == nil {
			named[id] = true
		}
	}
	isMentioned, err := false, error(nil)
	if len(named) > 0 && !isIndexDamaged {
		isMentioned, err = c.anyPart(ctx, commit.refs(), func(p *part) (bool, error) {
			return slices.ContainsFunc(p.packs, func(id PackID) bool { return named[id] }), nil
		})
	}
	if err == nil && isMentioned {
		err = c.eachExtent(ctx, commit, func(_ key, x extent) error {
			if named[x.at.pack] {
				needs[c.packName(x.at.pack)] = true
			}
			return nil
		})
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(of), func(name string) bool { return !needs[name] }), nil
}

// maxDamages is how many damages are remembered.
const maxDamages = 1000

// damagesLeft returns the names of what is damaged, as far as that is known: what was found now, and what was found
// before and was not looked at since.
func (v *verifier) damagesLeft() []string {
	var names []string
	for name := range v.damages {
		names = append(names, name)
	}
	if v.o.Sample < 1 || len(v.o.Backups) > 0 {
		for _, name := range v.recalled {
			var id PackID
			text, isPack := strings.CutPrefix(name, v.writer.below("packs/"))
			if isPack && id.UnmarshalText([]byte(text)) == nil {
				s := v.packs[id]
				isNeeded := len(v.o.Backups) > 0 || s != nil && s.used
				if !isNeeded || s != nil && s.checked {
					continue // it is needed no more, is sound, or was found again
				}
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names[:min(len(names), maxDamages)]
}

// headsLeft returns the heads of what is damaged: those that were found now as they are, others as they were when they were.
func (v *verifier) headsLeft(ctx context.Context, names []string) (map[string]string, error) {
	heads, err := headsOf(ctx, v.writer.repo.store, names)
	for name := range heads {
		if then, isKnown := v.heads[name]; isKnown && v.damages[name] == nil {
			heads[name] = then
		}
	}
	return heads, err
}

// ProbeReport is what was seen of a store.
type ProbeReport struct {
	// Clock is how far the store's clock is ahead of this host's. It is known only if IsTimed.
	Clock   time.Duration
	IsTimed bool
	// IsLeft is that the object that was made cannot be removed, which is as it may be: whoever only writes
	// needs no right to.
	IsLeft bool
}

// Probe sees that the store can be written to, and refuses to create an object twice. It makes an object, and removes
// it again; where that is not allowed, the same object serves the next time.
func (r *Repository) Probe(ctx context.Context) (ProbeReport, error) {
	var report ProbeReport
	name := "probe/" + NewID().String()
	for info, err := range r.store.List(ctx, "probe/", "") {
		if err != nil {
			return report, err
		}
		name = info.Name
		break
	}
	before := time.Now()
	first := r.store.Create(ctx, name, []byte("basin check"))
	after := time.Now()
	if errors.Is(first, fs.ErrExist) { // which is what is to be seen; it is of another, who removes it if he can
		return report, nil
	}
	if first != nil {
		return report, first
	}
	if err := r.store.Create(ctx, name, []byte("basin check, again")); !errors.Is(err, fs.ErrExist) {
		if err != nil {
			return report, err
		}
		return report, errors.Join(usererr.Hinted("Use a store with conditional writes, such as a local disk, or S3 with If-None-Match, and copy what is there.",
			"the store lets an object be overwritten, and is not safe for backups"), r.store.Delete(ctx, name))
	}
	for info, err := range r.store.List(ctx, name, "") {
		if err == nil && info.Name == name && !info.Time.IsZero() {
			report.Clock, report.IsTimed = clockBetween(info.Time, before, after), true
		}
		break
	}
	err := r.store.Delete(ctx, name)
	if errors.Is(err, object.ErrRefused) {
		report.IsLeft, err = true, nil
	}
	return report, err
}

// clockBetween returns how far a clock is ahead that showed a time, to the second, between two moments.
func clockBetween(shown, before, after time.Time) time.Duration {
	switch {
	case shown.After(after):
		return shown.Sub(after).Round(time.Millisecond)
	case shown.Before(before.Truncate(time.Second)):
		return shown.Sub(before).Round(time.Millisecond)
	}
	return 0
}

// Oldest returns the oldest backup that can be read, nil if there is none. Damaged ones count.
func (c *Cluster) Oldest(ctx context.Context) (*Commit, error) {
	ids, err := c.backupIDs(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		commit, err := c.Backup(ctx, id)
		if err == nil {
			return &commit, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return nil, nil
}
