package manifest

import (
	"fmt"
	"hash/maphash"
)

// Index is the files of a manifest, to be looked up by path. It takes about 30 bytes a
// file beside its path and checksum.
type Index struct {
	seed    maphash.Seed
	entries []entry
	table   []uint32 // by hash of the path: number of the entry, from one on; zero is free
	chunks  [][]byte // paths and checksums, one after the other
}

type entry struct {
	size      int64
	chunk     uint32 // paths and checksums do not cross from one to the next
	at        uint32
	path      uint16 // length
	checksum  uint8  // length, behind the path
	algorithm Algorithm
}

// chunkSize is of one chunk, in bytes. A path is at most as long.
const chunkSize = 64 << 10

// Add adds a file. That its path is there already is an error.
func (x *Index) Add(f File) error {
	if len(x.table) == 0 {
		x.seed = maphash.MakeSeed()
	}
	if 4*(len(x.entries)+1) > 3*len(x.table) {
		x.grow()
	}
	slot, found := x.find(f.Path)
	if found {
		return fmt.Errorf("duplicate path name in backup manifest: \"%s\"", f.Path)
	}
	n := len(f.Path) + len(f.Checksum)
	if n >= chunkSize || len(f.Checksum) > 255 {
		return fmt.Errorf("path name or checksum in backup manifest is too long: %d bytes", n)
	}
	if last := len(x.chunks) - 1; last < 0 || len(x.chunks[last])+n > chunkSize {
		x.chunks = append(x.chunks, make([]byte, 0, chunkSize))
	}
	chunk := &x.chunks[len(x.chunks)-1]
	x.entries = append(x.entries, entry{
		size: f.Size, algorithm: f.Algorithm, path: uint16(len(f.Path)), checksum: uint8(len(f.Checksum)),
		chunk: uint32(len(x.chunks) - 1), at: uint32(len(*chunk)),
	})
	*chunk = append(append(*chunk, f.Path...), f.Checksum...)
	x.table[slot] = uint32(len(x.entries))
	return nil
}

// Len returns how many files there are.
func (x *Index) Len() int { return len(x.entries) }

// At returns the file of a number, which is less than Len, in the order in which they
// were added. The checksum is the index's own.
func (x *Index) At(i int) File {
	e := x.entries[i]
	p := x.chunks[e.chunk][e.at:]
	return File{
		Path: string(p[:e.path]), Size: e.size, Algorithm: e.algorithm,
		Checksum: p[e.path : int(e.path)+int(e.checksum)],
	}
}

// Find returns the number of a file.
func (x *Index) Find(path string) (i int, found bool) {
	if len(x.entries) == 0 {
		return 0, false
	}
	slot, found := x.find(path)
	if !found {
		return 0, false
	}
	return int(x.table[slot]) - 1, true
}

// find returns where in the table a path is, or where there is room for it.
func (x *Index) find(path string) (slot int, found bool) {
	mask := len(x.table) - 1
	for slot = int(maphash.String(x.seed, path)) & mask; x.table[slot] != 0; slot = (slot + 1) & mask {
		e := x.entries[x.table[slot]-1]
		if int(e.path) == len(path) && string(x.chunks[e.chunk][e.at:][:e.path]) == path {
			return slot, true
		}
	}
	return slot, false
}

// grow makes room in the table.
func (x *Index) grow() {
	x.table = make([]uint32, max(2*len(x.table), 256))
	for i := range x.entries {
		slot, _ := x.find(x.At(i).Path)
		x.table[slot] = uint32(i + 1)
	}
}
