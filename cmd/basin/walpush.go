package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"

	"basin/internal/ahead"
	"basin/internal/localfs"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

const (
	// defaultPushJobs is how many segments are pushed at once.
	defaultPushJobs = 4
	// besideBytes is how much log is in memory at once that nobody has asked for yet.
	besideBytes = 64 << 20
	// besideBegin is how long after the one that was asked for others are begun, besideTime when those are given up.
	besideBegin = 5 * time.Second
	besideTime  = 30 * time.Second
	// youngTime is for how long a file was not written to that is pushed before it is asked for.
	youngTime = 2 * time.Second
	// noteTime is how long it counts that a file was noted as stored.
	noteTime = time.Hour
	// fullTime is how long a repository may take if the queue is full, and nextTry when one is tried again that has not taken
	// anything: meanwhile more log comes.
	fullTime = 30 * time.Second
	nextTry  = time.Minute
)

// pusher keeps files of the log of a cluster in the repositories that are meant.
type pusher struct {
	report    *report
	all       []repositoryOptions
	need      int // in how many repositories a file is to be
	cluster   string
	systemID  uint64
	locations []string // of the repositories

	mu     sync.Mutex
	opened map[string]*repo.Cluster // by what the options of a repository say
}

// newPusher returns what pushes to the repositories that options mean.
func newPusher(r *report, o repositoryOptions, systemID uint64) (*pusher, error) {
	o.WritesLog = true
	u := &pusher{report: r, systemID: systemID, opened: make(map[string]*repo.Cluster)}
	var err error
	if u.all, u.need, err = o.each(); err != nil {
		return nil, err
	}
	for _, one := range u.all {
		p, err := one.place()
		if err != nil {
			return nil, err
		}
		u.cluster = cmp.Or(p.Cluster, "main")
		u.locations = append(u.locations, p.Location)
	}
	return u, nil
}

// open opens the part of a repository that is of the cluster.
func (u *pusher) open(ctx context.Context, one repositoryOptions) (*repo.Cluster, error) {
	u.mu.Lock()
	c := u.opened[one.Location]
	u.mu.Unlock()
	if c != nil {
		return c, nil
	}
	_, c, err := openClusterOf(ctx, one, u.systemID)
	if err == nil {
		u.mu.Lock()
		u.opened[one.Location] = c
		u.mu.Unlock()
	}
	return c, err
}

// put has a file be pushed to all repositories but those that are not to be tried, for reasons that are given by their names.
func (u *pusher) put(ctx context.Context, untried map[string]error, push func(ctx context.Context, c *repo.Cluster) error) []outcome {
	return doInAll(ctx, u.all, u.need, func(ctx context.Context, one repositoryOptions) error {
		if err := untried[one.Location]; err != nil {
			return err
		}
		c, err := u.open(ctx, one)
		if err != nil {
			return err
		}
		return push(ctx, c)
	})
}

// errYoung is a file that is not pushed yet.
var errYoung = errors.New("it was written to just now")

// isInAll says whether a file is in all repositories.
func isInAll(outcomes []outcome) bool {
	return !slices.ContainsFunc(outcomes, func(o outcome) bool { return o.err != nil })
}

// logPush is a file of the log that is to be archived.
type logPush struct {
	*pusher
	path, name string
	size       int64    // in bytes
	content    []byte   // nil if the file is so large that it is not in memory
	file       *os.File // that is read then
	jobs       int
	spool      *ahead.Folder // nil without one
	note       string        // path of the file that tells of log that was given up; empty without a spool
	limits     queueLimits
	queue      logQueue
	dropped    droppedLog
}

