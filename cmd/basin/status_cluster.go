package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/checkup"
	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/wal"
)

// clusterStatus is what status --json prints of a cluster. Its shape is documented in docs/repository.md.
type clusterStatus struct {
	Cluster  string          `json:"cluster"`
	SystemID string          `json:"systemID"`
	State    state           `json:"state"`
	Problems []statusProblem `json:"problems"`

	Backup        *backupStatus        `json:"backup"`        // the newest that counts; null if there is none
	NewerBad      int                  `json:"newerBad"`      // backups that are newer and damaged, or cannot be read
	RecoveryPoint *recoveryPointStatus `json:"recoveryPoint"` // null if none is known
	Verified      verifiedStatus       `json:"verified"`
	Pins          int                  `json:"pins"`
	LeasesActive  int                  `json:"leasesActive"` // backups that are being made
	LeasesOver    int                  `json:"leasesOver"`   // that were broken off
	Server        *serverStatus        `json:"server,omitempty"`
	Queue         *queueStatus         `json:"queue,omitempty"` // if it is on this host and has a limit
	Holes         []holeStatus         `json:"holes,omitempty"`

	name   repo.ClusterName
	newest repo.Newest
	last   time.Time // when its last file of the log came, if it has no good backup
}

// statusProblem is what is not as it should be.
type statusProblem struct {
	State state  `json:"state"`
	Text  string `json:"text"`
}

// backupStatus is the newest backup that counts.
type backupStatus struct {
	ID         string    `json:"id"`
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended"`
	AgeSeconds int64     `json:"ageSeconds"` // since it ended
	Size       int64     `json:"size"`
	Stored     int64     `json:"stored"`
}

// recoveryPointStatus is the newest state that can be restored.
type recoveryPointStatus struct {
	Time       time.Time    `json:"time"`       // of the last transaction in it, or the end of the backup; now if the log is all there
	AgeSeconds int64        `json:"ageSeconds"` // of Time
	Timeline   wal.Timeline `json:"timeline"`
	LSN        wal.LSN      `json:"lsn"`
	Arrived    *time.Time   `json:"arrived"` // when the last file of the log came; null if none has
	Resumes    string       `json:"gap,omitempty"`
}

// verifiedStatus is what is known of reading back.
type verifiedStatus struct {
	Packs   int        `json:"packs"`
	Oldest  *time.Time `json:"oldest"` // when the pack was read that was not for the longest time
	Newest  *time.Time `json:"newest"` // when anything was read; null is never
	Damages []string   `json:"damages"`
}

// serverStatus is what a running server tells.
type serverStatus struct {
	LSN            wal.LSN      `json:"lsn"`
	BehindBytes    int64        `json:"behindBytes"` // log that the server has and the repository has not
	ArchiverFailed int64        `json:"archiverFailed"`
	ArchiverFails  bool         `json:"archiverFails"` // the last try failed
	Slots          []slotStatus `json:"slots"`
}

// slotStatus is a replication slot.
type slotStatus struct {
	Name          string `json:"name"`
	Active        bool   `json:"active"`
	RetainedBytes int64  `json:"retainedBytes"`
	WALStatus     string `json:"walStatus"`
}

// problem notes what is not as it should be.
func (s *clusterStatus) problem(as state, format string, args ...any) {
	if as == stateOK {
		return
	}
	s.State = s.State.worse(as)
	s.Problems = append(s.Problems, statusProblem{as, fmt.Sprintf(format, args...)})
}

// read learns how a cluster is from the repository. What cannot be read is a problem.
func (s *clusterStatus) read(ctx context.Context, r *repo.Repository, o *statusOptions, now time.Time) {
	c, err := r.Cluster(s.name.Name, s.name.SystemID)
	if err == nil {
		err = s.readPoint(ctx, c, o, now)
	}
	if err == nil {
		err = s.readHoles(ctx, c)
	}
	if err == nil {
		err = s.readCare(ctx, c, o, now)
	}
	if err != nil {
		s.problem(stateUnknown, "%s", statusError(ctx, err))
	}
}

// statusError returns an error for one line, and that time was over if it was.
func statusError(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errors.New("there was no answer in time; --timeout gives it more")
	}
	return err
}

