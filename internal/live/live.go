// Package live knows how a running cluster's data directory is read as a backup: through
// pg_backup_start and pg_backup_stop, beside the server that writes to it.
//
// What it yields is what the server's own BASE_BACKUP would send, in an order that a copy
// which is cut short can never be started from. It opens no connection: it is handed a
// session of the server and something that keeps the log, and it has to be able to read the
// data directory. It does not know where the backup goes.
package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/wal"
)

// Session is an ordinary session of the cluster. It is used from one goroutine at a time.
type Session interface {
	// Query runs statements, one of which at most has rows, and returns those, with their columns
	// as text; nil is NULL.
	Query(ctx context.Context, sql string) ([][][]byte, error)
	// Close ends the session, and with it a backup that runs.
	Close() error
}

// Pin keeps the log that a backup needs on the server.
type Pin interface {
	// Slot returns the name of the replication slot that keeps the log, or nothing.
	Slot() string
	// Done is closed when the log is kept no longer.
	Done() <-chan struct{}
	// Err returns why, once Done is closed.
	Err() error
	// Close lets go of the log.
	Close() error
}

// ManifestKind says what manifest a backup has.
type ManifestKind uint8

// The kinds of manifests.
const (
	NoManifest    ManifestKind = iota
	WithManifest               // as usual
	ForceEncoding              // with all names of files in hexadecimal digits
)

// Notice tells of something that is no error: severity is WARNING or NOTICE, code an
// SQLSTATE.
type Notice struct {
	Severity, Code, Message, Detail, Hint string
}

// Options say what backup is taken of what. DataDir and Session are required; the rest may be
// zero.
type Options struct {
	DataDir string  // of the cluster, as it is found here
	Session Session // is the source's, and closed by it

	// Pin keeps the log, and is the source's, and closed by it, too. Nil means that somebody
	// else does.
	Pin Pin

	Label          string // at most 1024 bytes
	FastCheckpoint bool   // else it is spread over time
	NoWait         bool   // for the log to be archived, at the end
	WAL            bool   // the log that the backup needs is a part of it
	TablespaceMap  bool   // instead of links in pg_tblspc
	EstimateSize   bool   // of all files, before the first

	NoVerifyChecksums bool // of pages

	Manifest  ManifestKind
	Algorithm manifest.Algorithm // of checksums in it

	// Parent is the manifest of the backup that this one is to be laid over: the backup is
	// an incremental one, of a server from 17 on. It is not the source's to close.
	Parent *manifest.Catalog

	// Apart says that files are read by whoever takes them, several at a time. Otherwise they are
	// read ahead, by Workers (zero is two) into Ahead bytes of memory (zero is 8 MiB).
	Apart   bool
	Ahead   int
	Workers int

	TempDir  string           // for what is too much for memory; empty is the system's
	Notice   func(Notice)     // is told of warnings, in the order of the files; may be nil
	Progress *backup.Progress // counts as tar archives do; may be nil
}

// Source is a backup of a running cluster. It is a backup.Source.
type Source struct {
	o Options

	cluster cluster // as it was before the backup began
	pin     Pin
	looked  time.Time // at the slot
	begun   time.Time // when the backup had

	start   backup.Start
	inside  map[string]bool // tablespaces that lie in the data directory, by path
	parent  *parent         // nil: it is a full backup
	end     wal.Position
	damaged bool // End has said so

	ahead  *ahead  // nil: files are Apart
	walker *walker // of those
	apart  apart
	held   []held  // what comes next, once the files have come
	open   *reader // of one of those, that was not closed
	stage  stage
	broken error // what went wrong, after which nothing more comes

	mu       sync.Mutex // what follows is used by the readers too
	failures int64      // of page checksums
	book     *book      // nil if there is to be no manifest
}

// stage is what of the backup comes next.
type stage uint8

const (
	ofFiles stage = iota
	ofHeld
	ofManifest
	ofEnd
)

// held is a member that is to come.
type held struct {
	member  backup.Member
	content []byte
	// open opens it, if it is not held in memory.
	open func(ctx context.Context) (backup.Member, io.Reader, error)
}

// New returns a source that has done nothing yet.
func New(o Options) *Source { return &Source{o: o, pin: o.Pin} }

