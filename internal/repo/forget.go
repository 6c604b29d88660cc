package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"basin/internal/usererr"
)

// Policy says which backups are kept. What any rule keeps is kept. With the zero value all are.
//
// Days, weeks and months are those of UTC, whatever the zone of whoever asks: a day has 24
// hours, and the same backups are kept everywhere. Weeks begin on Monday. A backup is of the time at
// which it ended.
type Policy struct {
	Last    int           // so many of the newest
	Daily   int           // the last of a day, of so many days that have one
	Weekly  int           // the last of a week, likewise
	Monthly int           // the last of a month, likewise
	Within  time.Duration // all that are not older
}

// Verdict says of a backup whether it is kept, and why.
type Verdict struct {
	Commit Commit
	Keep   bool
	Reason string
}

// Plan says which of the backups, that are given oldest first, are kept at a time.
//
// A backup of damaged pages counts for no rule but Within; it is there to be looked into, and is kept as
// long as the oldest that Last keeps is older. The newest that is not damaged is always kept, and
// if all are damaged, all are.
//
// One that cannot be restored, for a reason by its ID, takes no other's place: what the rules keep if it counts is kept, and also what
// they keep if it counts as one of damaged pages does. So it stays as long as it would otherwise: its log may yet come.
func Plan(commits []Commit, policy Policy, pins map[string]Pin, cannot map[string]error, now time.Time) []Verdict {
	verdicts := plan(commits, policy, pins, now)
	if len(cannot) == 0 {
		return verdicts
	}
	fit := slices.Clone(commits)
	for i := range fit {
		fit[i].Damaged = fit[i].Damaged || cannot[fit[i].ID] != nil
	}
	for i, v := range plan(fit, policy, pins, now) {
		own := &verdicts[i]
		if v.Keep && !own.Keep {
			own.Keep, own.Reason = true, v.Reason
		}
		if why := cannot[own.Commit.ID]; why != nil {
			own.Reason += fmt.Sprintf("; it cannot be restored: %v", why)
		}
	}
	return verdicts
}

// plan says which backups are kept, as if all could be restored that are not of damaged pages.
func plan(commits []Commit, policy Policy, pins map[string]Pin, now time.Time) []Verdict {
	verdicts := make([]Verdict, len(commits))
	keep := func(i int, format string, args ...any) {
		v := &verdicts[i]
		if v.Keep = true; v.Reason == "" {
			v.Reason = fmt.Sprintf(format, args...)
		}
	}
	if policy == (Policy{}) {
		for i := range commits {
			keep(i, "there is no rule")
		}
	}
	periods := []struct {
		name string
		most int
		of   func(time.Time) string
		have map[string]bool
	}{
		{"day", policy.Daily, func(t time.Time) string { return t.Format("2006-01-02") }, make(map[string]bool)},
		{"week", policy.Weekly, isoWeek, make(map[string]bool)},
		{"month", policy.Monthly, func(t time.Time) string { return t.Format("2006-01") }, make(map[string]bool)},
	}
	good := 0 // by now, from the newest
	for i := len(commits) - 1; i >= 0; i-- {
		commit := &commits[i]
		verdicts[i].Commit = *commit
		at := commit.timeOf()
		if pin, ok := pins[commit.ID]; ok && pin.Holds(now) {
			keep(i, "%s", pin.reason())
		}
		if policy.Within > 0 && !at.Before(now.Add(-policy.Within)) {
			keep(i, "it is not older than %v", policy.Within)
		}
		if commit.Damaged {
			if good < policy.Last {
				keep(i, "it is damaged, and newer than what the last %d are", policy.Last)
			}
			continue
		}
		good++
		if good <= policy.Last {
			keep(i, "it is one of the last %d", policy.Last)
		}
		for _, p := range periods {
			if period := p.of(at); len(p.have) < p.most && !p.have[period] {
				p.have[period] = true
				keep(i, "it is the last of %s %s", p.name, period)
			}
		}
		if good == 1 {
			keep(i, "it is the last good one")
		}
	}
	for i := range verdicts {
		switch {
		case good == 0:
			keep(i, "there is no good one")
		case !verdicts[i].Keep && commits[i].Damaged:
			verdicts[i].Reason = "it is damaged, and old"
		case !verdicts[i].Keep:
			verdicts[i].Reason = "no rule keeps it"
		}
	}
	return verdicts
}

// PlanSuperseded says which of the backups of a cluster are kept that has been superseded since a time: those that are pinned.
func PlanSuperseded(commits []Commit, since time.Time, pins map[string]Pin, now time.Time) []Verdict {
	var verdicts []Verdict
	for _, commit := range commits {
		v := Verdict{Commit: commit, Reason: "the cluster is superseded: nothing came of it since " + since.UTC().Format(time.RFC3339)}
		if pin, ok := pins[commit.ID]; ok && pin.Holds(now) {
			v.Keep, v.Reason = true, pin.reason()
		}
		verdicts = append(verdicts, v)
	}
	return verdicts
}

