package disk

import (
	"errors"
	"io/fs"
	"os"
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

// takes makes a file or a folder that root made the owner's, if there is one. Where root may not give it away, as on some file servers and in some
// containers, it stays as it is.
func (o *owner) takes(file *os.File) error {
	if o == nil {
		return nil
	}
	if info, err := file.Stat(); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
			return nil
		}
	}
	err := file.Chown(o.user, o.group)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// mkdir makes a folder. One that is there, as root left it before it could be given away, is the owner's, too.
func (s *Store) mkdir(dir string) error {
	made := s.root.Mkdir(dir, s.options.DirMode)
	if s.owner == nil || made != nil && !errors.Is(made, fs.ErrExist) {
		return made
	}
	folder, err := s.root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return errors.Join(made, err)
	}
	return errors.Join(made, s.owner.takes(folder), folder.Close())
}

// mkdirAll makes a folder and those above, where they are missing.
func (s *Store) mkdirAll(dir string) error {
	if s.owner == nil {
		return s.root.MkdirAll(dir, s.options.DirMode)
	}
	for i := range dir + "/" {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		err := s.mkdir(dir[:i])
		if errors.Is(err, fs.ErrExist) {
			var info fs.FileInfo
			if info, err = s.root.Stat(dir[:i]); err == nil && !info.IsDir() {
				err = fs.ErrExist
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
