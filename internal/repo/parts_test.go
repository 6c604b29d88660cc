package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

const (
	partOf       = "000000010000000000000005" // the segment of these tests
	partSegment  = 4 << 20                    // its size
	partNotThere = -1
)

// TestPartsAreReadAsOne has parts of a segment, and what can be read of it.
func TestPartsAreReadAsOne(t *testing.T) {
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	for _, test := range []struct {
		reason string
		parts  [][2]int64
		end    int64 // what can be read
	}{
		{"none", nil, partNotThere},
		{"one", [][2]int64{{0, 100000}}, 100000},
		{"one after another", [][2]int64{{0, 10000}, {10000, 10001}, {10001, 90000}}, 90000},
		{"a receiver that began again", [][2]int64{{0, 10000}, {10000, 50000}, {0, 50000}, {50000, 60000}}, 60000},
		{"one that had less", [][2]int64{{0, 10000}, {10000, 50000}, {0, 30000}, {30000, 40000}}, 50000},
		{"two receivers", [][2]int64{{0, 10000}, {0, 12000}, {10000, 20000}, {12000, 19000}, {19000, 70000}, {20000, 60000}}, 70000},
		{"behind a gap", [][2]int64{{0, 10000}, {10001, 20000}}, 10000},
		{"no beginning", [][2]int64{{1, 20000}}, partNotThere},
		{"all of it", [][2]int64{{0, 2 << 20}, {2 << 20, 4 << 20}}, partSegment},
	} {
		t.Run(test.reason, func(t *testing.T) {
			c := newCluster(t, len(test.parts)%2 == 0)
			for _, p := range test.parts {
				for range 2 { // the same again is no error
					if err := c.PushLog(t.Context(), PartName(partOf, p[0], p[1]), content[p[0]:p[1]], partSegment); err != nil {
						t.Fatal(err)
					}
				}
			}
			name, err := c.LongestPartial(t.Context(), partOf)
			if test.end == partNotThere {
				if !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%q is there, %v", name, err)
				}
				return
			}
			if err != nil || name != PartialName(partOf, test.end) {
				t.Errorf("%q, %v", name, err)
			}
			got, err := c.Log(t.Context(), name)
			if err != nil || !bytes.Equal(got, content[:test.end]) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			facts, err := c.LogFacts(t.Context(), name)
			if err != nil || facts.Size != test.end || facts.Name != name || facts.Summary == nil && facts.Problem == "" {
				t.Errorf("%+v, %v", facts, err)
			}
			if _, err := c.Log(t.Context(), PartialName(partOf, test.end+1)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("more than there is: %v", err)
			}
			if err := c.PushLog(t.Context(), partOf, content, 0); err != nil {
				t.Errorf("the segment: %v", err)
			}
		})
	}
}

// TestFilledUpPartIsNoSegment pushes what a server got of a segment of which only a part was there: that is there, and is not taken for the segment.
func TestFilledUpPartIsNoSegment(t *testing.T) {
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	for _, test := range []struct {
		reason               string
		encrypted, isKeyless bool
		parts                []int64 // where they end
	}{
		{"plain", false, false, []int64{10000}},
		{"encrypted", true, false, []int64{10000}},
		{"several", true, false, []int64{4000, 10000}},
		{"without the key", true, true, []int64{10000}},
		{"several, without the key", true, true, []int64{4000, 10000}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, test.encrypted)
			if test.isKeyless {
				c = asWriter(t, c, make(map[seal.KeyID]seal.Key))
			}
			from := int64(0)
			for _, to := range test.parts {
				if err := c.PushLog(t.Context(), PartName(partOf, from, to), content[from:to], partSegment); err != nil {
					t.Fatal(err)
				}
				from = to
			}
			had := len(objects(t, c, "wal/"))
			for _, length := range []int{10000, 9000} {
				filled := append(slices.Clone(content[:length]), make([]byte, partSegment-length)...)
				err := c.PushLog(t.Context(), partOf, filled, 0)
				// Who cannot read compares it with parts that are there, and not with what they have more.
				if isKnown := !test.isKeyless || length == 10000; (err == nil) != isKnown {
					t.Errorf("%d bytes of it and zeros: %v", length, err)
				}
				if err != nil && !strings.Contains(err.Error(), "of which the repository has a part") {
					t.Errorf("%d bytes of it and zeros: %v", length, err)
				}
			}
			other := append(slices.Clone(content[:9000]), make([]byte, partSegment-9000)...)
			other[8500]++
			if err := c.PushLog(t.Context(), partOf, other, 0); err == nil {
				t.Error("another log is taken for the part")
			}
			if left := len(objects(t, c, "wal/")); left != had {
				t.Errorf("%d files were there, and then %d", had, left)
			}
			for range 2 {
				if err := c.PushLog(t.Context(), partOf, content, 0); err != nil {
					t.Errorf("the segment: %v", err)
				}
			}
		})
	}
}

