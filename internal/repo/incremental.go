package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"basin/internal/backup"
	"basin/internal/pgdata"
)

// Since says that files of relations may come as incremental ones, which are laid over those of the
// parent. What they do not have is not read anywhere: its digests are the parent's.
type Since struct {
	// Cut is what the log says of relations that were cut off, as server's own incremental files
	// do not: blocks from there on that nobody wrote to since are zeros, and all others are
	// in the file. Nil is for files whose headers say as much.
	Cut *pgdata.BlockChanges
}

// errForgotten is an incremental file that lacks what has changed.
var errForgotten = errors.New("the server left changed blocks out of the incremental backup")

// isLabel says whether a file is the backup label, in which an incremental backup says that it is one.
func isLabel(k key) bool { return k == key{path: pgdata.LabelPath} }

// maxLabel is how many bytes a backup label has at most.
const maxLabel = 64 << 10

// putLabel stores the backup label of a full backup in place of that of an incremental one.
func (s *Sink) putLabel(ctx context.Context, k key, size int64, r io.Reader, before, now *member) error {
	if size > maxLabel {
		return fmt.Errorf("file %v has %d bytes", k, size)
	}
	content := make([]byte, size)
	if _, err := io.ReadFull(r, content); err != nil {
		return fmt.Errorf("file %v: %w", k, err)
	}
	if err := s.pieces.add(group{key: k, member: &member{kind: backup.File, size: size, crc: checksum(content)}}); err != nil {
		return err
	}
	label := pgdata.LabelOfFull(content)
	return s.putFile(ctx, k, int64(len(label)), bytes.NewReader(label), before, now)
}

// cutIncremental returns the key of the file that a member stands for, if that is an incremental one.
func (s *Sink) cutIncremental(m backup.Member, k key) (whole key, isIncremental bool) {
	if s.since == nil || m.Kind != backup.File {
		return k, false
	}
	if isLabel(k) {
		return k, true
	}
	path, ok := pgdata.CutIncremental(backup.ManifestPath(k.tablespace, k.path))
	if !ok {
		return k, false
	}
	if _, _, ok := pgdata.ParseRelationPath(path); !ok {
		return k, false
	}
	whole.tablespace, whole.path = s.commit.CutPath(path)
	return whole, true
}

// putIncremental lays an incremental file of so many bytes over the parent's. arrived is its key, as it came.
func (s *Sink) putIncremental(ctx context.Context, arrived, k key, size int64, r io.Reader, before, now *member) error {
	if before == nil || before.kind != backup.File {
		return fmt.Errorf("file %v came as an incremental one, but backup %s has none of that name", k, s.commit.Parent)
	}
	in := &inOrder{r: r}
	header, err := pgdata.ReadIncremental(in, size, arrived.path)
	if err != nil {
		return err
	}
	if err := in.skip(header.HeaderSize()); err != nil {
		return err
	}
	kept, err := s.keptBlocks(k, header, before.size)
	if err != nil {
		return err
	}
	if err := s.overlay(ctx, k, header, kept, in, before, now); err != nil {
		return err
	}
	if n, err := r.Read(make([]byte, 1)); n > 0 {
		return fmt.Errorf("file %v was to have %d bytes, but has more", arrived, size)
	} else if err != nil && err != io.EOF {
		return err
	}
	s.commit.Files++
	s.commit.Size += now.size
	return s.pieces.add(group{key: arrived, member: &member{kind: backup.File, size: size, crc: in.crc}})
}

// keptBlocks returns up to which block a file has those of the parent's that an incremental one
// does not list.
func (s *Sink) keptBlocks(k key, header pgdata.Incremental, size int64) (int64, error) {
	kept := min(int64(header.Truncation), size/BlockSize)
	if s.since.Cut == nil {
		return kept, nil
	}
	relation, segment, _ := pgdata.ParseRelationPath(backup.ManifestPath(k.tablespace, k.path))
	first := int64(segment) * pgdata.SegmentPages
	length := int64(header.Length())
	limit, _ := s.since.Cut.Limit(relation)
	cut := max(0, int64(limit)-first)
	if cut >= length {
		return kept, nil
	}
	at := 0
	for _, b := range s.since.Cut.Blocks(relation, uint32(first+cut), uint32(first+length)) {
		within := uint32(int64(b) - first)
		for at < len(header.Blocks) && header.Blocks[at] < within {
			at++
		}
		if at == len(header.Blocks) || header.Blocks[at] != within {
			return 0, fmt.Errorf("%w: block %d of file %v", errForgotten, within, k)
		}
	}
	return min(kept, cut), nil
}

