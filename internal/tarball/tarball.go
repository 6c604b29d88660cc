// Package tarball knows how a backup lies in tar files: one archive for each
// tablespace, base.tar for the data directory, pg_wal.tar for the log that was
// streamed beside it, and backup_manifest as a file of its own.
//
// It does not know where a backup comes from or how bytes are compressed, and
// does not look into an archive that the server compressed.
package tarball

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Options of a Sink. Either Dir or Output is required; the rest may be zero.
type Options struct {
	Dir    *localfs.Claim // the directory the archives are made in
	Output io.Writer      // takes the only archive instead, the manifest as its last member

	Compress func(io.Writer) (io.WriteCloser, error) // nil: no compression; Close ends the stream, not the writer below
	Suffix   string                                  // after .tar, for what Compress makes of it, such as .gz

	FileMode fs.FileMode // of the archives and the manifest; zero is 0600

	Sync localfs.Syncer // makes the backup durable, unless it goes to Output

	Progress *backup.Progress // if not nil, is told the path of each archive
}

// Sink writes a backup as tar files. It is a backup.Sink.
//
// Members of one tablespace come together; a member of an archive that was left
// is an error. After an error the sink takes nothing more. Close before Commit
// leaves the archives as far as they came, and the manifest only as
// backup_manifest.tmp.
type Sink struct {
	options Options
	names   map[uint32]string
	order   []uint32        // of the archives, the data directory last
	done    map[uint32]bool // archives that exist
	current *archive        // the one being written, or nil
	oid     uint32          // of current
	sent    bool            // Output was given an archive as the server made it
	closed  bool

	manifest bool
	failed   error
}

// NewSink returns a sink that has touched nothing yet.
func NewSink(o Options) *Sink {
	if o.FileMode == 0 {
		o.FileMode = localfs.FileModeOwner
	}
	return &Sink{options: o, names: map[uint32]string{}, done: map[uint32]bool{}}
}

// Begin learns which archives there will be. More than one cannot go to Output.
func (s *Sink) Begin(_ context.Context, start backup.Start) error {
	s.failed = s.begin(start)
	return s.failed
}

func (s *Sink) begin(start backup.Start) error {
	if n := len(start.Tablespaces); s.options.Output != nil && n > 0 {
		return fmt.Errorf("can only write single tablespace to stdout, database has %d", n+1)
	}
	for _, t := range start.Tablespaces {
		if _, taken := s.names[t.OID]; taken || t.OID == 0 {
			return fmt.Errorf("tablespace %d is announced twice", t.OID)
		}
		s.names[t.OID] = strconv.FormatUint(uint64(t.OID), 10) + ".tar"
		s.order = append(s.order, t.OID)
	}
	s.names[0] = "base.tar"
	s.order = append(s.order, 0)
	return nil
}

// Put adds a member to the archive of its tablespace. An Archive is stored as it
// comes, under its own name.
func (s *Sink) Put(ctx context.Context, m backup.Member, r io.Reader) error {
	if s.failed != nil {
		return s.failed
	}
	if s.closed || len(s.order) == 0 {
		return fs.ErrClosed
	}
	s.failed = s.put(ctx, m, r)
	return s.failed
}

func (s *Sink) put(ctx context.Context, m backup.Member, r io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch m.Kind {
	case backup.Manifest:
		return s.putManifest(ctx, m, r)
	case backup.Archive:
		return s.putArchive(ctx, m, r)
	}
	if err := s.switchTo(m.Tablespace); err != nil {
		return err
	}
	return s.current.add(ctx, m, r)
}

// switchTo makes the archive of a tablespace the one that is written.
func (s *Sink) switchTo(oid uint32) error {
	if s.current != nil && s.oid == oid {
		return nil
	}
	name, err := s.take(oid)
	if err != nil {
		return err
	}
	if s.options.Output != nil {
		s.current, err = newArchive(&output{w: s.options.Output}, s.options.Compress)
	} else {
		s.current, err = s.create(name + s.options.Suffix)
	}
	s.oid = oid
	return err
}

