// Package cluster knows a running PostgreSQL cluster as package server answers
// from it: its data directory for backups, its pg_wal for the log, and
// connections to it for all that only it can do.
//
// It brings packages client, live and feed together, and has no protocol and no
// file format of its own.
package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/feed"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/server"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Options say which cluster it is. DataDir is required.
type Options struct {
	Params     conninfo.Params // of connections to it; need not be complete
	System     conninfo.System // completes them
	DataDir    string          // as it is found here
	ArchiveDir string          // where log is that pg_wal has no more; empty is nowhere
	TempDir    string          // for what is too much for memory; empty is the system's

	// Password asks the user for a password, if the cluster wants one. Nil never asks.
	Password func(ctx context.Context) (string, error)

	Log *slog.Logger // nil logs nothing
}

// Cluster is a running cluster. It is a server.Cluster.
type Cluster struct {
	o      Options
	log    *slog.Logger
	params conninfo.Params // complete
	feed   *feed.Feed

	fixed      server.Description // what does not change
	nonce      []byte             // of the control file
	iterations int                // scram_iterations; zero before 16

	mu      sync.Mutex
	control *client.Conn // an ordinary connection, for questions; nil while there is none
	idle    *time.Timer  // that ends it

	state sync.Mutex

	lost time.Time // since when the stream of the log is broken; the zero time while it is not
}

