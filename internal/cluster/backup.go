package cluster

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/backup"
	"basin/internal/client"
	"basin/internal/live"
	"basin/internal/manifest"
	"basin/internal/server"
)

// backupName is the application_name of the session that a backup is made in.
const backupName = "basin backup"

// Backup prepares a base backup.
func (c *Cluster) Backup(ctx context.Context, r server.BackupRequest) (backup.Source, error) {
	o, err := options(r)
	if err != nil {
		return nil, err
	}
	conn, err := c.dial(ctx, "", "", backupName)
	if err != nil {
		return nil, err
	}
	conn.Notice = func(n *pgconn.Notice) {
		r.Notice(server.Error{Severity: n.Severity, Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint})
	}
	o.DataDir, o.TempDir = c.o.DataDir, c.o.TempDir
	o.Session = session{conn}
	o.Pin = func(ctx context.Context) (live.Pin, error) {
		p, err := c.pin(ctx)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	return live.New(o), nil
}

// options are those of the backup that a client wants.
func options(r server.BackupRequest) (live.Options, error) {
	b := r.Command
	o := live.Options{
		Label: b.Label, FastCheckpoint: b.FastCheckpoint, NoWait: b.NoWait, WAL: b.WAL, TablespaceMap: b.TablespaceMap,
		EstimateSize: b.Progress, NoVerifyChecksums: b.NoVerifyChecksums, Parent: r.Parent, Algorithm: manifest.CRC32C,
		Notice: func(n live.Notice) {
			r.Notice(server.Error{Severity: n.Severity, Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint})
		},
	}
	switch b.Manifest {
	case "yes":
		o.Manifest = live.WithManifest
	case "force-encode":
		o.Manifest = live.ForceEncoding
	}
	if b.ManifestChecksums != "" {
		var err error
		o.Algorithm, err = manifest.ParseAlgorithm(b.ManifestChecksums)
		return o, err
	}
	return o, nil
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
