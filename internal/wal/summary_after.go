package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
)

// After returns s with what the record tells that began before and ends in it, or goes on
// through it. before is the segment before, as After has returned that; nil, if that is not known:
// then s is incomplete if such a record ends in it.
//
// An error says why s cannot come after before: they are not of one log. What After has
// checked is the place, the cluster, the timeline, that the first record of s names the last of
// before, that the record over both has as many bytes as it says and the checksum that it
// has. Two segments that agree in all of this may still be of two copies of a cluster, if no
// record goes over the border and both copies have records of the same lengths before it.
//
// Recovery to a time ends at the first commit or abort after it. Of segments that After has
// returned, one after another, that is in the first that is incomplete or whose
// Transactions.Latest is after the time: none before it has one. The same holds of restore
// points, and of an XID between Transactions.Lowest and Highest.
func (s Summary) After(before *Summary) (Summary, error) {
	if before == nil {
		s.IsIncomplete = s.IsIncomplete || s.endsRest()
		return s, nil
	}
	result, err := s.after(before)
	if err != nil {
		return Summary{}, fmt.Errorf("segment %s does not continue %s: %w", s.name(), before.name(), err)
	}
	return result, nil
}

// name returns the name of the segment.
func (s *Summary) name() string {
	if !ValidSegmentSize(s.SegmentSize) {
		return fmt.Sprintf("at %s", s.Start)
	}
	return SegmentAt(Position{LSN: s.Start, Timeline: s.Timeline}, s.SegmentSize).Name(s.SegmentSize)
}

// endsRest says whether a record ends in the segment that began before it.
func (s *Summary) endsRest() bool {
	return s.Continues > 0 && !s.IsGivenUp && s.Rest.Length == s.Continues
}

// missing returns how many bytes the next segment has of a record.
func (s *Summary) missing() int64 {
	switch {
	case s.Open != nil:
		return int64(s.Open.Length) - s.Open.Piece.Length
	case s.IsGivenUp:
		return 0
	}
	return s.Continues - s.Rest.Length
}

func (s Summary) after(before *Summary) (Summary, error) {
	if err := s.fits(before); err != nil {
		return Summary{}, err
	}
	last := s.Last
	if s.Last == 0 {
		s.Last, s.End = before.Last, before.End
	}
	if s.Continues == 0 || s.IsGivenUp {
		return s, s.names(before.Last)
	}
	if before.Open == nil { // it began before all that is known
		s.IsIncomplete = s.IsIncomplete || s.endsRest()
		return s, nil
	}
	whole := Open{LSN: before.Open.LSN, Length: before.Open.Length, Piece: before.Open.Piece.joined(s.Rest)}
	if whole.Piece.Length < int64(whole.Length) {
		s.Open = &whole
		return s, nil
	}
	record, err := s.close(whole)
	if err != nil {
		return Summary{}, err
	}
	if last == 0 {
		s.Last, s.End = record.LSN, record.End
	}
	return s, s.names(record.LSN)
}

// fits returns why s cannot come after before, as far as their borders tell.
func (s *Summary) fits(before *Summary) error {
	switch {
	case s.SystemID != before.SystemID:
		return fmt.Errorf("it is of another cluster: the system identifier is %d, not %d", s.SystemID, before.SystemID)
	case s.SegmentSize != before.SegmentSize || s.Major != before.Major || s.IsBigEndian != before.IsBigEndian:
		return errors.New("it is of another cluster: the server was another, or its segments have another size")
	case s.Start != before.Start+LSN(before.SegmentSize):
		return fmt.Errorf("it begins at %s, not at %s", s.Start, before.Start+LSN(before.SegmentSize))
	case before.Ended != "":
		return fmt.Errorf("the one before ends at %s: %s", before.Start+LSN(before.Length), before.Ended)
	case s.Timeline < before.Timeline || s.FirstTimeline < before.LastTimeline:
		return fmt.Errorf("timeline %d does not follow %d", s.FirstTimeline, before.Timeline)
	case s.Timeline == before.Timeline && s.FirstTimeline != s.Timeline:
		return fmt.Errorf("it begins on timeline %d, when %d has begun", s.FirstTimeline, before.Timeline)
	}
	isGivenUpAtOnce := s.IsGivenUp && s.Continues == 0
	if left := before.missing(); left != s.Continues && !isGivenUpAtOnce {
		return fmt.Errorf("it begins with %d bytes of a record of which %d are left", s.Continues, left)
	}
	return nil
}

// names returns an error unless the first record of s names the one at last as the one before it.
func (s *Summary) names(last LSN) error {
	prev := s.FirstPrev
	if s.First == 0 {
		if s.Open == nil || len(s.Open.Piece.Bytes) < 16 {
			return nil
		}
		prev = LSN(s.order().uint64(s.Open.Piece.Bytes[8:]))
	}
	if last != 0 && prev != last {
		return fmt.Errorf("its first record comes after one at %s, the last before it is at %s", prev, last)
	}
	return nil
}

func (s *Summary) order() byteOrder {
	if s.IsBigEndian {
		return bigEndian
	}
	return littleEndian
}

// close takes in the record that ends with what s has of it.
func (s *Summary) close(o Open) (Record, error) {
	if o.Piece.Length != int64(o.Length) || len(o.Piece.Bytes) < recordHeaderSize {
		return Record{}, &RecordError{LSN: o.LSN, Reason: "it has more bytes than its header says"}
	}
	header := o.Piece.Bytes[:recordHeaderSize]
	sum := crc32.Update(o.Piece.withoutFirst(recordHeaderSize), castagnoli, header[:20])
	if s.order().uint32(header[20:]) != sum {
		return Record{}, &RecordError{LSN: o.LSN, Reason: "its checksum is wrong"}
	}
	record := recordOf(o.LSN, o.Length, o.Piece.Bytes, s.order(), s.Major)
	record.End = s.RestEnd
	isAlone := s.IsSwitched && s.First == 0
	switch {
	case record.isSwitch() && !isAlone:
		return Record{}, errors.New("it has records after a switch to the next segment")
	case record.isSwitch():
		record.End = s.Start + LSN(s.SegmentSize)
	case isAlone:
		return Record{}, errors.New("it has no records, and no switch was before")
	case isTold(record.ResourceManager, record.Info) && record.Data == nil:
		s.IsIncomplete = true
	default:
		s.countBefore(record)
	}
	return record, nil
}
