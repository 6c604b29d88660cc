//go:build !linux

package localfs

import (
	"errors"
	"os"
	"path/filepath"
)

// HaveCopyMethods says whether Clone and CopyRange can work here.
const HaveCopyMethods = false

// Clone is not there on this system.
func Clone(_, _ *os.File) error { return errors.ErrUnsupported }

// CopyRange is not there on this system.
func CopyRange(_, _ *os.File, _, _ int64) (int64, error) { return 0, errors.ErrUnsupported }

// LinkInto gives a file another name, in a directory.
func LinkInto(dir *os.Root, name string, file *os.File) error {
	return os.Link(file.Name(), filepath.Join(dir.Name(), name))
}
