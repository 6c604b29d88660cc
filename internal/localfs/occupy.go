package localfs

import (
	"errors"
	"os"
	"path/filepath"
)

// OccupyDir takes a directory that is there for output, whatever it holds. Remove leaves it as it
// is, as Close does.
func OccupyDir(path string) (*Claim, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, Errorf(err, path, `could not access directory "%s"`, path)
	}
	return &Claim{path: path, root: root, occupied: true}, nil
}

// Free returns how many bytes an ordinary user can still write at a path, which need not be there yet,
// and by which directory that was asked. ok is false where the system does not tell.
func Free(path string) (free int64, dir string, ok bool) {
	dir = existingDir(filepath.Clean(path))
	n, ok := freeBytes(dir)
	return int64(min(n, 1<<62)), dir, ok
}

// WriteDurable writes a file of few bytes in a directory that is open, in one step: it is there as a whole
// or not at all. path is what errors call the directory. With off it is left to the system when it
// becomes durable.
func (s Syncer) WriteDurable(c *Claim, name string, content []byte, mode os.FileMode) error {
	temporary := Temporary(name)
	path := filepath.Join(c.path, temporary)
	f, err := c.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return Errorf(err, path, `could not create file "%s"`, path)
	}
	w := NewWriter(f, path)
	defer w.Close() // after an error; otherwise closed below
	if err := f.Chmod(mode); err != nil {
		return Errorf(err, path, `could not set permissions on file "%s"`, path)
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := s.rename(c, temporary, name); err != nil {
		return err
	}
	return s.syncNameOf(c, name)
}

// RemoveDurable removes a file of a directory that is open. One that is not there is no error.
func (s Syncer) RemoveDurable(c *Claim, name string) error {
	path := filepath.Join(c.path, name)
	if err := c.root.Remove(name); err != nil && !os.IsNotExist(err) {
		return Errorf(err, path, `could not remove file "%s"`, path)
	}
	return s.syncNameOf(c, name)
}

// MoveUp has all that is in a folder of a claimed directory be in the directory itself, and removes the folder. It makes names
// durable, and not what is in files.
func (s Syncer) MoveUp(c *Claim, folder string) error {
	path := filepath.Join(c.path, folder)
	dir, err := c.root.Open(folder)
	if err != nil {
		return Errorf(err, path, `could not open directory "%s"`, path)
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return Errorf(err, path, `could not read directory "%s"`, path)
	}
	for _, name := range names {
		if err := c.root.Rename(filepath.Join(folder, name), name); err != nil {
			from := filepath.Join(path, name)
			return Errorf(err, from, `could not rename file "%s" to "%s"`, from, filepath.Join(c.path, name))
		}
	}
	if err := c.root.Remove(folder); err != nil {
		return Errorf(err, path, `could not remove directory "%s"`, path)
	}
	if s.Off {
		return nil
	}
	if err := SyncRoot(c.root, c.path); err != nil {
		return err
	}
	return s.names([]*Claim{c})
}

// syncNameOf makes the names in the directory that a file is in durable.
func (s Syncer) syncNameOf(c *Claim, name string) error {
	dir := filepath.Dir(name)
	if s.Off {
		return nil
	}
	if dir == "." {
		return SyncRoot(c.root, c.path)
	}
	path := filepath.Join(c.path, dir)
	root, err := c.root.OpenRoot(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return Errorf(err, path, `could not access directory "%s"`, path)
	}
	defer root.Close()
	return SyncRoot(root, path)
}
