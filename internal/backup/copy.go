package backup

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sync/errgroup"

	"basin/internal/wal"
)

// Options of Copy. The zero value is useful.
type Options struct {
	// Log, if not nil, keeps the log while the backup runs: it is started after
	// the backup began, told the end on stop, and waited for before the sink commits.
	// Its nil means that it has the log up to that end.
	Log func(ctx context.Context, start Start, stop <-chan wal.Position) error

	// Workers is how many members that are Apart are put side by side, if the sink takes
	// them so; zero is one.
	Workers int

	// Started, if not nil, is told what Begin learnt.
	Started func(Start)
	// Ended, if not nil, is told where the backup ends, before the log is waited for.
	Ended func(wal.Position)
}

// Copy takes one backup from src to dst and returns nil once dst holds it for good.
// The caller closes both.
//
// With ErrPageChecksums all members and the log are in dst, which has salvaged
// but not committed them.
func Copy(ctx context.Context, dst Sink, src Source, o Options) error {
	start, err := src.Begin(ctx)
	if err != nil {
		return err
	}
	if o.Started != nil {
		o.Started(start)
	}
	if err := dst.Begin(ctx, start); err != nil {
		return err
	}
	var end wal.Position
	var damaged error
	stop := make(chan wal.Position, 1)
	group, groupCtx := errgroup.WithContext(ctx)
	if o.Log != nil {
		group.Go(func() error { return o.Log(groupCtx, start, stop) })
	}
	group.Go(func() error {
		err := copyMembers(groupCtx, dst, src, o.Workers)
		if err != nil {
			return err
		}
		end, err = src.End(groupCtx)
		if errors.Is(err, ErrPageChecksums) {
			damaged = err
		} else if err != nil {
			return err
		}
		if o.Ended != nil {
			o.Ended(end)
		}
		stop <- end
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if damaged == nil {
		return dst.Commit(ctx, end)
	}
	if s, ok := dst.(Salvager); ok {
		if err := s.Salvage(ctx, end); err != nil {
			return errors.Join(damaged, err)
		}
	}
	return damaged
}

// copyMembers puts all members. A file that is not Apart, such as the control file, is put
// when all before it were.
func copyMembers(ctx context.Context, dst Sink, src Source, workers int) error {
	parallel, ok := dst.(Parallel)
	if !ok || workers < 2 {
		return eachMember(ctx, src, func(m Member, r io.Reader) error { return closing(m, r, dst.Put(ctx, m, r)) })
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var working sync.WaitGroup
	defer working.Wait()
	free := make(chan struct{}, workers)
	err := eachMember(ctx, src, func(m Member, r io.Reader) error {
		if m.Apart {
			free <- struct{}{}
			working.Go(func() {
				if err := closing(m, r, parallel.PutApart(ctx, m, r)); err != nil {
					cancel(err) // the first is why the others gave up
				}
				<-free
			})
			return nil
		}
		if m.Kind == File || m.Kind == Manifest {
			working.Wait()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		return dst.Put(ctx, m, r)
	})
	working.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// eachMember hands out what the source yields.
func eachMember(ctx context.Context, src Source, put func(Member, io.Reader) error) error {
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m, r, err := src.Next(ctx)
		if err == io.EOF { // itself: one that is wrapped is a connection's end, not the backup's
			return nil
		}
		if err != nil {
			return err
		}
		if err := put(m, r); err != nil {
			return err
		}
	}
}

// closing closes the reader of a member that is Apart, after it was put with err.
func closing(m Member, r io.Reader, err error) error {
	if c, ok := r.(io.Closer); ok && m.Apart {
		if closed := c.Close(); err == nil {
			return closed
		}
	}
	return err
}
