package live

import (
	"io"
	"os"
	"time"

	"basin/internal/localfs"
	"basin/internal/manifest"
)

// book is the manifest as it is made, in a file that has no name.
type book struct {
	file *os.File
	w    *manifest.Writer
}

// newBook begins the manifest of a cluster.
func newBook(dir string, c *cluster, kind ManifestKind) (*book, error) {
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := localfs.TempFile(dir)
	if err != nil {
		return nil, err
	}
	b := &book{file: f}
	if c.version >= version17 {
		b.w = manifest.NewWriter(f, c.systemID)
	} else {
		b.w = manifest.NewWriterVersion1(f)
	}
	b.w.EncodePaths = kind == ForceEncoding
	return b, nil
}

// add adds a file.
func (b *book) add(f manifest.File, modified time.Time) error { return b.w.Add(f, modified) }

// finish ends the manifest and returns a reader of it.
func (b *book) finish(ranges []manifest.Range) (io.Reader, error) {
	if err := b.w.Finish(ranges); err != nil {
		return nil, err
	}
	_, err := b.file.Seek(0, io.SeekStart)
	return b.file, err
}

// Close removes the file.
func (b *book) Close() error { return b.file.Close() }
