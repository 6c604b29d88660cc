package repo

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"basin/internal/object"
	"basin/internal/object/s3"
	"basin/internal/object/s3/s3test"
	"basin/internal/seal"
	"basin/internal/wal"
)

// faultyStores return a bucket as it is, and on a way on which a share of requests, which share says, has a fault. lock is how long
// backups are locked, zero for not at all.
func faultyStores(t *testing.T, server *s3test.Server, random *rand.Rand, lock time.Duration, share func() float64) (sound, faulty object.Store) {
	t.Helper()
	var mu sync.Mutex
	proxy := server.Proxy(t, func(*http.Request) s3test.Fault {
		mu.Lock()
		defer mu.Unlock()
		all := s3test.Faults()
		if random.Float64() >= share() {
			return s3test.None
		}
		return all[random.IntN(len(all))]
	})
	open := func(endpoint, bucket string, timeout time.Duration, o object.RetryOptions) object.Store {
		so := s3.Options{Bucket: bucket, Endpoint: endpoint, PathStyle: true, Timeout: timeout}
		if lock > 0 {
			so.LockMode, so.LockFor = "COMPLIANCE", func(name string) time.Duration { return LockTime(name, lock) }
		}
		s, err := s3.Open(t.Context(), so)
		if err != nil {
			t.Fatal(err)
		}
		return object.Retry(s, o)
	}
	bucket := server.Bucket(t)
	if lock > 0 {
		bucket = server.LockedBucket(t)
	}
	return open(server.Endpoint, bucket, 0, object.RetryOptions{}),
		open(proxy.Endpoint, bucket, 200*time.Millisecond, object.RetryOptions{Attempts: 4, Wait: time.Millisecond})
}

// openAs opens a repository.
func openAs(t *testing.T, store object.Store, o Options) *Cluster {
	t.Helper()
	r, err := Open(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Cluster("main", 42)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestBucketThatFails has a server of S3 refuse, break off, answer by half, too late or not, and do too late what it was
// asked for, now and then or mostly: what is done ends in time, what was said to be there is there, and every backup that is there is
// all there. In some buckets what is made is locked, and prolonged.
func TestBucketThatFails(t *testing.T) {
	server := s3test.Start(t)
	seeds := uint64(2)
	if os.Getenv("BASIN_MATRIX") == "full" {
		seeds = 50
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			random, share := rng(seed), 0.0
			var mu sync.Mutex
			set := func(to float64) {
				mu.Lock()
				defer mu.Unlock()
				share = to
			}
			var open Options
			if seed%4 == 1 {
				open.Lock = time.Hour
			}
			sound, faulty := faultyStores(t, server, rng(seed+100), open.Lock, func() float64 {
				mu.Lock()
				defer mu.Unlock()
				return share
			})
			var init InitOptions
			if seed%2 == 0 {
				private, err := seal.NewPrivateKey()
				if err != nil {
					t.Fatal(err)
				}
				public := private.Public()
				init.PublicKey, open.PrivateKey = &public, &private
			}
			if _, err := Init(t.Context(), sound, init); err != nil {
				t.Fatal(err)
			}
			w := &weather{sound: openAs(t, sound, open), faulty: openAs(t, faulty, open), random: random,
				tried: make(map[string]tree), made: make(map[string]bool), log: make(map[string][]byte)}
			for range 10 {
				set([]float64{0.1, 0.3, 0.7}[random.IntN(3)])
				w.act(t)
			}
			set(0)
			w.check(t)
		})
	}
}

// weather is a repository that is used through a store with faults.
type weather struct {
	sound, faulty *Cluster
	random        *rand.Rand
	tried         map[string]tree   // all backups that were begun
	made          map[string]bool   // those that were said to be there, and not removed
	log           map[string][]byte // what was said to be there
	now           tree
	number        uint64
	ended, failed int // of what was done
}

// act does one thing.
func (w *weather) act(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var err error
	switch w.random.IntN(5) {
	case 0, 1:
		err = w.take(ctx)
	case 2:
		for range 3 {
			w.number++
			name := wal.Segment{Timeline: 1, Number: w.number}.Name(4 << 20)
			content := forgedLog(w.number, w.random)
			if pushed := w.faulty.PushLog(ctx, name, content, 0); pushed == nil {
				w.log[name] = content
			} else {
				err = pushed
			}
		}
	case 3:
		err = w.clean(ctx)
	case 4:
		if id, ok := w.some(); ok {
			if got, readErr := readTree(ctx, w.faulty, id); readErr != nil {
				err = readErr
			} else if !maps.EqualFunc(got, w.tried[id], bytes.Equal) {
				t.Errorf("backup %s was read as another one", id)
			}
		}
	}
	if ctx.Err() != nil {
		t.Fatalf("it takes longer than a minute: %v", err)
	}
	if err != nil {
		w.failed++
		return
	}
	w.ended++
}

// some returns one of the backups that are there.
func (w *weather) some() (id string, ok bool) {
	ids := slices.Sorted(maps.Keys(w.made))
	if len(ids) == 0 {
		return "", false
	}
	return ids[w.random.IntN(len(ids))], true
}

// take makes a backup.
func (w *weather) take(ctx context.Context) error {
	if w.now == nil {
		w.now = make(tree)
	}
	w.now.change(w.random)
	o := SinkOptions{packSize: 4 * BlockSize, Workers: 2}
	if commits, err := w.faulty.Backups(ctx); err == nil && len(commits) > 0 && w.random.IntN(4) > 0 {
		o.Parent = &commits[len(commits)-1]
	}
	sink := w.faulty.NewSink(o)
	err := copyTree(ctx, sink, w.now)
	if sink.commit.ID != "" {
		w.tried[sink.commit.ID] = w.now.clone()
	}
	if err == nil {
		w.made[sink.Written().ID] = true
	}
	_ = sink.Close() // a lease may be left
	return err
}

// clean forgets a backup, and prunes.
func (w *weather) clean(ctx context.Context) error {
	if id, ok := w.some(); ok && len(w.made) > 1 {
		delete(w.made, id) // which may be removed although it is not said to be
		if err := w.faulty.Forget(ctx, id, time.Now()); err != nil {
			return err
		}
	}
	_, err := w.faulty.Prune(ctx, PruneOptions{Share: 0.9, Now: time.Now().Add(time.Duration(w.random.IntN(2)) * leaseTime)})
	return err
}

// check reads all.
func (w *weather) check(t *testing.T) {
	t.Logf("%d were done, and %d failed", w.ended, w.failed)
	commits, err := w.sound.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, commit := range commits {
		want, ok := w.tried[commit.ID]
		if !ok {
			t.Fatalf("backup %s was never made", commit.ID)
		}
		compare(t, w.sound, commit.ID, want)
		delete(w.made, commit.ID)
	}
	if len(w.made) > 0 {
		t.Errorf("backups are lost: %v", w.made)
	}
	for name, want := range w.log {
		if got, err := w.sound.Log(t.Context(), name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.sound.Verify(t.Context(), VerifyOptions{Now: time.Now()}, func(d Damage) {
		if len(d.Backups) > 0 && !strings.Contains(d.Object, "/wal/") { // none of the log that they need was pushed
			t.Errorf("%+v", d)
		}
	}); err != nil {
		t.Error(err)
	}
}