// take ends the archive in hand and returns the name of the next.
func (s *Sink) take(oid uint32) (string, error) {
	name, ok := s.names[oid]
	if !ok {
		return "", fmt.Errorf("tablespace %d was not announced", oid)
	}
	if s.done[oid] {
		return "", fmt.Errorf("member for %s after its end", name)
	}
	if err := s.finish(); err != nil {
		return "", err
	}
	s.done[oid] = true
	return name, nil
}

// finish ends the archive in hand, if there is one.
func (s *Sink) finish() error {
	if s.current == nil {
		return nil
	}
	a := s.current
	s.current = nil
	return a.finish()
}

func (s *Sink) create(name string) (*archive, error) {
	w, err := s.open(name)
	if err != nil {
		return nil, err
	}
	return newArchive(w, s.options.Compress)
}

// open makes a file in Dir.
func (s *Sink) open(name string) (*localfs.Writer, error) {
	path := filepath.Join(s.options.Dir.Path(), name)
	if s.options.Progress != nil {
		s.options.Progress.SetPath(path)
	}
	f, err := s.options.Dir.Root().OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, s.options.FileMode)
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not create file "%s"`, path)
	}
	return s.options.Sync.NewWriter(f, path), nil
}

// putArchive stores what the server made of a whole tablespace.
func (s *Sink) putArchive(ctx context.Context, m backup.Member, r io.Reader) error {
	name, err := s.take(m.Tablespace)
	if err != nil {
		return err
	}
	if s.options.Output != nil {
		s.sent = true
		return localfs.Copy(ctx, &output{w: s.options.Output}, r, m.Path, m.Size)
	}
	if !strings.HasPrefix(m.Path, name) { // what follows is the server's word for how it compressed
		return fmt.Errorf(`invalid archive name: "%s"`, m.Path)
	}
	return s.store(ctx, m.Path, m, r)
}

// store writes what r gives to a file in Dir as it is.
func (s *Sink) store(ctx context.Context, name string, m backup.Member, r io.Reader) error {
	w, err := s.open(name)
	if err != nil {
		return err
	}
	if err := localfs.Copy(ctx, w, r, name, m.Size); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

// putManifest writes the manifest under the name it has until Commit, or puts it
// into the only archive.
func (s *Sink) putManifest(ctx context.Context, m backup.Member, r io.Reader) error {
	s.manifest = true
	if s.options.Output == nil {
		return s.store(ctx, localfs.Temporary(manifest.Name), m, r)
	}
	if s.sent {
		return usererr.Hinted(
			"Use client-side compression, send the output to a directory rather than standard output, or use --no-manifest.",
			"cannot inject manifest into a compressed tar file")
	}
	if err := s.switchTo(0); err != nil {
		return err
	}
	return s.current.addManifest(ctx, m, r, s.options.FileMode)
}

// Commit ends the archives, makes those for which nothing came, makes all
// durable, and then gives the manifest its name, the last change of all.
func (s *Sink) Commit(ctx context.Context, _ wal.Position) error {
	if s.failed != nil {
		return s.failed
	}
	if s.closed || len(s.order) == 0 {
		return fs.ErrClosed
	}
	s.failed = s.commit(ctx)
	return s.failed
}

func (s *Sink) commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, oid := range s.order {
		if s.done[oid] {
			continue
		}
		if err := s.switchTo(oid); err != nil {
			return err
		}
	}
	if err := s.finish(); err != nil {
		return err
	}
	if s.options.Output == nil {
		name := ""
		if s.manifest {
			name = manifest.Name
		}
		if err := s.options.Sync.Finish(ctx, name, s.options.Dir); err != nil {
			return err
		}
	}
	return s.Close()
}

// Salvage is Commit without the last step: the manifest does not get its name.
func (s *Sink) Salvage(ctx context.Context, _ wal.Position) error {
	s.manifest = false
	return s.Commit(ctx, wal.Position{})
}

// Close closes what is open and removes nothing. The claim is not its to end. It
// may be called more than once.
func (s *Sink) Close() error {
	s.closed = true
	if s.current != nil {
		s.current.abandon()
		s.current = nil
	}
	return nil
}