// readPoint judges the newest backup and where the log leads from there.
func (s *clusterStatus) readPoint(ctx context.Context, c *repo.Cluster, o *statusOptions, now time.Time) error {
	s.NewerBad = len(s.newest.Damaged) + len(s.newest.Unreadable)
	k := s.newest.Backup
	if k == nil {
		s.problem(stateCritical, "there is no good backup of system identifier %d: basin backup takes one", s.name.SystemID)
	}
	if n := len(s.newest.Damaged); n > 0 {
		s.problem(stateWarning, "backup %s has pages with wrong checksums", s.newest.Damaged[0])
	}
	for _, err := range s.newest.Unreadable {
		s.problem(stateWarning, "%s", err)
	}
	if k == nil {
		return nil
	}
	age := now.Sub(k.Ended)
	s.Backup = &backupStatus{k.ID, k.Began.UTC(), k.Ended.UTC(), int64(age.Seconds()), k.Size, k.Stored}
	s.problem(o.BackupAge.judge(age), "the last good backup ended %s ago", ageText(age))
	k, line, err := s.living(ctx, c, k)
	if err != nil || k == nil {
		return err
	}
	p, err := c.RecoveryPoint(ctx, *k, line)
	if err != nil {
		if errors.Is(err, repo.ErrUnreachable) || errors.Is(err, seal.ErrDamaged) {
			s.problem(stateCritical, "backup %s cannot be restored: %s", k.ID, err)
			return nil
		}
		return err
	}
	s.point(k, p, o, now)
	return nil
}

// living returns the newest good backup that leads to what the cluster is now, and on which timeline that is: another than the newest one if the cluster was
// restored to a moment before that since. It is nil if there is none.
func (s *clusterStatus) living(ctx context.Context, c *repo.Cluster, k *repo.Commit) (*repo.Commit, wal.Timeline, error) {
	lives, err := c.Lives(ctx, []repo.Commit{*k})
	if errors.Is(err, seal.ErrDamaged) {
		s.problem(stateWarning, "on which timeline the cluster is now is not known: %s", err)
		lives, err = nil, nil
	}
	if err != nil {
		return nil, 0, err
	}
	main := repo.MainLine(lives)
	if main == nil || len(lives) < 2 {
		t, err := c.NewestTimeline(ctx, *k)
		return k, t, err
	}
	for _, l := range lives {
		if !main.IsOn(l.Timeline) && l.Ended.After(main.Ended) {
			s.problem(stateWarning, "timeline %d, which left timeline %d at %v, was written to later than timeline %d, and while that was: restore follows the latter", l.Timeline, l.Left, l.At, main.Timeline)
		}
	}
	if lead := main.Leading([]repo.Commit{*k}); len(lead) == 1 {
		return k, main.Timeline, nil
	}
	commits, _ := c.Backups(ctx) // of what cannot be read is told already
	lead := main.Leading(slices.DeleteFunc(commits, func(k repo.Commit) bool { return k.Damaged }))
	if len(lead) == 0 {
		s.problem(stateCritical, "timeline %d left timeline %d at %v and replaced what was behind that, and no backup leads there: take one", main.Timeline, main.Left, main.At)
		return nil, 0, nil
	}
	s.problem(stateWarning, "timeline %d left timeline %d at %v and replaced what was behind that, of which the newest backup is: take one", main.Timeline, main.Left, main.At)
	return &lead[len(lead)-1], main.Timeline, nil
}

// gapTime is how long log is behind a gap before that is one: several files are pushed at once, and may come in another order.
const gapTime = 3 * time.Minute

// point judges the recovery point.
func (s *clusterStatus) point(k *repo.Commit, p repo.RecoveryPoint, o *statusOptions, now time.Time) {
	at := p.Commit
	if at.Before(k.Ended) {
		at = k.Ended // which is a state that can be restored, too
	}
	status := &recoveryPointStatus{Time: at.UTC(), Timeline: p.Timeline, LSN: p.End, Arrived: timeIfAny(p.Arrived), Resumes: p.Resumes}
	s.RecoveryPoint = status
	if p.IsMinimal || p.Resumes != "" && now.Sub(p.Resumed) > gapTime {
		s.problem(stateCritical, "%s, and no backup was taken since: take one", p.Missing())
	}
	if v := o.server; v != nil && v.SystemID == s.name.SystemID {
		s.server(v, p.End)
		if s.Server.BehindBytes == 0 && p.Resumes == "" && v.Timeline == p.Timeline {
			status.Time = now.UTC() // all that there is
		}
	}
	age := now.Sub(status.Time)
	status.AgeSeconds = int64(age.Seconds())
	s.problem(o.LogAge.judge(age), "the recovery point is %s old: it is %v on timeline %d, at %s", ageText(age), p.End, p.Timeline, stamp(status.Time))
}

