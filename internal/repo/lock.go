package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basin/internal/manifest"
	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

const (
	// maxLockSpare is how much longer than commits what they need is locked, at most.
	maxLockSpare = 7 * 24 * time.Hour
	// commitTime is how long it takes at most from when locks are seen to until a commit is there.
	commitTime = time.Hour
	// lockedAtOnce is how many locks are prolonged at the same time.
	lockedAtOnce = 16
)

// lockSpare is how much longer than commits other objects are locked: a quarter of that, a week at most. So
// not every backup has to prolong the locks of all that it has in common with its parent.
func lockSpare(lock time.Duration) time.Duration { return min(lock/4, maxLockSpare) }

// LockTime returns how long a new object is to be kept from being removed, in a repository whose backups are for
// the time lock: as long, or somewhat longer if backups share it. It is zero for what is replaced soon, such
// as leases, parts of segments that are being received, and facts, pins apart.
func LockTime(name string, lock time.Duration) time.Duration {
	elements := strings.Split(name, "/")
	last := elements[len(elements)-1]
	switch {
	case lock <= 0, elements[0] == "probe":
		return 0
	case len(elements) < 3, elements[0] == "keys": // repository.json and keys
		return lock + lockSpare(lock)
	}
	_, isPart := parseLogPart(last)
	switch kind := elements[2]; {
	case kind == "leases", kind == "facts" && elements[3] != factPin, kind == "wal" && isPart:
		return 0
	case kind == "backups":
		return lock
	}
	return lock + lockSpare(lock)
}

// keepLocked sees that all that the backup needs is locked longer than its commit will be, and
// notes until when that is.
//
// What the backup has stored was locked when it was made. What its parent needs was by then at least until the time that the
// parent says: if that is not long enough, or if the backup has taken too long, or has adopted packs of which
// nothing is known, all of it is prolonged.
func (s *Sink) keepLocked(ctx context.Context) error {
	lock := s.cluster.repo.o.Lock
	s.commit.Locked = time.Time{}
	if lock <= 0 {
		return nil
	}
	now, spare := s.o.Now(), lockSpare(lock)
	l := &locking{cluster: s.cluster, needed: now.Add(lock + commitTime), keys: make(map[seal.KeyID]bool)}
	l.until = l.needed.Add(spare)
	own := s.begun.Add(lock + spare)
	s.commit.Locked = own
	isOwnKept, isParentKept := !own.Before(l.needed), s.adopted == nil
	if p := s.o.Parent; p != nil {
		isParentKept = isParentKept && !p.Locked.Before(l.needed)
		if p.Locked.Before(own) {
			s.commit.Locked = p.Locked
		}
	}
	if !isOwnKept || !isParentKept {
		s.commit.Locked = l.until
		if isOwnKept {
			l.kept, s.commit.Locked = &s.lease.prefix, own
		}
		if err := l.index(ctx, &s.commit); err != nil {
			return err
		}
	}
	s.commit.Locked = s.commit.Locked.UTC().Truncate(time.Second)
	for _, id := range append(s.keys, s.commit.DigestKey) {
		l.keys[id] = true
	}
	return errors.Join(l.common(ctx), l.log(ctx, &s.commit))
}

// locking prolongs locks.
type locking struct {
	cluster *Cluster
	needed  time.Time        // until when all is to be locked
	until   time.Time        // until when it is
	kept    *[leaseSize]byte // what has these digits is locked long enough; nil for nothing

	mu   sync.Mutex
	keys map[seal.KeyID]bool // data keys that are needed
}

// lock locks one object.
func (l *locking) lock(ctx context.Context, name string) error {
	locker, ok := l.cluster.repo.store.(object.Locker)
	if !ok {
		return fmt.Errorf("lock %s: the store cannot: %w", name, object.ErrRefused)
	}
	return locker.Lock(ctx, name, l.until)
}

// index locks the packs and parts that a backup needs.
func (l *locking) index(ctx context.Context, commit *Commit) error {
	n := &need{cluster: l.cluster, packs: make(map[PackID]bool), parts: make(map[ID]bool)}
	if err := n.walk(ctx, commit, nil); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lockedAtOnce)
	for _, all := range []struct {
		kind seal.Kind
		ids  map[ID]bool
		name func(ID) string
	}{{kindPack, n.packs, l.cluster.packName}, {kindPart, n.parts, l.cluster.partName}} {
		for id := range all.ids {
			if l.kept != nil && [leaseSize]byte(id[:leaseSize]) == *l.kept {
				continue
			}
			name := all.name(id)
			group.Go(func() error {
				if err := l.lock(ctx, name); err != nil {
					return err
				}
				return l.noteKey(ctx, all.kind, name)
			})
		}
	}
	return group.Wait()
}

