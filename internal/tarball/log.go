package tarball

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/wal"
)

// LogOptions are the options of a Log. Dir is required; the rest may be zero.
type LogOptions struct {
	Dir      *localfs.Claim // the directory the archive is made in
	Compress func(io.Writer) (io.WriteCloser, error)
	Suffix   string         // after .tar, for what Compress makes of it
	FileMode fs.FileMode    // of the archive and its members; zero is 0600
	Sync     localfs.Syncer // as for the Sink, which makes the archive durable
}

// Log keeps the log that is streamed beside a backup in pg_wal.tar. It is a
// wal.Keeper.
//
// Every segment is a member of full size, the last one with zeros for what is
// not there yet. Complete segments and history files are followed by the mark
// that they are archived. Only Commit ends the archive: one that is closed
// before stops where the stream did, so that it cannot be taken for whole.
//
// Source: the tar methods of src/bin/pg_basebackup/walmethods.c, PostgreSQL 18.
type Log struct {
	archive *archive
	file    *localfs.Writer
	dir     *localfs.Claim
	mode    fs.FileMode
	kept    map[string]string // content of history files, by name
	open    *segment          // the one being written, or nil
	named   bool              // the name is durable
	owed    int64             // bytes that the last member is short of, to be zeros
	failed  error
}

// NewLog makes the archive.
func NewLog(o LogOptions) (*Log, error) {
	if o.FileMode == 0 {
		o.FileMode = localfs.FileModeOwner
	}
	name := "pg_wal.tar" + o.Suffix
	path := filepath.Join(o.Dir.Path(), name)
	f, err := o.Dir.Root().OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, o.FileMode)
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not create file "%s"`, path)
	}
	l := &Log{file: o.Sync.NewWriter(f, path), dir: o.Dir, mode: o.FileMode, kept: map[string]string{}}
	if l.archive, err = newArchive(l.file, o.Compress); err != nil {
		return nil, err
	}
	return l, nil
}

// Begin starts the member of a segment.
func (l *Log) Begin(name string, size int64) (wal.SegmentWriter, error) {
	if err := l.ready(); err != nil {
		return nil, err
	}
	if l.failed = l.archive.header(l.member(name, size)); l.failed != nil {
		return nil, l.failed
	}
	l.open = &segment{log: l, name: name, size: size, left: size}
	return l.open, nil
}

// ready makes the archive so that a member may begin.
func (l *Log) ready() error {
	switch {
	case l.failed != nil:
		return l.failed
	case l.archive == nil:
		return fs.ErrClosed
	case l.open != nil:
		return fmt.Errorf("segment %s is not finished", l.open.name)
	}
	l.failed = l.archive.zeros(int(l.owed))
	l.owed = 0
	return l.failed
}

func (l *Log) member(name string, size int64) backup.Member {
	return backup.Member{Path: name, Kind: backup.File, Size: size, Mode: l.mode, ModTime: time.Now()}
}

// History adds a timeline's history file and its mark, if it is not there yet.
func (l *Log) History(name string, content []byte) error {
	if kept, ok := l.kept[name]; ok {
		if kept != string(content) {
			return wal.OtherHistory(name)
		}
		return nil
	}
	if err := l.ready(); err != nil {
		return err
	}
	m := l.member(name, int64(len(content)))
	if l.failed = l.archive.add(context.Background(), m, bytes.NewReader(content)); l.failed != nil {
		return l.failed
	}
	l.kept[name] = string(content)
	return l.markDone(name)
}

// markDone says that a file is in the archive.
func (l *Log) markDone(name string) error {
	l.failed = l.archive.header(l.member("archive_status/"+name+".done", 0))
	return l.failed
}

// Commit says that the log is whole, and ends the archive. It becomes durable when
// the Sink of the same directory commits. A segment that is open is an error.
func (l *Log) Commit() error {
	if err := l.ready(); err != nil {
		return err
	}
	a := l.archive
	l.archive = nil
	l.failed = a.finish()
	return l.failed
}

// Close before Commit leaves the archive as far as it came, without an end. It may
// be called more than once.
func (l *Log) Close() error {
	if l.archive != nil {
		l.archive.abandon()
		l.archive = nil
	}
	return nil
}

// segment is one that is being written. It is a wal.SegmentWriter.
type segment struct {
	log  *Log
	name string
	size int64 // in bytes
	left int64 // bytes that are still to come
}

func (s *segment) Write(p []byte) (int, error) {
	if s.log.failed != nil {
		return 0, s.log.failed
	}
	if int64(len(p)) > s.left {
		return 0, fmt.Errorf("write-ahead log of segment %s goes on past its %d bytes", s.name, s.size)
	}
	n, err := s.log.archive.Write(p)
	s.left -= int64(n)
	s.log.failed = err
	return n, err
}

// Flush makes the archive durable as far as it goes, the first time with its name.
func (s *segment) Flush() error {
	if s.log.failed == nil {
		s.log.failed = s.log.archive.flush()
	}
	if s.log.failed == nil {
		s.log.failed = s.log.file.Sync()
	}
	if s.log.failed == nil && !s.log.named {
		s.log.named = true
		s.log.failed = localfs.SyncRoot(s.log.dir.Root(), s.log.dir.Path())
	}
	return s.log.failed
}

// Finish adds the mark that the segment is archived.
func (s *segment) Finish() error {
	if s.left > 0 {
		return errors.Join(fmt.Errorf("segment %s ends after %d of %d bytes", s.name, s.size-s.left, s.size), s.Abandon())
	}
	s.log.open = nil
	if s.log.failed != nil {
		return s.log.failed
	}
	return s.log.markDone(s.name)
}

// Abandon leaves the segment without the mark: the server it will be restored on
// goes on writing it. What follows, be it the end of the archive, is preceded by
// the zeros that it lacks.
func (s *segment) Abandon() error {
	if s.log.open == s {
		s.log.open = nil
		s.log.owed, s.left = s.left, 0
	}
	return s.log.failed
}
