package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"basin/internal/backup"
	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// SinkOptions say how a backup is put into a repository. The zero value makes a full one.
type SinkOptions struct {
	Label   string
	Parent  *Commit // what did not change since is not stored again; nil for none
	Level   int     // of zstd, 1 to 22; zero is 3
	Workers int     // that compress; zero is one for each processor
	Now     func() time.Time

	// As, if not nil, is the backup that it is: one that was made before, elsewhere. It keeps the
	// identifier, label and times, the log that it needs, and whether it is damaged, and is to
	// have as many files and bytes, if that is known.
	As *Commit

	// Progress, if not nil, is told the path of each member.
	Progress *backup.Progress

	packSize int // bytes that a pack has at most; zero is packSize
}

// Sink puts a backup into a repository. It is a backup.Sink, and a backup.Salvager: a
// backup of damaged pages is there, and marked.
type Sink struct {
	cluster *Cluster
	o       SinkOptions
	commit  Commit
	digests *seal.Digester
	lease   *lease

	packer      *packer
	cancel      context.CancelFunc
	frame       *frame          // that is being filled; nil for none
	parent      *index          // nil for none
	thin        map[PackID]bool // packs in which nothing is left
	members     runs            // that are new or changed
	blocks      runs            // that are new or changed
	seen        runs            // keys of all members, if there is a parent
	listed      runs            // what the source's manifest says
	hasManifest bool
	buffer      []byte // of what is read
	stored      atomic.Int64
	written     *Commit // once it is there
	stage       stage
	failed      error
}

// stage is how far a sink is.
type stage uint8

const (
	isNew stage = iota
	isOpen
	isDone
)

// readSize is how much is read of a member at once, in bytes.
const readSize = 1 << 20

// NewSink returns a sink that has touched nothing yet.
func (c *Cluster) NewSink(o SinkOptions) *Sink {
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Level = cmp.Or(o.Level, 3)
	o.Workers = cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	temp := c.repo.tempDir()
	return &Sink{
		cluster: c, o: o, buffer: make([]byte, readSize),
		members: runs{dir: temp}, blocks: runs{dir: temp}, seen: runs{dir: temp}, listed: runs{dir: temp},
	}
}

// Begin takes a lease, which keeps what the backup relies on from being removed.
func (s *Sink) Begin(ctx context.Context, start backup.Start) error {
	now := s.o.Now()
	s.commit = Commit{
		ID: newBackupID(now), Label: s.o.Label, Began: now.UTC(), FullScan: now.UTC(),
		ServerVersion: start.ServerVersion, SegmentSize: start.SegmentSize, Start: start.Position,
		Tablespaces: slices.Clone(start.Tablespaces),
	}
	s.beginAs()
	key, err := s.cluster.repo.writeKey(ctx)
	if err != nil {
		return err
	}
	digestKey := key
	if p := s.o.Parent; p != nil {
		s.commit.Parent = p.ID
		if digestKey, err = s.cluster.repo.readKey(ctx, p.DigestKey); err != nil {
			return fmt.Errorf("backup %s: %w", p.ID, err)
		}
		s.parent = s.cluster.index(p)
		if s.thin, err = s.cluster.avoided(ctx); err != nil {
			return err
		}
	}
	s.commit.DigestKey = digestKey.ID
	if s.digests, err = seal.NewDigester(digestKey); err != nil {
		return err
	}
	if s.lease, err = s.cluster.takeLease(ctx, s.commit.ID, s.commit.Parent, s.o.Now); err != nil {
		return err
	}
	working, cancel := context.WithCancel(ctx) // that of the whole copy
	s.cancel = cancel
	if s.packer, err = newPacker(working, s.cluster, key, s.o.Level, s.o.Workers); err != nil {
		return err
	}
	s.packer.most = cmp.Or(s.o.packSize, packSize)
	s.packer.newID, s.packer.placed = s.lease.newID, s.blocks.add
	s.packer.stored = func(n int64) { s.stored.Add(n) }
	s.packer.begin()
	s.stage = isOpen
	return nil
}

// Put takes a member.
func (s *Sink) Put(ctx context.Context, m backup.Member, r io.Reader) error {
	if s.failed == nil {
		s.failed = s.put(ctx, m, r)
	}
	return s.failed
}

func (s *Sink) put(ctx context.Context, m backup.Member, r io.Reader) error {
	if s.stage != isOpen {
		return errNoBackup
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := s.lease.renew(ctx); err != nil {
		return err
	}
	name := path.Clean(m.Path)
	if p := s.o.Progress; p != nil {
		p.SetPath(name)
	}
	switch m.Kind {
	case backup.File, backup.Dir, backup.Symlink:
	case backup.Manifest:
		return s.readManifest(ctx, r)
	default:
		return fmt.Errorf("member %q is of a kind that cannot be kept", m.Path)
	}
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) { // which need not be text
		return fmt.Errorf("member %q: %w", m.Path, fs.ErrInvalid)
	}
	k := key{m.Tablespace, name}
	now := member{kind: m.Kind, mode: m.Mode, uid: m.UID, gid: m.GID, modTime: m.ModTime, target: m.Target}
	var before *member
	if s.parent != nil {
		var err error
		if before, err = s.parent.member(ctx, k); err != nil {
			return err
		}
		if err := s.seen.add(group{key: k}); err != nil {
			return err
		}
	}
	if m.Kind == backup.File {
		if err := s.putFile(ctx, k, m.Size, r, before, &now); err != nil {
			return err
		}
	}
	if before != nil && before.equal(&now) {
		return nil
	}
	return s.members.add(group{key: k, member: &now})
}

