package client

import (
	"sync/atomic"
	"time"

	"basin/internal/wal"
)

// ReceiveProgress tells how far a stream of the log is. ReceiveWAL writes it, one
// stream after another if need be, and anyone may read it at any time. The zero
// value is ready.
type ReceiveProgress struct {
	timeline   atomic.Uint32
	position   atomic.Uint64
	durable    atomic.Uint64
	serverEnd  atomic.Uint64
	bytes      atomic.Int64
	segments   atomic.Int64
	lastHeard  atomic.Int64 // in nanoseconds of the Unix time; zero is never
	caughtUpAt atomic.Int64 // likewise
	busySince  atomic.Int64 // likewise; zero while the stream waits for the server
}

// ReceiveStatus is what is known of a stream at one moment.
type ReceiveStatus struct {
	Timeline  wal.Timeline // zero before the first stream
	Received  wal.LSN      // up to here the log was handed to the keeper
	Flushed   wal.LSN      // up to here it is durable, or a segment is complete
	ServerEnd wal.LSN      // up to here the server had it when it was last heard; zero if it never was
	Bytes     int64        // received since the start
	Segments  int64        // completed since the start
	LastHeard time.Time    // when the server last sent log or a keepalive
	// CaughtUp is when all that the server was known to have had last been received.
	CaughtUp time.Time
	// BusySince is when the stream began what it is doing, such as to write or to flush
	// what came. It is zero while there is nothing to do but to wait for the server,
	// and when there is no stream.
	BusySince time.Time
}

// Status returns what is known now. Its fields are read one after another, while
// the stream may go on.
func (p *ReceiveProgress) Status() ReceiveStatus {
	return ReceiveStatus{
		Timeline: wal.Timeline(p.timeline.Load()),
		Received: wal.LSN(p.position.Load()), Flushed: wal.LSN(p.durable.Load()), ServerEnd: wal.LSN(p.serverEnd.Load()),
		Bytes: p.bytes.Load(), Segments: p.segments.Load(),
		LastHeard: moment(p.lastHeard.Load()), CaughtUp: moment(p.caughtUpAt.Load()),
		BusySince: moment(p.busySince.Load()),
	}
}

func moment(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

// begin is told where a stream starts.
func (p *ReceiveProgress) begin(t wal.Timeline, at wal.LSN) {
	p.timeline.Store(uint32(t))
	p.position.Store(uint64(at))
	p.durable.Store(uint64(at))
}

// identified is told how far a server is that may be another than before.
func (p *ReceiveProgress) identified(end wal.LSN) { p.serverEnd.Store(uint64(end)) }

// heard is told how far the server said that it is. With log it says how much it
// has, in a keepalive only how much of that it has sent: the most of it counts.
//
// Source: WalSndKeepalive in src/backend/replication/walsender.c, PostgreSQL 18.
func (p *ReceiveProgress) heard(end wal.LSN) {
	now := time.Now().UnixNano()
	p.lastHeard.Store(now)
	known := max(p.serverEnd.Load(), uint64(end))
	p.serverEnd.Store(known)
	if p.position.Load() >= known {
		p.caughtUpAt.Store(now)
	}
}

// received is told of n bytes that were written, up to pos.
func (p *ReceiveProgress) received(pos wal.LSN, n int) {
	p.position.Store(uint64(pos))
	p.bytes.Add(int64(n))
	if uint64(pos) >= p.serverEnd.Load() {
		p.caughtUpAt.Store(p.lastHeard.Load())
	}
}

func (p *ReceiveProgress) flushed(pos wal.LSN) { p.durable.Store(uint64(pos)) }

// works is told that the stream begins to do something, rests that it waits for the
// server, or ends.
func (p *ReceiveProgress) works() { p.busySince.Store(time.Now().UnixNano()) }
func (p *ReceiveProgress) rests() { p.busySince.Store(0) }
