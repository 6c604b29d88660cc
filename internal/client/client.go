// Package client knows how to ask a PostgreSQL server for what it has: a base
// backup as a backup.Source, its log as a stream into a wal.Keeper or, decoded,
// into a LogicalSink, and the replication slots that hold the log.
//
// It speaks on a replication connection that package connect made, and runs no
// SQL there but to be safe from it. It opens no connection of its own and no
// file: what arrives goes to the sink or keeper it is given.
package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/connect"
	"basin/internal/protocol"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// sqlState returns the SQLSTATE of an error that the server sent, or nothing.
func sqlState(err error) string {
	if e := (*connect.ServerError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// serverRoutine returns the name of the server's function that an error comes from, or
// nothing.
func serverRoutine(err error) string {
	if e := (*connect.ServerError)(nil); errors.As(err, &e) {
		return e.Routine
	}
	return ""
}

// System is what a server says of itself.
type System struct {
	ID       string // of the cluster, a decimal number given by initdb
	Position wal.Position
	Database string // the connection is to; empty for physical replication
}

// IdentifySystem asks the server which cluster it is and where its log stands.
//
// Source: RunIdentifySystem in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c *Conn) IdentifySystem(ctx context.Context) (System, error) {
	const command = "IDENTIFY_SYSTEM"
	rows, err := c.Query(ctx, command)
	if err != nil {
		return System{}, fmt.Errorf("could not send replication command \"%s\": %w", command, err)
	}
	if len(rows) != 1 || len(rows[0]) < 3 {
		return System{}, fmt.Errorf("could not identify system: got %s, expected 1 row and 3 or more fields", shape(rows))
	}
	row := rows[0]
	s := System{ID: row.text(0)}
	if s.Position.Timeline, err = parseTimeline(row.text(1)); err != nil {
		return System{}, fmt.Errorf("could not identify system: %w", err)
	}
	if s.Position.LSN, err = wal.ParseLSN(row.text(2)); err != nil {
		return System{}, fmt.Errorf("could not parse write-ahead log location \"%s\"", row.text(2))
	}
	if len(row) > 3 {
		s.Database = row.text(3)
	}
	return s, nil
}

// Show returns one of the server's settings.
func (c *Conn) Show(ctx context.Context, name string) (string, error) {
	command := protocol.Show{Name: name}.Command(c.Version)
	rows, err := c.Query(ctx, command)
	if err != nil {
		return "", fmt.Errorf("could not send replication command \"%s\": %w", command, err)
	}
	if len(rows) != 1 || len(rows[0]) < 1 {
		return "", fmt.Errorf("could not read setting %s: got %s, expected 1 row and 1 or more fields", name, shape(rows))
	}
	return rows[0].text(0), nil
}

// SegmentSize returns the size of the server's WAL segments in bytes.
func (c *Conn) SegmentSize(ctx context.Context) (int64, error) {
	s, err := c.Show(ctx, "wal_segment_size")
	if err != nil {
		return 0, err
	}
	return wal.ParseSegmentSize(s)
}

// GroupAccess says whether the server's data directory may be read by its
// group; files made from it then may be as well. Before 11 it never may.
//
// Source: RetrieveDataDirCreatePerm in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c *Conn) GroupAccess(ctx context.Context) (bool, error) {
	if c.Version < protocol.VersionDirectoryMode {
		return false, nil
	}
	s, err := c.Show(ctx, "data_directory_mode")
	if err != nil {
		return false, err
	}
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil {
		return false, fmt.Errorf("group access flag could not be parsed: %s", s)
	}
	return mode&0o750 == 0o750, nil
}

// CreatePhysicalSlot makes a replication slot. reserve holds the log from now on
// instead of from the first use. Temporary slots end with the connection.
func (c *Conn) CreatePhysicalSlot(ctx context.Context, name string, temporary, reserve bool) error {
	command := protocol.CreatePhysicalSlot{Slot: name, Temporary: temporary, ReserveWAL: reserve}.Command(c.Version)
	rows, err := c.Query(ctx, command)
	if err != nil {
		return fmt.Errorf("could not send replication command \"%s\": %w", command, err)
	}
	if len(rows) != 1 || len(rows[0]) != 4 {
		return fmt.Errorf("could not create replication slot \"%s\": got %s, expected 1 row and 4 fields", name, shape(rows))
	}
	return nil
}

