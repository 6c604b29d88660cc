package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/backup"
	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

// TestRecoveryGoesBackToNoTimeline is about segments of an older timeline behind the place where a
// newer one was read: the server does not read those.
func TestRecoveryGoesBackToNoTimeline(t *testing.T) {
	c := newCluster(t, false)
	const size = wal.DefaultSegmentSize
	if err := c.PushLog(t.Context(), wal.HistoryName(2), fmt.Appendf(nil, "1\t%v\tno recovery target specified\n", wal.LSN(10*size+100)), 0); err != nil {
		t.Fatal(err)
	}
	for _, s := range []wal.Segment{{Timeline: 1, Number: 9}, {Timeline: 1, Number: 10}, {Timeline: 2, Number: 10}, {Timeline: 1, Number: 11}, {Timeline: 2, Number: 12}} {
		at, err := c.logName(s.Name(size))
		if err == nil {
			err = c.repo.store.Create(t.Context(), at, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	at := wal.Position{LSN: 9*size + 0x28, Timeline: 1}
	reach, err := c.Reach(t.Context(), Commit{SegmentSize: size, Start: at, Stop: at}, 2)
	want := Reach{Timeline: 2, End: 11 * size, Last: "00000002000000000000000A", Segments: []string{"000000010000000000000009", "00000002000000000000000A"}, Resumes: "00000002000000000000000C"}
	if diff := cmp.Diff(want, reach); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
}

// TestReachListsLittle follows log up to a gap behind which there is much: that is not listed.
func TestReachListsLittle(t *testing.T) {
	c := newCluster(t, false)
	const size = wal.DefaultSegmentSize
	for number := range uint64(300) {
		if number == 0 || number == 5 {
			continue
		}
		at, err := c.logName(wal.Segment{Timeline: 1, Number: number}.Name(size))
		if err == nil {
			err = c.repo.store.Create(t.Context(), at, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	counted := &countedList{Store: c.repo.store}
	at := wal.Position{LSN: 3*size + 0x28, Timeline: 1}
	reach, err := reopen(t, c, counted).Reach(t.Context(), Commit{SegmentSize: size, Start: at, Stop: at}, 1)
	if err != nil || reach.End != 5*size || reach.Resumes != "000000010000000000000006" || counted.listed > 10 {
		t.Errorf("%+v, %d objects were listed, %v", reach, counted.listed, err)
	}
}

// countedList is a store that counts which objects are listed.
type countedList struct {
	object.Store
	listed int
}

// List yields the objects.
func (s *countedList) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		for info, err := range s.Store.List(ctx, prefix, after) {
			s.listed++
			if !yield(info, err) {
				return
			}
		}
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

// TestReach follows the log over timelines and gaps.
func TestReach(t *testing.T) {
	const size = 4 << 20
	at := func(number, offset uint64) wal.LSN { return wal.LSN(number*size + offset) }
	for _, test := range []struct {
		reason   string
		files    []string // such as 1/6: segment 6 of timeline 1; 1/6+4096 is a part of it
		timeline wal.Timeline
		end      wal.LSN // zero: the log does not lead to the backup's end
		resumes  string
	}{
		{"one timeline", []string{"1/5", "1/6", "1/7"}, 1, at(8, 0), ""},
		{"a gap", []string{"1/5", "1/7"}, 1, at(6, 0), "000000010000000000000007"},
		{"a gap within the backup", []string{"1/6"}, 1, 0, ""},
		{"a part at the end", []string{"1/5", "1/6+65536"}, 1, at(6, 65536), ""},
		{"a part before a gap", []string{"1/5", "1/6+65536", "1/8"}, 1, at(6, 65536), "000000010000000000000008"},
		{"a part of the backup's own", []string{"1/5+65536", "1/7"}, 1, at(5, 65536), "000000010000000000000007"},
		{"a promotion", []string{"1/5", "1/6", "2/6", "2/7"}, 2, at(8, 0), ""},
		{"what the old timeline has behind it", []string{"1/5", "1/6", "1/7", "1/8", "2/6"}, 2, at(7, 0), ""},
		{"a hole in the new one, not in the old one", []string{"1/5", "1/6", "1/7", "2/6", "2/8"}, 2, at(7, 0), "000000020000000000000008"},
		{"nothing of the new one", []string{"1/5", "1/6", "1/7"}, 2, at(6, 8192), ""},
		{"the segment in which the new one begins is missing", []string{"1/5", "1/6", "2/7", "2/8"}, 2, at(6, 8192), "000000020000000000000007"},
		{"a part of it alone", []string{"1/5", "1/6+4096", "2/7", "2/8"}, 2, at(6, 4096), "000000020000000000000007"},
		{"a part of that segment, and all of the old one's", []string{"1/5", "1/6", "2/6+65536"}, 2, at(6, 65536), ""},
		{"the same before a gap", []string{"1/5", "1/6", "1/7", "2/6+65536", "2/7"}, 2, at(6, 65536), "000000020000000000000007"},
		{"the old one, although there is a new one", []string{"1/5", "1/6", "1/7", "2/6"}, 1, at(8, 0), ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, false)
			push := func(name string, content []byte) {
				if err := c.PushLog(t.Context(), name, content, size); err != nil {
					t.Fatal(err)
				}
			}
			push("00000002.history", []byte("1\t"+at(6, 8192).String()+"\tno recovery target specified\n"))
			for _, file := range test.files {
				var timeline wal.Timeline
				var number, part uint64
				if n, _ := fmt.Sscanf(file, "%d/%d+%d", &timeline, &number, &part); n < 2 {
					t.Fatal(file)
				}
				name := wal.Segment{Timeline: timeline, Number: number}.Name(size)
				content := forgedLog(number, rng(number))
				if part > 0 {
					name, content = PartialName(name, int64(part)), content[:part]
				}
				push(name, content)
			}
			from := Commit{
				ID: "backup", SegmentSize: size,
				Start: wal.Position{LSN: at(5, 40), Timeline: 1}, Stop: wal.Position{LSN: at(5, 400), Timeline: 1},
			}
			reach, err := c.Reach(t.Context(), from, test.timeline)
			if (err != nil) != (test.end == 0) {
				t.Fatal(err)
			}
			if err == nil && (reach.End != test.end || reach.Resumes != test.resumes) {
				t.Errorf("up to %v, and then %q; want %v, %q", reach.End, reach.Resumes, test.end, test.resumes)
			}
		})
	}
}

// minimalLog returns a segment of cluster 42 in which a server begins to write log with wal_level=minimal, and no more, and where the record is.
func minimalLog(number uint64) (content []byte, at wal.LSN) {
	const size, place = 4 << 20, 40
	content = forgedLog(number, rng(number))
	clear(content[place:])
	at = wal.LSN(number*size + place)
	record := func(p []byte, prev wal.LSN, info byte, data []byte) {
		binary.LittleEndian.PutUint32(p, uint32(24+len(data)))
		binary.LittleEndian.PutUint64(p[8:], uint64(prev))
		p[16] = info // of RM_XLOG_ID
		copy(p[24:], data)
		binary.LittleEndian.PutUint32(p[20:], checksumOn(checksum(data), p[:20]))
	}
	record(content[place:], at-100, 0x60, append([]byte{255, 28}, make([]byte, 28)...)) // XLOG_PARAMETER_CHANGE, after XLR_BLOCK_ID_DATA_SHORT
	record(content[place+56:], at, 0x40, nil)                                           // XLOG_SWITCH
	return content, at
}

// TestReachEndsWhereLogIsMinimal has a server go on with wal_level=minimal in segment 6 of timeline 1.
func TestReachEndsWhereLogIsMinimal(t *testing.T) {
	const size = 4 << 20
	minimal, at := minimalLog(6)
	reach := func(c *Cluster, number uint64, timeline wal.Timeline) (string, wal.LSN, bool) {
		t.Helper()
		start := wal.Position{LSN: wal.LSN(number*size + 40), Timeline: 1}
		got, err := c.Reach(t.Context(), Commit{SegmentSize: size, Start: start, Stop: start}, timeline)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(append(got.Segments, got.Last, got.Resumes), " "), got.End, got.IsMinimal
	}
	names := func(numbers ...uint64) string {
		var all []string
		for _, n := range numbers {
			all = append(all, wal.Segment{Timeline: 1, Number: n}.Name(size))
		}
		return strings.Join(all, " ")
	}
	for _, refused := range []bool{false, true} {
		c := newCluster(t, true)
		for number := range uint64(5) {
			content := forgedLog(4+number, rng(number))
			if number == 2 && !refused {
				content = minimal
			}
			if err := c.PushLog(t.Context(), names(4+number), content, size); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // it is there, or another one is; a host without the private key notes it once, too
			err := asWriter(t, c, make(map[seal.KeyID]seal.Key)).PushLog(t.Context(), names(6), minimal, size)
			if (err != nil) != refused {
				t.Errorf("pushed again: %v", err)
			}
		}
		if n := len(objects(t, c, "facts/minimal/")); n != 1 {
			t.Errorf("%d notes", n)
		}
		// A timeline that began later leads over the same log.
		for name, content := range map[string][]byte{
			"00000002.history": fmt.Appendf(nil, "1\t%v\tno recovery target specified\n", wal.LSN(7*size+8192)), "000000020000000000000007": forgedLog(7, rng(7)),
		} {
			if err := c.PushLog(t.Context(), name, content, size); err != nil {
				t.Fatal(err)
			}
		}
		if files, end, is := reach(c, 4, 2); is == refused || is && end != at {
			t.Errorf("on the next timeline %s up to %v, %v", files, end, is)
		}
		for _, c := range []*Cluster{c, reopen(t, c, c.repo.store)} {
			files, end, is := reach(c, 4, 1)
			if want := names(4, 5, 6, 6, 6); !refused && (files != want || end != at || !is) {
				t.Errorf("from before it %s up to %v, %v", files, end, is)
			}
			if want := names(4, 5, 6, 7, 8, 8) + " "; refused && (files != want || is) {
				t.Errorf("where that was refused %s up to %v, %v", files, end, is)
			}
			if files, end, is = reach(c, 7, 1); files != names(7, 8, 8)+" " || is {
				t.Errorf("from behind it %s up to %v, %v", files, end, is)
			}
		}
	}
}

// TestSparseFileNeedsLittleMemory reads a file of nothing but zeros, of which there are many in one extent.
func TestSparseFileNeedsLittleMemory(t *testing.T) {
	c := newCluster(t, false)
	const size = 40 << 20
	sparse := key{path: "base/sparse"}
	what := tree{key{path: "global/pg_control"}: []byte("control"), sparse: make([]byte, size)}
	commit := take(t, c, what, rng(1), SinkOptions{})
	src := c.NewSource(*commit, SourceOptions{})
	if _, err := src.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	m, err := src.index.member(t.Context(), sparse)
	if err != nil {
		t.Fatal(err)
	}
	r := &fileReader{source: src, ctx: t.Context(), key: sparse, member: m}
	n, err := io.Copy(io.Discard, r)
	if err != nil || n != size {
		t.Errorf("%d bytes, error %v", n, err)
	}
	if cap(r.buffer) > 4*windowSize {
		t.Errorf("the buffer has %d bytes", cap(r.buffer))
	}
}

// TestBackupsOfOneSecond begins several within a second, whose names are drawn by lot.
func TestBackupsOfOneSecond(t *testing.T) {
	c, random := newCluster(t, false), rng(1)
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	var want []string
	for range 6 {
		now = now.Add(50 * time.Millisecond)
		want = append(want, take(t, c, tree{}, random, SinkOptions{Now: func() time.Time { return now }}).ID)
	}
	commits, err := c.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, commit := range commits {
		got = append(got, commit.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("they are listed as %v, and began as %v", got, want)
	}
}
