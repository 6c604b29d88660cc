package repo

import (
	"context"
	"fmt"
	"slices"
	"time"

	"basin/internal/wal"
)

// factHole is the kind of facts of log that was given up.
const factHole = "hole"

// Hole is log that was given up: PostgreSQL was told that it is archived, and it is not in the repository.
type Hole struct {
	First string    `json:"first"` // names of files of the log, by which PostgreSQL archives them
	Last  string    `json:"last"`
	Files int       `json:"files"` // that were given up, the first and the last among them
	Since time.Time `json:"since"` // when the first was
	Until time.Time `json:"until"` // when the last was
	Host  string    `json:"host"`
	Why   string    `json:"why"` // the last could not be stored
}

// Add adds a file that was given up at a time, and why.
func (h *Hole) Add(name string, now time.Time, why string) {
	if h.Files == 0 {
		h.First, h.Since = name, now
	}
	h.Last, h.Until, h.Why = name, now, why
	h.Files++
}

// IsBehind says whether a backup begins behind the hole, so that it leads on from there.
func (h Hole) IsBehind(k Commit) bool {
	if len(h.Last) < 24 || !wal.ValidSegmentSize(k.SegmentSize) {
		return k.Began.After(h.Until)
	}
	last, err := wal.ParseSegment(h.Last[:24], k.SegmentSize)
	switch {
	case err != nil:
		return false
	case last.Timeline < k.Start.Timeline && k.Began.After(h.Until): // which may have begun before, and be of less log
		return true
	}
	last.Number++
	return last.Timeline <= k.Start.Timeline && k.Start.LSN >= last.Start(k.SegmentSize)
}

// PutHole notes in the repository that log was given up.
func (c *Cluster) PutHole(ctx context.Context, h Hole) error {
	_, err := c.putFact(ctx, factHole, h)
	return err
}

// Holes returns what is noted of log that was given up, oldest first.
func (c *Cluster) Holes(ctx context.Context) ([]Hole, error) {
	var holes []Hole
	for f, err := range c.facts(ctx, factHole) {
		var h Hole
		if err == nil {
			err = f.read(&h)
		}
		if err != nil {
			return nil, fmt.Errorf("notes of log that was given up: %w", err)
		}
		holes = append(holes, h)
	}
	slices.SortFunc(holes, func(a, b Hole) int { return a.Since.Compare(b.Since) })
	return holes, nil
}
