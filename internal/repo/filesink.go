package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"basin/internal/backup"
)

// putFile stores the blocks of a file that are not those of its parent's.
func (s *Sink) putFile(ctx context.Context, k key, size int64, r io.Reader, before, now *member) error {
	f := fileSink{sink: s, key: k, fresh: before == nil || before.kind != backup.File}
	if !f.fresh {
		var err error
		if f.parent, err = s.parent.file(ctx, k, before.size); err != nil {
			return err
		}
		f.parentSize = before.size
	}
	if f.fresh && s.parent == nil {
		f.fresh = false // there is nothing older
	}
	var err error
	if f.adopted, err = s.adopted.file(ctx, k, size); err != nil {
		return err
	}
	if r == nil {
		if size > 0 {
			return fmt.Errorf("file %v has no bytes, but is to have %d", k, size)
		}
	} else if now.crc, err = f.copy(ctx, r, size); err != nil {
		return err
	}
	now.size = size
	s.commit.Files++
	s.commit.Size += size
	return f.flushTold()
}

// fileSink is a file that is being stored.
type fileSink struct {
	sink       *Sink
	key        key
	fresh      bool
	parent     *fileBlocks // nil for none
	parentSize int64
	extent     extent // of the parent
	at         int64  // block that comes next
	adopted    adoptedBlocks
	told       extent // blocks that are stored somewhere already, or zeros, that were not told yet
}

// copy takes all that r has, which is to be so many bytes, and returns their CRC-32C.
func (f *fileSink) copy(ctx context.Context, r io.Reader, size int64) (uint32, error) {
	w := blockWriter{file: f, ctx: ctx, size: size, left: size}
	_, err := io.CopyBuffer(&w, r, f.sink.buffer)
	if err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		if w.left > 0 {
			return 0, fmt.Errorf("file %v was to have %d bytes, but has %d", f.key, size, size-w.left)
		}
	}
	return w.crc, err
}

// blockWriter cuts what is written to it into the blocks of a file.
type blockWriter struct {
	file *fileSink
	ctx  context.Context
	size int64  // bytes that the file is to have
	left int64  // of those, to come
	part []byte // of a block that is not whole
	crc  uint32
}

// Write takes what comes next. Whole blocks are not copied.
func (w *blockWriter) Write(p []byte) (int, error) {
	n := len(p)
	if int64(n) > w.left {
		return 0, fmt.Errorf("file %v was to have %d bytes, but has more", w.file.key, w.size)
	}
	w.left -= int64(n)
	if len(w.part) > 0 {
		more := min(n, BlockSize-len(w.part))
		w.part, p = append(w.part, p[:more]...), p[more:]
		if len(w.part) < BlockSize && w.left > 0 {
			return n, nil
		}
		if err := w.write(w.part); err != nil {
			return 0, err
		}
		w.part = w.part[:0]
	}
	whole := len(p)
	if w.left > 0 {
		whole -= whole % BlockSize
	}
	w.part = append(w.part, p[whole:]...)
	if err := w.write(p[:whole]); err != nil {
		return 0, err
	}
	return n, nil
}

// write takes blocks.
func (w *blockWriter) write(p []byte) (err error) {
	w.crc, err = w.file.write(w.ctx, p, w.crc)
	return err
}

// write takes blocks, the last of which may be shorter if it is the last of the file. Of the CRC-32C
// of what comes before them it makes that of all.
func (f *fileSink) write(ctx context.Context, p []byte, crc uint32) (uint32, error) {
	for b := range slices.Chunk(p, BlockSize) {
		k, err := f.writeBlock(ctx, b)
		if err != nil {
			return 0, err
		}
		if len(b) == BlockSize {
			crc = appendChecksum(crc, k)
		} else {
			crc = checksumOn(crc, b)
		}
	}
	return crc, nil
}

// writeBlock takes the block that comes next, and returns what is known of it.
func (f *fileSink) writeBlock(ctx context.Context, b []byte) (block, error) {
	k := zeroBlock
	isZero := len(b) == BlockSize && isZeros(b)
	if !isZero {
		k = block{f.sink.digests.Sum(b), checksum(b)}
	}
	same, err := f.isSame(ctx, k, len(b))
	var at location
	isAdopted := false
	if err == nil && !same && !isZero {
		at, isAdopted, err = f.adopted.find(ctx, f.at, k)
	}
	switch {
	case err != nil:
	case same:
		err = f.flushTold()
	case isZero, isAdopted:
		err = f.tell(k, at)
	default:
		if err = f.flushTold(); err == nil {
			err = f.sink.add(f, b, k)
		}
	}
	f.at++
	return k, err
}

// reach has the parent's extent in hand be that of the block that comes next, if there is one.
func (f *fileSink) reach(ctx context.Context) (bool, error) {
	if f.parent == nil || f.at >= f.parent.limit {
		return false, nil
	}
	for f.extent.end() <= f.at {
		var err error
		if f.extent, err = f.parent.next(ctx); err != nil {
			return false, err
		}
	}
	return true, nil
}

// isSame says whether the parent's block is the one that comes next, and can be left where it is.
func (f *fileSink) isSame(ctx context.Context, k block, size int) (bool, error) {
	if has, err := f.reach(ctx); err != nil || !has {
		return false, err
	}
	if f.sink.thin[f.extent.at.pack] {
		return false, nil
	}
	had := min(int64(BlockSize), f.parentSize-f.at*BlockSize)
	return had == int64(size) && f.extent.blocks[f.at-f.extent.first] == k, nil
}

// tell notes the block that comes next, which is stored somewhere already, or of zeros.
func (f *fileSink) tell(k block, at location) error {
	x := extent{first: f.at, at: at, blocks: []block{k}}
	if len(f.told.blocks) > 0 && follows(f.told, x) {
		f.told.blocks = append(f.told.blocks, k)
		return nil
	}
	if err := f.flushTold(); err != nil {
		return err
	}
	f.told = x
	return nil
}

// flushTold tells of the blocks that were noted.
func (f *fileSink) flushTold() error {
	if len(f.told.blocks) == 0 {
		return nil
	}
	x := f.told
	f.told = extent{}
	return f.sink.tell(f, x)
}

var zeroPage [BlockSize]byte

func isZeros(b []byte) bool { return bytes.Equal(b, zeroPage[:len(b)]) }
