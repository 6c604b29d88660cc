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
	Dir      string // the directory the archive is made in
	Compress func(io.Writer) (io.WriteCloser, error)
	Suffix   string      // after .tar, for what Compress makes of it
	FileMode fs.FileMode // of the archive and its members; zero is 0600
	NoSync   bool        // leave it to the system when the archive becomes durable
}

// Log keeps the log that is streamed beside a backup in pg_wal.tar. It is a
// wal.Keeper.
//
// Every segment is a member of full size, the last one with zeros for what is
// not there yet. Complete segments and history files are followed by the mark
// that they are archived.
//
// Source: the tar methods of src/bin/pg_basebackup/walmethods.c, PostgreSQL 18.
type Log struct {
	archive *archive
	file    *localfs.Writer
	mode    fs.FileMode
	noSync  bool
	kept    map[string]bool // history files
	open    *segment        // the one being written, or nil
	failed  error
}

// NewLog makes the archive.
func NewLog(o LogOptions) (*Log, error) {
	if o.FileMode == 0 {
		o.FileMode = fileModeOwner
	}
	path := filepath.Join(o.Dir, "pg_wal.tar"+o.Suffix)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, o.FileMode)
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not create file "%s"`, path)
	}
	l := &Log{
		file: localfs.NewWriter(f, path, !o.NoSync),
		mode: o.FileMode, noSync: o.NoSync, kept: map[string]bool{},
	}
	l.archive, err = newArchive(&syncCloser{l.file, o.NoSync}, o.Compress)
	return l, err
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

// ready says whether a member may begin.
func (l *Log) ready() error {
	switch {
	case l.failed != nil:
		return l.failed
	case l.archive == nil:
		return errClosed
	case l.open != nil:
		return fmt.Errorf("segment %s is not finished", l.open.name)
	}
	return nil
}

func (l *Log) member(name string, size int64) backup.Member {
	return backup.Member{Path: name, Kind: backup.File, Size: size, Mode: l.mode, ModTime: time.Now()}
}

// History adds a timeline's history file and its mark, if it is not there yet.
func (l *Log) History(name string, content []byte) error {
	if l.kept[name] {
		return nil
	}
	if err := l.ready(); err != nil {
		return err
	}
	m := l.member(name, int64(len(content)))
	if l.failed = l.archive.add(context.Background(), m, bytes.NewReader(content)); l.failed != nil {
		return l.failed
	}
	l.kept[name] = true
	return l.markDone(name)
}

// HasHistory says whether the archive holds the history file.
func (l *Log) HasHistory(name string) (bool, error) { return l.kept[name], nil }

// markDone says that a file is in the archive.
func (l *Log) markDone(name string) error {
	l.failed = l.archive.header(l.member("archive_status/"+name+".done", 0))
	return l.failed
}

// Close ends the archive and makes it durable; its name becomes so when the Sink
// of the same directory commits. A segment that is open is
// abandoned. After an error of any other method the archive is left as it is. It
// may be called more than once.
func (l *Log) Close() error {
	if l.archive == nil {
		return nil
	}
	var err error
	if l.open != nil {
		err = l.open.Abandon()
	}
	a := l.archive
	l.archive = nil
	if l.failed != nil {
		a.abandon()
		return err
	}
	return a.finish()
}

// syncCloser makes a file durable before it closes it.
type syncCloser struct {
	*localfs.Writer
	noSync bool
}

func (s *syncCloser) Close() error {
	var err error
	if !s.noSync {
		err = s.Sync()
	}
	return errors.Join(err, s.Writer.Close())
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

// Flush makes the archive durable as far as it goes.
func (s *segment) Flush() error {
	if s.log.failed == nil {
		s.log.failed = s.log.archive.flush()
	}
	if s.log.failed == nil {
		s.log.failed = s.log.file.Sync()
	}
	return s.log.failed
}

// Finish adds the mark that the segment is archived.
func (s *segment) Finish() error {
	if s.left > 0 {
		return errors.Join(fmt.Errorf("segment %s ends after %d of %d bytes", s.name, s.size-s.left, s.size), s.Abandon())
	}
	if err := s.end(); err != nil {
		return err
	}
	return s.log.markDone(s.name)
}

// Abandon fills the segment with zeros and leaves it without the mark: the
// server it will be restored on goes on writing it.
func (s *segment) Abandon() error { return s.end() }

func (s *segment) end() error {
	if s.log.open == s {
		s.log.open = nil
	}
	if s.log.failed == nil {
		s.log.failed = s.log.archive.zeros(int(s.left))
		s.left = 0
	}
	return s.log.failed
}
