package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"basin/internal/seal"
	"basin/internal/wal"
)

// factMinimal is the kind of facts of where a server went on with wal_level=minimal: recovery goes no further.
const factMinimal = "minimal"

// noteMinimal notes where a server went on with wal_level=minimal, if a file of the log tells it. That is before the file is there: whoever finds
// that then knows. Should the file not be taken, the note says nothing.
func (c *Cluster) noteMinimal(ctx context.Context, facts *LogFacts) error {
	if facts.Summary == nil || facts.Summary.Minimal == 0 {
		return nil
	}
	at := wal.Position{LSN: facts.Summary.Minimal, Timeline: facts.Summary.Timeline}
	content, err := json.Marshal(at)
	if err != nil {
		return err
	}
	name := c.below(fmt.Sprintf("facts/%s/%08X%016X", factMinimal, uint32(at.Timeline), uint64(at.LSN)))
	if _, err := c.repo.put(ctx, kindFact, name, content); err != nil && !errors.Is(err, fs.ErrExist) { // else it is noted
		return fmt.Errorf("note that log behind %v is written with wal_level=minimal: %w", at.LSN, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.minimal = nil // it is to be read again
	return nil
}

// minimals returns where the server went on with wal_level=minimal, as far as that can be read here.
func (c *Cluster) minimals(ctx context.Context) ([]wal.Position, error) {
	c.mu.Lock()
	known, isKnown := slices.Clone(c.minimal), c.minimal != nil
	c.mu.Unlock()
	if isKnown {
		return known, nil
	}
	known = []wal.Position{}
	for f, err := range c.facts(ctx, factMinimal) {
		var at wal.Position
		if err == nil {
			err = f.read(&at)
		}
		if errors.Is(err, ErrNoKey) || errors.Is(err, seal.ErrDamaged) { // verify tells of the latter
			continue
		}
		if err != nil {
			return nil, err
		}
		known = append(known, at)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.minimal = slices.Clone(known)
	return known, nil
}

// cutMinimal has a reach end where the server went on with wal_level=minimal, behind where a backup begins and on the line that it follows.
func (c *Cluster) cutMinimal(ctx context.Context, from wal.LSN, line []branch, size int64, reach *Reach) error {
	known, err := c.minimals(ctx)
	if err != nil {
		return err
	}
	for _, at := range known {
		isOn := slices.ContainsFunc(line, func(b branch) bool { return b.timeline == at.Timeline && at.LSN < b.end })
		if !isOn || at.LSN < from || at.LSN >= reach.End {
			continue
		}
		segment := wal.SegmentAt(at, size)
		if is, err := c.isMinimal(ctx, at, segment.Name(size), reach); err != nil {
			return err
		} else if !is {
			continue
		}
		reach.End, reach.IsMinimal, reach.Resumes = at.LSN, true, segment.Name(size)
		reach.Segments = slices.DeleteFunc(reach.Segments, func(name string) bool {
			s, err := wal.ParseSegment(name[:24], size)
			return err != nil || s.Number > segment.Number
		})
		if n := len(reach.Segments); n > 0 && !strings.HasPrefix(reach.Last, segment.Name(size)) { // else it is a part of that
			reach.Last = reach.Segments[n-1]
		}
	}
	return nil
}

// isMinimal says whether the file of the log that a position is in is one of a reach, and tells what was noted of it: another one may have been pushed under its
// name, and refused.
func (c *Cluster) isMinimal(ctx context.Context, at wal.Position, segment string, reach *Reach) (bool, error) {
	for _, name := range reach.files() {
		if !strings.HasPrefix(name, segment) {
			continue
		}
		facts, err := c.knownFacts(ctx, name)
		if isLacking(err) {
			return true, nil // nor can it be replayed
		}
		return err == nil && facts.Summary != nil && facts.Summary.Minimal == at.LSN, err
	}
	return false, nil
}

// Missing says for people why there is nothing behind the end; it is for a reach that Resumes.
func (r Reach) Missing() string {
	if r.IsMinimal {
		return fmt.Sprintf("behind %v the server wrote log with wal_level=minimal, which cannot be replayed", r.End)
	}
	return fmt.Sprintf("log is missing behind %v; it goes on at %s", r.End, r.Resumes)
}
