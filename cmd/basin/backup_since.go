package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"basin/internal/backup"
	"basin/internal/client"
	"basin/internal/live"
	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/repo"
	"basin/internal/wal"
)

// fullScanEvery is how old the last backup is at most for which every page was read, unless the command line
// says otherwise.
const fullScanEvery = 30 * 24 * time.Hour

// chosenSource is a backup in which what did not change since the parent is not read, if that can be known from the
// server's summaries of the log; else one of all. It is a backup.Source.
type chosenSource struct {
	backup.Source // nil before it is begun
	backup        *repositoryBackup
	parent        *repo.Commit
	manifest      *parentManifest // nil for a backup of all
	found         *repo.Since     // once it has begun; nil for a backup of all
}

// choose returns the source. What speaks against summaries is said.
func (b *repositoryBackup) choose(ctx context.Context, parent *repo.Commit) (*chosenSource, error) {
	s := &chosenSource{backup: b, parent: parent}
	if parent == nil {
		return s, nil
	}
	if !b.repository.CanRead() {
		return s, b.sayFullScan(ctx, errors.New("the repository's private key is not here, so that the parent is not known as it must be"))
	}
	err := b.checkSummaries(ctx, parent)
	if err == nil {
		s.manifest, err = b.writeManifest(ctx, parent)
	}
	if err != nil {
		return s, b.sayFullScan(ctx, err)
	}
	return s, nil
}

// since tells the sink what the source turned out to be.
func (s *chosenSource) since() *repo.Since { return s.found }

// sayFullScan tells why every page is read. It returns an error if the end of the context is why.
func (b *repositoryBackup) sayFullScan(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	b.verbose("every page is read: %s", firstLine(why))
	return nil
}

// Begin begins the backup. If the server does not make one of what has changed, it is one of all.
func (s *chosenSource) Begin(ctx context.Context) (backup.Start, error) {
	if s.manifest != nil {
		start, err := s.beginSince(ctx)
		if err == nil {
			s.backup.verbose("only what the server's summaries of the log name is read")
			return start, nil
		}
		if s.Source != nil {
			_ = s.Source.Close() // it is given up
			s.Source = nil
		}
		if err := s.backup.sayFullScan(ctx, err); err != nil {
			return start, err
		}
		if err := s.backup.reconnect(ctx); err != nil {
			return start, err
		}
	}
	var err error
	if s.Source, err = s.backup.source(ctx, nil); err != nil {
		return backup.Start{}, err
	}
	return s.Source.Begin(ctx)
}

// beginSince begins a backup of what has changed.
func (s *chosenSource) beginSince(ctx context.Context) (start backup.Start, err error) {
	b := s.backup
	o := live.CutOptions{Ranges: s.parent.Ranges, Version: b.conn.Version}
	var session live.Session
	if b.o.DataDirectory == "" {
		if session, err = b.ordinary(ctx); err != nil {
			return start, fmt.Errorf("what was cut off is not known without an ordinary connection: %w", err)
		}
		defer session.Close()
		if o.History, err = b.history(ctx); err != nil {
			return start, err
		}
		if err := b.lookAhead(ctx, session, o, s.parent); err != nil {
			return start, err
		}
	}
	if s.Source, err = b.source(ctx, s.manifest); err != nil {
		return start, err
	}
	if start, err = s.Source.Begin(ctx); err != nil {
		return start, err
	}
	found := new(repo.Since)
	if session != nil {
		if start.Position.Timeline != b.system.Position.Timeline {
			return start, errors.New("the server has another timeline now")
		}
		o.Start = start.Position
		if found.Cut, err = live.FindCuts(ctx, session, o); err != nil {
			return start, err
		}
	}
	s.found = found
	return start, nil
}

// Close ends the source.
func (s *chosenSource) Close() error {
	var errs []error
	if s.Source != nil {
		errs = append(errs, s.Source.Close())
	}
	if s.manifest != nil {
		errs = append(errs, s.manifest.Close())
	}
	return errors.Join(errs...)
}

