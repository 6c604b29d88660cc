package live

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/wal"
)

// ranges returns the log that the backup needs, the newest timeline first.
//
// Source: AddWALInfoToBackupManifest in src/backend/backup/backup_manifest.c, PostgreSQL 18.
func (s *Source) ranges() ([]manifest.Range, error) {
	history, err := s.history(s.end.Timeline)
	if err != nil {
		return nil, err
	}
	var ranges []manifest.Range
	end := s.end.LSN
	for _, l := range lines(s.end.Timeline, history) {
		switch {
		case l.end != 0 && l.end < s.start.Position.LSN:
			continue
		case l.timeline == s.start.Position.Timeline:
			return append(ranges, manifest.Range{Timeline: l.timeline, Start: s.start.Position.LSN, End: end}), nil
		case l.begin == 0:
			return nil, failed(codeState, "expected start timeline %d but found timeline %d", s.start.Position.Timeline, l.timeline)
		}
		ranges = append(ranges, manifest.Range{Timeline: l.timeline, Start: l.begin, End: end})
		end = l.begin
	}
	return nil, failed(codeState, "start timeline %d not found in history of timeline %d", s.start.Position.Timeline, s.end.Timeline)
}

// logFiles returns the names of the segments that the backup needs, in the order of the log,
// and of all histories of timelines.
//
// Source: perform_base_backup in src/backend/backup/basebackup.c, PostgreSQL 18.
func (s *Source) logFiles() (segments, histories []string, err error) {
	dir := s.path(logPath)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, localfs.Errorf(err, dir, "could not open directory \"%s\"", logPath)
	}
	size := s.cluster.segmentSize
	first := wal.SegmentAt(s.start.Position, size)
	last := wal.SegmentAt(wal.Position{LSN: s.end.LSN - 1, Timeline: s.end.Timeline}, size)
	var found []wal.Segment
	for _, e := range entries {
		if segment, err := wal.ParseSegment(e.Name(), size); err == nil && segment.Number >= first.Number && segment.Number <= last.Number {
			found = append(found, segment)
		} else if t, ok := strings.CutSuffix(e.Name(), ".history"); ok && len(t) == 8 && strings.Trim(t, "0123456789ABCDEF") == "" {
			histories = append(histories, e.Name())
		}
	}
	slices.SortStableFunc(found, func(a, b wal.Segment) int {
		if a.Number != b.Number {
			return int(int64(a.Number) - int64(b.Number))
		}
		return int(int64(a.Timeline) - int64(b.Timeline))
	})
	next := first.Number
	for _, segment := range found {
		if segment.Number > next {
			break
		}
		next = segment.Number + 1
		segments = append(segments, segment.Name(size))
	}
	if next != last.Number+1 {
		missing := wal.Segment{Timeline: s.end.Timeline, Number: next}
		return nil, nil, failed(codeUndefinedFile, "could not find WAL file \"%s\"", missing.Name(size))
	}
	return segments, histories, nil
}

// holdLog has the log come next, with what says that it need not be archived.
func (s *Source) holdLog() error {
	segments, histories, err := s.logFiles()
	if err != nil {
		return err
	}
	for _, name := range segments {
		s.held = append(s.held, held{open: func(ctx context.Context) (backup.Member, io.Reader, error) { return s.openLog(ctx, name, true) }}, s.doneFile(name))
	}
	for _, name := range histories {
		s.held = append(s.held, held{open: func(ctx context.Context) (backup.Member, io.Reader, error) { return s.openLog(ctx, name, false) }}, s.doneFile(name))
	}
	return nil
}

// doneFile is what says that a file of the log is archived.
//
// Source: StatusFilePath in src/include/access/xlog_internal.h, PostgreSQL 18.
func (s *Source) doneFile(name string) held {
	return s.small(logPath+"/archive_status/"+name+".done", nil)
}

// openLog opens a file of the log. A manifest has no segments, but histories.
func (s *Source) openLog(ctx context.Context, name string, isSegment bool) (m backup.Member, r io.Reader, err error) {
	within := logPath + "/" + name
	here := s.path(within)
	opened, info, err := localfs.OpenRegularHere(here)
	if err != nil {
		return m, nil, &stateError{localfs.Errorf(err, here, "could not open file \"%s\"", within), codeUndefinedFile}
	}
	w := walker{source: s}
	m = w.member(within, backup.File, info)
	m.Size = info.Size()
	if isSegment && m.Size != s.cluster.segmentSize {
		return m, nil, errors.Join(failed(codeUndefinedFile, "unexpected WAL file size \"%s\"", name), opened.Close())
	}
	f := s.newFile(m, opened, within)
	if f.isWAL = isSegment; isSegment {
		f.listed, f.sum = "", nil
	}
	direct := f.direct(ctx, func() {})
	s.open = direct
	return m, direct, nil
}
