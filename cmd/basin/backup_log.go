package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"basin/internal/backup"
	"basin/internal/client"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

const (
	// logPause is how long it is waited at first after the stream of the log broke; each time it is twice as long.
	logPause = 500 * time.Millisecond
	// maxLogPause is how long it is waited at most.
	maxLogPause = 30 * time.Second
	// logTries is how often it is tried, once the backup has ended, without anything that comes.
	logTries = 5
	// archivePatience is how long it is waited then for the log to come from archive_command.
	archivePatience = time.Minute
)

// streamLog keeps the log in the repository while the backup runs, up to its end. That its stream breaks is no reason to
// give the backup up: it is taken up where it broke. If that cannot be, it is seen in the end whether the
// log came another way.
func (b *repositoryBackup) streamLog(ctx context.Context, start backup.Start, stop <-chan wal.Position) error {
	from := start.Position
	var end *wal.Position
	pause, tries := logPause, 0
	for {
		attempt := make(chan wal.Position, 1)
		if end != nil {
			attempt <- *end
		}
		over, told := make(chan struct{}), make(chan wal.Position, 1)
		go func() {
			defer close(told)
			select {
			case p := <-stop:
				attempt <- p
				told <- p
			case <-over:
			}
		}()
		var progress client.ReceiveProgress
		err := b.receiveLog(ctx, from, attempt, &progress)
		close(over)
		if p, ok := <-told; ok {
			end = &p
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, fs.ErrExist) { // what is in the repository is of another cluster
			return fmt.Errorf("the log of the backup: %w", err)
		}
		if at := progress.Status(); at.Received > from.LSN && at.Timeline != 0 {
			from = wal.Position{LSN: at.Received, Timeline: at.Timeline}
			pause, tries = logPause, 0
		}
		if tries++; end != nil && tries >= logTries {
			b.logLost = err
			return nil
		}
		b.report.warning("the stream of the log broke, and is taken up again in %v: %s", pause, firstLine(err))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case p := <-stop:
			end = &p
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		pause = min(2*pause, maxLogPause)
	}
}

// receiveLog streams the log from a position on, over a connection of its own.
func (b *repositoryBackup) receiveLog(ctx context.Context, from wal.Position, stop <-chan wal.Position, progress *client.ReceiveProgress) error {
	session, err := dial(ctx, b.report, b.session.Pinned(), promptNever) // the log of another server would be of no use
	if err != nil {
		return err
	}
	conn := converse(b.report, session)
	defer conn.Close()
	slot := ""
	if !b.o.NoSlot {
		slot = fmt.Sprintf("basin_backup_%d", conn.PID)
		if err := conn.CreatePhysicalSlot(ctx, slot, true, true); err != nil {
			return err
		}
	}
	return client.ReceiveWAL(ctx, conn, b.cluster.NewLogKeeper(ctx), client.ReceiveOptions{
		SystemID: b.system.ID, Start: from, Segment: b.segment, Slot: slot, Stop: stop, StatusInterval: 10 * time.Second,
		Progress: progress,
	})
}

// checkLog sees that the log is there that a backup needs.
func (b *repositoryBackup) checkLog(ctx context.Context, commit *repo.Commit) error {
	if !b.repository.CanRead() {
		if b.logLost == nil {
			return nil
		}
		return usererr.Hinted("See with basin list, where the private key is, whether archive_command has pushed it.",
			"backup %s is there, but its log could not be streamed to its end: %w", commit.ID, b.logLost)
	}
	deadline := time.Now().Add(archivePatience)
	for {
		_, err := b.cluster.Reach(ctx, *commit, commit.Stop.Timeline)
		switch {
		case err == nil:
			return nil
		case b.logLost == nil:
			return err
		case ctx.Err() != nil || time.Now().After(deadline):
			return usererr.Hinted("The backup restores once basin wal push has brought that log, as archive_command does.",
				"backup %s is there, but not all of the log that it needs: %w; it could not be streamed: %w", commit.ID, err, b.logLost)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}