// checkSummaries says why summaries cannot stand in for reading, as far as that is known before the backup
// begins.
func (b *repositoryBackup) checkSummaries(ctx context.Context, parent *repo.Commit) error {
	age := time.Since(parent.FullScan)
	switch {
	case b.o.FullScan:
		return errors.New("--full-scan asks for it")
	case age >= b.o.FullScanEvery:
		return fmt.Errorf("that was last done %v ago", age.Round(time.Hour))
	case parent.Damaged:
		return fmt.Errorf("backup %s is of pages with wrong checksums", parent.ID)
	case !pgdata.HasWholeSummaries(b.conn.Version):
		return fmt.Errorf("the server's version %d has no summaries of the log that can be relied on", b.conn.Version)
	case len(parent.Ranges) == 0:
		return fmt.Errorf("backup %s does not say which log it needs", parent.ID)
	}
	if err := b.checkLine(ctx, parent); err != nil {
		return err
	}
	summarize, err := b.conn.Show(ctx, "summarize_wal")
	if err != nil {
		return err
	}
	if summarize != "on" {
		return errors.New("summarize_wal is off on the server")
	}
	checksums, err := b.conn.Show(ctx, "data_checksums")
	if err != nil {
		return err
	}
	control, err := b.cluster.Control(ctx, *parent)
	if err != nil {
		return err
	}
	if control.DataChecksums != (checksums == "on") {
		return fmt.Errorf("checksums of pages were switched %s since backup %s", checksums, parent.ID)
	}
	damaged, err := b.cluster.NeedsDamaged(ctx, *parent)
	if err != nil {
		return err
	}
	if damaged {
		return fmt.Errorf("backup %s needs packs that were found damaged or missing", parent.ID)
	}
	return nil
}

// checkLine sees that the parent is of the server's line of timelines. That two timelines have the same number, as
// of copies that were promoted, is seen by where they come from.
func (b *repositoryBackup) checkLine(ctx context.Context, parent *repo.Commit) error {
	history, err := b.history(ctx)
	if err != nil {
		return err
	}
	of := parent.Stop.Timeline
	if of != b.system.Position.Timeline {
		end, ok := history.End(of)
		switch {
		case !ok:
			return fmt.Errorf("backup %s is of timeline %d, from which the server's timeline %d does not come", parent.ID, of, b.system.Position.Timeline)
		case end < parent.Stop.LSN:
			return fmt.Errorf("backup %s ends at %v, and the server's timeline %d left that one at %v", parent.ID, parent.Stop.LSN, b.system.Position.Timeline, end)
		}
	}
	return checkSameTimeline(ctx, b.cluster, parent, history)
}

// checkSameTimeline sees that the timeline of a backup is the one of its number from which a server comes, whose history is
// given: both came from the same places.
func checkSameTimeline(ctx context.Context, c *repo.Cluster, parent *repo.Commit, history wal.History) error {
	of := parent.Stop.Timeline
	known, err := c.History(ctx, of)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("it is not known whether timeline %d of backup %s is the server's: %s is not in the repository", of, parent.ID, wal.HistoryName(of))
	}
	if err != nil {
		return err
	}
	isSame := len(history) == len(known) || len(history) > len(known) && history[len(known)].Timeline == of
	for i := 0; isSame && i < len(known); i++ {
		isSame = history[i].Timeline == known[i].Timeline && history[i].End == known[i].End
	}
	if !isSame {
		return fmt.Errorf("timeline %d of backup %s is not the server's of that number", of, parent.ID)
	}
	return nil
}

// parentManifest is the manifest of a parent, in a file.
type parentManifest struct {
	file  *os.File
	size  int64
	found *manifest.Catalog // nil before it is needed
}

