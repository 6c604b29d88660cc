package object

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a Store in memory, for tests and simulations. The zero value is
// empty and ready.
type Memory struct {
	mutex   sync.Mutex
	objects map[string]memoryObject
}

type memoryObject struct {
	data []byte
	time time.Time
}

// Clone returns a store with the same objects, which from then on is another.
func (m *Memory) Clone() *Memory {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return &Memory{objects: maps.Clone(m.objects)}
}

// Create makes an object of a copy of data.
func (m *Memory) Create(ctx context.Context, name string, data []byte) error {
	if err := cmp.Or(ctx.Err(), CheckName(name)); err != nil {
		return err
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if _, taken := m.objects[name]; taken {
		return fmt.Errorf("%s: %w", name, fs.ErrExist)
	}
	if m.objects == nil {
		m.objects = make(map[string]memoryObject)
	}
	m.objects[name] = memoryObject{bytes.Clone(data), time.Now()}
	return nil
}

// Get returns a copy of a part of an object.
func (m *Memory) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := cmp.Or(ctx.Err(), CheckName(name)); err != nil {
		return nil, err
	}
	m.mutex.Lock()
	o, ok := m.objects[name]
	m.mutex.Unlock()
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	n, err := Range(name, int64(len(o.data)), off, n)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, o.data[off:off+n]...), nil
}

// List yields the objects that there are when it is called.
func (m *Memory) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := CheckPrefix(prefix); err != nil {
			yield(Info{}, err)
			return
		}
		for _, info := range m.below(prefix, after) {
			if err := ctx.Err(); err != nil {
				yield(Info{}, err)
				return
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Info{}, err)
		}
	}
}

// below returns the objects that List yields.
func (m *Memory) below(prefix, after string) []Info {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	var infos []Info
	for name, o := range m.objects {
		if strings.HasPrefix(name, prefix) && name > after {
			infos = append(infos, Info{name, int64(len(o.data)), o.time})
		}
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

// Delete removes an object.
func (m *Memory) Delete(ctx context.Context, name string) error {
	if err := cmp.Or(ctx.Err(), CheckName(name)); err != nil {
		return err
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	delete(m.objects, name)
	return nil
}
