package chain

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/pgdata"
)

// content is a file of the whole backup as it is made. It is a backup.Placed. Close it.
//
// Source: src/bin/pg_combinebackup/reconstruct.c, PostgreSQL 18.
type content struct {
	overlay    *Overlay
	tablespace uint32
	path       string  // below the tablespace
	listed     string  // in the manifest
	parts      []*part // the newest first
	size       int64   // in bytes
	prepared   bool

	copyOf *part    // all bytes are this one's; or else
	blocks []origin // where each block comes from

	algorithm manifest.Algorithm // of checksum
	checksum  []byte             // once it is known
	sum       hash.Hash          // of the bytes that were given; nil if that is not to be found out

	done func() error // is called once all is found to be right; may be nil

	next  int    // block that comes after run
	run   run    // in hand
	last  []byte // of a piece, not read yet
	ended error  // io.EOF or what went wrong
}

// origin is where a block comes from.
type origin struct {
	part  uint16 // number of it, from one on; zero: it is zeros
	index uint32 // of the page among those of the part
}

// run is a number of bytes that lie one after the other.
type run struct {
	part *part // nil: zeros
	off  int64 // in its file, in bytes
	n    int64 // bytes
}

// newContent opens a file of the newest backup. within is its path there.
func (v *Overlay) newContent(tablespace uint32, within string) (*content, error) {
	listedAs := backup.ManifestPath(tablespace, within)
	whole, isIncremental := pgdata.CutIncremental(listedAs)
	c := &content{
		overlay: v, tablespace: tablespace, listed: whole,
		path:      path.Join(path.Dir(within), path.Base(whole)),
		algorithm: v.o.Checksums,
	}
	if v.o.NoManifest || strings.HasPrefix(whole, "pg_wal/") {
		c.algorithm = manifest.NoChecksum
	}
	open := v.open
	if isIncremental {
		open = v.openIncremental
	}
	p, err := open(v.newest, tablespace, within, listedAs)
	if err != nil {
		return nil, err
	}
	c.parts = []*part{p}
	if p.whole {
		c.size = p.file.Size
		return c, nil
	}
	c.size = int64(p.header.Length()) * pgdata.PageSize
	if both, err := v.newest.Backup.Open(tablespace, c.path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = errors.Join(fmt.Errorf("\"%s\" and \"%s\" are both there, but are the same file", both.Name, p.file.Name), both.Close())
		}
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// prepare finds out where all blocks come from, and which checksums are to be computed.
func (c *content) prepare() error {
	if c.prepared {
		return c.ended
	}
	c.prepared = true
	if c.ended = c.trace(); c.ended != nil {
		return c.ended
	}
	if c.copyOf != nil {
		c.run = run{part: c.copyOf, n: c.size}
		if c.knows() {
			return nil
		}
	}
	c.sum = c.algorithm.New()
	return nil
}

// knows says whether the checksum is the one that a manifest has already: what it says of
// a file is compared with that, or taken for granted.
func (c *content) knows() bool {
	l := c.copyOf.listed
	if l.Algorithm != c.algorithm || c.algorithm == manifest.NoChecksum {
		return false
	}
	c.checksum = l.Checksum
	return true
}

// trace goes back from the newest backup until every block has been found.
//
// Source: reconstruct_from_incremental_file in src/bin/pg_combinebackup/reconstruct.c, PostgreSQL 18.
func (c *content) trace() error {
	newest := c.parts[0]
	if newest.whole {
		c.copyOf = newest
		return nil
	}
	c.blocks = make([]origin, newest.header.Length())
	truncation := newest.header.Truncation
	taken := c.take(newest, uint32(len(c.blocks)))
	for i := len(c.overlay.inputs) - 2; i >= 0; i-- {
		p, err := c.overlay.openOlder(c.overlay.inputs[i], c.tablespace, c.path)
		if err != nil {
			return err
		}
		c.parts = append(c.parts, p)
		if !p.whole {
			taken += c.take(p, truncation)
			continue
		}
		if taken == 0 && p.file.Size == int64(truncation)*pgdata.PageSize {
			c.copyOf, c.blocks = p, nil
			return nil
		}
		for b := range min(truncation, p.blocks()) {
			if c.blocks[b].part == 0 {
				c.blocks[b] = origin{uint16(len(c.parts)), b}
				p.used++
			}
		}
		return nil
	}
	oldest := c.parts[len(c.parts)-1]
	return fmt.Errorf("full backup contains unexpected incremental file \"%s\"", oldest.file.Name)
}

// take takes those blocks before end from an incremental file that no newer one had. It
// returns how many that were.
func (c *content) take(p *part, end uint32) int {
	for i, b := range p.header.Blocks {
		if b < end && c.blocks[b].part == 0 {
			c.blocks[b] = origin{uint16(len(c.parts)), uint32(i)}
			p.used++
		}
	}
	return int(p.used)
}

// openOlder opens what an older backup has of a file: all of it, or what had changed.
func (v *Overlay) openOlder(in *input, tablespace uint32, within string) (*part, error) {
	p, err := v.open(in, tablespace, within, backup.ManifestPath(tablespace, within))
	if !errors.Is(err, fs.ErrNotExist) {
		return p, err
	}
	within = pgdata.IncrementalPath(within)
	return v.openIncremental(in, tablespace, within, backup.ManifestPath(tablespace, within))
}

// advance makes the next run the one in hand.
func (c *content) advance() bool {
	if c.next == len(c.blocks) {
		return false
	}
	first := c.blocks[c.next]
	c.run = run{n: pgdata.PageSize}
	if first.part > 0 {
		c.run.part = c.parts[first.part-1]
		c.run.off = int64(first.index) * pgdata.PageSize
		if !c.run.part.whole {
			c.run.off += c.run.part.header.HeaderSize()
		}
	}
	for c.next++; c.next < len(c.blocks); c.next++ {
		follows := first.part == 0 || c.blocks[c.next].index == first.index+uint32(c.run.n/pgdata.PageSize)
		if c.blocks[c.next].part != first.part || !follows {
			break
		}
		c.run.n += pgdata.PageSize
	}
	return true
}

// zeros are given for blocks that no backup has.
var zeros [bufferSize]byte

// piece returns the bytes that follow, which are valid until the next call, and io.EOF
// after the last, when all has been found to be right.
func (c *content) piece() ([]byte, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	if c.run.n == 0 && !c.advance() {
		if c.ended = c.finish(); c.ended == nil {
			c.ended = io.EOF
		}
		return nil, c.ended
	}
	p := zeros[:min(c.run.n, bufferSize)]
	if c.run.part != nil {
		var err error
		if p, err = c.run.part.view(c.run.off, c.run.n); err != nil {
			c.ended = err
			return nil, err
		}
	}
	c.run.off += int64(len(p))
	c.run.n -= int64(len(p))
	if c.sum != nil {
		_, _ = c.sum.Write(p)
	}
	c.overlay.bytes.Add(int64(len(p)))
	return p, nil
}

// finish compares the files that were read with their manifests, and tells of the content.
func (c *content) finish() error {
	for _, p := range c.parts {
		if err := p.finish(); err != nil {
			return err
		}
	}
	if c.sum != nil {
		c.checksum = c.sum.Sum(nil)
	}
	c.tell()
	c.overlay.files.Add(1)
	if c.done != nil {
		return c.done()
	}
	return nil
}

// tell says what was done.
func (c *content) tell() {
	debug := c.overlay.o.Debug
	if c.copyOf != nil {
		debug("copied \"%s\"", c.copyOf.file.Name)
		return
	}
	debug("reconstructed \"%s\" (%d blocks, checksum %v)", c.listed, len(c.blocks), c.algorithm)
	given := 0
	for _, p := range c.parts {
		if p.used > 0 {
			debug("read %d blocks from \"%s\"", p.used, p.file.Name)
		}
		given += int(p.used)
	}
	if n := len(c.blocks) - given; n > 0 {
		debug("zero-filled %d blocks", n)
	}
}

// Read reads the content.
func (c *content) Read(p []byte) (int, error) {
	if len(c.last) == 0 {
		var err error
		if c.last, err = c.piece(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.last)
	c.last = c.last[n:]
	return n, nil
}

// directSize is the length in bytes from which on a piece is written where it lies: a copy
// of it would cost more than the write it saves.
const directSize = 32 << 10

// WriteTo writes the content to w, in pieces that are not too small.
func (c *content) WriteTo(w io.Writer) (n int64, err error) {
	write := func(p []byte) error {
		if len(p) == 0 {
			return nil
		}
		written, err := w.Write(p)
		n += int64(written)
		return err
	}
	gathered := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(gathered)
	small := (*gathered)[:0]
	for {
		p, err := c.piece()
		isLast := errors.Is(err, io.EOF)
		if err != nil && !isLast {
			return n, err
		}
		if isLast || len(small)+len(p) > cap(small) || len(p) >= directSize {
			if err := write(small); err != nil {
				return n, err
			}
			small = small[:0]
		}
		switch {
		case isLast:
			return n, nil
		case len(p) < directSize:
			small = append(small, p...)
		default:
			if err := write(p); err != nil {
				return n, err
			}
		}
	}
}

// Extents yields where the content lies.
func (c *content) Extents() iter.Seq2[backup.Extent, error] {
	return func(yield func(backup.Extent, error) bool) {
		if err := c.prepare(); err != nil {
			yield(backup.Extent{}, err)
			return
		}
		if from := c.copyOf; from != nil {
			yield(backup.Extent{File: from.file, Length: c.size}, nil)
			return
		}
		walk := content{parts: c.parts, blocks: c.blocks, run: c.run}
		for walk.run.n > 0 || walk.advance() {
			e := backup.Extent{Offset: walk.run.off, Length: walk.run.n}
			if walk.run.part != nil {
				e.File = walk.run.part.file
			}
			if walk.run.n = 0; !yield(e, nil) {
				return
			}
		}
	}
}

// Settle compares the files with their manifests, as reading them does.
func (c *content) Settle(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return err
	}
	isRead := c.sum != nil
	for _, p := range c.parts {
		isRead = isRead || p.isChecked()
	}
	if !isRead {
		c.ended = io.EOF
		return c.finish()
	}
	for ctx.Err() == nil {
		if _, err := c.piece(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// Close closes the files.
func (c *content) Close() error {
	var errs []error
	for _, p := range c.parts {
		errs = append(errs, p.Close())
	}
	c.parts = nil
	return errors.Join(errs...)
}
