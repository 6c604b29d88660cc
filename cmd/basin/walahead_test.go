package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/ahead"
	"basin/internal/object"
	"basin/internal/pgtest"
	"basin/internal/repo"
	"basin/internal/wal"
)

// newFiller returns a filler of a folder of its own, with segments of 1 MiB, and the segment that it begins behind.
func newFiller(t *testing.T) (f *filler, name string) {
	t.Helper()
	f = &filler{size: 1 << 20, put: make(map[string]bool)}
	var err error
	if f.spool, err = ahead.Open(t.TempDir(), "a server"); err != nil {
		t.Fatal(err)
	}
	if f.turn, err = f.spool.Begin(); err != nil || f.turn == nil {
		t.Fatal(f.turn, err)
	}
	t.Cleanup(func() { _ = f.turn.End() })
	return f, "000000010000000000000001"
}

// putAhead puts a file into a spool.
func putAhead(s *ahead.Folder, file string, content []byte) error {
	d, err := s.Draft(file)
	if err != nil {
		return err
	}
	if _, err := d.Write(content); err != nil {
		return errors.Join(err, d.Drop())
	}
	return d.Keep()
}

// What comes while it is looked how much room there is has not been taken: no more is begun with than has room.
func TestBegunHasRoom(t *testing.T) {
	t.Parallel()
	for range 3 {
		f, last := newFiller(t)
		begun := make(chan string, 2*aheadBytes/f.size)
		put := make(chan error, 1)
		go func() {
			var err error
			for name := range begun {
				if err == nil {
					err = putAhead(f.spool, name, []byte(name))
				}
				if err == nil {
					err = f.came(name, true)
				}
			}
			put <- err
		}()
		count := int64(0)
		for range 2 * aheadBytes / f.size {
			names, err := window(last, f.size)
			if err != nil {
				t.Fatal(err)
			}
			isBegun, err := f.begin(names[0], len(names))
			if err != nil {
				t.Fatal(err)
			}
			if isBegun {
				last = names[0]
				begun <- last
				count++
			}
		}
		close(begun)
		if err := <-put; err != nil {
			t.Fatal(err)
		}
		if most := aheadBytes / f.size; count != most {
			t.Fatalf("%d segments were begun with, and %d have room", count, most)
		}
	}
}

// What recovery got itself meanwhile, and has passed, is removed, and makes room.
func TestPassedIsRemoved(t *testing.T) {
	t.Parallel()
	f, last := newFiller(t)
	names, err := window(last, f.size)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names[:3] {
		if isBegun, err := f.begin(name, 3); err != nil || !isBegun {
			t.Fatalf("%s is not begun with: %v", name, err)
		}
		if err := errors.Join(putAhead(f.spool, name, nil), f.came(name, true)); err != nil {
			t.Fatal(err)
		}
	}
	if isBegun, err := f.begin(names[3], 3); err != nil || isBegun {
		t.Fatalf("nothing was taken, and %s has room: %v", names[3], err)
	}
	if _, err := f.spool.Take(names[1], filepath.Join(t.TempDir(), "RECOVERYXLOG")); err != nil {
		t.Fatal(err)
	}
	for _, name := range names[3:5] {
		if isBegun, err := f.begin(name, 3); err != nil || !isBegun {
			t.Fatalf("%s is not begun with: %v", name, err)
		}
	}
	if files, err := f.spool.Files(); err != nil || len(files) != 1 || files[0].Name != names[2] {
		t.Errorf("left are %v, error %v", files, err)
	}
}

// TestSpoolIsOfOneCluster has two clusters in one data directory, one after the other: what is in the spool of the first is not given out to
// the second, nor is what was got unchecked given out to who did not ask for that.
func TestSpoolIsOfOneCluster(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	location, dir, data := filepath.Join(pgtest.TempDir(t), "repository"), newSpool(t), pgtest.TempDir(t)
	basin.run(t, nil, "init", location).says(t, exitSuccess)
	for _, name := range []string{"global", "pg_wal"} {
		if err := os.Mkdir(filepath.Join(data, name), 0o700); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, filepath.Join(data, name))
	}
	be := func(systemID uint64) {
		t.Helper()
		write(t, filepath.Join(data, "global", "pg_control"), string(forgedControl(systemID)))
	}
	var names []string
	for _, systemID := range []uint64{7, 99} {
		be(systemID)
		names = nil
		for number := range uint64(3) {
			segment := wal.Segment{Timeline: 1, Number: 5 + number}
			name := segment.Name(wal.DefaultSegmentSize)
			path, content := filepath.Join(data, "pg_wal", name), forgedSegment(systemID, segment, fmt.Sprint("of ", systemID))
			if number == 1 {
				content[60] ^= 1 // the checksum of its record: recovery would end there
			}
			write(t, path, string(content))
			basin.run(t, nil, "wal", "push", "--repository", location, "-D", data, path).says(t, exitSuccess)
			names = append(names, name)
		}
	}
	path := filepath.Join(dir, "RECOVERYXLOG")
	get := func(name string, more ...string) ending {
		t.Helper()
		return basin.run(t, nil, append(append([]string{"wal", "get", "--repository", location, "-D", data, "--spool", dir}, more...), name, path)...)
	}
	be(7)
	get(names[0], "--unchecked").says(t, exitSuccess)
	eventually(t, names[1]+" is in the spool", func() bool {
		found, err := filepath.Glob(filepath.Join(dir, "*", names[1]+".*.log"))
		return err == nil && len(found) == 1
	})
	be(99)
	get(names[1], "--unchecked").says(t, exitSuccess)
	if content, err := os.ReadFile(path); err != nil || !strings.Contains(string(content[:100]), "of 99") {
		t.Errorf("%s comes as another file, error %v", names[1], err)
	}
	be(7)
	get(names[1]).says(t, exitUnknown, "recovery would end there")
}

// mute is a store that never answers, once it is told not to.
type mute struct {
	*object.Memory
	isMute bool
}

func (s *mute) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if s.isMute {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.Memory.Get(ctx, name, off, n)
}

func (s *mute) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	if s.isMute {
		<-ctx.Done()
		return func(yield func(object.Info, error) bool) { yield(object.Info{}, ctx.Err()) }
	}
	return s.Memory.List(ctx, prefix, after)
}

// Who gets log ahead ends at the end of the log, and if the store does not answer: as long as it is at work nobody else is.
func TestFillEnds(t *testing.T) {
	t.Parallel()
	f, last := newFiller(t)
	synctest.Test(t, func(t *testing.T) {
		store := &mute{Memory: new(object.Memory)}
		if _, err := repo.Init(t.Context(), store, repo.InitOptions{}); err != nil {
			t.Fatal(err)
		}
		r, err := repo.Open(t.Context(), store, repo.Options{})
		if err == nil {
			f.cluster, err = r.Cluster("main", 7)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := f.fill(t.Context(), last); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("at the end of the log: %v", err)
		}
		store.isMute = true
		begun := time.Now()
		if err := f.fill(t.Context(), last); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 2*aheadTime {
			t.Errorf("after %v: %v", time.Since(begun), err)
		}
		if found, err := f.choose(t.Context(), place{}, r); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("found %v, error %v", found, err)
		}
	})
}
