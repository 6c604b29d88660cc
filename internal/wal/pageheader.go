package wal

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Sizes in bytes of a page and its header.
//
// Source: XLOG_BLCKSZ in src/include/pg_config.h.in; SizeOfXLogShortPHD and
// SizeOfXLogLongPHD in src/include/access/xlog_internal.h, PostgreSQL 18.
const (
	defaultPageSize = 8192 // other sizes are chosen when PostgreSQL is built
	minPageSize     = 1 << 10
	maxPageSize     = 64 << 10
	shortHeaderSize = 24
	longHeaderSize  = 40 // of the first page of a segment
)

// Flags of a page.
//
// Source: xlp_info in src/include/access/xlog_internal.h, PostgreSQL 18; the
// same since 10.
const (
	pageContinues  = 0x0001 // XLP_FIRST_IS_CONTRECORD: begins with the rest of a record
	pageIsFirst    = 0x0002 // XLP_LONG_HEADER
	pageOverwrites = 0x0008 // XLP_FIRST_IS_OVERWRITE_CONTRECORD: the record before it stays unfinished
	pageFlags      = 0x000F // with XLP_BKP_REMOVABLE, which says nothing here
)

// pageMagics is what the pages of each major begin with.
//
// Source: XLOG_PAGE_MAGIC in src/include/access/xlog_internal.h.
var pageMagics = []struct {
	major int
	magic uint16
}{
	{10, 0xD097}, {11, 0xD098}, {12, 0xD101}, {13, 0xD106}, {14, 0xD10D},
	{15, 0xD110}, {16, 0xD113}, {17, 0xD116}, {18, 0xD118},
}

// magicOf returns what the pages of a major begin with, zero if it is not known here.
func magicOf(major int) uint16 {
	for _, m := range pageMagics {
		if m.major == major {
			return m.magic
		}
	}
	return 0
}

// majorOf returns the major whose pages begin with magic, zero if there is none.
func majorOf(magic uint16) int {
	for _, m := range pageMagics {
		if m.magic == magic {
			return m.major
		}
	}
	return 0
}

// byteOrder is the order in which the server's machine keeps the bytes of a number.
type byteOrder bool

const (
	littleEndian byteOrder = false
	bigEndian    byteOrder = true
)

func (o byteOrder) uint16(p []byte) uint16 {
	if o == bigEndian {
		return binary.BigEndian.Uint16(p)
	}
	return binary.LittleEndian.Uint16(p)
}

func (o byteOrder) uint32(p []byte) uint32 {
	if o == bigEndian {
		return binary.BigEndian.Uint32(p)
	}
	return binary.LittleEndian.Uint32(p)
}

func (o byteOrder) uint64(p []byte) uint64 {
	if o == bigEndian {
		return binary.BigEndian.Uint64(p)
	}
	return binary.LittleEndian.Uint64(p)
}

// PageError is a page of the log that cannot be at its place.
type PageError struct {
	LSN    LSN    // where the page is
	Reason string // what is wrong about it
	NoPage bool   // it is no page at all, of no version of PostgreSQL that is known here
}

func (e *PageError) Error() string {
	return fmt.Sprintf("invalid write-ahead log page at %s: %s", e.LSN, e.Reason)
}

// pageHeader is what the reader of a page needs of its header.
type pageHeader struct {
	continues  bool   // begins with the rest of a record
	overwrites bool   // the record that the page before ends in stays unfinished
	remaining  uint32 // bytes of the record that began before, on this and further pages
}

// headers checks the headers of consecutive pages, and knows what the log has
// told about itself so far.
type headers struct {
	rules     PageRules
	magic     uint16    // zero until the first page has come
	major     int       // valid with magic
	order     byteOrder // valid with magic
	pageSize  LSN       // bytes
	sizeKnown bool      // whether pageSize is more than an assumption
	first     Timeline  // of the first page
	timeline  Timeline  // of the page before
	remaining uint32    // bytes of a record that the next page must begin with
}

func newHeaders(rules PageRules) headers {
	return headers{rules: rules, pageSize: defaultPageSize}
}

// atSegment says whether a segment begins at l.
func (c *headers) atSegment(l LSN) bool { return l&LSN(c.rules.SegmentSize-1) == 0 }

// size returns how long the header of the page at l is, in bytes.
func (c *headers) size(l LSN) int {
	if c.atSegment(l) {
		return longHeaderSize
	}
	return shortHeaderSize
}