// TestPartsOfTwoLogs has two clusters write parts of one segment.
func TestPartsOfTwoLogs(t *testing.T) {
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	other := bytes.Clone(content)
	other[15000]++
	type pushed struct {
		name    string
		content []byte
	}
	piece := func(of []byte, from, to int64) pushed { return pushed{PartName(partOf, from, to), of[from:to]} }
	for _, test := range []struct {
		reason string
		pushes []pushed // of which all but the last succeed
		ok     bool
	}{
		{"one log", []pushed{piece(content, 0, 10000), piece(content, 10000, 20000), {partOf, content}}, true},
		{"the same part", []pushed{piece(content, 10000, 20000), piece(other, 10000, 20000)}, false},
		{"another beginning", []pushed{piece(content, 0, 20000), piece(other, 0, 20001)}, false},
		{"a beginning in the other's segment", []pushed{{partOf, content}, piece(other, 0, 20000)}, false},
		{"a beginning where they are the same", []pushed{{partOf, content}, piece(other, 0, 15000)}, true},
		{"the other's segment", []pushed{piece(content, 0, 10000), piece(content, 10000, 20000), {partOf, other}}, false},
		{"the other's part, then the segment", []pushed{piece(content, 0, 10000), piece(other, 10000, 20000), {partOf, content}}, false},
		{"a part of another length than its name says", []pushed{{PartName(partOf, 0, 20000), content[:19999]}}, false},
		{"a part beyond the segment", []pushed{{PartName(partOf, partSegment, partSegment+8192), content[:8192]}}, false},
		{"a part of nothing", []pushed{{PartName(partOf, 8192, 8192), nil}}, false},
		{"a part of another place", []pushed{{PartName(partOf, 16384, 32768), content[8192:24576]}}, false},
	} {
		c := newCluster(t, false)
		for i, p := range test.pushes {
			err := c.PushLog(t.Context(), p.name, p.content, partSegment)
			if ok := test.ok || i < len(test.pushes)-1; (err == nil) != ok {
				t.Errorf("%s: %s: %v", test.reason, p.name, err)
			}
		}
	}
}

// TestSupersededPartsGo says which parts a prune removes.
func TestSupersededPartsGo(t *testing.T) {
	now := time.Now()
	const next = "000000010000000000000006"
	all := []string{
		partOf, PartName(partOf, 0, 10), PartName(partOf, 10, 20), PartialName(partOf, 30), partOf + ".partial",
		PartName(next, 0, 10), PartName(next, 10, 20), PartName(next, 0, 20), PartialName(next, 20), PartName(next, 15, 25), PartName(next, 20, 22),
	}
	for _, test := range []struct {
		reason string
		young  []int // of all
		gone   []int
	}{
		{"what is in others", nil, []int{1, 2, 3, 5, 6, 7, 10}},
		{"the segment is young", []int{0}, []int{1, 2, 5, 6, 7, 10}},
		{"a longer one is young", []int{8, 7}, []int{1, 2, 3, 10}},
		{"all is young", []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, nil},
	} {
		var files []object.Info
		want := make(map[string]bool)
		for i, name := range all {
			info := object.Info{Name: "main/42/wal/" + name, Time: now.Add(-2 * time.Hour)}
			if slices.Contains(test.young, i) {
				info.Time = now.Add(-time.Minute)
			}
			files = append(files, info)
			if slices.Contains(test.gone, i) {
				want[info.Name] = true
			}
		}
		got := superseded(files, now)
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, slices.Sorted(maps.Keys(want))) {
			t.Errorf("%s: %v go, want %v", test.reason, got, want)
		}
		for part, in := range got {
			if got[in] != "" {
				t.Errorf("%s: %s is in %s, which goes too", test.reason, part, in)
			}
		}
	}
}

