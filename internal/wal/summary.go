package wal

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// Summary is what one segment holds, or the first part of one. It is found in the bytes of
// that segment alone: of a record that began before, or goes on in the next, there are
// pieces. Summary.After makes them one.
//
// A transaction's end, a restore point and whatever else a record tells is of the segment in
// which the record ends.
type Summary struct {
	SystemID    uint64   `json:"systemId,string"`
	Major       int      `json:"major"`       // of the server
	SegmentSize int64    `json:"segmentSize"` // bytes
	Timeline    Timeline `json:"timeline"`    // that the segment's name says
	Start       LSN      `json:"start"`       // of the segment

	// The first pages of a segment in which a timeline begins are of an older one. The last
	// are, too, if the segment ends soon after.
	FirstTimeline Timeline `json:"firstTimeline"` // of the first page
	LastTimeline  Timeline `json:"lastTimeline"`  // of the last that holds log
	IsBigEndian   bool     `json:"isBigEndian,omitzero"`

	// Length is how many bytes of log there are, from Start on: up to the segment's end, the
	// end of a switch, after which nothing is, or where the last record ends that is whole.
	Length     int64  `json:"length"`
	IsSwitched bool   `json:"isSwitched,omitzero"` // the next record is in the next segment, whatever Length is
	Ended      string `json:"ended,omitzero"`      // why the log ends before the segment does and goes on nowhere

	// Continues is how many bytes are left of a record that began before, in this and further
	// segments. IsGivenUp says that they do not all come: the server was started again when it
	// had not written them, and went on with another record.
	Continues int64 `json:"continues,omitzero"`
	IsGivenUp bool  `json:"isGivenUp,omitzero"`
	Rest      Piece `json:"rest,omitzero"`    // of that record
	RestEnd   LSN   `json:"restEnd,omitzero"` // where what follows it can begin; zero if it goes on after the segment

	First     LSN   `json:"first,omitzero"`     // the first record that begins and ends in it, zero if none does
	FirstPrev LSN   `json:"firstPrev,omitzero"` // the one before that, as it says
	Last      LSN   `json:"last,omitzero"`      // the last record that ends in it; after Summary.After, or before it
	End       LSN   `json:"end,omitzero"`       // where that ends; that of a switch is the end of the segment
	Open      *Open `json:"open,omitzero"`      // the record that goes on in the next segment

	Transactions  Transactions      `json:"transactions,omitzero"`
	RestorePoints []NamedPlace      `json:"restorePoints,omitzero"`
	Tablespaces   []TablespacePlace `json:"tablespaces,omitzero"` // that recovery makes
	Timelines     []TimelinePlace   `json:"timelines,omitzero"`   // that begin
	Checkpoint    *CheckpointPlace  `json:"checkpoint,omitzero"`  // the last

	Parameters Parameters `json:"parameters,omitzero"` // the highest that records tell of each; zero if none does
	Minimal    LSN        `json:"minimal,omitzero"`    // the first record that says that the server goes on with wal_level=minimal

	// IsIncomplete says that there may be more than is told here, of whatever kind: whoever
	// looks for something reads the log.
	IsIncomplete bool `json:"isIncomplete,omitzero"`
}

// Open is a record that goes on in the next segment.
type Open struct {
	LSN    LSN    `json:"lsn"`    // where it begins
	Length uint32 `json:"length"` // bytes, without page headers
	Piece  Piece  `json:"piece"`  // what has come of it
}

// Transactions are those that commit or abort. Order means nothing: times go back at times, and XIDs
// are not given back in the order in which they were given out.
type Transactions struct {
	Count    int       `json:"count"`    // of commits and aborts, to savepoints too
	Earliest time.Time `json:"earliest"` // of their times; of years from 1 to 9999
	Latest   time.Time `json:"latest"`
	Lowest   uint32    `json:"lowest"`  // of their XIDs, as numbers
	Highest  uint32    `json:"highest"` // the same
}

