// Package object knows stores of objects that are written once: a name, bytes
// of bounded size, and no way to change them. It has a store in memory, and
// wrappers that try again and that fail on purpose.
//
// What the objects mean is not its business. Where else they can be is that of
// its drivers.
package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
	"time"
)

// Store holds objects that are written once and never change.
//
// Names are slash-separated; see CheckName. No object has the name of a folder of
// others: what happens to such a name is up to the driver.
//
// An absent object is fs.ErrNotExist, a taken name is fs.ErrExist, a range past
// the end and a name that cannot be are fs.ErrInvalid, and what will not work
// until somebody changes a setting is ErrRefused. Those are answers, see
// IsAnswer; any other error may be tried again. All methods may be called at the
// same time, of this store and of others for the same place.
type Store interface {
	// Create makes an object, durably: nobody sees a part of it. If the name is
	// taken it is an error that wraps fs.ErrExist, whatever the object holds. After an
	// error that is no answer the object may be there, or appear later.
	Create(ctx context.Context, name string, data []byte) error

	// Get returns n bytes from off on, or with n < 0 all to the end. Exactly at
	// the end there are none; what is beyond it is an error that wraps fs.ErrInvalid.
	Get(ctx context.Context, name string, off, n int64) ([]byte, error)

	// List yields the objects whose names begin with prefix, as text, and
	// come after the name after, sorted by the bytes of their names. It ends
	// with the first error. An object that is made or deleted meanwhile may be there or not.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]

	// Delete removes an object, durably. That there is none is no error.
	Delete(ctx context.Context, name string) error
}

// GetTo is Get of a store, of bytes that may lie in buffer if that has room for them: memory that was used a moment ago
// is quicker than new memory. A store need not know how.
func GetTo(ctx context.Context, s Store, name string, off, n int64, buffer []byte) ([]byte, error) {
	if s, ok := s.(interface {
		GetTo(ctx context.Context, name string, off, n int64, buffer []byte) ([]byte, error)
	}); ok {
		return s.GetTo(ctx, name, off, n, buffer)
	}
	return s.Get(ctx, name, off, n)
}

// Room returns n bytes of memory, of buffer if it has them. It is for drivers.
func Room(buffer []byte, n int64) []byte {
	if int64(cap(buffer)) < n {
		return make([]byte, n)
	}
	return buffer[:n]
}

// CreateFrom is Create of a store, of the first size bytes of content, which are read as often as it takes. They need not be
// in memory at once if the store knows how.
func CreateFrom(ctx context.Context, s Store, name string, content io.ReaderAt, size int64) error {
	if s, ok := s.(interface {
		CreateFrom(ctx context.Context, name string, content io.ReaderAt, size int64) error
	}); ok {
		return s.CreateFrom(ctx, name, content, size)
	}
	data := make([]byte, size)
	if n, err := content.ReadAt(data, 0); n < len(data) {
		return err
	}
	return s.Create(ctx, name, data)
}

// Info is what a store tells of an object without reading it.
type Info struct {
	Name string
	Size int64     // bytes
	Time time.Time // when it was made, by the clock of the store
}

// ErrRefused is wrapped by errors that stay until somebody changes a
// setting, a permission or the place, so that it is of no use to try again.
var ErrRefused = errors.New("refused")

// IsAnswer says whether err is an answer, which stays the same if the call is
// made again.
func IsAnswer(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) ||
		errors.Is(err, fs.ErrInvalid) || errors.Is(err, ErrRefused)
}

// The longest names, in bytes: what S3 has for a key, less a prefix, and what
// file systems have for a file.
const (
	maxName    = 768
	maxElement = 255
)

// CheckName returns an error that wraps fs.ErrInvalid if no object can have
// this name. Names consist of elements with slashes between them; an element of
// 1 to 255 of the letters A to Z and a to z, digits, '.', '_' and '-', but is
// not "." or "..". A name has at most 768 bytes.
func CheckName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("name of %d bytes: %w", len(name), fs.ErrInvalid)
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == "" || element == "." || element == ".." || len(element) > maxElement ||
			strings.ContainsFunc(element, isForeign) {
			return fmt.Errorf("name %q: %w", name, fs.ErrInvalid)
		}
	}
	return nil
}

// CheckPrefix returns an error that wraps fs.ErrInvalid if no name can begin
// with prefix.
func CheckPrefix(prefix string) error {
	last := prefix[strings.LastIndexByte(prefix, '/')+1:]
	whole := prefix
	if last == "" || last == "." || last == ".." {
		whole += "x"
	}
	if CheckName(whole) != nil {
		return fmt.Errorf("prefix %q: %w", prefix, fs.ErrInvalid)
	}
	return nil
}

func isForeign(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
}

// Range returns how many bytes a Get of n bytes from off on has to return of an
// object of some size, or an error that wraps fs.ErrInvalid. It is for drivers.
func Range(name string, size, off, n int64) (int64, error) {
	if off < 0 || off > size || n > size-off {
		return 0, fmt.Errorf("%s: %d bytes from %d on, of %d: %w", name, n, off, size, fs.ErrInvalid)
	}
	if n < 0 {
		n = size - off
	}
	return n, nil
}
