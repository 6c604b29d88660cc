package repo

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"

	"basin/internal/backup"
	"basin/internal/wal"
)

// TestRecoveryGoesBackToNoTimeline is about segments of an older timeline behind the place where a
// newer one was read: the server does not read those.
func TestRecoveryGoesBackToNoTimeline(t *testing.T) {
	line := branches(2, wal.History{{Timeline: 1, End: 10<<24 + 100}}, 1<<24)
	there := map[wal.Segment]bool{}
	for _, s := range []wal.Segment{{Timeline: 1, Number: 9}, {Timeline: 1, Number: 10}, {Timeline: 2, Number: 10}, {Timeline: 1, Number: 11}, {Timeline: 2, Number: 12}} {
		there[s] = true
	}
	rest := line
	var read []wal.Segment
	for number := uint64(9); ; number++ {
		s := segmentOf(rest, number, there)
		if s == nil {
			break
		}
		read = append(read, *s)
		rest = upTo(line, s.Timeline)
	}
	if len(read) != 2 || read[1] != (wal.Segment{Timeline: 2, Number: 10}) {
		t.Errorf("%v are read", read)
	}
}

// TestCheckIndexAfterPrune is about a backup whose index names packs that nothing of it is in any
// more.
func TestCheckIndexAfterPrune(t *testing.T) {
	c := newCluster(t, false)
	first := tree{key{path: "global/pg_control"}: []byte("control"), key{path: "base/1"}: page(1)}
	full := take(t, c, first, rng(1), SinkOptions{})
	second := first.clone()
	for k := range second {
		second[k] = page(2)
	}
	next := take(t, c, second, rng(2), SinkOptions{Parent: full})
	if err := c.Forget(t.Context(), full.ID, next.Ended); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prune(t.Context(), PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.CheckIndex(t.Context(), *next); err != nil {
		t.Error(err)
	}
	compare(t, c, next.ID, second)
	for info, err := range c.repo.store.List(t.Context(), c.below("packs/"), "") {
		if err != nil {
			t.Fatal(err)
		}
		if err := c.repo.store.Delete(t.Context(), info.Name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.CheckIndex(t.Context(), *next); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without packs: %v", err)
	}
}

// TestDamagedBackupRestores is about pages that were damaged on the server: what came is kept.
func TestDamagedBackupRestores(t *testing.T) {
	c := newCluster(t, false)
	what := tree{key{path: "global/pg_control"}: []byte("control"), key{path: "base/1"}: page(1)}
	sink := c.NewSink(SinkOptions{})
	defer sink.Close()
	source := &damagedSource{newTreeSource(what, rng(1))}
	if err := backup.Copy(t.Context(), sink, source, backup.Options{}); !errors.Is(err, backup.ErrPageChecksums) {
		t.Fatal(err)
	}
	commit := sink.Written()
	if !commit.Damaged || commit.Stop.LSN == 0 || commit.Stop.Timeline != 1 {
		t.Errorf("damaged %t, ends at %v", commit.Damaged, commit.Stop)
	}
	compare(t, c, commit.ID, what)
}

// page returns a block of one byte.
func page(b byte) []byte { return bytes.Repeat([]byte{b}, BlockSize) }

// damagedSource ends with the complaint of a server that found wrong checksums.
type damagedSource struct{ *treeSource }

func (s *damagedSource) End(ctx context.Context) (wal.Position, error) {
	end, _ := s.treeSource.End(ctx)
	return end, backup.ErrPageChecksums
}
