package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// beginAs gives the backup what it is known by as the one that it is.
func (s *Sink) beginAs() {
	if as := s.o.As; as != nil {
		s.commit.ID, s.commit.Label, s.commit.Damaged = as.ID, as.Label, as.Damaged
		s.commit.Began, s.commit.FullScan, s.commit.Configuration = as.Began, as.FullScan, as.Configuration
	}
}

// asThere is the error of a backup whose identifier is used already.
func (s *Sink) asThere() error {
	return usererr.Hinted("If another did the same at the same time, it is there; basin list shows it. Else this host slept: do it again.",
		"backup %s is there already, or was given up meanwhile", s.commit.ID)
}

// takeAs gives the backup what it keeps of the one that it is.
func (s *Sink) takeAs() error {
	as := s.o.As
	if as == nil {
		return nil
	}
	if as.Files > 0 && (as.Files != s.commit.Files || as.Size != s.commit.Size) {
		return fmt.Errorf("backup %s has %d files of %d bytes, and %d of %d came", as.ID, as.Files, as.Size, s.commit.Files, s.commit.Size)
	}
	s.commit.Ended = as.Ended
	if len(as.Ranges) > 0 {
		s.commit.Ranges = slices.Clone(as.Ranges)
	}
	return nil
}

// emptyObject is how many bytes an object of one frame has that has no content: the commit of a
// backup that was given up.
const emptyObject = seal.HeadSize + 17

// Places is which identifiers of backups are used in a repository.
type Places struct {
	There   []string // of backups that are there, sorted
	GivenUp []string // of such that were begun, and will never be there; sorted
}

// Places returns which identifiers are used. Unlike Backups it reads no backup, and needs no key.
func (c *Cluster) Places(ctx context.Context) (Places, error) {
	var p Places
	prefix := c.below("backups/")
	for info, err := range c.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return p, err
		}
		id, ok := strings.CutSuffix(strings.TrimPrefix(info.Name, prefix), "/commit")
		switch {
		case !ok:
		case info.Size <= emptyObject:
			p.GivenUp = append(p.GivenUp, id)
		default:
			p.There = append(p.There, id)
		}
	}
	slices.Sort(p.There)
	slices.Sort(p.GivenUp)
	return p, nil
}

// Of returns the identifier that a backup of another place has here, which is its own; and whether it is there. If it
// was begun here and given up, so that its own cannot be used any more, it is one that follows from it.
func (p Places) Of(id string) (as string, isThere bool) {
	as = id
	for number := 1; ; number++ {
		if _, isGivenUp := slices.BinarySearch(p.GivenUp, as); !isGivenUp {
			break
		}
		as = deriveID(id, number)
	}
	_, isThere = slices.BinarySearch(p.There, as)
	return as, isThere
}

// deriveID returns an identifier that follows from another one, of the same time.
func deriveID(id string, number int) string {
	began, _, _ := strings.Cut(id, "-")
	sum := sha256.Sum256(fmt.Appendf(nil, "basin backup %s %d", id, number))
	return fmt.Sprintf("%s-%x", began, sum[:4])
}

// CopyLogOptions say which files of the log are copied. The zero value copies all.
type CopyLogOptions struct {
	// For, if not nil, is a backup that the log is copied for: what it cannot be restored without.
	For *Commit
	// From is where the log begins that is copied, on all timelines, if there is no For; zero is where
	// there is any. SegmentSize is in bytes; zero is that which initdb chooses.
	From        wal.LSN
	SegmentSize int64
	DryRun      bool // nothing is changed
	// Copied, if not nil, is told each file that was copied, or would be, and how many bytes it has,
	// zero with DryRun.
	Copied func(name string, size int64)
}

// CopyLogReport says what log was copied, or would be with DryRun.
type CopyLogReport struct {
	Files int   // that were copied
	Bytes int64 // of their content; zero with DryRun
}

// CopyLog copies files of the log from another repository that are not there by their names: of each timeline
// first its history, then the segments, oldest first. What it reads is compared with what was pushed. Of a segment
// that is whole no parts are copied. Files that are in both are not compared. Behind a file that is damaged, or
// that the other has with another content, it goes on, unless it is for a backup.
func (c *Cluster) CopyLog(ctx context.Context, from *Cluster, o CopyLogOptions) (CopyLogReport, error) {
	l := logCopy{to: c, from: from, o: o}
	stretches, err := l.stretches(ctx)
	for _, s := range stretches {
		if err == nil {
			err = l.copy(ctx, s)
		}
	}
	return l.report, errors.Join(append(l.problems, err)...)
}

// logCopy is log on its way from one repository to another.
type logCopy struct {
	to, from *Cluster
	o        CopyLogOptions
	report   CopyLogReport
	problems []error // of files, behind which others were copied all the same
	sized    string  // name of the segment of which size is known
	size     int64   // of that, in bytes
}

// stretch is segments of a timeline that follow each other.
type stretch struct {
	timeline    wal.Timeline
	first, last string // names of segments; empty is where the log begins, and ends
}

