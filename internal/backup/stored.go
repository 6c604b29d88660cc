package backup

import (
	"context"
	"io"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"
)

// ManifestPath returns the path that a manifest has for what is in a tablespace.
func ManifestPath(tablespace uint32, within string) string {
	if tablespace == 0 {
		return within
	}
	return "pg_tblspc/" + strconv.FormatUint(uint64(tablespace), 10) + "/" + within
}

// CutManifestPath is the inverse of ManifestPath.
func CutManifestPath(path string) (tablespace uint32, within string) {
	rest, isTablespace := strings.CutPrefix(path, "pg_tblspc/")
	number, within, hasMore := strings.Cut(rest, "/")
	oid, err := strconv.ParseUint(number, 10, 32)
	if !isTablespace || !hasMore || err != nil || oid == 0 {
		return 0, path
	}
	return uint32(oid), within
}

// Stored is a finished backup, whose files can be opened in any order, several at a time.
type Stored interface {
	// Tablespaces returns those that are not the main directory.
	Tablespaces() ([]Tablespace, error)
	// Members yields what is in the backup. A directory comes before what is in it, and
	// global/pg_control last. Permissions, sizes and times are those of a file that is
	// opened, and not told here.
	Members() iter.Seq2[Member, error]
	// Open opens a file. One that is not there is fs.ErrNotExist. path is clean.
	Open(tablespace uint32, path string) (*StoredFile, error)
	// Name returns what messages call what is, or is not, at a path.
	Name(tablespace uint32, path string) string
	// Close lets go of the backup. Files that are open stay so.
	Close() error
}

// StoredFile is an open file of a stored backup: a part of a file that is open here. It
// may be read from several goroutines.
type StoredFile struct {
	File    *os.File // what it is a part of
	Offset  int64    // where it begins in File, in bytes
	Size    int64    // in bytes
	ModTime time.Time
	Mode    fs.FileMode // permissions
	UID     int         // owner; zero where systems have none
	GID     int
	Name    string // what messages call it
	Shared  bool   // File is not its own, and is not closed with it
}

// ReadAt reads from within the file: it is an io.ReaderAt.
func (f *StoredFile) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.Size {
		return 0, io.EOF
	}
	isCut := int64(len(p)) > f.Size-off
	if isCut {
		p = p[:f.Size-off]
	}
	n, err := f.File.ReadAt(p, f.Offset+off)
	if err == nil && isCut {
		err = io.EOF
	}
	return n, err
}

// Close closes the file.
func (f *StoredFile) Close() error {
	if f.Shared {
		return nil
	}
	return f.File.Close()
}

// Extent is a number of bytes that lie one after the other in a file here.
type Extent struct {
	File   *StoredFile // nil: they are zeros
	Offset int64       // in File, in bytes
	Length int64       // in bytes
}

// Placed is what the reader of a member may be as well: its bytes lie in files here, so
// that they can be linked, cloned or copied by the system.
type Placed interface {
	io.Reader
	// Extents yields where they lie, in order. It may be called before the first byte is read.
	Extents() iter.Seq2[Extent, error]
	// Settle does what reading to the end would do beside giving the bytes, such as
	// comparing them with a checksum. It is called instead of that.
	Settle(ctx context.Context) error
}

// Parallel is a sink that takes several members at a time.
type Parallel interface {
	Sink
	// PutApart is Put of a member that is Apart. It may be called from several goroutines
	// at a time, and beside Put.
	PutApart(ctx context.Context, m Member, r io.Reader) error
}