// KeepLeading keeps of the backups that verdicts are of, oldest first, the newest that leads to a timeline to which something came since the newest good one, and
// on whose line that is not: nothing else does.
func (c *Cluster) KeepLeading(ctx context.Context, verdicts []Verdict, cannot map[string]error) error {
	var good []Commit
	for _, v := range verdicts {
		if !v.Commit.Damaged && cannot[v.Commit.ID] == nil {
			good = append(good, v.Commit)
		}
	}
	lives, err := c.elsewhere(ctx, good)
	if err != nil {
		return err
	}
	for _, l := range lives {
		lead := l.Leading(good)
		if len(lead) == 0 {
			continue
		}
		for i := range verdicts {
			if v := &verdicts[i]; v.Commit.ID == lead[len(lead)-1].ID && !v.Keep {
				v.Keep, v.Reason = true, fmt.Sprintf("it is the newest that leads to timeline %d, which is written to", l.Timeline)
			}
		}
	}
	return nil
}

// timeOf returns the time that a backup is of, in UTC.
func (c *Commit) timeOf() time.Time {
	if c.Ended.IsZero() {
		return c.Began.UTC()
	}
	return c.Ended.UTC()
}

// isoWeek returns the week of a time.
func isoWeek(t time.Time) string {
	year, week := t.ISOWeek()
	return fmt.Sprintf("%d-W%02d", year, week)
}

// reason says that a backup is pinned.
func (p Pin) reason() string {
	text := "it is pinned"
	if !p.Until.IsZero() {
		text += " until " + p.Until.UTC().Format(time.RFC3339)
	}
	if p.Note != "" {
		text += ": " + p.Note
	}
	return text
}

// Forget removes a backup; what it alone needs stays until Prune. It refuses to remove one that is pinned, that
// another relies on which is being made, and the last that is not damaged and whose index can be read, also if others
// are removed at the same time. One that is locked is an *object.LockedError.
func (c *Cluster) Forget(ctx context.Context, id string, now time.Time) error {
	return c.forget(ctx, id, now, c.hasOther)
}

// forget is Forget, if of a backup that is not damaged isSpare says that it can be spared.
func (c *Cluster) forget(ctx context.Context, id string, now time.Time, isSpare func(context.Context, Commit) error) error {
	commit, err := c.Backup(ctx, id)
	if err != nil {
		return fmt.Errorf("backup %s: %w", id, err)
	}
	if err := c.CheckForget(ctx, id); err != nil {
		return err
	}
	pins, err := c.Pins(ctx)
	if err != nil {
		return err
	}
	if pin, ok := pins[id]; ok && pin.Holds(now) {
		return usererr.Hinted("Unpin it first.", "backup %s is kept: %s", id, pin.reason())
	}
	leases, err := c.leases(ctx)
	if err != nil {
		return err
	}
	var own []string // leases that its host could not remove
	for _, l := range leases {
		if l.lease.Backup == id && commit.isMadeUnder(l.prefix) {
			own = append(own, l.names...)
		}
		if l.lease.Parent != id || l.isOver(now) {
			continue
		}
		_, err := c.repo.store.Get(ctx, c.commitName(l.lease.Backup), 0, 0)
		switch { // it may be there, and its host not be allowed to remove the lease
		case errors.Is(err, fs.ErrNotExist):
			return usererr.Hinted("Wait until that is there, or its lease is over.", "backup %s is needed by backup %s, which %s is making; its lease ends at %s",
				id, l.lease.Backup, l.lease.Host, l.lease.Until.Format(time.RFC3339))
		case err != nil:
			return err
		}
	}
	if commit.Damaged {
		if err = c.tellForgotten(ctx, id, now); err == nil {
			err = c.repo.store.Delete(ctx, c.commitName(id))
		}
	} else {
		err = c.forgetGood(ctx, id, now, isSpare)
	}
	if err != nil {
		return err
	}
	_, err = c.remove(ctx, own)
	return err
}

// isMadeUnder says whether a part of the backup's index was made under a lease. Another host that copies the same
// backup has one too, and goes on when this one is forgotten.
func (c *Commit) isMadeUnder(prefix [leaseSize]byte) bool {
	for _, level := range c.levels() {
		if slices.ContainsFunc(level, func(ref PartRef) bool { return [leaseSize]byte(ref.ID[:leaseSize]) == prefix }) {
			return true
		}
	}
	return false
}

