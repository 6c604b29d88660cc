package disk

import (
	"os"

	"golang.org/x/sys/unix"
)

// renameNew moves a file to a name in another folder, or fails if that is taken.
func renameNew(from *os.File, name string, to *os.File, newName string) error {
	return unix.Renameat2(int(from.Fd()), name, int(to.Fd()), newName, unix.RENAME_NOREPLACE)
}