// Open connects to the cluster, once, to learn what it is.
func Open(ctx context.Context, o Options) (*Cluster, error) {
	o.System.Getenv = withoutSession(o.System.Getenv)
	params, err := o.Params.Complete(o.System)
	if err != nil {
		return nil, err
	}
	c := &Cluster{o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), params: params}
	session, err := connect.Connect(ctx, connect.Options{Params: o.Params, System: o.System, Password: o.Password, Timeout: connect.DefaultTimeout})
	if err != nil {
		return nil, err
	}
	c.params = session.Params
	c.control = client.NewConn(session)
	if err := prepare(ctx, c.control); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.fixed = server.Description{ServerVersion: session.ServerVersion, Version: session.Version}
	if err := c.identify(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.feed = feed.New(feed.Options{
		Dir: filepath.Join(o.DataDir, "pg_wal"), ArchiveDir: o.ArchiveDir,
		SegmentSize: c.fixed.SegmentSize, SystemID: c.fixed.SystemID, Major: c.fixed.Major(),
	})
	c.lost = time.Now()
	err = c.checkDirectory()
	if err == nil {
		err = c.findLog(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// withoutSession returns an environment without what libpq would make settings of a session of:
// those are for whoever runs this program, and not for its clients.
func withoutSession(getenv func(string) string) func(string) string {
	return func(name string) string {
		switch name {
		case "PGDATESTYLE", "PGTZ", "PGGEQO", "PGOPTIONS":
			return ""
		}
		if getenv == nil {
			return ""
		}
		return getenv(name)
	}
}

// checkDirectory makes sure that the data directory can be read and is that of the cluster.
func (c *Cluster) checkDirectory() error {
	path := filepath.Join(c.o.DataDir, filepath.FromSlash(pgdata.ControlPath))
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return usererr.Hinted("Name the directory that the cluster shows as data_directory.", "\"%s\" is not a data directory: it has no %s", c.o.DataDir, pgdata.ControlPath)
	}
	if err != nil {
		return localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	control, err := pgdata.ParseControl(content)
	for try := 0; errors.Is(err, pgdata.ErrControlChecksum) && try < 10; try++ { // it is being written
		if content, err = os.ReadFile(path); err == nil {
			control, err = pgdata.ParseControl(content)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if dir := c.o.ArchiveDir; dir != "" {
		if root, err := os.OpenRoot(dir); err != nil {
			return localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
		} else if err := root.Close(); err != nil {
			return err
		}
	}
	c.nonce = control.Nonce[:]
	if control.SystemID != c.fixed.SystemID {
		return usererr.Hinted("Name the data directory of the server that the connection leads to.",
			"data directory \"%s\" is of cluster %d, but the connection leads to cluster %d", c.o.DataDir, control.SystemID, c.fixed.SystemID)
	}
	return nil
}

// findLog makes sure that the cluster would send its log, and learns how far it is.
func (c *Cluster) findLog(ctx context.Context) error {
	conn, err := c.dial(ctx, wanted{replication: "true", applicationName: followName})
	if err != nil {
		return usererr.Hinted("The role needs the attribute REPLICATION, and a line in the cluster's pg_hba.conf for the database replication.",
			"the cluster's log: %w", err)
	}
	defer conn.Close()
	system, err := conn.IdentifySystem(ctx)
	if err != nil {
		return err
	}
	c.feed.Advance(system.Position)
	return nil
}

// Close ends the connection for questions. Others are closed by who has them.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle != nil {
		c.idle.Stop()
	}
	if c.control == nil {
		return nil
	}
	err := c.control.Close()
	c.control = nil
	return err
}

// Secret returns what is known to the cluster alone and lasts as long.
func (c *Cluster) Secret() []byte {
	sum := sha256.Sum256(append([]byte("basin serve"), c.nonce...))
	return sum[:]
}

// Iterations returns how often the cluster hashes a new password.
func (c *Cluster) Iterations() int { return c.iterations }

// SystemID returns the cluster's number, which initdb gave it.
func (c *Cluster) SystemID() string { return strconv.FormatUint(c.fixed.SystemID, 10) }

// Followed returns how far the log is known to be flushed, and since when the cluster does
// not send it; the zero time while it does.
func (c *Cluster) Followed() (flushed wal.Position, lost time.Time) {
	flushed, _ = c.feed.Flushed()
	c.state.Lock()
	defer c.state.Unlock()
	return flushed, c.lost
}

// setFollowed notes whether the cluster sends its log.
func (c *Cluster) setFollowed(is bool) {
	c.state.Lock()
	defer c.state.Unlock()
	switch {
	case is:
		c.lost = time.Time{}
	case c.lost.IsZero():
		c.lost = time.Now()
	}
}

// identify learns what does not change.
func (c *Cluster) identify(ctx context.Context) error {
	if err := c.control.CheckVersion(); err != nil {
		return err
	}
	row, err := c.ask(ctx, `SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()),
		pg_catalog.current_setting('wal_segment_size'), coalesce(pg_catalog.current_setting('scram_iterations', true), '0')`, 3)
	if err != nil {
		return usererr.Hinted("The role needs to be a superuser, or to have the rights that the documentation lists.", "what the cluster is: %w", err)
	}
	id, err := strconv.ParseInt(row[0], 10, 64) // SQL has no numbers without a sign
	if err != nil {
		return fmt.Errorf("system identifier: %w", err)
	}
	c.fixed.SystemID = uint64(id)
	if c.iterations, err = strconv.Atoi(row[2]); err != nil {
		return fmt.Errorf("scram_iterations: %w", err)
	}
	c.fixed.SegmentSize, err = wal.ParseSegmentSize(row[1])
	return err
}

// Describe tells what the cluster is now.
func (c *Cluster) Describe(ctx context.Context) (server.Description, error) {
	row, err := c.ask(ctx, `SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('synchronous_standby_names'),
		pg_catalog.current_setting('TimeZone'), pg_catalog.current_setting('server_encoding'),
		pg_catalog.current_setting('DateStyle'), pg_catalog.current_setting('IntervalStyle'),
		CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_flush_lsn() END`, 7)
	if err != nil {
		return server.Description{}, err
	}
	d := c.fixed
	d.Standby, d.Synchronous = row[0] == "t", row[1]
	d.Settings = map[string]string{"TimeZone": row[2], "server_encoding": row[3], "DateStyle": row[4], "IntervalStyle": row[5]}
	d.Flushed, err = wal.ParseLSN(row[6])
	return d, err
}

// Role is what the cluster knows of one who wants to be let in.
type Role struct {
	Verifier    string // of its password, as pg_authid has it
	Replication bool   // it may replicate
}

// Role returns a role that may log in. The cluster's own role has to be allowed to read
// pg_authid.
//
// Source: get_role_password in src/backend/libpq/crypt.c, PostgreSQL 18.
func (c *Cluster) Role(ctx context.Context, name string) (r Role, ok bool, err error) {
	if strings.ContainsRune(name, 0) {
		return Role{}, false, nil
	}
	rows, err := c.query(ctx, `SELECT coalesce(rolpassword, ''), rolreplication OR rolsuper FROM pg_catalog.pg_authid
		WHERE rolname = `+literal(name)+` AND rolcanlogin AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())`)
	if err != nil || len(rows) == 0 {
		return Role{}, false, err
	}
	return Role{Verifier: string(rows[0][0]), Replication: string(rows[0][1]) == "t"}, true, nil
}

// MayConnect says whether a role may connect to a database, and whether there is such a
// database.
//
// Source: CheckMyDatabase in src/backend/utils/init/postinit.c, PostgreSQL 18.
func (c *Cluster) MayConnect(ctx context.Context, role, database string) (may, exists bool, err error) {
	rows, err := c.query(ctx, `SELECT datallowconn AND pg_catalog.has_database_privilege(`+literal(role)+`, oid, 'CONNECT')
		FROM pg_catalog.pg_database WHERE datname = `+literal(database))
	if err != nil || len(rows) == 0 {
		return false, false, err
	}
	return string(rows[0][0]) == "t", true, nil
}

// prepare has a session read quoted strings as they are written, whatever the role is set to,
// and call no function of a user's.
func prepare(ctx context.Context, conn *client.Conn) error {
	_, err := conn.Query(ctx, "SET standard_conforming_strings = on; SET search_path = ''")
	return err
}

// literal returns s as a string literal, which means the same with and without
// standard_conforming_strings.
func literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if strings.Contains(s, "\\") {
		return " E" + strings.ReplaceAll(quoted, "\\", "\\\\")
	}
	return quoted
}

// askTimeout is how long the cluster may take for a question.
const askTimeout = 10 * time.Second

// ask returns the one row of so many columns that a question has for an answer.
func (c *Cluster) ask(ctx context.Context, sql string, columns int) ([]string, error) {
	rows, err := c.query(ctx, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 || len(rows[0]) != columns {
		return nil, fmt.Errorf("the cluster answered with %d rows to a question for one", len(rows))
	}
	row := make([]string, columns)
	for i, value := range rows[0] {
		row[i] = string(value)
	}
	return row, nil
}

// query asks the cluster on the connection for questions. One that has broken, as when the
// cluster was restarted, is made again.
func (c *Cluster) query(ctx context.Context, sql string) ([]client.Row, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	for attempt := 0; ; attempt++ {
		fresh := c.control == nil
		if fresh {
			var err error
			if c.control, err = c.dial(ctx, wanted{}); err != nil {
				return nil, err
			}
			if err := prepare(ctx, c.control); err != nil {
				c.drop()
				return nil, err
			}
		}
		rows, err := c.control.Query(ctx, sql)
		c.closeWhenIdle()
		if err == nil || errors.As(err, new(*connect.ServerError)) && !isEnding(err) {
			return rows, err
		}
		c.drop()
		if fresh || attempt > 0 || ctx.Err() != nil {
			return nil, err
		}
	}
}

// idleTime is how long the connection for questions stays without one. A cluster that is to
// stop once its clients have gone would wait for it.
const idleTime = 2 * time.Second

// closeWhenIdle ends the connection for questions if no other comes for some time.
func (c *Cluster) closeWhenIdle() {
	if c.idle == nil {
		c.idle = time.AfterFunc(idleTime, func() { _ = c.Close() }) // nobody waits for it
		return
	}
	c.idle.Reset(idleTime)
}

// drop gives the connection for questions up.
func (c *Cluster) drop() {
	_ = c.control.Close() // it is broken
	c.control = nil
}

// isEnding says whether the server has ended the connection with its error.
func isEnding(err error) bool {
	e := (*connect.ServerError)(nil)
	return errors.As(err, &e) && (e.Severity == "FATAL" || e.Severity == "PANIC")
}

// wanted says what connection to the cluster is to be made. The zero value is an ordinary one.
type wanted struct {
	replication     string            // true or database; empty for none
	database        string            // empty is that of the parameters
	applicationName string            // empty is that of the parameters
	settings        map[string]string // of the session, by name
}

// dial makes a connection.
func (c *Cluster) dial(ctx context.Context, w wanted) (*client.Conn, error) {
	params := c.params.Clone()
	options := params.Value("options")
	for _, name := range slices.Sorted(maps.Keys(w.settings)) {
		options += " -c " + name + "=" + optionEscapes.Replace(w.settings[name])
	}
	for _, p := range []struct{ name, value string }{
		{"replication", w.replication}, {"dbname", w.database}, {"application_name", w.applicationName},
		{"options", strings.TrimPrefix(options, " ")},
	} {
		if p.value == "" {
			continue
		}
		if err := params.Set(p.name, p.value); err != nil {
			return nil, err
		}
	}
	session, err := connect.Connect(ctx, connect.Options{Params: params, System: c.o.System, Timeout: connect.DefaultTimeout})
	if err != nil {
		return nil, err
	}
	return client.NewConn(session), nil
}

// optionEscapes are those of what options of a connection are apart by.
//
// Source: pg_split_opts in src/backend/utils/init/postinit.c, PostgreSQL 18.
var optionEscapes = strings.NewReplacer(`\`, `\\`, " ", `\ `, "\t", "\\\t", "\n", "\\\n", "\r", "\\\r", "\v", "\\\v", "\f", "\\\f")

// Upstream connects to the cluster for one client.
func (c *Cluster) Upstream(ctx context.Context, who server.Client) (server.Upstream, error) {
	mode := "true"
	if who.Database != "" {
		mode = "database"
	}
	conn, err := c.dial(ctx, wanted{replication: mode, database: who.Database, applicationName: who.ApplicationName, settings: who.Settings})
	if err != nil {
		return nil, err
	}
	return conn, nil
}
