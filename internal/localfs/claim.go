package localfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// A Claim is a directory that was absent or empty when it was taken for output,
// and that can be given back in that state.
//
// It holds the directory open, so that what it removes is in the directory that
// was claimed even if the path leads somewhere else by then.
type Claim struct {
	path    string
	root    *os.Root
	created bool
}

// ClaimDir takes the directory at path for output. An absent one is made with
// the permissions of mode less the umask, as are the directories above it. A
// directory that holds anything, be it lost+found or a dot file, is an error.
//
// Source: verify_dir_is_empty_or_create in src/bin/pg_basebackup/pg_basebackup.c
// and pg_check_dir in src/port/pgcheckdir.c, PostgreSQL 18.
func ClaimDir(path string, mode fs.FileMode) (*Claim, error) {
	c := &Claim{path: path}
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		c.created = true
		root, err = makeDir(path, mode)
		if err != nil {
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

// makeDir makes the directory at path, which must not be there, and opens it.
func makeDir(path string, mode fs.FileMode) (*os.Root, error) {
	clean := filepath.Clean(path) // mkdir takes a trailing slash for a link to follow
	if err := os.MkdirAll(filepath.Dir(clean), mode); err != nil {
		return nil, err
	}
	if err := os.Mkdir(clean, mode); err != nil {
		return nil, err
	}
	return os.OpenRoot(clean)
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
	return fmt.Errorf(`directory "%s" exists but is not empty`, path)
}

// Path returns the path the directory was claimed by.
func (c *Claim) Path() string { return c.path }

// Created says whether the claim made the directory, rather than found it empty.
func (c *Claim) Created() bool { return c.created }

// Root returns the claimed directory, open until Close or Remove.
func (c *Claim) Root() *os.Root { return c.root }

// Close ends the claim and leaves the directory as it is.
func (c *Claim) Close() error { return c.root.Close() }

// Remove gives the directory back as it was before the claim: its contents are
// removed, and the directory too if the claim created it. Links are removed, not
// followed. A directory that was moved away and replaced meanwhile loses its
// contents, but its replacement stays.
//
// Remove ends the claim; after Close it is an error.
func (c *Claim) Remove() error {
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
	clean := filepath.Clean(c.path)
	now, err := os.Lstat(clean)
	if err != nil || !os.SameFile(claimed, now) {
		return nil // gone, or not ours
	}
	if err := os.Remove(clean); err != nil {
		return Errorf(err, c.path, `could not remove directory "%s"`, c.path)
	}
	return nil
}

// empty removes all that is in the directory. It goes on past what it cannot remove.
func (c *Claim) empty() error {
	dir, err := c.root.Open(".")
	if err != nil {
		return Errorf(err, c.path, `could not open directory "%s"`, c.path)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
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
