package repo

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"basin/internal/seal"
)

// asWriter returns the cluster as a host has it that has no private key, and in another process each time; kept are the
// keys that it keeps.
func asWriter(t *testing.T, c *Cluster, kept map[seal.KeyID]seal.Key) *Cluster {
	t.Helper()
	r, err := Open(t.Context(), c.repo.store, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var keys []seal.Key
	for _, key := range kept {
		keys = append(keys, key)
	}
	r.KeepIndex(keys, func(key seal.Key) { kept[key.ID] = key })
	writer, err := r.Cluster(c.name.Name, c.name.SystemID)
	if err != nil {
		t.Fatal(err)
	}
	return writer
}

// randomPages returns a function that returns so many pages, others each time.
func randomPages() func(n int) []byte {
	random := rng(7)
	return func(n int) []byte {
		b := make([]byte, n*BlockSize)
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		return b
	}
}

// TestWriterStoresWhatChanged has a host without the private key take backups: each stores what has changed since the one before, heeds
// what prune has told, and what is stored is not to be read there. Without what it keeps it stores all.
func TestWriterStoresWhatChanged(t *testing.T) {
	c := newCluster(t, true)
	pages := randomPages()
	first := tree{{path: "base/1/2"}: pages(100), {path: "global/pg_control"}: []byte("c")}
	kept := make(map[seal.KeyID]seal.Key)
	parentOf := func(writer *Cluster, id string) *Commit {
		t.Helper()
		commit, err := writer.Backup(t.Context(), id)
		if err == nil {
			err = writer.CheckParent(t.Context(), commit)
		}
		if err != nil {
			t.Fatal(err)
		}
		return &commit
	}
	one := take(t, asWriter(t, c, kept), first, rng(1), SinkOptions{})
	if len(kept) != 1 {
		t.Fatalf("%d keys are kept", len(kept))
	}
	second := tree{{path: "base/1/2"}: append(append([]byte{}, first[key{path: "base/1/2"}][:30*BlockSize]...), pages(70)...), {path: "global/pg_control"}: []byte("d")}
	writer := asWriter(t, c, kept)
	two := take(t, writer, second, rng(1), SinkOptions{Parent: parentOf(writer, one.ID)})
	if two.Stored > 75*BlockSize || two.DigestKey != one.DigestKey {
		t.Errorf("%d bytes were stored for 70 pages", two.Stored)
	}
	// Who has what it keeps reads no page.
	writer = asWriter(t, c, kept)
	files, err := writer.Files(t.Context(), *parentOf(writer, two.ID))
	if err != nil {
		t.Fatal(err)
	}
	file, err := files.Open(t.Context(), 0, "base/1/2")
	if err != nil || file.Size != 100*BlockSize {
		t.Fatalf("%v of a file are told, %v", file, err)
	}
	if _, err := file.ReadAt(make([]byte, BlockSize), 0); !errors.Is(err, ErrNoKey) {
		t.Errorf("a page was read: %v", err)
	}
	// What another host has made, and what was made before the keys were lost, is not to be read.
	if _, err := asWriter(t, c, make(map[seal.KeyID]seal.Key)).Backup(t.Context(), two.ID); !errors.Is(err, ErrNoKey) {
		t.Errorf("without keys: %v", err)
	}
	old := maps.Clone(kept)
	delete(old, one.DigestKey)
	writer = asWriter(t, c, old)
	if commit, err := writer.Backup(t.Context(), two.ID); err != nil {
		t.Error(err)
	} else if err := writer.CheckParent(t.Context(), commit); !errors.Is(err, ErrNoKey) {
		t.Errorf("without the key of digests: %v", err)
	}
	// What prune tells of packs is heeded: those of the first backup are needed no more in the end.
	if err := c.Forget(t.Context(), one.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	if report := prune(t, c, PruneOptions{}); report.Thin == 0 {
		t.Errorf("prune has told of no pack: %+v", report)
	}
	writer = asWriter(t, c, kept)
	three := take(t, writer, second, rng(1), SinkOptions{Parent: parentOf(writer, two.ID)})
	if three.Stored < 25*BlockSize || three.Stored > 40*BlockSize {
		t.Errorf("%d bytes were stored for 30 pages in a pack that is mostly of no use", three.Stored)
	}
	compare(t, c, two.ID, second)
	compare(t, c, three.ID, second)
	if err := c.Forget(t.Context(), two.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	if report := prune(t, c, PruneOptions{Now: time.Now().Add(time.Hour)}); report.Packs == 0 {
		t.Errorf("prune has removed no pack: %+v", report)
	}
	compare(t, c, three.ID, second)
	// So is a pack that was found damaged.
	packs := objects(t, c, "packs/")
	damaged := reopen(t, c, with(t, memory(c), packs[len(packs)-1], []byte("no pack")))
	if _, err := damaged.Verify(t.Context(), VerifyOptions{}, func(Damage) {}); err != nil {
		t.Fatal(err)
	}
	writer = asWriter(t, damaged, kept)
	four := take(t, writer, second, rng(1), SinkOptions{Parent: parentOf(writer, three.ID)})
	compare(t, damaged, four.ID, second)
	verified := 0
	if _, err := damaged.Verify(t.Context(), VerifyOptions{Backups: []string{four.ID}}, func(d Damage) {
		if !strings.Contains(d.Object, "/wal/") { // there is no log
			verified++
		}
	}); err != nil || verified > 0 {
		t.Errorf("%d damages of the new backup: %v", verified, err)
	}
}

// TestWriterReadsOldFacts has a fact of packs be encrypted, as an older program did it: prune writes it so that hosts without the private key
// can read it.
func TestWriterReadsOldFacts(t *testing.T) {
	for _, kind := range []string{factThin, factDamaged} {
		c := newCluster(t, true)
		kept := make(map[seal.KeyID]seal.Key)
		one := take(t, asWriter(t, c, kept), tree{{path: "a"}: []byte("a"), {path: "global/pg_control"}: []byte("c")}, rng(1), SinkOptions{})
		putEncrypted(t, c, kind, PackID{2})
		check := func() error {
			writer := asWriter(t, c, kept)
			commit, err := writer.Backup(t.Context(), one.ID)
			if err != nil {
				t.Fatal(err)
			}
			return writer.CheckParent(t.Context(), commit)
		}
		if err := check(); !errors.Is(err, ErrNoKey) {
			t.Errorf("a fact of %s packs: %v", kind, err)
		}
		prune(t, c, PruneOptions{})
		if err := check(); err != nil {
			t.Errorf("a fact of %s packs, behind prune: %v", kind, err)
		}
		if avoided, err := c.avoided(t.Context()); err != nil || avoided[PackID{2}] != (kind == factDamaged) {
			t.Errorf("avoided are %v, %v", avoided, err)
		}
	}
}

// putEncrypted keeps a fact of a pack as an older program did.
func putEncrypted(t *testing.T, c *Cluster, kind string, id PackID) {
	t.Helper()
	key, err := c.repo.packKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name := c.below("facts/" + kind + "/" + ID{2}.String())
	box, err := seal.NewBox(kindFact, name, key)
	if err != nil {
		t.Fatal(err)
	}
	packer, err := smallPacker()
	if err != nil {
		t.Fatal(err)
	}
	content := packer.Pack(nil, fmt.Appendf(nil, `{"packs":["%v"]}`, id))
	if err := c.repo.store.Create(t.Context(), name, box.Seal(slices.Clone(box.Head()), content, seal.HeadSize)); err != nil {
		t.Fatal(err)
	}
}

// TestWritersAreThinned has two hosts without the private key take backups by turns: packs of both are told of, and not of the one that was last alone.
func TestWritersAreThinned(t *testing.T) {
	c := newCluster(t, true)
	pages := randomPages()
	one, other := make(map[seal.KeyID]seal.Key), make(map[seal.KeyID]seal.Key)
	first := tree{{path: "base/1/2"}: pages(100), {path: "global/pg_control"}: []byte("c")}
	second := tree{{path: "base/1/2"}: append(slices.Clone(first[key{path: "base/1/2"}][:30*BlockSize]), pages(70)...), {path: "global/pg_control"}: []byte("d")}
	full := take(t, asWriter(t, c, one), first, rng(1), SinkOptions{})
	writer := asWriter(t, c, one)
	parent, err := writer.Backup(t.Context(), full.ID)
	if err != nil {
		t.Fatal(err)
	}
	take(t, writer, second, rng(1), SinkOptions{Parent: &parent})
	take(t, asWriter(t, c, other), second, rng(1), SinkOptions{})
	if err := c.Forget(t.Context(), full.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	if report := prune(t, c, PruneOptions{}); report.Thin != 1 {
		t.Errorf("%d packs are told of, and of one 30 of 100 pages are in use", report.Thin)
	}
}
