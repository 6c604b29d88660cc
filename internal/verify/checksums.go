package verify

import (
	"bytes"
	"context"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"sync"

	"basin/internal/localfs"
	"basin/internal/manifest"
)

// readSize is how many bytes of a file are read at once, by each reader.
const readSize = 256 << 10

// Checksums reads the files of a data directory that Directory has found, on all
// processors, and compares them with the manifest. Problems are told in the order of
// the manifest.
func (v *Verifier) Checksums(ctx context.Context, path string) error {
	if v.o.PageChecksums {
		if err := v.checkPageSizes(); err != nil {
			return err
		}
	}
	q := &queue{ctx: ctx, v: v, path: path, results: make(map[int][]error)}
	var readers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		readers.Go(q.read)
	}
	readers.Wait()
	if q.err == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return q.err
}

// queue hands out the files of a manifest, and takes what was found.
type queue struct {
	ctx  context.Context
	v    *Verifier
	path string

	mu      sync.Mutex
	next    int             // to be handed out
	told    int             // all before it were told
	results map[int][]error // of files from told on that have problems
	err     error           // why no more is to be read
}

// take returns the next file to be read, less than zero if there is none.
func (q *queue) take() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	for ; q.err == nil && q.ctx.Err() == nil && q.next < q.v.files.Len(); q.next++ {
		f := q.v.files.At(q.next)
		if q.v.isRead(q.next, f) && !q.v.ignores(f.Path) {
			q.next++
			return q.next - 1
		}
		q.v.seen[q.next] |= checked
	}
	return -1
}

// give takes the result of a file, and tells of those that come next.
func (q *queue) give(i int, result []error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.v.seen[i] |= checked
	if result != nil {
		q.results[i] = result
	}
	for ; q.err == nil && q.told < len(q.v.seen) && q.v.seen[q.told]&checked != 0; q.told++ {
		for _, err := range q.results[q.told] {
			if q.err == nil {
				q.err = q.v.problem(err)
			}
		}
		delete(q.results, q.told)
	}
}

func (q *queue) read() {
	buf := make([]byte, readSize)
	for i := q.take(); i >= 0; i = q.take() {
		f := q.v.files.At(i)
		q.give(i, q.v.checkFile(q.ctx, q.path+"/"+f.Path, f, buf))
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
	problems := c.pages.problems()
	if c.sum != nil {
		if err := compare(c.sum, f, fmt.Sprintf("file \"%s\"", f.Path)); err != nil {
			problems = append([]error{err}, problems...)
		}
	}
	return problems
}

// content is what was read of a file so far.
type content struct {
	size  int64
	sum   hash.Hash // nil if there is none to be compared
	pages *pages    // nil if it has none to be looked at
}

func (v *Verifier) newContent(f manifest.File) *content {
	c := &content{pages: v.newPages(f.Path)}
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

// compare compares a checksum with the manifest's. what names the file.
func compare(sum hash.Hash, f manifest.File, what string) error {
	switch got := sum.Sum(nil); {
	case len(got) != len(f.Checksum):
		return fmt.Errorf("%s has checksum of length %d, but expected %d", what, len(f.Checksum), len(got))
	case !bytes.Equal(got, f.Checksum):
		return fmt.Errorf("checksum mismatch for %s", what)
	}
	return nil
}