// NamedPlace is a restore point. In JSON what is not UTF-8 is not exact.
type NamedPlace struct {
	RestorePoint
	LSN LSN `json:"lsn"` // of the record
	End LSN `json:"end"` // of the record
}

// TablespacePlace is where a tablespace is made. In JSON what is not UTF-8 is not exact.
type TablespacePlace struct {
	NewTablespace
	LSN LSN `json:"lsn"` // of the record
}

// TimelinePlace is where a timeline begins with the first record that tells of it, which is at
// its switchpoint or soon after.
type TimelinePlace struct {
	Timeline Timeline `json:"timeline"`
	Previous Timeline `json:"previous"`
	LSN      LSN      `json:"lsn"` // of the record
}

// CheckpointPlace is where a checkpoint is.
type CheckpointPlace struct {
	LSN        LSN  `json:"lsn"`  // of the record
	Redo       LSN  `json:"redo"` // where recovery begins that begins with it
	IsShutdown bool `json:"isShutdown,omitzero"`
	// Time is when it began, by the server's clock, to the second; zero in what was written before that was noted.
	Time time.Time `json:"time,omitzero"`
}

// maxPlaces is how many restore points, tablespaces and timelines a Summary has of each.
const maxPlaces = 1000

// Summarize reads a whole segment, as rules say that it should be; their Timeline is that of
// the segment. What is not whole is an error: a *PageError or *RecordError that says where it is
// damaged, or of another place, cluster or timeline, ErrUnwritten if it has zeros where there should be log and
// no switch was before, one of an input of another length. Of a record that goes on in another segment the
// checksum is checked by Summary.After.
//
// Without the history of its timeline, a segment of an older one under the name of a later is taken for
// one in which that begins. At most as much of a record is in memory as the segment has.
func Summarize(r io.Reader, segment Segment, rules PageRules) (Summary, error) {
	s, records, err := summarize(r, segment, rules)
	if err != nil {
		return Summary{}, err
	}
	if err := s.checkWhole(records); err != nil {
		return Summary{}, fmt.Errorf("segment %s: %w", segment.Name(s.SegmentSize), err)
	}
	return s, nil
}

// checkWhole returns why the segment is not whole, of which r has read what s tells.
func (s *Summary) checkWhole(r *RecordReader) error {
	switch {
	case s.IsSwitched:
		if err := r.checkUnused(); err != nil {
			return err
		}
	case r.reason == ErrUnwritten:
		return fmt.Errorf("%w, at %s, which is not the end of the segment, and no switch was before", r.reason, s.Start+LSN(s.Length))
	case r.reason != nil && r.reason != ErrUnfinished:
		return r.reason
	}
	within := r.input.r.(*io.LimitedReader)
	if within.N > 0 {
		return fmt.Errorf("%w: it has %d bytes, not %d", io.ErrUnexpectedEOF, s.SegmentSize-within.N, s.SegmentSize)
	}
	switch n, err := io.ReadFull(within.R, make([]byte, 1)); {
	case n > 0:
		return fmt.Errorf("it has more than %d bytes", s.SegmentSize)
	case err != io.EOF:
		return err
	}
	return nil
}

// SummarizePart reads the first part of a segment: a file that is named .partial, or what has
// come of a stream. What comes after the end of the log is of no interest: mostly zeros, or what the
// file has held before. The input may be as long as the segment or shorter. An error is a first page that is not of
// the place that rules say, or one of the input.
func SummarizePart(r io.Reader, segment Segment, rules PageRules) (Summary, error) {
	s, _, err := summarize(r, segment, rules)
	return s, err
}

