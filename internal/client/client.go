// Package client knows how to ask a PostgreSQL server for what it has: a base
// backup as a backup.Source, its log as a stream into a wal.Keeper, and the
// replication slots that hold the log.
//
// It speaks on replication connections alone and runs no SQL. It writes no
// file: what arrives goes to the sink or keeper it is given.
package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/protocol"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// ServerError is an error that the server sent. It reads as libpq prints it.
type ServerError struct {
	*pgconn.PgError
}

// Error returns severity and message, and below them detail and hint.
//
// Source: pqBuildErrorMessage3 in src/interfaces/libpq/fe-protocol3.c, PostgreSQL 18.
func (e *ServerError) Error() string {
	return noticeText(e.Severity, e.Message, e.PgError.Detail, e.PgError.Hint)
}

// Unwrap returns the parsed error, for its SQLSTATE.
func (e *ServerError) Unwrap() error { return e.PgError }

func noticeText(severity, message, detail, hint string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s:  %s", severity, message)
	if detail != "" {
		s.WriteString("\nDETAIL:  " + detail)
	}
	if hint != "" {
		s.WriteString("\nHINT:  " + hint)
	}
	return s.String()
}

// sqlState returns the SQLSTATE of an error that the server sent, or nothing.
func sqlState(err error) string {
	if e := (*ServerError)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// System is what a server says of itself.
type System struct {
	ID       string // of the cluster, a decimal number given by initdb
	Position wal.Position
	Database string // empty on a physical connection
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
	command := "SHOW " + name
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
	var mode uint32
	if _, err := fmt.Sscanf(s, "%o", &mode); err != nil {
		return false, fmt.Errorf("group access flag could not be parsed: %s", s)
	}
	return mode&0o750 == 0o750, nil
}

// CreatePhysicalSlot makes a replication slot. See protocol.CreatePhysicalSlot.
func (c *Conn) CreatePhysicalSlot(ctx context.Context, name string, temporary, reserve bool) error {
	command := protocol.CreatePhysicalSlot(c.Version, name, temporary, reserve)
	rows, err := c.Query(ctx, command)
	if err != nil {
		return fmt.Errorf("could not send replication command \"%s\": %w", command, err)
	}
	if len(rows) != 1 || len(rows[0]) != 4 {
		return fmt.Errorf("could not create replication slot \"%s\": got %s, expected 1 row and 4 fields", name, shape(rows))
	}
	return nil
}

// checkStreaming says whether the log of a server of this version can be streamed.
//
// Source: CheckServerVersionForStreaming in src/bin/pg_basebackup/receivelog.c, PostgreSQL 18.
func (c *Conn) checkStreaming() error {
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
	var t uint32
	if _, err := fmt.Sscanf(s, "%d", &t); err != nil || t == 0 {
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
	return &ServerError{pgconn.ErrorResponseToPgError(&e)}
}
