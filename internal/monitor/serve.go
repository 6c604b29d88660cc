package monitor

import (
	"runtime"
	"sync"
	"time"

	"basin/internal/server"
	"basin/internal/wal"
)

// ServerOptions say who is told how a server is doing, and by whom that is known. Status
// and Log are required.
type ServerOptions struct {
	Version  string // of the program
	SystemID string // of the cluster

	Status func() server.Status
	// Log tells how far the cluster's log is known to be flushed, and since when it is not
	// heard of; the zero time while it is.
	Log func() (flushed wal.Position, lost time.Time)

	Listen     string      // HOST:PORT to answer HTTP at; empty answers nowhere
	Supervisor *Supervisor // nil if there is none
	Warn       func(error) // is told why somebody could not be told, from any goroutine; may be nil
}

// ServerMonitor tells how a server is doing: over HTTP, and systemd. Make it once the
// server listens, and Close it when it ends.
type ServerMonitor struct {
	o    ServerOptions
	http *endpoint // nil if there is none
	stop chan struct{}
	done sync.WaitGroup
}

// StartServer begins to tell. An address that is taken is an error.
func StartServer(o ServerOptions) (*ServerMonitor, error) {
	if o.Warn == nil {
		o.Warn = func(error) {}
	}
	m := &ServerMonitor{o: o, stop: make(chan struct{})}
	if o.Listen != "" {
		var err error
		if m.http, err = listen(o.Listen, "serving", m.metrics, m.trouble, o.Warn); err != nil {
			return nil, err
		}
	}
	if o.Supervisor != nil {
		m.done.Go(m.tell)
	}
	return m, nil
}

// Address returns where HTTP is answered, as HOST:PORT; empty is nowhere.
func (m *ServerMonitor) Address() string {
	if m.http == nil {
		return ""
	}
	return m.http.address
}

// Close tells nobody any more.
func (m *ServerMonitor) Close() {
	close(m.stop)
	m.done.Wait()
	if m.http != nil {
		m.http.close()
	}
}

// tell tells the supervisor that the server is ready, is alive, and ends.
func (m *ServerMonitor) tell() {
	s := m.o.Supervisor
	every := DefaultInterval
	if s.Watchdog > 0 {
		every = min(every, s.Watchdog/2)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	text := "READY=1\n"
	for isLast := false; ; {
		if err := s.send(text + "STATUS=" + m.summary()); err != nil {
			m.o.Warn(err)
		}
		if isLast {
			return
		}
		text = "WATCHDOG=1\n"
		select {
		case <-tick.C:
		case <-m.stop:
			text, isLast = "STOPPING=1\n", true
		}
	}
}

// summary says in a line how the server is doing.
func (m *ServerMonitor) summary() string {
	if trouble := m.trouble(); trouble != "" {
		return trouble
	}
	return "serving"
}

// trouble says what is wrong; nothing while all is well.
func (m *ServerMonitor) trouble() string {
	if _, lost := m.o.Log(); !lost.IsZero() {
		return "the cluster cannot be reached since " + lost.UTC().Format(time.RFC3339)
	}
	return ""
}

// metrics returns how the server is doing in the text format of Prometheus.
func (m *ServerMonitor) metrics() string {
	e := exposer{prefix: "basin_serve_"}
	s := m.o.Status()
	flushed, lost := m.o.Log()
	e.gauge("build_info", "Always 1; the labels say what program this is.", 1, "version", m.o.Version, "goversion", runtime.Version())
	e.gauge("info", "Always 1; the label says which cluster is served.", 1, "system_identifier", m.o.SystemID)
	e.gauge("cluster_reachable", "1 while the cluster sends its log, else 0.", truth(lost.IsZero()))
	if flushed.Timeline != 0 {
		e.gauge("timeline", "Timeline of the cluster's log.", int64(flushed.Timeline))
		e.gauge("flushed_lsn_bytes", "Position up to which the cluster's log is known to be flushed, as a number of bytes.", int64(flushed.LSN))
	}
	e.gauge("sessions", "Clients that are connected.", int64(s.Sessions))
	e.gauge("base_backups", "Base backups that run.", s.Backups)
	e.gauge("streams", "Streams of the log that run.", s.Streams)
	e.counter("connections_total", "Connections that were made.", s.Connections)
	e.counter("refused_connections_total", "Connections that were refused, as there were too many.", s.Refused)
	e.counter("failed_sessions_total", "Clients that were not let in, or were lost.", s.Failed)
	e.counter("base_backups_total", "Base backups that were sent.", s.BackupsDone)
	e.counter("failed_base_backups_total", "Base backups that were begun and ended in an error.", s.BackupsFailed)
	e.counter("sent_bytes_total", "Bytes of base backups that were sent, as they went over the wire.", s.BytesSent)
	return e.String()
}
