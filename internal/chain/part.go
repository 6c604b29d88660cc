package chain

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/usererr"
)

// check compares a file with what the manifest of its backup says of it.
type check struct {
	name string
	want manifest.File
	sum  hash.Hash // nil if the manifest has no checksum of it
}

func newCheck(name string, want manifest.File) *check {
	return &check{name: name, want: want, sum: want.Algorithm.New()}
}

// add takes the bytes that follow.
func (c *check) add(p []byte) {
	if c.sum != nil {
		_, _ = c.sum.Write(p)
	}
}

// size compares the number of bytes.
func (c *check) size(size int64) error {
	if size != c.want.Size {
		return damaged("\"%s\" has size %d on disk but size %d in the manifest", c.name, size, c.want.Size)
	}
	return nil
}

// finish compares the checksum, after all bytes.
func (c *check) finish() error {
	if c.sum != nil && !bytes.Equal(c.sum.Sum(nil), c.want.Checksum) {
		return damaged("checksum mismatch for file \"%s\"", c.name)
	}
	return nil
}

// damaged is the error of a file that is not what the manifest says.
func damaged(format string, args ...any) error {
	return usererr.Hinted("The file was changed after the backup was taken. See what else is wrong with verifybackup, and use another copy of the backup, or one from before. "+
		"With --no-verify the file is used as it is, and the new backup may look valid all the same.", format, args...)
}

// part is a file of one backup that a whole one is made of.
type part struct {
	in     *input
	file   *backup.StoredFile
	listed manifest.File      // what the manifest says of it, if anything
	check  *check             // nil if it is not compared with that
	whole  bool               // not an incremental file
	header pgdata.Incremental // of an incremental one
	used   uint32             // blocks that come from here

	buf   *[]byte // of what was read last, from bufferPool
	at    int64   // where that is
	valid int     // bytes
}

// bufferSize is how much of a file is read at once, in bytes: it stays in the processor's
// cache until it is checked and written.
const bufferSize = 128 << 10

var bufferPool = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// open opens a file of a backup. listedAs is its path in the manifest.
func (v *Overlay) open(in *input, tablespace uint32, path, listedAs string) (*part, error) {
	f, err := in.Backup.Open(tablespace, path)
	if err != nil {
		return nil, err
	}
	p := &part{in: in, file: f, whole: true}
	if err := v.expect(p, listedAs); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// expect finds what the manifest says of a file.
func (v *Overlay) expect(p *part, listedAs string) error {
	listed, found, err := p.in.find(listedAs)
	ignored := manifest.Ignores(v.o.Ignore, listedAs)
	if found && p.in == v.newest {
		v.found++
		if ignored {
			v.ignored++
		}
	}
	switch {
	case err != nil:
		return err
	case ignored || p.in.catalog == nil:
		return nil
	case !found:
		v.o.Warn(fmt.Errorf("manifest file \"%s\" contains no entry for file \"%s\"", p.in.manifest.Name, listedAs))
		return nil
	}
	if p.listed = listed; v.o.NoVerify {
		return nil
	}
	p.check = newCheck(p.file.Name, listed)
	return p.check.size(p.file.Size)
}

// openIncremental opens an incremental file.
func (v *Overlay) openIncremental(in *input, tablespace uint32, path, listedAs string) (*part, error) {
	p, err := v.open(in, tablespace, path, listedAs)
	if err != nil {
		return nil, err
	}
	p.whole = false
	if p.header, err = pgdata.ReadIncremental(p.file, p.file.Size, p.file.Name); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// blocks returns how many whole blocks a whole file has.
func (p *part) blocks() uint32 { return uint32(p.file.Size / pgdata.PageSize) }

// view returns bytes from off on, at least one and at most n, which are valid until the
// next call. Where it is checked, a file is read from its beginning to its end, so that
// off must not go back.
func (p *part) view(off, n int64) ([]byte, error) {
	for off >= p.at+int64(p.valid) || off < p.at {
		at, size := off, n
		if p.isChecked() {
			at, size = p.at+int64(p.valid), bufferSize
		}
		if err := p.fill(at, min(size, bufferSize, p.file.Size-at)); err != nil {
			return nil, err
		}
	}
	rest := (*p.buf)[off-p.at : p.valid]
	return rest[:min(int64(len(rest)), n)], nil
}

func (p *part) isChecked() bool { return p.check != nil && p.check.sum != nil }

// fill reads n bytes from at on.
func (p *part) fill(at, n int64) error {
	if p.buf == nil {
		p.buf = bufferPool.Get().(*[]byte)
	}
	got, err := p.file.ReadAt((*p.buf)[:max(n, 0)], at)
	switch {
	case n <= 0 || errors.Is(err, io.EOF) && int64(got) < n:
		return fmt.Errorf("could not read from file \"%s\", offset %d: read %d of %d", p.file.Name, at, got, n)
	case err != nil && !errors.Is(err, io.EOF):
		return localfs.Errorf(err, p.file.Name, "could not read from file \"%s\"", p.file.Name)
	}
	p.at, p.valid = at, got
	if p.isChecked() {
		p.check.add((*p.buf)[:got])
	}
	return nil
}

// finish checks the file, of which the rest is read for that.
func (p *part) finish() error {
	if !p.isChecked() {
		return nil
	}
	for end := p.at + int64(p.valid); end < p.file.Size; end = p.at + int64(p.valid) {
		if err := p.fill(end, min(bufferSize, p.file.Size-end)); err != nil {
			return err
		}
	}
	return p.check.finish()
}

// Close closes the file.
func (p *part) Close() error {
	if p.buf != nil {
		bufferPool.Put(p.buf)
		p.buf = nil
	}
	return p.file.Close()
}