// overlay stores the blocks that an incremental file lists, and finds out the checksum of the whole.
func (s *Sink) overlay(ctx context.Context, k key, header pgdata.Incremental, kept int64, in io.Reader, before, now *member) error {
	length := int64(header.Length())
	now.size = length * BlockSize
	if len(header.Blocks) == 0 && kept == length && now.size == before.size && len(s.thin) == 0 {
		now.crc = before.crc
		return nil
	}
	parent, err := s.parent.file(ctx, k, before.size)
	if err != nil {
		return err
	}
	f := fileSink{sink: s, key: k, parent: parent, parentSize: before.size}
	if f.adopted, err = s.adopted.file(ctx, k, now.size); err != nil {
		return err
	}
	page := s.buffer[:BlockSize]
	listed := header.Blocks
	for f.at < length {
		var b block
		var err error
		switch {
		case len(listed) > 0 && int64(listed[0]) == f.at:
			listed = listed[1:]
			if _, err := io.ReadFull(in, page); err != nil {
				return fmt.Errorf("incremental file of %v: %w", k, err)
			}
			b, err = f.writeBlock(ctx, page)
		case f.at < kept:
			b, err = f.keep(ctx)
		default:
			b, err = f.writeBlock(ctx, zeroPage[:])
		}
		if err != nil {
			return err
		}
		now.crc = appendChecksum(now.crc, b)
	}
	return f.flushTold()
}

// keep leaves the block that comes next as it is in the parent. In a pack that is to be needed no
// more it is stored anew.
func (f *fileSink) keep(ctx context.Context) (block, error) {
	if has, err := f.reach(ctx); err != nil || !has {
		return block{}, errors.Join(err, errPart)
	}
	i := f.at - f.extent.first
	b := f.extent.blocks[i]
	if err := f.flushTold(); err != nil {
		return b, err
	}
	s := f.sink
	if s.thin[f.extent.at.pack] {
		if s.frames == nil {
			s.frames = newFrames(s.cluster)
		}
		opened, err := s.frames.get(ctx, []extent{f.extent})
		if err != nil {
			return b, err
		}
		defer s.frames.release(opened)
		content := opened[0].bytes()
		from := int64(f.extent.at.within) + i*BlockSize
		if from+BlockSize > int64(len(content)) {
			return b, errPart
		}
		page := content[from : from+BlockSize]
		if s.digests.Sum(page) != b.digest || checksum(page) != b.crc {
			return b, fmt.Errorf("file %v, block %d, in pack %v: %w", f.key, f.at, f.extent.at.pack, errPart)
		}
		if err := s.add(f, page, b); err != nil {
			return b, err
		}
	}
	f.at++
	return b, nil
}

// provePieces compares incremental files with the manifest: of each there are two groups, as it
// came and as it is listed.
func (s *Sink) provePieces(ctx context.Context) error {
	var came *group
	err := s.pieces.each(ctx, func(g group) error {
		if came == nil {
			came = &g
			return nil
		}
		one, other := came, g
		came = nil
		switch {
		case one.key != other.key:
			return fmt.Errorf("%w: incremental file %v came or is listed alone", errUnproved, one.key)
		case one.member.size != other.member.size || one.member.crc != other.member.crc:
			return fmt.Errorf("%w: incremental file %v has checksum %08x, and not %08x", errUnproved, one.key, one.member.crc, other.member.crc)
		}
		return nil
	})
	if err == nil && came != nil {
		err = fmt.Errorf("%w: incremental file %v came or is listed alone", errUnproved, came.key)
	}
	return err
}

// inOrder reads what comes, and computes its checksum. It is an io.ReaderAt for who reads one byte
// after the other.
type inOrder struct {
	r   io.Reader
	at  int64
	crc uint32
}

func (o *inOrder) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	o.at += int64(n)
	o.crc = crc32.Update(o.crc, castagnoli, p[:n])
	return n, err
}

// ReadAt reads from where the last one ended.
func (o *inOrder) ReadAt(p []byte, off int64) (int, error) {
	if off != o.at {
		return 0, errors.ErrUnsupported
	}
	return io.ReadFull(o, p)
}

// skip reads up to an offset.
func (o *inOrder) skip(to int64) error {
	_, err := io.CopyN(io.Discard, o, to-o.at)
	return err
}
