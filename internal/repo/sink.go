package repo

import (
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
	Level   int     // of zstd, 1 to 22; zero is 1, which takes half the time of 3 for a hundredth more
	Workers int     // that compress; zero is one for each processor
	Now     func() time.Time

	// As, if not nil, is the backup that it is: one that was made before, elsewhere. It keeps the
	// identifier, label and times, the log that it needs, what is told of its configuration, and whether it is damaged, and is to
	// have as many files and bytes, if that is known.
	As *Commit

	// Since, if not nil, is asked once the source has begun whether files of relations come as incremental ones;
	// nil if they do not. There is a Parent then.
	Since func() *Since

	// Configuration, if not nil, is asked when all members came what the backup has of configuration that was
	// outside of the data directory.
	Configuration func() *Configuration

	// Adopt takes over what backups have stored that failed, rather than to store it again.
	Adopt bool

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
	since       *Since          // nil: all files come whole
	frames      *frames         // of the parent, that are read; nil for none
	adopted     *adopted        // what failed backups stored; nil for nothing
	thin        map[PackID]bool // packs in which nothing is left
	members     runs            // that are new or changed
	blocks      runs            // that are new or changed
	seen        runs            // keys of all members, if there is a parent
	listed      runs            // what the source's manifest says
	pieces      runs            // incremental files, as they came and as the manifest says
	hasManifest bool
	buffer      []byte // of what is read
	stored      atomic.Int64
	begun       time.Time
	keys        []seal.KeyID // of what it writes
	isLost      bool         // somebody has taken the lease for over
	written     *Commit      // once it is there
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
	o.Level = cmp.Or(o.Level, 1)
	o.Workers = cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	temp := c.repo.tempDir()
	return &Sink{
		cluster: c, o: o, buffer: make([]byte, readSize),
		members: runs{dir: temp}, blocks: runs{dir: temp}, seen: runs{dir: temp}, listed: runs{dir: temp},
		pieces: runs{dir: temp},
	}
}

// Begin takes a lease, which keeps what the backup relies on from being removed.
func (s *Sink) Begin(ctx context.Context, start backup.Start) error {
	now := s.o.Now()
	s.begun = now
	s.commit = Commit{
		ID: newBackupID(now), Label: s.o.Label, Began: now.UTC(), FullScan: now.UTC(),
		ServerVersion: start.ServerVersion, SegmentSize: start.SegmentSize, Start: start.Position,
		Tablespaces: slices.Clone(start.Tablespaces),
	}
	s.beginAs()
	key, err := s.cluster.repo.packKey(ctx)
	if err != nil {
		return err
	}
	digestKey, err := s.cluster.repo.indexKey(ctx)
	if err != nil {
		return err
	}
	s.keys = []seal.KeyID{key.ID, digestKey.ID}
	if p := s.o.Parent; p != nil {
		s.commit.Parent = p.ID
		if digestKey, err = s.cluster.repo.readKey(ctx, p.DigestKey); err != nil {
			return fmt.Errorf("backup %s: %w", p.ID, err)
		}
		s.parent = s.cluster.index(p)
		if s.thin, err = s.cluster.avoided(ctx); err != nil {
			return err
		}
		if s.o.Since != nil {
			s.since = s.o.Since()
		}
		if s.since != nil {
			s.commit.FullScan = p.FullScan
		}
	}
	if err := s.takeLease(ctx, digestKey); err != nil {
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
	arrived := key{m.Tablespace, name}
	k, isIncremental := s.cutIncremental(m, arrived)
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
	switch {
	case isIncremental && isLabel(k):
		if err := s.putLabel(ctx, k, m.Size, r, before, &now); err != nil {
			return err
		}
	case isIncremental:
		if err := s.putIncremental(ctx, arrived, k, m.Size, r, before, &now); err != nil {
			return err
		}
	case m.Kind == backup.File:
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

// tell tells of blocks that are not in a frame of this backup, in the order of frames, since one goroutine gathers both.
func (s *Sink) tell(f *fileSink, x extent) error {
	fr := s.filling()
	fr.told = append(fr.told, group{key: f.key, fresh: f.fresh, extents: []extent{x}})
	if len(fr.told) < 1000 {
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
	if s.o.Configuration != nil {
		s.commit.Configuration = s.o.Configuration()
	}
	if err := s.prove(ctx); err != nil {
		return err
	}
	s.commit.Ended, s.commit.Stored = s.o.Now().UTC(), s.stored.Load()
	if err := s.takeAs(); err != nil {
		return err
	}
	if err := s.keepLocked(ctx); err != nil {
		return fmt.Errorf("keep what the backup needs from being removed: %w", err)
	}
	err = s.cluster.putCommit(ctx, &s.commit)
	if err != nil && !object.IsAnswer(err) {
		s.lease = nil // the backup may be there, or come later: what it needs is kept until the lease is over
	}
	s.isLost = errors.Is(err, fs.ErrExist)
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
// stay for some time, for another to adopt, and are removed then with what else nothing needs.
func (s *Sink) Close() error {
	if s.cancel != nil {
		s.cancel()
	}
	if s.packer != nil && s.stage == isOpen {
		s.stage = isDone
		_ = s.packer.finish() // it was given up
	}
	errs := []error{s.members.close(), s.blocks.close(), s.seen.close(), s.listed.close(), s.pieces.close()}
	if s.adopted != nil {
		errs = append(errs, s.adopted.close())
	}
	switch {
	case s.lease == nil:
	case s.written == nil && s.stored.Load() > 0 && !s.isLost:
		errs = append(errs, s.lease.giveUp())
	default:
		errs = append(errs, s.lease.end())
	}
	return errors.Join(errs...)
}
