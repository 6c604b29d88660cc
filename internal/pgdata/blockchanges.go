package pgdata

import (
	"math"
	"math/bits"
)

// RelationFork is one fork of a relation, or with a relation of zero all that a database has
// in a tablespace.
//
// Source: BlockRefTableKey in src/common/blkreftable.c, PostgreSQL 18.
type RelationFork struct {
	Tablespace, Database, Relation uint32 // OIDs, and a relfilenumber
	Fork                           Fork
}

// Fork is a fork of a relation.
//
// Source: ForkNumber in src/include/common/relpath.h, PostgreSQL 18.
type Fork uint32

// The forks of a relation.
const (
	MainFork Fork = iota
	FreeSpaceFork
	VisibilityFork
	InitFork
)

// NoLimit is the limit of a relation that was not truncated: InvalidBlockNumber.
const NoLimit = math.MaxUint32

// BlockChanges is which blocks of which relations have changed, put together from WAL
// summaries. Its memory is little more than a bit for each block of what changed much, and
// two bytes for each block that changed of the rest. The zero value is empty.
//
// Summaries are to be added in the order of the log: a truncation forgets what changed
// before it, and not what changed since.
//
// Source: BlockRefTable in src/common/blkreftable.c, PostgreSQL 18.
type BlockChanges struct {
	relations map[RelationFork]*relationChanges
}

type relationChanges struct {
	limit  uint32
	chunks map[uint32]*blockChunk // by number of the block over chunkBlocks
}

// SetLimit says that a relation was made, removed or cut off so that it had limit blocks;
// NoLimit only that it has changed.
//
// Source: BlockRefTableSetLimitBlock in src/common/blkreftable.c, PostgreSQL 18.
func (c *BlockChanges) SetLimit(r RelationFork, limit uint32) {
	changes := c.relation(r)
	if limit >= changes.limit {
		return
	}
	changes.limit = limit
	for number, chunk := range changes.chunks {
		switch {
		case number > limit/chunkBlocks:
			delete(changes.chunks, number)
		case number == limit/chunkBlocks:
			chunk.cut(limit % chunkBlocks)
		}
	}
}

// Mark says that a block has changed.
//
// Source: BlockRefTableMarkBlockModified in src/common/blkreftable.c, PostgreSQL 18.
func (c *BlockChanges) Mark(r RelationFork, block uint32) {
	changes := c.relation(r)
	chunk := changes.chunks[block/chunkBlocks]
	if chunk == nil {
		chunk = new(blockChunk)
		changes.chunks[block/chunkBlocks] = chunk
	}
	chunk.add(uint16(block % chunkBlocks))
}

func (c *BlockChanges) relation(r RelationFork) *relationChanges {
	changes := c.relations[r]
	if changes == nil {
		if c.relations == nil {
			c.relations = make(map[RelationFork]*relationChanges)
		}
		changes = &relationChanges{limit: NoLimit, chunks: make(map[uint32]*blockChunk)}
		c.relations[r] = changes
	}
	return changes
}

// Limit returns the fewest blocks that a relation was cut off to; blocks from there on have
// nothing in common with those that were there before. changed says that anything is known.
func (c *BlockChanges) Limit(r RelationFork) (limit uint32, changed bool) {
	changes := c.relations[r]
	if changes == nil {
		return NoLimit, false
	}
	return changes.limit, true
}

// Blocks returns the blocks from start up to, but not including, stop that have changed,
// in ascending order.
func (c *BlockChanges) Blocks(r RelationFork, start, stop uint32) []uint32 {
	changes := c.relations[r]
	if changes == nil || start >= stop {
		return nil
	}
	var blocks []uint32
	for number := start / chunkBlocks; number <= (stop-1)/chunkBlocks; number++ {
		chunk := changes.chunks[number]
		if chunk == nil {
			continue
		}
		chunk.each(func(offset uint16) {
			if b := number*chunkBlocks + uint32(offset); b >= start && b < stop {
				blocks = append(blocks, b)
			}
		})
	}
	return blocks
}

const (
	// chunkBlocks is how many blocks are kept together: BLOCKS_PER_CHUNK.
	chunkBlocks = 1 << 16
	// chunkEntries is how many 16-bit numbers are needed for a bit for each of them:
	// MAX_ENTRIES_PER_CHUNK.
	chunkEntries = chunkBlocks / 16
)

// blockChunk is a set of blocks within a chunk: a list of them, without order, as long as
// that is not larger than bits for all.
type blockChunk struct {
	list []uint16
	bits *[chunkBlocks / 64]uint64 // if it is not nil, there is no list
}

func (k *blockChunk) add(offset uint16) {
	if k.bits == nil {
		// Changes come in ascending order, mostly; what is twice in the list does no harm
		// but for the room it takes.
		if n := len(k.list); n > 0 && k.list[n-1] == offset {
			return
		}
		if k.list = append(k.list, offset); len(k.list) < chunkEntries {
			return
		}
		k.pack()
	}
	k.bits[offset/64] |= 1 << (offset % 64)
}

// pack makes bits of the list.
func (k *blockChunk) pack() {
	k.bits = new([chunkBlocks / 64]uint64)
	for _, offset := range k.list {
		k.bits[offset/64] |= 1 << (offset % 64)
	}
	k.list = nil
}

// cut removes the blocks from end on.
func (k *blockChunk) cut(end uint32) {
	if k.bits == nil {
		kept := k.list[:0]
		for _, offset := range k.list {
			if uint32(offset) < end {
				kept = append(kept, offset)
			}
		}
		k.list = kept
		return
	}
	for i := range k.bits {
		switch first := uint32(64 * i); {
		case first >= end:
			k.bits[i] = 0
		case first+64 > end:
			k.bits[i] &= 1<<(end-first) - 1
		}
	}
}

// each calls f with each block, in ascending order.
func (k *blockChunk) each(f func(offset uint16)) {
	set := k.bits
	if set == nil {
		if len(k.list) == 0 {
			return
		}
		packed := blockChunk{list: k.list}
		packed.pack()
		set = packed.bits
	}
	for i, word := range set {
		for ; word != 0; word &= word - 1 {
			f(uint16(64*i + bits.TrailingZeros64(word)))
		}
	}
}
