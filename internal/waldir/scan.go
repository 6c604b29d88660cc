package waldir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Start returns where the log is to be streamed from, the beginning of a segment:
// of the first partial one after the newest complete one, or of a damaged one before
// that, or of the next. It returns false if the directory has nothing to go on from.
//
// Only the newest complete segment is read; of the others the size is looked at, the
// first time. What is found damaged is told to Warn and left out. A segment that is of another
// cluster, or of another place than its name says, is an error.
//
// Source: FindStreamingStart in src/bin/pg_basebackup/pg_receivewal.c, PostgreSQL
// 18. That takes the segment with the highest number, of whatever timeline. Here it
// is the newest timeline: after a failover to a standby that was behind, the old
// timeline's last segments have higher numbers than the new one has for a while,
// and would be where to start again and again, which no server has any more.
func (d *Directory) Start() (start wal.Position, ok bool, err error) {
	if d.closed {
		return wal.Position{}, false, fs.ErrClosed
	}
	d.jobs.hold()
	defer d.jobs.release()
	d.gaps, d.tried = nil, wal.Segment{}
	entries, err := d.list(".")
	if err != nil {
		return wal.Position{}, false, err
	}
	isFirst := d.wrong == nil
	if isFirst {
		d.wrong = map[string]bool{}
	}
	for len(entries) > 0 {
		first := entries[len(entries)-1].segment.Timeline
		i := slices.IndexFunc(entries, func(e entry) bool { return e.segment.Timeline == first })
		if !ok {
			start, ok, err = d.startOn(entries[i:], isFirst)
		} else if isFirst {
			err = d.glanceAll(entries[i:])
		}
		if err != nil {
			return wal.Position{}, false, err
		}
		entries = entries[:i]
	}
	return start, ok, nil
}

// startOn is Start on one timeline, of which entries are all files. isFirst says that
// it is the first time, when the older files are looked at too.
func (d *Directory) startOn(entries []entry, isFirst bool) (start wal.Position, ok bool, err error) {
	size := d.o.SegmentSize
	newest, damaged, err := d.newest(entries)
	if err != nil {
		return wal.Position{}, false, err
	}
	next := uint64(0) // the segment to start with
	if newest >= 0 {
		next = entries[newest].segment.Number + 1
	}
	i := slices.IndexFunc(entries, func(e entry) bool { return e.partial && e.segment.Number >= next })
	switch {
	case i >= 0 && damaged >= 0 && entries[damaged].segment != d.givenUp && entries[damaged].segment.Number < entries[i].segment.Number:
		// The server may still have what is damaged here.
		d.tried = entries[damaged].segment
		next = d.tried.Number
	case i >= 0:
		next = entries[i].segment.Number
	case newest < 0:
		return wal.Position{}, false, nil
	}
	start = wal.Position{
		LSN:      wal.Segment{Number: next}.Start(size),
		Timeline: entries[0].segment.Timeline,
	}
	if newest < 0 {
		return start, true, nil
	}
	if err := d.rely(entries[newest]); err != nil {
		return wal.Position{}, false, err
	}
	entries = entries[:newest+1]
	if isFirst {
		if err := d.glanceAll(entries); err != nil {
			return wal.Position{}, false, err
		}
	}
	d.findGaps(entries, start)
	return start, true, nil
}

// GiveUp is told that the server has not the segment that Start returned. It says
// whether there is another to start with: if a damaged one was to be had again, what
// was received after it. The gap remains.
func (d *Directory) GiveUp() bool {
	tried := d.tried
	d.tried = wal.Segment{}
	if tried == (wal.Segment{}) {
		return false
	}
	d.givenUp = tried
	return true
}

// newest returns the index of the newest complete segment that is not damaged, and of
// the first damaged one after it; less than zero if there is none.
func (d *Directory) newest(entries []entry) (newest, damaged int, err error) {
	damaged = -1
	for i, e := range slices.Backward(entries) {
		if e.partial {
			continue
		}
		damage, err := d.inspect(e)
		if err != nil {
			return 0, 0, err
		}
		if damage == nil {
			return i, damaged, nil
		}
		damaged = i
		d.notice(fmt.Errorf("%w, skipping", damage))
	}
	return -1, damaged, nil
}

