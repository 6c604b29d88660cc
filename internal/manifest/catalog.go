package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"basin/internal/lookup"
)

// Catalog finds files in a manifest that stays on disk: its memory does not depend on how
// many there are. Several may search it at once.
type Catalog struct {
	Manifest
	Len int // how many files there are

	r     io.ReaderAt
	table *lookup.Table
}

// NewCatalog reads a manifest of size bytes. What it has to keep of a large one goes to a
// file in dir.
func NewCatalog(r io.ReaderAt, size int64, dir string) (*Catalog, error) {
	c := &Catalog{r: r, table: lookup.New(dir)}
	m, err := read(io.NewSectionReader(r, 0, size), func(f File, offset int64) error {
		c.Len++
		return c.table.Add(f.Path, offset)
	})
	if err != nil {
		_ = c.Close() // nothing was searched
		return nil, err
	}
	c.Manifest = m
	c.table.Finish()
	return c, nil
}

// maxEntry is how many bytes are said of a file at most.
const maxEntry = 64 << 10

// Find finds a file by its path.
func (c *Catalog) Find(path string) (f File, found bool, err error) {
	offsets, err := c.table.Find(path)
	for _, offset := range offsets {
		other, err := readFileAt(c.r, offset)
		switch {
		case err != nil:
			return File{}, false, err
		case other.Path != path:
		case found:
			return File{}, false, fmt.Errorf("duplicate path name in backup manifest: \"%s\"", path)
		default:
			f, found = other, true
		}
	}
	return f, found, err
}

// usualEntry is how many bytes are said of nearly every file at most.
const usualEntry = 512

// readFileAt reads what is said of a file.
func readFileAt(r io.ReaderAt, offset int64) (f File, err error) {
	var line [usualEntry]byte
	n, _ := r.ReadAt(line[:], offset) // an error comes again
	if end := bytes.IndexByte(line[:n], '\n'); end >= 0 {
		if f, ok := parseLine(line[:end]); ok {
			return f, nil
		}
	}
	p := &parser{
		json: json.NewDecoder(io.NewSectionReader(r, offset, maxEntry)),
		each: func(read File, _ int64) error { f = read; return nil },
	}
	p.json.UseNumber()
	if err = p.open('{'); err == nil {
		err = p.file()
	}
	return f, err
}

// Close lets go of what is kept on disk; the manifest is not its to close.
func (c *Catalog) Close() error { return c.table.Close() }
