// Package ahead keeps files of the log at hand in a folder of this host that recovery will ask for soon.
//
// It is a cache. What is in it can be removed at any time, and may have been lost with the power: each file has the checksum of its
// content in its name, and is read and compared before it is given out. It does not know where files come from.
package ahead

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"basin/internal/usererr"
)

// sumSize is how many bytes the CRC-32C of a file has, which its name says. Nobody but the server's user can write to the folder, so
// that a digest would be of no more use, and it takes most of the time that a file takes.
const sumSize = crc32.Size

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// The ends of the names of what is in the folder: a file, and what is not whole yet.
const (
	fileEnd = ".log"
	partEnd = ".tmp"
)

// lockName is locked by whoever fetches, and tells what.
const lockName = "lock"

// Folder is the folder of one server.
type Folder struct{ dir string }

// Open opens the folder of a server below dir, and makes both if they are not there. Servers are told apart by owner, any
// text. A folder that others can write to is refused: what they put there would be replayed.
func Open(dir, owner string) (*Folder, error) {
	digest := sha256.Sum256([]byte(owner))
	path, err := filepath.Abs(filepath.Join(dir, hex.EncodeToString(digest[:8])))
	if err != nil {
		return nil, err
	}
	for _, folder := range []string{filepath.Dir(path), path} {
		err := os.Mkdir(folder, 0o700)
		if err == nil {
			err = syncAbove(folder) // what is noted beside it is to last
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, usererr.Hinted(fmt.Sprintf("Make %s, for the user of the server.", dir), "make a folder for the spool: %w", err)
		}
	}
	return At(path)
}

// syncAbove makes the name of a folder durable.
func syncAbove(folder string) error {
	above, err := os.Open(filepath.Dir(folder))
	if err != nil {
		return err
	}
	return errors.Join(above.Sync(), above.Close())
}

// At opens the folder of a server by its path, as Dir returns it.
func At(path string) (*Folder, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || info.Mode().Perm()&0o077 != 0 || ok && int(stat.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s is not a folder that only this user can write to", path)
	}
	return &Folder{dir: path}, nil
}

// Dir returns the path of the folder.
func (s *Folder) Dir() string { return s.dir }

// name returns what a file, or a note, is called.
func name(file string, sum []byte, end string) string {
	return file + "." + hex.EncodeToString(sum) + end
}

// parse is the inverse of name, for a sum of so many bytes. It returns false for what is called otherwise.
func parse(entry, end string, size int) (file string, sum []byte, ok bool) {
	rest, ok := strings.CutSuffix(entry, end)
	at := strings.LastIndexByte(rest, '.')
	if !ok || at < 0 {
		return "", nil, false
	}
	sum, err := hex.DecodeString(rest[at+1:])
	return rest[:at], sum, err == nil && len(sum) == size
}

// File is a file in the folder.
type File struct {
	Name string // of the file of the log
	Size int64  // bytes

	sum []byte
}

