package tarball

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"
	"time"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/usererr"
)

// gatherSize is how many bytes of headers and small files become one write.
const gatherSize = 256 << 10

// directSize is the length in bytes from which on a piece is written where it
// lies: a copy of it would cost more than the write it saves.
const directSize = 16 << 10

// archive is one tar file that is being written: bytes are gathered, compressed,
// and written to a file or to the standard output.
type archive struct {
	buf    []byte // gathered, not yet written
	gate   *gate
	press  io.WriteCloser // nil without compression
	remake func(io.Writer) (io.WriteCloser, error)
}

// newArchive begins an archive in w, which it closes.
func newArchive(w io.WriteCloser, compress func(io.Writer) (io.WriteCloser, error)) (*archive, error) {
	a := &archive{gate: &gate{w: w}, remake: compress, buf: make([]byte, 0, gatherSize)}
	if compress == nil {
		return a, nil
	}
	var err error
	if a.press, err = compress(a.gate); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return a, nil
}

// add writes a member: its header, its bytes, and zeros to a whole block.
func (a *archive) add(ctx context.Context, m backup.Member, r io.Reader) error {
	if m.Kind != backup.File {
		m.Size = 0
	}
	if m.Size < 0 {
		return fmt.Errorf("the size of member %q is not known", m.Path)
	}
	if err := a.header(m); err != nil {
		return err
	}
	if r != nil && m.Kind == backup.File {
		if err := localfs.Copy(ctx, a, r, m.Path, m.Size); err != nil {
			return err
		}
	} else if m.Size > 0 {
		return fmt.Errorf("member %q comes without its %d bytes", m.Path, m.Size)
	}
	return a.zeros(backup.TarPadding(m.Size))
}

// addManifest writes the manifest as a member. Its header tells its size, so all
// of it is held in memory if that is not known.
func (a *archive) addManifest(ctx context.Context, m backup.Member, r io.Reader, mode fs.FileMode) error {
	if m.Size < 0 {
		var whole bytes.Buffer
		if err := localfs.Copy(ctx, &whole, r, manifest.Name, m.Size); err != nil {
			return err
		}
		m.Size, r = int64(whole.Len()), &whole
	}
	return a.add(ctx, backup.Member{
		Path: manifest.Name, Kind: backup.File, Size: m.Size, Mode: mode,
		UID: backup.InjectedUID, GID: backup.InjectedGID, ModTime: time.Now(),
	}, r)
}

func (a *archive) header(m backup.Member) error {
	block, err := backup.AppendTarHeader(make([]byte, 0, backup.TarBlock), m)
	if err != nil {
		return err
	}
	_, err = a.Write(block)
	return err
}

func (a *archive) zeros(n int) error {
	var block [backup.TarEnd]byte
	for n > 0 {
		w, err := a.Write(block[:min(n, len(block))])
		if err != nil {
			return err
		}
		n -= w
	}
	return nil
}

// Write takes the next bytes of the archive. Large pieces are not copied.
func (a *archive) Write(p []byte) (int, error) {
	if len(p) < directSize && len(a.buf)+len(p) <= cap(a.buf) {
		a.buf = append(a.buf, p...)
		return len(p), nil
	}
	if err := a.pass(); err != nil {
		return 0, err
	}
	if len(p) < directSize {
		a.buf = append(a.buf, p...)
		return len(p), nil
	}
	return a.below().Write(p)
}

// below returns what the gathered bytes go to.
func (a *archive) below() io.Writer {
	if a.press != nil {
		return a.press
	}
	return a.gate
}

// pass writes what was gathered.
func (a *archive) pass() error {
	if len(a.buf) == 0 {
		return nil
	}
	_, err := a.below().Write(a.buf)
	a.buf = a.buf[:0]
	return err
}

// flush writes everything taken so far. Compressed, it ends the stream and begins
// another behind it, which every reader of gzip, LZ4 and zstd files goes on with,
// unless the compressor can flush by itself.
func (a *archive) flush() error {
	if err := a.pass(); err != nil || a.press == nil {
		return err
	}
	if f, ok := a.press.(interface{ Flush() error }); ok {
		return f.Flush()
	}
	if err := a.press.Close(); err != nil {
		return err
	}
	var err error
	a.press, err = a.remake(a.gate)
	return err
}

// finish writes the end of the archive and closes it.
func (a *archive) finish() error {
	err := a.zeros(backup.TarEnd)
	if err == nil {
		err = a.pass()
	}
	if err != nil {
		a.abandon()
		return err
	}
	return a.close()
}

// close ends the compressed stream and closes what is below.
func (a *archive) close() error {
	var err error
	if a.press != nil {
		err = a.press.Close()
		a.press = nil
	}
	return errors.Join(err, a.gate.w.Close())
}

// abandon closes the archive as it is. The compressor is closed for what it
// holds, but writes no end to the stream: what is there cannot be taken for whole.
func (a *archive) abandon() {
	a.gate.shut.Store(true)
	_ = a.close() // an error here is of what was given up
}

// gate is the way to the output. Once shut, it swallows what comes. A compressor
// writes to it from a goroutine of its own.
type gate struct {
	w    io.WriteCloser
	shut atomic.Bool
}

func (g *gate) Write(p []byte) (int, error) {
	if g.shut.Load() {
		return len(p), nil
	}
	return g.w.Write(p)
}

// output is the standard output, which stays open.
type output struct{ w io.Writer }

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		err = localfs.Errorf(err, "", `could not write to file "%s"`, "-")
		if errors.Is(err, syscall.ENOSPC) {
			err = &usererr.Error{Err: err, Hint: "What the standard output goes to is full; make room there, or send it elsewhere."}
		}
		return n, err
	}
	return n, nil
}

func (o *output) Close() error { return nil }
