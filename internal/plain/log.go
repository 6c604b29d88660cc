package plain

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"basin/internal/localfs"
	"basin/internal/wal"
)

// versionWithSummaries is the server_version_num from which on pg_wal has a
// directory for summaries.
//
// Source: MINIMUM_VERSION_FOR_WAL_SUMMARIES in
// src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
const versionWithSummaries = 170000

// LogOptions are the options of a Log. Dir is required; the rest may be zero.
type LogOptions struct {
	Dir           string      // the data directory
	WALDir        string      // what pg_wal is a link to; empty: pg_wal is a directory
	ServerVersion int         // as server_version_num; from 170000 on there are summaries
	DirMode       fs.FileMode // zero is 0700
	FileMode      fs.FileMode // zero is 0600
	NoSync        bool        // as for the Sink: segments are not going to be synced
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
	mode   fs.FileMode
	noSync bool
}

// NewLog opens pg_wal and makes the directories in it. The Sink of the same data
// directory must have begun.
func NewLog(o LogOptions) (*Log, error) {
	if o.DirMode == 0 {
		o.DirMode = dirModeOwner
	}
	if o.FileMode == 0 {
		o.FileMode = fileModeOwner
	}
	l := &Log{path: o.WALDir, mode: o.FileMode, noSync: o.NoSync}
	if l.path == "" {
		l.path = filepath.Join(o.Dir, "pg_wal")
	}
	var err error
	if l.root, err = openLog(o); err != nil {
		return nil, localfs.Errorf(err, l.path, `could not open directory "%s"`, l.path)
	}
	subdirs := []string{"archive_status"}
	if o.ServerVersion >= versionWithSummaries {
		subdirs = append(subdirs, "summaries")
	}
	for _, name := range subdirs {
		if err := l.root.Mkdir(name, o.DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			path := filepath.Join(l.path, name)
			return nil, errors.Join(localfs.Errorf(err, path, `could not create directory "%s"`, path), l.root.Close())
		}
	}
	return l, nil
}

// openLog opens the directory of the log. Inside the data directory it is
// reached through that, so that a pg_wal linked elsewhere by the server is refused.
func openLog(o LogOptions) (*os.Root, error) {
	if o.WALDir != "" {
		return os.OpenRoot(o.WALDir)
	}
	data, err := os.OpenRoot(o.Dir)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	if err := data.Mkdir("pg_wal", o.DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return data.OpenRoot("pg_wal")
}

// Begin makes the file of a segment, size bytes long, or takes one of that size
// that is there.
func (l *Log) Begin(name string, size int64) (wal.SegmentWriter, error) {
	path := filepath.Join(l.path, name)
	f, err := l.root.OpenFile(name, os.O_WRONLY|os.O_CREATE, l.mode)
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not open write-ahead log file "%s"`, path)
	}
	if err := l.fit(f, path, size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &segment{log: l, name: name, size: size, w: localfs.NewWriter(f, path, !l.noSync)}, nil
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

// History writes the history file of a timeline and marks it as archived. One
// that is there is replaced.
func (l *Log) History(name string, content []byte) error {
	temp := name + ".tmp"
	if err := l.write(temp, content); err != nil {
		return err
	}
	if err := l.root.Rename(temp, name); err != nil {
		from, to := filepath.Join(l.path, temp), filepath.Join(l.path, name)
		return localfs.Errorf(err, from, `could not rename file "%s" to "%s"`, from, to)
	}
	return l.markDone(name)
}

// HasHistory says whether the history file is there.
func (l *Log) HasHistory(name string) (bool, error) {
	_, err := l.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		path := filepath.Join(l.path, name)
		return false, localfs.Errorf(err, path, `could not open timeline history file "%s"`, path)
	}
	return true, nil
}

// Close closes the directory. It may be called more than once.
func (l *Log) Close() error { return l.root.Close() }

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
	w := localfs.NewWriter(f, path, false)
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
}

func (s *segment) Write(p []byte) (int, error) {
	if s.w.Written()+int64(len(p)) > s.size {
		return 0, fmt.Errorf("write-ahead log of segment %s goes on past its %d bytes", s.name, s.size)
	}
	return s.w.Write(p)
}

func (s *segment) Flush() error { return s.w.Sync() }

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
