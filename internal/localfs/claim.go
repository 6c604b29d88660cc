package localfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// A Claim is a directory that was absent or empty when it was taken for output,
// and that can be given back in that state.
//
// It holds the directory open, so that what is written to it and removed from it
// is in the directory that was claimed even if the path leads somewhere else by
// then. Whoever is handed a claim writes through its Root and leaves it open.
type Claim struct {
	path    string
	base    *os.Root // that it lies below, as name; nil: it is found by path
	name    string
	root    *os.Root
	made    []madeDir // the directories above it that were not there, outermost first
	created bool

	occupied bool // it held something, which is not to be removed
}

// madeDir is a directory that was not there before.
type madeDir struct {
	path string
	info fs.FileInfo // by which it is known again
}

// ClaimDir takes the directory at path for output. An absent one is made with
// the permissions of mode less the umask, as are the directories above it. A
// directory that holds anything, be it lost+found or a dot file, is ErrNotEmpty.
// After an error nothing that was made is left.
//
// Source: verify_dir_is_empty_or_create in src/bin/pg_basebackup/pg_basebackup.c
// and pg_check_dir in src/port/pgcheckdir.c, PostgreSQL 18.
func ClaimDir(path string, mode fs.FileMode) (*Claim, error) {
	c := &Claim{path: path}
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		root, err = c.makeDir(mode)
		if err != nil {
			c.removeMade()
			return nil, Errorf(err, path, `could not create directory "%s"`, path)
		}
	}
	if err != nil {
		return nil, Errorf(err, path, `could not access directory "%s"`, path)
	}
	c.root = root
	if err := checkEmpty(root, path); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return c, nil
}

// ClaimBelow is ClaimDir for a directory below base, which no part of name, not even a
// link, leads out of: name is relative to it. The directory above has to be there. path is
// what messages call it, and has to lead there too. The claim uses base until it ends.
//
// Source: bbsink_server_new in src/backend/backup/basebackup_server.c, PostgreSQL 18.
func ClaimBelow(base *os.Root, name, path string, mode fs.FileMode) (*Claim, error) {
	c := &Claim{path: path, base: base, name: name}
	root, err := base.OpenRoot(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := base.Mkdir(name, mode); err != nil {
			return nil, Errorf(err, path, `could not create directory "%s"`, path)
		}
		c.created = true
		root, err = base.OpenRoot(name)
	}
	if err != nil {
		return nil, Errorf(err, path, `could not access directory "%s"`, path)
	}
	c.root = root
	if err := checkEmpty(root, path); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return c, nil
}

// lstat returns what is where the directory was claimed, without following a link.
func (c *Claim) lstat() (fs.FileInfo, error) {
	if c.base != nil {
		return c.base.Lstat(c.name)
	}
	return os.Lstat(filepath.Clean(c.path))
}

// removeDir removes the directory, which is empty.
func (c *Claim) removeDir() error {
	if c.base != nil {
		return c.base.Remove(c.name)
	}
	return os.Remove(filepath.Clean(c.path))
}

// makeDir makes the directory, which must not be there, and opens it.
func (c *Claim) makeDir(mode fs.FileMode) (*os.Root, error) {
	clean := filepath.Clean(c.path) // mkdir takes a trailing slash for a link to follow
	if err := c.makeParents(filepath.Dir(clean), mode); err != nil {
		return nil, err
	}
	if err := os.Mkdir(clean, mode); err != nil {
		return nil, err
	}
	c.created = true
	return os.OpenRoot(clean)
}

// makeParents makes the directory at path and those above it, and remembers
// those that were not there.
//
// Source: pg_mkdir_p in src/port/pgmkdirp.c, PostgreSQL 18.
func (c *Claim) makeParents(path string, mode fs.FileMode) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path:
		return err
	}
	if err := c.makeParents(filepath.Dir(path), mode); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil {
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			return nil // somebody else's, made at the same time
		}
		return err
	}
	info, err = os.Lstat(path)
	if err != nil {
		return err
	}
	c.made = append(c.made, madeDir{path, info})
	return nil
}

// removeMade removes the directories above the claimed one that were made for
// it. One that holds something by now is somebody else's too, and stays.
func (c *Claim) removeMade() {
	for _, m := range slices.Backward(c.made) {
		now, err := os.Lstat(m.path)
		if err != nil || !os.SameFile(m.info, now) || os.Remove(m.path) != nil {
			return
		}
	}
}

