package live

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/wal"
)

// parent is the backup that this one is to be laid over, and what has changed since.
type parent struct {
	catalog *manifest.Catalog
	start   wal.Position // where it began
	changes pgdata.BlockChanges
}

// checkParent sees, before the backup begins, that it can be an incremental one.
//
// Source: src/backend/backup/basebackup.c and basebackup_incremental.c, PostgreSQL 18.
func (s *Source) checkParent() error {
	m := s.o.Parent
	switch {
	case m == nil:
		return nil
	case s.cluster.version < version17:
		return explained(codeState, "", "PostgreSQL 17 is the first that has incremental backups.", "server version %d does not support incremental backup", s.cluster.major())
	case m.Version == 1:
		return failed(codeState, "backup manifest version 1 does not support incremental backup")
	case m.SystemID != s.cluster.systemID:
		return failed(codeState, "system identifier in backup manifest is %d, but database system identifier is %d", m.SystemID, s.cluster.systemID)
	case !s.cluster.summarizes:
		return failed(codeState, "incremental backups cannot be taken unless WAL summarization is enabled")
	case len(m.Ranges) == 0:
		return failed(codeState, "manifest contains no required WAL ranges")
	}
	return nil
}

// findChanges finds out, once the backup has begun, what has changed since its parent did.
//
// Source: PrepareForIncrementalBackup in src/backend/backup/basebackup_incremental.c, PostgreSQL 18.
func (s *Source) findChanges(ctx context.Context) error {
	if s.o.Parent == nil {
		return nil
	}
	history, err := s.history(s.start.Position.Timeline)
	if err != nil {
		return err
	}
	all := lines(s.start.Position.Timeline, history)
	p := &parent{catalog: s.o.Parent}
	if p.start, err = checkRanges(s.o.Parent.Ranges, all, s.start.Position.LSN); err != nil {
		return err
	}
	if err := s.waitSummaries(ctx); err != nil {
		return err
	}
	files, err := s.summaries(p.start.LSN)
	if err != nil {
		return err
	}
	needed, err := neededSummaries(files, all, p.start, s.start.Position.LSN)
	if err != nil {
		return err
	}
	for _, file := range needed {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := s.readSummary(&p.changes, file); err != nil {
			return err
		}
	}
	s.parent = p
	return nil
}

// checkRanges sees that the log that the parent needs is in the history of this backup, and
// before its start. It returns where the parent began.
func checkRanges(ranges []manifest.Range, all []line, start wal.LSN) (wal.Position, error) {
	places := make([]int, len(ranges)) // in all
	earliest, latest := 0, 0
	for i, r := range ranges {
		places[i] = slices.IndexFunc(all, func(l line) bool { return l.timeline == r.Timeline })
		switch {
		case places[i] < 0:
			return wal.Position{}, failed(codeState, "timeline %d found in manifest, but not in this server's history", r.Timeline)
		case places[i] > places[earliest]:
			earliest = i
		case places[i] < places[latest]:
			latest = i
		}
	}
	for i, r := range ranges {
		l := all[places[i]]
		switch {
		case r.Timeline == ranges[earliest].Timeline && r.Start < l.begin:
			return wal.Position{}, failed(codeState, "manifest requires WAL from initial timeline %d starting at %v, but that timeline begins at %v", r.Timeline, r.Start, l.begin)
		case r.Timeline != ranges[earliest].Timeline && r.Start != l.begin:
			return wal.Position{}, failed(codeState, "manifest requires WAL from continuation timeline %d starting at %v, but that timeline begins at %v", r.Timeline, r.Start, l.begin)
		case r.Timeline == ranges[latest].Timeline && r.End > start:
			return wal.Position{}, explained(codeState, "", "This can happen for incremental backups on a standby if there was little activity since the previous backup.",
				"manifest requires WAL from final timeline %d ending at %v, but this backup starts at %v", r.Timeline, r.End, start)
		case r.Timeline == ranges[latest].Timeline && l.end != 0 && r.End > l.end:
			// The server does not see this. What the parent has of that log is not undone by the log of the next timeline.
			return wal.Position{}, failed(codeState, "manifest requires WAL from final timeline %d ending at %v, but this server switched timelines at %v", r.Timeline, r.End, l.end)
		case r.Timeline != ranges[latest].Timeline && r.End != l.end:
			return wal.Position{}, failed(codeState, "manifest requires WAL from non-final timeline %d ending at %v, but this server switched timelines at %v", r.Timeline, r.End, l.end)
		}
	}
	return wal.Position{LSN: ranges[earliest].Start, Timeline: ranges[earliest].Timeline}, nil
}

