// Package lookup knows how to find where things with names lie in a file, in memory that
// does not depend on how many there are: what is too much for it goes to a file of its own.
//
// It does not know what lies there. A name is kept as a hash of it, so that what is found
// is to be looked at.
package lookup

import (
	"cmp"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"os"
	"slices"
	"sort"
)

const (
	runEntries   = 256 << 10 // kept in memory before they are written to the file: 4 MiB
	blockEntries = 256       // read at once from the file
	entrySize    = 16        // bytes in the file
)

// Table holds offsets by name. Its memory is at most 4 MiB, twice that while it is filled,
// and a 500th of what is in its file, which has no name and has 16 bytes for each thing. It is filled first and then searched,
// which several may do at once.
type Table struct {
	dir    string
	seed   maphash.Seed
	recent []entry // in memory, sorted once the table is finished
	runs   []run   // in the file
	file   *os.File
}

// entry is where one thing lies.
type entry struct {
	hash   uint64
	offset int64
}

// run is a number of entries in the file, sorted by their hashes.
type run struct {
	start   int64 // in bytes
	entries int
	first   []uint64 // hash of the first entry of each block
}

// New returns an empty table. Its file, if there is to be one, is made in dir.
func New(dir string) *Table { return &Table{dir: dir, seed: maphash.MakeSeed()} }

// Add adds the offset of what has a name. Two of one name are both kept.
func (t *Table) Add(name string, offset int64) error {
	t.recent = append(t.recent, entry{maphash.String(t.seed, name), offset})
	if len(t.recent) < runEntries {
		return nil
	}
	return t.spill()
}

// Finish is to be called after the last Add and before the first Find.
func (t *Table) Finish() {
	sortEntries(t.recent)
	t.recent = slices.Clone(t.recent) // of which no more is held than is needed
}

func sortEntries(entries []entry) {
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Compare(a.hash, b.hash) })
}

// spill writes what is in memory to the file, as a run.
func (t *Table) spill() error {
	if t.file == nil {
		f, err := os.CreateTemp(t.dir, ".basin-lookup-*")
		if err != nil {
			return err
		}
		t.file = f
		if err := os.Remove(f.Name()); err != nil {
			return errors.Join(err, t.Close())
		}
	}
	sortEntries(t.recent)
	r := run{entries: len(t.recent)}
	for _, last := range t.runs {
		r.start += int64(last.entries) * entrySize
	}
	content := make([]byte, 0, entrySize*len(t.recent))
	for i, e := range t.recent {
		if i%blockEntries == 0 {
			r.first = append(r.first, e.hash)
		}
		content = binary.LittleEndian.AppendUint64(content, e.hash)
		content = binary.LittleEndian.AppendUint64(content, uint64(e.offset))
	}
	if _, err := t.file.WriteAt(content, r.start); err != nil {
		return err
	}
	t.runs = append(t.runs, r)
	t.recent = t.recent[:0]
	return nil
}

// Find returns the offsets of what may have a name: all that have, and hardly ever one
// that has not.
func (t *Table) Find(name string) ([]int64, error) {
	hash := maphash.String(t.seed, name)
	i, _ := slices.BinarySearchFunc(t.recent, hash, func(e entry, hash uint64) int { return cmp.Compare(e.hash, hash) })
	var found []int64
	for ; i < len(t.recent) && t.recent[i].hash == hash; i++ {
		found = append(found, t.recent[i].offset)
	}
	for _, r := range t.runs {
		offsets, err := t.findIn(r, hash)
		if err != nil {
			return nil, err
		}
		found = append(found, offsets...)
	}
	return found, nil
}

// findIn searches a run. Entries of one hash may go on into the next block.
func (t *Table) findIn(r run, hash uint64) (found []int64, err error) {
	block := max(0, sort.Search(len(r.first), func(i int) bool { return r.first[i] >= hash })-1)
	buf := make([]byte, blockEntries*entrySize)
	for ; block < len(r.first) && r.first[block] <= hash; block++ {
		n := min(blockEntries, r.entries-block*blockEntries)
		if _, err := t.file.ReadAt(buf[:n*entrySize], r.start+int64(block)*blockEntries*entrySize); err != nil {
			return nil, err
		}
		for e := range slices.Chunk(buf[:n*entrySize], entrySize) {
			if binary.LittleEndian.Uint64(e) == hash {
				found = append(found, int64(binary.LittleEndian.Uint64(e[8:])))
			}
		}
	}
	return found, nil
}

// Close lets go of the file.
func (t *Table) Close() error {
	if t.file == nil {
		return nil
	}
	f := t.file
	t.file = nil
	return f.Close()
}
