package main

import (
	"errors"
	"fmt"
	"os"

	"basin/internal/localfs"
	"basin/internal/pgdata"
)

// readControlFile reads the control file at a path, and what it says. A server may be writing it: then it is read again. One
// that is not there is fs.ErrNotExist.
func readControlFile(path string) (content []byte, control pgdata.Control, err error) {
	const tries = 10
	for range tries {
		if content, err = os.ReadFile(path); err != nil {
			return nil, control, localfs.Errorf(err, path, "could not read file \"%s\"", path)
		}
		if control, err = pgdata.ParseControl(content); !errors.Is(err, pgdata.ErrControlChecksum) {
			break
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return content, control, err
}