// Begin begins the backup, which takes as long as a checkpoint.
func (s *Source) Begin(ctx context.Context) (backup.Start, error) {
	if len(s.o.Label) > maxLabel {
		return s.start, failed(codeParameter, "backup label too long (max %d bytes)", maxLabel)
	}
	if err := s.prepare(ctx); err != nil {
		return s.start, err
	}
	if err := s.checkParent(); err != nil {
		return s.start, err
	}
	if err := s.startBackup(ctx); err != nil {
		return s.start, err
	}
	s.begun = time.Now()
	s.start.ServerVersion, s.start.SegmentSize = s.cluster.version, s.cluster.segmentSize
	if err := s.findTablespaces(); err != nil {
		return s.start, err
	}
	if s.o.EstimateSize {
		if err := s.estimate(ctx); err != nil {
			return s.start, err
		}
	}
	if err := s.findChanges(ctx); err != nil {
		return s.start, err
	}
	if s.o.Manifest != NoManifest && s.cluster.version >= version13 {
		var err error
		if s.book, err = newBook(s.o.TempDir, &s.cluster, s.o.Manifest); err != nil {
			return s.start, err
		}
	}
	if p := s.o.Progress; p != nil {
		p.Total.Store(s.start.Size)
		p.Count.Store(int32(len(s.start.Tablespaces) + 1))
	}
	if s.o.Apart {
		s.walker = s.newWalker(func(n Notice) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.o.notify(n)
		})
	} else {
		s.ahead = s.readAhead()
	}
	return s.start, nil
}

// Next returns the next member. Before backup_label it ends the backup on the server, which
// may take until the log is archived.
func (s *Source) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if s.broken != nil {
		return backup.Member{}, nil, s.broken
	}
	m, r, err := s.next(ctx)
	if err != nil && err != io.EOF {
		s.broken = err
	}
	if p := s.o.Progress; p != nil && err == nil {
		s.count(m)
	}
	return m, r, err
}

func (s *Source) next(ctx context.Context) (backup.Member, io.Reader, error) {
	if s.stage == ofFiles {
		if err := s.checkPin(ctx); err != nil {
			return backup.Member{}, nil, err
		}
		m, r, err := s.nextFile(ctx)
		if err != io.EOF {
			return m, r, err
		}
		if err := s.finish(ctx); err != nil {
			return m, nil, err
		}
		s.stage = ofHeld
	}
	if err := s.closeOpen(); err != nil {
		return backup.Member{}, nil, err
	}
	if s.stage == ofHeld && len(s.held) > 0 {
		h := s.held[0]
		s.held = s.held[1:]
		if h.open != nil {
			return h.open(ctx)
		}
		return h.member, bytes.NewReader(h.content), s.list(h.member, h.content)
	}
	if s.stage == ofHeld {
		s.stage = ofManifest
	}
	if s.stage == ofManifest {
		if s.stage = ofEnd; s.book != nil {
			ranges, err := s.ranges()
			if err != nil {
				return backup.Member{}, nil, err
			}
			r, err := s.book.finish(ranges)
			return backup.Member{Path: manifest.Name, Kind: backup.Manifest, Size: -1, Mode: s.cluster.fileMode, ModTime: time.Now()}, r, err
		}
	}
	if p := s.o.Progress; p != nil {
		p.Tablespace.Store(p.Count.Load())
	}
	return backup.Member{}, nil, io.EOF
}

// nextFile returns what comes next of the data directory.
func (s *Source) nextFile(ctx context.Context) (backup.Member, io.Reader, error) {
	if s.ahead != nil {
		return s.ahead.next(ctx, s)
	}
	m, f, err := s.walker.next(ctx)
	if err != nil || f == nil {
		return m, nil, err
	}
	s.apart.add()
	return m, f.direct(ctx, s.apart.done), nil
}