// TimelineHistory returns the history file of a timeline, which is not the first.
func (c *Conn) TimelineHistory(ctx context.Context, t wal.Timeline) ([]byte, error) {
	rows, err := c.Query(ctx, protocol.TimelineHistory{Timeline: t}.Command(c.Version))
	if err != nil {
		return nil, fmt.Errorf("could not send replication command \"%s\": %w", "TIMELINE_HISTORY", err)
	}
	if len(rows) != 1 || len(rows[0]) != 2 {
		return nil, fmt.Errorf("unexpected response to TIMELINE_HISTORY command: got %s, expected 1 row and 2 fields", shape(rows))
	}
	if got := rows[0].text(0); got != wal.HistoryName(t) {
		return nil, fmt.Errorf("server reported unexpected history file name for timeline %d: %s", t, got)
	}
	return rows[0][1], nil
}

// CanReadSlots says whether the server answers ReadSlot.
func (c *Conn) CanReadSlots() bool { return c.Version >= protocol.VersionOptionList }

// ReadSlot returns the position from which on a physical slot holds the log; zero
// if it holds none yet. That there is no such slot is ErrGap.
//
// Source: GetSlotInformation in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (c *Conn) ReadSlot(ctx context.Context, name string) (wal.Position, error) {
	rows, err := c.Query(ctx, protocol.ReadReplicationSlot{Slot: name}.Command(c.Version))
	if err != nil {
		return wal.Position{}, fmt.Errorf("could not send replication command \"%s\": %w", "READ_REPLICATION_SLOT", err)
	}
	if len(rows) != 1 || len(rows[0]) != 3 {
		return wal.Position{}, fmt.Errorf("could not read replication slot \"%s\": got %s, expected 1 row and 3 fields", name, shape(rows))
	}
	row := rows[0]
	if row[0] == nil {
		return wal.Position{}, gap(fmt.Errorf("replication slot \"%s\" does not exist", name), slotMissing)
	}
	if row[1] == nil {
		return wal.Position{}, nil
	}
	var p wal.Position
	if p.LSN, err = wal.ParseLSN(row.text(1)); err != nil {
		return wal.Position{}, fmt.Errorf("could not parse restart_lsn \"%s\" for replication slot \"%s\"", row.text(1), name)
	}
	if p.Timeline, err = parseTimeline(row.text(2)); err != nil {
		return wal.Position{}, fmt.Errorf("replication slot \"%s\": %w", name, err)
	}
	return p, nil
}

// CheckStreaming says whether the log of a server of this version can be streamed.
//
// Source: CheckServerVersionForStreaming in src/bin/pg_basebackup/receivelog.c, PostgreSQL 18.
func (c *Conn) CheckStreaming() error {
	switch {
	case c.Version < minVersion:
		return fmt.Errorf("incompatible server version %s; client does not support streaming from server versions older than %s", c.ServerVersion, "10")
	case c.Version/10000 > maxMajor:
		return fmt.Errorf("incompatible server version %s; client does not support streaming from server versions newer than %d", c.ServerVersion, maxMajor)
	}
	return nil
}

// Servers this client was made for.
const (
	minVersion = 100000
	maxMajor   = 18
)

// CheckVersion says whether a base backup of this server can be taken.
//
// Source: BaseBackup in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18,
// whose oldest server is 9.1.
func (c *Conn) CheckVersion() error {
	switch {
	case c.Version < minVersion:
		return usererr.Hinted("Servers from PostgreSQL 10 on are supported.", "incompatible server version %s", c.ServerVersion)
	case c.Version/10000 > maxMajor:
		return usererr.Hinted(fmt.Sprintf("Servers up to PostgreSQL %d are supported; a newer release of this program may know more.", maxMajor),
			"incompatible server version %s", c.ServerVersion)
	}
	return nil
}

func shape(rows []Row) string {
	fields := 0
	if len(rows) > 0 {
		fields = len(rows[0])
	}
	return fmt.Sprintf("%d rows and %d fields", len(rows), fields)
}

func parseTimeline(s string) (wal.Timeline, error) {
	t, err := strconv.ParseUint(s, 10, 32)
	if err != nil || t == 0 {
		return 0, fmt.Errorf("invalid timeline \"%s\"", s)
	}
	return wal.Timeline(t), nil
}

// decodeError turns the body of an ErrorResponse into an error.
func decodeError(body []byte) error {
	var e pgproto3.ErrorResponse
	if err := e.Decode(body); err != nil {
		return err
	}
	return &connect.ServerError{PgError: pgconn.ErrorResponseToPgError(&e)}
}