// noteKey notes the data key that an object is sealed with.
func (l *locking) noteKey(ctx context.Context, kind seal.Kind, name string) error {
	if !l.cluster.repo.info.Encrypted {
		return nil
	}
	head, err := l.cluster.repo.store.Get(ctx, name, 0, seal.HeadSize)
	if err != nil {
		return err
	}
	_, err = seal.OpenBox(kind, name, head, func(id seal.KeyID) (seal.Key, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.keys[id] = true
		return seal.Key{ID: id, Encrypts: true}, nil
	})
	return err
}

// common locks what all backups need: what the repository is, whom its key is wrapped for, and data keys.
func (l *locking) common(ctx context.Context) error {
	names := []string{infoName}
	r := l.cluster.repo
	if r.info.Encrypted {
		wrapped, err := r.Keys(ctx)
		if err != nil {
			return err
		}
		for _, k := range wrapped {
			names = append(names, keyName(k.ID))
		}
		for id := range l.keys {
			names = append(names, dataKeyName(id))
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(lockedAtOnce)
	for _, name := range names {
		group.Go(func() error { return l.lock(ctx, name) })
	}
	return group.Wait()
}

// log locks the log that a backup needs, as far as it is there: what comes later is locked when it is made.
func (l *locking) log(ctx context.Context, commit *Commit) error {
	size := commit.SegmentSize
	if !wal.ValidSegmentSize(size) {
		return nil // there is none to be named
	}
	ranges := commit.Ranges
	if len(ranges) == 0 {
		ranges = []manifest.Range{{Timeline: commit.Stop.Timeline, Start: commit.Start.LSN, End: commit.Stop.LSN}}
	}
	var names []string
	for _, r := range ranges {
		first := wal.SegmentAt(wal.Position{Timeline: r.Timeline, LSN: r.Start}, size).Name(size)
		last := wal.SegmentAt(wal.Position{Timeline: r.Timeline, LSN: r.End}, size).Name(size)
		for name, err := range l.cluster.LogNames(ctx, r.Timeline, first) {
			if err != nil {
				return err
			}
			if len(name) >= len(last) && name[:len(last)] > last {
				break
			}
			if at, err := l.cluster.logName(name); err == nil && LockTime(at, time.Hour) > 0 {
				names = append(names, at)
			}
		}
	}
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(lockedAtOnce)
	for _, name := range names {
		group.Go(func() error {
			if err := l.lock(working, name); err != nil && !errors.Is(err, fs.ErrNotExist) { // it was removed meanwhile, as are parts of segments
				return err
			}
			return nil
		})
	}
	return group.Wait()
}

// Kept says what is not removed, as the store has locked it.
type Kept struct {
	Objects int
	Bytes   int64
	Until   time.Time // when the last of it can be removed; zero if that is not known
}

// add adds an object that cannot be removed.
func (k *Kept) add(size int64, until time.Time) {
	if k.Objects++; until.After(k.Until) {
		k.Until = until
	}
	k.Bytes += size
}

// remove removes objects, and returns those that are locked, and until when.
func (c *Cluster) remove(ctx context.Context, names []string) (map[string]time.Time, error) {
	return c.eachLocked(names, func(name string) error {
		if err := c.repo.store.Delete(ctx, name); err != nil {
			return fmt.Errorf("remove %s: %w", name, err)
		}
		return nil
	})
}

// locked returns which objects cannot be removed, and until when.
func (c *Cluster) locked(ctx context.Context, names []string) (map[string]time.Time, error) {
	locker, ok := c.repo.store.(object.Locker)
	if !ok {
		return nil, nil
	}
	return c.eachLocked(names, func(name string) error { return locker.CheckDelete(ctx, name) })
}

// eachLocked does something to objects, several at a time, and returns which are locked, and until when. Behind another
// error nothing more is begun.
func (c *Cluster) eachLocked(names []string, do func(name string) error) (map[string]time.Time, error) {
	var mu sync.Mutex
	locked := make(map[string]time.Time)
	group, failed := errgroup.WithContext(context.Background())
	group.SetLimit(removedAtOnce)
	for _, name := range names {
		group.Go(func() error {
			if failed.Err() != nil {
				return nil
			}
			err := do(name)
			if is := (*object.LockedError)(nil); errors.As(err, &is) {
				mu.Lock()
				defer mu.Unlock()
				locked[name] = is.Until
				return nil
			}
			return err
		})
	}
	return locked, group.Wait()
}

// CheckForget returns the *object.LockedError that Forget would for a backup that cannot be removed yet.
func (c *Cluster) CheckForget(ctx context.Context, id string) error {
	locker, ok := c.repo.store.(object.Locker)
	if !ok {
		return nil
	}
	return locker.CheckDelete(ctx, c.commitName(id))
}
