// Package disk keeps objects as files below a folder.
//
// An object is written under another name first, made durable, and linked to its
// own, which the system refuses if that is taken. The other names are in the
// folder "~" of the top, which no object can have. What a crash leaves there
// is removed a day later, by a store that creates. If asked for, a file there keeps some
// room, so that there is a way out of a file system that is full. On a file system that has no
// links, such as FAT, files are renamed instead, where the system can
// do so without replacing another; where it cannot, nothing is created.
//
// What root makes in a folder of another user is that user's: else who writes to it otherwise could not read it.
//
// Symbolic links that lead out of the folder are refused, List passes over all.
// The folder is on one file system as a whole. What the objects mean is not known here.
package disk

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"basin/internal/object"
	"basin/internal/usererr"
)

const (
	// temporary is the folder of files that are being written. It is sorted behind
	// all others, and is no name of an object.
	temporary = "~"

	// reserve is a file that keeps some room.
	reserve = temporary + "/reserve"

	// leftAfter is how old a temporary file is that a crash must have left. Nothing
	// takes that long to write, and clocks of file servers are not that wrong.
	leftAfter = 24 * time.Hour

	// maxTries bounds how often a folder is made that others remove as it is empty.
	maxTries = 100
)

// Options say how a store makes files and folders.
type Options struct {
	DirMode  fs.FileMode // permissions of folders; zero is 0700
	FileMode fs.FileMode // permissions of files; zero is 0600

	// Reserve is how many bytes are kept for when the file system is full; zero is none. UseReserve has them be used then: for
	// whoever makes room, who has to note first what he does.
	Reserve    int64
	UseReserve bool
}

// Store is an object.Store in a folder.
type Store struct {
	root    *os.Root
	options Options
	owner   *owner // who owns what is made; nil for whoever makes it

	mutex sync.Mutex
	swept time.Time // when old temporary files were last removed

	step func(step string) error // by which tests stop at a step, or nil
}

// Open returns the store in a folder, which must exist. It is closed by Close.
func Open(dir string, o Options) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, worded(err, "open %s", dir)
	}
	o.DirMode = cmp.Or(o.DirMode, 0o700)
	o.FileMode = cmp.Or(o.FileMode, 0o600)
	s := &Store{root: root, options: o}
	if os.Geteuid() == 0 {
		if s.owner, err = ownerOf(root); err != nil {
			return nil, errors.Join(worded(err, "open %s", dir), root.Close())
		}
	}
	return s, nil
}

// Close lets go of the folder.
func (s *Store) Close() error { return s.root.Close() }

// Create makes an object. When it returns, the file and its name are durable,
// and so are the folders above; that is also so if the name is taken.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	return s.createOf(ctx, name, func() io.Reader { return bytes.NewReader(data) }, int64(len(data)))
}

// CreateFrom is Create of the first size bytes of content.
func (s *Store) CreateFrom(ctx context.Context, name string, content io.ReaderAt, size int64) error {
	return s.createOf(ctx, name, func() io.Reader { return io.NewSectionReader(content, 0, size) }, size)
}

// createOf makes an object of what is read, which is to be so many bytes.
func (s *Store) createOf(ctx context.Context, name string, content func() io.Reader, size int64) error {
	err := s.create(ctx, name, content(), size)
	if s.options.UseReserve && isFull(err) && s.root.Remove(reserve) == nil {
		err = s.create(ctx, name, content(), size)
	}
	return err
}

func (s *Store) create(ctx context.Context, name string, content io.Reader, size int64) error {
	if err := cmp.Or(ctx.Err(), object.CheckName(name)); err != nil {
		return err
	}
	if err := s.sweep(); err != nil {
		return worded(err, "remove what was left in %s", s.path(temporary))
	}
	temp, err := s.write(content, size)
	if err != nil {
		return worded(err, "create %s", s.path(name))
	}
	err = s.place(ctx, temp, name)
	if removed := s.root.Remove(temp); err == nil && !errors.Is(removed, fs.ErrNotExist) {
		err = removed // what is renamed is gone already
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return worded(err, "create %s", s.path(name))
	}
	if synced := s.syncUp(path.Dir(name)); synced != nil {
		return worded(synced, "create %s", s.path(name))
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", s.path(name), err)
	}
	return nil
}

