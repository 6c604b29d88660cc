package repo

import (
	"math/rand/v2"
	"testing"
)

// TestSpillsAreFew gathers blocks in no order, with little memory: the files that they wait in stay few, as a part of
// each is in memory when they are merged, and they come back in order, each once.
func TestSpillsAreFew(t *testing.T) {
	t.Parallel()
	const files, blocks, memory = 50, 600, 8 << 10
	r := runs{dir: t.TempDir(), most: memory}
	defer r.close()
	most := 0
	for _, n := range rand.New(rand.NewPCG(1, 1)).Perm(files * blocks) {
		k := key{path: string(rune('A' + n/blocks))}
		at := int64(n % blocks)
		x := extent{first: at, blocks: []block{{crc: uint32(n)}}, at: location{pack: PackID{1}, frame: at / 16, length: 1, within: uint32(at % 16 * BlockSize)}}
		if err := r.add(group{key: k, extents: []extent{x}}); err != nil {
			t.Fatal(err)
		}
		most = max(most, len(r.spills))
	}
	spilled := files * blocks * groupMemory(group{key: key{path: "A"}, extents: []extent{{blocks: make([]block, 1)}}}) / memory
	if limit := 3 * spillsMerged; most > limit || spilled < 10*limit {
		t.Errorf("%d files at once of %d, want %d at most", most, spilled, limit)
	}
	n := 0
	err := r.each(t.Context(), func(g group) error {
		k, at := key{path: string(rune('A' + n/blocks))}, int64(n%blocks)
		for _, x := range g.extents {
			if g.key != k || x.first != at || len(x.blocks) != 1 && x.first+int64(len(x.blocks)) > blocks {
				t.Fatalf("block %d of file %v, want %d of %v", x.first, g.key, at, k)
			}
			for _, b := range x.blocks {
				if b.crc != uint32(n) {
					t.Fatalf("block %d of file %v is another one", n%blocks, k)
				}
				n++
			}
		}
		return nil
	})
	if err != nil || n != files*blocks {
		t.Errorf("%d blocks, %v, want %d", n, err, files*blocks)
	}
}
