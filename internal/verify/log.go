package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Log reads the log that a restore needs, from a directory such as pg_wal: all records
// of each range of the manifest have to be there, whole and valid. It understands the
// log of any server from 10 to 18.
func (v *Verifier) Log(ctx context.Context, dir string) error {
	return v.eachRange(ctx, func(r manifest.Range) error {
		size, err := segmentSize(dir)
		if err != nil {
			return err
		}
		s := &segments{ctx: ctx, dir: dir, size: size, ranges: v.manifest.Ranges}
		s.next = wal.SegmentAt(wal.Position{LSN: r.Start, Timeline: r.Timeline}, size)
		s.last = wal.SegmentAt(wal.Position{LSN: r.End - 1, Timeline: r.Timeline}, size)
		defer s.close()
		return v.readRange(s, size, r)
	})
}

// eachRange has each range of the manifest read, and tells of those that cannot be.
func (v *Verifier) eachRange(ctx context.Context, read func(manifest.Range) error) error {
	for _, r := range v.manifest.Ranges {
		err := fmt.Errorf("it is needed from %v to %v, which is not behind that", r.Start, r.End)
		if r.Start < r.End {
			err = read(r)
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			continue
		}
		hint := usererr.Hint(err)
		if errors.Is(err, fs.ErrNotExist) {
			hint = "If the log is kept elsewhere, name the place with -w; to leave the log out, use -n."
		}
		err = v.problem(&usererr.Error{
			Err:    fmt.Errorf("WAL parsing failed for timeline %d", r.Timeline),
			Detail: err.Error(), Hint: hint,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readRange reads the records of a range, and returns why it cannot read all of them.
// log yields it from the beginning of the segment in which it starts.
func (v *Verifier) readRange(log io.Reader, size int64, r manifest.Range) error {
	start := wal.SegmentAt(wal.Position{LSN: r.Start}, size).Start(size)
	rules := wal.PageRules{SystemID: v.manifest.SystemID, SegmentSize: size, Timeline: r.Timeline}
	records := wal.NewRecordReader(&checkedLog{log, wal.NewPageChecker(rules, start), r.End}, start, size)
	for begun := false; ; {
		record, err := records.Next()
		switch {
		case err == io.EOF && records.Reason() != nil:
			return fmt.Errorf("after %v: %w", records.End(), records.Reason())
		case err == io.EOF:
			return fmt.Errorf("the log ends at %v, and is needed up to %v", records.End(), r.End)
		case err != nil:
			return err
		case record.LSN < r.Start:
			continue
		case !begun && record.LSN != r.Start && !followsHeader(record.LSN, r.Start):
			return fmt.Errorf("no record begins at %v; the first after it is at %v", r.Start, record.LSN)
		}
		begun = true
		if record.End >= r.End {
			return nil
		}
	}
}

// followsHeader says whether there is nothing but the header of a page between a position
// and a record, as where a timeline begins at the end of a segment.
//
// Source: SizeOfXLogShortPHD and SizeOfXLogLongPHD in src/include/access/xlog_internal.h, PostgreSQL 18.
func followsHeader(record, position wal.LSN) bool {
	const shortHeader, longHeader = 24, 40
	between := record - position
	return position%pgdata.PageSize == 0 && (between == shortHeader || between == longHeader)
}

// checkedLog is log whose pages are those of the cluster and the timeline, up to an end.
type checkedLog struct {
	log     io.Reader
	checker *wal.PageChecker
	end     wal.LSN
}

func (l *checkedLog) Read(p []byte) (int, error) {
	n, err := l.log.Read(p)
	if at := l.checker.Position(); at < l.end {
		if wrong := l.checker.Check(p[:min(uint64(n), uint64(l.end-at))]); wrong != nil {
			return 0, wrong
		}
	}
	return n, err
}

// segmentSize returns how long segments are, which any of them tells.
func segmentSize(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
	}
	var misfit error
	for _, e := range entries {
		if _, err := wal.ParseSegment(e.Name(), wal.MinSegmentSize); err != nil {
			continue
		}
		path := dir + "/" + e.Name()
		info, err := os.Stat(path)
		switch {
		case err != nil:
			misfit = localfs.Errorf(err, path, "could not stat file \"%s\"", path)
		case !info.Mode().IsRegular():
			misfit = fmt.Errorf("\"%s\" is not a regular file", path)
		case !wal.ValidSegmentSize(info.Size()):
			misfit = fmt.Errorf("file \"%s\" has %d bytes, which no segment has", path, info.Size())
		default:
			return info.Size(), nil
		}
	}
	if misfit != nil {
		return 0, misfit
	}
	return 0, fmt.Errorf("no segment of write-ahead log is in \"%s\": %w", dir, fs.ErrNotExist)
}

// segments reads segments one after the other.
type segments struct {
	ctx        context.Context
	dir        string
	size       int64
	ranges     []manifest.Range // whose timelines may have a segment too
	next, last wal.Segment
	file       *os.File
}

func (s *segments) Read(p []byte) (int, error) {
	for {
		if s.ctx.Err() != nil {
			return 0, context.Cause(s.ctx)
		}
		if s.file == nil {
			if s.next.Number > s.last.Number {
				return 0, io.EOF
			}
			if err := s.open(); err != nil {
				return 0, err
			}
			s.next.Number++
		}
		n, err := s.file.Read(p)
		if err != nil && err != io.EOF {
			return n, localfs.Errorf(err, s.file.Name(), "could not read file \"%s\"", s.file.Name())
		}
		if err == io.EOF {
			s.close()
		}
		if n > 0 {
			return n, nil
		}
	}
}

// open opens the next segment. The one that a timeline was left in may be there only as
// the first of another, which begins with the same log.
func (s *segments) open() error {
	path := s.dir + "/" + s.next.Name(s.size)
	f, info, err := localfs.OpenRegular(path)
	for _, r := range s.ranges {
		if !errors.Is(err, fs.ErrNotExist) || r.Timeline <= s.next.Timeline {
			continue
		}
		other := wal.Segment{Timeline: r.Timeline, Number: s.next.Number}
		if also, itsInfo, otherErr := localfs.OpenRegular(s.dir + "/" + other.Name(s.size)); otherErr == nil {
			f, info, err = also, itsInfo, nil
		}
	}
	if err != nil {
		return localfs.Errorf(err, path, "could not open file \"%s\"", path)
	}
	if info.Size() != s.size {
		return errors.Join(fmt.Errorf("file \"%s\" has not the %d bytes of a segment", f.Name(), s.size), f.Close())
	}
	s.file = f
	return nil
}

func (s *segments) close() {
	if s.file != nil {
		_ = s.file.Close() // was only read
		s.file = nil
	}
}
