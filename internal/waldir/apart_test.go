package waldir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/seal"
	"basin/internal/wal"
)

// failover is a cluster's log past which a standby that was behind was promoted.
type failover struct {
	old, new *log // timelines 1 and 2; the new one begins with the fork's segment
	fork     wal.LSN
	lost     []Commit // of the old timeline past the fork
}

func newFailover(commits int) failover {
	f := failover{old: newLog(1, 5, 7).fill(segmentSize+500_000, 30_000)}
	n := len(f.old.ends) - 1
	f.fork = f.old.ends[n]
	at := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
	for i := range commits {
		if i%2 == 0 {
			f.old.fill(len(f.old.bytes)+1, 200_000)
		}
		at = at.Add(time.Second)
		f.lost = append(f.lost, Commit{LSN: f.old.commit(uint32(3000+i), at), XID: uint32(3000 + i), Time: at})
	}
	f.old.fill(3*segmentSize+400_000, 30_000)
	f.new = f.old.fork(n, 2, 8).fill(2*segmentSize-300_000, 30_000)
	return f
}

// follow receives what the promoted server has.
func (f failover) follow(d *Directory) error {
	start, _, err := d.Start()
	if err != nil {
		return err
	}
	r := receiver{d: d, log: f.new, piece: 400_000}
	if start.Timeline == 2 {
		return r.receive(start.LSN, f.new.end())
	}
	old := receiver{d: d, log: f.old, piece: 400_000}
	if err := old.receive(start.LSN, f.fork); err != nil {
		return err
	}
	return r.receive(f.new.start, f.new.end())
}

// check compares what SetApart has found.
func (f failover) check(got Apart, moved []string) error {
	dir := fmt.Sprintf("diverged-00000001-0-%X", uint32(f.fork))
	want := Apart{Directory: filepath.Join("dir", dir), Moved: moved, List: filepath.Join("dir", dir, "COMMITS")}
	want.Commits = Commits{Count: len(f.lost), First: f.lost[:min(20, len(f.lost))]}
	if len(f.lost) > 0 {
		want.Commits.Last = f.lost[len(f.lost)-1]
	} else {
		want.List = ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return errors.New(diff)
	}
	return nil
}

func TestSetApart(t *testing.T) {
	for _, c := range []struct {
		reason  string
		commits int
		end     int // bytes of the old timeline that came
		moved   []int
		partial int // of the segments, one that is moved too; zero is none
	}{
		{"nothing was lost but records of no transaction", 0, 3*segmentSize + 100_000, []int{1, 2}, 3},
		{"a few commits", 5, 3*segmentSize + 400_000, []int{1, 2}, 3},
		{"many commits", 300, 3 * segmentSize, []int{1, 2}, 0},
		{"only the fork's segment, which is partial", 3, 2*segmentSize - 100, nil, 0},
	} {
		for _, method := range methods {
			t.Run(fmt.Sprintf("%s, %v", c.reason, method), func(t *testing.T) {
				t.Parallel()
				f := newFailover(c.commits)
				s := newSession(t, Options{})
				end := f.old.start + wal.LSN(c.end)
				s.open(method).receive(f.old, end).close().open(method)
				for len(f.lost) > 0 && f.lost[len(f.lost)-1].LSN >= lastEnd(f.old, end) {
					f.lost = f.lost[:len(f.lost)-1]
				}
				var moved []string
				for _, n := range c.moved {
					moved = append(moved, f.old.nth(n)+seal.Suffix(method))
				}
				if c.partial > 0 {
					moved = append(moved, f.old.nth(c.partial)+seal.Suffix(method)+".partial")
				}
				for range 2 { // the second call has nothing to do
					got, err := s.d.SetApart(1, f.fork)
					must(t, err)
					must(t, f.check(got, moved))
				}
				must(t, f.follow(s.d))
				s.close()
				must(t, holds(s.d, f.new, f.new.end()))
				must(t, kept(s.d, []promise{{log: f.old, upto: end}}))
			})
		}
	}
}

