package repo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"basin/internal/backup"
	"basin/internal/seal"
)

// Lookup returns of which kind a member of the backup is, and false if there is none of that path.
func (s *Source) Lookup(ctx context.Context, tablespace uint32, path string) (backup.Kind, bool, error) {
	m, err := s.index.member(ctx, key{tablespace, path})
	if err != nil || m == nil {
		return 0, false, err
	}
	return m.kind, true, nil
}

// Sizes returns how many bytes the files of a backup have, by tablespace; zero is the data directory.
func (c *Cluster) Sizes(ctx context.Context, commit Commit) (map[uint32]int64, error) {
	sizes := make(map[uint32]int64)
	for g, err := range c.index(&commit).all(ctx, key{}) {
		if err != nil {
			return nil, err
		}
		if g.member.kind == backup.File {
			sizes[g.key.tablespace] += g.member.size
		}
	}
	return sizes, nil
}

// Update makes a file what the backup has. Blocks that are there are known by their digests, and only
// others are fetched. It is a backup.Updater.
func (r *fileReader) Update(file backup.Updated) (written int64, err error) {
	for {
		n, err := r.updateWindow(file)
		written += n
		if err == io.EOF {
			break
		}
		if err != nil {
			return written, fmt.Errorf("file %v: %w", r.key, err)
		}
	}
	return written, file.Truncate(r.member.size)
}

// span is blocks in a row that a file is to be given.
type span struct{ from, to int64 } // offsets in the buffer

// updateWindow goes on with some of the blocks that follow.
func (r *fileReader) updateWindow(file backup.Updated) (written int64, err error) {
	window, size, err := r.window()
	if err != nil {
		return 0, err
	}
	start := r.at * BlockSize
	if int64(cap(r.buffer)) < size {
		r.buffer = make([]byte, size)
	}
	r.buffer = r.buffer[:size]
	have, err := file.ReadAt(r.buffer, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	var missing []extent
	for _, x := range window {
		missing = append(missing, r.differing(x, start, int64(have))...)
	}
	opened, err := r.source.frames.get(r.ctx, missing)
	if err != nil {
		return 0, err
	}
	defer r.source.frames.release(opened)
	var spans []span
	for i, x := range missing {
		from := x.first*BlockSize - start
		at := from
		for j := range x.blocks {
			to := r.buffer[at:min(at+BlockSize, size)]
			b, err := r.block(x, j, opened[i].bytes(), int64(len(to)))
			if err != nil {
				return 0, err
			}
			at += int64(copy(to, b))
		}
		if n := len(spans); n > 0 && spans[n-1].to == from {
			spans[n-1].to = at
		} else {
			spans = append(spans, span{from, at})
		}
	}
	for _, s := range spans {
		n, err := file.WriteAt(r.buffer[s.from:s.to], start+s.from)
		written += int64(n)
		if err != nil {
			return written, err
		}
	}
	r.at += blocksOf(size)
	r.crc = checksumOn(r.crc, r.buffer)
	if p := r.source.o.Progress; p != nil {
		p.Done.Add(size)
	}
	return written, nil
}

// differing returns the parts of an extent whose blocks are others than those in the buffer, which
// begins at an offset in the file and has so many bytes of what is there.
func (r *fileReader) differing(x extent, start, have int64) (parts []extent) {
	first := int64(-1) // of the part in hand
	for i, k := range x.blocks {
		at := x.first + int64(i)
		from := at*BlockSize - start
		end := min(from+BlockSize, int64(len(r.buffer)))
		same := end <= have
		if same {
			b := r.buffer[from:end]
			if x.isZeros() {
				same = isZeros(b)
			} else {
				same = r.source.digests.Sum(b) == k.digest && checksum(b) == k.crc
			}
		}
		switch {
		case !same && first < 0:
			first = at
		case same && first >= 0:
			parts = append(parts, x.cut(first, at))
			first = -1
		}
	}
	if first >= 0 {
		parts = append(parts, x.cut(first, x.end()))
	}
	return parts
}

// block returns the bytes of a block of an extent, of which there are size, after they were compared
// with what they were. content is that of the frame.
func (r *fileReader) block(x extent, i int, content []byte, size int64) ([]byte, error) {
	if x.isZeros() {
		return zeroPage[:size], nil
	}
	at := x.first + int64(i)
	from := int64(x.at.within) + int64(i)*BlockSize
	if from+size > int64(len(content)) {
		return nil, fmt.Errorf("block %d: %w", at, errPart)
	}
	b := content[from : from+size]
	if k := x.blocks[i]; r.source.digests.Sum(b) != k.digest || checksum(b) != k.crc {
		return nil, fmt.Errorf("block %d, in pack %v: %w", at, x.at.pack, seal.ErrDamaged)
	}
	return b, nil
}
