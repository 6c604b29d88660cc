package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"basin/internal/checkup"
	"basin/internal/object"
	"basin/internal/object/s3"
	"basin/internal/repo"
	"basin/internal/usererr"
)

// lockFor returns for how long backups are locked; zero for not at all.
func (p place) lockFor() (time.Duration, error) {
	mode, age := p.S3LockMode, p.S3LockFor
	switch {
	case mode == "" && age == "":
		return 0, nil
	case mode == "" || age == "":
		return 0, usererr.Hinted("Say both, such as --s3-lock-mode=governance --s3-lock-for=30d, or neither.",
			"--s3-lock-mode and --s3-lock-for need each other")
	case mode != "governance" && mode != "compliance":
		return 0, usererr.Hinted("In governance mode, who has the right to can remove locks; in compliance mode nobody can.",
			"--s3-lock-mode is \"%s\", and must be governance or compliance", mode)
	}
	lock, err := parseAge(age)
	if err != nil {
		return 0, fmt.Errorf("--s3-lock-for: %w", err)
	}
	if p.isFolder() { // as settings of the environment are of all repositories
		return 0, nil
	}
	return lock, nil
}

// lockOptions adds to the options of a bucket how objects are locked.
func (p place) lockOptions(o *s3.Options) error {
	lock, err := p.lockFor()
	if err != nil || lock == 0 {
		return err
	}
	o.LockMode = strings.ToUpper(p.S3LockMode)
	o.LockFor = func(name string) time.Duration { return repo.LockTime(name, lock) }
	return nil
}

// bucketLock asks the bucket whether it can lock objects. That it may not be asked is an object.ErrRefused.
func (p place) bucketLock(ctx context.Context) (lock s3.BucketLock, err error) {
	o, err := p.bucketOptions()
	if err != nil {
		return lock, err
	}
	s, err := s3.Open(ctx, o)
	if err != nil {
		return lock, err
	}
	defer s.Close() // which only has idle connections
	return s.BucketLock(ctx)
}

// lockItem says how what is asked for and what the bucket does go together.
func (p place) lockItem(bucket s3.BucketLock) checkup.Item {
	always := fmt.Sprintf("in %s mode for %s", strings.ToLower(bucket.Mode), counted(bucket.Days, "day"))
	item := checkup.Item{Name: "object lock", Level: checkup.Warning}
	switch isAsked := p.S3LockMode != ""; {
	case isAsked && !bucket.Enabled:
		item.Level = checkup.Error
		item.Text = "backups are to be locked, and the bucket locks nothing"
		item.Advice = "Turn object lock on for the bucket, which some servers can only when it is made; or leave s3_lock_mode away."
	case isAsked && bucket.Mode != "":
		item.Text = fmt.Sprintf("the bucket locks every object by itself too, %s, so that leases and what else is of use for minutes stays as long", always)
		item.Advice = "Remove the bucket's default retention: what has to last is locked by basin."
	case isAsked:
		item.Level = checkup.OK
		item.Text = fmt.Sprintf("%s mode, %s", p.S3LockMode, p.S3LockFor)
	case bucket.Mode != "":
		item.Text = fmt.Sprintf("the bucket locks every object by itself, %s from when it was made: a backup is not locked as long as its commit is, since it shares older objects", always)
		item.Advice = fmt.Sprintf("Set s3_lock_mode = \"%s\" and s3_lock_for = \"%dd\", so that backups prolong the locks of all that they need, and remove the bucket's default retention.",
			strings.ToLower(bucket.Mode), bucket.Days)
	case bucket.Enabled:
		item.Text = "the bucket can lock objects, and nothing is locked: who may delete can remove backups"
		item.Advice = "Set s3_lock_mode and s3_lock_for, as in docs/repository.md."
	default:
		item.Level = checkup.OK
		item.Text = "off: who may delete in the bucket can remove backups"
	}
	return item
}

