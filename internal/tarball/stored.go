package tarball

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"syscall"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/lookup"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// Stored is a backup that lies in tar files. It is a backup.Stored. Its files are read
// where they lie in the archive; an archive that is compressed is unpacked first.
type Stored struct {
	dir      string
	archives []*archiveFile
	headers  *lookup.Table // where they are, by the path that a manifest has
	warn     func(error)
}

// archiveFile is a tar file as it can be read at any place.
type archiveFile struct {
	backup.ArchiveName
	name string // of the file in the directory
	file *os.File
	size int64
}

// StoredOptions are the options of OpenStored.
type StoredOptions struct {
	// TempDir is where compressed archives are unpacked, and what is too much for memory
	// goes; empty is the system's. It has to have room for what they hold.
	TempDir string
	Warn    func(error) // is told of what is there but belongs to no backup
	// Unpacking, if not nil, is told of each archive before it is unpacked.
	Unpacking func(archive string)
}

// OpenStored opens the backup in a directory.
func OpenStored(ctx context.Context, dir string, o StoredOptions) (*Stored, error) {
	s := &Stored{dir: dir, headers: lookup.New(o.TempDir), warn: o.Warn}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Stored) open(ctx context.Context, o StoredOptions) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return localfs.Errorf(err, s.dir, "could not open directory \"%s\"", s.dir)
	}
	for _, e := range entries {
		name, ok := backup.ParseArchiveName(e.Name())
		if !ok {
			continue // as the manifest
		}
		a := &archiveFile{ArchiveName: name, name: e.Name()}
		for _, other := range s.archives {
			if other.Tablespace == a.Tablespace && other.Log == a.Log {
				return fmt.Errorf("\"%s\" and \"%s\" are archives of the same", s.dir+"/"+other.name, s.dir+"/"+a.name)
			}
		}
		s.archives = append(s.archives, a)
		if err := a.open(ctx, s.dir, o); err != nil {
			return err
		}
		if err := s.index(ctx, len(s.archives)-1); err != nil {
			return err
		}
	}
	s.headers.Finish()
	if !slices.ContainsFunc(s.archives, func(a *archiveFile) bool { return a.Tablespace == 0 && !a.Log }) {
		return usererr.Hinted("Name the directory of a backup, plain or of tar files.",
			"there is no backup in \"%s\": it has neither PG_VERSION nor base.tar", s.dir)
	}
	return nil
}

// open opens the file, or what it holds once it is unpacked.
func (a *archiveFile) open(ctx context.Context, dir string, o StoredOptions) error {
	where := dir + "/" + a.name
	f, _, err := localfs.OpenRegular(where)
	if err != nil {
		return localfs.Errorf(err, where, "could not open file \"%s\"", where)
	}
	a.file = f
	if a.Suffix != "" {
		if o.Unpacking != nil {
			o.Unpacking(where)
		}
		if err := a.unpack(ctx, where, o.TempDir); err != nil {
			return err
		}
	}
	info, err := a.file.Stat()
	if err != nil {
		return localfs.Errorf(err, where, "could not stat file \"%s\"", where)
	}
	a.size = info.Size()
	return nil
}

// unpack replaces the file by a temporary one without a name.
func (a *archiveFile) unpack(ctx context.Context, where, tempDir string) error {
	packed := a.file
	defer packed.Close() // it was only read
	temp, err := localfs.TempFile(tempDir)
	if err != nil {
		a.file = nil
		return err
	}
	a.file = temp
	r, err := seal.NewReader(packed, seal.BySuffix(a.Suffix))
	if err != nil {
		return err
	}
	defer r.Close() // it was only read
	w := &unpacking{temp, temp.Name()}
	if err := localfs.Copy(ctx, w, r, where, -1); err != nil {
		return fmt.Errorf("could not unpack archive \"%s\": %w", where, err)
	}
	return nil
}

// unpacking words the errors of a temporary file.
type unpacking struct {
	file *os.File
	path string
}

func (u *unpacking) Write(p []byte) (int, error) {
	n, err := u.file.Write(p)
	if err != nil {
		err = localfs.Errorf(err, u.path, "could not write to file \"%s\"", u.path)
	}
	return n, err
}

// maxArchive is how large an archive may be, in bytes: a place in one is kept together
// with its number.
const maxArchive = 1 << 46

