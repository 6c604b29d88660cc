package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"basin/internal/wal"
)

// SalvageOptions say what log is salvaged. Names and Read are required.
type SalvageOptions struct {
	Names []string // of files, in any order; what is none of the log is passed over
	Read  func(name string) (content []byte, err error)
	// From and To are the first segment and the last that are wanted, by their numbers; the zero values
	// are all. Files of other kinds are wanted then, and else only histories.
	From, To uint64
}

// SalvageReport says what was salvaged.
type SalvageReport struct {
	Pushed int          // files that were not in the repository
	Bytes  int64        // of their content
	There  int          // files that were
	End    wal.Position // behind the log that is valid, of the newest timeline that there is; zero is none
	Why    string       // it ends there, if that is not the end of the last segment; for people
	Last   time.Time    // when the last transaction ended before there, as far as it is known
	Unused int          // segments that hold nothing yet: their content is of older ones
	Behind []string     // segments behind the end that hold log of their places, which does not follow
}

// SalvageLog keeps the log that lies in files as PostgreSQL left them: whole segments, the first part of
// one that ends within it, and histories. Files that PostgreSQL has made for later, whose content is that
// of older ones, are told by their pages and records: on each timeline it stops at the first record that
// does not follow the one before. What is in the repository already is compared, and no error.
func (c *Cluster) SalvageLog(ctx context.Context, o SalvageOptions) (SalvageReport, error) {
	s := salvage{cluster: c, o: o, histories: make(map[wal.Timeline]wal.History)}
	names := slices.Clone(o.Names)
	slices.Sort(names)
	var segments, rest []string
	for _, name := range names {
		switch {
		case isHistory(name):
			if err := s.history(ctx, name); err != nil {
				return s.report, err
			}
		case IsSegment(name):
			segments = append(segments, name)
		case isOfSegment(name):
			rest = append(rest, name)
		}
	}
	for len(segments) > 0 {
		n := 1
		for n < len(segments) && segments[n][:8] == segments[0][:8] {
			n++
		}
		if err := s.timeline(ctx, segments[:n]); err != nil {
			return s.report, err
		}
		segments = segments[n:]
	}
	if o.From > 0 || o.To > 0 {
		rest = nil
	}
	for _, name := range rest {
		content, err := o.Read(name)
		if err == nil {
			err = s.push(ctx, name, content, 0)
		}
		if err != nil {
			return s.report, err
		}
	}
	return s.report, nil
}

// salvage is log on its way from files.
type salvage struct {
	cluster   *Cluster
	o         SalvageOptions
	histories map[wal.Timeline]wal.History
	report    SalvageReport
}

// history keeps a history.
func (s *salvage) history(ctx context.Context, name string) error {
	content, err := s.o.Read(name)
	if err != nil {
		return err
	}
	var t wal.Timeline
	if _, err := fmt.Sscanf(name, "%08X.history", &t); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if s.histories[t], err = wal.ParseHistory(t, content); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return s.push(ctx, name, content, 0)
}

// timeline keeps the log of a timeline, whose segments are given in order.
func (s *salvage) timeline(ctx context.Context, names []string) error {
	var before *wal.Summary
	end := wal.Position{}
	why := ""
	last := time.Time{}
	for i, name := range names {
		content, err := s.o.Read(name)
		if err != nil {
			return err
		}
		size := int64(len(content))
		if !wal.ValidSegmentSize(size) {
			return fmt.Errorf("%s has %d bytes, and a segment is a power of two from 1 MiB to 1 GiB", name, size)
		}
		segment, err := wal.ParseSegment(name, size)
		if err != nil {
			return err
		}
		if segment.Number < s.o.From || s.o.To > 0 && segment.Number > s.o.To {
			continue
		}
		if before != nil && before.Start+wal.LSN(size) != segment.Start(size) {
			before = nil // files are missing between
		}
		found, isWhole, err := s.read(segment, content, before)
		if err != nil { // it holds nothing of its place, or not what follows
			if why == "" {
				why = err.Error()
			}
			return s.endTimeline(end, why, last, names[i:])
		}
		length := size
		pushed := name
		if !isWhole {
			length = found.Length
			pushed = PartialName(name, length)
		}
		if length > 0 {
			if err := s.push(ctx, pushed, content[:length], size); err != nil {
				return err
			}
			end = wal.Position{LSN: segment.Start(size) + wal.LSN(length), Timeline: segment.Timeline}
		}
		if t := found.Transactions; t.Count > 0 {
			last = t.Latest
		}
		if !isWhole {
			return s.endTimeline(end, found.Ended, last, names[i+1:])
		}
		before = &found
	}
	return s.endTimeline(end, "", last, nil)
}

// read looks at the log in a segment. It is an error if that is none of its place, or does not follow what is in
// the segment before, if that is given.
func (s *salvage) read(segment wal.Segment, content []byte, before *wal.Summary) (found wal.Summary, isWhole bool, err error) {
	rules := wal.PageRules{
		SystemID: s.cluster.name.SystemID, SegmentSize: int64(len(content)), Timeline: segment.Timeline, History: s.histories[segment.Timeline],
	}
	found, err = wal.Summarize(bytes.NewReader(content), segment, rules)
	isWhole = err == nil
	if !isWhole {
		if found, err = wal.SummarizePart(bytes.NewReader(content), segment, rules); err != nil {
			return found, false, err
		}
	}
	found, err = found.After(before)
	return found, isWhole, err
}

// endTimeline notes where the log of a timeline ends, and what the files behind that hold.
func (s *salvage) endTimeline(end wal.Position, why string, last time.Time, rest []string) error {
	if end.Timeline > 0 {
		s.report.End, s.report.Why = end, why
		if last.After(s.report.Last) {
			s.report.Last = last
		}
	}
	for _, name := range rest {
		content, err := s.o.Read(name)
		if err != nil {
			return err
		}
		segment, err := wal.ParseSegment(name, int64(max(len(content), wal.MinSegmentSize)))
		if err != nil {
			return err
		}
		found, _, err := s.read(segment, content, nil)
		if err == nil && found.Length > 0 && segment.Start(int64(len(content))) > end.LSN {
			s.report.Behind = append(s.report.Behind, name)
		} else {
			s.report.Unused++
		}
	}
	return nil
}

// push keeps a file that is not in the repository.
func (s *salvage) push(ctx context.Context, name string, content []byte, size int64) error {
	c := s.cluster
	isThere, err := c.isLog(ctx, name, content)
	if err != nil {
		return err
	}
	if isThere {
		s.report.There++
		return nil
	}
	if err := c.PushLog(ctx, name, content, size); err != nil {
		return err
	}
	s.report.Pushed++
	s.report.Bytes += int64(len(content))
	return nil
}

// isLog says whether a file of the log is there, with a content. With another one it is an *OtherLogError.
func (c *Cluster) isLog(ctx context.Context, name string, content []byte) (bool, error) {
	at, err := c.logName(name)
	if err != nil {
		return false, err
	}
	isThere := false
	for info, err := range c.repo.store.List(ctx, at, "") {
		if err != nil {
			return false, err
		}
		isThere = info.Name == at
		break // it is the first, if it is there
	}
	if !isThere {
		return false, nil
	}
	sum := sha256.Sum256(content)
	if !c.repo.CanRead() {
		return true, c.compareLog(ctx, name, at, sum[:], int64(len(content)))
	}
	facts, err := c.LogFacts(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it was removed meanwhile
	}
	if err == nil && !bytes.Equal(facts.SHA256, sum[:]) {
		err = &OtherLogError{name, facts.SHA256, sum[:]}
	}
	return true, err
}
