package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"basin/internal/localfs"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// logQueue is the log that waits in pg_wal until it is archived.
type logQueue struct {
	names []string // sorted
	Files int      // of a segment's size
	Bytes int64    // of these
}

// readyEnd ends the names of files of archive_status that say that a file of the log waits.
//
// Source: XLogArchiveNotify in src/backend/access/transam/xlogarchive.c, PostgreSQL 18.
const readyEnd = ".ready"

// readQueue looks what waits in a directory pg_wal. One that is none is fs.ErrNotExist.
func readQueue(pgWAL string) (q logQueue, err error) {
	path := filepath.Join(pgWAL, "archive_status")
	entries, err := os.ReadDir(path)
	if err != nil {
		return q, localfs.Errorf(err, path, "could not open directory \"%s\"", path)
	}
	var size int64
	for _, e := range entries { // sorted
		name, isReady := strings.CutSuffix(e.Name(), readyEnd)
		kind := wal.KindOf(name)
		if !isReady || kind == 0 {
			continue
		}
		q.names = append(q.names, name)
		if kind != wal.SegmentFile && kind != wal.PartialFile {
			continue
		}
		q.Files++
		if size == 0 { // all have the same
			if info, err := os.Stat(filepath.Join(pgWAL, name)); err == nil {
				size = info.Size()
			}
		}
	}
	q.Bytes = int64(q.Files) * size
	return q, nil
}

// behind returns what waits behind a segment, of the same timeline, in the order in which PostgreSQL archives it: none if that
// segment does not wait itself.
func (q logQueue) behind(name string) []string {
	at, waits := slices.BinarySearch(q.names, name)
	if !waits {
		return nil
	}
	rest := q.names[at+1:]
	return rest[:sortedUntil(rest, func(other string) bool { return other[:8] == name[:8] && wal.KindOf(other) != wal.HistoryFile })]
}

// sortedUntil returns how many of the first names hold.
func sortedUntil(names []string, holds func(string) bool) int {
	if n := slices.IndexFunc(names, func(name string) bool { return !holds(name) }); n >= 0 {
		return n
	}
	return len(names)
}

// String says how much waits.
func (q logQueue) String() string {
	return fmt.Sprintf("%s (%s) of log", counted(q.Files, "segment"), humanize.IBytes(uint64(q.Bytes)))
}

// queueLimits say what becomes of the queue if it is not archived. Zero is no limit.
type queueLimits struct {
	Warn, Max int64 // bytes
	Drop      bool  // past Max log is given up, so that the server stays up; else it is kept
}

// queueLimits returns the limits that are set.
func (s clusterSettings) queueLimits() (l queueLimits, err error) {
	for _, of := range []struct {
		name, value string
		into        *int64
	}{{"queue_warn", s.QueueWarn, &l.Warn}, {"queue_max", s.QueueMax, &l.Max}} {
		if of.value == "" {
			continue
		}
		n, err := humanize.ParseBytes(of.value)
		if err != nil || n == 0 || n > 1<<60 {
			return l, usererr.Hinted("It is a size, such as \"64GiB\".", "%s must not be \"%s\"", of.name, of.value)
		}
		*of.into = int64(n)
	}
	l.Warn = cmp.Or(l.Warn, l.Max/2)
	switch s.QueueFull {
	case "", "keep":
	case "drop":
		l.Drop = true
	default:
		return l, usererr.Hinted("It is \"keep\", which it is without it, or \"drop\", which gives log up so that the server stays up.",
			"queue_full must not be \"%s\"", s.QueueFull)
	}
	switch {
	case l.Drop && l.Max == 0:
		return l, usererr.Hinted("Say how much log may wait.", "with queue_full = \"drop\" there must be a queue_max")
	case l.Max > 0 && l.Warn > l.Max:
		return l, usererr.Hinted("It is to come before.", "queue_warn must not be more than queue_max")
	}
	return l, nil
}

// judge says what is wrong with a queue, and how bad that is.
func (l queueLimits) judge(q logQueue) (state, string) {
	is := stateOK
	switch {
	case l.Max > 0 && q.Bytes > l.Max:
		is = stateCritical
	case l.Warn > 0 && q.Bytes > l.Warn:
		is = stateWarning
	default:
		return is, ""
	}
	text := fmt.Sprintf("%v wait to be archived", q)
	switch {
	case l.Drop && is == stateCritical:
		text += fmt.Sprintf(", which is more than queue_max, %s: log is given up as long as it cannot be stored", humanize.IBytes(uint64(l.Max)))
	case l.Drop:
		text += fmt.Sprintf(": what waits past %s is given up if it cannot be stored", humanize.IBytes(uint64(l.Max)))
	case is == stateCritical:
		text += fmt.Sprintf(", which is more than queue_max, %s: all is kept, and pg_wal grows until its disk is full", humanize.IBytes(uint64(l.Max)))
	default:
		text += ": all is kept, and pg_wal grows until its disk is full"
	}
	return is, text
}