// finish ends the backup on the server, and has come next what a server starts from. Until
// then nothing has come that it could start from without the backup label.
func (s *Source) finish(ctx context.Context) error {
	if err := s.apart.wait(ctx); err != nil {
		return err
	}
	s.looked = time.Time{}
	if err := s.checkPin(ctx); err != nil {
		return err
	}
	path := s.path(pgdata.ControlPath)
	info, err := os.Lstat(path)
	if err != nil {
		return localfs.Errorf(err, path, "could not stat file \"%s\"", pgdata.ControlPath)
	}
	content, err := s.readControl(ctx)
	if err != nil {
		return err
	}
	if err := s.checkSame(ctx); err != nil {
		return err
	}
	ended, err := s.stopBackup(ctx)
	if err != nil {
		return err
	}
	if err := s.checkSame(ctx); err != nil {
		return err
	}
	if s.parent != nil {
		ended.label = fmt.Appendf(ended.label, "INCREMENTAL FROM LSN: %v\nINCREMENTAL FROM TLI: %d\n", s.parent.start.LSN, s.parent.start.Timeline)
	}
	s.held = append(s.held, s.small(pgdata.LabelPath, ended.label))
	if s.o.TablespaceMap && len(ended.links) > 0 {
		s.held = append(s.held, s.small(pgdata.TablespaceMapPath, ended.links))
	}
	w := walker{source: s}
	control := w.member(pgdata.ControlPath, backup.File, info)
	control.Size = int64(len(content))
	s.held = append(s.held, held{member: control, content: content})
	if !s.o.WAL {
		return nil
	}
	return s.holdLog()
}

// small returns a file that is not in the data directory.
func (s *Source) small(path string, content []byte) held {
	return held{content: content, member: backup.Member{
		Path: path, Kind: backup.File, Size: int64(len(content)), Mode: s.cluster.fileMode,
		UID: s.cluster.uid, GID: s.cluster.gid, ModTime: time.Now(),
	}}
}

// list has the manifest name a file that is held in memory.
func (s *Source) list(m backup.Member, content []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.o.Progress; p != nil {
		p.Done.Add(tarSize(m))
	}
	if s.book == nil {
		return nil
	}
	f := manifest.File{Path: m.Path, Size: m.Size, Algorithm: s.o.Algorithm}
	if sum := f.Algorithm.New(); sum != nil {
		_, _ = sum.Write(content)
		f.Checksum = sum.Sum(nil)
	}
	return s.book.add(f, m.ModTime)
}

// count has the progress know of a member that is no file, and of the archives before it.
// Files are counted once they are read.
func (s *Source) count(m backup.Member) {
	p := s.o.Progress
	if m.Kind == backup.Dir || m.Kind == backup.Symlink {
		p.Done.Add(tarSize(m))
	}
	archives := len(s.start.Tablespaces)
	for i, t := range s.start.Tablespaces {
		if t.OID == m.Tablespace {
			archives = i
		}
	}
	p.Tablespace.Store(int32(archives))
}

// closeOpen reads what is left of the file that came last, and closes it.
func (s *Source) closeOpen() error {
	if s.open == nil {
		return nil
	}
	r := s.open
	s.open = nil
	_, err := r.WriteTo(io.Discard)
	return errors.Join(err, r.Close())
}

// End returns where the backup ends, and backup.ErrPageChecksums if pages are damaged.
func (s *Source) End(context.Context) (wal.Position, error) {
	if s.failures == 0 {
		return s.end, nil
	}
	if !s.damaged && s.failures > 1 {
		s.o.notify(warning("%d total checksum verification failures", s.failures))
	}
	s.damaged = true
	return s.end, fmt.Errorf("%w: checksum verification failure during base backup", backup.ErrPageChecksums)
}

// Close ends the session and lets go of the log. A backup that has not ended is given up. Readers
// of files that are Apart are to be closed before.
func (s *Source) Close() error {
	if s.ahead != nil {
		s.ahead.close()
		s.ahead = nil
	}
	if s.walker != nil {
		s.walker.close()
	}
	var errs []error
	if s.open != nil {
		errs = append(errs, s.open.Close())
		s.open = nil
	}
	if s.book != nil {
		errs = append(errs, s.book.Close())
		s.book = nil
	}
	errs = append(errs, s.o.Session.Close())
	if s.pin != nil {
		errs = append(errs, s.pin.Close())
		s.pin = nil
	}
	return errors.Join(errs...)
}

// apart counts the readers that somebody has.
type apart struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // is closed once there are none; nil if nobody waits
}

func (a *apart) add() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.n++
}

func (a *apart) done() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n--; a.n == 0 && a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
}

// wait waits until all readers are closed.
func (a *apart) wait(ctx context.Context) error {
	a.mu.Lock()
	if a.n == 0 {
		a.mu.Unlock()
		return nil
	}
	if a.idle == nil {
		a.idle = make(chan struct{})
	}
	idle := a.idle
	a.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