// rely makes a file durable that something else will be let go of for, be it here or
// by the server: whoever wrote it may not have come to that.
func (d *Directory) rely(e entry) error {
	f, err := d.disk.open(e.name)
	if err != nil {
		return err
	}
	if err := errors.Join(d.syncFile(f), f.Close()); err != nil {
		return err
	}
	return d.syncNames()
}

// A Gap is a number of segments that are missing between others.
type Gap struct{ First, Last string } // names of segments

func (g Gap) String() string {
	if g.First == g.Last {
		return "segment " + g.First
	}
	return "segments " + g.First + " to " + g.Last
}

// Gaps returns what is missing between the complete segments of the timeline that
// Start has chosen, and between them and where it starts. Warn was told of them.
func (d *Directory) Gaps() []Gap { return slices.Clone(d.gaps) }

// findGaps notes the gaps between complete segments, and up to start.
func (d *Directory) findGaps(entries []entry, start wal.Position) {
	size := d.o.SegmentSize
	next := uint64(0)
	missing := func(upto uint64) {
		if next == 0 || next >= upto {
			return
		}
		name := func(n uint64) string { return wal.Segment{Timeline: start.Timeline, Number: n}.Name(size) }
		gap := Gap{name(next), name(upto - 1)}
		d.gaps = append(d.gaps, gap)
		d.notice(usererr.Hinted("a server cannot be restored through a gap: take a new backup if the log cannot be had from elsewhere",
			`write-ahead log is missing in "%s": %v`, d.o.Path, gap))
	}
	for _, e := range entries {
		if !e.partial && !d.wrong[e.name] {
			missing(e.segment.Number)
			next = e.segment.Number + 1
		}
	}
	missing(wal.SegmentAt(start, size).Number)
}

// End returns up to where there is log from Start's segment on: to the end of the
// last whole valid record of the partial segment, or to the segment's beginning. It
// returns false if there is nothing at all.
func (d *Directory) End() (wal.Position, bool, error) {
	start, ok, err := d.Start()
	if !ok || err != nil {
		return start, ok, err
	}
	d.jobs.hold()
	defer d.jobs.release()
	seg := wal.SegmentAt(start, d.o.SegmentSize)
	end := start
	for method := seal.None; method <= seal.Zstd; method++ {
		e, _ := parseEntry(seg.Name(d.o.SegmentSize)+seal.Suffix(method)+partialSuffix, d.o.SegmentSize)
		if found, err := d.exists(&e); err != nil || !found {
			if err != nil {
				return end, false, err
			}
			continue
		}
		r, err := d.reader(e)
		if err != nil {
			return end, false, err
		}
		at, err := lastRecord(&measured{r: r}, start.LSN, d.o.SegmentSize, nil)
		if err := errors.Join(err, r.Close()); err != nil {
			return end, false, err
		}
		end.LSN = max(end.LSN, at)
	}
	return end, true, nil
}

// glanceAll tells of complete segments whose size is wrong as far as that is seen
// without reading them.
func (d *Directory) glanceAll(entries []entry) error {
	for _, e := range entries {
		damage, err := d.glance(e)
		if err != nil {
			return err
		}
		if damage != nil {
			d.wrong[e.name] = true
			d.notice(fmt.Errorf("%w, skipping", damage))
		}
	}
	return nil
}

// glance returns what is wrong with the size of a complete segment. How long one of
// lz4 or zstd is decompressed, no part of it says.
func (d *Directory) glance(e entry) (damage, err error) {
	switch {
	case e.partial:
	case e.method == seal.None && e.bytes != d.o.SegmentSize:
		return fmt.Errorf(`segment file "%s" has incorrect size %d`, e.name, e.bytes), nil
	case e.method == seal.Gzip:
		size, err := d.gzipSize(e)
		if err == nil && size != d.o.SegmentSize {
			return incorrectSize(e, size), nil
		}
		return nil, err
	case e.method != seal.None && e.bytes == 0:
		return incorrectSize(e, 0), nil
	}
	return nil, nil
}