// How the server is waited for.
//
// Source: WaitForWalSummarization in src/backend/postmaster/walsummarizer.c, PostgreSQL 18.
const (
	summaryInterval = 50 * time.Millisecond
	summaryCycle    = 10 * time.Second
	summaryCycles   = 6 // without any progress
)

// waitSummaries waits until the server has summaries of all up to the start. If it stops to make
// some, that is seen later.
func (s *Source) waitSummaries(ctx context.Context) error {
	need := s.start.Position.LSN
	begun := time.Now()
	cycle, dead, last := begun, 0, wal.LSN(0)
	for {
		row, err := s.row(ctx, "SELECT pg_catalog.current_setting('summarize_wal'), summarized_lsn, pending_lsn FROM pg_catalog.pg_get_wal_summarizer_state()")
		if err != nil {
			return err
		}
		summarized, err := wal.ParseLSN(row[1])
		if err != nil {
			return err
		}
		pending, err := wal.ParseLSN(row[2])
		if err != nil {
			return err
		}
		if row[0] != "on" || summarized >= need {
			return nil
		}
		if now := time.Now(); now.Sub(cycle) >= summaryCycle {
			cycle = cycle.Add(summaryCycle)
			if dead++; pending > last {
				dead, last = 0, pending
			}
			if dead >= summaryCycles {
				return explained(codeState, "Summarization is needed through "+need.String()+", but is stuck at "+summarized.String()+" on disk and "+pending.String()+" in memory.", "",
					"WAL summarization is not progressing")
			}
			n := warning("still waiting for WAL summarization through %v after %d seconds", need, int(now.Sub(begun).Seconds()))
			n.Code, n.Detail = codeState, "Summarization has reached "+summarized.String()+" on disk and "+pending.String()+" in memory."
			s.o.notify(n)
		}
		select {
		case <-time.After(summaryInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

const summariesPath = logPath + "/summaries"

// summaries lists the summaries of what is between a position and the start of the backup.
func (s *Source) summaries(from wal.LSN) (files []pgdata.SummaryFile, err error) {
	dir := s.path(summariesPath)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, localfs.Errorf(err, dir, "could not open directory \"%s\"", summariesPath)
	}
	for _, e := range entries {
		if f, ok := pgdata.ParseSummaryName(e.Name()); ok && f.End > from && f.Start < s.start.Position.LSN {
			files = append(files, f)
		}
	}
	return files, nil
}

// neededSummaries returns those of the summaries that tell all that has changed between two
// positions, in the order of the log. all are the timelines that lead to the end, the newest
// first.
func neededSummaries(files []pgdata.SummaryFile, all []line, from wal.Position, to wal.LSN) (needed []pgdata.SummaryFile, err error) {
	oldest := slices.IndexFunc(all, func(l line) bool { return l.timeline == from.Timeline })
	for i := oldest; i >= 0; i-- {
		l := all[i]
		if i == oldest {
			l.begin = from.LSN
		}
		if i == 0 {
			l.end = to
		}
		ofLine := summariesOf(files, l)
		missing := firstMissing(ofLine, l)
		switch {
		case missing == l.end:
		case len(ofLine) == 0:
			return nil, failed(codeState, "WAL summaries are required on timeline %d from %v to %v, but no summaries for that timeline and LSN range exist", l.timeline, l.begin, l.end)
		default:
			return nil, explained(codeState, "The first unsummarized LSN in this range is "+missing.String()+".", "",
				"WAL summaries are required on timeline %d from %v to %v, but the summaries for that timeline and LSN range are incomplete", l.timeline, l.begin, l.end)
		}
		needed = append(needed, ofLine...)
	}
	return needed, nil
}

// summariesOf returns the summaries of a timeline, in the order of the log.
func summariesOf(files []pgdata.SummaryFile, l line) (of []pgdata.SummaryFile) {
	for _, f := range files {
		if f.Timeline == l.timeline && f.End >= l.begin && f.Start <= l.end {
			of = append(of, f)
		}
	}
	slices.SortFunc(of, func(a, b pgdata.SummaryFile) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
	return of
}

// firstMissing returns up to where sorted summaries cover a timeline.
//
// Source: WalSummariesAreComplete in src/backend/backup/walsummary.c, PostgreSQL 18.
func firstMissing(files []pgdata.SummaryFile, l line) wal.LSN {
	covered := l.begin
	for _, f := range files {
		if f.Start > covered {
			break
		}
		covered = max(covered, f.End)
	}
	return min(covered, l.end)
}

// readSummary adds what a summary says.
func (s *Source) readSummary(changes *pgdata.BlockChanges, file pgdata.SummaryFile) error {
	name := summariesPath + "/" + file.Name()
	f, err := os.Open(s.path(name))
	if err != nil {
		return localfs.Errorf(err, s.path(name), "could not open file \"%s\"", name)
	}
	defer f.Close()
	return changes.ReadSummary(f, name)
}

// cut makes a file an incremental one, if it can be.
func (p *parent) cut(f *file) error {
	relation, segment, ok := pgdata.ParseRelationPath(f.listed)
	if !ok {
		return nil
	}
	header, ok, err := p.changed(f.listed, relation, segment, f.member.Size)
	if err == nil && ok {
		f.makeIncremental(header)
	}
	return err
}

// fullFrom is the part of its blocks that have changed from which on a file comes as a whole.
const fullFrom = 0.9

// changed returns what an incremental file has of a file with size bytes, or that there is to
// be none.
//
// The server takes blocks for those of the backup before that lie behind where a relation was
// cut off, and that the log does not name since: it has grown by pages there that nobody wrote
// to yet, which are not in the log. Here they come as they are.
//
// Source: GetFileBackupMethod in src/backend/backup/basebackup_incremental.c, PostgreSQL 18.
func (p *parent) changed(path string, r pgdata.RelationFork, segment uint32, size int64) (header pgdata.Incremental, ok bool, err error) {
	blocks := size / pgdata.PageSize
	switch {
	case size == 0 || size%pgdata.PageSize != 0 || blocks > pgdata.SegmentPages:
		return header, false, nil
	case r.Fork == pgdata.FreeSpaceFork: // is not in the log
		return header, false, nil
	case r.Fork == pgdata.VisibilityFork:
		// Summaries of servers before 17.12 and 18.6 do not have all changes of it, and it is small.
		return header, false, nil
	}
	for _, name := range []string{path, pgdata.IncrementalPath(path)} {
		_, found, err := p.catalog.Find(name)
		if err != nil {
			return header, false, err
		}
		ok = ok || found
	}
	if !ok {
		return header, false, nil
	}
	if _, isNew := p.changes.Limit(pgdata.RelationFork{Tablespace: r.Tablespace, Database: r.Database}); isNew {
		return header, false, nil // the database is
	}
	first := segment * pgdata.SegmentPages
	limit, _ := p.changes.Limit(r)
	if limit <= first {
		return header, false, nil
	}
	end := uint32(min(blocks, int64(limit-first))) // of what has anything in common with the parent's
	header = pgdata.Incremental{Truncation: end, Blocks: p.changes.Blocks(r, first, first+end)}
	for i := range header.Blocks {
		header.Blocks[i] -= first
	}
	for b := end; b < uint32(blocks); b++ {
		header.Blocks = append(header.Blocks, b)
	}
	return header, float64(len(header.Blocks)) <= fullFrom*float64(blocks), nil
}
