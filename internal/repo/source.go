package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/seal"
	"basin/internal/wal"
)

// SourceOptions say how a backup is read. The zero value is useful.
type SourceOptions struct {
	Progress *backup.Progress // counts bytes of files; may be nil
}

// Source reads a backup from a repository. It is a backup.Source, whose files may be read side by
// side. What is read is compared with what was read when the backup was made.
type Source struct {
	cluster *Cluster
	o       SourceOptions
	commit  Commit
	index   *index
	frames  *frames
	digests *seal.Digester

	places []uint32 // tablespaces that are to come, by OID
	next   func() (group, error, bool)
	stop   func()
	last   []key // files that come last
	ended  bool
}

// NewSource returns a source that has done nothing yet.
func (c *Cluster) NewSource(commit Commit, o SourceOptions) *Source {
	return &Source{cluster: c, o: o, commit: commit, index: c.index(&commit), frames: newFrames(c)}
}

// Begin tells what the backup is.
func (s *Source) Begin(ctx context.Context) (backup.Start, error) {
	start := backup.Start{
		Position: s.commit.Start, ServerVersion: s.commit.ServerVersion, SegmentSize: s.commit.SegmentSize,
		Tablespaces: slices.Clone(s.commit.Tablespaces), Size: s.commit.Size,
	}
	key, err := s.cluster.repo.readKey(ctx, s.commit.DigestKey)
	if err != nil {
		return start, err
	}
	if s.digests, err = seal.NewDigester(key); err != nil {
		return start, err
	}
	for _, t := range s.commit.Tablespaces {
		s.places = append(s.places, t.OID)
	}
	s.places = append(s.places, 0)
	if p := s.o.Progress; p != nil {
		p.Total.Store(s.commit.Size)
		p.Count.Store(int32(len(s.places)))
	}
	return start, nil
}

// isLate says whether a file comes behind all others: a server starts from none of what comes
// before.
func isLate(k key) bool {
	return k.tablespace == 0 && (k.path == pgdata.LabelPath || k.path == pgdata.TablespaceMapPath || k.path == pgdata.ControlPath)
}

// Next returns the next member.
func (s *Source) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	for s.next != nil || len(s.places) > 0 {
		if s.next == nil {
			s.next, s.stop = iter.Pull2(s.index.all(ctx, key{tablespace: s.places[0]}))
		}
		g, err, ok := s.next()
		if err != nil {
			return backup.Member{}, nil, err
		}
		if !ok || g.key.tablespace != s.places[0] {
			s.stop()
			s.next, s.stop = nil, nil
			s.places = s.places[1:]
			if p := s.o.Progress; p != nil {
				p.Tablespace.Add(1)
			}
			continue
		}
		if isLate(g.key) {
			s.last = append(s.last, g.key)
			continue
		}
		return s.member(ctx, g.key, g.member)
	}
	if len(s.last) > 0 {
		slices.SortFunc(s.last, func(a, b key) int {
			return cmp.Or(cmp.Compare(lateness(a), lateness(b)), a.compare(b))
		})
		k := s.last[0]
		s.last = s.last[1:]
		m, err := s.index.member(ctx, k)
		if err == nil && m == nil {
			err = fmt.Errorf("file %v: %w", k, errPart)
		}
		if err != nil {
			return backup.Member{}, nil, err
		}
		return s.member(ctx, k, m)
	}
	if s.ended {
		return backup.Member{}, nil, io.EOF
	}
	s.ended = true
	return s.manifest(ctx)
}

// lateness orders what comes last: the control file does.
func lateness(k key) int {
	if k.path == pgdata.ControlPath {
		return 1
	}
	return 0
}

// member returns a member of the backup.
func (s *Source) member(ctx context.Context, k key, m *member) (backup.Member, io.Reader, error) {
	out := memberOf(k, m)
	if m.kind != backup.File {
		return out, nil, nil
	}
	out.Apart = !isLate(k)
	return out, &fileReader{source: s, ctx: ctx, key: k, member: m}, nil
}

// memberOf returns what is known of a file as a member of a backup.
func memberOf(k key, m *member) backup.Member {
	return backup.Member{
		Tablespace: k.tablespace, Path: k.path, Kind: m.kind, Size: m.size, Mode: m.mode,
		UID: m.uid, GID: m.gid, ModTime: m.modTime, Target: m.target,
	}
}

// manifest makes a backup manifest, if there is one of that version.
func (s *Source) manifest(ctx context.Context) (backup.Member, io.Reader, error) {
	if s.commit.ServerVersion < 130000 || len(s.commit.Ranges) == 0 {
		return backup.Member{}, nil, io.EOF
	}
	file, err := localfs.TempFile(s.cluster.repo.tempDir())
	if err != nil {
		return backup.Member{}, nil, err
	}
	w := manifest.NewWriterVersion1(file)
	if s.commit.ServerVersion >= 170000 {
		w = manifest.NewWriter(file, s.cluster.name.SystemID)
	}
	for g, err := range s.index.all(ctx, key{}) {
		if err == nil && g.member.kind == backup.File && !isUnlisted(g.key) {
			err = w.Add(manifest.File{
				Path: backup.ManifestPath(g.key.tablespace, g.key.path), Size: g.member.size,
				Algorithm: manifest.CRC32C, Checksum: crcBytes(g.member.crc),
			}, g.member.modTime)
		}
		if err != nil {
			return backup.Member{}, nil, errors.Join(err, file.Close())
		}
	}
	if err := w.Finish(s.commit.Ranges); err != nil {
		return backup.Member{}, nil, errors.Join(err, file.Close())
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return backup.Member{}, nil, errors.Join(err, file.Close())
	}
	return backup.Member{Path: manifest.Name, Kind: backup.Manifest, Size: -1, Mode: localfs.FileModeOwner, ModTime: s.commit.Ended}, &closing{file}, nil
}