// checkEmpty returns an error if the directory, which is called path in it,
// holds anything.
func checkEmpty(root *os.Root, path string) error {
	dir, err := root.Open(".")
	if err != nil {
		return Errorf(err, path, `could not access directory "%s"`, path)
	}
	defer dir.Close()
	switch _, err := dir.Readdirnames(1); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return Errorf(err, path, `could not access directory "%s"`, path)
	}
	return &notEmpty{path}
}

// ErrNotEmpty is the error of a directory that was to be claimed and holds something.
var ErrNotEmpty = errors.New("directory is not empty")

// notEmpty is an ErrNotEmpty in PostgreSQL's words.
type notEmpty struct{ path string }

func (e *notEmpty) Error() string {
	return fmt.Sprintf(`directory "%s" exists but is not empty`, e.path)
}

func (e *notEmpty) Is(target error) bool { return target == ErrNotEmpty }

// Path returns the path the directory was claimed by.
func (c *Claim) Path() string { return c.path }

// Created says whether the claim made the directory, rather than found it empty.
func (c *Claim) Created() bool { return c.created }

// Root returns the claimed directory, open until Close or Remove.
func (c *Claim) Root() *os.Root { return c.root }

// Same says whether both claims are of one directory, by whatever paths.
func (c *Claim) Same(other *Claim) (bool, error) {
	ours, err := c.root.Stat(".")
	if err != nil {
		return false, Errorf(err, c.path, `could not access directory "%s"`, c.path)
	}
	theirs, err := other.root.Stat(".")
	if err != nil {
		return false, Errorf(err, other.path, `could not access directory "%s"`, other.path)
	}
	return os.SameFile(ours, theirs), nil
}

// holders returns the directories that hold the names of the claimed directory
// and of those that were made above it.
func (c *Claim) holders() []string {
	dirs := []string{filepath.Dir(filepath.Clean(c.path))}
	for _, m := range slices.Backward(c.made) {
		dirs = append(dirs, filepath.Dir(m.path))
	}
	return dirs
}

// Close ends the claim and leaves the directory as it is.
func (c *Claim) Close() error { return c.root.Close() }

// checkPlace returns an error if the path no longer leads to the directory that
// was claimed: what is done by path would be done to another.
func (c *Claim) checkPlace() error {
	claimed, err := c.root.Stat(".")
	if err != nil {
		return Errorf(err, c.path, `could not access directory "%s"`, c.path)
	}
	now, err := os.Stat(c.path)
	if err != nil {
		return Errorf(err, c.path, `could not access directory "%s"`, c.path)
	}
	if !os.SameFile(claimed, now) {
		return fmt.Errorf(`directory "%s" was replaced while it was written to`, c.path)
	}
	return nil
}

// Remove gives the directory back as it was before the claim: its contents are
// removed, and if the claim created it, so are the directory and those made above
// it that are empty. Links are removed, not followed. A directory that was moved
// away and replaced meanwhile loses its contents, but its replacement stays. One
// that somebody removed already is no error.
//
// Remove ends the claim; after Close it is an error. Nothing in the directory may
// be open: a network file system would keep it under another name. Of several
// claims the last is given back first, since the first may have made a directory
// that is above them all.
func (c *Claim) Remove() error {
	if c.occupied {
		return c.Close()
	}
	err := c.remove()
	return errors.Join(err, c.root.Close())
}

func (c *Claim) remove() error {
	claimed, err := c.root.Stat(".")
	if err != nil {
		return Errorf(err, c.path, `could not access directory "%s"`, c.path)
	}
	if err := c.empty(); err != nil || !c.created {
		return err
	}
	now, err := c.lstat()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil || !os.SameFile(claimed, now):
		return nil // not ours
	default:
		if err := c.removeDir(); err != nil {
			return Errorf(err, c.path, `could not remove directory "%s"`, c.path)
		}
	}
	c.removeMade()
	return nil
}

// empty removes all that is in the directory. It goes on past what it cannot remove.
func (c *Claim) empty() error {
	dir, err := c.root.Open(".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was removed, which only an empty one can be
	}
	if err != nil {
		return Errorf(err, c.path, `could not open directory "%s"`, c.path)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Errorf(err, c.path, `could not read directory "%s"`, c.path)
	}
	var errs []error
	for _, name := range names {
		if err := c.root.RemoveAll(name); err != nil {
			path := filepath.Join(c.path, name)
			errs = append(errs, Errorf(err, path, `could not remove "%s"`, path))
		}
	}
	return errors.Join(errs...)
}
