package live

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// maxLabel is how many bytes a label has at most.
//
// Source: MAXPGPATH in do_pg_backup_start in src/backend/access/transam/xlog.c, PostgreSQL 18.
const maxLabel = 1024

// startBackup begins the backup on the server.
//
// Source: pg_backup_start in src/backend/access/transam/xlogfuncs.c, PostgreSQL 18.
func (s *Source) startBackup(ctx context.Context) error {
	call := fmt.Sprintf("pg_start_backup(%s, %t, false)", quoted(s.o.Label), s.o.FastCheckpoint)
	if s.cluster.version >= version15 {
		call = fmt.Sprintf("pg_backup_start(%s, %t)", quoted(s.o.Label), s.o.FastCheckpoint)
	}
	row, err := s.row(ctx, "SELECT pg_catalog."+call)
	if err != nil {
		return err
	}
	if s.start.Position.LSN, err = wal.ParseLSN(row[0]); err != nil {
		return err
	}
	row, err = s.row(ctx, "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()")
	if err != nil {
		return err
	}
	s.start.Position.Timeline, err = parseTimeline(row[0])
	return err
}

func parseTimeline(text string) (wal.Timeline, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no timeline", text)
	}
	return wal.Timeline(n), nil
}

// stopped is what the server says of a backup that has ended.
type stopped struct {
	label, links []byte // of the files backup_label and tablespace_map
}

// stopBackup ends the backup on the server, and waits for the log to be archived if that is
// wanted.
//
// Source: pg_backup_stop in src/backend/access/transam/xlogfuncs.c, PostgreSQL 18.
func (s *Source) stopBackup(ctx context.Context) (stopped, error) {
	function := "pg_stop_backup(false, "
	if s.cluster.version >= version15 {
		function = "pg_backup_stop("
	}
	rows, err := s.o.Session.Query(ctx, fmt.Sprintf("SELECT lsn, labelfile, spcmapfile FROM pg_catalog.%s%t)", function, !s.o.NoWait))
	if err != nil {
		return stopped{}, err
	}
	if len(rows) != 1 || len(rows[0]) != 3 {
		return stopped{}, fmt.Errorf("the server does not answer with one row of three columns to %s", function)
	}
	end, err := wal.ParseLSN(string(rows[0][0]))
	if err != nil {
		return stopped{}, err
	}
	label, err := pgdata.ParseLabel(rows[0][1], pgdata.LabelPath)
	if s.cluster.version < version11 { // where the timeline is only in the name of a file
		label.Start, err = s.start.Position, nil
	}
	switch {
	case err != nil:
		return stopped{}, err
	case label.Start != s.start.Position:
		return stopped{}, fmt.Errorf("the backup that has ended began at %v on timeline %d, and not at %v on timeline %d",
			label.Start.LSN, label.Start.Timeline, s.start.Position.LSN, s.start.Position.Timeline)
	}
	s.end = wal.Position{LSN: end, Timeline: s.start.Position.Timeline}
	if err := s.endTimeline(ctx); err != nil {
		return stopped{}, err
	}
	return stopped{rows[0][1], rows[0][2]}, nil
}

// endTimeline finds the timeline that the backup ends on, which on a standby need not be the
// one that it began on.
//
// Source: do_pg_backup_stop in src/backend/access/transam/xlog.c, PostgreSQL 18.
func (s *Source) endTimeline(ctx context.Context) error {
	row, err := s.row(ctx, "SELECT pg_catalog.pg_is_in_recovery(), min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()")
	if err != nil {
		return err
	}
	inRecovery := row[0] == "t"
	switch {
	case s.cluster.inRecovery && !inRecovery:
		return explained(codeState, "", "This means that the backup being taken is corrupt and should not be used. Try taking another online backup.",
			"the standby was promoted during online backup")
	case !inRecovery:
		return nil
	}
	s.end.Timeline, err = parseTimeline(row[1])
	return err
}

// controlPatience is how long the control file may be seen half written.
const controlPatience = 10 * time.Second

// readControl reads the control file, again and again until all of it is of one time: the
// server writes it in place.
func (s *Source) readControl(ctx context.Context) ([]byte, error) {
	path := s.path(pgdata.ControlPath)
	ctx, cancel := context.WithTimeout(ctx, controlPatience)
	defer cancel()
	for {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, localfs.Errorf(err, path, "could not read file \"%s\"", path)
		}
		if _, err = pgdata.ParseControl(content); !errors.Is(err, pgdata.ErrControlChecksum) {
			return content, nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
}

// slotInterval is how often the slot is looked at.
const slotInterval = 5 * time.Second

// pinTime is how long the log is kept for whoever receives it beside the backup to begin to.
const pinTime = time.Minute

// checkPin sees that the log is still kept. That is for who receives it himself, if the backup
// does not have it, once he has had the time to begin: the server's own backup keeps none.
func (s *Source) checkPin(ctx context.Context) error {
	if s.pin == nil {
		return nil
	}
	if !s.o.WAL {
		return s.easePin()
	}
	const hint = "Take the backup again, with a larger max_slot_wal_keep_size on the server if that is set."
	select {
	case <-s.pin.Done():
		return usererr.Hinted(hint, "the log that the backup needs is kept no longer: %v", cmp.Or(s.pin.Err(), errUnpinned))
	default:
	}
	slot := s.pin.Slot()
	if slot == "" || s.cluster.version < version13 || time.Since(s.looked) < slotInterval {
		return nil
	}
	s.looked = time.Now()
	rows, err := s.o.Session.Query(ctx, "SELECT coalesce(wal_status, '') FROM pg_catalog.pg_replication_slots WHERE slot_name = "+quoted(slot))
	switch {
	case err != nil:
		return lost(ctx, err)
	case len(rows) == 0:
		return usererr.Hinted(hint, "the log that the backup needs is kept no longer: replication slot \"%s\" does not exist", slot)
	case string(rows[0][0]) == "lost" || string(rows[0][0]) == "unreserved":
		return usererr.Hinted(hint, "the log that the backup needs is kept no longer: replication slot \"%s\" is %s", slot, rows[0][0])
	}
	return nil
}

// easePin lets go of the log after some time, or if somebody else has.
func (s *Source) easePin() error {
	select {
	case <-s.pin.Done():
	default:
		if time.Since(s.begun) < pinTime {
			return nil
		}
	}
	_ = s.pin.Close() // it is of no more use
	s.pin = nil
	return nil
}

// errUnpinned is why the log is kept no longer if nobody says why.
var errUnpinned = errors.New("it was let go")

// history returns where a timeline comes from. One without a file has no ancestors that the
// server knows of.
//
// Source: readTimeLineHistory in src/backend/access/transam/timeline.c, PostgreSQL 18.
func (s *Source) history(t wal.Timeline) (wal.History, error) {
	if t == 1 {
		return nil, nil
	}
	path := s.path("pg_wal/" + wal.HistoryName(t))
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	return wal.ParseHistory(t, content)
}

// line is a timeline between its beginning and its end; zero is none that is known.
type line struct {
	timeline   wal.Timeline
	begin, end wal.LSN
}

// lines returns the timelines that lead to t, the newest first.
func lines(t wal.Timeline, history wal.History) []line {
	all := []line{{timeline: t}}
	for i := len(history) - 1; i >= 0; i-- {
		all[len(all)-1].begin = history[i].End
		all = append(all, line{timeline: history[i].Timeline, end: history[i].End})
	}
	return all
}
