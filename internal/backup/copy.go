package backup

import (
	"context"
	"errors"
	"io"

	"golang.org/x/sync/errgroup"

	"basin/internal/wal"
)

// Options of Copy. The zero value is useful.
type Options struct {
	// Log, if not nil, keeps the log while the backup runs: it is started after
	// the backup began, told the end on stop, and waited for before the sink commits.
	// Its nil means that it has the log up to that end.
	Log func(ctx context.Context, start Start, stop <-chan wal.Position) error

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
		err := copyMembers(groupCtx, dst, src)
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
		if err := s.Salvage(ctx); err != nil {
			return errors.Join(damaged, err)
		}
	}
	return damaged
}

func copyMembers(ctx context.Context, dst Sink, src Source) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, r, err := src.Next(ctx)
		if err == io.EOF { // itself: one that is wrapped is a connection's end, not the backup's
			return nil
		}
		if err != nil {
			return err
		}
		if err := dst.Put(ctx, m, r); err != nil {
			return err
		}
	}
}
