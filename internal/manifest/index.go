package manifest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
)

// Index is the files of a manifest, to be looked up by path. It takes about 15 bytes a
// file beside its path and checksum, and has next to no pointers, so that it costs
// nothing to collect garbage beside it.
type Index struct {
	seed   maphash.Seed
	places []uint32 // of records, in the order in which they were added
	table  []uint32 // by hash of the path: number of the record, from one on; zero is free
	chunks [][]byte // records, one after the other

	// A record is the length of the path, the path, the size, the algorithm, the length of
	// the checksum and the checksum. Lengths of paths and sizes are varints. Its place is
	// the number of the chunk and where in that it begins, 16 bits each.
}

// chunkSize is of one chunk, in bytes. A record is at most as long, and does not cross from
// one to the next.
const chunkSize = 1 << 16

// maxChunks is how many there are places for.
const maxChunks = 1 << 16

// Add adds a file. That its path is there already is an error.
func (x *Index) Add(f File) error {
	if len(x.table) == 0 {
		x.seed = maphash.MakeSeed()
	}
	if 4*(len(x.places)+1) > 3*len(x.table) {
		x.grow()
	}
	slot, found := x.find(f.Path)
	if found {
		return fmt.Errorf("duplicate path name in backup manifest: \"%s\"", f.Path)
	}
	n := len(f.Path) + len(f.Checksum) + 2*binary.MaxVarintLen64 + 2 // at most
	if n > chunkSize || len(f.Checksum) > 255 {
		return fmt.Errorf("path name or checksum in backup manifest is too long: %d bytes", len(f.Path)+len(f.Checksum))
	}
	if last := len(x.chunks) - 1; last < 0 || len(x.chunks[last])+n > chunkSize {
		if len(x.chunks) == maxChunks {
			return errors.New("backup manifest has too many files")
		}
		x.chunks = append(x.chunks, make([]byte, 0, chunkSize))
	}
	last := len(x.chunks) - 1
	chunk := x.chunks[last]
	x.places = append(x.places, uint32(last<<16|len(chunk)))
	chunk = append(binary.AppendUvarint(chunk, uint64(len(f.Path))), f.Path...)
	chunk = binary.AppendUvarint(chunk, uint64(f.Size))
	chunk = append(chunk, byte(f.Algorithm), byte(len(f.Checksum)))
	x.chunks[last] = append(chunk, f.Checksum...)
	x.table[slot] = uint32(len(x.places))
	return nil
}

// Len returns how many files there are.
func (x *Index) Len() int { return len(x.places) }

// At returns the file of a number, which is less than Len, in the order in which they
// were added. The checksum is the index's own.
func (x *Index) At(i int) File {
	path, rest := x.path(i)
	size, n := binary.Uvarint(rest)
	rest = rest[n:]
	return File{Path: string(path), Size: int64(size), Algorithm: Algorithm(rest[0]), Checksum: rest[2 : 2+int(rest[1])]}
}

// path returns the path of a file, and what follows it.
func (x *Index) path(i int) (path, rest []byte) {
	place := x.places[i]
	record := x.chunks[place>>16][place&0xffff:]
	length, n := binary.Uvarint(record)
	return record[n:][:length], record[n+int(length):]
}

// Find returns the number of a file.
func (x *Index) Find(path string) (i int, found bool) {
	if len(x.places) == 0 {
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
		if other, _ := x.path(int(x.table[slot]) - 1); string(other) == path {
			return slot, true
		}
	}
	return slot, false
}

// grow makes room in the table.
func (x *Index) grow() {
	x.table = make([]uint32, max(2*len(x.table), 256))
	for i := range x.places {
		path, _ := x.path(i)
		slot, _ := x.find(string(path))
		x.table[slot] = uint32(i + 1)
	}
}