// equal says whether two members are the same but for their blocks.
func (m *member) equal(other *member) bool {
	a, b := *m, *other
	same := a.modTime.Equal(b.modTime)
	a.modTime, b.modTime = time.Time{}, time.Time{}
	return same && a == b
}

// putFile stores the blocks of a file that are not those of its parent's.
func (s *Sink) putFile(ctx context.Context, k key, size int64, r io.Reader, before, now *member) error {
	f := fileSink{sink: s, key: k, fresh: before == nil || before.kind != backup.File}
	if !f.fresh {
		var err error
		if f.parent, err = s.parent.file(ctx, k, before.size); err != nil {
			return err
		}
		f.parentSize = before.size
	}
	if f.fresh && s.parent == nil {
		f.fresh = false // there is nothing older
	}
	for left := size; left > 0; {
		p := s.buffer[:min(left, readSize)]
		if r == nil {
			return fmt.Errorf("file %v has no bytes, but is to have %d", k, size)
		}
		if n, err := io.ReadFull(r, p); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("file %v was to have %d bytes, but has %d", k, size, size-left+int64(n))
			}
			return err
		}
		left -= int64(len(p))
		now.crc = checksumOn(now.crc, p)
		if err := f.write(ctx, p); err != nil {
			return err
		}
	}
	if r != nil {
		if n, err := r.Read(make([]byte, 1)); n > 0 {
			return fmt.Errorf("file %v was to have %d bytes, but has more", k, size)
		} else if err != nil && err != io.EOF {
			return err
		}
	}
	now.size = size
	s.commit.Files++
	s.commit.Size += size
	return f.flushZeros()
}

// fileSink is a file that is being stored.
type fileSink struct {
	sink       *Sink
	key        key
	fresh      bool
	parent     *fileBlocks // nil for none
	parentSize int64
	extent     extent // of the parent
	at         int64  // block that comes next
	zeros      extent // blocks of zeros that were not told yet
}

// write takes blocks, the last of which may be shorter if it is the last of the file.
func (f *fileSink) write(ctx context.Context, p []byte) error {
	for b := range slices.Chunk(p, BlockSize) {
		k := zeroBlock
		isZero := len(b) == BlockSize && isZeros(b)
		if !isZero {
			k = block{f.sink.digests.Sum(b), checksum(b)}
		}
		same, err := f.isSame(ctx, k, len(b))
		if err != nil {
			return err
		}
		switch {
		case same:
			err = f.flushZeros()
		case isZero:
			err = f.addZeros(k)
		default:
			if err = f.flushZeros(); err == nil {
				err = f.sink.add(f, b, k)
			}
		}
		if err != nil {
			return err
		}
		f.at++
	}
	return nil
}

// isSame says whether the parent's block is the one that comes next, and can be left where it is.
func (f *fileSink) isSame(ctx context.Context, k block, size int) (bool, error) {
	if f.parent == nil || f.at >= f.parent.limit {
		return false, nil
	}
	for f.extent.end() <= f.at {
		var err error
		if f.extent, err = f.parent.next(ctx); err != nil {
			return false, err
		}
	}
	if f.sink.thin[f.extent.at.pack] {
		return false, nil
	}
	had := min(int64(BlockSize), f.parentSize-f.at*BlockSize)
	return had == int64(size) && f.extent.blocks[f.at-f.extent.first] == k, nil
}

// addZeros notes a block of zeros.
func (f *fileSink) addZeros(k block) error {
	if len(f.zeros.blocks) == maxBlocks {
		if err := f.flushZeros(); err != nil {
			return err
		}
	}
	if len(f.zeros.blocks) == 0 {
		f.zeros.first = f.at
	}
	f.zeros.blocks = append(f.zeros.blocks, k)
	return nil
}

// flushZeros tells of the blocks of zeros by now.
func (f *fileSink) flushZeros() error {
	if len(f.zeros.blocks) == 0 {
		return nil
	}
	x := f.zeros
	f.zeros = extent{}
	return f.sink.zero(f, x)
}

var zeroPage [BlockSize]byte

func isZeros(b []byte) bool { return bytes.Equal(b, zeroPage[:len(b)]) }

