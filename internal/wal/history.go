package wal

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// A Fork is where a timeline was left for a child of it.
type Fork struct {
	Timeline Timeline
	End      LSN // the switchpoint: the first position that is no more of this timeline
}

// History is where one timeline comes from: its ancestors, oldest first. The
// timeline itself is not in it, and timeline 1 has none.
//
// The ends need not ascend: a recovery along timeline 2 that stops before 2 has
// begun makes a child of 2 all the same.
type History []Fork

// ParseHistory reads the content of the history file of timeline t. Numbers of
// timelines must ascend and be less than t. An error names the line.
//
// Source: readTimeLineHistory in src/backend/access/transam/timeline.c,
// PostgreSQL 10 to 18.
func ParseHistory(t Timeline, content []byte) (History, error) {
	var history History
	number := 0
	for line := range bytes.Lines(content) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		fork, err := parseFork(line)
		switch {
		case err != nil:
		case len(history) > 0 && fork.Timeline <= history[len(history)-1].Timeline:
			err = fmt.Errorf("timeline %d is after %d: they must ascend", fork.Timeline, history[len(history)-1].Timeline)
		case fork.Timeline >= t:
			err = fmt.Errorf("timeline %d is no ancestor of %d: that has a lower number", fork.Timeline, t)
		}
		if err != nil {
			return nil, fmt.Errorf("history of timeline %d, line %d: %w", t, number, err)
		}
		history = append(history, fork)
	}
	return history, nil
}

// parseFork reads a line of a history file: a timeline, its end, and a reason,
// which is for people.
func parseFork(line []byte) (Fork, error) {
	fields := bytes.Fields(line)
	t, err := strconv.ParseUint(string(fields[0]), 10, 32)
	if err != nil || t == 0 {
		return Fork{}, fmt.Errorf("%.40q is no timeline", fields[0])
	}
	if len(fields) < 2 {
		return Fork{}, errors.New("a switchpoint is missing")
	}
	end, err := ParseLSN(string(fields[1][:min(len(fields[1]), 40)])) // what is longer is none
	if err != nil {
		return Fork{}, fmt.Errorf("switchpoint: %w", err)
	}
	if end == 0 {
		return Fork{}, fmt.Errorf("no timeline ends at %s", end)
	}
	return Fork{Timeline: Timeline(t), End: end}, nil
}

// End returns where the ancestor t was left, and false if t is no ancestor.
func (h History) End(t Timeline) (LSN, bool) {
	for _, fork := range h {
		if fork.Timeline == t {
			return fork.End, true
		}
	}
	return 0, false
}

// at returns the timeline that holds the byte at l, if h is the history of t.
//
// Source: tliOfPointInHistory in src/backend/access/transam/timeline.c, PostgreSQL 18.
func (h History) at(t Timeline, l LSN) Timeline {
	for i := len(h) - 1; i >= 0 && l < h[i].End; i-- {
		t = h[i].Timeline
	}
	return t
}

// Child returns the timeline that left the ancestor t on the way to the timeline
// that the history is of, which is descendant. Without such an ancestor it is
// descendant.
func (h History) Child(t, descendant Timeline) Timeline {
	for i, fork := range h {
		if fork.Timeline == t && i+1 < len(h) {
			return h[i+1].Timeline
		}
	}
	return descendant
}