// index finds the headers of an archive.
func (s *Stored) index(ctx context.Context, number int) error {
	a := s.archives[number]
	if a.size > maxArchive {
		return fmt.Errorf("archive \"%s\" is larger than %d bytes", s.dir+"/"+a.name, int64(maxArchive))
	}
	for m, err := range s.membersOf(a) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if m.Kind != backup.File {
			continue
		}
		if err := s.headers.Add(backup.ManifestPath(m.Tablespace, m.Path), int64(number)*maxArchive+m.header); err != nil {
			return err
		}
	}
	return nil
}

// placed is a member and where it lies.
type placed struct {
	backup.Member
	header, content int64 // in its archive, in bytes
	skipped         error // why it is no member of a backup, if it has no kind
}

// membersOf yields what is in an archive, be it of a backup or not.
func (s *Stored) membersOf(a *archiveFile) iter.Seq2[placed, error] {
	return func(yield func(placed, error) bool) {
		r := io.NewSectionReader(a.file, 0, a.size)
		archive := tar.NewReader(r) // which skips contents by seeking
		end := int64(0)             // of the content before, with what fills its block
		for {
			m, err := s.next(archive, r, a)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(placed{}, fmt.Errorf("could not read archive \"%s\": %w", s.dir+"/"+a.name, err))
				return
			}
			m.header = end
			if end = m.content; m.Kind == backup.File {
				end += m.Size + int64(backup.TarPadding(m.Size))
			}
			if end > a.size {
				yield(placed{}, fmt.Errorf("could not read archive \"%s\": it ends within \"%s\"", s.dir+"/"+a.name, m.Path))
				return
			}
			if !backup.LocalPath(m.Path) {
				yield(placed{}, fmt.Errorf("tar member has unsafe path name: \"%s\", in \"%s\"", m.Path, s.dir+"/"+a.name))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

// next reads the next header. What a backup does not have is a member without a kind.
func (s *Stored) next(archive *tar.Reader, r *io.SectionReader, a *archiveFile) (placed, error) {
	h, err := archive.Next()
	if err != nil {
		return placed{}, err
	}
	m := placed{Member: backup.Member{
		Tablespace: a.Tablespace, Path: path.Clean("./" + h.Name), Mode: fs.FileMode(h.Mode).Perm(), UID: h.Uid, GID: h.Gid, ModTime: h.ModTime,
	}}
	if a.Log {
		m.Path = path.Join("pg_wal", m.Path)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		m.Kind, m.Size, m.Apart = backup.File, h.Size, true
	case tar.TypeDir:
		if m.Path != "." {
			m.Kind = backup.Dir
		}
	case tar.TypeSymlink:
		m.skipped = fmt.Errorf("skipping symbolic link \"%s\"", s.Name(m.Tablespace, m.Path))
	default:
		m.skipped = fmt.Errorf("skipping special file \"%s\"", s.Name(m.Tablespace, m.Path))
	}
	m.content, err = r.Seek(0, io.SeekCurrent)
	return m, err
}

// Tablespaces returns those that there are archives of, by where the tablespace map has
// them. Those that are not in it are inside the data directory.
func (s *Stored) Tablespaces() ([]backup.Tablespace, error) {
	links, err := s.links()
	if err != nil {
		return nil, err
	}
	var all []backup.Tablespace
	for _, a := range s.archives {
		if a.Tablespace == 0 {
			continue
		}
		t := backup.Tablespace{OID: a.Tablespace, Location: fmt.Sprintf("pg_tblspc/%d", a.Tablespace)}
		for _, link := range links {
			if link.OID == t.OID {
				t.Location = localfs.Canonical(link.Target)
			}
		}
		all = append(all, t)
	}
	for _, link := range links {
		if !slices.ContainsFunc(all, func(t backup.Tablespace) bool { return t.OID == link.OID }) {
			return nil, fmt.Errorf("\"%s\" has tablespace %d, but there is no archive %d.tar", s.Name(0, pgdata.TablespaceMapPath), link.OID, link.OID)
		}
	}
	return all, nil
}

// links reads the tablespace map, if there is one.
func (s *Stored) links() ([]pgdata.TablespaceLink, error) {
	f, err := s.Open(0, pgdata.TablespaceMapPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.NewSectionReader(f, 0, min(f.Size, pgdata.MaxTablespaceMapSize)))
	if err != nil {
		return nil, localfs.Errorf(err, s.dir, "could not read file \"%s\"", f.Name)
	}
	return pgdata.ParseTablespaceMap(content)
}

// Members yields the tablespaces, then the data directory with the log, then the links to
// the tablespaces, which archives do not have, and last global/pg_control.
func (s *Stored) Members() iter.Seq2[backup.Member, error] {
	return func(yield func(backup.Member, error) bool) {
		var control backup.Member
		for _, wanted := range []func(*archiveFile) bool{
			func(a *archiveFile) bool { return a.Tablespace != 0 },
			func(a *archiveFile) bool { return a.Tablespace == 0 && !a.Log },
			func(a *archiveFile) bool { return a.Log },
		} {
			for _, a := range s.archives {
				if !wanted(a) {
					continue
				}
				for m, err := range s.membersOf(a) {
					switch {
					case err == nil && m.Tablespace == 0 && m.Path == pgdata.ControlPath:
						control = m.Member
						control.Apart = false
					case err == nil && m.Tablespace == 0 && m.Path == pgdata.TablespaceMapPath:
					case err == nil && m.skipped != nil:
						s.warn(m.skipped)
					case err == nil && m.Kind == 0: // the directory itself
					default:
						if !yield(m.Member, err) || err != nil {
							return
						}
					}
				}
			}
		}
		spaces, err := s.Tablespaces()
		if err != nil {
			yield(backup.Member{}, err)
			return
		}
		for _, t := range spaces {
			link := backup.Member{Path: fmt.Sprintf("pg_tblspc/%d", t.OID), Kind: backup.Symlink, Target: t.Location}
			if path.IsAbs(t.Location) && !yield(link, nil) {
				return
			}
		}
		if control.Path != "" {
			yield(control, nil)
		}
	}
}

// Open opens a file. The manifest is one beside the archives.
func (s *Stored) Open(tablespace uint32, within string) (*backup.StoredFile, error) {
	if tablespace == 0 && within == manifest.Name {
		return s.openManifest()
	}
	places, err := s.headers.Find(backup.ManifestPath(tablespace, within))
	if err != nil {
		return nil, err
	}
	var found *backup.StoredFile
	for _, at := range places {
		f, err := s.openAt(s.archives[at/maxArchive], at%maxArchive, tablespace, within)
		switch {
		case err != nil:
			return nil, err
		case f != nil && found != nil:
			return nil, fmt.Errorf("\"%s\" is there twice", f.Name)
		case f != nil:
			found = f
		}
	}
	if found == nil {
		name := s.Name(tablespace, within)
		return nil, localfs.Errorf(syscall.ENOENT, "", "could not open file \"%s\"", name)
	}
	return found, nil
}

// openAt opens the file whose header is at a place of an archive, or returns nil if it is another.
func (s *Stored) openAt(a *archiveFile, header int64, tablespace uint32, within string) (*backup.StoredFile, error) {
	r := io.NewSectionReader(a.file, header, a.size-header)
	m, err := s.next(tar.NewReader(r), r, a)
	if err != nil {
		return nil, fmt.Errorf("could not read archive \"%s\": %w", s.dir+"/"+a.name, err)
	}
	if m.Tablespace != tablespace || m.Path != within {
		return nil, nil
	}
	return &backup.StoredFile{
		File: a.file, Offset: header + m.content, Size: m.Size, ModTime: m.ModTime, Mode: m.Mode, UID: m.UID, GID: m.GID,
		Name: s.Name(tablespace, within), Shared: true,
	}, nil
}

func (s *Stored) openManifest() (*backup.StoredFile, error) {
	name := s.dir + "/" + manifest.Name
	f, info, err := localfs.OpenRegular(name)
	if err != nil {
		return nil, localfs.Errorf(err, name, "could not open file \"%s\"", name)
	}
	return &backup.StoredFile{File: f, Size: info.Size(), ModTime: info.ModTime(), Name: name}, nil
}

// Name returns what messages call a file: the archive it is in, and its path there.
func (s *Stored) Name(tablespace uint32, within string) string {
	if tablespace == 0 && within == manifest.Name {
		return s.dir + "/" + manifest.Name
	}
	for _, a := range s.archives {
		if a.Tablespace == tablespace && !a.Log {
			return s.dir + "/" + a.name + ": " + within
		}
	}
	return s.dir + ": " + within
}

// Close closes the archives.
func (s *Stored) Close() error {
	errs := []error{s.headers.Close()}
	for _, a := range s.archives {
		if a.file != nil {
			errs = append(errs, a.file.Close())
		}
	}
	return errors.Join(errs...)
}