// pushLog keeps a file of the log in the repository, and what PostgreSQL will ask for next.
func pushLog(ctx context.Context, r *report, o walOptions, path string) error {
	p, err := o.place()
	if err != nil {
		return err
	}
	l := logPush{path: path, name: filepath.Base(path), jobs: cmp.Or(o.Jobs, p.PushJobs, defaultPushJobs)}
	p.QueueWarn, p.QueueMax, p.QueueFull = cmp.Or(o.QueueWarn, p.QueueWarn), cmp.Or(o.QueueMax, p.QueueMax), cmp.Or(o.QueueFull, p.QueueFull)
	if l.limits, err = p.queueLimits(); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	id := o.SystemID
	if id == 0 {
		if id, err = l.clusterID(o.DataDirectory); err != nil {
			return err
		}
	}
	if l.pusher, err = newPusher(r, o.repositoryOptions, id); err != nil {
		return err
	}
	if err := l.openSpool(o, p); err != nil {
		return err
	}
	if l.spool != nil && l.spool.Noted(l.name, info, time.Now().Add(-noteTime)) {
		return nil
	}
	if l.size = info.Size(); l.size > repo.WholeLog {
		l.file, err = os.Open(l.path)
		defer l.file.Close() // it is only read
	} else {
		l.content, err = os.ReadFile(l.path)
	}
	if err != nil {
		return localfs.Errorf(err, l.path, "could not read file \"%s\"", l.path)
	}
	return l.run(ctx)
}

// push pushes the file to a repository.
func (l *logPush) push(ctx context.Context, c *repo.Cluster) error {
	if l.file != nil {
		return c.PushLogFile(ctx, l.name, l.file, l.size, 0)
	}
	return c.PushLog(ctx, l.name, l.content, 0)
}

// clusterID returns the number of the cluster that the file is of, which its beginning says if there is no data directory.
func (l *logPush) clusterID(dataDirectory string) (uint64, error) {
	id, err := systemIDOf(dataDirectory, nil)
	if err == nil {
		return id, nil
	}
	file, err := os.Open(l.path)
	if err != nil {
		return 0, localfs.Errorf(err, l.path, "could not read file \"%s\"", l.path)
	}
	defer file.Close() // it is only read
	begin, err := io.ReadAll(io.LimitReader(file, repo.BlockSize))
	if err != nil {
		return 0, localfs.Errorf(err, l.path, "could not read file \"%s\"", l.path)
	}
	return systemIDOf(dataDirectory, begin)
}

// openSpool opens the folder that the server has in the spool for what it pushes, if there is one. It is another one for
// other repositories, or if a file is to be in more of them.
func (l *logPush) openSpool(o walOptions, p place) error {
	dir := o.spoolFolder(p)
	if dir == "" {
		if l.limits.Drop {
			return usererr.Hinted("It is there that it is noted which log was given up. Name a directory with --spool, BASIN_SPOOL, or spool in the configuration.",
				"with queue_full = \"drop\" there must be a spool")
		}
		return nil
	}
	data, err := filepath.Abs(filepath.Dir(l.path))
	if err != nil {
		return err
	}
	owner := append([]string{"push", l.cluster, strconv.FormatUint(l.systemID, 10), data, strconv.Itoa(l.need)}, l.locations...)
	l.spool, err = ahead.Open(dir, strings.Join(append(owner, p.S3Endpoint), "\x00"))
	if err == nil {
		l.note = filepath.Join(dir, droppedName(l.cluster, l.systemID, data))
		l.dropped, err = readDropped(l.note)
	}
	if err != nil && !l.limits.Drop {
		l.report.warning("%v; it is gone on without a spool", err)
		l.spool, l.note, err = nil, "", nil
	}
	return err
}

