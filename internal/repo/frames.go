package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"basin/internal/object"
	"basin/internal/seal"
)

const (
	// framesKept is how many frames are kept in memory, as those of small files are used by many.
	framesKept = 64
	// readGap is how many bytes are read for nothing rather than with another request.
	readGap = 64 << 10
	// readsKept is how many buffers that frames are read into are kept, and readKept how large they are at most, in bytes:
	// that is what a megabyte of a file takes that was not compressed.
	readsKept = 8
	readKept  = 2 << 20
	// boxesKept is of how many packs the head is kept.
	boxesKept = 4096
)

// frames gets the contents of frames. It may be used from several goroutines.
type frames struct {
	cluster *Cluster

	mu    sync.Mutex
	kept  map[frameKey]*openFrame
	order []frameKey
	free  [][]byte // of contents that nobody reads any more
	reads [][]byte // what frames were read into
	boxes map[PackID]*seal.Box
}

// openFrame is the content of a frame.
type openFrame struct {
	content []byte
	readers int  // that were given it, and have not released it
	isKept  bool // in kept
}

// bytes returns the content; nil is that of none, where there are zeros.
func (o *openFrame) bytes() []byte {
	if o == nil {
		return nil
	}
	return o.content
}

// frameKey names a frame.
type frameKey struct {
	pack PackID
	at   int64
}

func newFrames(c *Cluster) *frames {
	return &frames{cluster: c, kept: make(map[frameKey]*openFrame), boxes: make(map[PackID]*seal.Box)}
}

// get returns the frames that extents are in, nil for those of zeros. Once they have been read they are to be released, so that their
// memory serves for others; what is not is collected.
func (f *frames) get(ctx context.Context, extents []extent) ([]*openFrame, error) {
	frames := make([]*openFrame, len(extents))
	wanted := make(map[frameKey]uint32)
	f.mu.Lock()
	for i, x := range extents {
		if x.isZeros() {
			continue
		}
		k := frameKey{x.at.pack, x.at.frame}
		if kept, ok := f.kept[k]; ok {
			kept.readers++
			frames[i] = kept
		} else {
			wanted[k] = x.at.length
		}
	}
	f.mu.Unlock()
	got, err := f.fetch(ctx, wanted)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, x := range extents {
		if !x.isZeros() && frames[i] == nil {
			frames[i] = got[frameKey{x.at.pack, x.at.frame}]
			frames[i].readers++
		}
	}
	for k, frame := range got {
		if _, ok := f.kept[k]; !ok {
			frame.isKept, f.kept[k] = true, frame
			f.order = append(f.order, k)
		}
	}
	for len(f.order) > framesKept {
		frame := f.kept[f.order[0]]
		delete(f.kept, f.order[0])
		f.order, frame.isKept = f.order[1:], false
		f.reuse(frame)
	}
	return frames, nil
}

// release says that frames that get returned are not read any more.
func (f *frames) release(frames []*openFrame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, frame := range frames {
		if frame != nil {
			frame.readers--
			f.reuse(frame)
		}
	}
}

// reuse has the memory of a frame serve for another, if nobody reads it. f.mu is held.
func (f *frames) reuse(frame *openFrame) {
	if frame.readers == 0 && !frame.isKept && len(f.free) < framesKept {
		f.free = append(f.free, frame.content[:0])
		frame.content = nil
	}
}

// memory returns memory for the content of a frame.
func (f *frames) memory() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.free) - 1
	if last < 0 {
		return make([]byte, 0, frameSize+BlockSize)
	}
	m := f.free[last]
	f.free = f.free[:last]
	return m
}

// readBuffer returns a buffer for frames to be read into, or nil.
func (f *frames) readBuffer() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	last := len(f.reads) - 1
	if last < 0 {
		return nil
	}
	b := f.reads[last]
	f.reads = f.reads[:last]
	return b
}

// keepBuffer keeps what frames were read into for others.
func (f *frames) keepBuffer(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if cap(b) <= readKept && len(f.reads) < readsKept {
		f.reads = append(f.reads, b)
	}
}

// fetch gets frames of so many bytes from the store, those that lie side by side at once.
func (f *frames) fetch(ctx context.Context, wanted map[frameKey]uint32) (map[frameKey]*openFrame, error) {
	keys := make([]frameKey, 0, len(wanted))
	for k := range wanted {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b frameKey) int {
		return cmp.Or(slices.Compare(a.pack[:], b.pack[:]), cmp.Compare(a.at, b.at))
	})
	got := make(map[frameKey]*openFrame, len(keys))
	for len(keys) > 0 {
		n := 1
		end := keys[0].at + int64(wanted[keys[0]])
		for n < len(keys) && keys[n].pack == keys[0].pack && keys[n].at-end <= readGap {
			if keys[n].at < end { // frames do not overlap
				return nil, fmt.Errorf("%s: %w", f.cluster.packName(keys[n].pack), errPart)
			}
			end = keys[n].at + int64(wanted[keys[n]])
			n++
		}
		if err := f.fetchRun(ctx, keys[:n], end, wanted, got); err != nil {
			return nil, err
		}
		keys = keys[n:]
	}
	return got, nil
}

// fetchRun gets frames of one pack, which lie between the first and end.
func (f *frames) fetchRun(ctx context.Context, keys []frameKey, end int64, wanted map[frameKey]uint32, got map[frameKey]*openFrame) error {
	id, begin := keys[0].pack, keys[0].at
	name := f.cluster.packName(id)
	box, err := f.box(ctx, id, name)
	if err != nil {
		return err
	}
	if end < begin || end-begin > 2*packSize || begin < seal.HeadSize {
		return errPart
	}
	data, err := f.cluster.readPack(ctx, name, begin, end-begin, f.readBuffer())
	if err != nil {
		return err
	}
	defer f.keepBuffer(data)
	if int64(len(data)) != end-begin {
		return fmt.Errorf("%s: it is too short: %w", name, seal.ErrDamaged)
	}
	for _, k := range keys {
		from := k.at - begin
		content, err := box.Open(f.memory(), data[from:from+int64(wanted[k]):from+int64(wanted[k])], k.at, frameSize+BlockSize)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		got[k] = &openFrame{content: content}
	}
	return nil
}

// box returns what opens the frames of a pack.
func (f *frames) box(ctx context.Context, id PackID, name string) (*seal.Box, error) {
	f.mu.Lock()
	box, ok := f.boxes[id]
	f.mu.Unlock()
	if ok {
		return box, nil
	}
	head, err := f.cluster.readPack(ctx, name, 0, seal.HeadSize, nil)
	if err != nil {
		return nil, err
	}
	if box, err = f.cluster.repo.open(ctx, kindPack, name, head); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.boxes) >= boxesKept {
		clear(f.boxes)
	}
	f.boxes[id] = box
	return box, nil
}

// readPack reads n bytes of a pack from off on, where an index says that there are some: that there are none is a damage. They
// may lie in buffer.
func (c *Cluster) readPack(ctx context.Context, name string, off, n int64, buffer []byte) ([]byte, error) {
	data, err := object.GetTo(ctx, c.repo.store, name, off, n, buffer)
	switch {
	case errors.Is(err, fs.ErrInvalid):
		return nil, fmt.Errorf("%s is too short: %w", name, seal.ErrDamaged)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w: %w", name, seal.ErrDamaged, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return data, nil
}
