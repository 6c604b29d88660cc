package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"basin/internal/seal"
	"basin/internal/wal"
)

// ErrUnfit is a file of the log in which, or before which, recovery would end without a word, although there is more.
var ErrUnfit = errors.New("recovery would end there, although there is more log")

// Before returns what is known of the segment before one: on the same timeline, or if there is none on the one that it
// comes from. size is that of a segment, in bytes. nil is returned if there is none in the repository, or it
// is damaged: recovery does not come from there.
func (c *Cluster) Before(ctx context.Context, segment string, size int64) (*LogFacts, error) {
	s, err := wal.ParseSegment(segment[:24], size)
	if err != nil || s.Number == 0 {
		return nil, err
	}
	before := wal.Segment{Timeline: s.Timeline, Number: s.Number - 1}
	facts, err := c.LogFacts(ctx, before.Name(size))
	if errors.Is(err, fs.ErrNotExist) {
		return c.beforeFork(ctx, before, size)
	}
	return factsOrNone(facts, err)
}

// factsOrNone returns facts, or nil if the file is not there or is damaged.
func factsOrNone(facts LogFacts, err error) (*LogFacts, error) {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, seal.ErrDamaged) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &facts, nil
}

// beforeFork is Before for a segment that is not there on its timeline.
func (c *Cluster) beforeFork(ctx context.Context, before wal.Segment, size int64) (*LogFacts, error) {
	history, err := c.History(ctx, before.Timeline)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, seal.ErrDamaged) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, b := range branches(before.Timeline, history, size)[1:] {
		if b.first > before.Number || before.Number > b.last {
			continue
		}
		facts, err := c.LogFacts(ctx, wal.Segment{Timeline: b.timeline, Number: before.Number}.Name(size))
		if !errors.Is(err, fs.ErrNotExist) {
			return factsOrNone(facts, err)
		}
	}
	return nil, nil
}

// CheckOrder sees that recovery goes on into a segment from the one before, which may be nil, and out of it if there
// is more: else it is an error that wraps ErrUnfit. PostgreSQL takes any of that for the end of the log: a
// segment of a copy of the cluster, which has the same name, system identifier and timeline, as well as one that was damaged
// when it was pushed.
func (c *Cluster) CheckOrder(ctx context.Context, before *LogFacts, facts LogFacts) error {
	if facts.Problem != "" && IsSegment(facts.Name) {
		timeline, err := strconv.ParseUint(facts.Name[:8], 16, 32)
		if err != nil {
			return err
		}
		for name, err := range c.LogNames(ctx, wal.Timeline(timeline), facts.Name) {
			if err != nil {
				return err
			}
			if IsSegment(name) && name > facts.Name {
				return fmt.Errorf("%s was pushed as it is: %s: %w: %s is there", facts.Name, facts.Problem, ErrUnfit, name)
			}
		}
	}
	if before == nil || before.Summary == nil || facts.Summary == nil {
		return nil
	}
	if _, err := facts.Summary.After(before.Summary); err != nil {
		return fmt.Errorf("%w: %w", err, ErrUnfit)
	}
	return nil
}

// OpenLogInOrder is OpenLog, and sees that recovery goes on into the segment, or the part of one, and out of it. Other
// files of the log are opened as they are.
func (c *Cluster) OpenLogInOrder(ctx context.Context, name string, segmentSize int64) (*LogFile, error) {
	if len(name) < 24 || name[24:] != "" && !isPart(name) {
		return c.OpenLog(ctx, name, segmentSize)
	}
	type found struct {
		facts LogFacts
		err   error
	}
	coming := make(chan found, 1)
	go func() {
		facts, err := c.LogFacts(ctx, previousName(name))
		coming <- found{facts, err}
	}()
	f, err := c.OpenLog(ctx, name, segmentSize)
	if err != nil {
		return nil, err
	}
	same := <-coming
	before, err := factsOrNone(same.facts, same.err)
	if errors.Is(same.err, fs.ErrNotExist) && f.Facts.Summary != nil {
		before, err = c.Before(ctx, name, f.Facts.Summary.SegmentSize)
	}
	if err != nil {
		return nil, err
	}
	return f, c.CheckOrder(ctx, before, f.Facts)
}

// previousName returns the name of the segment before one on its timeline, as far as that does not depend on the size of
// segments: else the name of none.
func previousName(segment string) string {
	s, err := wal.ParseSegment(segment[:24], wal.MinSegmentSize) // of which the most are in a log
	if err != nil || segment[16:24] == "00000000" {
		return strings.Repeat("0", 24)
	}
	s.Number--
	return s.Name(wal.MinSegmentSize)
}

// isPart says whether a name is that of a part of a segment.
func isPart(name string) bool {
	return isOfSegment(name) && len(name) >= 32 && name[24:32] == ".partial"
}
