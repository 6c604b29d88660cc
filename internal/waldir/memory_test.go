package waldir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"
)

// memory is a disk in memory. It notes what is done to it, so that a test can say
// what would be left of it had the power failed, and it can fail at any step.
//
// As with a real one, what was written is read back at once, but lasts only after
// a sync, and is gone for good after a sync that has failed, as soon as the system
// forgets it.
type memory struct {
	mu    sync.Mutex
	dirs  map[string]map[string]*inode // names, by directory
	steps []step
	count int // of calls that can fail

	fault func(n int, what string) error // of the n-th call; may be nil

	withoutRename, withoutLink bool // the file system has no such thing
}

// inode is a file of a memory.
type inode struct {
	number int
	data   []byte // as it is read
	disk   []byte // as it is on disk
	dirty  []step // what is not on disk yet
	kind   fs.FileMode
}

// step is something that was done, as far as it can outlast a power failure, or be
// lost in one.
type step struct {
	what   string // write, size, sync, lost, name, syncdir, acked
	inode  int
	offset int64
	data   []byte // that was written
	size   int64
	dir    string            // whose names are changed or synced
	names  map[string]*inode // that are new; nil is one that is gone
	acked  any               // what was promised
}

func newMemory() *memory {
	return &memory{dirs: map[string]map[string]*inode{".": {}}}
}

// call counts a call, and returns the error it is to have.
func (m *memory) call(what string) error {
	m.count++
	if m.fault == nil {
		return nil
	}
	return m.fault(m.count, what)
}

func (m *memory) note(s step) { m.steps = append(m.steps, s) }

// promise notes that something was acknowledged.
func (m *memory) promise(what any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(step{what: "acked", acked: what})
}

func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

func (m *memory) lookup(op, name string) (*inode, error) {
	if i := m.dirs[path.Dir(name)][path.Base(name)]; i != nil {
		return i, nil
	}
	return nil, pathError(op, name, syscall.ENOENT)
}

// change notes and makes a change of names in a directory.
func (m *memory) changeNames(dir string, names map[string]*inode) {
	for name, i := range names {
		if i == nil {
			delete(m.dirs[dir], name)
		} else {
			m.dirs[dir][name] = i
		}
	}
	m.note(step{what: "name", dir: dir, names: names})
}

func (m *memory) names(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[dir] == nil {
		return nil, pathError("open", dir, syscall.ENOENT)
	}
	if err := m.call("names " + dir); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(m.dirs[dir])), nil
}

func (m *memory) stat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.lookup("lstat", name)
	if err != nil {
		return nil, err
	}
	return info{name, int64(len(i.data)), i.kind}, nil
}

func (m *memory) open(name string) (file, error) { return m.openFile(name, "open") }

func (m *memory) change(name string) (file, error) { return m.openFile(name, "change") }

func (m *memory) openFile(name, op string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i, err := m.lookup("open", name)
	if err != nil {
		return nil, err
	}
	if err := m.call(op + " " + name); err != nil {
		return nil, err
	}
	if i.kind != 0 {
		return nil, irregular(name)
	}
	return &memoryFile{m, i, name}, nil
}

func (m *memory) create(name string) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.lookup("open", name); err == nil {
		return nil, pathError("open", name, syscall.EEXIST)
	}
	if err := m.call("create " + name); err != nil {
		return nil, err
	}
	i := m.newInode()
	m.changeNames(path.Dir(name), map[string]*inode{path.Base(name): i})
	return &memoryFile{m, i, name}, nil
}

func (m *memory) newInode() *inode {
	return &inode{number: len(m.steps)} // no two are made at the same step
}

func (m *memory) rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.withoutRename {
		return errors.ErrUnsupported
	}
	return m.move("rename", from, to, true)
}

func (m *memory) replace(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.move("replace", from, to, false)
}

func (m *memory) move(op, from, to string, isNew bool) error {
	i, err := m.lookup(op, from)
	if err != nil {
		return err
	}
	if _, err := m.lookup(op, to); err == nil && isNew {
		return pathError(op, to, syscall.EEXIST)
	}
	if err := m.call(op + " " + from + " " + to); err != nil {
		return err
	}
	if path.Dir(from) == path.Dir(to) {
		m.changeNames(path.Dir(from), map[string]*inode{path.Base(from): nil, path.Base(to): i})
		return nil
	}
	m.changeNames(path.Dir(to), map[string]*inode{path.Base(to): i})
	m.changeNames(path.Dir(from), map[string]*inode{path.Base(from): nil})
	return nil
}

