package server

import (
	"context"
	"sync"
	"time"

	"basin/internal/wal"
)

// streamState is how far a client of a stream is.
type streamState struct {
	Sent                wal.Position // up to where the log was sent
	Write, Flush, Apply wal.LSN      // as the client said last; zero is nothing
	Heard               time.Time    // when it said something last; zero is never
}

// streamProgress is a streamState that is kept up to date, and may be read at any
// time. The zero value is one of a client that nothing is known of.
type streamProgress struct {
	mu sync.Mutex
	s  streamState
}

func (p *streamProgress) state() streamState {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.s
}

func (p *streamProgress) sent(to wal.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Sent = to
}

func (p *streamProgress) hear(h hearing, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.s.Heard = now
	if h.status != nil {
		p.s.Write, p.s.Flush, p.s.Apply = h.status.Write, h.status.Flush, h.status.Apply
	}
}

// listener hears what the client says, however long the stream is held up by a
// client that reads slowly. It keeps what matters of it, so a client that talks a lot
// fills no memory.
type listener struct {
	progress *streamProgress
	woken    chan struct{} // has one when something was heard
	goOn     chan struct{} // has one when what ended the listening is of no matter
	timeout  time.Duration // zero is none
	watch    *time.Timer   // of the timeout; nil for none

	mu    sync.Mutex
	heard time.Time // when the client said something last, or the stream began
	asked bool      // it was asked to, since
	said  said
}

// said is what the client has said and nobody has answered.
type said struct {
	reply bool // it wants a keepalive
	done  bool // CopyDone
	err   error
}

// listen receives until the client ends the stream, an error, or the end of ctx.
// Nothing that follows what ended it is received.
func (l *listener) listen(ctx context.Context, p peer) {
	for {
		kind, body, err := p.Receive(ctx)
		if err != nil {
			l.note(said{err: ending{err}})
			return
		}
		h := parseClient(kind, body)
		l.hear(h)
		if !h.done && h.err == nil {
			continue
		}
		select {
		case <-l.goOn:
		case <-ctx.Done():
			return
		}
	}
}

// hear notes what a message comes to.
func (l *listener) hear(h hearing) {
	now := time.Now()
	l.progress.hear(h, now)
	if l.watch != nil {
		l.watch.Reset(l.timeout)
	}
	l.mu.Lock()
	l.heard, l.asked = now, false
	l.mu.Unlock()
	l.note(said{reply: h.status != nil && h.status.Reply, done: h.done, err: h.err})
}

// note has what was said be answered.
func (l *listener) note(s said) {
	l.mu.Lock()
	l.said = said{reply: l.said.reply || s.reply, done: s.done, err: s.err}
	l.mu.Unlock()
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// take returns what is to be answered. A keepalive is wanted once.
func (l *listener) take() said {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.said
	l.said.reply = false
	return s
}

// forgive has what ended the listening be of no matter.
func (l *listener) forgive() {
	l.mu.Lock()
	l.said.err = nil
	l.mu.Unlock()
	l.goOn <- struct{}{}
}

// ask notes that the client was asked for a sign of life.
func (l *listener) ask() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = true
}

// askInterval is how often a client is asked, at the end of a stream, whether it
// has all.
const askInterval = 100 * time.Millisecond

// due returns when the client is to be asked for a sign of life: after half of the
// timeout, or, if the stream is to end, now and then. last is when it was last asked.
// The zero time is never.
//
// Source: WalSndKeepaliveIfNecessary and WalSndDone in
// src/backend/replication/walsender.c, PostgreSQL 18.
func (l *listener) due(ends bool, last time.Time) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.asked:
		return time.Time{}
	case ends:
		return last.Add(askInterval)
	case l.timeout > 0:
		return l.heard.Add(l.timeout / 2)
	}
	return time.Time{}
}
