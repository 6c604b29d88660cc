package main

import (
	"context"
	"fmt"
	"time"

	"basin/internal/backup"
	"basin/internal/client"
	"basin/internal/plain"
	"basin/internal/seal"
	"basin/internal/tarball"
	"basin/internal/wal"
)

// streamLog keeps the log over a connection of its own while the backup runs.
//
// Source: StartLogStreamer in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func (b *baseBackupRun) streamLog(ctx context.Context, start backup.Start, stop <-chan wal.Position) (err error) {
	b.verbose("starting background WAL receiver")
	// What follows has limits of its own; this is not to hang before.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(client.DefaultTimeout, func() {
		cancel(fmt.Errorf("could not start the WAL receiver: the server took more than %v", client.DefaultTimeout))
	})
	conn, slot, err := b.connectLog(ctx)
	limit.Stop()
	if conn != nil {
		defer conn.Close()
	}
	if err != nil {
		return err
	}
	keeper, err := b.keeper()
	if err != nil {
		return err
	}
	defer func() {
		if closed := keeper.Close(); err == nil {
			err = closed
		}
	}()
	err = client.ReceiveWAL(ctx, conn, keeper, client.ReceiveOptions{
		SystemID: b.system.ID, Start: start.Position, Segment: b.segment, Slot: slot,
		Stop: stop, StatusInterval: b.o.StatusInterval,
		Durable: b.o.Slot != "" && !b.o.NoSync, // a temporary slot does not outlive what it would have to be durable against
	})
	if err != nil {
		return fmt.Errorf("background process terminated unexpectedly: %w", err)
	}
	return keeper.Commit()
}

// connectLog opens the connection for the log and makes the slot that holds the
// log back, if one is to be made. slot is empty if none is used.
func (b *baseBackupRun) connectLog(ctx context.Context) (conn *client.Conn, slot string, err error) {
	session, err := dialPatiently(ctx, b.report, b.session.Pinned(), promptNever) // the log of another server would be of no use
	if err != nil {
		return nil, "", err
	}
	conn = converse(b.report, session)
	switch {
	case b.o.Slot != "" && !b.o.CreateSlot:
		return conn, b.o.Slot, nil
	case b.o.Slot != "":
		if err := conn.CreatePhysicalSlot(ctx, b.o.Slot, false, true); err != nil {
			return conn, "", err
		}
		b.createdSlot = true
		b.verbose("created replication slot \"%s\"", b.o.Slot)
		return conn, b.o.Slot, nil
	case b.o.NoSlot:
		return conn, "", nil
	}
	slot = fmt.Sprintf("pg_basebackup_%d", conn.PID)
	if err := conn.CreatePhysicalSlot(ctx, slot, true, true); err != nil {
		return conn, "", err
	}
	b.verbose("created temporary replication slot \"%s\"", slot)
	return conn, slot, nil
}

// logKeeper is where the streamed log is kept.
type logKeeper interface {
	wal.Keeper
	Commit() error // the log is whole
	Close() error  // before Commit, it is not
}

// keeper returns where the streamed log is kept.
func (b *baseBackupRun) keeper() (logKeeper, error) {
	if b.o.Format == formatPlain {
		return plain.NewLog(plain.LogOptions{
			Dir: b.dir, WALDir: b.walDir, ServerVersion: b.conn.Version,
			DirMode: b.dirMode, FileMode: b.fileMode, Sync: b.syncer(),
		})
	}
	o := tarball.LogOptions{Dir: b.dir, FileMode: b.fileMode, Sync: b.syncer()}
	// Tools know pg_wal.tar by its name: only gzip ever added to it.
	if spec := b.o.Compression.Client; spec.Algorithm == seal.Gzip || b.o.CompressWAL {
		o.Compress, o.Suffix = compressor(spec)
	}
	return tarball.NewLog(o)
}
