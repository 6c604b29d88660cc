//go:build !linux

package disk

import (
	"errors"
	"os"
)

// renameNew would move a file to a name that is not taken, which is known of Linux alone.
func renameNew(*os.File, string, *os.File, string) error { return errors.ErrUnsupported }