// forgetGood removes a backup that is not damaged, if it can be spared, since there is another. Somebody may remove that at the same time: who finds
// none any more puts back what it removed. Until that is known a lease keeps prune from removing anything.
func (c *Cluster) forgetGood(ctx context.Context, id string, now time.Time, isSpare func(context.Context, Commit) error) error {
	name := c.commitName(id)
	data, err := c.repo.store.Get(ctx, name, 0, -1)
	if err != nil {
		return fmt.Errorf("backup %s: %w", id, err)
	}
	commit, err := c.Backup(ctx, id)
	if err != nil {
		return fmt.Errorf("backup %s: %w", id, err)
	}
	if err := isSpare(ctx, commit); err != nil {
		return err
	}
	lease, err := c.takeLease(ctx, newBackupID(now), id, func() time.Time { return now })
	if err != nil {
		return err
	}
	if err := c.tellForgotten(ctx, id, now); err != nil {
		return errors.Join(err, lease.end())
	}
	err = c.repo.store.Delete(ctx, name)
	if missing := isSpare(ctx, commit); missing != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		err = errors.Join(err, missing)
		if back := c.repo.store.Create(ctx, name, data); back != nil && !errors.Is(back, fs.ErrExist) {
			return errors.Join(err, fmt.Errorf("put backup %s back: %w", id, back)) // what it needs stays until the lease is over
		}
	}
	return errors.Join(err, lease.end())
}

// forgottenTime is how long it stays told that a backup was forgotten: longer than any prune takes, and than clocks differ by.
const forgottenTime = 7 * 24 * time.Hour

// forgottenFact says that somebody was about to remove a backup.
type forgottenFact struct {
	Backup string    `json:"backup"`
	At     time.Time `json:"at"`
}

// tellForgotten tells a prune that is at work that a backup is about to be removed. It may have been made after that began, and
// another one may rely on it: of neither there would be anything to see.
func (c *Cluster) tellForgotten(ctx context.Context, id string, now time.Time) error {
	_, err := c.putFact(ctx, factForgotten, forgottenFact{id, now.UTC()})
	return err
}

// forgotten returns the names of the facts that tell so, and when they were made.
func (c *Cluster) forgotten(ctx context.Context) (map[string]time.Time, error) {
	names := make(map[string]time.Time)
	for info, err := range c.repo.store.List(ctx, c.below("facts/"+factForgotten+"/"), "") {
		if err != nil {
			return nil, err
		}
		names[info.Name] = info.Time
	}
	return names, nil
}

// hasOther sees that there is a backup beside one that is not damaged, of which the index and the packs are there, and which can be
// restored as far as that is known. If the one itself cannot be, the other need not be.
func (c *Cluster) hasOther(ctx context.Context, one Commit) error {
	commits, problems := c.Backups(ctx)
	found, err := c.Verification(ctx)
	if err != nil {
		return err
	}
	good := slices.DeleteFunc(slices.Clone(commits), func(k Commit) bool { return k.Damaged })
	if !slices.ContainsFunc(good, func(k Commit) bool { return k.ID == one.ID }) { // it was removed just now
		good = append(good, one)
		slices.SortFunc(good, func(a, b Commit) int { return strings.Compare(a.ID, b.ID) })
	}
	w := &spared{cluster: c, one: one, damages: found.Damages}
	if w.packs, err = c.listPacks(ctx); err != nil {
		return err
	}
	lives, err := c.elsewhere(ctx, good)
	if err != nil {
		return err
	}
	for _, l := range lives {
		lead := l.Leading(good)
		if !slices.ContainsFunc(lead, func(k Commit) bool { return k.ID == one.ID }) {
			continue
		}
		if is, why := w.by(ctx, lead); !is {
			return errors.Join(usererr.Hinted("Take a backup of what is there now first.", "backup %s is the only one that leads to timeline %d, which is written to", one.ID, l.Timeline), why)
		}
	}
	is, why := w.by(ctx, good)
	if is {
		return nil
	}
	return errors.Join(usererr.Hinted("Take another backup first.", "backup %s is the last that can be restored", one.ID), problems, why)
}

// spared finds out whether a backup can be spared, since there are others.
type spared struct {
	cluster *Cluster
	one     Commit
	damages []string
	packs   *listedPacks
	log     followed
}

// by says whether the backup can be spared since there are some others, oldest first, none of damaged pages: one of them can be restored, as far as is known.
// If the backup itself cannot be, it is enough that one is whole. The error says why it is not so.
func (s *spared) by(ctx context.Context, others []Commit) (is bool, problems error) {
	isWhole := false
	for _, other := range slices.Backward(others) {
		if other.ID == s.one.ID {
			continue
		}
		err := s.packs.check(ctx, &other)
		if err == nil {
			var why error
			if why, err = s.cluster.lacking(ctx, other, s.damages, &s.log); err == nil && why == nil {
				return true, nil
			}
			isWhole = isWhole || err == nil
			err = errors.Join(err, why)
		}
		problems = errors.Join(problems, fmt.Errorf("backup %s: %w", other.ID, err))
	}
	if !isWhole {
		return false, problems
	}
	if isLacking(s.packs.check(ctx, &s.one)) {
		return true, problems
	}
	why, err := s.cluster.lacking(ctx, s.one, s.damages, &s.log)
	return err == nil && why != nil, problems
}
