package repo

import (
	"context"
	"fmt"
	"io"
	"iter"
	"sort"
)

// maxBlocks is how many blocks an extent has at most.
const maxBlocks = 8192

// PartRef is a part as an index refers to it.
type PartRef struct {
	ID         ID     `json:"id"`
	Tablespace uint32 `json:"tablespace,omitempty"` // of the first file in it
	Path       []byte `json:"path"`                 // of that
	Size       int64  `json:"size"`                 // of the object, in bytes
}

func (r PartRef) first() key { return key{r.Tablespace, string(r.Path)} }

// Level is a sorted run of groups, cut into parts. The groups of a file may lie in several.
type Level []PartRef

// size returns how large the level is, in bytes.
func (l Level) size() (n int64) {
	for _, r := range l {
		n += r.Size
	}
	return n
}

// partSource gets parts.
type partSource interface {
	part(ctx context.Context, ref PartRef) (*part, error)
}

// index is what is known of the files of a backup: sorted runs, the newest first. What
// one says of a file, or of a block, comes before what those behind it say.
type index struct {
	parts   partSource
	members []Level
	blocks  []Level
}

// cursor goes over the groups of a level, in their order.
type cursor struct {
	parts partSource
	level Level
	next  int   // part that is opened next
	part  *part // nil if none is open
	at    int   // group in part
	group *group
}

// seek goes to the first group whose key is not below k.
func (c *cursor) seek(ctx context.Context, k key) error {
	before := sort.Search(len(c.level), func(i int) bool { return c.level[i].first().compare(k) >= 0 })
	c.next, c.part, c.group = max(before-1, 0), nil, nil
	if err := c.open(ctx); err != nil || c.part == nil {
		return err
	}
	var err error
	c.at, err = c.part.find(k)
	return err
}

// open opens the part that is next, if there is one.
func (c *cursor) open(ctx context.Context) error {
	c.part, c.at, c.group = nil, 0, nil
	if c.next >= len(c.level) {
		return nil
	}
	ref := c.level[c.next]
	p, err := c.parts.part(ctx, ref)
	if err != nil {
		return fmt.Errorf("part %v of the index: %w", ref.ID, err)
	}
	c.part = p
	c.next++
	return nil
}

// peek returns the group that the cursor is at, nil at the end.
func (c *cursor) peek(ctx context.Context) (*group, error) {
	for c.group == nil {
		if c.part == nil || c.at >= len(c.part.groups) {
			if err := c.open(ctx); err != nil || c.part == nil {
				return nil, err
			}
			continue
		}
		g, err := c.part.group(c.at)
		if err != nil {
			return nil, fmt.Errorf("part %v of the index: %w", c.level[c.next-1].ID, err)
		}
		c.group = &g
	}
	return c.group, nil
}

// advance goes to the next group.
func (c *cursor) advance() { c.at, c.group = c.at+1, nil }

// cursors returns cursors at the beginning of levels.
func (x *index) cursors(levels []Level) []*cursor {
	all := make([]*cursor, len(levels))
	for i, l := range levels {
		all[i] = &cursor{parts: x.parts, level: l}
	}
	return all
}

// member returns what is known of a file, nil for nothing.
func (x *index) member(ctx context.Context, k key) (*member, error) {
	for _, c := range x.cursors(x.members) {
		if err := c.seek(ctx, k); err != nil {
			return nil, err
		}
		g, err := c.peek(ctx)
		if err != nil {
			return nil, err
		}
		if g != nil && g.key == k && g.member != nil {
			if g.member.gone {
				return nil, nil
			}
			return g.member, nil
		}
	}
	return nil, nil
}

// all yields the members from a key on, in the order of keys.
func (x *index) all(ctx context.Context, from key) iter.Seq2[group, error] {
	return func(yield func(group, error) bool) {
		cursors := x.cursors(x.members)
		for _, c := range cursors {
			if err := c.seek(ctx, from); err != nil {
				yield(group{}, err)
				return
			}
		}
		for {
			g, _, err := smallest(ctx, cursors)
			if err != nil {
				yield(group{}, err)
				return
			}
			if g == nil {
				return
			}
			if g.member != nil && !g.member.gone && !yield(*g, nil) {
				return
			}
		}
	}
}

// smallest returns the group with the smallest key that the newest of the cursors has, and which
// cursor that is, and has all go past that key's first group. It returns nil at the end.
func smallest(ctx context.Context, cursors []*cursor) (found *group, of int, err error) {
	var groups []*group
	for i, c := range cursors {
		g, err := c.peek(ctx)
		if err != nil {
			return nil, 0, err
		}
		groups = append(groups, g)
		if g != nil && (found == nil || g.key.compare(found.key) < 0) {
			found, of = g, i
		}
	}
	for i, g := range groups {
		if g != nil && g.key == found.key {
			cursors[i].advance()
		}
	}
	return found, of, nil
}

// file returns the blocks of a file that has so many bytes.
func (x *index) file(ctx context.Context, k key, size int64) (*fileBlocks, error) {
	f := &fileBlocks{key: k, limit: blocksOf(size)}
	for _, c := range x.cursors(x.blocks) {
		if f.limit == 0 {
			break
		}
		if err := c.seek(ctx, k); err != nil {
			return nil, err
		}
		g, err := c.peek(ctx)
		if err != nil {
			return nil, err
		}
		if g == nil || g.key != k {
			continue
		}
		f.runs = append(f.runs, &run{cursor: c, key: k})
		if g.fresh {
			f.fresh = true
			break
		}
	}
	return f, nil
}

// blocksOf returns how many blocks a file of so many bytes has.
func blocksOf(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// run is the extents that a level has of a file.
type run struct {
	cursor *cursor
	key    key
	extent *extent // the one in hand; nil before the first, and behind the last
	at     int     // extents of the group that were taken
	done   bool
}

// reach has the extent in hand be the first that ends behind a block.
func (r *run) reach(ctx context.Context, at int64) error {
	for !r.done && (r.extent == nil || r.extent.end() <= at) {
		g, err := r.cursor.peek(ctx)
		if err != nil {
			return err
		}
		if g == nil || g.key != r.key {
			r.extent, r.done = nil, true
			return nil
		}
		if r.at == len(g.extents) {
			r.at = 0
			r.cursor.advance()
			continue
		}
		r.extent = &g.extents[r.at]
		r.at++
	}
	return nil
}

// fileBlocks yields the blocks of a file, in their order.
type fileBlocks struct {
	key   key
	runs  []*run // the newest first
	at    int64  // block that comes next
	limit int64  // blocks of the file
	gaps  bool   // blocks may be missing
	fresh bool   // a run is of a file that has nothing to do with older ones
}

// next returns the next extent, and io.EOF after the last.
func (f *fileBlocks) next(ctx context.Context) (extent, error) {
	if f.at >= f.limit {
		return extent{}, io.EOF
	}
	end := f.limit
	for _, r := range f.runs {
		if err := r.reach(ctx, f.at); err != nil {
			return extent{}, err
		}
		switch {
		case r.extent == nil:
		case r.extent.first <= f.at:
			x := r.extent.cut(f.at, min(end, r.extent.end()))
			f.at = x.end()
			return x, nil
		default:
			end = min(end, r.extent.first)
		}
	}
	if f.gaps {
		if f.at = end; f.at == f.limit {
			return extent{}, io.EOF
		}
		return f.next(ctx)
	}
	return extent{}, fmt.Errorf("file %v: the index does not know its block %d", f.key, f.at)
}
