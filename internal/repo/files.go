package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"

	"basin/internal/backup"
	"basin/internal/seal"
)

// Files are the files of a backup, of which any page can be read by itself: it takes a look into the index,
// and a range of one pack. What is read is compared with what was read when the backup was made. They may be
// used from several goroutines.
type Files struct {
	source *Source
}

// Files returns the files of a backup.
func (c *Cluster) Files(ctx context.Context, commit Commit) (*Files, error) {
	s := c.NewSource(commit, SourceOptions{})
	if _, err := s.Begin(ctx); err != nil {
		return nil, err
	}
	return &Files{s}, nil
}

// Members yields the members of a tablespace, or of the data directory, whose paths begin with prefix, in the order of
// their bytes. None is held in memory. Tablespaces are not in the data directory's pg_tblspc.
func (f *Files) Members(ctx context.Context, tablespace uint32, prefix string) iter.Seq2[backup.Member, error] {
	return func(yield func(backup.Member, error) bool) {
		for g, err := range f.source.index.all(ctx, key{tablespace, prefix}) {
			if err != nil {
				yield(backup.Member{}, err)
				return
			}
			if g.key.tablespace != tablespace || !strings.HasPrefix(g.key.path, prefix) || !yield(memberOf(g.key, g.member), nil) {
				return
			}
		}
	}
}

// Open opens a file by its path in a tablespace, or in the data directory. One that is not there is fs.ErrNotExist, and
// what is no file fs.ErrInvalid. ctx ends its reads.
func (f *Files) Open(ctx context.Context, tablespace uint32, path string) (*File, error) {
	k := key{tablespace, path}
	m, err := f.source.index.member(ctx, k)
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		return nil, fmt.Errorf("file %v: %w", k, fs.ErrNotExist)
	case m.kind != backup.File:
		return nil, fmt.Errorf("%v is no file: %w", k, fs.ErrInvalid)
	}
	return &File{Member: memberOf(k, m), ctx: ctx, source: f.source, key: k, member: m}, nil
}

// File is a file of a backup. ReadAt may be used from several goroutines; Read goes from its beginning to its end, and
// there compares the checksum of all too.
type File struct {
	backup.Member

	ctx    context.Context
	source *Source
	key    key
	member *member
	whole  *fileReader // nil before the first Read
}

// Read reads what follows.
func (f *File) Read(p []byte) (int, error) {
	if f.whole == nil {
		f.whole = &fileReader{source: f.source, ctx: f.ctx, key: f.key, member: f.member}
	}
	return f.whole.Read(p)
}

// ReadAt reads from any place: it is an io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("file %v: offset %d: %w", f.key, off, fs.ErrInvalid)
	}
	n := 0
	for n < len(p) && off < f.member.size {
		got, err := f.readWindow(p[n:min(len(p), n+windowSize)], off)
		n, off = n+got, off+int64(got)
		if err != nil {
			return n, fmt.Errorf("file %v: %w", f.key, err)
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readWindow reads up to a window from a place before the end.
func (f *File) readWindow(p []byte, off int64) (int, error) {
	first := off / BlockSize
	end := min(blocksOf(off+int64(len(p))), blocksOf(f.member.size))
	blocks, err := f.source.index.fileAt(f.ctx, f.key, f.member.size, first)
	if err != nil {
		return 0, err
	}
	var window []extent
	for at := first; at < end; {
		x, err := blocks.next(f.ctx)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errPart
			}
			return 0, err
		}
		x = x.cut(x.first, end)
		window = append(window, x)
		at = x.end()
	}
	opened, err := f.source.frames.get(f.ctx, window)
	if err != nil {
		return 0, err
	}
	defer f.source.frames.release(opened)
	n := 0
	for i, x := range window {
		for j := range x.blocks {
			block, err := f.block(x, j, opened[i].bytes())
			if err != nil {
				return n, err
			}
			if skipped := off - (x.first+int64(j))*BlockSize; skipped > 0 { // in the first
				block = block[skipped:]
			}
			n += copy(p[n:], block)
		}
	}
	return n, nil
}

// block returns a block of an extent, after it was compared with what it was.
func (f *File) block(x extent, i int, content []byte) ([]byte, error) {
	number := x.first + int64(i)
	size := min(BlockSize, f.member.size-number*BlockSize)
	if x.isZeros() {
		return zeroPage[:size], nil
	}
	from := int64(x.at.within) + int64(i)*BlockSize
	if from+size > int64(len(content)) {
		return nil, fmt.Errorf("block %d: %w", number, errPart)
	}
	b := content[from : from+size]
	if k := x.blocks[i]; f.source.digests.Sum(b) != k.digest || checksum(b) != k.crc {
		return nil, fmt.Errorf("block %d, in pack %v: %w", number, x.at.pack, seal.ErrDamaged)
	}
	return b, nil
}

// Close lets go of the file.
func (f *File) Close() error { return nil }

// fileAt is file, which begins with a block: parts and groups of the index that only tell of blocks before it are
// skipped.
func (x *index) fileAt(ctx context.Context, k key, size, at int64) (*fileBlocks, error) {
	f, err := x.file(ctx, k, size)
	if err != nil {
		return nil, err
	}
	f.at = at
	for _, r := range f.runs {
		if err := r.cursor.skip(ctx, k, at); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// skip goes forward, from a group of a file, to the last group of it that begins with or before a block.
func (c *cursor) skip(ctx context.Context, k key, at int64) error {
	// Parts that begin with the file begin with a block of it. Of few there are more than two.
	for c.next < len(c.level) && c.level[c.next].first() == k {
		ahead := cursor{parts: c.parts, level: c.level, next: c.next}
		if err := ahead.open(ctx); err != nil {
			return err
		}
		first, ok, err := ahead.part.firstBlock(0, k)
		if err != nil {
			return err
		}
		if !ok || first > at {
			break
		}
		*c = ahead
	}
	for low, high := c.at, len(c.part.groups); ; {
		if high-low <= 1 {
			c.at, c.group = low, nil
			return nil
		}
		middle := (low + high) / 2
		first, ok, err := c.part.firstBlock(middle, k)
		if err != nil {
			return err
		}
		if ok && first <= at {
			low = middle
		} else {
			high = middle
		}
	}
}

// firstBlock returns the first block that a group tells of, if it is of a file. A group without blocks has that of
// zero.
func (p *part) firstBlock(i int, k key) (first int64, ok bool, err error) {
	r := reader{b: p.data[p.groups[i]:]}
	r.uvarint()
	have := r.key()
	flags := r.byte()
	if r.failed {
		return 0, false, errPart
	}
	if have != k || flags&flagMember != 0 {
		return 0, false, nil
	}
	if r.uvarint() > 0 {
		first = int64(r.uvarint())
	}
	if r.failed || first < 0 {
		return 0, false, errPart
	}
	return first, true, nil
}