// run pushes the file.
func (l *logPush) run(ctx context.Context) error {
	now := time.Now()
	var err error
	if l.queue, err = readQueue(filepath.Dir(l.path)); err != nil && !errors.Is(err, fs.ErrNotExist) { // it may be pushed from elsewhere
		l.report.warning("%v; it is not known how much log waits", err)
	}
	if is, text := l.limits.judge(l.queue); is != stateOK {
		l.report.warn(usererr.Hinted("See why the repository does not take the log, or not as fast as it comes: basin check. More of it is pushed at once with --jobs and --spool.", "%s", text))
	}
	isFull := l.limits.Drop && l.queue.Bytes > l.limits.Max
	tried, untried := ctx, map[string]error(nil)
	if isFull {
		var cancel context.CancelFunc
		tried, cancel = context.WithTimeoutCause(ctx, fullTime, fmt.Errorf("it had not answered after %v", fullTime))
		defer cancel()
		untried = l.untried(now)
	}
	outcomes := l.put(tried, untried, l.push)
	err = settle(l.report, l.need, outcomes)
	if other := (*repo.OtherLogError)(nil); errors.As(err, &other) {
		return usererr.Hinted("Two servers write to one archive, or the file was written to after it was archived. Nothing was overwritten, and nothing more is archived until this is settled.", "%w", err)
	}
	l.tellHoles(ctx, outcomes)
	switch {
	case err == nil && isInAll(outcomes):
		l.beside(ctx)
	case err != nil && isFull && ctx.Err() == nil:
		return l.drop(now, outcomes, untried, err)
	}
	return err
}

