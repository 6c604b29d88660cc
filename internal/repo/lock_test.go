package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

func TestLockTime(t *testing.T) {
	const day = 24 * time.Hour
	below := "main/42/"
	for _, c := range []struct {
		name  string
		whole bool // locked for as long as what backups share
		lock  bool
	}{
		{"repository.json", true, true},
		{"keys/0123", true, true},
		{"keys/data/0123", true, true},
		{"probe/0123", false, false},
		{below + "backups/20261126T200500Z-1f2e3d4c/commit", false, true},
		{below + "packs/0123", true, true},
		{below + "parts/0123", true, true},
		{below + "wal/00000001/00000000/000000010000000000000001", true, true},
		{below + "wal/00000001/00000000/000000010000000000000001.00000028.backup", true, true},
		{below + "wal/00000001/00000000/000000010000000000000001.partial", true, true}, // archived at a promotion
		{below + "wal/00000001/00000000/000000010000000000000001.partial.00002000", false, false},
		{below + "wal/00000001/00000000/000000010000000000000001.part.00002000.00004000", false, false},
		{below + "wal/00000002/00000002.history", true, true},
		{below + "facts/pin/0123", true, true},
		{below + "facts/thin/0123", false, false},
		{below + "facts/verified/0123", false, false},
		{below + "leases/0123-0000", false, false},
	} {
		want := time.Duration(0)
		if c.lock {
			want = 40 * day
		}
		if c.whole {
			want += 7 * day
		}
		if got := LockTime(c.name, 40*day); got != want {
			t.Errorf("%s: %v, want %v", c.name, got, want)
		}
		if got := LockTime(c.name, 0); got != 0 {
			t.Errorf("%s: %v without locks", c.name, got)
		}
	}
}

// lockable is a store that locks, with a clock that goes on each time that somebody looks at it.
type lockable struct {
	*object.Memory
	mu    sync.Mutex
	clock time.Time
	step  time.Duration
	lock  time.Duration // of backups
	until map[string]time.Time
	calls int // of Lock
}

func (s *lockable) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock = s.clock.Add(s.step)
	return s.clock
}

func (s *lockable) Create(ctx context.Context, name string, data []byte) error {
	if err := s.Memory.Create(ctx, name, data); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if lock := LockTime(name, s.lock); lock > 0 {
		s.until[name] = s.clock.Add(lock)
	}
	return nil
}

func (s *lockable) Lock(ctx context.Context, name string, until time.Time) error {
	if _, err := s.Get(ctx, name, 0, 0); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls++; until.After(s.until[name]) {
		s.until[name] = until
	}
	return nil
}

func (s *lockable) CheckDelete(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until := s.until[name]; until.After(s.clock) {
		return &object.LockedError{Name: name, Until: until}
	}
	return nil
}

func (s *lockable) Delete(ctx context.Context, name string) error {
	if err := s.CheckDelete(ctx, name); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.until, name)
	s.mu.Unlock()
	return s.Memory.Delete(ctx, name)
}

