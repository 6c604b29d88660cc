package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/wal"
)

// readTree reads the files of a backup.
func readTree(ctx context.Context, c *Cluster, id string) (tree, error) {
	commit, err := c.Backup(ctx, id)
	if err != nil {
		return nil, err
	}
	src := c.NewSource(commit, SourceOptions{})
	defer src.Close()
	if _, err := src.Begin(ctx); err != nil {
		return nil, err
	}
	read := make(tree)
	for {
		m, r, err := src.Next(ctx)
		if err == io.EOF {
			return read, nil
		}
		if err != nil {
			return nil, err
		}
		if m.Kind != backup.File {
			continue
		}
		if read[key{m.Tablespace, m.Path}], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

// whole makes a repository in which there is one object of each kind at least, and returns its backups.
func whole(t *testing.T, encrypted bool) (*Cluster, map[string]tree) {
	t.Helper()
	c := newCluster(t, encrypted)
	random := rng(3)
	page := func() []byte {
		p := make([]byte, BlockSize)
		for i := range p[:40] {
			p[i] = byte(random.IntN(256))
		}
		return p
	}
	now := tree{
		{path: "base/1"}: slices.Concat(page(), page(), make([]byte, 2*BlockSize), page(), []byte("the rest")),
		{path: "base/2"}: page(), {path: "PG_VERSION"}: []byte("18\n"), {path: "empty"}: nil,
		{path: "pg_wal/000000010000000000000001"}: page(),
		{path: "global/pg_control"}:               []byte("control"),
	}
	states := make(map[string]tree)
	first := take(t, c, now.clone(), random, SinkOptions{packSize: 2 * BlockSize})
	states[first.ID] = now.clone()
	now[key{path: "base/1"}] = slices.Concat(now[key{path: "base/1"}][:BlockSize], page(), now[key{path: "base/1"}][2*BlockSize:])
	delete(now, key{path: "base/2"})
	second := take(t, c, now, random, SinkOptions{Parent: first})
	states[second.ID] = now
	if err := c.PushLog(t.Context(), "00000002.history", []byte("1\t0/2000000\tno recovery target specified\n"), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Pin(t.Context(), Pin{Backup: first.ID, Note: "keep"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.takeLease(t.Context(), "19700101T000000Z-00000000", "", time.Now); err != nil {
		t.Fatal(err)
	}
	return c, states
}

// verify verifies a repository.
func verify(t *testing.T, c *Cluster, o VerifyOptions) (map[string]Damage, VerifyReport) {
	t.Helper()
	damages := make(map[string]Damage)
	report, err := c.Verify(t.Context(), o, func(d Damage) { damages[d.Object] = d })
	if err != nil {
		t.Fatal(err)
	}
	return damages, report
}

// with returns a copy of a store in which an object has another content.
func with(t *testing.T, store *object.Memory, name string, data []byte) *object.Memory {
	t.Helper()
	other := store.Clone()
	if err := other.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := other.Create(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
	return other
}

// TestAnyByte flips bytes of every object, cuts it and has it be gone: verify names it, and what is read of any backup is
// what it was, or an error.
func TestAnyByte(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypted %v", encrypted), func(t *testing.T) {
			t.Parallel()
			c, states := whole(t, encrypted)
			store := memory(c)
			if damages, report := verify(t, reopen(t, c, store.Clone()), VerifyOptions{}); len(damages) > 0 || report.Backups != 2 || report.Packs < 2 || report.Parts < 2 || report.Log != 1 {
				t.Fatalf("verify of what is whole: %+v, %v", report, damages)
			}
			kinds := make(map[string]bool)
			for info := range store.List(t.Context(), "", "") {
				if info.Name == infoName {
					continue
				}
				kinds[strings.Split(strings.TrimPrefix(info.Name, c.below("")), "/")[0]] = true
				data, err := store.Get(t.Context(), info.Name, 0, -1)
				if err != nil {
					t.Fatal(err)
				}
				check := func(what string, damaged []byte) {
					t.Helper()
					checkDamaged(t, c, with(t, store, info.Name, damaged), info.Name, what, states)
				}
				for i := int(info.Size) % 5; i < len(data); i += 5 {
					flipped := bytes.Clone(data)
					flipped[i] ^= 1 << (i % 8)
					check(fmt.Sprintf("byte %d of %d is another", i, len(data)), flipped)
				}
				for _, n := range []int{0, 1, seal.HeadSize - 1, seal.HeadSize, len(data) / 2, len(data) - 1} {
					check(fmt.Sprintf("%d bytes of %d", n, len(data)), data[:min(n, len(data)-1)])
				}
				check("a byte more", append(bytes.Clone(data), 0))
			}
			for _, kind := range []string{"backups", "facts", "leases", "packs", "parts", "wal"} {
				if !kinds[kind] {
					t.Errorf("no object of %s", kind)
				}
			}
		})
	}
}

// checkDamaged verifies and reads a repository of which an object is damaged.
func checkDamaged(t *testing.T, c *Cluster, store *object.Memory, name, what string, states map[string]tree) {
	t.Helper()
	damages, _ := verify(t, reopen(t, c, store), VerifyOptions{})
	damage, ok := damages[name]
	if !ok || damage.Err == nil {
		t.Errorf("%s: %s: verify says %v", name, what, damages)
	}
	for id, want := range states {
		read, err := readTree(t.Context(), reopen(t, c, store), id)
		if err == nil && !maps.EqualFunc(read, want, bytes.Equal) {
			t.Errorf("%s: %s: other bytes are read of backup %s", name, what, id)
		}
		if err != nil && !strings.HasPrefix(name, "keys/") && !slices.Contains(damage.Backups, id) {
			t.Errorf("%s: %s: backup %s cannot be read, and verify says %+v", name, what, id, damage)
		}
		if err == nil && (strings.Contains(name, "/parts/") && slices.Contains(damage.Backups, id) || strings.Contains(name, id)) {
			t.Errorf("%s: %s: backup %s was read", name, what, id)
		}
	}
}

// TestMissing has objects be gone.
func TestMissing(t *testing.T) {
	c, states := whole(t, true)
	store := memory(c)
	for info := range store.List(t.Context(), c.below(""), "") {
		without := store.Clone()
		if err := without.Delete(t.Context(), info.Name); err != nil {
			t.Fatal(err)
		}
		damages, _ := verify(t, reopen(t, c, without), VerifyOptions{})
		isNeeded := strings.Contains(info.Name, "/packs/") || strings.Contains(info.Name, "/parts/")
		d, named := damages[info.Name]
		if named != isNeeded {
			t.Errorf("%s is gone: %v", info.Name, damages)
		}
		for id := range states {
			if _, err := readTree(t.Context(), reopen(t, c, without), id); err != nil && isNeeded && (!slices.Contains(d.Backups, id) || len(d.Files)+len(d.Ranges) == 0) {
				t.Errorf("%s is gone: backup %s cannot be read, and verify says %+v", info.Name, id, d)
			}
		}
	}
}

// TestHeal has packs be damaged, and one gone: the backup that is made after verify is whole.
func TestHeal(t *testing.T) {
	c, states := whole(t, true)
	commits, err := c.Backups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parent := commits[len(commits)-1]
	store := memory(c)
	for i, name := range objects(t, c, "packs/") {
		if store = with(t, store, name, []byte("no pack")); i == 0 {
			if err := store.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	c = reopen(t, c, store)
	before := take(t, c, states[parent.ID], rng(1), SinkOptions{Parent: &parent})
	if _, err := readTree(t.Context(), c, before.ID); err == nil {
		t.Error("a backup is whole that needs packs that are not")
	}
	for range 2 {
		if damages, _ := verify(t, c, VerifyOptions{}); len(damages) < 2 {
			t.Errorf("damages %v", damages)
		}
	}
	if n := len(objects(t, c, "facts/damaged/")); n != 1 {
		t.Errorf("%d facts", n)
	}
	after := take(t, c, states[parent.ID], rng(1), SinkOptions{Parent: before})
	if read, err := readTree(t.Context(), c, after.ID); err != nil || !maps.EqualFunc(read, states[parent.ID], bytes.Equal) {
		t.Errorf("the backup after that is not whole: %v", err)
	}
	if damages, _ := verify(t, c, VerifyOptions{Backups: []string{after.ID}}); len(damages) > 0 {
		t.Errorf("damages %v", damages)
	}
}

// TestLogGap has a segment be missing that a backup needs.
func TestLogGap(t *testing.T) {
	c := newCluster(t, false)
	commit := take(t, c, tree{{path: "a"}: []byte("a")}, rng(1), SinkOptions{})
	damages, _ := verify(t, c, VerifyOptions{})
	name := c.below("wal/00000001/00000000/000000010000000000000001")
	d, ok := damages[name]
	if !ok || len(damages) != 1 || !slices.Equal(d.Backups, []string{commit.ID}) || !errors.Is(d.Err, fs.ErrNotExist) {
		t.Errorf("damages %v", damages)
	}
}

// TestLogPart has a part of a segment be there that a backup needs: it is damage if the backup ends behind it, or in a place
// that is not known.
func TestLogPart(t *testing.T) {
	const segment = "000000010000000000000001"
	for _, test := range []struct {
		reason string
		names  []string
		stop   wal.LSN // where the backup ends; zero is not known, as of an older one that is damaged
		ok     bool
	}{
		{"it ends in the middle", []string{PartialName(segment, 0x2000)}, 0x1002001, false},
		{"it leads there", []string{PartialName(segment, 0x2000)}, 0x1002000, true},
		{"the longest does", []string{PartialName(segment, 0x2000), PartialName(segment, 0x4000)}, 0x1004000, true},
		{"the longest does not", []string{PartialName(segment, 0x2000), PartialName(segment, 0x4000)}, 0x1005000, false},
		{"it is not known how long it is", []string{segment + ".partial"}, 0x1002000, false},
		{"it is not the last", []string{PartialName(segment, 0x2000), PartialName("000000010000000000000002", 0x2000)}, 0x2000100, false},
		{"it is not known where the backup ends", []string{PartialName(segment, 0x2000)}, 0, true},
	} {
		t.Run(test.reason, func(t *testing.T) {
			c := newCluster(t, false)
			commit := *take(t, c, tree{{path: "a"}: []byte("a")}, rng(1), SinkOptions{})
			end := cmp.Or(test.stop, 0x1002001)
			commit.ID = "other"
			commit.Stop, commit.Ranges = wal.Position{LSN: test.stop, Timeline: 1}, []manifest.Range{{Timeline: 1, Start: 0x1000028, End: end}}
			if err := c.putCommit(t.Context(), &commit); err != nil {
				t.Fatal(err)
			}
			for _, name := range test.names {
				at, err := c.logName(name)
				if err != nil {
					t.Fatal(err)
				}
				if err := c.repo.store.Create(t.Context(), at, []byte(name)); err != nil {
					t.Fatal(err)
				}
			}
			damages, _ := verify(t, c, VerifyOptions{Backups: []string{commit.ID}})
			if (len(damages) == 0) != test.ok {
				t.Errorf("damages %v", damages)
			}
			for name, d := range damages {
				if !strings.HasPrefix(name, c.below("wal/")) || d.Err == nil || !slices.Equal(d.Backups, []string{commit.ID}) {
					t.Errorf("damage %+v", d)
				}
			}
		})
	}
}

// TestVerifySample has a sample be verified again and again: in the end all packs were.
func TestVerifySample(t *testing.T) {
	c := newCluster(t, false)
	random := rng(1)
	content := make([]byte, 16*20*BlockSize)
	for i := range content {
		content[i] = byte(random.IntN(256))
	}
	take(t, c, tree{{path: "a"}: content, {path: "pg_wal/000000010000000000000001"}: nil}, random, SinkOptions{packSize: 2 * BlockSize})
	packs := objects(t, c, "packs/")
	damaged := with(t, memory(c), packs[len(packs)-1], []byte("no pack"))
	c = reopen(t, c, damaged)
	begun := time.Now()
	found := 0
	for i := range 4 {
		damages, report := verify(t, c, VerifyOptions{Sample: 0.25, Now: begun.Add(time.Duration(i) * time.Hour)})
		if report.Packs != (len(packs)+3)/4 {
			t.Errorf("%d packs of %d were read", report.Packs, len(packs))
		}
		found += len(damages)
		if n := len(objects(t, c, "facts/verified/")); n != 1 {
			t.Errorf("%d facts", n)
		}
	}
	if found == 0 {
		t.Error("the damaged pack was not found")
	}
}

// TestVerifyOutOfReach has the store fail while it is verified: that is no damage.
func TestVerifyOutOfReach(t *testing.T) {
	c, _ := whole(t, true)
	for k := 1; ; k++ {
		store := &cut{Store: memory(c)}
		other := reopen(t, c, store)
		store.count, store.at = 0, k
		_, err := other.Verify(t.Context(), VerifyOptions{Workers: 1}, func(d Damage) { t.Errorf("operation %d failed: %+v", k, d) })
		if store.count < k {
			if err != nil {
				t.Error(err)
			}
			return
		}
		if !errors.Is(err, errCut) {
			t.Errorf("operation %d failed: %v", k, err)
		}
	}
}
