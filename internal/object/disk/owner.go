package disk

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// owner is a user and a group, by number.
type owner struct{ user, group int }

// ownerOf returns who owns a folder; nil if that is root.
func ownerOf(root *os.Root) (*owner, error) {
	info, err := root.Stat(".")
	if err != nil {
		return nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stat.Uid == 0 {
		return nil, nil
	}
	return &owner{int(stat.Uid), int(stat.Gid)}, nil
}

// takes makes a file the owner's, if there is one.
func (o *owner) takes(file *os.File) error {
	if o == nil {
		return nil
	}
	return file.Chown(o.user, o.group)
}

// mkdir makes a folder.
func (s *Store) mkdir(dir string) error {
	if err := s.root.Mkdir(dir, s.options.DirMode); err != nil || s.owner == nil {
		return err
	}
	made, err := s.root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	return errors.Join(s.owner.takes(made), made.Close())
}

// mkdirAll makes a folder and those above, where they are missing.
func (s *Store) mkdirAll(dir string) error {
	if s.owner == nil {
		return s.root.MkdirAll(dir, s.options.DirMode)
	}
	err := s.mkdir(dir)
	switch above := path.Dir(dir); {
	case errors.Is(err, fs.ErrExist):
		info, err := s.root.Stat(dir)
		if err == nil && !info.IsDir() {
			err = fs.ErrExist
		}
		return err
	case errors.Is(err, fs.ErrNotExist) && above != dir:
		if err := s.mkdirAll(above); err != nil {
			return err
		}
		if err := s.mkdir(dir); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}
	return err
}