// keptUntil returns what is left if all is removed that is not locked until a time.
func (s *lockable) keptUntil(t *testing.T, when time.Time) *object.Memory {
	t.Helper()
	left := s.Clone()
	for info, err := range s.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if s.until[info.Name].Before(when) {
			if err := left.Delete(t.Context(), info.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	return left
}

// newLockable makes a repository of backups that are locked for a time.
func newLockable(t *testing.T, encrypted bool, lock time.Duration) (*lockable, *Cluster) {
	t.Helper()
	s := &lockable{Memory: new(object.Memory), clock: at(t, "2026-11-26T12:00:00Z"), lock: lock, until: make(map[string]time.Time)}
	var o InitOptions
	open := Options{Lock: lock}
	if encrypted {
		private, err := seal.NewPrivateKey()
		if err != nil {
			t.Fatal(err)
		}
		public := private.Public()
		o.PublicKey, o.Keys, open.PrivateKey = &public, [][]byte{[]byte("wrapped")}, &private
	}
	if _, err := Init(t.Context(), s, o); err != nil {
		t.Fatal(err)
	}
	r, err := Open(t.Context(), s, open)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Cluster("main", 42)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

// TestLocksOutliveCommit takes backups as they come: fast, slow, of others, after a failure, by hosts that lock for less or not at
// all. As long as the commit of one is locked, all that it needs is: if everything else is removed by somebody, it is
// restored.
func TestLocksOutliveCommit(t *testing.T) {
	const day = 24 * time.Hour
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random := rng(seed)
			lock := []time.Duration{day, 30 * day, 400 * day}[random.IntN(3)]
			s, c := newLockable(t, seed%2 == 0, lock)
			states := make(map[string]tree)
			now := make(tree)
			var order []*Commit
			for i := range 16 {
				now.change(random)
				s.step = []time.Duration{0, time.Minute, lock / 100, lock / 3}[random.IntN(4)]
				s.lock = []time.Duration{lock, lock, lock, lock / 2, 0}[random.IntN(5)]
				host := reopen(t, c, s) // with a data key of its own
				host.repo.o.Lock = s.lock
				o := SinkOptions{packSize: 4 * BlockSize, Now: s.now}
				if len(order) > 0 && random.IntN(6) > 0 {
					o.Parent = order[len(order)-1-random.IntN(min(2, len(order)))]
				}
				if i == 0 {
					if err := host.PushLog(t.Context(), wal.Segment{Timeline: 1, Number: 1}.Name(4<<20), forgedLog(1, random), 0); err != nil {
						t.Fatal(err)
					}
				}
				commit := take(t, host, now.clone(), random, o)
				order = append(order, commit)
				states[commit.ID] = now.clone()
				s.clock = s.clock.Add(time.Duration(random.Int64N(int64(lock / 4))))
			}
			s.step = 0
			first, err := c.logName(wal.Segment{Timeline: 1, Number: 1}.Name(4 << 20))
			if err != nil {
				t.Fatal(err)
			}
			checked := 0
			for _, commit := range order {
				until, isLocked := s.until[c.commitName(commit.ID)]
				if !isLocked {
					if !commit.Locked.IsZero() {
						t.Errorf("%s says that it is locked until %v, and is not", commit.ID, commit.Locked)
					}
					continue
				}
				if commit.Locked.Before(until) {
					t.Errorf("%s says that what it needs is locked until %v, and is itself until %v", commit.ID, commit.Locked, until)
				}
				if s.until[first].Before(until) {
					t.Errorf("log that %s needs is locked until %v, and the commit until %v", commit.ID, s.until[first], until)
				}
				s.check(t, c, commit, states[commit.ID])
				checked++
			}
			t.Logf("%d of %d are locked", checked, len(order))
		})
	}
}

// check sees that a backup is restored if all is removed that is not locked as long as it says.
func (s *lockable) check(t *testing.T, c *Cluster, commit *Commit, want tree) {
	t.Helper()
	left := s.keptUntil(t, commit.Locked)
	data, err := s.Get(t.Context(), c.commitName(commit.ID), 0, -1)
	if err == nil {
		err = left.Create(t.Context(), c.commitName(commit.ID), data) // which is locked for less
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readTree(t.Context(), reopen(t, c, left), commit.ID); err != nil || !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("of what is locked until %v: %v", commit.Locked, err)
	}
}

