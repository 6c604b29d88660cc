package waldir

import (
	"strings"

	"basin/internal/seal"
	"basin/internal/wal"
)

// What is appended to the name of a segment that is not complete, to what is
// being made and has no meaning yet, and to what was found damaged.
const (
	partialSuffix   = ".partial"
	temporarySuffix = ".tmp"
	damagedSuffix   = ".damaged"
)

// entry is a file of the directory that holds a segment, or a part of one.
type entry struct {
	name    string // of the file
	segment wal.Segment
	method  seal.Algorithm // it is compressed with
	partial bool
	damaged bool  // set aside: what it is is not known
	bytes   int64 // its length, if it was asked for
}

// segmentDigits is the length of the name of a segment.
const segmentDigits = 24

// parseEntry takes a file's name apart: 24 digits, the suffix of a compression
// method or none, and .partial or nothing. size is that of segments, in bytes.
//
// Source: is_xlogfilename in src/bin/pg_basebackup/pg_receivewal.c, PostgreSQL
// 18, which has no zstd.
func parseEntry(name string, size int64) (entry, bool) {
	if len(name) < segmentDigits {
		return entry{}, false
	}
	segment, err := wal.ParseSegment(name[:segmentDigits], size)
	if err != nil {
		return entry{}, false
	}
	e := entry{name: name, segment: segment}
	rest, partial := strings.CutSuffix(name[segmentDigits:], partialSuffix)
	e.partial = partial
	e.method = seal.BySuffix(rest)
	return e, rest == seal.Suffix(e.method)
}

// parseDamaged takes apart the name that a damaged file was given: that which it
// had, .damaged, and a number after the first of them.
func parseDamaged(name string, size int64) (entry, bool) {
	i := strings.LastIndex(name, damagedSuffix)
	if i < 0 || strings.Trim(name[i+len(damagedSuffix):], ".0123456789") != "" {
		return entry{}, false
	}
	e, ok := parseEntry(name[:i], size)
	e.name, e.damaged = name, true
	return e, ok
}

// isTemporary says whether a file of that name is one that was being made when
// the program ended: a segment that was being compressed or unpacked, or a
// history file. It is of no use.
func isTemporary(name string, size int64) bool {
	made, ok := strings.CutSuffix(name, temporarySuffix)
	if !ok {
		return false
	}
	if e, ok := parseEntry(made, size); ok {
		return e.partial || e.method != seal.None
	}
	_, ok = parseHistory(made)
	return ok
}

// parseHistory returns the compression method of a file whose name is that of a
// history file.
func parseHistory(name string) (seal.Algorithm, bool) {
	method := seal.BySuffix(name)
	digits, ok := strings.CutSuffix(strings.TrimSuffix(name, seal.Suffix(method)), ".history")
	return method, ok && wal.IsDigits(digits, 8)
}