// checkNewLock sees before a repository is made that backups can be locked if they are to be, and tells what
// else is of interest.
func (p place) checkNewLock(ctx context.Context, c call) error {
	if _, err := p.lockFor(); err != nil {
		return err
	}
	if p.isFolder() && p.S3LockMode != "" {
		return usererr.Hinted("Object lock is of S3. Leave --s3-lock-mode away, BASIN_S3_LOCK_MODE and s3_lock_mode too, or make the repository in a bucket.",
			"backups are to be locked, and a directory cannot lock them")
	}
	if p.isFolder() {
		return nil
	}
	bucket, err := p.bucketLock(ctx)
	if err != nil && !errors.Is(err, object.ErrRefused) {
		return fmt.Errorf("%s: %w", p.Location, err)
	}
	if err != nil {
		if p.S3LockMode != "" {
			c.report.warning("%s", err)
		}
		return nil // what else is refused is told by the next call
	}
	switch item := p.lockItem(bucket); item.Level {
	case checkup.Error:
		return usererr.Hinted(item.Advice, "%s: %s", p.Location, item.Text)
	case checkup.Warning:
		c.report.warning("%s. %s", item.Text, item.Advice)
	}
	return nil
}

// checkLock looks at the locks of the bucket, and of the newest backups.
func (r *checkRun) checkLock(ctx context.Context, repository *repo.Repository, p place) {
	const item = "object lock"
	if p.isFolder() {
		return
	}
	bucket, err := p.bucketLock(ctx)
	switch {
	case err != nil && p.S3LockMode == "" && errors.Is(err, object.ErrRefused):
		return // nothing is wanted
	case err != nil && errors.Is(err, object.ErrRefused):
		r.add(checkup.Warning, item, usererr.Hint(err), "%s", err)
	case err != nil:
		r.fail(ctx, item, err)
		return
	default:
		r.items = append(r.items, p.lockItem(bucket))
	}
	if p.S3LockMode == "" || !repository.CanRead() {
		return
	}
	names, err := repository.Clusters(ctx)
	if err != nil {
		r.fail(ctx, item, err)
		return
	}
	for _, name := range names {
		if p.Cluster == "" || p.Cluster == name.Name {
			if err := r.checkNewestLock(ctx, repository, name); err != nil {
				r.fail(ctx, item, err)
			}
		}
	}
}

// checkNewestLock sees that the newest backup of a cluster is locked.
func (r *checkRun) checkNewestLock(ctx context.Context, repository *repo.Repository, name repo.ClusterName) error {
	const item = "object lock"
	cluster, err := repository.Cluster(name.Name, name.SystemID)
	if err != nil {
		return err
	}
	newest, err := cluster.Newest(ctx)
	if err != nil || newest.Backup == nil {
		return err
	}
	id := newest.Backup.ID
	err = cluster.CheckForget(ctx, id)
	locked := (*object.LockedError)(nil)
	isLocked := errors.As(err, &locked)
	switch {
	case err != nil && !isLocked:
		return err
	case !isLocked:
		r.add(checkup.Warning, item, "Take a backup from where s3_lock_mode is set; each locks all that it needs. If one was just taken, allow s3:GetObjectRetention.",
			"the newest backup of %s, %s, is not locked", name.Name, id)
	default:
		r.add(checkup.OK, item, "", "the newest backup of %s is %s", name.Name, untilText(locked.Until))
	}
	return nil
}

// untilText says until when something is locked; the zero time is a legal hold.
func untilText(until time.Time) string {
	if until.IsZero() {
		return "locked by a legal hold"
	}
	return "locked until " + until.UTC().Format("2006-01-02 15:04 MST")
}

// keptText says what prune has left, as it is locked. It is empty if that is nothing.
func keptText(what string, k repo.Kept) string {
	if k.Objects == 0 {
		return ""
	}
	last := ""
	if k.Objects > 1 && !k.Until.IsZero() {
		last = "the last is "
	}
	return fmt.Sprintf("%s%s, %s, would go too: %s%s\n", counted(k.Objects, "object"), what, bytesText(k.Bytes), last, untilText(k.Until))
}

// keepLocked notes of verdicts that cannot be carried out yet that the backups are kept. It returns those backups.
func keepLocked(ctx context.Context, cluster *repo.Cluster, verdicts []repo.Verdict) (kept []error, err error) {
	for i := range verdicts {
		v := &verdicts[i]
		if v.Keep {
			continue
		}
		err := cluster.CheckForget(ctx, v.Commit.ID)
		locked := (*object.LockedError)(nil)
		if !errors.As(err, &locked) {
			if err != nil {
				return nil, err
			}
			continue
		}
		v.Keep = true
		v.Reason += ", but it is " + untilText(locked.Until)
		kept = append(kept, usererr.Hinted("It can be forgotten then.", "backup %s is %s", v.Commit.ID, untilText(locked.Until)))
	}
	return kept, nil
}
