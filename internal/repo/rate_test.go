package repo

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"basin/internal/seal"
)

// TestSample reads a megabyte from a backup that has something, from one that has nothing, and from one that is damaged.
func TestSample(t *testing.T) {
	c := newCluster(t, true)
	full := tree{{path: "a"}: make([]byte, 300_000), {path: "global/pg_control"}: []byte("c")}
	random := rng(3)
	for i := range full[key{path: "a"}] {
		full[key{path: "a"}][i] = byte(random.IntN(256))
	}
	commit := take(t, c, full, rng(1), SinkOptions{})
	sample := func(c *Cluster, commit *Commit) (read int64, err error) {
		var taken atomic.Int64
		read, err = c.Sample(t.Context(), *commit, 2, time.Minute, 1<<20, func(_ int, content []byte) error {
			taken.Add(int64(len(content)))
			return nil
		})
		if taken.Load() != read {
			t.Errorf("%d bytes were read, and %d handed over", read, taken.Load())
		}
		return read, err
	}
	if read, err := sample(c, commit); err != nil || read < 300_000 {
		t.Errorf("%d bytes, %v", read, err)
	}
	damaged := reopen(t, c, with(t, memory(c), objects(t, c, "packs/")[0], make([]byte, 400_000)))
	if read, err := sample(damaged, commit); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("of a damaged one: %d bytes, %v", read, err)
	}
	errFull := errors.New("no room")
	if _, err := c.Sample(t.Context(), *commit, 2, time.Minute, 1<<40, func(int, []byte) error { return errFull }); !errors.Is(err, errFull) {
		t.Errorf("with nowhere to put it: %v", err)
	}
	if read, err := c.Sample(t.Context(), *commit, 1, time.Minute, 1, func(int, []byte) error { return nil }); err != nil || read > 300_000 {
		t.Errorf("of one byte at most: %d bytes, %v", read, err)
	}
	if read, err := c.Sample(t.Context(), *commit, 1, 0, 1<<20, func(int, []byte) error { return nil }); err != nil || read != 0 {
		t.Errorf("in no time: %d bytes, %v", read, err)
	}
	c = newCluster(t, true)
	empty := take(t, c, tree{{path: "a"}: {}}, rng(1), SinkOptions{})
	if read, err := sample(c, empty); err != nil || read != 0 {
		t.Errorf("of nothing: %d bytes, %v", read, err)
	}
}
