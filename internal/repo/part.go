package repo

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"time"

	"basin/internal/backup"
	"basin/internal/seal"
)

// BlockSize is the size in bytes of what a file is cut into. It is that of PostgreSQL's pages.
const BlockSize = 8192

// key names a file of a backup. Keys are ordered by tablespace, then by path.
type key struct {
	tablespace uint32
	path       string
}

func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(k.tablespace, other.tablespace), cmp.Compare(k.path, other.path))
}

// PackID names a pack.
type PackID = ID

// location is where bytes are: in the content of a frame of a pack.
type location struct {
	pack   PackID
	frame  int64  // offset of the frame in the pack
	length uint32 // of the frame
	within uint32 // offset in its content
}

// block is what is known of a block.
type block struct {
	digest seal.Digest
	crc    uint32 // CRC-32C
}

// zeroBlock is a block of zeros.
var zeroBlock = block{crc: checksum(make([]byte, BlockSize))}

// extent is blocks of a file that lie one behind the other. All but the last of a file have
// BlockSize bytes. If pack is zero they are zeros, and stored nowhere.
type extent struct {
	first  int64 // block
	at     location
	blocks []block
}

func (e extent) end() int64 { return e.first + int64(len(e.blocks)) }

func (e extent) isZeros() bool { return e.at.pack == PackID{} }

// cut returns the blocks of an extent from first on, before end.
func (e extent) cut(first, end int64) extent {
	first, end = max(first, e.first), min(end, e.end())
	if skipped := first - e.first; !e.isZeros() {
		e.at.within += uint32(skipped * BlockSize)
	}
	e.blocks = e.blocks[first-e.first : end-e.first]
	e.first = first
	return e
}

// member is a member of a backup, or that there is none of that name any more.
type member struct {
	gone    bool
	kind    backup.Kind
	mode    fs.FileMode
	uid     int
	gid     int
	modTime time.Time
	size    int64  // of a file, in bytes
	crc     uint32 // of a file
	target  string // of a link
}

// group is what a part says of one file. In an index of members that is the member, in one
// of blocks some of its blocks.
type group struct {
	key    key
	member *member // nil in an index of blocks
	// fresh says that what older levels know of the file's blocks is of another file of
	// that name.
	fresh   bool
	extents []extent
}

// Bits of a group's flags.
const (
	flagMember = 1 << iota
	flagGone
	flagFresh
)

// encoder makes the content of a part.
type encoder struct {
	packs  []PackID
	index  map[PackID]uint64 // of packs, and one more
	groups []byte
	count  int
	first  key
	start  int64 // first block of the first group
	group  []byte
}

// size returns how large the part is by now, in bytes.
func (e *encoder) size() int { return len(e.groups) + len(e.packs)*len(PackID{}) }

