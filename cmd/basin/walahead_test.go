package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/ahead"
	"basin/internal/pgtest"
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

// What comes while it is looked how much room there is has not been taken: no more is begun with than has room.
func TestNextHasRoom(t *testing.T) {
	t.Parallel()
	at, stop := context.WithCancel(t.Context())
	stop() // it does not wait
	for range 3 {
		f, last := newFiller(t)
		begun := make(chan string, 2*aheadBytes/f.size)
		put := make(chan error, 1)
		go func() {
			var err error
			for name := range begun {
				if err == nil {
					err = f.spool.Put(name, []byte(name))
				}
				if err == nil {
					err = f.came(name, true)
				}
			}
			put <- err
		}()
		count := int64(0)
		for range 2 * aheadBytes / f.size {
			name, err := f.next(at, last)
			if err != nil {
				t.Fatal(err)
			}
			if name != "" {
				begun <- name
				last = name
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
		if err := errors.Join(f.spool.Put(name, nil), f.came(name, true)); err != nil {
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
	location, dir, data := filepath.Join(pgtest.TempDir(t), "repository"), pgtest.TempDir(t), pgtest.TempDir(t)
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
