package cluster

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"basin/internal/client"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// followName is the application_name of the stream that tells how far the log is.
const followName = "basin serve"

// Limits of the pause between two attempts to reach the log.
const (
	leastPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
)

// Follow has the cluster send its log, which tells how far it is flushed, until ctx ends.
// When the stream breaks it is begun again.
func (c *Cluster) Follow(ctx context.Context) error {
	pause := leastPause
	for {
		begun := time.Now()
		err := c.follow(ctx)
		c.setFollowed(false)
		if ctx.Err() != nil {
			return nil
		}
		if errors.As(err, new(*otherCluster)) {
			return err
		}
		if time.Since(begun) > mostPause {
			pause = leastPause
		}
		c.log.Warn("the stream of the cluster's log has ended", "error", err, "retry_in", pause.String())
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		pause = min(2*pause, mostPause)
	}
}

// otherCluster is what was found in place of the cluster, or of the state it was in.
type otherCluster struct{ error }

// follow is one stream.
func (c *Cluster) follow(ctx context.Context) error {
	conn, err := c.dial(ctx, wanted{replication: "true", applicationName: followName})
	if err != nil {
		return err
	}
	defer conn.Close()
	system, err := conn.IdentifySystem(ctx)
	if err != nil {
		return err
	}
	if own := strconv.FormatUint(c.fixed.SystemID, 10); system.ID != own {
		return &otherCluster{usererr.Hinted("Start this server again for the cluster that is there now.",
			"the connection leads to cluster %s now, not to %s", system.ID, own)}
	}
	if err := c.checkForward(ctx, system.Position); err != nil {
		return err
	}
	c.feed.Advance(system.Position)
	return client.ReceiveWAL(ctx, conn, c.feed, client.ReceiveOptions{
		SystemID: system.ID, Start: system.Position, Segment: c.fixed.SegmentSize, Watch: true,
		StatusInterval: statusInterval, Started: func(wal.Position) { c.setFollowed(true) },
	})
}

// checkForward sees that a primary's log goes on from where it was known to be flushed. If its
// files were put back under it, what clients were sent is no more its log.
func (c *Cluster) checkForward(ctx context.Context, at wal.Position) error {
	known, _ := c.feed.Flushed()
	if at.Timeline != known.Timeline || at.LSN >= known.LSN {
		return nil
	}
	d, err := c.Describe(ctx)
	if err != nil || d.Standby { // which may have to receive again what it had
		return err
	}
	return &otherCluster{usererr.Hinted("Was the cluster put back to an earlier state? Start this server again, and look at the standbys.",
		"the cluster's log ends at %v, but was flushed up to %v before", at.LSN, known.LSN)}
}

// statusInterval is how often the cluster is told that somebody is there.
const statusInterval = 10 * time.Second

// pin keeps the log on the cluster, by a stream with a temporary slot that stays where it
// was made: a slot that no stream uses may be invalidated, as by idle_replication_slot_timeout.
type pin struct {
	slot   string
	conn   *client.Conn
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// pin keeps the log from now on.
func (c *Cluster) pin(ctx context.Context) (*pin, error) {
	conn, err := c.dial(ctx, wanted{replication: "true", applicationName: "basin pin"})
	if err != nil {
		return nil, fmt.Errorf("to keep the log for the backup: %w", err)
	}
	p := &pin{slot: fmt.Sprintf("basin_%d", conn.PID), conn: conn, done: make(chan struct{})}
	system, err := conn.IdentifySystem(ctx)
	if err == nil {
		err = conn.CreatePhysicalSlot(ctx, p.slot, true, true)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("to keep the log for the backup: %w", err), conn.Close())
	}
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	started := make(chan struct{})
	go func() {
		defer close(p.done)
		p.err = client.ReceiveWAL(streaming, conn, discard{}, client.ReceiveOptions{
			Start: system.Position, Segment: c.fixed.SegmentSize, Slot: p.slot, Watch: true,
			StatusInterval: statusInterval, Started: func(wal.Position) { close(started) },
		})
		if p.err == nil {
			p.err = errors.New("the stream has ended")
		}
	}()
	select {
	case <-started:
		return p, nil
	case <-p.done:
		return nil, errors.Join(fmt.Errorf("to keep the log for the backup: %w", p.err), p.Close())
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), p.Close())
	}
}

// Slot returns the name of the slot.
func (p *pin) Slot() string { return p.slot }

// Done is closed when the log is kept no longer.
func (p *pin) Done() <-chan struct{} { return p.done }

// Err returns why, once Done is closed.
func (p *pin) Err() error { return p.err }

// Close lets go of the log.
func (p *pin) Close() error {
	p.cancel()
	<-p.done // until then the connection is the stream's
	return p.conn.Close()
}

// discard is a wal.Keeper that keeps nothing.
type discard struct{}

func (discard) Begin(string, int64) (wal.SegmentWriter, error) { return discard{}, nil }
func (discard) History(string, []byte) error                   { return nil }
func (discard) Write(p []byte) (int, error)                    { return len(p), nil }
func (discard) Flush() error                                   { return nil }
func (discard) Finish() error                                  { return nil }
func (discard) Abandon() error                                 { return nil }