// write makes a temporary file that is durable, and returns its name.
func (s *Store) write(content io.Reader, size int64) (name string, err error) {
	if err := s.mkdir(temporary); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	name = temporary + "/" + rand.Text()
	file, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, s.options.FileMode)
	if err != nil {
		return "", err
	}
	var n int64
	if err = s.owner.takes(file); err == nil {
		n, err = io.Copy(file, content)
	}
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = file.Sync()
	}
	if err := cmp.Or(err, file.Close(), s.at("written")); err != nil {
		_ = s.root.Remove(name) // or a day later
		return "", err
	}
	return name, nil
}

// place gives a file its name, in folders that are made. Whoever deletes the
// last object of a folder removes that, so it may have to be made again.
func (s *Store) place(ctx context.Context, temp, name string) error {
	var err error
	for range maxTries {
		err = ctx.Err()
		if err == nil {
			err = s.makeFolder(path.Dir(name))
		}
		if err == nil {
			err = s.at("folders")
		}
		if err == nil {
			err = s.link(temp, name)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist): // is an answer, but not to this
		return errors.New("the folder, or what was written for it, is removed again and again")
	case !errors.Is(err, fs.ErrExist):
		return cmp.Or(err, s.at("linked"))
	}
	if info, err := s.root.Lstat(name); err == nil && info.IsDir() {
		return fmt.Errorf("a folder has this name: %w", fs.ErrInvalid)
	}
	return fs.ErrExist
}

// makeFolder makes a folder and those above, where they are missing.
func (s *Store) makeFolder(dir string) error {
	err := s.mkdirAll(dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("a file has the name of a folder: %w", fs.ErrInvalid)
	}
	return err
}

// link gives a file another name, or a new one, and never replaces another file.
func (s *Store) link(temp, name string) error {
	err := s.root.Link(temp, name)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist) && s.isSame(temp, name): // a file server whose answer was lost was asked again
		return nil
	case isUnlinkable(err):
		return s.rename(temp, name)
	}
	return err
}

func (s *Store) isSame(a, b string) bool {
	first, err := s.root.Lstat(a)
	if err != nil {
		return false
	}
	second, err := s.root.Lstat(b)
	return err == nil && os.SameFile(first, second)
}

// isUnlinkable says whether an error of link(2) tells that there are no links here.
func isUnlinkable(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EOPNOTSUPP, syscall.ENOTSUP, syscall.ENOSYS, syscall.EMLINK} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// rename gives a file a name that is not taken.
func (s *Store) rename(temp, name string) error {
	from, err := s.root.Open(path.Dir(temp))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := s.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer to.Close()
	return renameNew(from, path.Base(temp), to, path.Base(name))
}

// syncUp makes what is in a folder durable, and all folders above. Another
// process may have made any of them just now. One that is gone was removed
// with all that was in it.
func (s *Store) syncUp(dir string) error {
	for {
		if err := s.sync(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if dir == "." {
			return nil
		}
		dir = path.Dir(dir)
	}
}

func (s *Store) sync(dir string) error {
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return cmp.Or(s.at("sync"), f.Sync())
}

// Get returns a part of an object.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	return s.GetTo(ctx, name, off, n, nil)
}

// GetTo is as object.GetTo says.
func (s *Store) GetTo(ctx context.Context, name string, off, n int64, buffer []byte) ([]byte, error) {
	if err := cmp.Or(ctx.Err(), object.CheckName(name)); err != nil {
		return nil, err
	}
	data, err := s.get(name, off, n, buffer)
	if err != nil {
		return nil, worded(err, "read %s", s.path(name))
	}
	return data, nil
}

func (s *Store) get(name string, off, n int64, buffer []byte) ([]byte, error) {
	file, err := s.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // which does not wait for the writer of a pipe
	if errors.Is(err, syscall.ENOTDIR) {
		return nil, fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fs.ErrNotExist
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("not a regular file: %w", object.ErrRefused)
	}
	n, err = object.Range(name, info.Size(), off, n)
	if err != nil {
		return nil, err
	}
	data := object.Room(buffer, n)
	if _, err := file.ReadAt(data, off); err != nil && !(errors.Is(err, io.EOF) && n == 0) {
		return nil, err
	}
	return data, nil
}