// zero tells of blocks of zeros, in the order of frames, since one goroutine gathers both.
func (s *Sink) zero(f *fileSink, x extent) error {
	fr := s.filling()
	fr.zeros = append(fr.zeros, group{key: f.key, fresh: f.fresh, extents: []extent{x}})
	if len(fr.zeros) < 1000 {
		return nil
	}
	return s.give()
}

// filling returns the frame that is being filled.
func (s *Sink) filling() *frame {
	if s.frame == nil {
		s.frame = s.packer.take()
	}
	return s.frame
}

// add puts a block into the frame that is being filled.
func (s *Sink) add(f *fileSink, b []byte, k block) error {
	if s.frame != nil && len(s.frame.content)+len(b) > frameSize {
		if err := s.give(); err != nil {
			return err
		}
	}
	fr := s.filling()
	n := len(fr.pieces)
	if n == 0 || fr.pieces[n-1].key != f.key || fr.pieces[n-1].first+int64(len(fr.pieces[n-1].blocks)) != f.at {
		fr.pieces = append(fr.pieces, piece{key: f.key, fresh: f.fresh, first: f.at, within: uint32(len(fr.content))})
		n++
	}
	last := &fr.pieces[n-1]
	last.blocks = append(last.blocks, k)
	fr.content = append(fr.content, b...)
	return nil
}

// give has the frame in hand be packed.
func (s *Sink) give() error {
	fr := s.frame
	s.frame = nil
	return s.packer.give(fr)
}

// Commit makes the backup be there.
func (s *Sink) Commit(ctx context.Context, end wal.Position) error {
	if s.failed == nil {
		s.failed = s.finish(ctx, end)
	}
	return s.failed
}

// Salvage makes the backup be there, marked as damaged.
func (s *Sink) Salvage(ctx context.Context, end wal.Position) error {
	s.commit.Damaged = true
	return s.Commit(ctx, end)
}

// Written returns the backup, once it is there.
func (s *Sink) Written() *Commit { return s.written }

func (s *Sink) finish(ctx context.Context, end wal.Position) error {
	if s.stage != isOpen {
		return errNoBackup
	}
	if s.frame != nil {
		if err := s.give(); err != nil {
			return err
		}
	}
	s.stage = isDone
	if err := s.packer.finish(); err != nil {
		return err
	}
	if err := s.bury(ctx); err != nil {
		return err
	}
	members, err := s.level(ctx, &s.members)
	if err != nil {
		return err
	}
	blocks, err := s.level(ctx, &s.blocks)
	if err != nil {
		return err
	}
	s.commit.Members, s.commit.Blocks = push(members, nil), push(blocks, nil)
	if p := s.o.Parent; p != nil {
		s.commit.Members, s.commit.Blocks = push(members, p.Members), push(blocks, p.Blocks)
		if err := s.settle(ctx); err != nil {
			return err
		}
	}
	s.commit.Stop = end
	if err := s.prove(ctx); err != nil {
		return err
	}
	s.commit.Ended, s.commit.Stored = s.o.Now().UTC(), s.stored.Load()
	if err := s.takeAs(); err != nil {
		return err
	}
	err = s.cluster.putCommit(ctx, &s.commit)
	if err != nil && !object.IsAnswer(err) {
		s.lease = nil // the backup may be there, or come later: what it needs is kept until the lease is over
	}
	if errors.Is(err, fs.ErrExist) && s.o.As != nil {
		return s.asThere()
	}
	if errors.Is(err, fs.ErrExist) {
		return usererr.Hinted("This host slept, or its clock is wrong. Take the backup again.",
			"the backup took longer than its lease, and was given up by who removes what is not needed")
	}
	if err != nil {
		return err
	}
	s.written = &s.commit
	return nil
}

// bury notes which of the parent's members are gone.
func (s *Sink) bury(ctx context.Context) error {
	if s.parent == nil {
		return nil
	}
	next, stop := pull(s.parent.all(ctx, key{}))
	defer stop()
	had, err := next()
	if err != nil {
		return err
	}
	buryBefore := func(k *key) error {
		for had != nil && (k == nil || had.key.compare(*k) < 0) {
			if err := s.members.add(group{key: had.key, member: &member{gone: true}}); err != nil {
				return err
			}
			if had, err = next(); err != nil {
				return err
			}
		}
		return nil
	}
	err = s.seen.each(ctx, func(g group) error {
		if err := buryBefore(&g.key); err != nil {
			return err
		}
		if had != nil && had.key == g.key {
			had, err = next()
		}
		return err
	})
	if err != nil {
		return err
	}
	return buryBefore(nil)
}

// Close lets go of what is held. Before Commit there is no backup; packs that were stored
// stay, and are removed with what else nothing needs.
func (s *Sink) Close() error {
	if s.cancel != nil {
		s.cancel()
	}
	if s.packer != nil && s.stage == isOpen {
		s.stage = isDone
		_ = s.packer.finish() // it was given up
	}
	errs := []error{s.members.close(), s.blocks.close(), s.seen.close(), s.listed.close()}
	if s.lease != nil {
		errs = append(errs, s.lease.end())
	}
	return errors.Join(errs...)
}