func (m *memory) link(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.withoutLink {
		return errors.ErrUnsupported
	}
	i, err := m.lookup("link", from)
	if err != nil {
		return err
	}
	if _, err := m.lookup("link", to); err == nil {
		return pathError("link", to, syscall.EEXIST)
	}
	if err := m.call("link " + from + " " + to); err != nil {
		return err
	}
	m.changeNames(path.Dir(to), map[string]*inode{path.Base(to): i})
	return nil
}

func (m *memory) remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.lookup("remove", name); err != nil {
		return err
	}
	if err := m.call("remove " + name); err != nil {
		return err
	}
	m.changeNames(path.Dir(name), map[string]*inode{path.Base(name): nil})
	return nil
}

func (m *memory) mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.lookup("mkdir", name); err == nil {
		return pathError("mkdir", name, syscall.EEXIST)
	}
	if err := m.call("mkdir " + name); err != nil {
		return err
	}
	m.dirs[name] = map[string]*inode{}
	i := m.newInode()
	i.kind = fs.ModeDir
	m.changeNames(path.Dir(name), map[string]*inode{path.Base(name): i})
	return nil
}

func (m *memory) sync(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.call("syncdir " + dir); err != nil {
		return err
	}
	m.note(step{what: "syncdir", dir: dir})
	return nil
}

func (m *memory) lock() error  { return nil }
func (m *memory) close() error { return nil }

// put makes a file as if it had always been there.
func (m *memory) put(name string, data []byte) {
	i := m.newInode()
	i.data, i.disk = slices.Clone(data), slices.Clone(data)
	m.changeNames(path.Dir(name), map[string]*inode{path.Base(name): i})
	m.note(step{what: "write", inode: i.number, data: i.data})
	m.note(step{what: "sync", inode: i.number})
	m.note(step{what: "syncdir", dir: path.Dir(name)})
}

// memoryFile is an open file of a memory.
type memoryFile struct {
	m    *memory
	i    *inode
	name string
}

func (f *memoryFile) ReadAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.call("read " + f.name); err != nil {
		return 0, err
	}
	if off >= int64(len(f.i.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.i.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.m.call(fmt.Sprintf("write %s %d at %d", f.name, len(p), off))
	if err != nil {
		p = p[:len(p)/2] // as far as there was room
	}
	f.apply(step{what: "write", inode: f.i.number, offset: off, data: slices.Clone(p)})
	return len(p), err
}

// apply makes and notes a change.
func (f *memoryFile) apply(s step) {
	s.apply(&f.i.data)
	f.i.dirty = append(f.i.dirty, s)
	f.m.note(s)
}

// apply changes what a file holds as the step does.
func (s step) apply(data *[]byte) {
	if n := max(s.size, s.offset+int64(len(s.data))) - int64(len(*data)); n > 0 {
		*data = append(*data, make([]byte, n)...)
	}
	copy((*data)[s.offset:], s.data)
}

func (f *memoryFile) Close() error { return nil }

func (f *memoryFile) size() (int64, error) { return int64(len(f.i.data)), nil }

func (f *memoryFile) reserve(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.m.call("reserve " + f.name); err != nil {
		return err
	}
	f.apply(step{what: "size", inode: f.i.number, size: size})
	return nil
}

func (f *memoryFile) startWriteBack(int64, int64) {}

func (f *memoryFile) datasync() error { return f.sync() }

func (f *memoryFile) sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	err := f.m.call("sync " + f.name)
	if err == nil {
		for _, s := range f.i.dirty {
			s.apply(&f.i.disk)
		}
		f.m.note(step{what: "sync", inode: f.i.number})
	} else {
		f.m.note(step{what: "lost", inode: f.i.number})
	}
	f.i.dirty = nil
	return err
}

func (f *memoryFile) forget() {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if len(f.i.dirty) == 0 {
		f.i.data = slices.Clone(f.i.disk)
	}
}

// info is what is known of a file without opening it.
type info struct {
	name string
	size int64
	kind fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.kind | 0o600 }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.kind.IsDir() }
func (i info) Sys() any           { return nil }