// summarize reads records as far as there are some.
func summarize(input io.Reader, segment Segment, rules PageRules) (Summary, *RecordReader, error) {
	rules.Timeline = segment.Timeline
	start, size := segment.Start(rules.SegmentSize), rules.SegmentSize
	r := NewRecordReader(&io.LimitedReader{R: input, N: size}, start, size)
	r.headers = newHeaders(rules)
	r.isNeeded = isTold
	s := Summary{SegmentSize: size, Timeline: segment.Timeline, Start: start}
	fail := func(err error) (Summary, *RecordReader, error) {
		return Summary{}, nil, fmt.Errorf("segment %s: %w", segment.Name(size), err)
	}
	for !s.IsSwitched {
		record, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			return fail(err)
		}
		if s.First == 0 {
			s.First, s.FirstPrev = record.LSN, record.Prev
		}
		s.count(record)
	}
	if page, ok := errors.AsType[*PageError](r.reason); ok && page.LSN == start {
		return fail(page)
	}
	s.SystemID, s.Major, s.IsBigEndian = r.headers.rules.SystemID, r.headers.major, r.headers.order == bigEndian
	s.FirstTimeline, s.LastTimeline = r.headers.first, r.headers.timeline
	s.Continues, s.IsGivenUp = int64(r.rest.remaining), r.rest.isGivenUp
	if s.Rest = r.rest.piece; s.Continues > 0 {
		s.RestEnd = r.rest.end
	}
	s.findEnd(r)
	return s, r, nil
}

// findEnd finds out where the log ends, and why.
func (s *Summary) findEnd(r *RecordReader) {
	end := s.Start + LSN(s.SegmentSize)
	last := max(r.end, r.rest.end)
	switch {
	case s.IsSwitched:
		s.Length = int64(r.input.at - s.Start)
	case r.reason == ErrUnfinished && r.input.at == end:
		s.Length = s.SegmentSize
		if r.over.lsn != 0 {
			s.Open = openOf(r)
		}
	case r.reason == nil && last == end:
		s.Length = s.SegmentSize
	case r.reason == ErrUnwritten && s.First == 0 && s.Continues > 0 && s.Continues < recordHeaderSize && r.rest.end != 0:
		// A switch that began in the segment before leaves this one, not that.
		s.IsSwitched = true
		s.Length = int64(r.rest.end - s.Start)
	default:
		s.Length = int64(last - s.Start)
		s.Ended = "more has not come"
		if r.reason != nil {
			s.Ended = r.reason.Error()
		}
	}
}

// openOf returns the record within which the input of r has ended.
func openOf(r *RecordReader) *Open {
	header := r.pieces[:min(len(r.pieces), recordHeaderSize)]
	o := &Open{LSN: r.over.lsn, Length: r.over.length}
	o.Piece.add(header)
	data := int64(r.over.have) - int64(len(header))
	o.Piece.Sum = shiftSum(o.Piece.Sum, data) ^ r.over.sum
	o.Piece.Length += data
	o.Piece.Bytes = append(o.Piece.Bytes, r.pieces[len(header):min(len(r.pieces), keptOfPiece)]...)
	return o
}

// checkUnused reads the rest of a segment after a switch, where servers since 11 leave
// zeros, and those of 10 pages without records.
func (r *RecordReader) checkUnused() error {
	for from := r.input.at; ; from = r.input.at {
		page := from &^ (r.headers.pageSize - 1)
		left := int(page + r.headers.pageSize - from)
		isWhole := r.input.need(left)
		p := r.input.peek(min(left, r.input.have()))
		if r.headers.major == 10 && page == from && len(p) >= shortHeaderSize && !isZero(p[:shortHeaderSize]) {
			if _, err := r.headers.check(page, p[:shortHeaderSize]); err != nil {
				return err
			}
			p = p[shortHeaderSize:]
		}
		if !isZero(p) {
			return &PageError{LSN: page, Reason: "it has something after a switch to the next segment"}
		}
		if !isWhole {
			if r.input.err != io.EOF {
				return r.input.err
			}
			return nil
		}
		r.input.advance(left)
	}
}
