package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// copyBackup copies a backup from one repository to another.
func copyBackup(ctx context.Context, to, from *Cluster, k Commit, parent *Commit) (*Commit, error) {
	source := from.NewSource(k, SourceOptions{})
	defer source.Close()
	sink := to.NewSink(SinkOptions{As: &k, Parent: parent})
	err := backup.Copy(ctx, sink, source, backup.Options{})
	return sink.Written(), errors.Join(err, sink.Close())
}

// kept is what a copy has of the backup that it is.
func kept(k Commit) Commit {
	k.Parent, k.Stored, k.Members, k.Blocks, k.Digests, k.DigestKey = "", 0, nil, nil, "", seal.KeyID{}
	return k
}

// TestCopyIsTheSameBackup copies chains of backups between repositories that are encrypted and such that are not.
func TestCopyIsTheSameBackup(t *testing.T) {
	for _, encrypted := range [][2]bool{{false, true}, {true, false}, {true, true}} {
		t.Run(fmt.Sprint(encrypted), func(t *testing.T) {
			t.Parallel()
			random := rng(7)
			from, to := newCluster(t, encrypted[0]), newCluster(t, encrypted[1])
			states := make(map[string]tree)
			var last, parent *Commit
			now := make(tree)
			for i := range 4 {
				now.change(random)
				last = take(t, from, now.clone(), random, SinkOptions{Parent: last, Label: fmt.Sprint("number ", i)})
				states[last.ID] = now.clone()
			}
			commits, err := from.Backups(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			stored, all := int64(0), int64(0)
			for _, k := range commits {
				written, err := copyBackup(t.Context(), to, from, k, parent)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(kept(k), kept(*written)); diff != "" {
					t.Errorf("the copy of %s:\n%s", k.ID, diff)
				}
				stored += written.Stored - k.Stored
				all += k.Stored
				parent = written
			}
			if stored > all/2 {
				t.Errorf("%d bytes more were stored for the copies than the %d for the backups", stored, all)
			}
			for id, state := range states {
				compare(t, to, id, state)
			}
			if _, err := copyBackup(t.Context(), to, from, commits[2], nil); err == nil || !strings.Contains(err.Error(), "is there already") {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

// TestDamageIsNotCopied has a byte of a pack be another one: then there is no copy.
func TestDamageIsNotCopied(t *testing.T) {
	from, to := newCluster(t, false), newCluster(t, true)
	k := take(t, from, tree{{path: "base/1"}: page(1), {path: "global/pg_control"}: []byte("control")}, rng(1), SinkOptions{})
	store := memory(from)
	name := objects(t, from, "packs")[0]
	data, err := store.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	data = slices.Clone(data)
	data[seal.HeadSize+5] ^= 1
	if _, err := copyBackup(t.Context(), to, reopen(t, from, with(t, store, name, data)), *k, nil); !errors.Is(err, seal.ErrDamaged) {
		t.Errorf("got %v", err)
	}
	if commits, err := to.Backups(t.Context()); len(commits) > 0 || err != nil {
		t.Errorf("%d backups, error %v", len(commits), err)
	}
}

// TestCopyAfterItWasGivenUp is about a copy whose host died, and whose identifier prune has made impossible.
func TestCopyAfterItWasGivenUp(t *testing.T) {
	from, to := newCluster(t, false), newCluster(t, false)
	tr := tree{{path: "base/1"}: page(1), {path: "global/pg_control"}: []byte("control")}
	k := take(t, from, tr, rng(1), SinkOptions{})
	ids := []string{k.ID}
	place := func() (string, bool) {
		places, err := to.Places(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return places.Of(k.ID)
	}
	for range 2 {
		as := *k
		var isThere bool
		if as.ID, isThere = place(); isThere || as.ID != ids[len(ids)-1] {
			t.Fatal(as.ID, isThere)
		}
		lost := hold(t, to, tr, SinkOptions{As: &as})
		prune(t, to, PruneOptions{Now: time.Now().Add(leaseTime + time.Hour)})
		if err := lost.goOn(); err == nil || !strings.Contains(err.Error(), "given up") {
			t.Errorf("who was given up: %v", err)
		}
		if as.ID, isThere = place(); isThere || slices.Contains(ids, as.ID) || as.ID[:17] != k.ID[:17] {
			t.Fatal(as.ID, isThere)
		}
		ids = append(ids, as.ID)
	}
	as := *k
	as.ID = ids[2]
	if _, err := copyBackup(t.Context(), to, from, as, nil); err != nil {
		t.Fatal(err)
	}
	compare(t, to, ids[2], tr)
	if id, isThere := place(); id != ids[2] || !isThere {
		t.Error(id, isThere)
	}
}

// TestForgetBesideCopy has two hosts copy one backup at once. That of the first is forgotten before the second has ended, whose lease
// stays: what it stored is there when its copy is.
func TestForgetBesideCopy(t *testing.T) {
	from, to := newCluster(t, false), newCluster(t, false)
	tr := tree{{path: "base/1"}: page(1), {path: "global/pg_control"}: []byte("control")}
	k := take(t, from, tr, rng(1), SinkOptions{})
	late := hold(t, to, tr, SinkOptions{As: k})
	if _, err := copyBackup(t.Context(), to, from, *k, nil); err != nil {
		t.Fatal(err)
	}
	take(t, to, tree{{path: "global/pg_control"}: []byte("other")}, rng(2), SinkOptions{})
	if err := to.Forget(t.Context(), k.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	prune(t, to, PruneOptions{})
	if err := late.goOn(); err != nil {
		t.Fatal(err)
	}
	compare(t, to, k.ID, tr)
}

// TestCopyLog copies what is not there of the log, in order.
func TestCopyLog(t *testing.T) {
	const size = 4 << 20
	at := func(number, offset uint64) wal.LSN { return wal.LSN(number*size + offset) }
	history := []byte("1\t" + at(6, 8192).String() + "\tno recovery target specified\n")
	segment := func(t wal.Timeline, number uint64) string { return wal.Segment{Timeline: t, Number: number}.Name(size) }
	from := newCluster(t, true)
	push := func(c *Cluster, name string, number, length uint64) {
		t.Helper()
		content := history
		if number > 0 {
			content = forgedLog(number, rng(number))[:length]
		}
		if err := c.PushLog(t.Context(), name, content, size); err != nil {
			t.Fatal(err)
		}
	}
	part := PartialName(segment(1, 4), 8192)
	for number := uint64(3); number < 8; number++ {
		if number == 4 {
			push(from, part, 4, 8192)
		}
		push(from, segment(1, number), number, size)
	}
	push(from, "00000002.history", 0, 0)
	push(from, segment(2, 6), 6, size)
	push(from, PartialName(segment(2, 7), 65536), 7, 65536)
	k := &Commit{ID: "backup", SegmentSize: size, Start: wal.Position{LSN: at(5, 40), Timeline: 1}, Stop: wal.Position{LSN: at(6, 16384), Timeline: 2}}
	all := []string{
		segment(1, 3), segment(1, 4), segment(1, 5), segment(1, 6), segment(1, 7),
		"00000002.history", segment(2, 6), PartialName(segment(2, 7), 65536),
	}
	for _, test := range []struct {
		reason string
		there  []string
		o      CopyLogOptions
		want   []string
	}{
		{"all of it, but for the part of a segment that is whole", nil, CopyLogOptions{}, all},
		{"what is there is left alone", []string{all[0], all[3], all[5], all[7]}, CopyLogOptions{}, []string{all[1], all[2], all[4], all[6]}},
		{"all is there", all, CopyLogOptions{}, nil},
		{"from a place on, histories apart", nil, CopyLogOptions{From: at(6, 10), SegmentSize: size}, all[3:]},
		{"what a backup needs over a promotion", nil, CopyLogOptions{For: k}, []string{all[2], all[3], all[5], all[6]}},
		{"nothing is changed", []string{all[1]}, CopyLogOptions{For: k, DryRun: true}, []string{all[2], all[3], all[5], all[6]}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			to := reopen(t, from, memory(from)) // without what is not there
			for _, name := range objects(t, to, "wal") {
				if !slices.Contains(test.there, name[strings.LastIndexByte(name, '/')+1:]) {
					if err := to.repo.store.Delete(t.Context(), name); err != nil {
						t.Fatal(err)
					}
				}
			}
			var copied []string
			test.o.Copied = func(name string, _ int64) { copied = append(copied, name) }
			report, err := to.CopyLog(t.Context(), from, test.o)
			if err != nil || report.Files != len(test.want) {
				t.Fatalf("%d files, error %v", report.Files, err)
			}
			if diff := cmp.Diff(test.want, copied); diff != "" {
				t.Error(diff)
			}
			for _, name := range copied {
				have, err := to.Log(t.Context(), name)
				if test.o.DryRun {
					if !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				want, _ := from.Log(t.Context(), name)
				if err != nil || string(have) != string(want) {
					t.Errorf("%s is another, or %v", name, err)
				}
			}
		})
	}
	t.Run("behind what is damaged it goes on", func(t *testing.T) {
		store := memory(from)
		at, err := from.logName(all[1])
		if err != nil {
			t.Fatal(err)
		}
		data, err := store.Get(t.Context(), at, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		data = slices.Clone(data)
		data[logHead+100] ^= 1
		damaged := reopen(t, from, with(t, store, at, data))
		to := newCluster(t, false)
		report, err := to.CopyLog(t.Context(), damaged, CopyLogOptions{})
		if !errors.Is(err, seal.ErrDamaged) || report.Files != len(all)-1 {
			t.Errorf("%d files, error %v", report.Files, err)
		}
		before := k
		before.Start.LSN = wal.LSN(4*size + 40)
		if _, err := newCluster(t, false).CopyLog(t.Context(), damaged, CopyLogOptions{For: before}); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("for a backup: %v", err)
		}
	})
	t.Run("a store that is not reached", func(t *testing.T) {
		to := newCluster(t, false)
		cutoff := &cut{Store: to.repo.store.(*object.Memory), at: 9, stays: true}
		if _, err := reopen(t, to, cutoff).CopyLog(t.Context(), from, CopyLogOptions{}); !errors.Is(err, errCut) {
			t.Errorf("got %v", err)
		}
	})
}

// TestCopyLogThatWasReceived copies the parts that a receiver made of a segment, of which the later ones do not tell how
// large it is, but not those of one that is whole.
func TestCopyLogThatWasReceived(t *testing.T) {
	for _, there := range []int{0, 1, 2} { // of the parts, before
		from, to := newCluster(t, true), newCluster(t, false)
		five, six := forgedLog(5, rng(5)), forgedLog(6, rng(6))
		segment := func(number uint64) string { return wal.Segment{Timeline: 1, Number: number}.Name(partSegment) }
		push := func(c *Cluster, name string, content []byte) {
			t.Helper()
			if err := c.PushLog(t.Context(), name, content, partSegment); err != nil {
				t.Fatal(err)
			}
		}
		push(from, PartName(segment(5), 0, 10000), five[:10000])
		push(from, PartName(segment(5), 10000, 30000), five[10000:30000])
		push(from, segment(5), five)
		ends := []int64{0, 10000, 30000, 90000}
		for i, end := range ends[1:] {
			name, content := PartName(segment(6), ends[i], end), six[ends[i]:end]
			push(from, name, content)
			if i < there {
				push(to, name, content)
			}
		}
		report, err := to.CopyLog(t.Context(), from, CopyLogOptions{})
		if err != nil || report.Files != 1+3-there {
			t.Errorf("%d parts were there: %d files, error %v", there, report.Files, err)
		}
		name, err := to.LongestPartial(t.Context(), segment(6))
		if err != nil {
			t.Fatal(err)
		}
		content, err := to.Log(t.Context(), name)
		if err != nil || string(content) != string(six[:90000]) {
			t.Errorf("%d parts were there: %s is another, or %v", there, name, err)
		}
	}
}

// TestCopyLogBesidePrune has a prune remove the parts of a segment while the log is copied, since the segment has come.
func TestCopyLogBesidePrune(t *testing.T) {
	from, to := newCluster(t, false), newCluster(t, false)
	five, six := forgedLog(5, rng(5)), forgedLog(6, rng(6))
	segment := func(number uint64) string { return wal.Segment{Timeline: 1, Number: number}.Name(partSegment) }
	push := func(name string, content []byte) {
		t.Helper()
		if err := from.PushLog(t.Context(), name, content, partSegment); err != nil {
			t.Fatal(err)
		}
	}
	push(PartName(segment(5), 0, 10000), five[:10000])
	push(PartName(segment(5), 10000, 30000), five[10000:30000])
	push(segment(6), six)
	store := memory(from)
	again := reopen(t, from, store)
	at, err := from.logName(PartName(segment(5), 10000, 30000))
	if err != nil {
		t.Fatal(err)
	}
	isGone := false
	reader := reopen(t, from, &object.Failing{Store: store, Fail: func(ctx context.Context, call object.Call) object.Fault {
		if call.Method == object.CallGet && call.Name == at && !isGone {
			isGone = true
			if err := errors.Join(again.PushLog(ctx, segment(5), five, 0), store.Delete(ctx, at)); err != nil {
				t.Error(err)
			}
		}
		return object.None
	}})
	report, err := to.CopyLog(t.Context(), reader, CopyLogOptions{})
	if err != nil || report.Files != 3 || !isGone {
		t.Errorf("%+v, error %v", report, err)
	}
	if content, err := to.Log(t.Context(), segment(5)); err != nil || string(content) != string(five) {
		t.Errorf("%s is another, or %v", segment(5), err)
	}
}
