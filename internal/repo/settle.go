package repo

import (
	"context"
	"io"
	"iter"

	"basin/internal/backup"
)

// maxLevels is how many levels an index has at most.
const maxLevels = 12

// level makes a level of what was gathered.
func (s *Sink) level(ctx context.Context, r *runs) (Level, error) {
	level, err := s.cluster.putLevel(ctx, s.lease.newID, func(yield func(group) error) error { return r.each(ctx, yield) })
	s.stored.Add(level.size())
	return level, err
}

// push puts a level before others, unless there is nothing in it.
func push(level Level, others []Level) []Level {
	if len(level) == 0 {
		return others
	}
	return append([]Level{level}, others...)
}

// settle merges levels of the new backup's index, so that there are few: one is merged with
// the next if that is not more than twice as large. So each byte is written again about as often
// as there are levels.
func (s *Sink) settle(ctx context.Context) error {
	for isUnsettled(s.commit.Members) {
		merged, err := s.mergeMembers(ctx, s.commit.Members)
		if err != nil {
			return err
		}
		s.stored.Add(merged.size())
		s.commit.Members = push(merged, s.commit.Members[2:])
	}
	for isUnsettled(s.commit.Blocks) {
		merged, err := s.mergeBlocks(ctx, s.commit.Blocks)
		if err != nil {
			return err
		}
		s.stored.Add(merged.size())
		s.commit.Blocks = push(merged, s.commit.Blocks[2:])
	}
	return nil
}

func isUnsettled(levels []Level) bool {
	return len(levels) > 1 && (levels[1].size() <= 2*levels[0].size() || len(levels) > maxLevels)
}

// mergeMembers makes one level of the two newest.
func (s *Sink) mergeMembers(ctx context.Context, levels []Level) (Level, error) {
	cursors := s.cluster.index(&s.commit).cursors(levels[:2])
	return s.cluster.putLevel(ctx, s.lease.newID, func(yield func(group) error) error {
		for {
			g, _, err := smallest(ctx, cursors)
			if err != nil || g == nil {
				return err
			}
			if g.member.gone && len(levels) == 2 {
				continue
			}
			if err := yield(*g); err != nil {
				return err
			}
		}
	})
}

// mergeBlocks makes one level of the two newest. If there is none behind them, what is of no
// file, or behind its end, is dropped.
func (s *Sink) mergeBlocks(ctx context.Context, levels []Level) (Level, error) {
	whole := s.cluster.index(&s.commit)
	two := &index{parts: whole.parts, blocks: levels[:2]}
	cursors := two.cursors(levels[:2])
	isLast := len(levels) == 2
	return s.cluster.putLevel(ctx, s.lease.newID, func(yield func(group) error) error {
		var last *key
		for {
			g, _, err := smallest(ctx, cursors)
			if err != nil || g == nil {
				return err
			}
			if last != nil && g.key == *last {
				continue
			}
			last = &g.key
			size := int64(unlimited - BlockSize)
			if isLast {
				m, err := whole.member(ctx, g.key)
				if err != nil {
					return err
				}
				if m == nil || m.kind != backup.File {
					continue
				}
				size = m.size
			}
			if err := yieldBlocks(ctx, two, g.key, size, isLast, yield); err != nil {
				return err
			}
		}
	})
}

// yieldBlocks yields the blocks that two levels have of a file.
func yieldBlocks(ctx context.Context, two *index, k key, size int64, isLast bool, yield func(group) error) error {
	f, err := two.file(ctx, k, size)
	if err != nil {
		return err
	}
	f.gaps = true
	for {
		x, err := f.next(ctx)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := yield(group{key: k, fresh: f.fresh && !isLast, extents: []extent{x}}); err != nil {
			return err
		}
	}
}

// pull returns a function that returns the next group of a sequence, nil at its end.
func pull(seq iter.Seq2[group, error]) (next func() (*group, error), stop func()) {
	pulled, stop := iter.Pull2(seq)
	return func() (*group, error) {
		g, err, ok := pulled()
		if !ok || err != nil {
			return nil, err
		}
		return &g, nil
	}, stop
}
