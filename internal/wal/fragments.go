package wal

import (
	"errors"
	"fmt"
)

// Identifiers of what a record is made of.
//
// Source: src/include/access/xlogrecord.h, PostgreSQL 18.
const (
	maxBlockID     = 32  // XLR_MAX_BLOCK_ID
	idMainShort    = 255 // XLR_BLOCK_ID_DATA_SHORT
	idMainLong     = 254 // XLR_BLOCK_ID_DATA_LONG
	idOrigin       = 253 // XLR_BLOCK_ID_ORIGIN
	idToplevelXID  = 252 // XLR_BLOCK_ID_TOPLEVEL_XID, since 14
	blockForkMask  = 0x0F
	blockHasImage  = 0x10 // BKPBLOCK_HAS_IMAGE
	blockHasData   = 0x20 // BKPBLOCK_HAS_DATA
	blockSameRel   = 0x80 // BKPBLOCK_SAME_REL
	imageHasHole   = 0x01 // BKPIMAGE_HAS_HOLE
	imagePacked    = 0x1C // BKPIMAGE_COMPRESS_PGLZ, _LZ4 and _ZSTD, since 15
	imagePackedOld = 0x02 // BKPIMAGE_IS_COMPRESSED, before 15
)

// relation is where the blocks of a relation are, by OIDs.
type relation struct {
	tablespace, database, number uint32
}

// block is what a record has about a block that it changes.
type block struct {
	id       uint8
	fork     uint8 // 0 is the main one
	relation relation
	number   uint32 // of the block within the fork
	image    []byte // the whole block, without its hole, or compressed; nil if there is none
	data     []byte // for the resource manager
}

// fragments is what a record is made of.
type fragments struct {
	origin      uint16 // of replication, zero without one
	toplevelXID uint32 // if the record's XID is that of a subtransaction, and it is the first of it
	blocks      []block
	main        []byte // for the resource manager
}

var errFragments = errors.New("its parts do not make up the whole")

// cursor takes numbers from the front of p. After one that is not there all are
// zero, and short is set.
type cursor struct {
	p     []byte
	order byteOrder
	short bool
}

// take returns the next n bytes, nil if there are fewer.
func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.p) {
		c.short, c.p = true, nil
		return nil
	}
	taken := c.p[:n]
	c.p = c.p[n:]
	return taken
}

func (c *cursor) uint8() uint8 {
	if p := c.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if p := c.take(2); p != nil {
		return c.order.uint16(p)
	}
	return 0
}

func (c *cursor) uint32() uint32 {
	if p := c.take(4); p != nil {
		return c.order.uint32(p)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if p := c.take(8); p != nil {
		return c.order.uint64(p)
	}
	return 0
}

// lengths are those of a block's image and data, which come after all headers.
type lengths struct{ image, data int }

// fragments takes the record apart. What it returns is valid as long as Data.
//
// Source: DecodeXLogRecord in src/backend/access/transam/xlogreader.c,
// PostgreSQL 10 to 18.
func (r *Record) fragments() (fragments, error) {
	var (
		f         fragments
		c         = cursor{p: r.Data, order: r.order}
		of        [maxBlockID + 1]lengths // by index in f.blocks
		main, sum int
	)
	// The headers end with that of the main data, or where what is left is theirs.
	for isLast := false; !isLast && len(c.p) > sum; {
		switch id := c.uint8(); {
		case id == idMainShort:
			main, isLast = int(c.uint8()), true
			sum += main
		case id == idMainLong:
			main, isLast = int(c.uint32()), true
			sum += main
		case id == idOrigin:
			f.origin = c.uint16()
		case id == idToplevelXID:
			f.toplevelXID = c.uint32()
		case id > maxBlockID:
			return fragments{}, fmt.Errorf("it has no part of the kind %d", id)
		default:
			b, l, err := r.block(&c, id, f.blocks)
			if err != nil {
				return fragments{}, err
			}
			of[len(f.blocks)] = l
			f.blocks = append(f.blocks, b)
			sum += l.image + l.data
		}
	}
	if c.short || len(c.p) != sum {
		return fragments{}, errFragments
	}
	for i := range f.blocks {
		if of[i].image > 0 {
			f.blocks[i].image = c.take(of[i].image)
		}
		f.blocks[i].data = c.take(of[i].data)
	}
	f.main = c.take(main)
	return f, nil
}

// main returns a cursor over the record's main data, and false if its parts do not make up
// the whole.
func (r *Record) main() (cursor, bool) {
	f, err := r.fragments()
	return cursor{p: f.main, order: r.order}, err == nil
}

// block reads the header of a block, which follows those before it.
func (r *Record) block(c *cursor, id uint8, before []block) (block, lengths, error) {
	bad := func(format string, args ...any) (block, lengths, error) {
		return block{}, lengths{}, fmt.Errorf("block %d: "+format, append([]any{id}, args...)...)
	}
	if len(before) > 0 && id <= before[len(before)-1].id {
		return bad("it comes after %d", before[len(before)-1].id)
	}
	flags := c.uint8()
	b, l := block{id: id, fork: flags & blockForkMask}, lengths{data: int(c.uint16())}
	if hasData := flags&blockHasData != 0; hasData != (l.data > 0) {
		return bad("its flags are %02X, with %d bytes of data", flags, l.data)
	}
	if flags&blockHasImage != 0 {
		l.image = int(c.uint16())
		c.uint16() // where the hole is
		packed := uint8(imagePacked)
		if r.major < 15 {
			packed = imagePackedOld
		}
		if info := c.uint8(); info&imageHasHole != 0 && info&packed != 0 {
			c.uint16() // how long the hole is
		}
	}
	switch {
	case flags&blockSameRel == 0:
		b.relation = relation{tablespace: c.uint32(), database: c.uint32(), number: c.uint32()}
	case len(before) == 0:
		return bad("it is of the same relation as none before")
	default:
		b.relation = before[len(before)-1].relation
	}
	b.number = c.uint32()
	return b, l, nil
}