// stretches returns what is copied, in order.
func (l *logCopy) stretches(ctx context.Context) (all []stretch, err error) {
	k := l.o.For
	if k == nil {
		timelines, err := l.from.Timelines(ctx)
		if err != nil {
			return nil, err
		}
		for _, t := range timelines {
			s := stretch{timeline: t}
			if l.o.From > 0 {
				size := cmp.Or(l.o.SegmentSize, wal.DefaultSegmentSize)
				s.first = wal.SegmentAt(wal.Position{LSN: l.o.From, Timeline: t}, size).Name(size)
			}
			all = append(all, s)
		}
		return all, nil
	}
	if !wal.ValidSegmentSize(k.SegmentSize) || k.Stop.LSN <= k.Start.LSN {
		return nil, fmt.Errorf("backup %s: from %v to %v, in segments of %d bytes", k.ID, k.Start.LSN, k.Stop.LSN, k.SegmentSize)
	}
	history, err := l.from.History(ctx, k.Stop.Timeline)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	first := wal.SegmentAt(k.Start, k.SegmentSize).Number
	last := wal.SegmentAt(wal.Position{LSN: k.Stop.LSN - 1}, k.SegmentSize).Number
	for _, b := range slices.Backward(branches(k.Stop.Timeline, history, k.SegmentSize)) {
		begin := wal.Segment{Timeline: b.timeline, Number: max(first, b.first)}
		end := wal.Segment{Timeline: b.timeline, Number: min(last, b.last)}
		if begin.Number <= end.Number {
			all = append(all, stretch{b.timeline, begin.Name(k.SegmentSize), end.Name(k.SegmentSize)})
		}
	}
	return all, nil
}

// copy copies what is not there of a stretch.
func (l *logCopy) copy(ctx context.Context, s stretch) error {
	if s.timeline > 1 {
		if err := l.history(ctx, wal.HistoryName(s.timeline)); err != nil {
			return err
		}
	}
	next, stop := iter.Pull2(l.to.LogNames(ctx, s.timeline, s.first))
	defer stop()
	have, err, more := next()
	whole := "-" // the last that was seen
	for name, problem := range l.from.LogNames(ctx, s.timeline, s.first) {
		switch {
		case problem != nil:
			return problem
		case isHistory(name):
			continue
		case s.last != "" && name[:24] > s.last:
			return nil
		case IsSegment(name):
			whole = name
		case strings.HasPrefix(name, whole+".part"):
			continue
		}
		for more && err == nil && (have < name || isHistory(have)) {
			have, err, more = next()
		}
		if more && err != nil {
			return err
		}
		if more && have == name {
			continue
		}
		err := l.file(ctx, name)
		if _, isPart := parseLogPart(name); isPart && errors.Is(err, fs.ErrNotExist) {
			err = l.instead(ctx, name[:24]) // prune has removed it meanwhile, since it is in others
		}
		if l.o.For == nil && ctx.Err() == nil && (errors.Is(err, seal.ErrDamaged) || errors.Is(err, fs.ErrExist)) {
			l.problems = append(l.problems, err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// instead copies a segment of which a part has gone. If that is not there either, a longer part is, which follows, or came too
// late to be copied this time.
func (l *logCopy) instead(ctx context.Context, segment string) error {
	err := l.file(ctx, segment)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = l.from.LongestPartial(ctx, segment)
	}
	return err
}

// history copies the history of a timeline, if there is one.
func (l *logCopy) history(ctx context.Context, name string) error {
	var there [2]bool
	for i, c := range []*Cluster{l.from, l.to} {
		at, err := c.logName(name)
		if err != nil {
			return err
		}
		for info, err := range c.repo.store.List(ctx, at, "") {
			if err != nil {
				return err
			}
			there[i] = there[i] || info.Name == at
		}
	}
	if !there[0] || there[1] {
		return nil
	}
	return l.file(ctx, name)
}

// segmentSize returns how many bytes the segment has that a file is of. A part that does not begin with it does not
// tell; then the first one does.
func (l *logCopy) segmentSize(ctx context.Context, name string, content []byte) (int64, error) {
	if l.sized == name[:24] {
		return l.size, nil
	}
	size, ok := wal.SegmentSize(content)
	if p, isPart := parseLogPart(name); isPart && p.from > 0 {
		parts, _, err := l.from.segmentParts(ctx, p.segment)
		if err != nil {
			return 0, err
		}
		ok = false
		for _, first := range parts {
			if first.from > 0 || ok {
				continue
			}
			begin, err := l.from.logFile(ctx, first.name)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, seal.ErrDamaged) {
				return 0, fmt.Errorf("read %s: %w", first.name, err)
			}
			size, ok = wal.SegmentSize(begin)
		}
	}
	if !ok {
		size = cmp.Or(l.o.SegmentSize, wal.DefaultSegmentSize)
		if l.o.For != nil {
			size = l.o.For.SegmentSize
		}
	}
	l.sized, l.size = name[:24], size
	return size, nil
}

// file copies a file.
func (l *logCopy) file(ctx context.Context, name string) error {
	size := 0
	if !l.o.DryRun {
		content, err := l.from.Log(ctx, name)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		segment := int64(0)
		if !IsSegment(name) && isOfSegment(name) {
			if segment, err = l.segmentSize(ctx, name, content); err != nil {
				return err
			}
		}
		if err := l.to.PushLog(ctx, name, content, segment); err != nil {
			return err
		}
		size = len(content)
	}
	l.report.Files++
	l.report.Bytes += int64(size)
	if l.o.Copied != nil {
		l.o.Copied(name, int64(size))
	}
	return nil
}
