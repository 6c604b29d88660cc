// Package monitor tells others how a receiver of the log is doing: Prometheus and
// health checks over HTTP, whoever reads its status file, and systemd.
//
// It is told what happens, and asks a client.ReceiveProgress for the rest. It holds
// up nothing: each of those it tells has a goroutine of its own, and what cannot be
// served or written is told to Warn while the receiver goes on. It keeps no history,
// decides nothing and alerts nobody.
package monitor

import (
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"basin/internal/client"
	"basin/internal/usererr"
)

// Options say who is told of what. Progress is required.
type Options struct {
	Version   string // of the program
	Slot      string // empty for none
	Directory string // where the log is kept

	// Progress tells how far the stream is: that of a client.ReceiveProgress. It is called
	// from any goroutine.
	Progress func() client.ReceiveStatus

	Listen     string      // HOST:PORT to answer HTTP at; empty answers nowhere
	StatusFile string      // path; empty writes none
	Supervisor *Supervisor // nil if there is none

	// Interval is how often, at least, the status file is written and the supervisor
	// told; zero is DefaultInterval.
	Interval time.Duration

	// Warn, if not nil, is told why somebody could not be told, from any goroutine,
	// and only once until it works again.
	Warn func(error)
}

// DefaultInterval is how often a state is told that does not change.
const DefaultInterval = 10 * time.Second

// Monitor tells how a receiver is doing. Its methods may be called from any goroutine.
type Monitor struct {
	o       Options
	started time.Time
	http    *endpoint // nil if there is none
	outlets []*outlet

	mu      sync.Mutex
	state   State
	since   time.Time // of state
	beat    time.Time // when the receiver was last heard of
	backlog func() int

	systemID, applicationName string
	streams, errors, warnings int64
	lastError                 *Problem
	gaps                      []string
	ending                    *Ending
}

// Start begins to tell. An address that is taken, or a status file that cannot be
// written now, is an error; later it is not.
func Start(o Options) (*Monitor, error) {
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	now := time.Now()
	m := &Monitor{o: o, started: now, state: Starting, since: now, beat: now}
	if o.Listen != "" {
		var err error
		if m.http, err = listen(o.Listen, "streaming", m.metrics, m.trouble, o.Warn); err != nil {
			return nil, err
		}
	}
	if o.StatusFile != "" {
		if err := writeStatusFile(o.StatusFile, m.Status()); err != nil {
			if m.http != nil {
				m.http.close()
			}
			return nil, err
		}
		m.outlets = append(m.outlets, newOutlet(o.Interval, o.Warn, func(s Status) error {
			return writeStatusFile(o.StatusFile, s)
		}))
	}
	if s := o.Supervisor; s != nil {
		every := o.Interval
		if s.Watchdog > 0 {
			every = min(every, s.Watchdog/2)
		}
		m.outlets = append(m.outlets, newOutlet(every, o.Warn, s.tell))
	}
	for _, outlet := range m.outlets {
		go outlet.run(m.Status)
	}
	return m, nil
}

func (m *Monitor) metrics() string { return exposition(m.Status()) }
func (m *Monitor) trouble() string { return m.Status().Trouble() }

// Address returns where HTTP is answered, as HOST:PORT; empty is nowhere.
func (m *Monitor) Address() string {
	if m.http == nil {
		return ""
	}
	return m.http.address
}

// Connecting is told of each attempt to reach the server, before it is made.
func (m *Monitor) Connecting() { m.change(func() {}) }

// Connected is told what cluster the server is of, and as what we are known there.
func (m *Monitor) Connected(systemID, applicationName string) {
	m.change(func() { m.systemID, m.applicationName = systemID, applicationName })
}

// Opened is told how to ask how many complete segments are yet to be compressed.
// backlog is called from any goroutine.
func (m *Monitor) Opened(backlog func() int) {
	m.change(func() { m.backlog = backlog })
}

// Gaps is told which segments are missing in the directory; each text names one or
// a range of them.
func (m *Monitor) Gaps(gaps []string) {
	m.change(func() { m.gaps = slices.Clone(gaps) })
}

// Streaming is told that the server has begun to send the log.
func (m *Monitor) Streaming() {
	m.change(func() {
		m.streams++
		m.enter(Streaming)
	})
}

// Disconnected is told why an attempt or a stream ended, if there is to be another.
func (m *Monitor) Disconnected(err error) {
	m.change(func() {
		m.failed(err)
		m.enter(Disconnected)
	})
}

// Warned is told of a problem that ended nothing.
func (m *Monitor) Warned() { m.change(func() { m.warnings++ }) }

// Stopping is told that the receiver is about to end.
func (m *Monitor) Stopping() { m.change(func() { m.enter(Stopping) }) }

// last is how long those who are told that the receiver has ended are waited for.
const last = 5 * time.Second

