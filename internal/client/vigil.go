package client

import (
	"io"
	"math"
	"time"

	"basin/internal/usererr"
)

// vigil is how a stream keeps in touch with its server: what comes is read
// without holding up the rest, reports are sent in time, and a server that fell
// silent is noticed. What else a stream waits for is its own affair, and so are
// the reports.
type vigil struct {
	conn     *Conn
	timeout  time.Duration // a server that is silent for longer is given up; zero waits for ever
	interval time.Duration // between reports; zero reports only when asked
	report   func(wantReply bool) error

	blocks chan block  // what was read from the connection
	free   chan []byte // buffers to read into
	held   []byte      // the buffer of the block in hand; nil if there is none

	streaming bool      // statuses may be sent
	ended     bool      // we told the server that we want no more
	reported  time.Time // when the last status was sent
	silent    time.Time // since when the server has been waited for
	asked     time.Time // when it was then asked for a sign of life; zero if it was not
}

// readBuffers are how many blocks are read ahead: while one is written, the next is read.
const readBuffers = 2

// begin starts reading from the connection. It goes on until finish is called.
func (v *vigil) begin() {
	v.conn.release() // from now on it is up to wait what the end of a context means
	v.blocks, v.free = make(chan block, readBuffers), make(chan []byte, readBuffers)
	for range readBuffers {
		v.free <- make([]byte, blockSize)
	}
	go readAhead(v.conn.conn, v.blocks, v.free)
}

func (v *vigil) finish() { close(v.free) }

// readAhead fills the buffers that are free, so that the stream can do other things
// meanwhile and knows whether more is there. It may outlive its vigil for as long
// as a read takes.
func readAhead(conn io.Reader, blocks chan<- block, free <-chan []byte) {
	for buf := range free {
		n, err := conn.Read(buf)
		blocks <- block{buf[:n], err} // there is room for every buffer
	}
}

// listen lets go of the block in hand, to wait for the next that v.blocks yields.
func (v *vigil) listen() {
	if v.held != nil {
		v.free <- v.held
		v.held = nil
	}
	v.heard()
}

// heard begins to wait for the server. That is not when it was last heard: our
// own disk may have taken the time since.
func (v *vigil) heard() { v.silent, v.asked = time.Now(), time.Time{} }

// hold takes a block that v.blocks yielded in hand, until listen.
func (v *vigil) hold(b block) block {
	v.held = b.p[:cap(b.p)]
	return b
}

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
	case v.asked.IsZero():
		return v.silent.Add(v.timeout / 2)
	}
	return v.asked.Add(v.timeout / 2)
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
	case v.talks() && v.asked.IsZero():
		v.asked = time.Now()
		return v.report(true)
	}
	return usererr.Hinted("See whether the server and the network are up, then start again.",
		"terminating WAL stream: nothing came from the server for %v", v.timeout)
}