func incorrectSize(e entry, size int64) error {
	return fmt.Errorf(`compressed segment file "%s" has incorrect uncompressed size %d`, e.name, size)
}

// gzipSize returns the size that a gzip file's end tells, in bytes. What is too short
// to have one has none.
//
// Source: ISIZE in RFC 1952.
func (d *Directory) gzipSize(e entry) (int64, error) {
	const isize = 4 // bytes
	if e.bytes < isize {
		return 0, nil
	}
	f, err := d.disk.open(e.name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var end [isize]byte
	if _, err := f.ReadAt(end[:], e.bytes-isize); err != nil {
		return 0, err
	}
	return int64(binary.LittleEndian.Uint32(end[:])), nil
}

// inspect returns what is wrong with a complete segment, of which a compressed one
// is read whole. What is no damage, but does not belong here, is an error.
func (d *Directory) inspect(e entry) (damage, err error) {
	if damage, err := d.glance(e); damage != nil || err != nil {
		return damage, err
	}
	if e.method != seal.None {
		r, err := d.reader(e)
		if err != nil {
			return nil, err
		}
		n, damage := io.Copy(io.Discard, io.LimitReader(r, d.o.SegmentSize+1))
		switch err := r.Close(); {
		case err != nil:
			return nil, err
		case damage != nil:
			return fmt.Errorf(`compressed segment file "%s" is damaged: %w`, e.name, damage), nil
		case n != d.o.SegmentSize:
			return incorrectSize(e, n), nil
		}
	}
	return d.checkFirstPage(e)
}

// How many bytes are looked at to know a segment by its first page, and how many the
// page's header has, less zeros at its end.
//
// Source: SizeOfXLogLongPHD in src/include/access/xlog_internal.h, PostgreSQL 18.
const (
	firstPage   = 512
	firstHeader = 38
)

// checkFirstPage looks at what the first page of a file says about itself: log of
// another cluster or place is an error. What is no page of any log is damage. In a
// partial file it may be missing.
func (d *Directory) checkFirstPage(e entry) (damage, err error) {
	page, damage, err := d.readFile(e, firstPage)
	switch {
	case err != nil:
		return nil, err
	case damage != nil && (!e.partial || !errors.Is(damage, io.ErrUnexpectedEOF)):
		return fmt.Errorf(`segment file "%s" is damaged: %w`, e.name, damage), nil
	case len(page) < firstPage || len(bytes.TrimRight(page, "\x00")) < firstHeader:
		if e.partial {
			return nil, nil // not received yet, or lost in a crash
		}
		return fmt.Errorf(`segment file "%s" begins with zeros`, e.name), nil
	}
	start := e.segment.Start(d.o.SegmentSize)
	rules := wal.PageRules{
		SystemID:    d.o.SystemID,
		SegmentSize: d.o.SegmentSize,
		Timeline:    e.segment.Timeline,
		History:     d.history(e.segment.Timeline),
	}
	wrong := wal.NewPageChecker(rules, start).Check(page)
	if wrong == nil {
		return nil, nil
	}
	if page := (*wal.PageError)(nil); errors.As(wrong, &page) && page.NoPage {
		return fmt.Errorf(`segment file "%s" holds no write-ahead log: %w`, e.name, wrong), nil
	}
	return nil, inTheWay("the directory is one of another cluster, or the file was renamed: choose another directory, or move the file away",
		`segment file "%s" does not belong here: %w`, d.path(e.name), wrong)
}

// maxHistory bounds, in bytes, what is read of a history file.
const maxHistory = 1 << 20

// KeptHistory returns the history of a timeline, if its file is here.
func (d *Directory) KeptHistory(t wal.Timeline) (wal.History, bool) {
	history := d.history(t)
	return history, history != nil
}

// history returns where a timeline comes from, as far as that is known here.
func (d *Directory) history(t wal.Timeline) wal.History {
	for method := seal.None; method <= seal.Zstd; method++ {
		content, damage, err := d.readFile(entry{name: wal.HistoryName(t) + seal.Suffix(method), method: method}, maxHistory)
		if damage != nil || err != nil {
			continue
		}
		if history, err := wal.ParseHistory(t, content); err == nil {
			return history
		}
	}
	return nil
}
