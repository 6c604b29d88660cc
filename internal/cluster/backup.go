package cluster

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/backup"
	"basin/internal/client"
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
	conn, err := c.dial(ctx, "", "", backupName)
	if err != nil {
		return nil, err
	}
	conn.Notice = func(n *pgconn.Notice) {
		if o.Notice != nil {
			o.Notice(live.Notice{Severity: n.Severity, Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint})
		}
	}
	o.DataDir, o.Session = c.o.DataDir, session{conn}
	if o.TempDir == "" {
		o.TempDir = c.o.TempDir
	}
	o.Pin = func(ctx context.Context) (live.Pin, error) {
		p, err := c.pin(ctx)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return live.New(o), nil
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

// session is an ordinary connection as package live uses it.
type session struct{ conn *client.Conn }

// Query runs a statement.
func (s session) Query(ctx context.Context, sql string) ([][][]byte, error) {
	rows, err := s.conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	plain := make([][][]byte, len(rows))
	for i, row := range rows {
		plain[i] = row
	}
	return plain, nil
}

// Close ends the session.
func (s session) Close() error { return s.conn.Close() }
