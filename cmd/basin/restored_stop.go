package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"basin/internal/wal"
)

// stop is what recovery came to, as the log tells.
type stop int

const (
	stopUnknown   stop = iota // the log is not there any more, or not yet
	stopElsewhere             // recovery does not stop there by itself
	stopAtTarget
)

// stopAt says whether a position, up to which recovery has replayed, is where it stops for a target. The records that end
// and begin there tell: they are in pg_wal, be they restored or received.
//
// Source: recoveryStopsBefore and recoveryStopsAfter in src/backend/access/transam/xlogrecovery.c, PostgreSQL 18.
func (d *restoredDir) stopAt(t restoredTarget, at wal.LSN) stop {
	switch t.kind {
	case "": // at the end of the log it does not pause
		return stopElsewhere
	case "lsn":
		if t.covers(at) {
			return stopAtTarget
		}
		return stopElsewhere
	case "immediate": // it takes no connections before it is consistent, and goes no further then
		return stopAtTarget
	}
	before, after, err := d.recordsAt(t.timeline, at)
	if err != nil {
		return stopUnknown
	}
	record, is := before, false
	switch {
	case t.kind == "name":
		point, ok := before.RestorePoint()
		is = ok && point.Name == t.value
	case t.kind == "xid":
		if !t.inclusive {
			record = after
		}
		xid, err := strconv.ParseUint(t.value, 0, 64)
		if err != nil {
			return stopUnknown
		}
		end, ok := endOf(record)
		is = ok && end.XID == uint32(xid) // servers leave the epoch out
	case t.kind == "time":
		record = after
		target, err := time.Parse("2006-01-02 15:04:05.999999-07", t.value)
		if err != nil {
			return stopUnknown
		}
		end, ok := endOf(record)
		is = ok && (end.Time.After(target) || !t.inclusive && end.Time.Equal(target))
	}
	switch {
	case record.End == 0:
		return stopUnknown
	case is:
		return stopAtTarget
	}
	return stopElsewhere
}

// endOf returns which transaction a record ends, and false if it ends none.
func endOf(r wal.Record) (wal.TransactionEnd, bool) {
	end, ok := r.Commit()
	if !ok {
		end, ok = r.Abort()
	}
	return end, ok
}

// recordsAt returns the record of the log that ends at a position, and the one that begins there. One that is not in pg_wal is
// a zero record.
func (d *restoredDir) recordsAt(t wal.Timeline, at wal.LSN) (before, after wal.Record, err error) {
	const around = 1                                                    // segments: a record goes on in the next
	for size := int64(1 << 20); size <= wal.MaxSegmentSize; size *= 2 { // the names of the files depend on it
		var content []io.Reader
		first := wal.LSN(0)
		number := wal.SegmentAt(wal.Position{LSN: at, Timeline: 1}, size).Number
		for n := number - min(number, around); n <= number+around; n++ {
			file, err := d.openLog(t, n, size)
			if err != nil {
				return before, after, err
			}
			if file == nil {
				if n > number {
					break
				}
				content = nil
				continue
			}
			defer file.Close()
			if content == nil {
				first = wal.Segment{Number: n}.Start(size)
			}
			content = append(content, file)
		}
		if content == nil {
			continue
		}
		records := wal.NewRecordReader(io.MultiReader(content...), first, size)
		for {
			record, err := records.Next()
			switch {
			case err == io.EOF:
				return before, after, nil
			case err != nil:
				return before, after, err
			case record.End == at:
				before = record
				before.Data = slices.Clone(record.Data)
			case record.LSN >= at:
				return before, record, nil
			}
		}
	}
	return before, after, nil
}

// openLog opens the file of a segment in pg_wal, which is nil if none is there: that of the newest timeline, none newer than t,
// as recovery does. Zero is any.
func (d *restoredDir) openLog(t wal.Timeline, number uint64, size int64) (*os.File, error) {
	dir := filepath.Join(d.path, "pg_wal")
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	newest := ""
	for _, e := range entries {
		segment, err := wal.ParseSegment(e.Name(), size)
		if err != nil || segment.Number != number || t != 0 && segment.Timeline > t {
			continue
		}
		if info, err := e.Info(); err == nil && info.Size() == size {
			newest = filepath.Join(dir, e.Name())
		}
	}
	if newest == "" {
		return nil, nil
	}
	return os.Open(newest)
}