// writeManifest writes the manifest that an incremental backup is made with.
func (b *repositoryBackup) writeManifest(ctx context.Context, parent *repo.Commit) (*parentManifest, error) {
	file, err := localfs.TempFile("")
	if err != nil {
		return nil, err
	}
	if err := b.cluster.WriteManifest(ctx, *parent, file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &parentManifest{file: file, size: info.Size()}, nil
}

// reader returns the manifest from its beginning.
func (m *parentManifest) reader() io.Reader {
	return bufio.NewReader(io.NewSectionReader(m.file, 0, m.size))
}

// catalog returns what finds files in it.
func (m *parentManifest) catalog() (*manifest.Catalog, error) {
	var err error
	if m.found == nil {
		m.found, err = manifest.NewCatalog(m.file, m.size, "")
	}
	return m.found, err
}

// Close lets go of the file.
func (m *parentManifest) Close() error {
	var errs []error
	if m.found != nil {
		errs = append(errs, m.found.Close())
	}
	return errors.Join(append(errs, m.file.Close())...)
}

// ordinarySession is a connection for SQL. It is a live.Session.
type ordinarySession struct{ *client.Conn }

// Query runs statements.
func (s ordinarySession) Query(ctx context.Context, sql string) ([][][]byte, error) {
	rows, err := s.Conn.Query(ctx, sql)
	plain := make([][][]byte, len(rows))
	for i, row := range rows {
		plain[i] = row
	}
	return plain, err
}

// ordinary makes an ordinary connection to the server, which is to be the one that sends the backup.
func (b *repositoryBackup) ordinary(ctx context.Context) (live.Session, error) {
	request := b.o.connectionRequest(b.report.name)
	request.Ordinary = true
	wanted, err := request.Params()
	if err != nil {
		return nil, err
	}
	params := b.session.Pinned()
	for _, name := range []string{"replication", "dbname"} {
		if err := params.Set(name, wanted.Value(name)); err != nil {
			return nil, err
		}
	}
	session, err := dial(ctx, b.report, params, promptNever)
	if err != nil {
		return nil, err
	}
	s := ordinarySession{converse(b.report, session)}
	rows, err := s.Query(ctx, "SET search_path = pg_catalog; SET statement_timeout = 0; SELECT system_identifier FROM pg_catalog.pg_control_system()")
	if err == nil {
		err = b.isSystem(rows)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// isSystem says whether SQL's answer of the system identifier, which has a sign there, is that of the cluster.
func (b *repositoryBackup) isSystem(rows [][][]byte) error {
	if len(rows) != 1 || len(rows[0]) != 1 {
		return errors.New("it does not tell the system identifier")
	}
	id, err := strconv.ParseInt(string(rows[0][0]), 10, 64)
	if err == nil && strconv.FormatUint(uint64(id), 10) != b.system.ID {
		err = fmt.Errorf("it leads to cluster %d, and not to %s", uint64(id), b.system.ID)
	}
	return err
}

// history returns where the server's timeline comes from.
func (b *repositoryBackup) history(ctx context.Context) (wal.History, error) {
	t := b.system.Position.Timeline
	if t == 1 {
		return nil, nil
	}
	content, err := b.conn.TimelineHistory(ctx, t)
	if err != nil {
		return nil, err
	}
	return wal.ParseHistory(t, content)
}

// lookAhead finds out before the server's checkpoint what would only be seen after it, as far as the log is
// summarized by now.
func (b *repositoryBackup) lookAhead(ctx context.Context, session live.Session, o live.CutOptions, parent *repo.Commit) error {
	rows, err := session.Query(ctx, "SELECT summarized_lsn FROM pg_catalog.pg_get_wal_summarizer_state()")
	if err != nil {
		return err
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return errors.New("the server does not say how far its log is summarized")
	}
	summarized, err := wal.ParseLSN(string(rows[0][0]))
	if err != nil {
		return err
	}
	if summarized < parent.Stop.LSN {
		return nil // it will be
	}
	o.Start = wal.Position{LSN: summarized, Timeline: b.system.Position.Timeline}
	_, err = live.FindCuts(ctx, session, o)
	return err
}

// reconnect makes the connection anew, on which a backup was given up.
func (b *repositoryBackup) reconnect(ctx context.Context) error {
	if b.o.DataDirectory != "" {
		return nil
	}
	_ = b.conn.Close() // it is in the middle of a backup
	session, err := dial(ctx, b.report, b.session.Pinned(), promptNever)
	if err != nil {
		return err
	}
	b.session, b.conn = session, converse(b.report, session)
	return nil
}

// firstLine returns the message of an error as far as it is one line.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
