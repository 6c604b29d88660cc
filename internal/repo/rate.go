package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// sampleRead is how much of a file Sample reads at once, in bytes.
const sampleRead = 8 << 20

// Sample reads from files of a backup, here and there, for some time or until it has read so many bytes, by as many workers as a restore has, and
// hands over what each read. It returns how many bytes that were. A backup may have no file that could be read from.
func (c *Cluster) Sample(ctx context.Context, commit Commit, workers int, forTime time.Duration, most int64, take func(worker int, content []byte) error) (int64, error) {
	files, err := c.Files(ctx, commit)
	if err != nil {
		return 0, err
	}
	var refs []PartRef
	for _, level := range commit.Blocks {
		refs = append(refs, level...)
	}
	if len(refs) == 0 {
		return 0, nil
	}
	var read atomic.Int64
	begun := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for worker := range workers {
		group.Go(func() error {
			buffer := make([]byte, sampleRead)
			for ctx.Err() == nil && time.Since(begun) < forTime && read.Load() < most {
				n, err := files.readSome(ctx, refs[rand.IntN(len(refs))], buffer)
				if err == nil {
					err = take(worker, buffer[:n])
				}
				if err != nil {
					return err
				}
				read.Add(int64(n))
			}
			return ctx.Err()
		})
	}
	err = group.Wait()
	return read.Load(), err
}

// readSome reads from a file of which something is in a part of the index, if it is there still.
func (f *Files) readSome(ctx context.Context, ref PartRef, buffer []byte) (int, error) {
	p, err := f.source.cluster.parts.part(ctx, ref)
	if err != nil {
		return 0, fmt.Errorf("part %v of the index: %w", ref.ID, err)
	}
	if len(p.groups) == 0 {
		return 0, nil
	}
	g, err := p.group(rand.IntN(len(p.groups)))
	if err != nil || len(g.extents) == 0 {
		return 0, err
	}
	file, err := f.Open(ctx, g.key.tablespace, g.key.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := file.ReadAt(buffer, min(g.extents[0].first*BlockSize, file.Size))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}
