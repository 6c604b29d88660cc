package waldir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"basin/internal/localfs"
)

// disk is the directory of a file system that a Directory works on: all that it
// asks of one, so that a test can take its place and lose power, or run full, at
// any step. Names are relative, at most one directory deep.
//
// An absent file is fs.ErrNotExist, a taken name fs.ErrExist. Nothing follows a
// symbolic link.
type disk interface {
	names(dir string) ([]string, error) // sorted
	stat(name string) (fs.FileInfo, error)
	open(name string) (file, error)   // to be read
	change(name string) (file, error) // to be read and written
	create(name string) (file, error) // new, to be read and written
	rename(from, to string) error     // to must be free; may be errors.ErrUnsupported; not into another directory
	replace(from, to string) error    // to is gone, if it was there
	link(from, to string) error       // may be errors.ErrUnsupported
	remove(name string) error
	mkdir(name string) error
	sync(dir string) error // makes the names in it durable
	lock() error
	close() error
}

// file is an open file of a disk.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	size() (int64, error)
	reserve(size int64) error    // makes it that long, with space behind it; what it holds stays
	startWriteBack(off, n int64) // tells the disk to begin on n bytes
	datasync() error             // makes what it holds durable
	sync() error                 // and all else about it, but for its name
	forget()                     // reads show what is on disk, where it was synced
}

// osDisk is a directory of the operating system.
type osDisk struct {
	path string
	mode fs.FileMode // of new files
	root *os.Root
	dir  *os.File // the same, open
}

func openDisk(path string, mode fs.FileMode) (*osDisk, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not open directory "%s"`, path)
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(localfs.Errorf(err, path, `could not open directory "%s"`, path), root.Close())
	}
	return &osDisk{path: path, mode: mode, root: root, dir: dir}, nil
}

func (d *osDisk) in(name string) string { return filepath.Join(d.path, name) }

func (d *osDisk) names(dir string) ([]string, error) {
	f, err := d.root.Open(dir)
	if err != nil {
		return nil, localfs.Errorf(err, d.in(dir), `could not open directory "%s"`, d.in(dir))
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, localfs.Errorf(err, d.in(dir), `could not read directory "%s"`, d.in(dir))
	}
	slices.Sort(names)
	return names, nil
}

func (d *osDisk) stat(name string) (fs.FileInfo, error) {
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, localfs.Errorf(err, d.in(name), `could not stat file "%s"`, d.in(name))
	}
	return info, nil
}

func (d *osDisk) open(name string) (file, error) {
	return d.openFile(name, os.O_RDONLY, `could not open file "%s"`)
}

func (d *osDisk) change(name string) (file, error) {
	return d.openFile(name, os.O_RDWR, `could not open file "%s"`)
}

func (d *osDisk) create(name string) (file, error) {
	return d.openFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, `could not create file "%s"`)
}

func (d *osDisk) openFile(name string, flag int, message string) (file, error) {
	if flag&os.O_CREATE == 0 {
		// A link would be followed, and a pipe waited for.
		info, err := d.stat(name)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, irregular(d.in(name))
		}
	}
	f, err := d.root.OpenFile(name, flag, d.mode)
	if err != nil {
		return nil, localfs.Errorf(err, d.in(name), message, d.in(name))
	}
	return &osFile{f: f, path: d.in(name)}, nil
}

// rename does without the root: its names have no directory in them.
func (d *osDisk) rename(from, to string) error {
	return d.renamed(renameNew(d.dir, from, to), from, to)
}

func (d *osDisk) replace(from, to string) error {
	return d.renamed(d.root.Rename(from, to), from, to)
}

func (d *osDisk) renamed(err error, from, to string) error {
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return localfs.Errorf(err, d.in(from), `could not rename file "%s" to "%s"`, d.in(from), d.in(to))
	}
	return err
}

// link gives a file a second name. Some file systems have no such thing, and say
// that it is not permitted.
func (d *osDisk) link(from, to string) error {
	err := d.root.Link(from, to)
	switch {
	case errors.Is(err, syscall.EPERM):
		return errors.ErrUnsupported
	case err != nil:
		return localfs.Errorf(err, d.in(from), `could not link file "%s" to "%s"`, d.in(from), d.in(to))
	}
	return nil
}

func (d *osDisk) remove(name string) error {
	if err := d.root.Remove(name); err != nil {
		return localfs.Errorf(err, d.in(name), `could not remove file "%s"`, d.in(name))
	}
	return nil
}

func (d *osDisk) mkdir(name string) error {
	mode := localfs.DirModeOwner
	if d.mode&0o040 != 0 {
		mode |= 0o050
	}
	if err := d.root.Mkdir(name, mode); err != nil {
		return localfs.Errorf(err, d.in(name), `could not create directory "%s"`, d.in(name))
	}
	return nil
}

func (d *osDisk) sync(dir string) error {
	if dir == "." {
		return localfs.SyncRoot(d.root, d.path)
	}
	root, err := d.root.OpenRoot(dir)
	if err != nil {
		return localfs.Errorf(err, d.in(dir), `could not open directory "%s"`, d.in(dir))
	}
	defer root.Close()
	return localfs.SyncRoot(root, d.in(dir))
}

func (d *osDisk) lock() error {
	if localfs.Lock(d.dir) {
		return inUse(d.path)
	}
	return nil
}

func (d *osDisk) close() error { return errors.Join(d.dir.Close(), d.root.Close()) }

// osFile is a file of the operating system.
type osFile struct {
	f    *os.File
	path string
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = localfs.Errorf(err, f.path, `could not read file "%s"`, f.path)
	}
	return n, err
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.f.WriteAt(p, off)
	if err != nil {
		err = localfs.Errorf(err, f.path, `could not write to file "%s"`, f.path)
	}
	return n, err
}

func (f *osFile) Close() error {
	if err := f.f.Close(); err != nil {
		return localfs.Errorf(err, f.path, `could not close file "%s"`, f.path)
	}
	return nil
}

func (f *osFile) size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, localfs.Errorf(err, f.path, `could not stat file "%s"`, f.path)
	}
	return info.Size(), nil
}

func (f *osFile) reserve(size int64) error { return localfs.Reserve(f.f, f.path, size) }

func (f *osFile) startWriteBack(off, n int64) { localfs.StartWriteBack(f.f, off, n) }

func (f *osFile) datasync() error { return f.synced(datasync(f.f)) }

func (f *osFile) sync() error { return f.synced(f.f.Sync()) }

func (f *osFile) synced(err error) error {
	if err != nil {
		return localfs.Errorf(err, f.path, `could not fsync file "%s"`, f.path)
	}
	return nil
}

func (f *osFile) forget() { forget(f.f) }