// TestAdoptedIsLocked has a backup take over what another has stored that failed long ago.
func TestAdoptedIsLocked(t *testing.T) {
	s, c := newLockable(t, true, 48*time.Hour)
	content := make([]byte, 40*BlockSize)
	random := rng(1)
	for i := range content {
		content[i] = byte(random.IntN(256))
	}
	all := tree{{path: "a"}: content, {path: "global/pg_control"}: nil}
	o := SinkOptions{packSize: 4 * BlockSize, Now: s.now, Adopt: true}
	failing := reopen(t, c, s).NewSink(o)
	source := newTreeSource(all, rng(1))
	source.lie = true
	if err := backup.Copy(t.Context(), failing, source, backup.Options{}); err == nil {
		t.Fatal("it did not fail")
	}
	if err := failing.Close(); err != nil {
		t.Fatal(err)
	}
	stored := len(objects(t, c, "packs/"))
	s.clock = s.clock.Add(40 * time.Hour)
	commit := take(t, reopen(t, c, s), all, rng(1), o)
	if more := len(objects(t, c, "packs/")) - stored; stored < 2 || more > 1 {
		t.Fatalf("%d packs were stored, and then %d, so that nothing was adopted", stored, more)
	}
	s.check(t, c, commit, all)
}

// TestLocksAreFew takes a backup a day: not each prolongs the locks of all that is there.
func TestLocksAreFew(t *testing.T) {
	const day = 24 * time.Hour
	s, c := newLockable(t, false, 28*day)
	random := rng(1)
	now := make(tree)
	for range 20 {
		now.change(random)
	}
	parent := take(t, c, now.clone(), random, SinkOptions{packSize: 2 * BlockSize, Now: s.now})
	all := len(objects(t, c, "packs/")) + len(objects(t, c, "parts/"))
	prolonged := 0
	for range 28 {
		s.clock = s.clock.Add(day)
		s.calls = 0
		now.change(random)
		parent = take(t, c, now.clone(), random, SinkOptions{Parent: parent, packSize: 2 * BlockSize, Now: s.now})
		if s.calls > all/2 {
			prolonged++
		} else if s.calls > 3 {
			t.Errorf("%d locks were prolonged, of %d", s.calls, all)
		}
	}
	if prolonged < 3 || prolonged > 5 {
		t.Errorf("all locks were prolonged %d times in four weeks", prolonged)
	}
}

