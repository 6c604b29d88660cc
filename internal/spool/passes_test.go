package spool

import (
	"io"
	"io/fs"
	"syscall"
	"testing"
)

// TestPasses says of which errors a receiver tries again to read a file of its spool: of others it ends, and does not try for ever.
func TestPasses(t *testing.T) {
	for err, want := range map[error]bool{
		&fs.PathError{Op: "open", Err: syscall.EMFILE}: true, syscall.ESTALE: true,
		&fs.PathError{Op: "open", Err: syscall.ENOENT}: false, syscall.EIO: false, syscall.EISDIR: false, syscall.EACCES: false, io.ErrUnexpectedEOF: false,
	} {
		if got := passes(err); got != want {
			t.Errorf("%v: %t", err, got)
		}
	}
}
