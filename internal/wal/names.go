package wal

import "strings"

// FileKind is a kind of file of the log, as PostgreSQL keeps them in pg_wal and archives them.
type FileKind int

// The kinds. Zero is none of them.
const (
	SegmentFile FileKind = iota + 1 // a whole segment
	PartialFile                     // the first part of one, with .partial behind its name: the last of a timeline that was left
	BackupFile                      // with .XXXXXXXX.backup: tells of a backup that began in that segment
	HistoryFile                     // XXXXXXXX.history: tells where a timeline comes from
)

// segmentDigits is how many digits the name of a segment has.
const segmentDigits = 24

// KindOf returns which kind of file has a name, zero if none has. It does not look whether the numbers in it can be.
//
// Source: IsXLogFileName, IsPartialXLogFileName, IsBackupHistoryFileName and IsTLHistoryFileName in
// src/include/access/xlog_internal.h, PostgreSQL 18.
func KindOf(name string) FileKind {
	if digits, ok := strings.CutSuffix(name, ".history"); ok && IsDigits(digits, 8) {
		return HistoryFile
	}
	if len(name) < segmentDigits || !IsDigits(name[:segmentDigits], segmentDigits) {
		return 0
	}
	rest := name[segmentDigits:]
	switch {
	case rest == "":
		return SegmentFile
	case rest == ".partial":
		return PartialFile
	}
	if offset, ok := strings.CutSuffix(rest, ".backup"); ok && len(offset) == 9 && offset[0] == '.' && IsDigits(offset[1:], 8) {
		return BackupFile
	}
	return 0
}

// IsDigits says whether a text is of n hexadecimal digits, as they are in names: in capitals.
func IsDigits(text string, n int) bool {
	return len(text) == n && strings.Trim(text, "0123456789ABCDEF") == ""
}