// check reads the header of the page at l, of which p has all bytes. An error is
// a *PageError.
//
// Source: XLogPageHeaderData and XLogLongPageHeaderData in
// src/include/access/xlog_internal.h, XLogReaderValidatePageHeader in
// src/backend/access/transam/xlogreader.c, PostgreSQL 18.
func (c *headers) check(l LSN, p []byte) (pageHeader, error) {
	bad := func(format string, args ...any) (pageHeader, error) {
		return pageHeader{}, &PageError{LSN: l, Reason: fmt.Sprintf(format, args...)}
	}
	if c.magic == 0 {
		if reason := c.learnMagic(p); reason != "" {
			isKnown := majorOf(littleEndian.uint16(p)) != 0 || majorOf(bigEndian.uint16(p)) != 0
			return pageHeader{}, &PageError{LSN: l, Reason: reason, NoPage: !isKnown}
		}
	}
	if magic := c.order.uint16(p); magic != c.magic {
		return bad("its magic number is %04X, not %04X", magic, c.magic)
	}
	info := c.order.uint16(p[2:])
	isFirst := info&pageIsFirst != 0
	switch {
	case info&^pageFlags != 0:
		return bad("its flags are %04X, of which only %04X are known", info, pageFlags)
	case isFirst && !c.atSegment(l):
		return bad("its header is that of a segment's first page")
	case !isFirst && c.atSegment(l):
		return bad("its header is not that of a segment's first page")
	}
	if isFirst {
		if reason := c.checkFirst(p); reason != "" {
			return bad("%s", reason)
		}
	}
	if address := LSN(c.order.uint64(p[8:])); address != l {
		return bad("its header says %s", address)
	}
	if reason := c.checkTimeline(l, Timeline(c.order.uint32(p[4:]))); reason != "" {
		return bad("%s", reason)
	}
	h := pageHeader{
		continues:  info&pageContinues != 0,
		overwrites: info&pageOverwrites != 0,
		remaining:  c.order.uint32(p[16:]),
	}
	switch {
	case h.continues != (h.remaining > 0) || h.continues && h.overwrites:
		return bad("its flags are %04X, with %d bytes of a record that began before", info, h.remaining)
	case !h.overwrites && c.remaining > 0 && h.remaining != c.remaining:
		return bad("it begins with %d bytes of a record of which %d are left", h.remaining, c.remaining)
	}
	c.remaining = 0
	if room := uint32(c.pageSize) - uint32(c.size(l)); h.remaining > room {
		c.remaining = h.remaining - room
	}
	return h, nil
}

// learnMagic takes version and byte order from the first page, and returns what
// is wrong with them.
func (c *headers) learnMagic(p []byte) string {
	want := magicOf(c.rules.Major)
	for _, order := range []byteOrder{littleEndian, bigEndian} {
		magic := order.uint16(p)
		major := majorOf(magic)
		switch {
		case major == 0:
			continue
		case want != 0 && magic != want:
			return fmt.Sprintf("it is of PostgreSQL %d (magic number %04X), not %d", major, magic, c.rules.Major)
		}
		c.magic, c.major, c.order = magic, major, order
		return ""
	}
	return fmt.Sprintf("its magic number %04X is of no known version of PostgreSQL", littleEndian.uint16(p))
}

// checkFirst returns what is wrong with what only the first page of a segment
// has. What was not known before is from then on.
func (c *headers) checkFirst(p []byte) string {
	system := c.order.uint64(p[24:])
	segmentSize, pageSize := c.order.uint32(p[32:]), c.order.uint32(p[36:])
	switch {
	case c.rules.SystemID != 0 && system != c.rules.SystemID:
		return fmt.Sprintf("it is of another cluster: its system identifier is %d, not %d", system, c.rules.SystemID)
	case int64(segmentSize) != c.rules.SegmentSize:
		return fmt.Sprintf("it is of another cluster: its segments have %d bytes, not %d", segmentSize, c.rules.SegmentSize)
	case pageSize < minPageSize || pageSize > maxPageSize || bits.OnesCount32(pageSize) != 1:
		return fmt.Sprintf("no page has %d bytes, as its header says", pageSize)
	case c.sizeKnown && LSN(pageSize) != c.pageSize:
		return fmt.Sprintf("it is of another cluster: its pages have %d bytes, not %d", pageSize, c.pageSize)
	}
	c.rules.SystemID = system
	c.pageSize, c.sizeKnown = LSN(pageSize), true
	return ""
}

// checkTimeline returns what is wrong with a page of timeline t at l.
func (c *headers) checkTimeline(l LSN, t Timeline) string {
	want := c.rules.History.at(c.rules.Timeline, l)
	// Of what came before the oldest timeline that is known, only the order is.
	isOldest := len(c.rules.History) == 0 || want == c.rules.History[0].Timeline
	switch {
	case t == 0:
		return "it is of no timeline"
	case want != 0 && (t > want || t < want && !isOldest):
		return fmt.Sprintf("it is of timeline %d, not %d", t, want)
	case t < c.timeline:
		return fmt.Sprintf("it is of timeline %d, after one of %d", t, c.timeline)
	}
	if c.timeline == 0 {
		c.first = t
	}
	c.timeline = t
	return ""
}

// SystemID returns the number of the cluster that a segment is of, of which p is the beginning. ok is
// false if that is none of a segment.
func SystemID(p []byte) (id uint64, ok bool) {
	order, ok := firstPage(p)
	if !ok {
		return 0, false
	}
	return order.uint64(p[24:]), true
}

// SegmentSize returns the size in bytes of a segment, of which p is the beginning. ok is false if
// that is none of a segment.
func SegmentSize(p []byte) (size int64, ok bool) {
	order, ok := firstPage(p)
	if !ok {
		return 0, false
	}
	size = int64(order.uint32(p[32:]))
	return size, ValidSegmentSize(size)
}

// firstPage says whether p begins as a segment does, and in which order the bytes of numbers are.
//
// Source: XLogLongPageHeaderData in src/include/access/xlog_internal.h, PostgreSQL 18.
func firstPage(p []byte) (byteOrder, bool) {
	if len(p) < longHeaderSize {
		return littleEndian, false
	}
	for _, order := range []byteOrder{littleEndian, bigEndian} {
		if majorOf(order.uint16(p)) != 0 && order.uint16(p[2:])&pageIsFirst != 0 {
			return order, true
		}
	}
	return littleEndian, false
}
