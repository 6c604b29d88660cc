// Package checkup knows how a running cluster must be set so that it can be backed up and its log is
// kept: what to ask it, what is wrong in the answers, and what to do.
//
// It asks on a connection that it is given, and changes nothing. Of repositories it knows no more
// than what an archive_command says of them.
package checkup

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"basin/internal/client"
	"basin/internal/wal"
)

// Level says how bad something is.
type Level int

// The levels.
const (
	OK Level = iota
	Warning
	Error
)

// String returns the level as programs read it: ok, warning, error.
func (l Level) String() string { return [...]string{"ok", "warning", "error"}[l] }

// MarshalText returns what String does.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Item is one thing that was looked at.
type Item struct {
	Name   string `json:"item"`
	Level  Level  `json:"result"`
	Text   string `json:"text"`             // what was found
	Advice string `json:"advice,omitempty"` // what to do; may have several lines
}

// Server is what a running cluster tells of itself.
type Server struct {
	Version       int    // as server_version_num
	ServerVersion string // as it calls itself
	SystemID      uint64
	Timeline      wal.Timeline
	InRecovery    bool
	LSN           wal.LSN       // flushed, or replayed by a standby
	Clock         time.Duration // by how much its clock is ahead of this host's, as far as it cannot be the network

	User          string
	IsSuperuser   bool
	IsReplication bool // has REPLICATION
	ReadsSettings bool // is in pg_read_all_settings
	BacksUp       bool // may start and stop a backup of a data directory
	ReadsFiles    bool // may read files outside of the data directory

	Settings map[string]string // by name, in the units of pg_settings
	Senders  int               // connections of replication now
	Slots    []Slot
	Archiver Archiver
}

// Slot is a replication slot.
type Slot struct {
	Name      string
	Physical  bool
	Active    bool
	Retained  int64  // bytes of log that are kept for it
	WALStatus string // reserved, extended, unreserved, lost; empty before 13
}

// Archiver is what the server says of its archive_command.
type Archiver struct {
	Archived, Failed         int64     // how often it succeeded and failed
	LastArchived, LastFailed string    // names of files; empty if there is none
	ArchivedAt, FailedAt     time.Time // the zero time if never
}

// IsFailing says whether the last try failed.
func (a Archiver) IsFailing() bool { return !a.FailedAt.IsZero() && a.FailedAt.After(a.ArchivedAt) }

// settings are the names of those that are asked for.
var settings = []string{
	"wal_level", "archive_mode", "archive_command", "archive_library", "archive_timeout", "max_wal_senders",
	"max_replication_slots", "max_slot_wal_keep_size", "summarize_wal", "data_checksums", "full_page_writes",
	"fsync", "data_directory", "wal_segment_size", "port", "config_file", "hba_file", "ident_file",
}

// ReadServer asks a server of 10 or newer, on an ordinary connection.
func ReadServer(ctx context.Context, c *client.Conn) (Server, error) {
	s := Server{Version: c.Version, ServerVersion: c.ServerVersion, Settings: make(map[string]string)}
	if s.Version < 100000 {
		return s, fmt.Errorf("the server is of version %s, and 10 is the oldest that is known here", s.ServerVersion)
	}
	if err := c.ClearSearchPath(ctx); err != nil {
		return s, err
	}
	for _, read := range []func(context.Context, *client.Conn) error{
		s.readIdentity, s.readRole, s.readSettings, s.readPlace, s.readSlots, s.readArchiver,
	} {
		if err := read(ctx, c); err != nil {
			return s, err
		}
	}
	return s, nil
}

// table runs a statement that answers with rows of so many columns; NULL is an empty text.
func table(ctx context.Context, c *client.Conn, columns int, statement string) ([][]string, error) {
	rows, err := c.Query(ctx, statement)
	if err != nil {
		return nil, err
	}
	texts := make([][]string, len(rows))
	for i, r := range rows {
		if len(r) != columns {
			return nil, fmt.Errorf("the server answers with %d columns, and not with %d, to %s", len(r), columns, statement)
		}
		for _, value := range r {
			texts[i] = append(texts[i], string(value))
		}
	}
	return texts, nil
}

// row is table for one row.
func row(ctx context.Context, c *client.Conn, columns int, statement string) ([]string, error) {
	rows, err := table(ctx, c, columns, statement)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("the server answers with %d rows, and not with one, to %s", len(rows), statement)
	}
	return rows[0], nil
}