// TestLockedStays forgets and prunes while all is locked: it is told, nothing fails, and later it is done.
func TestLockedStays(t *testing.T) {
	const day = 24 * time.Hour
	s, c := newLockable(t, true, 8*day)
	first := take(t, c, tree{{path: "a"}: []byte("1"), {path: "global/pg_control"}: nil}, rng(1), SinkOptions{Now: s.now})
	last := take(t, c, tree{{path: "a"}: []byte("2"), {path: "global/pg_control"}: nil}, rng(1), SinkOptions{Now: s.now})
	ended := s.clock
	var locked *object.LockedError
	if err := c.Forget(t.Context(), first.ID, s.clock); !errors.As(err, &locked) || !locked.Until.Equal(ended.Add(8*day)) {
		t.Errorf("a locked backup was forgotten: %v", err)
	}
	if left := objects(t, c, "leases/"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s.clock = ended.Add(8*day + time.Hour)
	if err := c.Forget(t.Context(), first.ID, s.clock); err != nil {
		t.Fatal(err)
	}
	planned := prune(t, c, PruneOptions{Now: s.clock, DryRun: true})
	report := prune(t, c, PruneOptions{Now: s.clock})
	if fmt.Sprint(planned) != fmt.Sprint(report) {
		t.Errorf("it did %+v, and had said %+v", report, planned)
	}
	if want := (Kept{3, report.Locked.Bytes, ended.Add(10 * day)}); report.Packs+report.Parts != 0 || report.Removed != 0 || report.Locked != want || want.Bytes == 0 {
		t.Errorf("while a pack and two parts are locked it did %+v", report)
	}
	s.clock = ended.Add(10*day + time.Hour)
	if report := prune(t, c, PruneOptions{Now: s.clock}); report.Packs != 1 || report.Parts != 2 || report.Locked != (Kept{}) {
		t.Errorf("when nothing is locked any more it did %+v", report)
	}
	compare(t, c, last.ID, tree{{path: "a"}: []byte("2"), {path: "global/pg_control"}: nil})
}

// TestLockedLogStays prunes log that is locked.
func TestLockedLogStays(t *testing.T) {
	const day = 24 * time.Hour
	s, c := newLockable(t, false, 8*day)
	random := rng(1)
	for number := range uint64(3) {
		if err := c.PushLog(t.Context(), wal.Segment{Timeline: 1, Number: number}.Name(4<<20), forgedLog(number, random), 0); err != nil {
			t.Fatal(err)
		}
	}
	sink := c.NewSink(SinkOptions{Now: s.now})
	if err := sink.Begin(t.Context(), backup.Start{SegmentSize: 4 << 20, Position: wal.Position{Timeline: 1, LSN: 2 * 4 << 20}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Commit(t.Context(), wal.Position{Timeline: 1, LSN: 2*4<<20 + 40}), sink.Close()); err != nil {
		t.Fatal(err)
	}
	made := s.clock
	for _, dry := range []bool{true, false} {
		report, err := c.PruneLog(t.Context(), PruneLogOptions{Now: s.clock, DryRun: dry})
		if err != nil || report.Files != 0 || report.Removed != 0 || report.Kept != 3 || report.Locked.Objects != 2 || !report.Locked.Until.Equal(made.Add(10*day)) {
			t.Errorf("while it is locked it did %+v, %v", report, err)
		}
	}
	s.clock = made.Add(11 * day)
	if report, err := c.PruneLog(t.Context(), PruneLogOptions{Now: s.clock}); err != nil || report.Files != 2 || report.Kept != 1 {
		t.Errorf("it did %+v, %v", report, err)
	}
}

// noDelete is a store that lets nothing be removed.
type noDelete struct{ object.Store }

func (noDelete) Delete(context.Context, string) error { return object.ErrRefused }

// TestWriterNeedsNoDelete has a host back up and push that may not remove anything: it succeeds, and its lease keeps nobody from
// removing log.
func TestWriterNeedsNoDelete(t *testing.T) {
	c := newCluster(t, true)
	writer := reopen(t, c, noDelete{c.repo.store})
	for number := range uint64(2) {
		if err := writer.PushLog(t.Context(), wal.Segment{Timeline: 1, Number: number}.Name(4<<20), forgedLog(number, rng(1)), 0); err != nil {
			t.Fatal(err)
		}
	}
	sink := writer.NewSink(SinkOptions{})
	if err := sink.Begin(t.Context(), backup.Start{SegmentSize: 4 << 20, Position: wal.Position{Timeline: 1, LSN: 4 << 20}}); err != nil {
		t.Fatal(err)
	}
	if err := sink.Put(t.Context(), tree{}.member(key{path: "global/pg_control"}), nil); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Commit(t.Context(), wal.Position{Timeline: 1, LSN: 4<<20 + 40}), sink.Close()); err != nil {
		t.Fatal(err)
	}
	if report, err := c.PruneLog(t.Context(), PruneLogOptions{}); err != nil || report.Waits || report.Files != 1 {
		t.Errorf("it did %+v, %v", report, err)
	}
	next := writer.NewSink(SinkOptions{Parent: sink.Written()})
	if err := errors.Join(copyTree(t.Context(), next, tree{{path: "global/pg_control"}: nil}), next.Close()); err != nil {
		t.Fatal(err)
	}
	if err := c.Forget(t.Context(), sink.Written().ID, time.Now()); err != nil {
		t.Errorf("the parent of a backup that is there is not needed any more: %v", err)
	}
	later := time.Now().Add(leaseTime + time.Hour)
	if report := prune(t, c, PruneOptions{Now: later}); report.Living != 0 || len(report.GivenUp) != 0 || len(objects(t, c, "leases/")) != 0 {
		t.Errorf("when the lease is over, it did %+v", report)
	}
	if commits, err := c.Backups(t.Context()); err != nil || len(commits) != 1 {
		t.Errorf("%d backups, %v", len(commits), err)
	}
}
