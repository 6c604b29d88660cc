package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"basin/internal/seal"
)

const (
	// frameSize is how many bytes of blocks a frame has at most.
	frameSize = 16 * BlockSize
	// packSize is how large a pack is at most, in bytes.
	packSize = 32 << 20
	// packsAtOnce is how many packs are put into the store at once, beside the one that grows.
	packsAtOnce = 2
)

// piece is blocks of one file that lie in a frame.
type piece struct {
	key    key
	fresh  bool
	first  int64
	within uint32
	blocks []block
}

// frame is what is packed at once.
type frame struct {
	content []byte
	pieces  []piece
	told    []group // blocks of zeros, or stored before, which are told of with it
	packed  []byte
	done    chan struct{} // closed once it is packed
}

// packer makes packs of frames. Frames are packed by several goroutines, and put into packs in
// the order in which they came.
type packer struct {
	cluster *Cluster
	key     seal.Key
	pack    *seal.Packer
	newID   func() ID // of a pack
	most    int       // bytes that a pack has at most
	// placed is told where blocks are, from one goroutine.
	placed func(group) error
	stored func(bytes int64) // is told of each pack that the store has

	group  *errgroup.Group
	ctx    context.Context
	frames chan *frame   // in order
	slots  chan struct{} // one for each frame that is being packed
	free   chan *frame   // that were used

	id      ID
	name    string
	box     *seal.Box
	data    []byte // of the pack that grows
	content encoder
	upload  chan struct{} // one for each pack that is on its way
	buffers chan []byte   // of packs that were stored
}

// newPacker returns a packer that works until finish or the end of ctx. workers is how
// many frames are packed at once.
func newPacker(ctx context.Context, c *Cluster, key seal.Key, level, workers int) (*packer, error) {
	pack, err := seal.NewPacker(level)
	if err != nil {
		return nil, err
	}
	p := &packer{
		cluster: c, key: key, pack: pack, most: packSize,
		frames: make(chan *frame, 2*workers), slots: make(chan struct{}, workers), upload: make(chan struct{}, packsAtOnce),
	}
	p.free = make(chan *frame, cap(p.frames)+cap(p.slots)+1)
	p.buffers = make(chan []byte, packsAtOnce+1)
	p.group, p.ctx = errgroup.WithContext(ctx)
	return p, nil
}

// begin starts to work. newID, placed and stored are set.
func (p *packer) begin() {
	p.group.Go(func() error {
		for f := range p.frames {
			select {
			case <-f.done:
			case <-p.ctx.Done():
				return context.Cause(p.ctx)
			}
			if err := p.add(f); err != nil {
				return err
			}
		}
		return p.cut()
	})
}

// take returns a frame to be filled.
func (p *packer) take() *frame {
	select {
	case f := <-p.free:
		return f
	default:
		return &frame{content: make([]byte, 0, frameSize+BlockSize)}
	}
}

// release lets a frame be used again.
func (p *packer) release(f *frame) {
	f.content, f.pieces, f.told = f.content[:0], f.pieces[:0], nil
	select {
	case p.free <- f:
	default:
	}
}

// give has a frame be packed. It waits for its turn.
func (p *packer) give(f *frame) error {
	f.done = make(chan struct{})
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	go func() {
		f.packed = p.pack.Pack(f.packed[:0], f.content)
		<-p.slots
		close(f.done)
	}()
	select {
	case p.frames <- f:
		return nil
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
}

// finish waits until all packs are in the store.
func (p *packer) finish() error {
	close(p.frames)
	return p.group.Wait()
}

// add puts a frame into the pack that grows.
func (p *packer) add(f *frame) error {
	for _, g := range f.told {
		if err := p.placed(g); err != nil {
			return err
		}
	}
	if len(f.pieces) == 0 {
		p.release(f)
		return nil
	}
	if p.box != nil && (len(p.data)+len(f.packed)+seal.Overhead > p.most || p.content.size() > footerRoom) {
		if err := p.cut(); err != nil {
			return err
		}
	}
	if p.box == nil {
		p.id = p.newID()
		p.name = p.cluster.packName(p.id)
		var err error
		if p.box, err = seal.NewBox(kindPack, p.name, p.key); err != nil {
			return err
		}
		select {
		case p.data = <-p.buffers:
		default: // it is made once it is known how large it becomes
		}
		p.data = append(p.data[:0], p.box.Head()...)
	}
	at := int64(len(p.data))
	if room := len(p.data) + len(f.packed) + seal.Overhead; room > cap(p.data) {
		p.data = append(make([]byte, 0, max(p.grown(), room)), p.data...)
	}
	p.data = p.box.Seal(p.data, f.packed, at)
	for _, piece := range f.pieces {
		x := extent{first: piece.first, blocks: piece.blocks, at: location{
			pack: p.id, frame: at, length: uint32(int64(len(p.data)) - at), within: piece.within,
		}}
		g := group{key: piece.key, fresh: piece.fresh, extents: []extent{x}}
		p.content.add(g)
		if err := p.placed(g); err != nil {
			return err
		}
	}
	p.release(f)
	return nil
}

// grown returns how large the buffer of a pack becomes that is full, in bytes. Most backups
// are small, and of the others each buffer is used again: it is moved a few times at most, and has
// room for the trailer.
func (p *packer) grown() int {
	if 2*cap(p.data) <= packSize/8 {
		return max(2*cap(p.data), 1<<20)
	}
	return packSize + footerRoom
}

// cut ends the pack that grows, and has it put into the store.
func (p *packer) cut() error {
	if p.box == nil {
		return nil
	}
	p.data = appendTrailer(p.data, 0, p.box, p.pack, p.content.finish())
	name, data := p.name, p.data
	p.box, p.data = nil, nil
	select {
	case p.upload <- struct{}{}:
	case <-p.ctx.Done():
		return context.Cause(p.ctx)
	}
	p.group.Go(func() error {
		defer func() { <-p.upload }()
		if err := p.cluster.repo.store.Create(p.ctx, name, data); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.stored(int64(len(data)))
		select {
		case p.buffers <- data:
		default:
		}
		return nil
	})
	return nil
}

// footerRoom is about how much a trailer takes at most, in bytes: blocks that compress to nothing
// have digests all the same.
const footerRoom = 1 << 20

// footerSize is that of what follows a trailer, in bytes.
const footerSize = 8

// appendTrailer ends an object with a trailer. Before data are so many bytes of it.
func appendTrailer(data []byte, before int64, box *seal.Box, pack *seal.Packer, content []byte) []byte {
	at := len(data)
	data = box.Seal(data, pack.Pack(nil, content), before+int64(at))
	data = binary.LittleEndian.AppendUint32(data, uint32(len(data)-at))
	return binary.LittleEndian.AppendUint32(data, checksum(data[len(data)-4:]))
}

// errTrailer is an object that does not end as it should.
var errTrailer = fmt.Errorf("its end: %w", seal.ErrDamaged)

// trailerLength reads what follows a trailer: how long that is.
func trailerLength(footer []byte) (int64, error) {
	if len(footer) != footerSize || checksum(footer[:4]) != binary.LittleEndian.Uint32(footer[4:]) {
		return 0, errTrailer
	}
	return int64(binary.LittleEndian.Uint32(footer)), nil
}

// errNoBackup is a sink that was not begun, or is closed.
var errNoBackup = errors.New("the backup has not begun, or is closed")
