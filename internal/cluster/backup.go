package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/backup"
	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/live"
	"basin/internal/manifest"
	"basin/internal/protocol"
	"basin/internal/server"
)

// backupName is the application_name of the session that a backup is made in.
const backupName = "basin backup"

// Backup prepares a base backup for a client.
func (c *Cluster) Backup(ctx context.Context, r server.BackupRequest) (backup.Source, error) {
	o, err := BackupOptions(r.Command)
	if err != nil {
		return nil, err
	}
	o.Parent = r.Parent
	o.Notice = func(n live.Notice) {
		r.Notice(server.Error{Severity: n.Severity, Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint})
	}
	return c.Source(ctx, o)
}

// Source prepares a backup of the data directory. What it needs of the cluster itself it
// gets here: DataDir, Session and Pin need not be set.
func (c *Cluster) Source(ctx context.Context, o live.Options) (backup.Source, error) {
	o.DataDir = c.o.DataDir
	if o.TempDir == "" {
		o.TempDir = c.o.TempDir
	}
	// A small backup takes about as long as it takes to connect: both at once.
	type pinned struct {
		*pin
		err error
	}
	made := make(chan pinned, 1)
	pinning, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() {
		p, err := c.pin(pinning)
		made <- pinned{p, err}
	}()
	session, err := c.openSession(ctx, o.Notice)
	if err != nil {
		giveUp()
	}
	p := <-made
	if err == nil && p.err == nil {
		o.Session, o.Pin = session, p.pin
		return live.New(o), nil
	}
	err = cmp.Or(err, p.err)
	if session != nil {
		err = errors.Join(err, session.Close())
	}
	if p.pin != nil {
		err = errors.Join(err, p.Close())
	}
	return nil, err
}

// openSession makes the session that a backup is made in.
func (c *Cluster) openSession(ctx context.Context, notice func(live.Notice)) (*session, error) {
	conn, err := c.dial(ctx, wanted{applicationName: backupName})
	if err != nil {
		return nil, err
	}
	conn.Notice = func(n *pgconn.Notice) {
		if notice != nil {
			notice(live.Notice{Severity: n.Severity, Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint})
		}
	}
	if err := prepareSession(ctx, conn); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &session{conn: conn, cluster: c}, nil
}

// BackupOptions returns what a command asks of a backup.
func BackupOptions(b protocol.BaseBackup) (live.Options, error) {
	o := live.Options{
		Label: b.Label, FastCheckpoint: b.FastCheckpoint, NoWait: b.NoWait, WAL: b.WAL, TablespaceMap: b.TablespaceMap,
		EstimateSize: b.Progress, NoVerifyChecksums: b.NoVerifyChecksums, Algorithm: manifest.CRC32C,
	}
	switch b.Manifest {
	case "yes":
		o.Manifest = live.WithManifest
	case "force-encode":
		o.Manifest = live.ForceEncoding
	}
	if b.ManifestChecksums == "" {
		return o, nil
	}
	var err error
	o.Algorithm, err = manifest.ParseAlgorithm(b.ManifestChecksums)
	return o, err
}

// checkInterval is how often the cluster looks whether a backup's session is still there
// while that waits, as for a checkpoint.
const checkInterval = time.Second

// prepareSession is prepare, and has the session end with its connection.
func prepareSession(ctx context.Context, conn *client.Conn) error {
	if err := prepare(ctx, conn); err != nil {
		return err
	}
	if conn.Version < 140000 {
		return nil
	}
	_, err := conn.Query(ctx, fmt.Sprintf("SET client_connection_check_interval = %d", checkInterval.Milliseconds()))
	if errors.As(err, new(*connect.ServerError)) {
		return nil // a system where the server cannot
	}
	return err
}

// session is an ordinary connection as package live uses it.
type session struct {
	conn    *client.Conn
	cluster *Cluster
	given   bool // up in the middle of a statement, which goes on
}

// Query runs a statement.
func (s *session) Query(ctx context.Context, sql string) ([][][]byte, error) {
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		s.given = s.given || ctx.Err() != nil
		return nil, err
	}
	plain := make([][][]byte, len(rows))
	for i, row := range rows {
		plain[i] = row
	}
	return plain, nil
}

// Close ends the session. A statement that waits would only notice that at its end, such as
// that of a checkpoint: it is ended.
func (s *session) Close() error {
	err := s.conn.Close()
	if s.given {
		statement := fmt.Sprintf("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pid = %d AND application_name = %s",
			s.conn.PID, literal(backupName))
		if _, err := s.cluster.query(context.Background(), statement); err != nil {
			s.cluster.log.Warn("a session of a backup that was given up was not ended", "error", err)
		}
	}
	return err
}
