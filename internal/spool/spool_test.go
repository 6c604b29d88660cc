package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/object"
	"basin/internal/repo"
	"basin/internal/wal"
	"basin/internal/waldir"
)

const (
	size    = wal.MinSegmentSize
	first   = 5    // number of the first segment of the log
	page    = 8192 // bytes
	cluster = 42
)

// forge returns log of some segments, of which each page holds one record.
func forge(timeline wal.Timeline, segments int, filling byte) []byte {
	var log []byte
	prev := uint64(first*size - page + 24)
	for len(log) < segments*size {
		at := uint64(first*size + len(log))
		o := binary.LittleEndian
		info, isFirst := uint16(0), at%size == 0
		if isFirst {
			info = 2 // XLP_LONG_HEADER
		}
		p := o.AppendUint16(nil, 0xD118) // of PostgreSQL 18
		p = o.AppendUint16(p, info)
		p = o.AppendUint32(p, uint32(timeline))
		p = o.AppendUint64(p, at)
		p = o.AppendUint64(p, 0) // no rest of a record
		if isFirst {
			p = o.AppendUint64(p, cluster)
			p = o.AppendUint32(p, size)
			p = o.AppendUint32(p, page)
		}
		record := o.AppendUint32(nil, uint32(page-len(p)))
		record = o.AppendUint32(record, 0)
		record = o.AppendUint64(record, prev)
		record = append(record, 0, 0, 0, 0, 0, 0, 0, 0) // info, resource manager, padding, checksum
		data := []byte{254}                             // XLR_BLOCK_ID_DATA_LONG
		data = o.AppendUint32(data, uint32(page-len(p)-len(record)-5))
		data = append(data, bytes.Repeat([]byte{filling, byte(len(log) / page)}, page)...)[:page-len(p)-len(record)]
		sum := crc32.Update(0, crc32.MakeTable(crc32.Castagnoli), data)
		o.PutUint32(record[20:], crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), record[:20]))
		prev = at + uint64(len(p))
		log = append(log, slices.Concat(p, record, data)...)
	}
	return log
}

