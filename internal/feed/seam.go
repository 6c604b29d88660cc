package feed

import (
	"encoding/binary"

	"basin/internal/wal"
)

// Sizes in bytes, and flags, of a page of the log.
//
// Source: XLOG_BLCKSZ in src/include/pg_config.h.in; SizeOfXLogShortPHD,
// SizeOfXLogLongPHD and xlp_info in src/include/access/xlog_internal.h;
// SizeOfXLogRecord in src/include/access/xlogrecord.h, PostgreSQL 10 to 18.
const (
	pageSize        = 8192
	shortHeaderSize = 24
	longHeaderSize  = 40
	pageContinues   = 0x0001 // XLP_FIRST_IS_CONTRECORD
	pageIsFirst     = 0x0002 // XLP_LONG_HEADER
	recordHeader    = 24
	recordAlignment = 8 // MAXIMUM_ALIGNOF
)

// A seam is the last place where the log that came can be cut: the end of a
// record, or of a page. Who receives a part of a record that ends within a page
// might take it for the end of the log, so servers cut nowhere else; but the
// pieces that a stream comes in are cut anywhere.
//
// Only the page that came last is looked at: its header says how much of it
// belongs to a record that began before. Numbers are as this machine has them,
// since it is the cluster's.
type seam struct {
	page   wal.LSN // where the page that came last begins
	have   int     // bytes of it
	record int     // where the next record begins, in the page; zero as long as the header has not come
	bytes  [pageSize]byte
}

// pass takes the next bytes of the log, at a position.
func (s *seam) pass(at wal.LSN, p []byte) {
	end := at + wal.LSN(len(p))
	if page := end &^ (pageSize - 1); page > s.page {
		p = p[page-at:]
		s.page, s.have, s.record = page, 0, 0
	}
	s.have += copy(s.bytes[s.have:], p)
}

// last returns the last position where the log that came can be cut.
func (s *seam) last() wal.LSN {
	if s.record == 0 && !s.readHeader() {
		return s.page
	}
	for s.record+4 <= s.have {
		length := int64(binary.NativeEndian.Uint32(s.bytes[s.record:]))
		if length == 0 { // the rest of the segment is empty after a switch
			return s.page + wal.LSN(s.have)
		}
		next := int64(s.record) + aligned(max(length, recordHeader))
		if next > int64(s.have) {
			break
		}
		s.record = int(next)
	}
	if s.record > s.have {
		return s.page
	}
	return s.page + wal.LSN(s.record)
}

// readHeader finds where the first record of the page begins, or that there is
// no telling yet.
func (s *seam) readHeader() bool {
	if s.have < shortHeaderSize {
		return false
	}
	size := shortHeaderSize
	info := binary.NativeEndian.Uint16(s.bytes[2:])
	if info&pageIsFirst != 0 {
		size = longHeaderSize
	}
	s.record = size
	if info&pageContinues != 0 {
		s.record += int(min(aligned(int64(binary.NativeEndian.Uint32(s.bytes[16:]))), pageSize))
	}
	return true
}

func aligned(n int64) int64 { return (n + recordAlignment - 1) &^ (recordAlignment - 1) }
