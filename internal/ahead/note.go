package ahead

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// noteEnd ends the name of a note: an empty file, of which the name says all.
const noteEnd = ".stored"

// Note notes that a file of the log with a content is stored, which it is to be by now. Should the host fail the
// note may be lost, and is then not missed.
func (s *Folder) Note(file string, content []byte) error {
	f, err := os.OpenFile(filepath.Join(s.dir, name(file, sha256.Sum256(content), noteEnd)), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Noted says whether there is a note of a file with a content, which was made since a time.
func (s *Folder) Noted(file string, content []byte, since time.Time) bool {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		noted, sum, ok := parse(e.Name(), noteEnd)
		if !ok || noted != file {
			continue
		}
		info, err := e.Info()
		if err == nil && info.Mode().IsRegular() && !info.ModTime().Before(since) && sha256.Sum256(content) == sum {
			return true
		}
	}
	return false
}

// KeepNotes removes the notes but for those that keep returns true for, which is told when each was made.
func (s *Folder) KeepNotes(keep func(file string, made time.Time) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		file, _, ok := parse(e.Name(), noteEnd)
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
