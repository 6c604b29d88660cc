package chain

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"sync"
	"time"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/wal"
)

// SourceOptions are the options of a source.
type SourceOptions struct {
	DirMode, FileMode fs.FileMode         // permissions of all directories and files
	Tablespaces       []backup.Tablespace // where they go
	// TablespaceMap says that tablespaces outside the data directory are named in a
	// tablespace map, as in tar files, and not linked to.
	TablespaceMap bool
}

// Source returns the whole backup as a source, whose files are Apart. Its last member is
// the manifest that is made meanwhile, unless there is to be none.
func (v *Overlay) Source(o SourceOptions) backup.Source { return &source{overlay: v, o: o} }

// Tablespaces returns those of the newest backup.
func (v *Overlay) Tablespaces() ([]backup.Tablespace, error) { return v.newest.Backup.Tablespaces() }

type source struct {
	overlay *Overlay
	o       SourceOptions

	begun   time.Time
	members func() (backup.Member, error, bool)
	stop    func()
	held    []held   // is yielded before anything else
	control *content // which is not Apart, and closed here
	book    *book    // nil if no manifest is made
	ended   bool
}

// held is a member and its bytes.
type held struct {
	m backup.Member
	r io.Reader
}

// Begin begins the manifest.
func (s *source) Begin(context.Context) (backup.Start, error) {
	v := s.overlay
	if !v.o.NoManifest {
		var err error
		if s.book, err = newBook(v.o.TempDir, v.control.SystemID); err != nil {
			return backup.Start{}, err
		}
	}
	s.begun = time.Now()
	s.members, s.stop = iter.Pull2(v.newest.Backup.Members())
	return backup.Start{Position: v.start, Tablespaces: s.o.Tablespaces}, nil
}

// Next returns what comes next of the whole backup.
func (s *source) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	for {
		if len(s.held) > 0 {
			h := s.held[0]
			s.held = s.held[1:]
			return h.m, h.r, nil
		}
		m, err, ok := s.members()
		switch {
		case !ok:
			return s.last(ctx)
		case err != nil:
			return m, nil, err
		case m.Tablespace == 0 && (m.Path == pgdata.LabelPath || m.Path == pgdata.TablespaceMapPath || m.Path == manifest.Name):
			continue
		case m.Kind == backup.Symlink && s.o.TablespaceMap:
			continue
		case m.Kind != backup.File:
			m.Mode, m.ModTime, m.UID, m.GID = s.o.DirMode, s.begun, s.overlay.uid, s.overlay.gid
			return m, nil, nil
		case m.Tablespace == 0 && m.Path == pgdata.ControlPath:
			if err := s.holdLabel(m); err != nil {
				return m, nil, err
			}
			continue
		}
		whole, c, err := s.file(m)
		if err != nil {
			return m, nil, err
		}
		return whole, c, nil
	}
}

// file returns a file as it is in the whole backup.
func (s *source) file(m backup.Member) (backup.Member, *content, error) {
	c, err := s.overlay.newContent(m.Tablespace, m.Path)
	if err != nil {
		return m, nil, err
	}
	m.Path, m.Size, m.Mode, m.ModTime = c.path, c.size, s.o.FileMode, c.parts[0].file.ModTime
	m.UID, m.GID = s.overlay.uid, s.overlay.gid
	if s.book != nil {
		c.done = func() error {
			return s.book.add(manifest.File{Path: c.listed, Size: c.size, Algorithm: c.algorithm, Checksum: c.checksum}, m.ModTime)
		}
	}
	return m, c, nil
}

// holdLabel has the backup label come now, which is of a full backup, and the control file
// behind it: both are needed to start.
func (s *source) holdLabel(control backup.Member) error {
	control, r, err := s.file(control)
	if err != nil {
		return err
	}
	s.control = r
	if err := s.hold(control, pgdata.LabelPath, pgdata.LabelOfFull(s.overlay.newest.label)); err != nil {
		return err
	}
	if links := s.tablespaceMap(); links != nil {
		if err := s.hold(control, pgdata.TablespaceMapPath, links); err != nil {
			return err
		}
	}
	s.held = append(s.held, held{control, r})
	return nil
}

// tablespaceMap returns the tablespace map, or nil if there is to be none.
func (s *source) tablespaceMap() (links []byte) {
	for _, t := range s.o.Tablespaces {
		if s.o.TablespaceMap && path.IsAbs(t.Location) {
			links = pgdata.AppendTablespaceLink(links, pgdata.TablespaceLink{OID: t.OID, Target: t.Location})
		}
	}
	return links
}

// hold has a small file come now, which is like another but for its content.
func (s *source) hold(like backup.Member, path string, content []byte) error {
	m := like
	m.Path, m.Mode, m.Size = path, s.o.FileMode, int64(len(content))
	s.held = append(s.held, held{m, bytes.NewReader(content)})
	s.overlay.files.Add(1)
	if s.book == nil {
		return nil
	}
	f := manifest.File{Path: path, Size: m.Size, Algorithm: s.overlay.o.Checksums}
	if sum := f.Algorithm.New(); sum != nil {
		_, _ = sum.Write(content)
		f.Checksum = sum.Sum(nil)
	}
	return s.book.add(f, m.ModTime)
}

// last returns the manifest, and after it the end.
func (s *source) last(ctx context.Context) (backup.Member, io.Reader, error) {
	if s.ended {
		return backup.Member{}, nil, io.EOF
	}
	s.ended = true
	if err := s.overlay.checkMissing(ctx); err != nil {
		return backup.Member{}, nil, err
	}
	if s.book == nil {
		return backup.Member{}, nil, io.EOF
	}
	r, err := s.book.finish(s.overlay.newest.catalog.Ranges)
	return backup.Member{Path: manifest.Name, Kind: backup.Manifest, Size: -1}, r, err
}

// End returns where the newest backup ends, as far as its manifest says so.
func (s *source) End(context.Context) (wal.Position, error) {
	if c := s.overlay.newest.catalog; c != nil && len(c.Ranges) > 0 {
		return wal.Position{LSN: c.Ranges[0].End, Timeline: c.Ranges[0].Timeline}, nil
	}
	return wal.Position{}, nil
}

// Close lets go of what was begun.
func (s *source) Close() error {
	var errs []error
	if s.stop != nil {
		s.stop()
	}
	if s.control != nil {
		errs = append(errs, s.control.Close())
	}
	if s.book != nil {
		errs = append(errs, s.book.Close())
	}
	return errors.Join(errs...)
}

// book is the manifest as it is made, in a file that has no name.
type book struct {
	mu   sync.Mutex
	file *os.File
	w    *manifest.Writer
}

func newBook(dir string, systemID uint64) (*book, error) {
	f, err := localfs.TempFile(dir)
	if err != nil {
		return nil, err
	}
	return &book{file: f, w: manifest.NewWriter(f, systemID)}, nil
}

// add adds a file, once it was read.
func (b *book) add(f manifest.File, modified time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.w.Add(f, modified)
}

// finish ends the manifest and returns a reader of it.
func (b *book) finish(ranges []manifest.Range) (io.Reader, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.w.Finish(ranges); err != nil {
		return nil, err
	}
	_, err := b.file.Seek(0, io.SeekStart)
	return b.file, err
}

// Close removes the file.
func (b *book) Close() error { return b.file.Close() }
