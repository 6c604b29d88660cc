package chain_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/backup"
	"basin/internal/chain"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/plain"
)

// relation is what one backup of a chain has of a file: all of it, or some blocks.
type relation struct {
	whole      []byte // if blocks is nil
	truncation uint32
	blocks     map[uint32][]byte
}

// reconstruct makes a file of what the backups have of it, the newest last, block by block
// and in the plainest words.
//
// Source: reconstruct_from_incremental_file in src/bin/pg_combinebackup/reconstruct.c, PostgreSQL 18.
func reconstruct(chain []relation) []byte {
	newest := chain[len(chain)-1]
	if newest.blocks == nil {
		return newest.whole
	}
	length := newest.truncation
	for b := range newest.blocks {
		length = max(length, b+1)
	}
	var all []byte
	for b := range length {
		all = append(all, reconstructBlock(chain, b)...)
	}
	return all
}

func reconstructBlock(chain []relation, b uint32) []byte {
	newest := chain[len(chain)-1]
	for _, r := range slices.Backward(chain) {
		if r.blocks == nil {
			if end := int(b+1) * pgdata.PageSize; end <= len(r.whole) {
				return r.whole[end-pgdata.PageSize : end]
			}
			return page(0)
		}
		if content, ok := r.blocks[b]; ok {
			return content
		}
		if b >= newest.truncation {
			return page(0)
		}
	}
	panic("the oldest is not whole")
}

// randomRelation returns what a backup has of a file, of at most 16 blocks.
func randomRelation(random *rand.Rand, whole bool) relation {
	filled := func() []byte {
		p := page(byte(random.Uint32()))
		binary.LittleEndian.PutUint64(p, random.Uint64())
		return p
	}
	if whole {
		var r relation
		for range random.IntN(16) {
			r.whole = append(r.whole, filled()...)
		}
		if random.IntN(10) == 0 { // as of a file that is being extended
			r.whole = append(r.whole, "less than a page"...)
		}
		return r
	}
	r := relation{truncation: random.Uint32N(16), blocks: make(map[uint32][]byte)}
	first, step := random.Uint32N(16), 1+random.Uint32N(4)
	for b := first; b < 16 && random.IntN(12) > 0; b += step {
		r.blocks[b] = filled()
	}
	return r
}

// stored returns the name and the bytes of a relation in its backup.
func (r relation) stored(path string) (string, []byte) {
	if r.blocks == nil {
		return path, r.whole
	}
	return pgdata.IncrementalPath(path), incremental(r.truncation, slices.Sorted(maps.Keys(r.blocks)), func(b uint32) []byte { return r.blocks[b] })
}

// TestAgainstModel combines random chains and compares them with the model.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			testAgainstModel(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func testAgainstModel(t *testing.T, random *rand.Rand) {
	algorithms := []manifest.Algorithm{manifest.NoChecksum, manifest.CRC32C, manifest.SHA256}
	work := t.TempDir()
	history := make(map[string][]relation)
	var dirs []string
	var newest *testBackup
	want := make(map[string][]byte)
	for n := range 1 + random.IntN(7) {
		newest = newTestBackup(n)
		newest.algorithm = algorithms[random.IntN(len(algorithms))]
		want = newest.all()
		for i := range 8 {
			path := fmt.Sprintf("%s/%d", []string{"base/5", "global", spaceApart + "/PG_18/5", spaceInside + "/PG_18/5"}[i%4], i+1)
			isThere := len(history[path]) > 0
			if random.IntN(10) == 0 {
				delete(history, path) // dropped, and perhaps made again later
				continue
			}
			r := randomRelation(random, !isThere || random.IntN(4) == 0)
			history[path] = append(history[path], r)
			name, content := r.stored(path)
			newest.files[name], want[path] = content, reconstruct(history[path])
		}
		dirs = append(dirs, filepath.Join(work, fmt.Sprint(n)))
		newest.write(t, dirs[n])
	}
	full := *newest
	full.previous.Timeline = 0
	want[pgdata.LabelPath] = full.label()
	c := combination{
		Options: chain.Options{Checksums: algorithms[random.IntN(len(algorithms))], NoVerify: random.IntN(3) == 0, NoManifest: random.IntN(5) == 0},
		method:  []plain.CopyMethod{plain.CopyBytes, plain.CopyRange, plain.CopyLink}[random.IntN(3)],
		workers: 1 + random.IntN(4),
	}
	out := filepath.Join(work, "out")
	if warnings, err := c.combine(t.Context(), out, dirs...); err != nil || warnings != nil {
		t.Fatalf("%v, %q", err, warnings)
	}
	got := readFiles(t, out)
	list, hasManifest := got[manifest.Name]
	delete(got, manifest.Name)
	for path, content := range want {
		if !bytes.Equal(got[path], content) {
			t.Errorf("%s: %d bytes, not these %d", path, len(got[path]), len(content))
		}
		delete(got, path)
	}
	if len(got) > 0 {
		t.Errorf("there as well: %q", slices.Sorted(maps.Keys(got)))
	}
	if hasManifest == c.NoManifest {
		t.Errorf("a manifest: %v", hasManifest)
	}
	if hasManifest {
		checkManifest(t, list, want, newest.needs(), c.Checksums)
	}
}

// checkManifest fails the test unless a manifest is one of just these files.
func checkManifest(t *testing.T, list []byte, files map[string][]byte, needs manifest.Range, algorithm manifest.Algorithm) {
	t.Helper()
	want, got := make(map[string]manifest.File), make(map[string]manifest.File)
	for path, content := range files {
		want[path] = listedFile(path, content, algorithm)
	}
	m, err := manifest.Read(bytes.NewReader(list), func(f manifest.File) error {
		got[f.Path] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("manifest:\n%s", diff)
	}
	if diff := cmp.Diff(manifest.Manifest{Version: 2, SystemID: testSystem, Ranges: []manifest.Range{needs}}, m); diff != "" {
		t.Errorf("manifest:\n%s", diff)
	}
}

// counted is a backup that counts how often files are opened.
type counted struct {
	backup.Stored
	opened map[string]int
}

func (c counted) Open(tablespace uint32, path string) (*backup.StoredFile, error) {
	c.opened[c.Name(tablespace, path)]++
	return c.Stored.Open(tablespace, path)
}

// TestOpenedOnce sees that nothing is looked for when nothing is missing.
func TestOpenedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "0")
	b := newTestBackup(0)
	b.algorithm = manifest.CRC32C
	b.write(t, dir)
	c := counted{plain.OpenStored(dir, func(err error) { t.Error(err) }), make(map[string]int)}
	overlay, err := chain.New(t.Context(), []chain.Input{{Name: dir, Backup: c}}, chain.Options{Checksums: manifest.CRC32C})
	if err != nil {
		t.Fatal(err)
	}
	defer overlay.Close()
	spaces, err := overlay.Tablespaces()
	if err != nil {
		t.Fatal(err)
	}
	source := overlay.Source(chain.SourceOptions{DirMode: 0o700, FileMode: 0o600, Tablespaces: spaces})
	defer source.Close()
	if err := backup.Copy(t.Context(), backup.Nowhere{}, source, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{dir + "/" + manifest.Name: 1}
	for path := range b.all() {
		want[dir+"/"+path] = 1
	}
	want[dir+"/"+pgdata.ControlPath]++       // before all others too
	want[dir+"/"+pgdata.TablespaceMapPath]++ // is looked for
	if diff := cmp.Diff(want, c.opened); diff != "" {
		t.Error(diff)
	}
}