// add appends a group.
func (e *encoder) add(g group) {
	if e.count == 0 {
		e.first, e.start = g.key, -1
		if len(g.extents) > 0 {
			e.start = g.extents[0].first
		}
	}
	e.count++
	b := binary.AppendUvarint(e.group[:0], uint64(g.key.tablespace))
	b = appendBytes(b, g.key.path)
	flags := byte(0)
	if g.member != nil {
		flags |= flagMember
		if g.member.gone {
			flags |= flagGone
		}
	}
	if g.fresh {
		flags |= flagFresh
	}
	b = append(b, flags)
	if m := g.member; m != nil && !m.gone {
		b = append(b, byte(m.kind))
		for _, n := range []uint64{uint64(m.mode), uint64(m.uid), uint64(m.gid), uint64(m.size)} {
			b = binary.AppendUvarint(b, n)
		}
		b = binary.AppendVarint(b, m.modTime.Unix())
		b = binary.AppendUvarint(b, uint64(m.modTime.Nanosecond()))
		b = binary.LittleEndian.AppendUint32(b, m.crc)
		b = appendBytes(b, m.target)
	}
	b = binary.AppendUvarint(b, uint64(len(g.extents)))
	next := int64(0)
	for _, x := range g.extents {
		b = binary.AppendUvarint(b, uint64(x.first-next))
		b = binary.AppendUvarint(b, uint64(len(x.blocks)))
		next = x.end()
		if x.isZeros() {
			b = binary.AppendUvarint(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, e.pack(x.at.pack))
		b = binary.AppendUvarint(b, uint64(x.at.frame))
		b = binary.AppendUvarint(b, uint64(x.at.length))
		b = binary.AppendUvarint(b, uint64(x.at.within))
		for _, k := range x.blocks {
			b = append(b, k.digest[:]...)
			b = binary.LittleEndian.AppendUint32(b, k.crc)
		}
	}
	e.group = b
	e.groups = append(binary.AppendUvarint(e.groups, uint64(len(b))), b...)
}

// pack returns the number that a pack has in the part. Zero is none.
func (e *encoder) pack(id PackID) uint64 {
	n, ok := e.index[id]
	if !ok {
		if e.index == nil {
			e.index = make(map[PackID]uint64)
		}
		e.packs = append(e.packs, id)
		n = uint64(len(e.packs))
		e.index[id] = n
	}
	return n
}

// finish returns the content of the part, and makes ready for another one.
func (e *encoder) finish() []byte {
	b := binary.AppendUvarint(nil, uint64(len(e.packs)))
	for _, id := range e.packs {
		b = append(b, id[:]...)
	}
	b = append(b, e.groups...)
	*e = encoder{group: e.group}
	return b
}

func appendBytes(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// maxFile is how many bytes a file of a backup has at most.
const maxFile = 1 << 60

// errPart is a part whose content is not what FORMAT.md says, although it is what was written.
var errPart = errors.New("a part of an index is not as it should be")

// part is a part that was read.
type part struct {
	packs  []PackID
	data   []byte
	groups []int32 // where they begin in data
}

// parsePart reads the content of a part, of which it keeps the bytes.
func parsePart(content []byte) (*part, error) {
	r := reader{b: content}
	n := r.uvarint()
	if r.failed || n > uint64(len(r.b)/len(PackID{})) || len(content) > math.MaxInt32 {
		return nil, errPart
	}
	p := &part{packs: make([]PackID, n), data: content}
	for i := range p.packs {
		copy(p.packs[i][:], r.next(len(PackID{})))
	}
	for len(r.b) > 0 && !r.failed {
		p.groups = append(p.groups, int32(len(content)-len(r.b)))
		r.next(int(min(r.uvarint(), math.MaxInt32)))
	}
	if r.failed {
		return nil, errPart
	}
	return p, nil
}

// find returns the first group whose key is not below k.
func (p *part) find(k key) (int, error) {
	var failed error
	i, _ := slices.BinarySearchFunc(p.groups, k, func(at int32, k key) int {
		r := reader{b: p.data[at:]}
		r.uvarint()
		have := r.key()
		if r.failed {
			failed = errPart
		}
		return have.compare(k)
	})
	return i, failed
}

// group reads a group.
func (p *part) group(i int) (group, error) {
	return p.read(i, func(r *reader, x *extent, count uint64) {
		x.blocks = make([]block, count)
		for i := range x.blocks {
			if x.isZeros() {
				x.blocks[i] = zeroBlock
				continue
			}
			copy(x.blocks[i].digest[:], r.next(len(seal.Digest{})))
			x.blocks[i].crc = r.uint32()
		}
	})
}

// outline reads a group, but no blocks: it tells where they are, in less time.
func (p *part) outline(i int) (group, error) {
	return p.read(i, func(r *reader, x *extent, count uint64) {
		if !x.isZeros() {
			r.next(int(count) * blockSize)
		}
	})
}

// blockSize is how many bytes tell of a block.
const blockSize = len(seal.Digest{}) + 4

// read reads a group. blocks reads so many blocks of an extent.
func (p *part) read(i int, blocks func(r *reader, x *extent, count uint64)) (group, error) {
	outer := reader{b: p.data[p.groups[i]:]}
	r := reader{b: outer.next(int(min(outer.uvarint(), math.MaxInt32)))}
	g := group{key: r.key()}
	flags := r.byte()
	g.fresh = flags&flagFresh != 0
	if flags&flagMember != 0 {
		g.member = &member{gone: flags&flagGone != 0}
	}
	if m := g.member; m != nil && !m.gone {
		m.kind = backup.Kind(r.byte())
		m.mode, m.uid, m.gid, m.size = fs.FileMode(r.uvarint()), int(r.uvarint()), int(r.uvarint()), int64(r.uvarint())
		m.modTime = time.Unix(r.varint(), int64(r.uvarint()))
		m.crc = r.uint32()
		m.target = string(r.bytes())
		if m.size < 0 || m.size > maxFile {
			return g, errPart
		}
	}
	count := r.uvarint()
	if r.failed || count > uint64(len(r.b)) {
		return g, errPart
	}
	g.extents = make([]extent, 0, count)
	next := int64(0)
	for range count {
		g.extents = append(g.extents, extent{first: next + int64(r.uvarint())})
		x := &g.extents[len(g.extents)-1]
		length := r.uvarint()
		number := r.uvarint()
		if r.failed || length == 0 || length > maxBlocks || number > uint64(len(p.packs)) || x.first < next {
			return g, errPart
		}
		if number > 0 {
			x.at = location{pack: p.packs[number-1], frame: int64(r.uvarint()), length: uint32(r.uvarint()), within: uint32(r.uvarint())}
		}
		blocks(&r, x, length)
		if next = x.first + int64(length); r.failed || next < 0 {
			return g, errPart
		}
	}
	if len(r.b) > 0 {
		return g, errPart
	}
	return g, nil
}

// reader reads what an encoder wrote. What is missing reads as zeros.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) next(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.failed = true
		r.b = nil
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.failed = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) varint() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.failed = true
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) byte() byte {
	if b := r.next(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.next(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) bytes() []byte { return r.next(int(min(r.uvarint(), math.MaxInt32))) }

func (r *reader) key() key {
	tablespace := r.uvarint()
	k := key{tablespace: uint32(tablespace), path: string(bytes.Clone(r.bytes()))}
	if tablespace > math.MaxUint32 {
		r.failed = true
	}
	return k
}

// whole returns the path below the data directory.
func (k key) whole() string { return backup.ManifestPath(k.tablespace, k.path) }

// String returns the path for messages.
func (k key) String() string { return fmt.Sprintf("%q", k.whole()) }
