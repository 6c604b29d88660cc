package main

import (
	"context"
	"runtime"

	"basin/internal/backup"
	"basin/internal/cluster"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/live"
	"basin/internal/manifest"
	"basin/internal/protocol"
)

// localCluster is a cluster whose data directory is read here.
type localCluster struct {
	*cluster.Cluster
	parent *manifest.Catalog // nil for a full backup
}

func (l *localCluster) close() {
	_ = l.Close() // it was only asked
	if l.parent != nil {
		_ = l.parent.Close()
	}
}

// openLocal connects to the cluster of a data directory, as a session that there is was made.
func openLocal(ctx context.Context, request conninfo.Request, session *connect.Session, dir string) (*localCluster, error) {
	request.Ordinary = true
	params, err := request.Params()
	if err != nil {
		return nil, err
	}
	if password := session.Params.Value("password"); password != "" { // that was perhaps asked for
		if err := params.Set("password", password); err != nil {
			return nil, err
		}
	}
	c, err := cluster.Open(ctx, cluster.Options{Params: params, System: conninfo.ThisSystem(), DataDir: dir})
	if err != nil {
		return nil, err
	}
	return &localCluster{Cluster: c}, nil
}

// localSource returns a backup that is made of the server's data directory.
func (b *baseBackupRun) localSource(ctx context.Context, command protocol.BaseBackup) (backup.Source, error) {
	var err error
	if b.local, err = openLocal(ctx, b.request, b.session, b.o.SourceDirectory); err != nil {
		return nil, err
	}
	o, err := cluster.BackupOptions(command)
	if err != nil {
		return nil, err
	}
	o.Apart = b.o.Format == formatPlain
	o.Progress = &b.counts
	o.Notice = func(n live.Notice) { b.report.notice(connect.NoticeText(n.Severity, n.Message, n.Detail, n.Hint)) }
	if b.manifest != nil {
		info, err := b.manifest.Stat()
		if err != nil {
			return nil, err
		}
		if b.local.parent, err = manifest.NewCatalog(b.manifest, info.Size(), ""); err != nil {
			return nil, err
		}
		o.Parent = b.local.parent
	}
	source, err := b.local.Source(ctx, o)
	if err != nil || command.MaxRate == 0 {
		return source, err
	}
	return backup.WithRate(source, int64(command.MaxRate)*1024), nil
}

// workers returns how many files are copied side by side.
func (b *baseBackupRun) workers() int {
	if b.local == nil {
		return 1 // what a server sends comes one after the other
	}
	return runtime.GOMAXPROCS(0)
}