func (s *Server) readIdentity(ctx context.Context, c *client.Conn) error {
	before := time.Now()
	r, err := row(ctx, c, 4, `SELECT (SELECT system_identifier FROM pg_control_system()), (SELECT timeline_id FROM pg_control_checkpoint()),
		pg_is_in_recovery(), extract(epoch FROM clock_timestamp())`)
	after := time.Now()
	if err != nil {
		return err
	}
	id, err := strconv.ParseInt(r[0], 10, 64) // a bigint, of which the half are negative
	if err != nil {
		return fmt.Errorf("system identifier: %w", err)
	}
	timeline, err := strconv.ParseUint(r[1], 10, 32)
	if err != nil {
		return fmt.Errorf("timeline: %w", err)
	}
	shown, err := moment(r[3])
	if err != nil {
		return err
	}
	s.SystemID, s.Timeline, s.InRecovery = uint64(id), wal.Timeline(timeline), r[2] == "t"
	switch {
	case shown.After(after):
		s.Clock = shown.Sub(after)
	case shown.Before(before):
		s.Clock = shown.Sub(before)
	}
	return nil
}

// moment reads seconds since 1970; nothing is the zero time.
func moment(seconds string) (time.Time, error) {
	if seconds == "" {
		return time.Time{}, nil
	}
	n, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no time", seconds)
	}
	return time.UnixMicro(int64(n * 1e6)).UTC(), nil
}

func (s *Server) readRole(ctx context.Context, c *client.Conn) error {
	start, stop := "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"
	if s.Version >= 150000 {
		start, stop = "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"
	}
	files := "false" // before 11 there is no such role
	if s.Version >= 110000 {
		files = "(" + MayReadFiles + ")"
	}
	r, err := row(ctx, c, 6, fmt.Sprintf(`SELECT rolname, rolsuper, rolreplication, pg_has_role(oid, 'pg_read_all_settings', 'USAGE'),
		has_function_privilege(oid, '%s', 'EXECUTE') AND has_function_privilege(oid, '%s', 'EXECUTE'), %s FROM pg_roles WHERE rolname = current_user`, start, stop, files))
	if err != nil {
		return err
	}
	s.User, s.IsSuperuser, s.IsReplication, s.ReadsSettings, s.BacksUp, s.ReadsFiles = r[0], r[1] == "t", r[2] == "t", r[3] == "t", r[4] == "t", r[5] == "t"
	return nil
}

func (s *Server) readSettings(ctx context.Context, c *client.Conn) error {
	rows, err := table(ctx, c, 2, "SELECT name, setting FROM pg_settings WHERE name IN ('"+strings.Join(settings, "', '")+"')")
	if err != nil {
		return err
	}
	for _, r := range rows {
		s.Settings[r[0]] = r[1]
	}
	return nil
}

func (s *Server) readPlace(ctx context.Context, c *client.Conn) error {
	place := "pg_current_wal_flush_lsn()"
	if s.InRecovery {
		place = "coalesce(pg_last_wal_replay_lsn(), '0/0')"
	}
	r, err := row(ctx, c, 2, "SELECT "+place+", (SELECT count(*) FROM pg_stat_replication)")
	if err != nil {
		return err
	}
	if s.LSN, err = wal.ParseLSN(r[0]); err != nil {
		return err
	}
	s.Senders, err = strconv.Atoi(r[1])
	return err
}

func (s *Server) readSlots(ctx context.Context, c *client.Conn) error {
	status := "''"
	if s.Version >= 130000 {
		status = "coalesce(wal_status, '')"
	}
	rows, err := table(ctx, c, 5, fmt.Sprintf(`SELECT slot_name, slot_type = 'physical', active,
		greatest(0, coalesce('%v'::pg_lsn - restart_lsn, 0))::bigint, %s FROM pg_replication_slots ORDER BY 1`, s.LSN, status))
	if err != nil {
		return err
	}
	for _, r := range rows {
		retained, err := strconv.ParseInt(r[3], 10, 64)
		if err != nil {
			return fmt.Errorf("slot %s: %w", r[0], err)
		}
		s.Slots = append(s.Slots, Slot{r[0], r[1] == "t", r[2] == "t", retained, r[4]})
	}
	return nil
}

func (s *Server) readArchiver(ctx context.Context, c *client.Conn) error {
	r, err := row(ctx, c, 6, `SELECT archived_count, failed_count, last_archived_wal, last_failed_wal,
		extract(epoch FROM last_archived_time), extract(epoch FROM last_failed_time) FROM pg_stat_archiver`)
	if err != nil {
		return err
	}
	a := Archiver{LastArchived: r[2], LastFailed: r[3]}
	if a.Archived, err = strconv.ParseInt(r[0], 10, 64); err != nil {
		return err
	}
	if a.Failed, err = strconv.ParseInt(r[1], 10, 64); err != nil {
		return err
	}
	if a.ArchivedAt, err = moment(r[4]); err != nil {
		return err
	}
	if a.FailedAt, err = moment(r[5]); err != nil {
		return err
	}
	s.Archiver = a
	return nil
}
