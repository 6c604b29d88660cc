package repo

import (
	"context"

	"basin/internal/wal"
)

// LogKeeper keeps a stream of the log in a repository. It is a wal.Keeper. A segment is in memory
// until it is complete, or left: of one that was left the part that came is kept.
type LogKeeper struct {
	cluster *Cluster
	ctx     context.Context
}

// NewLogKeeper returns a keeper that stores until the end of ctx.
func (c *Cluster) NewLogKeeper(ctx context.Context) *LogKeeper {
	return &LogKeeper{cluster: c, ctx: ctx}
}

// Begin starts a segment, of size bytes.
func (k *LogKeeper) Begin(name string, size int64) (wal.SegmentWriter, error) {
	return &segmentKeeper{keeper: k, name: name, size: size}, nil
}

// History keeps a timeline's history file.
func (k *LogKeeper) History(name string, content []byte) error {
	return k.cluster.PushLog(k.ctx, name, content, 0)
}

// segmentKeeper is a segment that comes.
type segmentKeeper struct {
	keeper *LogKeeper
	name   string
	size   int64
	data   []byte
}

// Write takes the bytes that follow.
func (s *segmentKeeper) Write(p []byte) (int, error) {
	s.data = append(s.data, p...)
	return len(p), nil
}

// Flush does nothing: what is not stored was not acknowledged.
func (s *segmentKeeper) Flush() error { return nil }

// Finish stores the segment.
func (s *segmentKeeper) Finish() error {
	return s.keeper.cluster.PushLog(s.keeper.ctx, s.name, s.data, s.size)
}

// Abandon stores the part of the segment that came.
func (s *segmentKeeper) Abandon() error {
	if len(s.data) == 0 {
		return nil
	}
	return s.keeper.cluster.PushLog(s.keeper.ctx, PartialName(s.name, int64(len(s.data))), s.data, s.size)
}
