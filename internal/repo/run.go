package repo

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
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
	// spillPartSize is how large the content of a part is, about, that waits in a temporary file: one of each
	// spill is in memory when they are merged.
	spillPartSize = 128 << 10
	// spillsMerged is how many spills of one size become one.
	spillsMerged = 16
)

// levelWriter makes a level of groups that come in order. Groups of one file that follow each
// other become one, and extents that lie together too.
type levelWriter struct {
	// put keeps the content of a part, which begins with a file.
	put   func(content []byte, first key) error
	size  int // of a part, about, in bytes; zero is partSize
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
	if w.part.size() < cmp.Or(w.size, partSize) {
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
// too much for memory is in temporary files meanwhile, of which there are few: many of one size are merged.
type runs struct {
	dir    string // of the temporary files; empty is the system's
	most   int    // bytes of groups that are held in memory; zero is runMemory
	groups []group
	memory int // bytes of those, about
	spills []*spill
}

// spill is sorted groups in a temporary file.
type spill struct {
	file  *os.File
	end   int64 // of the file
	level Level
	at    []int64 // where parts begin in the file; their numbers are their identifiers
	tier  int     // how often what is in it was merged
}

// add takes a group.
func (r *runs) add(g group) error {
	r.groups = append(r.groups, g)
	r.memory += groupMemory(g)
	if r.memory < cmp.Or(r.most, runMemory) {
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

// spill writes what is in memory to a file.
func (r *runs) spill() error {
	r.sort()
	err := r.keep(0, func(yield func(group) error) error {
		for _, g := range r.groups {
			if err := yield(g); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	clear(r.groups)
	r.groups, r.memory = r.groups[:0], 0
	for r.isCrowded() {
		if err := r.merge(); err != nil {
			return err
		}
	}
	return nil
}

// keep makes a spill of groups that each yields in order.
func (r *runs) keep(tier int, each func(yield func(group) error) error) error {
	file, err := localfs.TempFile(r.dir)
	if err != nil {
		return err
	}
	s := &spill{file: file, tier: tier}
	w := levelWriter{put: s.put, size: spillPartSize}
	if err := each(w.add); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := w.finish(); err != nil {
		return errors.Join(err, file.Close())
	}
	r.spills = append(r.spills, s)
	return nil
}

// isCrowded says whether the last spills are as many of one size as become one.
func (r *runs) isCrowded() bool {
	n := len(r.spills)
	return n >= spillsMerged && r.spills[n-spillsMerged].tier == r.spills[n-1].tier
}

// merge makes one of the last spills.
func (r *runs) merge() error {
	from := len(r.spills) - spillsMerged
	merged := r.spills[from:]
	r.spills = slices.Clone(r.spills[:from])
	err := r.keep(merged[0].tier+1, func(yield func(group) error) error {
		return eachOf(context.Background(), merged, nil, yield) // that of add, which has none, is of the computer's own files
	})
	for _, s := range merged {
		err = errors.Join(err, s.file.Close())
	}
	return err
}

// put appends a part.
func (s *spill) put(content []byte, first key) error {
	var id ID
	binary.LittleEndian.PutUint64(id[:], uint64(len(s.at)))
	if _, err := s.file.WriteAt(content, s.end); err != nil {
		return err
	}
	s.at = append(s.at, s.end)
	s.end += int64(len(content))
	s.level = append(s.level, PartRef{ID: id, Tablespace: first.tablespace, Path: []byte(first.path), Size: int64(len(content))})
	return nil
}

// part reads a part from the file. It is a partSource.
func (s *spill) part(_ context.Context, ref PartRef) (*part, error) {
	content := make([]byte, ref.Size)
	if _, err := s.file.ReadAt(content, s.at[binary.LittleEndian.Uint64(ref.ID[:])]); err != nil {
		return nil, err
	}
	return parsePart(content)
}

// each yields all groups in order, of at most one extent each. Nothing may be added any more.
func (r *runs) each(ctx context.Context, yield func(group) error) error {
	r.sort()
	return eachOf(ctx, r.spills, r.groups, yield)
}

// spillCursor goes over the groups of a spill, cut into such as have one extent at most.
type spillCursor struct {
	cursor
	extent int // of the group
}

// peek returns the group that the cursor is at, nil at the end.
func (c *spillCursor) peek(ctx context.Context) (*group, error) {
	g, err := c.cursor.peek(ctx)
	if err != nil || g == nil || len(g.extents) < 2 {
		return g, err
	}
	one := *g
	one.extents = g.extents[c.extent : c.extent+1 : c.extent+1]
	return &one, nil
}

// advance goes to the next.
func (c *spillCursor) advance() {
	if c.extent++; c.extent >= len(c.group.extents) {
		c.extent = 0
		c.cursor.advance()
	}
}

// eachOf yields the groups of spills, and others that are sorted, in order.
func eachOf(ctx context.Context, spills []*spill, others []group, yield func(group) error) error {
	cursors := make([]*spillCursor, len(spills))
	heads := make([]*group, len(spills)) // of cursors; nil at the end
	for i, s := range spills {
		cursors[i] = &spillCursor{cursor: cursor{parts: s, level: s.level}}
		var err error
		if heads[i], err = cursors[i].peek(ctx); err != nil {
			return err
		}
	}
	for {
		var least *group
		from := -1
		if len(others) > 0 {
			least = &others[0]
		}
		for i, g := range heads {
			if g != nil && (least == nil || compareGroups(*g, *least) < 0) {
				least, from = g, i
			}
		}
		switch {
		case least == nil:
			return nil
		case from < 0:
			others = others[1:]
		default:
			cursors[from].advance()
			var err error
			if heads[from], err = cursors[from].peek(ctx); err != nil {
				return err
			}
		}
		if err := yield(*least); err != nil {
			return err
		}
	}
}

// close lets go of the files.
func (r *runs) close() error {
	var errs []error
	for _, s := range r.spills {
		errs = append(errs, s.file.Close())
	}
	return errors.Join(errs...)
}

// unlimited is a number of blocks that no file has.
const unlimited = math.MaxInt64
