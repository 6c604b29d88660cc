package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/object"
	"basin/internal/wal"
)

// logSize is the size of a segment of forgedLog, in bytes.
const logSize = 4 << 20

// putBackup has a backup be there that was made so many hours after the first, and its stop be in the middle of a segment.
func putBackup(t *testing.T, c *Cluster, hours int, timeline wal.Timeline, segment uint64, isDamaged bool) Commit {
	t.Helper()
	at := wal.Position{LSN: wal.LSN(segment*logSize + 0x100), Timeline: timeline}
	ended := time.Date(2026, 11, 26, hours, 0, 0, 0, time.UTC)
	k := Commit{
		ID: newBackupID(ended), Began: ended, Ended: ended, SegmentSize: logSize, Start: at, Damaged: isDamaged,
		Stop: wal.Position{LSN: at.LSN + 0x1000, Timeline: timeline},
	}
	if err := c.putCommit(t.Context(), &k); err != nil {
		t.Fatal(err)
	}
	return k
}

// putLog has segments of a timeline be there.
func putLog(t *testing.T, c *Cluster, timeline wal.Timeline, numbers ...uint64) {
	t.Helper()
	for _, n := range numbers {
		content := forgedLog(n, rng(n))
		binary.LittleEndian.PutUint64(content[24:], c.name.SystemID)
		if err := c.PushLog(t.Context(), wal.Segment{Timeline: timeline, Number: n}.Name(logSize), content, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRestorable is of a cluster whose log has a gap, that was restored to before it, and of a timeline of which nobody knows where
// it comes from.
func TestRestorable(t *testing.T) {
	c := newCluster(t, true)
	fork := wal.LSN(4*logSize + 0x2000)
	a := putBackup(t, c, 1, 1, 2, false)
	putBackup(t, c, 2, 1, 3, true)
	b := putBackup(t, c, 3, 1, 7, false)
	d := putBackup(t, c, 4, 2, 5, false)
	putLog(t, c, 1, 1, 2, 3, 4, 5, 7, 8)
	putLog(t, c, 2, 4, 5, 6)
	putLog(t, c, 3, 9)
	if err := c.PushLog(t.Context(), wal.HistoryName(2), fmt.Appendf(nil, "1\t%v\tbefore 2026-11-26\n", fork), 0); err != nil {
		t.Fatal(err)
	}
	commits, err := c.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Restorable(t.Context(), commits)
	if err != nil || len(got) != 3 {
		t.Fatalf("error %v", err)
	}
	if u := got[2].Unreachable; len(u) != 1 || u[0].Error() != "timeline 3: it is not known where it comes from, as 00000003.history is missing" || !errors.Is(u[0], ErrUnreachable) {
		t.Errorf("not known of timeline 3: %v", u)
	}
	got[2].Unreachable = nil
	want := []Restorable{
		{Timeline: 1, Windows: []Window{
			{Backup: a.ID, Start: a.Stop.LSN, Since: a.Ended, End: 6 * logSize, Resumes: "000000010000000000000007"},
			{Backup: b.ID, Start: b.Stop.LSN, Since: b.Ended, End: 9 * logSize},
		}},
		{Timeline: 2, Parent: 1, Fork: fork, Windows: []Window{{Backup: a.ID, Start: fork, End: 7 * logSize}}},
		{Timeline: 3},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	newest, err := c.Newest(t.Context())
	if err != nil || newest.Backup == nil || newest.Backup.ID != d.ID || newest.Damaged != nil {
		t.Errorf("the newest is %+v, error %v", newest, err)
	}
	p, err := c.RecoveryPoint(t.Context(), d, 2)
	if err != nil || p.End != 7*logSize || p.Timeline != 2 || p.Arrived.IsZero() || !p.Commit.IsZero() {
		t.Errorf("the recovery point is %+v, error %v", p, err)
	}
	segment := wal.Segment{Timeline: 2, Number: 7}.Name(logSize)
	content := forgedLog(7, rng(7))
	for i, name := range []string{PartialName(segment, 8192), PartName(segment, 8192, 16384)} {
		if err := c.PushLog(t.Context(), name, content[i*8192:(i+1)*8192], logSize); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := c.RecoveryPoint(t.Context(), d, 2); err != nil || p.End != 7*logSize+16384 || p.Arrived.IsZero() {
		t.Errorf("with parts the recovery point is %+v, error %v", p, err)
	}
	if p, err := c.RecoveryPoint(t.Context(), a, 2); err != nil || p.End != 7*logSize+16384 || p.Timeline != 2 {
		t.Errorf("that of the first is %+v, error %v", p, err)
	}
}

// What the store does not answer is no proof that nothing leads there: neither of a history, nor of what the log has.
func TestRestorableOfFailingStore(t *testing.T) {
	c := newCluster(t, false)
	k := putBackup(t, c, 1, 2, 2, false)
	putLog(t, c, 2, 2, 3)
	if err := c.PushLog(t.Context(), wal.HistoryName(2), []byte("1\t0/100000\tbefore\n"), 0); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason, part string
		want         int // windows
	}{
		{"all answers", "nothing of that name", 1},
		{"the history", ".history", 0},
		{"what is known of the log", "000000020000000000000003", 0},
	} {
		t.Run(test.reason, func(t *testing.T) {
			failing := &object.Failing{Store: c.repo.store, Fail: func(_ context.Context, call object.Call) object.Fault {
				if call.Method == object.CallGet && strings.Contains(call.Name, test.part) {
					return object.Before
				}
				return object.None
			}}
			all, err := reopen(t, c, failing).Restorable(t.Context(), []Commit{k})
			if errors.Is(err, object.ErrFault) != (test.want == 0) || errors.Is(err, ErrUnreachable) || len(all) != 1 {
				t.Fatalf("%+v, error %v", all, err)
			}
			if len(all[0].Windows) != test.want || len(all[0].Unreachable) != 0 {
				t.Errorf("%+v", all[0])
			}
		})
	}
}

// Damaged backups, and those that cannot be read, are told apart from the newest that counts.
func TestNewest(t *testing.T) {
	c := newCluster(t, false)
	if n, err := c.Newest(t.Context()); err != nil || n.Backup != nil {
		t.Errorf("of none: %+v, %v", n, err)
	}
	good := putBackup(t, c, 1, 1, 2, false)
	damaged := putBackup(t, c, 2, 1, 3, true)
	broken := putBackup(t, c, 3, 1, 4, false)
	c = reopen(t, c, with(t, memory(c), c.commitName(broken.ID), []byte("no commit")))
	n, err := c.Newest(t.Context())
	if err != nil || n.Backup == nil || n.Backup.ID != good.ID || len(n.Damaged) != 1 || n.Damaged[0] != damaged.ID || len(n.Unreadable) != 1 || n.Latest != broken.ID {
		t.Errorf("%+v, %v", n, err)
	}
}

// Backups that began within one second are in the order in which they did.
func TestBackupIDsAreSorted(t *testing.T) {
	began := time.Date(2026, 11, 26, 23, 59, 59, 0, time.UTC)
	last := newBackupID(began)
	for i := 1; i < 200; i++ {
		id := newBackupID(began.Add(time.Duration(i) * 10 * time.Millisecond))
		if len(id) != len(last) || id <= last {
			t.Fatalf("%s begins %d ms later than %s", id, 10, last)
		}
		last = id
	}
}

// What was found damaged is remembered until it was found sound, also if other things are looked at meanwhile.
func TestDamageIsRemembered(t *testing.T) {
	c, _ := whole(t, false)
	if v, err := c.Verification(t.Context()); err != nil || !v.Newest.IsZero() {
		t.Errorf("before: %+v, %v", v, err)
	}
	sound := memory(c)
	name := objects(t, c, "packs/")[0]
	c = reopen(t, c, with(t, sound, name, []byte("no pack")))
	now := time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC)
	verify(t, c, VerifyOptions{Now: now})
	v, err := c.Verification(t.Context())
	if err != nil || !v.Newest.Equal(now) || len(v.Damages) != 1 || v.Damages[0] != name {
		t.Fatalf("found: %+v, %v", v, err)
	}
	for i := range 3 { // the log alone, as no backup has so few
		verify(t, c, VerifyOptions{Now: now.Add(time.Duration(i+1) * time.Hour), Sample: 1e-9})
	}
	if v, err := c.Verification(t.Context()); err != nil || len(v.Damages) != 1 {
		t.Errorf("after samples: %+v, %v", v, err)
	}
	content, err := sound.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	c = reopen(t, c, with(t, memory(c), name, content))
	verify(t, c, VerifyOptions{Now: now.Add(5 * time.Hour)})
	if v, err := c.Verification(t.Context()); err != nil || len(v.Damages) != 0 || !v.Newest.Equal(now.Add(5*time.Hour)) {
		t.Errorf("mended: %+v, %v", v, err)
	}
}

// Of a damage it is known which backups need what is damaged, and that others do not.
func TestNeeds(t *testing.T) {
	c, states := whole(t, false)
	damages := make(map[string]int) // how many backups need each
	for _, name := range objects(t, c, "") {
		broken := reopen(t, c, with(t, memory(c), name, []byte("nothing")))
		found, _ := verify(t, broken, VerifyOptions{})
		if _, ok := found[name]; !ok {
			continue // it is what the repository is opened with
		}
		v, err := broken.Verification(t.Context())
		if err != nil || !slices.Contains(v.Damages, name) {
			t.Fatalf("%s: remembered are %v, %v", name, v.Damages, err)
		}
		for id := range states {
			commit, err := c.Backup(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			needs, err := c.Needs(t.Context(), &commit, v.Damages)
			if err != nil {
				t.Fatal(err)
			}
			isNeeded := slices.Contains(found[name].Backups, id)
			if slices.Contains(needs, name) != isNeeded {
				t.Errorf("%s: backup %s needs %v of what is damaged, and is said to be affected: %v", name, id, needs, isNeeded)
			}
			if isNeeded {
				damages[name[:strings.LastIndexByte(name, '/')]]++
			}
		}
	}
	if len(damages) < 3 { // commits, parts, packs
		t.Errorf("damaged was only %v", damages)
	}
}

// overwriting is a store that lets objects be overwritten.
type overwriting struct{ *object.Memory }

func (s overwriting) Create(ctx context.Context, name string, data []byte) error {
	if err := s.Delete(ctx, name); err != nil {
		return err
	}
	return s.Memory.Create(ctx, name, data)
}

// writing is a store in which nothing can be deleted.
type writing struct{ *object.Memory }

func (s writing) Delete(context.Context, string) error {
	return fmt.Errorf("delete: %w", object.ErrRefused)
}

func TestProbe(t *testing.T) {
	c := newCluster(t, false)
	probes := func() (names []string) {
		for info, err := range c.repo.store.List(t.Context(), "probe/", "") {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, info.Name)
		}
		return names
	}
	report, err := c.repo.Probe(t.Context())
	if err != nil || report.IsLeft || !report.IsTimed || report.Clock.Abs() > time.Minute || len(probes()) != 0 {
		t.Errorf("%+v, %v, left are %q", report, err, probes())
	}
	c = reopen(t, c, memory(c))
	c.repo.store = overwriting{memory(c)}
	if _, err := c.repo.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "overwritten") {
		t.Errorf("of one that overwrites: %v", err)
	}
	c.repo.store = writing{c.repo.store.(overwriting).Memory}
	for i := range 3 {
		report, err := c.repo.Probe(t.Context())
		if err != nil || report.IsLeft != (i == 0) || len(probes()) != 1 {
			t.Errorf("where nothing can be deleted: %+v, %v, left are %q", report, err, probes())
		}
	}
}

func TestLeases(t *testing.T) {
	c := newCluster(t, true)
	l, err := c.takeLease(t.Context(), "b", "", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if leases, err := c.Leases(t.Context()); err != nil || len(leases) != 1 || leases[0].Backup != "b" {
		t.Errorf("%+v, %v", leases, err)
	}
	if err := l.end(); err != nil {
		t.Fatal(err)
	}
	if leases, err := c.Leases(t.Context()); err != nil || len(leases) != 0 {
		t.Errorf("ended: %+v, %v", leases, err)
	}
	if oldest, err := c.Oldest(t.Context()); err != nil || oldest != nil {
		t.Errorf("the oldest is %v, %v", oldest, err)
	}
	if _, err := c.Backup(t.Context(), "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
