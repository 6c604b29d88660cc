// Package wal knows how PostgreSQL names, numbers and cuts its write-ahead log, and
// what its pages, records and timeline histories say.
//
// A position (LSN) is a byte offset since the cluster was made. The log is cut
// into segments of a fixed size, 16 MiB unless initdb was told otherwise, and
// each segment file is named for its timeline and number. Nothing here opens a
// file or a connection.
package wal

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

// LSN is a position in the log: a byte offset since the cluster was made. Zero
// is no position (InvalidXLogRecPtr).
type LSN uint64

// String returns the LSN as PostgreSQL prints it: two hexadecimal halves, upper
// case, without leading zeros.
//
// Source: LSN_FORMAT_ARGS in src/include/access/xlogdefs.h, PostgreSQL 18.
func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// ParseLSN reads the form that String writes, in either case of letters.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok || len(hi) == 0 || len(hi) > 8 || len(lo) == 0 || len(lo) > 8 {
		return 0, fmt.Errorf("invalid LSN %q", s)
	}
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("invalid LSN %q", s)
	}
	return LSN(h<<32 | l), nil
}

// MarshalText returns what String does.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is ParseLSN.
func (l *LSN) UnmarshalText(text []byte) (err error) {
	*l, err = ParseLSN(string(text))
	return err
}

// Timeline numbers one line of a cluster's history; the first is 1.
type Timeline uint32

// Position is a place in the log of one timeline.
type Position struct {
	LSN      LSN      `json:"lsn"`
	Timeline Timeline `json:"timeline"`
}

// Limits of a segment's size in bytes, and the size initdb chooses.
//
// Source: WalSegMinSize, WalSegMaxSize and DEFAULT_XLOG_SEG_SIZE in
// src/include/access/xlog_internal.h and src/include/pg_config_manual.h, PostgreSQL 18.
const (
	MinSegmentSize     = 1 << 20
	MaxSegmentSize     = 1 << 30
	DefaultSegmentSize = 16 << 20
)

// ValidSegmentSize says whether size, in bytes, is one a cluster can have: a
// power of two from 1 MiB to 1 GiB.
func ValidSegmentSize(size int64) bool {
	return size >= MinSegmentSize && size <= MaxSegmentSize && bits.OnesCount64(uint64(size)) == 1
}

// Segment is one file's worth of the log.
type Segment struct {
	Timeline Timeline
	Number   uint64 // counts from the beginning of the log, in segments
}

// SegmentAt returns the segment that holds the byte at p. size is the segment
// size in bytes and must be valid.
func SegmentAt(p Position, size int64) Segment {
	return Segment{Timeline: p.Timeline, Number: uint64(p.LSN) / uint64(size)}
}

// Start returns the position of the segment's first byte. size is the segment
// size in bytes.
func (s Segment) Start(size int64) LSN { return LSN(s.Number * uint64(size)) }

// Name returns the segment's file name: timeline, log and segment within the
// log, eight hexadecimal digits each.
//
// Source: XLogFileName in src/include/access/xlog_internal.h, PostgreSQL 18.
func (s Segment) Name(size int64) string {
	perLog := uint64(1<<32) / uint64(size)
	return fmt.Sprintf("%08X%08X%08X", uint32(s.Timeline), uint32(s.Number/perLog), uint32(s.Number%perLog))
}

// ParseSegment returns the segment that a 24-digit file name stands for. size is
// the segment size in bytes and must be valid. A name of any other form, such as a history or a
// .partial file, is an error.
//
// Source: XLogFromFileName in src/include/access/xlog_internal.h, PostgreSQL 18.
func ParseSegment(name string, size int64) (Segment, error) {
	bad := func() (Segment, error) { return Segment{}, fmt.Errorf("%q is not the name of a WAL segment", name) }
	if len(name) != 24 || strings.Trim(name, "0123456789ABCDEF") != "" {
		return bad()
	}
	var part [3]uint64
	for i := range part {
		part[i], _ = strconv.ParseUint(name[8*i:8*i+8], 16, 32) // eight digits always fit
	}
	perLog := uint64(1<<32) / uint64(size)
	if part[0] == 0 || part[2] >= perLog {
		return bad()
	}
	return Segment{Timeline: Timeline(part[0]), Number: part[1]*perLog + part[2]}, nil
}

// HistoryName returns the name of the file that tells where timeline t forked
// from its parents.
//
// Source: TLHistoryFileName in src/include/access/xlog_internal.h, PostgreSQL 18.
func HistoryName(t Timeline) string { return fmt.Sprintf("%08X.history", uint32(t)) }

// ParseSegmentSize reads what a server answers to SHOW wal_segment_size, such
// as 16MB or 1GB, into bytes.
//
// Source: RetrieveWalSegSize in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func ParseSegmentSize(s string) (int64, error) {
	bad := fmt.Errorf("invalid WAL segment size %q: a power of two from 1MB to 1GB is expected", s)
	digits := strings.TrimRight(s, "MGB")
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		return 0, bad
	}
	switch s[len(digits):] {
	case "MB":
		n <<= 20
	case "GB":
		n <<= 30
	default:
		return 0, bad
	}
	if !ValidSegmentSize(n) {
		return 0, bad
	}
	return n, nil
}
