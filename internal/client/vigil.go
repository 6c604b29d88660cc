package client

import (
	"context"
	"errors"
	"math"
	"net"
	"os"
	"time"

	"basin/internal/usererr"
)

// vigil is how a stream keeps in touch with its server: reports are sent in time,
// and a server that fell silent is noticed. What else a stream waits for is its
// own affair, and so are the reports.
//
// The connection is read by the goroutine that deals with what comes: log comes in
// small messages, and to hand over each from another goroutine costs more than all
// the rest. A read waits no longer than until something is due, and is interrupted
// when something is asked for.
type vigil struct {
	conn     *Conn
	progress *ReceiveProgress // told whether the stream is at work
	timeout  time.Duration    // a server that is silent for longer is given up; zero waits for ever
	interval time.Duration    // between reports; zero reports only when asked

	report func(wantReply bool) error
	asked  func() error                  // does what was asked for meanwhile
	due    func() (time.Duration, error) // if not nil, does what else is due, and says when it is again

	streaming bool      // statuses may be sent
	ended     bool      // we told the server that we want no more
	reported  time.Time // when the last status was sent
	silent    time.Time // since when the server has been waited for
	called    time.Time // when it was then asked for a sign of life; zero if it was not
	waiting   time.Time // until when a read waits; zero if that is to be set
	lastRead  int       // bytes that the last read brought
}

// read waits for the next block of the stream, and meanwhile does what is to be done.
// Whoever asks for something calls what interrupter returned then.
func (v *vigil) read(ctx context.Context) (block, error) {
	v.heard()
	conn := v.conn.conn
	for {
		until := v.untilNext()
		if v.due != nil {
			next, err := v.due()
			if err != nil {
				return block{}, err
			}
			until = min(until, next)
		}
		// Before it is looked for what was asked: what is from now on interrupts the read.
		if at := time.Now().Add(until); v.waiting.IsZero() || at.Before(v.waiting) {
			v.waiting = at
			_ = conn.SetReadDeadline(at) // fails if the connection is closed, and so does the read
		}
		if ctx.Err() != nil {
			return block{}, context.Cause(ctx)
		}
		if err := v.asked(); err != nil {
			return block{}, err
		}
		v.progress.rests()
		n, err := conn.Read(v.conn.buf)
		if err == nil {
			n = v.readOn(n)
		}
		v.progress.works()
		v.lastRead = n
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return block{v.conn.buf[:n], err}, nil
		}
		v.waiting = time.Time{}
		if err := v.alarm(); err != nil {
			return block{}, err
		}
	}
}

// layered is a connection that makes something else of what another brings: a tls.Conn.
type layered interface{ NetConn() net.Conn }

// readPatience is how long the rest of something is waited for of which a part is there.
const readPatience = 5 * time.Millisecond

// readOn reads more of what is there, up to a full buffer, and returns how much the
// buffer then holds. A read of a socket brings all of it, but one of TLS no more than
// a record, and the server makes one of every message.
func (v *vigil) readOn(n int) int {
	conn, ok := v.conn.conn.(layered)
	if !ok {
		return n
	}
	over, buf := v.conn.conn, v.conn.buf
	v.waiting = time.Time{}
	for isPatient := false; n < len(buf); {
		until := longAgo // yields what was read with what came before, and waits for nothing
		if isPatient {
			until = time.Now().Add(readPatience)
		}
		_ = over.SetReadDeadline(until) // as in read
		m, err := over.Read(buf[n:])
		n += m
		switch {
		case err == nil:
			isPatient = false
		case isPatient || !errors.Is(err, os.ErrDeadlineExceeded) || !isReadable(conn.NetConn()):
			return n // an error comes again
		default:
			isPatient = true
		}
	}
	return n
}

// begin has the end of ctx interrupt reads and writes, until end is called.
func (v *vigil) begin(ctx context.Context) (end func()) {
	v.conn.release() // from now on it is up to read what the end of a context means
	v.conn.conn = newSocket(v.conn.conn)
	v.conn.writeTimeout = v.timeout
	conn := v.conn.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(longAgo) }) // fails if the connection is closed
	return func() { stop() }
}

// cause returns what the end of ctx was for if it interrupted a write, which says nothing
// of that itself, and else err.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}

// interrupter returns a function that has a read see what was asked for. It may be
// called from any goroutine, and when the vigil is over.
func (v *vigil) interrupter() func() {
	conn := v.conn.conn
	return func() { _ = conn.SetReadDeadline(longAgo) } // fails if the connection is closed
}

// heard begins to wait for the server. That is not when it was last heard: our
// own disk may have taken the time since.
func (v *vigil) heard() { v.silent, v.called = time.Now(), time.Time{} }

// talks says whether reports can be sent: during the COPY, until we end it.
func (v *vigil) talks() bool { return v.streaming && !v.ended }

// deadline is when something must be done about the server's silence: to ask
// for a sign of life after half the time, to give up after the other half.
func (v *vigil) deadline() time.Time {
	switch {
	case v.timeout == 0:
		return time.Now().Add(math.MaxInt64)
	case !v.talks():
		return v.silent.Add(v.timeout)
	case v.called.IsZero():
		return v.silent.Add(v.timeout / 2)
	}
	return v.called.Add(v.timeout / 2)
}

// untilNext is how long nothing needs to be done if the server says nothing.
func (v *vigil) untilNext() time.Duration {
	until := time.Until(v.deadline())
	if v.interval > 0 && v.talks() {
		until = min(until, time.Until(v.reported.Add(v.interval)))
	}
	return max(until, 0)
}

// reportInTime sends a report if one is due.
func (v *vigil) reportInTime() error {
	if v.interval == 0 || !v.talks() || time.Since(v.reported) < v.interval {
		return nil
	}
	return v.report(false)
}

// alarm does what is due.
func (v *vigil) alarm() error {
	switch {
	case time.Now().Before(v.deadline()):
		return v.reportInTime()
	case v.talks() && v.called.IsZero():
		v.called = time.Now()
		return v.report(true)
	}
	return usererr.Hinted("See whether the server and the network are up, then start again.",
		"terminating WAL stream: nothing came from the server for %v", v.timeout)
}