// TestPrunesLeaveWhatIsThere has two prunes see parts at different times, and the log be there as far as before.
func TestPrunesLeaveWhatIsThere(t *testing.T) {
	now, random := time.Now(), rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		var seen [2][]object.Info
		var all []logPart
		for range 2 + random.IntN(12) {
			from := random.Int64N(12)
			p := logPart{segment: partOf, from: from, to: from + 1 + random.Int64N(6)}
			p.name = PartName(partOf, p.from, p.to)
			if slices.Contains(all, p) {
				continue
			}
			all = append(all, p)
			for i := range seen {
				if random.IntN(4) > 0 {
					seen[i] = append(seen[i], object.Info{Name: p.name})
				}
			}
		}
		_, before := cover(all)
		for _, files := range seen {
			gone := superseded(files, now)
			all = slices.DeleteFunc(all, func(p logPart) bool { return gone[p.name] != "" })
		}
		if _, after := cover(all); after != before {
			t.Fatalf("%v: %d were there, %d are", all, before, after)
		}
	}
}

// TestPruneRemovesSupersededParts has a prune do so beside a backup, and leave what is young.
func TestPruneRemovesSupersededParts(t *testing.T) {
	c := newCluster(t, false)
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	for _, p := range [][2]int64{{0, 10000}, {10000, 20000}, {0, 20000}} {
		if err := c.PushLog(t.Context(), PartName(partOf, p[0], p[1]), content[p[0]:p[1]], partSegment); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.takeLease(t.Context(), "new", "", time.Now); err != nil {
		t.Fatal(err)
	}
	for i, now := range []time.Time{time.Now(), time.Now().Add(2 * supersededFor)} {
		report, err := c.PruneLog(t.Context(), PruneLogOptions{Now: now})
		if err != nil || report.Files != 2*i || report.Kept != 3-2*i {
			t.Errorf("%+v, %v", report, err)
		}
	}
	if name, err := c.LongestPartial(t.Context(), partOf); err != nil || name != PartialName(partOf, 20000) {
		t.Errorf("%q, %v", name, err)
	}
}

// TestPruneLeavesPartsOfWhatIsDamaged has a segment be damaged: its parts are what is left of it.
func TestPruneLeavesPartsOfWhatIsDamaged(t *testing.T) {
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	for _, test := range []struct {
		reason string
		damage func(t *testing.T, c *Cluster, at string, data []byte) *Cluster
		gone   int
	}{
		{"it is sound", func(_ *testing.T, c *Cluster, _ string, _ []byte) *Cluster { return c }, 2},
		{"it has lost its end", func(t *testing.T, c *Cluster, at string, data []byte) *Cluster {
			return reopen(t, c, with(t, memory(c), at, data[:len(data)-1]))
		}, 0},
		{"its head is another", func(t *testing.T, c *Cluster, at string, data []byte) *Cluster {
			data[seal.HeadSize] ^= 1
			return reopen(t, c, with(t, memory(c), at, data))
		}, 0},
		{"verify has found it damaged", func(t *testing.T, c *Cluster, at string, _ []byte) *Cluster {
			if _, err := c.putFact(t.Context(), factVerified, verifiedFact{At: time.Now(), Damages: []string{at}}); err != nil {
				t.Fatal(err)
			}
			return c
		}, 0},
	} {
		c := newCluster(t, false)
		for _, p := range [][2]int64{{0, 10000}, {10000, 20000}} {
			if err := c.PushLog(t.Context(), PartName(partOf, p[0], p[1]), content[p[0]:p[1]], partSegment); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.PushLog(t.Context(), partOf, content, 0); err != nil {
			t.Fatal(err)
		}
		at, err := c.logName(partOf)
		if err != nil {
			t.Fatal(err)
		}
		data, err := memory(c).Get(t.Context(), at, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		report, err := test.damage(t, c, at, slices.Clone(data)).PruneLog(t.Context(), PruneLogOptions{Now: time.Now().Add(2 * supersededFor)})
		if err != nil || report.Files != test.gone {
			t.Errorf("%s: %+v, error %v", test.reason, report, err)
		}
	}
}

// TestLogEnd says where a receiver goes on.
func TestLogEnd(t *testing.T) {
	names := []string{
		"000000010000000000000003", "000000010000000000000004", "000000010000000000000006", // one is missing
		"0000000100000000000000FF", "000000010000000100000000", PartName("000000010000000100000001", 0, 8192), "00000002.history",
	}
	at := func(t wal.Timeline, lsn wal.LSN) wal.Position { return wal.Position{LSN: lsn, Timeline: t} }
	for _, test := range []struct {
		reason     string
		more       []string
		from, want wal.Position
		ok         bool
	}{
		{"the newest is begun", nil, wal.Position{}, at(1, 0x101000000), true},
		{"a history alone is no log", nil, wal.Position{}, at(1, 0x101000000), true},
		{"the history of a backup alone is none either", []string{"000000010000000300000007.00000028.backup"}, wal.Position{}, at(1, 0x101000000), true},
		{"nor does it make a timeline", []string{"000000030000000300000007.00000028.backup"}, wal.Position{}, at(1, 0x101000000), true},
		{"the newest is whole", []string{"0000000100000002000000FF"}, wal.Position{}, at(1, 0x300000000), true},
		{"the newest timeline", []string{"000000020000000000000007"}, wal.Position{}, at(2, 0x8000000), true},
		{"the last log", []string{"00000001FFFFFFFF000000FE"}, wal.Position{}, at(1, 0xFFFFFFFFFF000000), true},
		{"from a slot on", nil, at(1, 0x3000028), at(1, 0x5000000), true},
		{"behind a gap", nil, at(1, 0x6000000), at(1, 0x7000000), true},
		{"across a number of the log", nil, at(1, 0xFF000000), at(1, 0x101000000), true},
		{"what the slot holds is not there", nil, at(1, 0x5000000), at(1, 0x5000000), false},
		{"nor of its timeline", nil, at(2, 0x3000000), at(2, 0x3000000), false},
	} {
		c := newCluster(t, false)
		for _, name := range append(slices.Clone(names), test.more...) {
			object, err := c.logName(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.repo.store.Create(t.Context(), object, []byte(name)); err != nil {
				t.Fatal(err)
			}
		}
		got, ok, err := c.LogEnd(t.Context(), wal.DefaultSegmentSize, test.from)
		if err != nil || got != test.want || ok != test.ok {
			t.Errorf("%s: %v, %v, %v; want %v, %v", test.reason, got, ok, err, test.want, test.ok)
		}
	}
	if got, ok, err := newCluster(t, false).LogEnd(t.Context(), wal.DefaultSegmentSize, wal.Position{}); ok || err != nil {
		t.Errorf("an empty repository: %v, %v", got, err)
	}
}

// TestPartsThatVanish has parts be removed while they are read, since the segment is there now: what was there is
// there, and that it is absent is not said.
func TestPartsThatVanish(t *testing.T) {
	content := forgedLog(5, rand.New(rand.NewPCG(1, 2)))
	for _, isWhole := range []bool{true, false} {
		c := newCluster(t, false)
		for _, p := range [][2]int64{{0, 10000}, {10000, 20000}} {
			if err := c.PushLog(t.Context(), PartName(partOf, p[0], p[1]), content[p[0]:p[1]], partSegment); err != nil {
				t.Fatal(err)
			}
		}
		store := memory(c)
		again := reopen(t, c, store)
		if isWhole {
			if err := again.PushLog(t.Context(), partOf, content, 0); err != nil {
				t.Fatal(err)
			}
		}
		at, err := c.logName(PartName(partOf, 10000, 20000))
		if err != nil {
			t.Fatal(err)
		}
		reader := reopen(t, c, &object.Failing{Store: store, Fail: func(ctx context.Context, call object.Call) object.Fault {
			if call.Method == object.CallGet && call.Name == at {
				if err := store.Delete(ctx, at); err != nil {
					t.Error(err)
				}
			}
			return object.None
		}})
		name, err := reader.LongestPartial(t.Context(), partOf)
		if err != nil {
			t.Fatal(err)
		}
		got, err := reader.Log(t.Context(), name)
		switch {
		case isWhole && (err != nil || !bytes.Equal(got, content[:20000])):
			t.Errorf("%d bytes, %v", len(got), err)
		case !isWhole && (err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(fmt.Sprint(err), "removed")):
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}