// beside pushes what PostgreSQL will ask for next, several files at once, and notes what is stored. The first that
// cannot be ends it: PostgreSQL asks for that soon, and is told why. Nothing is pushed behind a file
// that is in a repository already, since it may be there with another content: it is compared when it is asked for.
func (l *logPush) beside(ctx context.Context) {
	jobs := min(l.jobs, int(besideBytes/max(l.size, 1)))
	if l.spool == nil || l.jobs < 2 || jobs < 1 || wal.KindOf(l.name) != wal.SegmentFile {
		return
	}
	names := l.queue.behind(l.name)
	if len(names) == 0 {
		return
	}
	l.content = nil
	debug.SetMemoryLimit(backupMemory)
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, besideTime)
	defer cancel()
	if err := l.spool.KeepNotes(func(file string, made time.Time) bool { return file > l.name && made.After(begun.Add(-noteTime)) }); err != nil {
		l.report.warning("%v; no more is pushed at once", err)
		return
	}
	names, err := l.unseen(ctx, names)
	if err != nil {
		return
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(jobs)
	for _, name := range names {
		if ctx.Err() != nil || time.Since(begun) > besideBegin {
			break
		}
		group.Go(func() error {
			if ctx.Err() != nil { // one before it failed
				return ctx.Err()
			}
			path := filepath.Join(filepath.Dir(l.path), name)
			info, err := os.Stat(path) // before it is read: what is written to it later is noticed
			if err != nil {
				return err
			}
			if time.Since(info.ModTime()) < youngTime {
				return errYoung
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			push := func(ctx context.Context, c *repo.Cluster) error { return c.PushLog(ctx, name, content, 0) }
			for _, o := range l.put(ctx, nil, push) {
				if o.err != nil {
					return o.err
				}
			}
			return l.spool.Note(name, info)
		})
	}
	_ = group.Wait() // PostgreSQL asks for what failed, and is told then
}

// unseen returns the first of names of which none is in any of the repositories.
func (l *logPush) unseen(ctx context.Context, names []string) ([]string, error) {
	t, err := strconv.ParseUint(names[0][:8], 16, 32)
	if err != nil {
		return nil, err
	}
	for _, one := range l.all {
		c, err := l.open(ctx, one)
		if err != nil {
			return nil, err
		}
		for have, err := range c.LogNames(ctx, wal.Timeline(t), names[0]) {
			if err != nil {
				return nil, err
			}
			if wal.KindOf(have) != wal.HistoryFile {
				names = names[:sortedUntil(names, func(name string) bool { return name[:24] < have[:24] })]
				break
			}
		}
		if len(names) == 0 {
			break
		}
	}
	return names, nil
}

// untried returns the repositories that are not to be tried yet: log of theirs was given up a short while ago.
func (l *logPush) untried(now time.Time) map[string]error {
	untried := make(map[string]error)
	for i, one := range l.all {
		if d := l.dropped.Repositories[l.locations[i]]; d != nil && now.Before(d.Tried.Add(nextTry)) && !now.Before(d.Tried) {
			untried[one.Location] = fmt.Errorf("it is tried again at %s; it was not stored: %s", stamp(d.Tried.Add(nextTry)), d.Why)
		}
	}
	return untried
}

// drop gives a file up, so that PostgreSQL goes on: it is noted durably in which repositories it is missing, and told. Without that it
// is not given up.
func (l *logPush) drop(now time.Time, outcomes []outcome, untried map[string]error, cause error) error {
	host, err := os.Hostname()
	if err != nil {
		return errors.Join(cause, err)
	}
	d := droppedLog{Cluster: l.cluster, SystemID: strconv.FormatUint(l.systemID, 10), Repositories: maps.Clone(l.dropped.Repositories)}
	if d.Repositories == nil {
		d.Repositories = make(map[string]*droppedIn)
	}
	kind := wal.KindOf(l.name)
	isKept := kind == wal.HistoryFile || kind == wal.BackupFile
	var missing []string
	for i, o := range outcomes {
		if o.err == nil {
			continue
		}
		var in droppedIn
		if had := d.Repositories[l.locations[i]]; had != nil {
			in = *had
			in.Kept = maps.Clone(had.Kept)
		}
		in.Host = host
		if untried[o.repository] == nil {
			in.Tried, in.Why = time.Now().UTC(), strings.TrimSpace(o.err.Error())
		}
		if isKept {
			if in.Kept == nil {
				in.Kept = make(map[string][]byte)
			}
			in.Kept[l.name] = l.content
		} else {
			in.Add(l.name, now.UTC(), in.Why)
		}
		d.Repositories[l.locations[i]] = &in
		missing = append(missing, l.locations[i])
	}
	if err := d.write(l.note); err != nil {
		return fmt.Errorf("%w; and it is not given up, since that cannot be noted: %w", cause, err)
	}
	if isKept {
		l.report.warn(fmt.Errorf("%s waits in the spool until it can be stored: %w", l.name, cause))
		return nil
	}
	l.report.error(usererr.Hinted("PostgreSQL was told that it is archived. Backups that are there lead no further than to it. Once the log is stored again, take a new backup (basin backup); until then basin status is CRITICAL.",
		"%s is given up, and missing for good in %s: %s wait, and queue_max is %s: %w",
		l.name, strings.Join(missing, ", "), humanize.IBytes(uint64(l.queue.Bytes)), humanize.IBytes(uint64(l.limits.Max)), cause))
	return nil
}

// tellHoles notes in each repository that takes log again what was given up of it, and then forgets it on this host.
func (l *logPush) tellHoles(ctx context.Context, outcomes []outcome) {
	isTold := false
	for i, o := range outcomes {
		in := l.dropped.Repositories[l.locations[i]]
		if in == nil || o.err != nil {
			continue
		}
		if err := l.tellHole(ctx, i, in); err != nil {
			l.report.warn(fmt.Errorf("repository %s is yet to be told which log was given up: %w", l.locations[i], err))
			continue
		}
		delete(l.dropped.Repositories, l.locations[i])
		isTold = true
	}
	if !isTold {
		return
	}
	if err := l.dropped.write(l.note); err != nil {
		l.report.warn(err) // it is told again, which does no harm
	}
}

// tellHole notes in a repository what was given up of it.
func (l *logPush) tellHole(ctx context.Context, number int, in *droppedIn) error {
	c, err := l.open(ctx, l.all[number])
	if err != nil {
		return err
	}
	for name, content := range in.Kept {
		if err := c.PushLog(ctx, name, content, 0); err != nil {
			return err
		}
	}
	if in.Files == 0 {
		return nil
	}
	l.report.warn(usererr.Hinted("Take a new backup now: basin backup.", "repository %s takes log again; %s", l.locations[number], holeText(in.Hole)))
	return c.PutHole(ctx, in.Hole)
}
