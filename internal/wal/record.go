package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Facts about records.
//
// Source: src/include/access/xlogrecord.h, rmgrlist.h and rmgr.h, PostgreSQL 18.
const (
	recordHeaderSize  = 24      // SizeOfXLogRecord, bytes
	maxRecordLength   = 1 << 30 // bytes; XLogRecordMaxSize is 1020 MiB, MaxAllocSize before 16
	recordAlignment   = 8       // bytes; MAXALIGN
	maxBuiltinManager = 21      // RM_LOGICALMSG_ID, the last in 10 to 18
	minCustomManager  = 128     // RM_MIN_CUSTOM_ID, since 15

	xlogManager   = 0    // RM_XLOG_ID
	xlogSwitch    = 0x40 // XLOG_SWITCH
	infoOfManager = 0xF0 // XLR_RMGR_INFO_MASK
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Record is one record of the log, whose checksum is right.
type Record struct {
	LSN             LSN    // of its first byte
	End             LSN    // where the next can begin; that of a switch is the end of the segment
	Prev            LSN    // the record before
	XID             uint32 // the transaction's, zero without one
	Length          uint32 // bytes without page headers and alignment; xl_tot_len
	ResourceManager uint8
	Info            uint8
	Data            []byte // what follows the record's header; valid until the next call of Next

	order byteOrder
	major int
}

// Reasons why a RecordReader has ended, besides *PageError and *RecordError.
var (
	// ErrUnfinished is an input that ends within a record.
	ErrUnfinished = errors.New("the write-ahead log ends within a record")
	// ErrUnwritten is an input that has zeros where a page or a record would begin,
	// and up to the end of that page. What is in further pages is not known.
	ErrUnwritten = errors.New("the write-ahead log is zeros from here on")
)

// RecordError is a record that is damaged, or is none at all, such as what a
// segment has held before it was used again.
type RecordError struct {
	LSN    LSN    // where the record begins
	Reason string // what is wrong about it
}

func (e *RecordError) Error() string {
	return fmt.Sprintf("invalid write-ahead log record at %s: %s", e.LSN, e.Reason)
}

// Neither leaves this file.
var (
	errShort       = errors.New("no more input")
	errOverwritten = errors.New("the record was given up")
)

// spanning is how much has come of a record over several pages.
type spanning struct {
	lsn    LSN // zero: there is none
	length uint32
	have   uint32
	sum    uint32 // the checksum of what has come after its header
}

// remains is what there is of a record that began before the log that is read.
type remains struct {
	remaining uint32 // bytes of it, as the first page says
	piece     Piece
	isGivenUp bool // another record is where it should go on
	end       LSN  // what follows begins here, or after the header of a page; zero if it goes on
}

// A RecordReader reads the log record by record, as recovery does: up to the
// first that is not whole and valid.
//
// It holds one record in memory, and never more of it than has come and fits
// together.
type RecordReader struct {
	headers headers
	input   input
	start   LSN
	end     LSN    // of the last record
	prev    LSN    // the last record
	skipTo  LSN    // where the segment ends that a switch left
	record  Record // the last
	over    spanning
	pieces  []byte // of a record that began in another page
	rest    remains

	// isNeeded says of which records over several pages Data is wanted; of the
	// others it is nil, and not kept meanwhile. Without it, of all.
	isNeeded func(manager, info uint8) bool
	reason   error
	done     error // what Next returns from now on
}

// NewRecordReader returns a reader of the log that r yields from start on, which
// is where a page begins. The rest of a record that began before is passed over.
// segmentSize is in bytes and must be valid.
//
// The size of pages is in the header of each segment's first. Until one has come
// it is taken for 8192 bytes, as nearly always.
func NewRecordReader(r io.Reader, start LSN, segmentSize int64) *RecordReader {
	return &RecordReader{
		headers: newHeaders(PageRules{SegmentSize: segmentSize}),
		input:   input{r: r, at: start},
		start:   start,
		end:     start,
		skipTo:  start,
	}
}

// End returns where the last record ended that Next has returned, or the start if
// there was none. A switch ends with its segment, whether the rest of that has
// come or not.
func (r *RecordReader) End() LSN { return r.end }

// Reason returns why Next has returned io.EOF: nil if the input ended between two
// records, else ErrUnfinished, ErrUnwritten, a *PageError or a *RecordError.
func (r *RecordReader) Reason() error { return r.reason }

// Next returns the next record. It returns io.EOF when there is none that is whole
// and valid, of which Reason tells more, and another error when the input failed.
//
// Source: XLogDecodeNextRecord in src/backend/access/transam/xlogreader.c,
// PostgreSQL 18.
func (r *RecordReader) Next() (Record, error) {
	for r.done == nil {
		err := r.next()
		if err == nil {
			r.end, r.prev = r.record.End, r.record.LSN
			return r.record, nil
		}
		if err != errOverwritten { // after which the page itself is read again
			r.finish(err)
		}
	}
	return Record{}, r.done
}

// finish keeps why there is no next record. An input that failed may have had more.
func (r *RecordReader) finish(err error) {
	isAtEnd := err == errShort || err == ErrUnfinished || err == ErrUnwritten
	if isAtEnd && r.input.err != nil && r.input.err != io.EOF {
		r.done = fmt.Errorf("reading the write-ahead log at %s: %w", r.input.at, r.input.err)
		return
	}
	r.done = io.EOF
	if err != errShort {
		r.reason = err
	}
}

// next reads the next record into r.record.
func (r *RecordReader) next() error {
	if !r.input.discardTo(r.skipTo) {
		return errShort
	}
	if r.input.at == r.start {
		if err := r.passRest(); err != nil {
			return err
		}
	}
	if r.leftInPage() == 0 {
		h, err := r.enterPage()
		if err != nil {
			return err
		}
		if h.continues {
			return r.bad(r.input.at, "the rest of another is here")
		}
	}
	return r.read()
}

// leftInPage returns how many bytes the page has from here on: none where one begins.
func (r *RecordReader) leftInPage() int {
	return int(-r.input.at & (r.headers.pageSize - 1))
}

// passRest passes over what the first page has of a record that began before it.
func (r *RecordReader) passRest() error {
	for first := true; ; first = false {
		h, err := r.enterPage()
		switch {
		case err == errShort && !first:
			return ErrUnfinished
		case err != nil:
			return err
		case !h.continues:
			r.rest.isGivenUp = h.overwrites
			r.rest.end = r.input.at
			return nil
		case first:
			r.rest.remaining = h.remaining
		}
		left := r.leftInPage()
		rest := int(min(h.remaining, uint32(left))) // a page is shorter than an int
		if !r.input.need(align(rest)) {
			return ErrUnfinished
		}
		r.rest.piece.add(r.input.peek(rest))
		r.input.advance(align(rest))
		if h.remaining <= uint32(left) {
			r.rest.end = r.input.at
			return nil
		}
	}
}

// align returns n, or the next number above it that a record can begin at.
func align(n int) int { return (n + recordAlignment - 1) &^ (recordAlignment - 1) }

// enterPage reads the header of the page that begins here.
func (r *RecordReader) enterPage() (pageHeader, error) {
	if !r.input.need(shortHeaderSize) {
		return pageHeader{}, errShort
	}
	if isZero(r.input.peek(shortHeaderSize)) && r.isZeroFrom(int(r.headers.pageSize)) {
		return pageHeader{}, ErrUnwritten
	}
	size := r.headers.size(r.input.at)
	if !r.input.need(size) {
		return pageHeader{}, errShort
	}
	h, err := r.headers.check(r.input.at, r.input.peek(size))
	if err == nil {
		r.input.advance(size)
	}
	return h, err
}

// isZeroFrom says whether the next n bytes are zeros, as many of them as there are.
func (r *RecordReader) isZeroFrom(n int) bool {
	r.input.need(n)
	return isZero(r.input.peek(min(n, r.input.have())))
}

func (r *RecordReader) bad(l LSN, format string, args ...any) error {
	return &RecordError{LSN: l, Reason: fmt.Sprintf(format, args...)}
}

// read reads the record that begins here, within a page.
func (r *RecordReader) read() error {
	l, left := r.input.at, r.leftInPage()
	r.over = spanning{}
	if !r.input.need(4) {
		return r.shortWithin()
	}
	length := r.headers.order.uint32(r.input.peek(4))
	switch {
	case length == 0 && r.isZeroFrom(left):
		return ErrUnwritten
	case length < recordHeaderSize || length > maxRecordLength:
		return r.bad(l, "no record has %d bytes", length)
	case int(length) > left:
		return r.assemble(length)
	case !r.input.need(recordHeaderSize):
		return ErrUnfinished
	}
	if err := r.checkHeader(l, r.input.peek(recordHeaderSize)); err != nil {
		return err
	}
	if !r.input.need(align(int(length))) {
		return ErrUnfinished
	}
	p := r.input.peek(int(length))
	r.input.advance(align(int(length)))
	return r.whole(l, length, p, crc32.Update(0, castagnoli, p[recordHeaderSize:]))
}

// shortWithin returns what it means that the input ends in the first bytes of a
// record: nothing of it may have come.
func (r *RecordReader) shortWithin() error {
	if r.input.have() == 0 {
		return errShort
	}
	return ErrUnfinished
}

// assemble reads the record of length bytes that begins here and goes on in the
// next page. Its bytes are collected as they come: the length may be any number.
func (r *RecordReader) assemble(length uint32) error {
	l, part := r.input.at, r.leftInPage()
	r.over, r.pieces = spanning{lsn: l, length: length}, r.pieces[:0]
	for isChecked := false; ; {
		if !r.input.need(part) {
			return ErrUnfinished
		}
		r.collect(r.input.peek(part))
		r.input.advance(part)
		if !isChecked && r.over.have >= recordHeaderSize {
			if err := r.checkHeader(l, r.pieces); err != nil {
				return err
			}
			isChecked = true
		}
		remaining := length - r.over.have
		if remaining == 0 {
			break
		}
		if err := r.continueOn(l, remaining); err != nil {
			return err
		}
		part = int(min(remaining, uint32(r.leftInPage())))
	}
	padding := align(part) - part
	if !r.input.need(padding) {
		return ErrUnfinished
	}
	r.input.advance(padding)
	sum := r.over.sum
	r.over = spanning{}
	return r.whole(l, length, r.pieces, sum)
}

// collect adds what has come of a record over several pages.
func (r *RecordReader) collect(p []byte) {
	s := &r.over
	if missing := recordHeaderSize - int(s.have); missing > 0 {
		n := min(missing, len(p))
		r.pieces = append(r.pieces, p[:n]...)
		s.have += uint32(n)
		p = p[n:]
	}
	if len(p) == 0 {
		return
	}
	s.have += uint32(len(p))
	s.sum = crc32.Update(s.sum, castagnoli, p)
	if r.isNeeded != nil && !r.isNeeded(r.pieces[17], r.pieces[16]) {
		return
	}
	if len(r.pieces)+len(p) > cap(r.pieces) { // which append alone would make a quarter longer
		r.pieces = slices.Grow(r.pieces, max(len(p), min(len(r.pieces), int(s.length)-len(r.pieces))))
	}
	r.pieces = append(r.pieces, p...)
}

// continueOn enters the page that has more of the record at l, of which remaining
// bytes are left.
func (r *RecordReader) continueOn(l LSN, remaining uint32) error {
	page := r.input.at
	h, err := r.enterPage()
	switch {
	case err == errShort:
		return ErrUnfinished
	case err != nil:
		return err
	case h.overwrites:
		// A server whose log ended before this page when it was started again went
		// on with another record, as if this one had not been begun.
		r.input.retreat(int(r.input.at - page))
		return errOverwritten
	case !h.continues:
		return r.bad(l, "the page at %s does not continue it", page)
	case h.remaining != remaining:
		return r.bad(l, "the page at %s continues a record of which %d bytes are left, of this it is %d", page, h.remaining, remaining)
	}
	return nil
}

// checkHeader checks what can be told of the record at l by its header.
//
// Source: ValidXLogRecordHeader in src/backend/access/transam/xlogreader.c,
// PostgreSQL 18.
func (r *RecordReader) checkHeader(l LSN, p []byte) error {
	prev, manager := LSN(r.headers.order.uint64(p[8:])), p[17]
	isCustom := manager >= minCustomManager && r.headers.major >= 15
	switch {
	case manager > maxBuiltinManager && !isCustom:
		return r.bad(l, "there is no resource manager %d", manager)
	case r.prev == 0 && prev >= l:
		return r.bad(l, "the one before cannot be at %s", prev)
	case r.prev != 0 && prev != r.prev:
		return r.bad(l, "the one before is at %s, not at %s", r.prev, prev)
	}
	return nil
}

// whole makes the record at l of its length, of p, which has all bytes of it that
// are needed, and of the checksum of what follows its header, which was checked. All
// of it and what aligns it was read.
//
// Source: ValidXLogRecord in src/backend/access/transam/xlogreader.c, PostgreSQL 18.
func (r *RecordReader) whole(l LSN, length uint32, p []byte, sum uint32) error {
	order := r.headers.order
	if order.uint32(p[20:]) != crc32.Update(sum, castagnoli, p[:20]) {
		return r.bad(l, "its checksum is wrong")
	}
	r.record = recordOf(l, length, p, r.headers.order, r.headers.major)
	r.record.End = r.input.at
	if r.record.isSwitch() {
		r.record.End += -r.record.End & LSN(r.headers.rules.SegmentSize-1)
		r.skipTo = r.record.End
	}
	return nil
}

// recordOf returns the record at l of its bytes. Its end is not known by them.
func recordOf(l LSN, length uint32, p []byte, order byteOrder, major int) Record {
	record := Record{
		LSN:             l,
		Prev:            LSN(order.uint64(p[8:])),
		XID:             order.uint32(p[4:]),
		Length:          length,
		ResourceManager: p[17],
		Info:            p[16],
		order:           order,
		major:           major,
	}
	if uint32(len(p)) == length {
		record.Data = p[recordHeaderSize:]
	}
	return record
}

// isSwitch says whether the next record is in the next segment.
func (r *Record) isSwitch() bool {
	return r.ResourceManager == xlogManager && r.Info&infoOfManager == xlogSwitch
}
