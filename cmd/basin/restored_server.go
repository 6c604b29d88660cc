package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// restoredServer is what the server tells that runs in a restored data directory.
type restoredServer struct {
	inRecovery bool
	paused     bool
	lsn        wal.LSN      // up to which was replayed; where recovery ended, once it has
	timeline   wal.Timeline // that is written, or in recovery that of the last checkpoint
	last       time.Time    // end of the last transaction that was replayed; zero if that is not known
	lacking    []string     // settings that are less than what the primary had, for which a standby pauses

	prepared            []string // nil in recovery, which does not tell of them
	invalid, collations []string
	empty               []string // databases that were not restored
	unmet               string   // synchronous_standby_names, for which commits wait since no such standby is there
}

// errStarting is a server that does not take connections yet.
var errStarting = errors.New("the server does not take connections yet")

// cannotConnectNow is the SQLSTATE of a server that is starting up.
const cannotConnectNow = "57P03"

// restoredConn is how to connect to the server.
type restoredConn struct {
	report   *report
	params   conninfo.Params
	prompt   passwordPrompt
	password *string // once it was asked for
}

// newRestoredConn returns how to connect: as the options say, or else as postmaster.pid does.
func newRestoredConn(report *report, o connectionOptions, p *postmaster, password *string) (*restoredConn, error) {
	if o.ConnectionString == "" && o.Host == "" && o.Port == "" {
		o.Host, o.Port = cmp.Or(p.socket, "localhost"), p.port
	}
	request := o.connectionRequest(report.name)
	request.Ordinary = true
	params, err := request.Params()
	if err == nil && *password != "" {
		err = params.Set("password", *password)
		o.Password = promptNever
	}
	return &restoredConn{report, params, o.Password, password}, err
}

// ask connects to a database, or the usual one, and asks.
func (r *restoredConn) ask(ctx context.Context, database string, what func(*client.Conn) error) error {
	params := r.params.Clone()
	if database != "" {
		if err := params.Set("dbname", database); err != nil {
			return err
		}
	}
	session, err := dial(ctx, r.report, params, r.prompt)
	if server := (*connect.ServerError)(nil); errors.As(err, &server) && server.Code == cannotConnectNow {
		return fmt.Errorf("%w: %s", errStarting, server.Message)
	}
	if err != nil {
		return err
	}
	if password := session.Params.Value("password"); password != "" {
		*r.password, r.prompt = password, promptNever
	}
	r.params = session.Params
	conn := converse(r.report, session)
	defer conn.Close()
	if err := conn.ClearSearchPath(ctx); err != nil {
		return err
	}
	return what(conn)
}

