package ahead

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// noteEnd ends the name of a note: an empty file, of which the name says all.
const noteEnd = ".stored"

// errYoung is a file that may be written to again without that being seen.
var errYoung = errors.New("it was written to just now")

// youngTime is how exact the times of files are, or better.
const youngTime = time.Second

// Note notes that a file of the log is stored, which it is to be by now. info is how the file was before it was read. Should the
// host fail the note may be lost, and is then not missed.
func (s *Folder) Note(file string, info fs.FileInfo) error {
	sum, changed, err := identity(info)
	if err == nil && time.Since(changed) < youngTime {
		err = errYoung
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(s.dir, name(file, sum, noteEnd)), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Noted says whether there is a note of a file, which was made since a time, and the file is as it was then.
func (s *Folder) Noted(file string, info fs.FileInfo, since time.Time) bool {
	sum, _, err := identity(info)
	if err != nil {
		return false
	}
	note, err := os.Lstat(filepath.Join(s.dir, name(file, sum, noteEnd)))
	return err == nil && note.Mode().IsRegular() && !note.ModTime().Before(since)
}

// identity returns a sum that is another one once a file was replaced, renamed or written to, and when that was last: whoever
// writes to it cannot set the latter.
func identity(info fs.FileInfo) (sum []byte, changed time.Time, err error) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return sum, changed, fmt.Errorf("%s is no file", info.Name())
	}
	changed = changeTime(stat)
	text := fmt.Sprintf("%d %d %d %d %d", stat.Dev, stat.Ino, info.Size(), info.ModTime().UnixNano(), changed.UnixNano())
	digest := sha256.Sum256([]byte(text))
	return digest[:], changed, nil
}

// KeepNotes removes the notes but for those that keep returns true for, which is told when each was made.
func (s *Folder) KeepNotes(keep func(file string, made time.Time) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		file, _, ok := parse(e.Name(), noteEnd, sha256.Size)
		if !ok {
			continue
		}
		info, gone := e.Info()
		if gone == nil && !keep(file, info.ModTime()) {
			err = errors.Join(err, remove(filepath.Join(s.dir, e.Name())))
		} else if gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}