// End returns where the backup ends.
func (s *Source) End(context.Context) (wal.Position, error) { return s.commit.Stop, nil }

// Close lets go of what is held.
func (s *Source) Close() error {
	if s.stop != nil {
		s.stop()
	}
	return nil
}

// closing closes what it reads at its end.
type closing struct{ io.ReadCloser }

func (c *closing) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if err != nil {
		_ = c.Close() // it was only read
	}
	return n, err
}

// windowSize is how much of a file is read at once, in bytes.
const windowSize = 1 << 20

// fileReader reads a file of a backup.
type fileReader struct {
	source *Source
	ctx    context.Context
	key    key
	member *member
	blocks *fileBlocks
	held   extent // that comes next, of which the beginning was read
	at     int64  // block that comes next
	crc    uint32
	buffer []byte
	rest   []byte
	err    error
}

// Read reads what follows.
func (r *fileReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// more reads some of what follows, when the rest has been read.
func (r *fileReader) more() error {
	if r.err == nil {
		if r.err = r.fill(); r.err != nil && r.err != io.EOF {
			r.err = fmt.Errorf("file %v: %w", r.key, r.err)
		}
	}
	return r.err
}

// windows are buffers of windowSize bytes.
var windows = sync.Pool{New: func() any { return new([windowSize]byte) }}

// WriteTo writes what follows, as many bytes at once as are read at once.
func (r *fileReader) WriteTo(w io.Writer) (written int64, err error) {
	if r.buffer == nil && r.member.size > windowSize/16 { // else it is small
		window := windows.Get().(*[windowSize]byte)
		r.buffer = window[:0]
		defer func() {
			r.buffer, r.rest = nil, nil
			windows.Put(window)
		}()
	}
	for {
		for len(r.rest) == 0 {
			if err := r.more(); err == io.EOF {
				return written, nil
			} else if err != nil {
				return written, err
			}
		}
		n, err := w.Write(r.rest)
		written += int64(n)
		r.rest = r.rest[n:]
		if err != nil {
			return written, err
		}
	}
}

// Close lets go of the file.
func (r *fileReader) Close() error {
	r.rest, r.err = nil, errors.New("the file is closed")
	return nil
}

// window returns extents that follow, a megabyte at most, and how many bytes they have. Behind the last
// it is io.EOF, if what was read is what was written.
func (r *fileReader) window() (window []extent, size int64, err error) {
	if r.blocks == nil {
		if r.blocks, err = r.source.index.file(r.ctx, r.key, r.member.size); err != nil {
			return nil, 0, err
		}
	}
	left := r.member.size - r.at*BlockSize
	if left <= 0 {
		if r.crc != r.member.crc {
			return nil, 0, fmt.Errorf("its checksum is %08x, and was %08x: %w", r.crc, r.member.crc, seal.ErrDamaged)
		}
		return nil, 0, io.EOF
	}
	for next := r.at; size < windowSize && size < left; {
		x := r.held
		if r.held = (extent{}); len(x.blocks) == 0 {
			x, err = r.blocks.next(r.ctx)
			if err == io.EOF {
				break
			}
			if err != nil {
				return nil, 0, err
			}
		}
		if x.first != next {
			return nil, 0, fmt.Errorf("block %d: %w", next, errPart)
		}
		if room := (windowSize - size + BlockSize - 1) / BlockSize; int64(len(x.blocks)) > room { // of zeros
			r.held = x.cut(x.first+room, x.end())
			x = x.cut(x.first, x.first+room)
		}
		window = append(window, x)
		size += int64(len(x.blocks)) * BlockSize
		next = x.end()
	}
	if len(window) == 0 {
		return nil, 0, errPart
	}
	return window, min(size, left), nil
}

// fill reads some of the blocks that follow.
func (r *fileReader) fill() error {
	window, size, err := r.window()
	if err != nil {
		return err
	}
	opened, err := r.source.frames.get(r.ctx, window)
	if err != nil {
		return err
	}
	defer r.source.frames.release(opened)
	r.buffer = r.buffer[:0]
	for i, x := range window {
		for j := range x.blocks {
			b, err := r.block(x, j, opened[i].bytes(), min(BlockSize, size-int64(len(r.buffer))))
			if err != nil {
				return err
			}
			r.buffer = append(r.buffer, b...)
		}
	}
	r.at += blocksOf(size)
	r.crc = checksumOn(r.crc, r.buffer)
	r.rest = r.buffer
	if p := r.source.o.Progress; p != nil {
		p.Done.Add(int64(len(r.buffer)))
	}
	return nil
}
