//go:build !linux

package waldir

import (
	"errors"
	"os"
)

func datasync(f *os.File) error                { return f.Sync() }
func forget(*os.File)                          {}
func renameNew(*os.File, string, string) error { return errors.ErrUnsupported }
