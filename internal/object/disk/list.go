package disk

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"

	"basin/internal/object"
)

// List yields the objects that begin with prefix. It holds the names of one
// folder a level in memory. Files that are no objects it passes over: those with
// names that objects cannot have, symbolic links, devices.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		l := lister{ctx, prefix, after, yield}
		if _, err := l.start(s); err != nil {
			yield(object.Info{}, worded(err, "list %s", s.path(prefix)))
		}
	}
}

// lister is one call of List.
type lister struct {
	ctx           context.Context
	prefix, after string
	yield         func(object.Info, error) bool
}

// start walks from the folder that has all that is asked for.
func (l lister) start(s *Store) (more bool, err error) {
	if err := cmp.Or(l.ctx.Err(), object.CheckPrefix(l.prefix)); err != nil {
		return false, err
	}
	dir := path.Dir(l.prefix + "x") // "a/" is below a
	folder, err := openFolder(s.root, dir)
	if isAbsent(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer folder.Close()
	if dir == "." {
		return l.walk(folder, "")
	}
	return l.walk(folder, dir+"/")
}

// walk yields what is in a folder whose objects' names begin with above. It
// returns false if no more is wanted.
func (l lister) walk(folder *os.Root, above string) (more bool, err error) {
	names, err := l.below(folder, above)
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if err := l.ctx.Err(); err != nil {
			return false, err
		}
		if below, isFolder := strings.CutSuffix(name, "/"); isFolder {
			more, err = l.enter(folder, below, above+name)
		} else {
			more, err = l.tell(folder, name, above+name)
		}
		if !more || err != nil {
			return false, err
		}
	}
	return true, nil
}

// below returns the files and, with a slash behind them, the folders in which
// there may be what is asked for, in the order of the objects' names.
func (l lister) below(folder *os.Root, above string) ([]string, error) {
	dir, err := folder.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		name := entry.Name()
		if object.CheckName(name) != nil {
			continue
		}
		whole := above + name
		switch {
		case entry.IsDir():
			whole += "/"
			if (strings.HasPrefix(whole, l.prefix) || strings.HasPrefix(l.prefix, whole)) &&
				(whole > l.after || strings.HasPrefix(l.after, whole)) {
				names = append(names, name+"/")
			}
		case strings.HasPrefix(whole, l.prefix) && whole > l.after:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (l lister) enter(folder *os.Root, name, above string) (more bool, err error) {
	below, err := openFolder(folder, name)
	if isAbsent(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer below.Close()
	return l.walk(below, above)
}

// openFolder opens a folder; a file is none.
func openFolder(root *os.Root, name string) (*os.Root, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fs.ErrNotExist
	}
	return root.OpenRoot(name)
}

func (l lister) tell(folder *os.Root, name, whole string) (more bool, err error) {
	info, err := folder.Lstat(name)
	if isAbsent(err) || err == nil && !info.Mode().IsRegular() {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return l.yield(object.Info{Name: whole, Size: info.Size(), Time: info.ModTime()}, nil), nil
}