// End is told how the receiver ended, and why if that is an error. It returns once
// that was told, or could not be told in time; nothing is told any more.
func (m *Monitor) End(err error, e Ending) {
	m.note(func() {
		if err != nil {
			m.failed(err)
		}
		e.At = time.Now()
		m.ending = &e
		m.enter(Ended)
	})
	for _, outlet := range m.outlets {
		close(outlet.quit)
	}
	timeout := time.NewTimer(last)
	defer timeout.Stop()
	for _, outlet := range m.outlets {
		select {
		case <-outlet.done:
		case <-timeout.C:
			timeout.Reset(0) // for none of the others either
		}
	}
	if m.http != nil {
		m.http.close()
	}
}

// change notes an event, and has it told.
func (m *Monitor) change(do func()) {
	m.note(do)
	for _, outlet := range m.outlets {
		outlet.kick()
	}
}

func (m *Monitor) note(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.beat = time.Now()
	do()
}

// enter notes the state. What is about to end does not come to life again. m is locked.
func (m *Monitor) enter(s State) {
	if m.state == s || m.state == Ended || m.state == Stopping && s != Ended {
		return
	}
	m.state, m.since = s, time.Now()
}

// failed notes an error. m is locked.
func (m *Monitor) failed(err error) {
	m.errors++
	m.lastError = &Problem{At: time.Now(), Message: err.Error(), Detail: usererr.Detail(err), Hint: usererr.Hint(err)}
	if errors.Is(err, client.ErrGap) {
		m.gaps = append(m.gaps, "what follows "+m.o.Progress().Received.String())
	}
}

// Status returns how the receiver is doing now.
func (m *Monitor) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	p := m.o.Progress()
	s := Status{
		Format: Format, Version: m.o.Version, PID: os.Getpid(),
		Started: m.started, Written: now, State: m.state, Since: m.since,
		SystemID: m.systemID, Slot: m.o.Slot, ApplicationName: m.applicationName, Directory: m.o.Directory,
		Timeline: uint32(p.Timeline), Bytes: p.Bytes, Segments: p.Segments,
		Reconnects: max(m.streams-1, 0), Errors: m.errors, Warnings: m.warnings,
		LastError: m.lastError, Gaps: append([]string{}, m.gaps...), Ended: m.ending,
		streams: m.streams, progress: p,
	}
	if m.backlog != nil {
		s.Uncompressed = int64(m.backlog())
	}
	if p.Timeline != 0 {
		s.Received, s.Flushed = p.Received.String(), p.Flushed.String()
	}
	if p.ServerEnd != 0 {
		s.ServerEnd = p.ServerEnd.String()
		behind := max(int64(p.ServerEnd)-int64(p.Flushed), 0)
		s.LagBytes = &behind
	}
	if m.state != Streaming || p.ServerEnd == 0 || p.Received < p.ServerEnd {
		caughtUp := p.CaughtUp
		if caughtUp.IsZero() {
			caughtUp = m.started
		}
		s.LagSeconds = max(now.Sub(caughtUp), 0).Seconds()
	}
	if !p.LastHeard.IsZero() {
		s.LastMessage = &p.LastHeard
	}
	s.step = m.step(now, p)
	s.StepSeconds = s.step.Seconds()
	return s
}

// step is how long the receiver has been at what it is doing: zero if that is to wait
// for more of the log. m is locked.
func (m *Monitor) step(now time.Time, p client.ReceiveStatus) time.Duration {
	switch {
	case m.state == Streaming && p.BusySince.IsZero(), m.state == Ended:
		return 0
	}
	begun := m.beat
	if p.BusySince.After(begun) {
		begun = p.BusySince
	}
	return max(now.Sub(begun), 0)
}

// outlet is one way to tell: at every change, and now and then.
type outlet struct {
	every time.Duration
	warn  func(error)
	tell  func(Status) error

	changed    chan struct{} // of capacity one
	quit, done chan struct{}
	failing    bool
}

func newOutlet(every time.Duration, warn func(error), tell func(Status) error) *outlet {
	return &outlet{
		every: max(every, time.Millisecond), warn: warn, tell: tell,
		changed: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
}

// kick has the outlet tell, soon.
func (o *outlet) kick() {
	select {
	case o.changed <- struct{}{}:
	default: // it is to tell already
	}
}

// run tells until quit is closed, and then once more.
func (o *outlet) run(status func() Status) {
	defer close(o.done)
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for {
		select {
		case <-o.changed:
		case <-tick.C:
		case <-o.quit:
			o.once(status())
			return
		}
		o.once(status())
	}
}

func (o *outlet) once(s Status) {
	err := o.tell(s)
	if err != nil && !o.failing {
		o.warn(err)
	}
	o.failing = err != nil
}
