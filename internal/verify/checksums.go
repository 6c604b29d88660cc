package verify

import (
	"bytes"
	"context"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"

	"basin/internal/localfs"
	"basin/internal/manifest"
)

// Checksums reads the files of a data directory that Directory has found, on all
// processors, and compares them with the manifest. Problems are told in the order of
// the manifest.
func (v *Verifier) Checksums(ctx context.Context, path string) error {
	if v.o.PageChecksums {
		if err := v.checkPageSizes(); err != nil {
			return err
		}
	}
	i := 0
	return inOrder(ctx, runtime.GOMAXPROCS(0), func() work {
		for i < v.files.Len() {
			f := v.files.At(i)
			i++
			if v.seen[i-1] == found && v.isRead(f) && !v.ignores(f.Path) {
				return func(buf []byte) func() error { return v.tell(v.checkFile(ctx, path+"/"+f.Path, f, buf)) }
			}
		}
		return nil
	})
}

// tell returns what tells problems, nil if there are none.
func (v *Verifier) tell(problems []error) func() error {
	if len(problems) == 0 {
		return nil
	}
	return func() error {
		for _, problem := range problems {
			if err := v.problem(problem); err != nil {
				return err
			}
		}
		return nil
	}
}

// checkFile reads a file and returns what is wrong with it.
func (v *Verifier) checkFile(ctx context.Context, path string, f manifest.File, buf []byte) []error {
	file, err := os.Open(path)
	if err != nil {
		return []error{localfs.Errorf(err, path, "could not open file \"%s\"", f.Path)}
	}
	defer file.Close()
	c := v.newContent(f)
	for ctx.Err() == nil {
		n, err := io.ReadFull(file, buf)
		v.done.Add(int64(n))
		c.add(buf[:n])
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return append(c.pages.problems(), localfs.Errorf(err, path, "could not read file \"%s\"", f.Path))
		}
	}
	if ctx.Err() != nil {
		return nil // it was not read to its end
	}
	if c.size != f.Size {
		return []error{fmt.Errorf("file \"%s\" should contain %d bytes, but read %d", f.Path, f.Size, c.size)}
	}
	return c.problems(f, "")
}

// content is what was read of a file so far.
type content struct {
	size  int64
	sum   hash.Hash // nil if there is none to be compared
	pages *pages    // nil if it has none to be looked at
}

func (v *Verifier) newContent(f manifest.File) *content {
	c := &content{pages: v.newPages(f)}
	if !v.o.SkipChecksums {
		c.sum = f.Algorithm.New()
	}
	return c
}

// add takes what follows, of which only the last piece is not of whole pages.
func (c *content) add(p []byte) {
	c.size += int64(len(p))
	if c.sum != nil {
		_, _ = c.sum.Write(p)
	}
	c.pages.add(p)
}

// problems returns what is wrong with a file of which all was read. where follows its
// name.
func (c *content) problems(f manifest.File, where string) (problems []error) {
	if c.sum != nil {
		switch got := c.sum.Sum(nil); {
		case len(got) != len(f.Checksum):
			problems = append(problems, fmt.Errorf("file \"%s\"%s has checksum of length %d, but expected %d", f.Path, where, len(f.Checksum), len(got)))
		case !bytes.Equal(got, f.Checksum):
			problems = append(problems, fmt.Errorf("checksum mismatch for file \"%s\"%s", f.Path, where))
		}
	}
	return append(problems, c.pages.problems()...)
}
