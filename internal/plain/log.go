package plain

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"basin/internal/localfs"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// LogOptions are the options of a Log. Dir is required; the rest may be zero.
type LogOptions struct {
	Dir           *localfs.Claim // the data directory
	WALDir        *localfs.Claim // what pg_wal is a link to; nil: pg_wal is a directory
	ServerVersion int            // as server_version_num; from 170000 on there are summaries
	DirMode       fs.FileMode    // zero is 0700
	FileMode      fs.FileMode    // zero is 0600
	Sync          localfs.Syncer // as for the Sink, which makes the log durable
}

// Log keeps the log that is streamed beside a backup in the pg_wal of the data
// directory. It is a wal.Keeper.
//
// A segment has its full size and its final name from the start, zeros where
// nothing was written yet. A complete one is marked as archived already, so that
// the restored server does not archive it again. Nothing is made durable, except
// by Flush: all of it becomes so with the backup, when the Sink commits.
//
// Source: the directory methods of src/bin/pg_basebackup/walmethods.c,
// PostgreSQL 18, as StartLogStreamer uses them.
type Log struct {
	root   *os.Root
	path   string
	own    bool // root is not a claim's
	mode   fs.FileMode
	sync   localfs.Syncer
	closed bool
}

// NewLog opens pg_wal and makes the directories in it. The Sink of the same data
// directory must have begun.
func NewLog(o LogOptions) (*Log, error) {
	if o.DirMode == 0 {
		o.DirMode = localfs.DirModeOwner
	}
	if o.FileMode == 0 {
		o.FileMode = localfs.FileModeOwner
	}
	l := &Log{mode: o.FileMode, sync: o.Sync}
	if err := l.open(o); err != nil {
		return nil, localfs.Errorf(err, l.path, `could not open directory "%s"`, l.path)
	}
	subdirs := []string{"archive_status"}
	if o.ServerVersion >= protocol.VersionIncremental {
		subdirs = append(subdirs, "summaries")
	}
	for _, name := range subdirs {
		if err := l.root.Mkdir(name, o.DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			path := filepath.Join(l.path, name)
			return nil, errors.Join(localfs.Errorf(err, path, `could not create directory "%s"`, path), l.Close())
		}
	}
	return l, nil
}

// open opens the directory of the log. Inside the data directory it is reached
// through that, so that a pg_wal linked elsewhere by the server is refused.
func (l *Log) open(o LogOptions) (err error) {
	if o.WALDir != nil {
		l.root, l.path = o.WALDir.Root(), o.WALDir.Path()
		return nil
	}
	data := o.Dir.Root()
	l.path, l.own = filepath.Join(o.Dir.Path(), "pg_wal"), true
	if err := data.Mkdir("pg_wal", o.DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	l.root, err = data.OpenRoot("pg_wal")
	return err
}

// Begin makes the file of a segment, size bytes long, or takes one of that size
// that is there.
func (l *Log) Begin(name string, size int64) (wal.SegmentWriter, error) {
	if l.closed {
		return nil, fs.ErrClosed
	}
	path := filepath.Join(l.path, name)
	f, err := l.root.OpenFile(name, os.O_WRONLY|os.O_CREATE, l.mode)
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not open write-ahead log file "%s"`, path)
	}
	if err := l.fit(f, path, size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &segment{log: l, name: name, size: size, w: l.sync.NewWriter(f, path)}, nil
}

// fit makes a new file as long as a segment.
func (l *Log) fit(f *os.File, path string, size int64) error {
	info, err := f.Stat()
	if err != nil {
		return localfs.Errorf(err, path, `could not get size of write-ahead log file "%s"`, path)
	}
	switch info.Size() {
	case size:
		return nil
	case 0:
		return localfs.Reserve(f, path, size)
	}
	return fmt.Errorf(`write-ahead log file "%s" has %d bytes, should be 0 or %d`, path, info.Size(), size)
}

// History writes the history file of a timeline and marks it as archived.
func (l *Log) History(name string, content []byte) error {
	if l.closed {
		return fs.ErrClosed
	}
	path := filepath.Join(l.path, name)
	switch kept, err := l.root.ReadFile(name); {
	case err == nil && !bytes.Equal(kept, content):
		return wal.OtherHistory(path)
	case err == nil:
		return l.markDone(name)
	case !errors.Is(err, fs.ErrNotExist):
		return localfs.Errorf(err, path, `could not open timeline history file "%s"`, path)
	}
	temp := localfs.Temporary(name)
	if err := l.write(temp, content); err != nil {
		return err
	}
	if err := l.root.Rename(temp, name); err != nil {
		from := filepath.Join(l.path, temp)
		return localfs.Errorf(err, from, `could not rename file "%s" to "%s"`, from, path)
	}
	return l.markDone(name)
}

// Commit says that the log is whole, which needs nothing here: it is made durable
// with the backup.
func (l *Log) Commit() error {
	if l.closed {
		return fs.ErrClosed
	}
	return nil
}

// Close lets go of the directory. It may be called more than once.
func (l *Log) Close() error {
	if l.closed || !l.own {
		l.closed = true
		return nil
	}
	l.closed = true
	return l.root.Close()
}

// markDone says that a file is in the archive.
func (l *Log) markDone(name string) error {
	return l.write("archive_status/"+name+".done", nil)
}

func (l *Log) write(name string, content []byte) error {
	path := filepath.Join(l.path, name)
	f, err := l.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, l.mode)
	if err != nil {
		return localfs.Errorf(err, path, `could not create file "%s"`, path)
	}
	w := localfs.NewWriter(f, path)
	if _, err := w.Write(content); err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Close()
}

// segment is one that is being written. It is a wal.SegmentWriter.
type segment struct {
	log  *Log
	name string
	size int64 // in bytes
	w    *localfs.Writer

	named bool // the name is durable
}

func (s *segment) Write(p []byte) (int, error) {
	if s.w.Written()+int64(len(p)) > s.size {
		return 0, fmt.Errorf("write-ahead log of segment %s goes on past its %d bytes", s.name, s.size)
	}
	return s.w.Write(p)
}

// Flush makes the segment durable as far as it goes, the first time with its name.
func (s *segment) Flush() error {
	if err := s.w.Sync(); err != nil || s.named {
		return err
	}
	s.named = true
	return localfs.SyncRoot(s.log.root, s.log.path)
}

// Finish marks the segment as archived.
func (s *segment) Finish() error {
	if n := s.w.Written(); n != s.size {
		return errors.Join(fmt.Errorf("segment %s ends after %d of %d bytes", s.name, n, s.size), s.w.Close())
	}
	if err := s.w.Close(); err != nil {
		return err
	}
	return s.log.markDone(s.name)
}

// Abandon leaves the segment under its name, with zeros to its full size. It is
// not marked: the server it will be restored on goes on writing it.
func (s *segment) Abandon() error { return s.w.Close() }