func TestPartialSegmentStaysIfItsBeginningIsOfBoth(t *testing.T) {
	d := &Directory{o: Options{SegmentSize: segmentSize}}
	own := entry{segment: wal.Segment{Timeline: 1, Number: 3}, partial: true}
	for fork, want := range map[wal.LSN]bool{3 * segmentSize: false, 3*segmentSize + 40: true, 4 * segmentSize: false} {
		if got := (&apart{dir: d, timeline: 1, fork: fork}).stays(own); got != want {
			t.Errorf("left at %v: stays is %v", fork, got)
		}
	}
}

func TestNothingToSetApart(t *testing.T) {
	l := newLog(1, 5, 7).fill(2*segmentSize, 30_000)
	s := newSession(t, Options{}).open(seal.None).receive(l, l.start+segmentSize+5000)
	for _, fork := range []wal.Position{{LSN: l.end(), Timeline: 1}, {LSN: l.start, Timeline: 2}} {
		if got, err := s.d.SetApart(fork.Timeline, fork.LSN); err != nil || cmp.Diff(Apart{}, got) != "" {
			t.Errorf("%v: %+v, %v", fork, got, err)
		}
	}
	if len(s.m.dirs) > 1 {
		t.Error("a directory was made")
	}
	s.close()
}

func TestListOfCommits(t *testing.T) {
	f := newFailover(2)
	dir := t.TempDir()
	d := open(t, Options{Path: dir})
	must(t, receiver{d: d, log: f.old, piece: 200_000}.goOn(f.old.end()))
	got, err := d.SetApart(1, f.fork)
	must(t, err)
	text, err := os.ReadFile(got.List)
	must(t, err)
	want := fmt.Sprintf("Transactions that were committed on timeline 1 at or after %v, where the servers have left it.\n"+
		"Only the log here has them.\n\nLSN\tXID\ttime (UTC)\n"+
		"%v\t3000\t2026-03-04 05:06:08.000008\n%v\t3001\t2026-03-04 05:06:09.000008\n", f.fork, f.lost[0].LSN, f.lost[1].LSN)
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Error(diff)
	}
	// Other files of the same names are not overwritten.
	must(t, os.WriteFile(got.List, []byte("another list"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, f.old.nth(2)), f.old.segment(1), 0o600))
	_, err = d.SetApart(1, f.fork)
	if err == nil || !strings.HasSuffix(err.Error(), "are not the same") {
		t.Errorf("error is %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, f.old.nth(2))))
	again, err := d.SetApart(1, f.fork)
	if err != nil || again.List != got.List+".2" {
		t.Errorf("the list is %q, %v", again.List, err)
	}
	if text, err := os.ReadFile(got.List); string(text) != "another list" {
		t.Errorf("the other list is %q, %v", text, err)
	}
}

// TestPowerFailsWhileSettingApart has the power fail at every step.
func TestPowerFailsWhileSettingApart(t *testing.T) {
	f := newFailover(3)
	end := f.old.start + 3*segmentSize + 200_000
	s := newSession(t, Options{}).open(seal.None).receive(f.old, end).close().open(seal.None)
	s.begun = len(s.m.steps)
	_, err := s.d.SetApart(1, f.fork)
	must(t, err)
	s.close()
	checkEveryCrash(t, s.m, s.begun, func(m *memory, promises []promise) error {
		o := Options{SegmentSize: segmentSize, Path: "dir"}
		d, err := openOn(m, o)
		if err != nil {
			return err
		}
		if err := kept(d, promises); err != nil {
			return err
		}
		got, err := d.SetApart(1, f.fork)
		if err != nil {
			return err
		}
		moved := []string{f.old.nth(1), f.old.nth(2), f.old.nth(3) + ".partial"}
		if err := f.check(got, moved); err != nil {
			return err
		}
		if err := errors.Join(f.follow(d), kept(d, promises), d.Close()); err != nil {
			return err
		}
		return holds(d, f.new, f.new.end())
	})
}