// Files returns the files that are there, sorted by name.
func (s *Folder) Files() ([]File, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range entries {
		if file, sum, ok := parse(e.Name(), fileEnd, sumSize); ok {
			if info, err := e.Info(); err == nil { // else it was taken
				files = append(files, File{file, info.Size(), sum})
			}
		}
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// Draft is a file that is being written: it is not in the folder until it is kept.
type Draft struct {
	folder *Folder
	name   string // of the file of the log
	file   *os.File
	sum    hash.Hash32
}

// Draft begins with a file. It is to be kept or dropped; there is one draft of a name at a time.
func (s *Folder) Draft(file string) (*Draft, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, file+fileEnd+partEnd), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &Draft{s, file, f, crc32.New(castagnoli)}, nil
}

// Write adds to the file.
func (d *Draft) Write(p []byte) (int, error) {
	n, err := d.file.Write(p)
	_, _ = d.sum.Write(p[:n]) // never fails
	return n, err
}

// Keep puts the file into the folder, in one step. If it cannot, the file is dropped.
func (d *Draft) Keep() error {
	err := d.file.Close()
	if err == nil {
		err = os.Rename(d.file.Name(), filepath.Join(d.folder.dir, name(d.name, d.sum.Sum(nil), fileEnd)))
	}
	if err != nil {
		return errors.Join(err, remove(d.file.Name()))
	}
	return nil
}

// Drop removes what was written.
func (d *Draft) Drop() error { return errors.Join(d.file.Close(), remove(d.file.Name())) }

// Take moves a file to a path, if it is there and is what was put. One that is damaged is removed. It returns how many
// bytes the file has, or fs.ErrNotExist.
func (s *Folder) Take(file, path string) (int64, error) {
	files, err := s.Files()
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(files, func(f File) bool { return f.Name == file })
	if i < 0 {
		return 0, fs.ErrNotExist
	}
	from := filepath.Join(s.dir, name(file, files[i].sum, fileEnd))
	size, sum, err := sumOf(from)
	if err == nil && !bytes.Equal(sum, files[i].sum) {
		err = fmt.Errorf("%s is damaged: %w", from, errors.Join(fs.ErrNotExist, remove(from)))
	}
	if err != nil {
		return 0, err
	}
	if err = os.Rename(from, path); errors.Is(err, syscall.EXDEV) {
		err = errors.Join(copyTo(path, from), remove(from))
	}
	return size, err
}

// sumOf returns the size of a file in bytes, and its checksum.
func sumOf(path string) (int64, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer f.Close() // it is only read
	h := crc32.New(castagnoli)
	size, err := io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 256<<10))
	return size, h.Sum(nil), err
}

// copyTo copies a file in one step.
func copyTo(path, from string) error {
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(path+partEnd, content, 0o600)
	}
	if err != nil {
		return errors.Join(err, remove(path+partEnd))
	}
	return os.Rename(path+partEnd, path)
}

// remove removes what may not be there.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Remove removes a file, which may have been taken.
func (s *Folder) Remove(file File) error {
	return remove(filepath.Join(s.dir, name(file.Name, file.sum, fileEnd)))
}

// Keep removes all files but those that keep returns true for, and what is left of files that never became whole. It is
// called with the lock held.
func (s *Folder) Keep(keep func(file string) bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		file, _, ok := parse(e.Name(), fileEnd, sumSize)
		isWanted := ok && keep(file)
		if !isWanted && (strings.HasSuffix(e.Name(), fileEnd) || strings.HasSuffix(e.Name(), fileEnd+partEnd)) {
			err = errors.Join(err, remove(filepath.Join(s.dir, e.Name())))
		}
	}
	return err
}

// Turn is the turn of a process to fetch: no other has one of the same folder meanwhile.
type Turn struct{ file *os.File }

// Begin makes the caller the one who fetches, until it ends the turn, or itself. It returns nil if there is one already.
func (s *Folder) Begin() (*Turn, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, err
	}
	t := &Turn{f}
	if err := t.Tell("", ""); err != nil { // what the turn before has told
		f.Close()
		return nil, err
	}
	return t, nil
}

// toldSize is how many bytes what is told has: always as many, so that it is written over and never cut off before.
const toldSize = 64

// Tell tells others which files are being fetched, from first to last; empty names are none.
func (t *Turn) Tell(first, last string) error {
	_, err := t.file.WriteAt(fmt.Appendf(nil, "%-*s", toldSize, first+" "+last), 0)
	return err
}

// End ends the turn.
func (t *Turn) End() error { return t.file.Close() }

// IsAtWork says whether it is somebody's turn, and whether a file is among those that are being fetched.
func (s *Folder) IsAtWork(file string) (isTurn, isComing bool) {
	f, err := os.Open(filepath.Join(s.dir, lockName))
	if err != nil {
		return false, false
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		return false, false // nobody has it, and closing it lets go of it, or nobody can have it in this file system
	}
	told := make([]byte, toldSize)
	n, _ := f.ReadAt(told, 0)
	names := strings.Fields(string(told[:n]))
	return true, len(names) == 2 && names[0] <= file && file <= names[1]
}