// readServer asks the server how far it is.
func (d *restoredDir) readServer(ctx context.Context, c *client.Conn) (*restoredServer, error) {
	var s restoredServer
	pause := "pg_is_wal_replay_paused()"
	if c.Version >= 140000 {
		pause = "pg_get_wal_replay_pause_state() = 'paused'"
	}
	rows, err := c.Query(ctx, `SELECT system_identifier, extract(epoch FROM pg_postmaster_start_time())::bigint, pg_is_in_recovery(),
		CASE WHEN pg_is_in_recovery() THEN `+pause+` ELSE false END, coalesce(pg_last_wal_replay_lsn(), '0/0'),
		extract(epoch FROM pg_last_xact_replay_timestamp()), CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint())
		ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END, current_setting('port')
		FROM pg_control_system()`)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || len(rows[0]) != 8 {
		return nil, errors.New("the server does not answer with one row")
	}
	var texts [8]string
	for i, value := range rows[0] {
		texts[i] = string(value)
	}
	if err := d.isOurs(texts[0], texts[1], texts[7]); err != nil {
		return nil, err
	}
	s.inRecovery, s.paused = texts[2] == "t", texts[3] == "t"
	if s.lsn, err = wal.ParseLSN(texts[4]); err != nil {
		return nil, err
	}
	if texts[5] != "" {
		at, err := strconv.ParseFloat(texts[5], 64)
		if err != nil {
			return nil, err
		}
		s.last = time.UnixMicro(int64(at * 1e6)).UTC()
	}
	timeline, err := strconv.ParseUint(texts[6], 10, 32)
	if err != nil {
		return nil, err
	}
	s.timeline = wal.Timeline(timeline)
	if err := d.readLacking(ctx, c, &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// startTolerance is how far a postmaster's two notions of when it started may be apart.
const startTolerance = 60 // seconds

// isOurs sees that the server is the one of the directory, and not its source, which has the same number.
func (d *restoredDir) isOurs(systemID, started, port string) error {
	const hint = "Leave the connection away: how to reach the server of the directory is in its postmaster.pid."
	id, err := strconv.ParseInt(systemID, 10, 64)
	if err != nil {
		return err
	}
	at, err := strconv.ParseInt(started, 10, 64)
	if err != nil {
		return err
	}
	switch apart := at - d.running.started.Unix(); {
	case uint64(id) != d.systemID:
		return usererr.Hinted(hint, "the server is of the cluster with system identifier %d, and \"%s\" of %d", uint64(id), d.path, d.systemID)
	case port != d.running.port, apart < -startTolerance || apart > startTolerance:
		return usererr.Hinted(hint, "the server is another one than that of \"%s\": it was started at %s with port %s, and that at %s with port %s",
			d.path, stamp(time.Unix(at, 0)), port, stamp(d.running.started), d.running.port)
	}
	return nil
}

// readLacking compares settings with those of the primary. With less of one a standby pauses as it does at a target.
//
// Source: CheckRequiredParameterValues in src/backend/access/transam/xlogrecovery.c, PostgreSQL 18.
func (d *restoredDir) readLacking(ctx context.Context, c *client.Conn, s *restoredServer) error {
	if !s.inRecovery {
		return nil
	}
	k := d.control
	for _, want := range []struct {
		name  string
		least uint32
	}{
		{"max_connections", k.MaxConnections}, {"max_worker_processes", k.MaxWorkerProcesses}, {"max_wal_senders", k.MaxWALSenders},
		{"max_prepared_transactions", k.MaxPreparedTransactions}, {"max_locks_per_transaction", k.MaxLocksPerTransaction},
	} {
		text, err := c.Show(ctx, want.name)
		if err != nil {
			return err
		}
		if have, err := strconv.ParseUint(text, 10, 32); err == nil && uint32(have) < want.least {
			s.lacking = append(s.lacking, fmt.Sprintf("%s is %d, and was %d", want.name, have, want.least))
		}
	}
	return nil
}

// readContents asks what is left to look after: prepared transactions, indexes that are not valid, collations
// that sort otherwise here. Databases of the directory that are empty are not asked.
func (r *restoredConn) readContents(ctx context.Context, d *restoredDir, s *restoredServer) error {
	var databases []string
	list := func(c *client.Conn, into *[]string, query string) error {
		rows, err := c.Query(ctx, query)
		for _, row := range rows {
			if len(row) != 1 {
				return fmt.Errorf("the server does not answer with one column to %s", query)
			}
			*into = append(*into, string(row[0]))
		}
		return err
	}
	err := r.ask(ctx, "", func(c *client.Conn) error {
		rows, err := c.Query(ctx, "SELECT datname, oid, dattablespace FROM pg_database WHERE datallowconn ORDER BY 1")
		if err != nil {
			return err
		}
		for _, row := range rows {
			if len(row) != 3 {
				return errors.New("the server does not answer with three columns of databases")
			}
			if d.isEmptyDatabase(string(row[1]), string(row[2])) {
				s.empty = append(s.empty, string(row[0]))
			} else {
				databases = append(databases, string(row[0]))
			}
		}
		if c.Version >= 150000 {
			if err := list(c, &s.collations, `SELECT format('database %I: version %s, and here it is %s', datname, datcollversion, pg_database_collation_actual_version(oid))
				FROM pg_database WHERE datallowconn AND datcollversion <> pg_database_collation_actual_version(oid) ORDER BY 1`); err != nil {
				return err
			}
		}
		if s.inRecovery {
			return nil
		}
		rows, err = c.Query(ctx, `SELECT format('%L of %I in %I, since %s', gid, owner, database, prepared), database, transaction FROM pg_prepared_xacts ORDER BY prepared`)
		s.prepared = []string{}
		for _, row := range rows {
			if len(row) != 3 {
				return errors.New("the server does not answer with three columns of prepared transactions")
			}
			s.prepared = append(s.prepared, string(row[0])+s.stuck(string(row[1]), string(row[2])))
		}
		if err != nil {
			return err
		}
		s.unmet, err = unmetStandbys(ctx, c)
		return err
	})
	if err != nil {
		return err
	}
	for _, database := range databases {
		err := r.ask(ctx, database, func(c *client.Conn) error {
			if err := list(c, &s.invalid, `SELECT format('%s in %I', indexrelid::regclass, current_database()) FROM pg_index WHERE NOT indisvalid ORDER BY 1`); err != nil {
				return err
			}
			return list(c, &s.collations, `SELECT format('%s in %I: version %s, and here it is %s', oid::regcollation, current_database(), collversion, pg_collation_actual_version(oid))
				FROM pg_collation WHERE collversion <> pg_collation_actual_version(oid) ORDER BY 1`)
		})
		if err != nil {
			return fmt.Errorf("database %s: %s", database, strings.TrimSpace(err.Error()))
		}
	}
	return nil
}

// unmetStandbys returns synchronous_standby_names if commits wait since there are fewer standbys than it asks for, as far as the role may know.
// Roles and databases may have another synchronous_commit than the server.
func unmetStandbys(ctx context.Context, c *client.Conn) (string, error) {
	rows, err := c.Query(ctx, `SELECT current_setting('synchronous_standby_names') WHERE pg_has_role('pg_read_all_stats', 'USAGE')
		AND current_setting('synchronous_commit') NOT IN ('local', 'off') AND (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))
			< coalesce(substring(current_setting('synchronous_standby_names') FROM '^\s*(?:ANY\s+|FIRST\s+|any\s+|first\s+)?([0-9]+)\s*\(')::int, 1)`)
	if err != nil || len(rows) == 0 || len(rows[0]) != 1 {
		return "", err
	}
	return string(rows[0][0]), nil
}

// stuck tells how to be rid of a prepared transaction of a database that is empty, to which nobody can connect, as who ends it must.
// It is empty for one of any other.
//
// Source: TwoPhaseFilePath and restoreTwoPhaseData in src/backend/access/transam/twophase.c, PostgreSQL 18.
func (s *restoredServer) stuck(database, transaction string) string {
	xid, err := strconv.ParseUint(transaction, 10, 32)
	if err != nil || !slices.Contains(s.empty, database) {
		return ""
	}
	return fmt.Sprintf(": nobody can end it, and the database cannot be dropped before; stop the server, remove the file in pg_twophase whose name ends in %08X, which rolls it back, and start it", xid)
}

// isStarting says whether a server is there and not open yet.
func isStarting(err error) bool {
	server := (*pgconn.PgError)(nil)
	return errors.Is(err, errStarting) || errors.As(err, &server) && server.Code == cannotConnectNow
}
