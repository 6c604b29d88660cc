package wal

import "bytes"

// PageRules says what log is expected.
type PageRules struct {
	SystemID    uint64   // of the cluster; zero: that of the first segment
	SegmentSize int64    // bytes; must be valid
	Major       int      // of the server; zero, and one that is not known here: that of the first page
	Timeline    Timeline // that the log is of at its end; zero: any, as long as it does not decrease

	// History is that of Timeline: each page is of the timeline that its first
	// byte is of. Without it, and before the oldest timeline that it has, pages
	// may be of any lower timeline, as long as it does not decrease.
	History History
}

// A PageChecker looks at the headers of the log's pages as the bytes come by. It
// notices what is of another cluster, version, timeline or place: a segment under
// a wrong name, pages that are missing or were never overwritten.
//
// It does not look at records, whose checksums RecordReader knows. Of a header it
// checks all but the padding, XLP_BKP_REMOVABLE, which has no meaning, and
// XLP_FIRST_IS_OVERWRITE_CONTRECORD of a page that begins with a record. How much
// of a record is left (xlp_rem_len) is checked from the second page on that
// begins with it.
//
// After a switch to the next segment, servers since 11 leave pages of zeros, to
// the end of the segment. They must be all zeros.
type PageChecker struct {
	headers headers
	at      LSN   // of the next byte
	skip    int64 // bytes before the next header
	zeros   bool  // whether those must be zero
	head    [longHeaderSize]byte
	have    int // bytes in head of a header that came in pieces
	err     error
}

// NewPageChecker returns a checker of the log from at on. If that is no boundary
// of a page, the rest of the page before is not looked at.
//
// The size of pages is in the header of each segment's first. Until one has come
// it is taken for 8192 bytes, as nearly always.
func NewPageChecker(rules PageRules, at LSN) *PageChecker {
	return &PageChecker{
		headers: newHeaders(rules),
		at:      at,
		skip:    int64(-at & (defaultPageSize - 1)),
	}
}

// Position returns where the next byte belongs, or where the page is that was
// refused.
func (c *PageChecker) Position() LSN { return c.at }

// Check takes the next bytes of the log, however many. An error is a *PageError;
// it is returned again from then on.
func (c *PageChecker) Check(p []byte) error {
	for len(p) > 0 && c.err == nil {
		if c.skip > 0 {
			p = p[c.checkSkipped(p):]
			continue
		}
		c.zeros = false
		page := c.at - LSN(c.have)
		size := c.headers.size(page)
		if c.have == 0 && len(p) >= size {
			c.checkHeader(page, p[:size])
			c.at += LSN(size)
			p = p[size:]
		} else {
			n := copy(c.head[c.have:size], p)
			c.have += n
			c.at += LSN(n)
			p = p[n:]
			if c.have < size {
				break
			}
			c.have = 0
			c.checkHeader(page, c.head[:size])
		}
		if c.err != nil {
			c.at = page
		}
	}
	return c.err
}

// checkHeader reads the header of a page, and says what to skip after it.
func (c *PageChecker) checkHeader(page LSN, header []byte) {
	if !c.headers.atSegment(page) && c.mayBeZero() && isZero(header) {
		c.zeros = true
		c.skip = -int64(page)&(c.headers.rules.SegmentSize-1) - int64(len(header))
		return
	}
	_, c.err = c.headers.check(page, header)
	c.skip = int64(c.headers.pageSize) - int64(len(header))
}

// mayBeZero says whether a page of zeros can follow. Version 10 leaves headers in
// the pages after a switch.
func (c *PageChecker) mayBeZero() bool {
	return c.headers.remaining == 0 && c.headers.rules.Major != 10 && c.headers.major != 10
}

// checkSkipped returns how much of p is between two headers.
func (c *PageChecker) checkSkipped(p []byte) int {
	n := int(min(c.skip, int64(len(p))))
	if c.zeros && !isZero(p[:n]) {
		c.at = (c.at + LSN(firstNonzero(p[:n]))) &^ (c.headers.pageSize - 1)
		c.err = &PageError{LSN: c.at, Reason: "it follows a page of zeros, and is not zeros to the end of the segment"}
		return n
	}
	c.skip -= int64(n)
	c.at += LSN(n)
	return n
}

// isZero says whether p has only zero bytes.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}

// firstNonzero returns the index of the first byte of p that is not zero.
func firstNonzero(p []byte) int {
	return bytes.IndexFunc(p, func(r rune) bool { return r != 0 })
}