// Delete removes an object, and the folders that are empty without it.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := cmp.Or(ctx.Err(), object.CheckName(name)); err != nil {
		return err
	}
	if err := s.remove(name); err != nil {
		return worded(err, "delete %s", s.path(name))
	}
	return nil
}

func (s *Store) remove(name string) error {
	info, err := s.root.Lstat(name)
	switch {
	case isAbsent(err):
	case err != nil:
		return err
	case info.IsDir(): // is no object
		return nil
	default:
		if err := s.root.Remove(name); err != nil && !isAbsent(err) {
			return err
		}
	}
	// If another has removed it, that may not be durable yet.
	dir := path.Dir(name)
	for ; dir != "."; dir = path.Dir(dir) {
		info, err := s.root.Lstat(dir)
		if isAbsent(err) {
			continue
		}
		if err != nil {
			return err
		}
		if !info.IsDir() || s.root.Remove(dir) != nil { // not empty, most often
			break
		}
	}
	if err := s.sync(dir); err != nil && !isAbsent(err) {
		return err
	}
	return nil
}

// isAbsent says whether there is no such file, or a file where its folder would be.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// sweep removes what crashes have left, once a day.
func (s *Store) sweep() error {
	now := time.Now()
	s.mutex.Lock()
	isDue := now.Sub(s.swept) > leftAfter
	if isDue {
		s.swept = now
	}
	s.mutex.Unlock()
	if !isDue {
		return nil
	}
	entries, err := fs.ReadDir(s.root.FS(), temporary)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	isReserved := false
	for _, entry := range entries {
		name := temporary + "/" + entry.Name()
		if isReserved = isReserved || name == reserve; name == reserve {
			continue
		}
		info, err := s.root.Lstat(name)
		if err == nil && info.Mode().IsRegular() && now.Sub(info.ModTime()) > leftAfter {
			err = s.root.Remove(name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !isReserved && s.options.Reserve > 0 {
		s.makeReserve()
	}
	return nil
}

// makeReserve makes the file that is removed when there is no other room. If it cannot be made now, it is with another object.
func (s *Store) makeReserve() {
	content := make([]byte, s.options.Reserve)
	_, _ = rand.Read(content) // never fails; it takes as much room where files are compressed, too
	if temp, err := s.write(bytes.NewReader(content), s.options.Reserve); err == nil && s.root.Rename(temp, reserve) != nil {
		_ = s.root.Remove(temp)
	}
}

// isFull says whether there is no room for what was to be written.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// path returns where an object is, for messages.
func (s *Store) path(name string) string { return path.Join(s.root.Name(), name) }

// at lets a test stop at a step.
func (s *Store) at(step string) error {
	if s.step == nil {
		return nil
	}
	return s.step(step)
}

// worded returns err with what was being done, and as object.ErrRefused what
// waiting does not mend.
func worded(err error, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	var hint string
	switch {
	case object.IsAnswer(err) && !isEscape(err):
		return fmt.Errorf("%s: %w", text, err)
	case isFull(err):
		return usererr.Hinted("Make room in its file system. basin forget removes backups that no rule keeps, and basin prune what they alone needed.", "%s: %w", text, err)
	case errors.Is(err, fs.ErrPermission):
		hint = "check the owner and the permissions of the folder"
	case errors.Is(err, syscall.EROFS):
		hint = "mount the file system for writing"
	case errors.Is(err, syscall.EXDEV):
		hint = "all folders must be on one file system"
	case errors.Is(err, syscall.EINVAL), errors.Is(err, errors.ErrUnsupported):
		hint = "the file system needs hard links, or renaming that replaces nothing"
	case isEscape(err):
		hint = "replace the symbolic link by what it leads to"
	default:
		return fmt.Errorf("%s: %w", text, err)
	}
	return usererr.Hinted(hint, "%s: %w: %w", text, object.ErrRefused, err)
}

// isEscape says whether os.Root has met a symbolic link that leads out, for which it
// has no error that can be told otherwise.
func isEscape(err error) bool {
	var failed *fs.PathError
	return errors.As(err, &failed) && strings.Contains(failed.Err.Error(), "escapes")
}
