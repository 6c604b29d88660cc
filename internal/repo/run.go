package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"math"
	"os"
	"slices"

	"basin/internal/localfs"
)

const (
	// partSize is how large the content of a part is, about, in bytes.
	partSize = 1 << 20
	// runMemory is how much of the groups that come unsorted is held in memory, in bytes.
	runMemory = 16 << 20
	// groupExtents is how many extents one group has at most.
	groupExtents = 256
)

// levelWriter makes a level of groups that come in order. Groups of one file that follow each
// other become one, and extents that lie together too.
type levelWriter struct {
	// put keeps the content of a part, which begins with a file.
	put   func(content []byte, first key) error
	part  encoder
	group group
	some  bool // there is a group
}

// add takes the next group, which is the writer's from now on.
func (w *levelWriter) add(g group) error {
	if w.some && w.group.key == g.key && w.group.member == nil && g.member == nil && w.group.fresh == g.fresh &&
		len(w.group.extents)+len(g.extents) <= groupExtents {
		for _, x := range g.extents {
			w.group.extents = appendExtent(w.group.extents, x)
		}
		return nil
	}
	if err := w.end(); err != nil {
		return err
	}
	w.group, w.some = g, true
	return nil
}

// appendExtent appends an extent, or makes the last one longer.
func appendExtent(to []extent, x extent) []extent {
	if n := len(to); n > 0 {
		if last := &to[n-1]; follows(*last, x) {
			last.blocks = append(slices.Clip(last.blocks), x.blocks...)
			return to
		}
	}
	return append(to, x)
}

// follows says whether two extents can be one.
func follows(a, b extent) bool {
	if a.end() != b.first || a.isZeros() != b.isZeros() || len(a.blocks)+len(b.blocks) > maxBlocks {
		return false
	}
	return a.isZeros() || a.at.pack == b.at.pack && a.at.frame == b.at.frame &&
		a.at.within+uint32(len(a.blocks)*BlockSize) == b.at.within
}

// end ends the group in hand.
func (w *levelWriter) end() error {
	if !w.some {
		return nil
	}
	w.part.add(w.group)
	w.some = false
	if w.part.size() < partSize {
		return nil
	}
	return w.cut()
}

// cut ends the part in hand.
func (w *levelWriter) cut() error {
	first := w.part.first
	return w.put(w.part.finish(), first)
}

// finish ends the level.
func (w *levelWriter) finish() error {
	if err := w.end(); err != nil || w.part.count == 0 {
		return err
	}
	return w.cut()
}

// runs takes groups in any order, and yields them in that of their files and blocks. What is
// too much for memory is in a temporary file meanwhile.
type runs struct {
	dir    string // of the temporary file; empty is the system's
	file   *os.File
	end    int64 // of the file
	groups []group
	memory int // bytes of those, about
	levels []Level
	places map[ID]place // in the file, of parts
	count  uint64
}

// place is where a part is in a file.
type place struct{ at, size int64 }

// add takes a group.
func (r *runs) add(g group) error {
	r.groups = append(r.groups, g)
	r.memory += groupMemory(g)
	if r.memory < runMemory {
		return nil
	}
	return r.spill()
}

// groupMemory is how many bytes a group takes, about.
func groupMemory(g group) int {
	n := 160 + len(g.key.path)
	for _, x := range g.extents {
		n += 96 + 12*len(x.blocks)
	}
	return n
}

// sort sorts what is in memory.
func (r *runs) sort() {
	slices.SortStableFunc(r.groups, compareGroups)
}

// compareGroups orders groups by their files and first blocks.
func compareGroups(a, b group) int {
	return cmp.Or(a.key.compare(b.key), cmp.Compare(firstBlock(a), firstBlock(b)))
}

func firstBlock(g group) int64 {
	if len(g.extents) == 0 {
		return -1
	}
	return g.extents[0].first
}

// spill writes what is in memory to the file.
func (r *runs) spill() error {
	if r.file == nil {
		var err error
		if r.file, err = localfs.TempFile(r.dir); err != nil {
			return err
		}
		r.places = make(map[ID]place)
	}
	r.sort()
	var level Level
	w := levelWriter{put: func(content []byte, first key) error {
		r.count++
		var id ID
		binary.LittleEndian.PutUint64(id[:], r.count)
		if _, err := r.file.WriteAt(content, r.end); err != nil {
			return err
		}
		r.places[id] = place{r.end, int64(len(content))}
		r.end += int64(len(content))
		level = append(level, PartRef{ID: id, Tablespace: first.tablespace, Path: []byte(first.path)})
		return nil
	}}
	for _, g := range r.groups {
		if err := w.add(g); err != nil {
			return err
		}
	}
	if err := w.finish(); err != nil {
		return err
	}
	r.levels = append(r.levels, level)
	clear(r.groups)
	r.groups, r.memory = r.groups[:0], 0
	return nil
}

// part reads a part from the file. It is a partSource.
func (r *runs) part(_ context.Context, ref PartRef) (*part, error) {
	p := r.places[ref.ID]
	content := make([]byte, p.size)
	if _, err := io.ReadFull(io.NewSectionReader(r.file, p.at, p.size), content); err != nil {
		return nil, err
	}
	return parsePart(content)
}

// each yields all groups in order. Nothing may be added any more.
func (r *runs) each(ctx context.Context, yield func(group) error) error {
	r.sort()
	cursors := (&index{parts: r}).cursors(r.levels)
	for {
		var least *group
		from := -1
		if len(r.groups) > 0 {
			least = &r.groups[0]
		}
		for i, c := range cursors {
			g, err := c.peek(ctx)
			if err != nil {
				return err
			}
			if g != nil && (least == nil || compareGroups(*g, *least) < 0) {
				least, from = g, i
			}
		}
		switch {
		case least == nil:
			return nil
		case from < 0:
			r.groups = r.groups[1:]
		default:
			cursors[from].advance()
		}
		if err := yield(*least); err != nil {
			return err
		}
	}
}

// close lets go of the file.
func (r *runs) close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// unlimited is a number of blocks that no file has.
const unlimited = math.MaxInt64