// server judges what the running server tells.
func (s *clusterStatus) server(v *checkup.Server, end wal.LSN) {
	s.Server = &serverStatus{LSN: v.LSN, ArchiverFailed: v.Archiver.Failed, ArchiverFails: v.Archiver.IsFailing(), Slots: []slotStatus{}}
	if v.LSN > end {
		s.Server.BehindBytes = int64(v.LSN - end)
	}
	for _, slot := range v.Slots {
		s.Server.Slots = append(s.Server.Slots, slotStatus{slot.Name, slot.Active, slot.Retained, slot.WALStatus})
	}
	for _, item := range v.Items(checkup.Wanted{}) {
		if item.Level == checkup.OK || !isWatched(item.Name) {
			continue
		}
		as := stateWarning
		if item.Level == checkup.Error {
			as = stateCritical
		}
		s.problem(as, "%s: %s", item.Name, item.Text)
	}
}

// isWatched says whether an item of basin check is one that changes by itself.
func isWatched(item string) bool {
	return item == "archiver" || item == "max_wal_senders" || item == "max_replication_slots" || item == "server's clock" || len(item) > 5 && item[:5] == "slot "
}

// readCare judges what was read back, pins and leases.
func (s *clusterStatus) readCare(ctx context.Context, c *repo.Cluster, o *statusOptions, now time.Time) error {
	v, err := c.Verification(ctx)
	if err != nil {
		return err
	}
	if v.Damages, err = c.StillDamaged(ctx, v); err != nil {
		return err
	}
	s.Verified = verifiedStatus{v.Packs, timeIfAny(v.Oldest), timeIfAny(v.Newest), append([]string{}, v.Damages...)}
	if n := len(v.Damages); n > 0 {
		s.problem(stateCritical, "%s damaged or missing, as basin verify found: %s", counted(n, "object"), v.Damages[0])
	}
	switch {
	case !v.Newest.IsZero():
		age := now.Sub(v.Newest)
		s.problem(o.VerifyAge.judge(age), "it was verified %s ago", ageText(age))
	case s.Backup != nil: // a young repository has had no time to be
		age := now.Sub(s.Backup.Ended)
		if oldest, err := c.Oldest(ctx); err != nil {
			return err
		} else if oldest != nil {
			age = now.Sub(oldest.Ended)
		}
		s.problem(o.VerifyAge.judge(age), "it was never verified, and its oldest backup ended %s ago", ageText(age))
	}
	pins, err := c.Pins(ctx)
	if err != nil {
		return err
	}
	for _, p := range pins {
		if p.Holds(now) {
			s.Pins++
		}
	}
	leases, err := c.Leases(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases {
		if now.Before(l.Until) {
			s.LeasesActive++
			continue
		}
		s.LeasesOver++
		s.problem(stateWarning, "backup %s on %s was broken off: its lease ended %s ago; basin prune settles it", l.Backup, printable(l.Host, false), ageText(now.Sub(l.Until)))
	}
	return nil
}

// line tells people of a cluster.
func (s clusterStatus) line() string {
	text := s.Cluster + ": "
	if s.Backup == nil {
		text += "no backup"
	} else {
		text += "backup " + ageText(time.Duration(s.Backup.AgeSeconds)*time.Second) + " ago"
	}
	if p := s.RecoveryPoint; p != nil {
		text += fmt.Sprintf(", recovery point %s ago at %v", ageText(time.Duration(p.AgeSeconds)*time.Second), p.LSN)
	}
	if s.Verified.Newest != nil {
		text += ", verified " + s.Verified.Newest.Format("2006-01-02 15:04 UTC")
	} else {
		text += ", never verified"
	}
	if s.Pins > 0 {
		text += ", " + counted(s.Pins, "pin")
	}
	if s.LeasesActive > 0 {
		text += ", " + counted(s.LeasesActive, "backup") + " being made"
	}
	if v := s.Server; v != nil {
		text += ", server " + humanize.IBytes(uint64(v.BehindBytes)) + " ahead"
	}
	return text
}

// newStatus returns the status of a cluster of which nothing is known yet.
func newStatus(name repo.ClusterName) clusterStatus {
	return clusterStatus{
		Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Problems: []statusProblem{}, name: name,
		Verified: verifiedStatus{Damages: []string{}},
	}
}