// TestMain pushes something first: what compresses is made once for all, and not in one of the bubbles of the tests.
func TestMain(m *testing.M) {
	if where := os.Getenv(powerVariable); where != "" {
		if err := powerProcess(context.Background(), where); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	store := new(object.Memory)
	_, err := repo.Init(context.Background(), store, repo.InitOptions{})
	if err != nil {
		panic(err)
	}
	c, err := in(store)(context.Background())
	if err == nil {
		err = c.PushLog(context.Background(), "000000010000000000000005", forge(1, 1, 7), size)
	}
	if err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// receipt is a spool, a server's log, and how much of that was acknowledged.
type receipt struct {
	*Spool
	dir    string
	log    []byte
	warned []string
	acked  int // bytes
}

// newStore returns a store with an empty repository in it.
func newStore(t *testing.T) *object.Memory {
	t.Helper()
	store := new(object.Memory)
	if _, err := repo.Init(t.Context(), store, repo.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	return store
}

// in opens the cluster in a store.
func in(store object.Store) func(context.Context) (*repo.Cluster, error) {
	return func(ctx context.Context) (*repo.Cluster, error) {
		r, err := repo.Open(ctx, store, repo.Options{})
		if err != nil {
			return nil, err
		}
		return r.Cluster("main", cluster)
	}
}

// open opens the spool, on the way to a store.
func (r *receipt) open(t *testing.T, store object.Store, o Options) error {
	t.Helper()
	o.Directory = waldir.Options{Path: r.dir, SegmentSize: size, SystemID: cluster, NoSync: true, Warn: func(err error) { r.warned = append(r.warned, err.Error()) }}
	o.Repository = in(store)
	s, err := Open(t.Context(), o)
	r.Spool = s
	return err
}

// stream streams the log from where the spool says, up to an offset, in pieces of which each is flushed.
func (r *receipt) stream(upTo, step int) error {
	start, ok, err := r.Start()
	if err == nil && !ok {
		start, ok, err = r.StartFrom(context.Background(), wal.Position{LSN: first * size, Timeline: 1}, wal.Position{})
	}
	if err != nil {
		return err
	}
	at := 0
	if ok {
		at = int(start.LSN) - first*size
	}
	for at < upTo {
		name := wal.Segment{Timeline: 1, Number: uint64(first + at/size)}.Name(size)
		w, err := r.Begin(name, size)
		if err != nil {
			return err
		}
		end := min(upTo, (at/size+1)*size)
		for at < end {
			n := min(step, end-at)
			if _, err := w.Write(r.log[at : at+n]); err != nil {
				return errors.Join(err, w.Abandon())
			}
			at += n
			if err := w.Flush(); err != nil {
				return errors.Join(err, w.Abandon())
			}
			if at%size != 0 { // else Finish tells
				r.acked = max(r.acked, at)
			}
			time.Sleep(time.Second / 2) // by which something goes up as a part
		}
		if at%size != 0 {
			return w.Abandon()
		}
		if err := w.Finish(); err != nil {
			return err
		}
		r.acked = max(r.acked, at)
	}
	return nil
}

// kill ends the spool as a crash would.
func (r *receipt) kill(t *testing.T) {
	t.Helper()
	r.cancel()
	<-r.Spool.pushed
	if err := r.Directory.Close(); err != nil {
		t.Error(err)
	}
}

// isThere returns how many bytes of the log are in a store, from its beginning on.
func (r *receipt) isThere(t *testing.T, store object.Store) (n int) {
	t.Helper()
	c, err := in(store)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for ; n%size == 0; n += size {
		name := wal.Segment{Timeline: 1, Number: uint64(first + n/size)}.Name(size)
		content, err := c.Log(t.Context(), name)
		if errors.Is(err, fs.ErrNotExist) {
			if name, err = c.LongestPartial(t.Context(), name); errors.Is(err, fs.ErrNotExist) {
				return n
			}
			if err == nil {
				content, err = c.Log(t.Context(), name)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content, r.log[n:n+len(content)]) {
			t.Fatalf("%s has another content", name)
		}
		if len(content) < size {
			return n + len(content)
		}
	}
	return n
}

// TestNothingAcknowledgedIsLost has a receiver, and the store with it, die at each call of the store, before or after
// it is made: what was acknowledged is in the repository, at once or when the spool was opened again.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	t.Parallel()
	log := forge(1, 3, 7)
	for _, inRepository := range []bool{false, true} {
		for _, fault := range []object.Fault{object.Before, object.After} {
			t.Run(fmt.Sprintf("acknowledged in the repository %v, fault %v", inRepository, fault), func(t *testing.T) {
				for k := 1; ; k++ {
					isOver := false
					dir := t.TempDir()
					synctest.Test(t, func(t *testing.T) { isOver = dieAt(t, &receipt{dir: dir, log: log}, inRepository, k, fault) })
					if t.Failed() {
						t.Fatalf("call %d", k)
					}
					if isOver {
						t.Logf("%d calls", k-1)
						break
					}
				}
			})
		}
	}
}

// dieAt has the store die at its k-th call, and returns whether there were fewer.
func dieAt(t *testing.T, r *receipt, inRepository bool, k int, fault object.Fault) bool {
	o := Options{InRepository: inRepository}
	base := newStore(t)
	dying := object.CrashAt(base, k, fault)
	const most = 2*size + size/3
	if err := r.open(t, dying, o); err == nil {
		err := r.stream(most, size/3)
		if err == nil && r.acked != most || err != nil && !inRepository && !errors.Is(err, errNotReached) && !errors.Is(err, object.ErrFault) {
			t.Errorf("%d bytes were acknowledged: %v", r.acked, err)
		}
		time.Sleep(2 * time.Second)
		r.kill(t)
	}
	calls := len(dying.Calls())
	if inRepository {
		if n := r.isThere(t, base); n < r.acked {
			t.Errorf("%d bytes were acknowledged, and %d are there", r.acked, n)
		}
	}
	if err := r.open(t, base, o); err != nil {
		t.Fatal(err)
	}
	if err := r.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if n := r.isThere(t, base); n < r.acked/page*page { // up to the last whole record
		t.Errorf("%d bytes were acknowledged, and after the spool was opened again %d are there", r.acked, n)
	}
	if err := r.stream(len(r.log), size/2); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n := r.isThere(t, base); n != len(r.log) {
		t.Errorf("%d bytes are there in the end", n)
	}
	return calls < k
}

// flaky is a store that can be out of reach.
type flaky struct {
	object.Store
	isDown atomic.Bool
}

func (f *flaky) failing() object.Store {
	return &object.Failing{Store: f.Store, Fail: func(context.Context, object.Call) object.Fault {
		if f.isDown.Load() {
			return object.Before
		}
		return object.None
	}}
}

// TestSpoolIsFull has the repository be out of reach for so long that the spool fills: it is warned of, nothing more
// is received, and when the repository is there again all goes up.
func TestSpoolIsFull(t *testing.T) {
	t.Parallel()
	r := &receipt{dir: t.TempDir(), log: forge(1, 12, 7)}
	synctest.Test(t, func(t *testing.T) {
		base := newStore(t)
		store := &flaky{Store: base}
		if err := r.open(t, store.failing(), Options{Limit: 4 * size}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(r.stream(size, size), r.Drain(t.Context())); err != nil {
			t.Fatal(err)
		}
		store.isDown.Store(true)
		if err := r.stream(len(r.log), size); !errors.Is(err, ErrFull) {
			t.Errorf("got %v", err)
		}
		if r.acked != 5*size || r.Backlog() != 4 {
			t.Errorf("%d bytes were acknowledged, %d segments wait", r.acked, r.Backlog())
		}
		all := strings.Join(r.warned, "\n")
		for _, text := range []string{"log has to wait", "2.0 MiB of log wait in the spool, of 4.0 MiB at most: the repository has taken nothing since", "4.0 MiB of log wait"} {
			if !strings.Contains(all, text) {
				t.Errorf("it did not say %q, but\n%s", text, all)
			}
		}
		ready := make(chan error, 1)
		go func() { ready <- r.Ready(t.Context()) }()
		time.Sleep(time.Hour)
		select {
		case err := <-ready:
			t.Errorf("ready while it is full: %v", err)
		default:
		}
		store.isDown.Store(false)
		if err := <-ready; err != nil {
			t.Error(err)
		}
		if err := r.stream(len(r.log), size/2); err != nil {
			t.Error(err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if n := r.isThere(t, base); n != len(r.log) {
			t.Errorf("%d bytes are there", n)
		}
	})
	// What is in the repository is not in the spool any more, but for the newest.
	if left := names(t, r.dir); !slices.Equal(left, []string{"000000010000000000000010", marker}) {
		t.Errorf("left: %v", left)
	}
}

// names returns the names of the files in a directory.
func names(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestPartsHaveWhatIsNew has little log come for a day: each byte goes up once.
func TestPartsHaveWhatIsNew(t *testing.T) {
	t.Parallel()
	r := &receipt{dir: t.TempDir(), log: forge(1, 1, 7)}
	synctest.Test(t, func(t *testing.T) {
		base := newStore(t)
		if err := r.open(t, base, Options{}); err != nil {
			t.Fatal(err)
		}
		const step, end = 1000, 60000
		for at := step; at <= end; at += step { // the stream breaks after each
			if err := r.stream(at, step); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		parts, bytes := 0, int64(0)
		for info, err := range base.List(t.Context(), "main/42/wal/", "") {
			if err != nil {
				t.Fatal(err)
			}
			var from, to int64
			if _, err := fmt.Sscanf(info.Name[strings.Index(info.Name, ".part."):], ".part.%X.%X", &from, &to); err != nil {
				t.Fatalf("%s: %v", info.Name, err)
			}
			parts++
			bytes += to - from
		}
		if parts < end/step/4 || bytes != end {
			t.Errorf("%d bytes in %d parts", bytes, parts)
		}
		if n := r.isThere(t, base); n != end {
			t.Errorf("%d bytes are there", n)
		}
	})
}

// TestAnotherServer has a spool receive what another server has written otherwise into the repository.
func TestAnotherServer(t *testing.T) {
	t.Parallel()
	one, other := &receipt{dir: t.TempDir(), log: forge(1, 2, 7)}, &receipt{dir: t.TempDir(), log: forge(1, 2, 8)}
	for _, upTo := range []int{size / 2, size} {
		one.dir, other.dir = t.TempDir(), t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			base := newStore(t)
			if err := one.open(t, base, Options{}); err != nil {
				t.Fatal(err)
			}
			if err := other.open(t, base, Options{}); err != nil {
				t.Fatal(err)
			}
			if err := one.stream(upTo, size/4); err != nil {
				t.Fatal(err)
			}
			if err := one.Close(); err != nil {
				t.Error(err)
			}
			w, err := other.Begin("000000010000000000000005", size)
			if err != nil {
				t.Fatal(err)
			}
			for at := 0; at < upTo && err == nil; at += size / 4 {
				_, err = w.Write(other.log[at : at+size/4])
				time.Sleep(2 * time.Second)
			}
			if err := errors.Join(err, other.Ready(t.Context())); !errors.Is(err, fs.ErrExist) {
				t.Errorf("got %v", err)
			}
			if err := w.Abandon(); err != nil {
				t.Error(err)
			}
			if err := other.Close(); !errors.Is(err, fs.ErrExist) {
				t.Errorf("got %v", err)
			}
		})
		if n := len(names(t, other.dir)); n < 2 {
			t.Errorf("what was received is gone: %d files", n)
		}
	}
}

// TestNoRepository opens spools while there is no repository: an empty one is of no use, one with log in it is.
func TestNoRepository(t *testing.T) {
	t.Parallel()
	r := &receipt{dir: t.TempDir(), log: forge(1, 3, 7)}
	synctest.Test(t, func(t *testing.T) {
		base := newStore(t)
		store := &flaky{Store: base}
		store.isDown.Store(true)
		if err := r.open(t, store.failing(), Options{}); !errors.Is(err, object.ErrFault) {
			t.Errorf("got %v", err)
		}
		store.isDown.Store(false)
		for _, isDown := range []bool{false, true} {
			if err := r.open(t, store.failing(), Options{}); err != nil {
				t.Fatal(err)
			}
			if err := r.stream(r.acked+page, page); err != nil {
				t.Errorf("down %v: %v", isDown, err)
			}
			store.isDown.Store(true)
			if err := r.stream(r.acked+size, page*8); err != nil {
				t.Errorf("down %v: %v", isDown, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if !strings.Contains(strings.Join(r.warned, "\n"), "the repository does not take the log that is left") {
			t.Errorf("it said %q", r.warned)
		}
		store.isDown.Store(false)
		if err := r.open(t, store.failing(), Options{}); err != nil {
			t.Fatal(err)
		}
		if err := r.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		if n := r.isThere(t, base); n != r.acked {
			t.Errorf("%d bytes were acknowledged, and %d are there", r.acked, n)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestWhatIsNoSpool refuses directories with log in them that is not to be removed, and says what a spool holds.
func TestWhatIsNoSpool(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"000000010000000000000005", "000000010000000000000005.gz", "00000002.history", "000000010000000000000005.partial"} {
		r := &receipt{dir: t.TempDir()}
		if err := os.WriteFile(filepath.Join(r.dir, name), forge(1, 1, 7), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.open(t, newStore(t), Options{}); err == nil || !strings.Contains(err.Error(), "is no spool") {
			t.Errorf("%s: %v", name, err)
		}
		id, bytes, ok, err := Holds(r.dir)
		if want := len(name) == 24 || strings.HasSuffix(name, ".partial"); err != nil || ok != want || ok && (id != cluster || bytes != size) {
			t.Errorf("%s: %d, %d, %v, %v", name, id, bytes, ok, err)
		}
	}
	if _, _, ok, err := Holds(filepath.Join(t.TempDir(), "none")); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

// TestDamagedSpool has log in a spool that cannot be pushed whatever the store does: it is told at once, and not tried for ever.
func TestDamagedSpool(t *testing.T) {
	for reason, spoil := range map[string]func(path string) error{
		"it is of another timeline": func(path string) error { return os.WriteFile(path, forge(first+9, 1, 7), 0o600) },
		"it cannot be read":         func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
	} {
		t.Run(reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := newStore(t)
				r := &receipt{dir: t.TempDir(), log: forge(first, 2, 7)}
				if err := os.WriteFile(filepath.Join(r.dir, marker), nil, 0o600); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(r.dir, "000000010000000000000005")
				if err := os.WriteFile(path, r.log[:size], 0o600); err != nil {
					t.Fatal(err)
				}
				if err := spoil(path); err != nil {
					t.Fatal(err)
				}
				if err := r.open(t, store, Options{}); err != nil {
					t.Fatal(err)
				}
				err := r.Drain(t.Context())
				if err == nil || !strings.Contains(err.Error(), "cannot be pushed") {
					t.Errorf("got %v", err)
				}
				_ = r.Close()
			})
		})
	}
}
