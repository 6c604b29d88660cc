package verify

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"sync/atomic"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/seal"
)

// maxFrames bounds the memory of what is decompressed side by side.
const maxFrames = 8

// opened is an archive that is being read.
type opened struct {
	*tar.Reader
	unpacked io.ReadCloser
	file     *os.File
	inPlace  *inPlace // nil if it is compressed
}

// openArchive opens an archive of a directory. Bytes that were read of the file are added
// to done, unless that is nil. The end of ctx ends reading.
func openArchive(ctx context.Context, dir string, a archive, done *atomic.Int64) (*opened, error) {
	where := dir + "/" + a.name
	f, _, err := localfs.OpenRegular(where)
	if err != nil {
		return nil, localfs.Errorf(err, where, "could not open file \"%s\"", a.name)
	}
	src := counted{ctx, fileReader{f, a.name}, done}
	if a.Suffix == "" {
		r := &inPlace{counted: src, file: fileReader{f, a.name}}
		return &opened{tar.NewReader(r), io.NopCloser(r), f, r}, nil
	}
	unpacked, err := seal.NewFrameReader(src, seal.BySuffix(a.Suffix), min(runtime.GOMAXPROCS(0), maxFrames))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &opened{tar.NewReader(unpacked), unpacked, f, nil}, nil
}

// Close lets go of the archive, which was only read.
func (o *opened) Close() {
	_ = o.unpacked.Close()
	_ = o.file.Close()
}

// counted counts the bytes that are read, until the end of a context.
type counted struct {
	ctx  context.Context
	r    io.Reader
	done *atomic.Int64 // may be nil
}

func (c counted) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.count(int64(n))
	return n, err
}

func (c counted) count(n int64) {
	if c.done != nil {
		c.done.Add(n)
	}
}

// inPlace reads a file from its beginning, and lets package tar leave out what is in the
// members. Others read that, and count it.
type inPlace struct {
	counted
	file   fileReader
	at     int64
	others int64 // bytes from at on that others count
}

func (r *inPlace) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	n, err := r.file.ReadAt(p, r.at)
	r.pass(int64(n))
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// Seek goes on from where it is, as package tar does, and never back.
func (r *inPlace) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return 0, errors.ErrUnsupported
	}
	r.pass(offset)
	return r.at, nil
}

// pass goes on by n bytes.
func (r *inPlace) pass(n int64) {
	r.at += n
	theirs := min(n, r.others)
	r.others -= theirs
	r.count(n - theirs)
}

// leave leaves the next size bytes to others, to read them from what it returns.
func (r *inPlace) leave(size int64) io.Reader {
	r.others = size
	return counted{r.ctx, io.NewSectionReader(r.file, r.at, size), r.done}
}

// readArchive verifies what is in an archive: one that is not compressed on all
// processors, another as it comes.
func (v *Verifier) readArchive(ctx context.Context, dir string, a archive) error {
	archive, err := openArchive(ctx, dir, a, &v.done)
	if err != nil {
		return v.problem(err)
	}
	defer archive.Close()
	readers := 1
	if archive.inPlace != nil {
		readers = runtime.GOMAXPROCS(0)
	}
	m := &members{v: v, archive: a, opened: archive}
	return inOrder(ctx, readers, m.next)
}

// members is the work that the members of an archive are.
type members struct {
	*opened
	v       *Verifier
	archive archive
	ended   bool
}

// next goes to the next member, and returns how it is verified.
func (m *members) next() work {
	for !m.ended {
		member, err := m.Next()
		switch {
		case errors.Is(err, io.EOF):
			m.ended = true
			return m.rest
		case err != nil:
			m.ended = true
			return already(m.unreadable(err))
		case member.Typeflag != tar.TypeReg:
			continue
		}
		if do := m.member(member); do != nil {
			return do
		}
	}
	return nil
}

// already is work of which all was done.
func already(tell func() error) work {
	return func([]byte) func() error { return tell }
}

// rest reads what follows the archive's end, which is to be whole too where it is
// compressed.
func (m *members) rest(buf []byte) func() error {
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, m.unpacked, buf); err != nil {
		return m.unreadable(err)
	}
	return nil
}

// unreadable tells of an archive that cannot be read any further.
func (m *members) unreadable(err error) func() error {
	return func() error {
		if err := m.v.problem(fmt.Errorf("could not read archive \"%s\": %w", m.archive.name, err)); err != nil {
			return err
		}
		return errEnded
	}
}

// member returns how a file of the archive is verified, nil if it is not looked at.
func (m *members) member(member *tar.Header) work {
	v, a := m.v, m.archive
	within := path.Clean("./" + member.Name)
	if a.Tablespace != 0 {
		within = path.Clean(backup.ManifestPath(a.Tablespace, member.Name))
	}
	if v.ignores(within) {
		return nil
	}
	i, ok := v.files.Find(within)
	if !ok {
		return already(func() error {
			return v.problemf("file \"%s\" is present in archive \"%s\" but not in the manifest", member.Name, a.name)
		})
	}
	f := v.files.At(i)
	if f.Size != member.Size {
		return already(func() error {
			v.seen[i] |= found | bad
			return v.problemf("file \"%s\" has size %d in archive \"%s\" but size %d in the manifest", member.Name, member.Size, a.name, f.Size)
		})
	}
	isControl := within == pgdata.ControlPath && v.manifest.Version != 1
	switch {
	case !v.isRead(f) && !isControl:
		return already(func() error {
			v.seen[i] |= found
			return nil
		})
	case m.inPlace == nil:
		return m.content(i, f, m.Reader)
	case len(member.PAXRecords) > 0:
		// It may have holes, which package tar fills. No server writes such a member.
		return already(m.content(i, f, m.Reader)(make([]byte, readSize)))
	}
	return m.content(i, f, m.inPlace.leave(member.Size))
}

// content returns how the content of a file is verified, which r yields.
func (m *members) content(i int, f manifest.File, r io.Reader) work {
	v := m.v
	return func(buf []byte) func() error {
		c := v.newContent(f)
		var control []byte
		isControl := f.Path == pgdata.ControlPath && v.manifest.Version != 1
		for {
			n, err := io.ReadFull(r, buf)
			c.add(buf[:n])
			if isControl && len(control) < pgdata.ControlSize {
				control = append(control, buf[:n]...)
			}
			if c.size == f.Size && (err == io.EOF || err == io.ErrUnexpectedEOF) {
				break
			}
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return func() error {
					v.seen[i] |= found
					return m.unreadable(err)()
				}
			}
		}
		problems := v.tell(c.problems(f, fmt.Sprintf(" in archive \"%s\"", m.archive.name)))
		return func() error {
			v.seen[i] |= found
			if problems != nil {
				if err := problems(); err != nil {
					return err
				}
			}
			switch {
			case !isControl:
				return nil
			case c.size != pgdata.ControlSize:
				return fmt.Errorf("unexpected control file size %d, expected %d", c.size, pgdata.ControlSize)
			}
			return v.checkControl(m.archive.name+": "+f.Path, control)
		}
	}
}
