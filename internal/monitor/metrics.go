package monitor

import (
	"runtime"
	"strconv"
	"strings"
	"time"
)

// maxLabel is how many bytes of an error's text a label holds.
const maxLabel = 200

// exposition returns the status in the text format of Prometheus.
//
// It is written here because two dozen numbers do not need the official library,
// with which the program would be 2.6 MB larger, by a third, for seven more modules.
//
// Source: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
func exposition(s Status) string {
	e := exposer{prefix: "basin_receivewal_"}
	p := s.progress
	e.gauge("build_info", "Always 1; the labels say what program this is.", 1,
		"version", s.Version, "goversion", runtime.Version())
	e.gauge("info", "Always 1; the labels say what is received. The cluster is empty before the first connection.", 1,
		"system_identifier", s.SystemID, "slot", s.Slot, "application_name", s.ApplicationName, "directory", s.Directory)
	e.moment("start_time_seconds", "When the receiver was started, in seconds of the Unix time.", s.Started)
	e.gauge("streaming", "1 while the log is streamed, else 0.", truth(s.State == Streaming))
	e.moment("state_timestamp_seconds", "When that it streams, or does not, last changed.", s.Since)
	if p.Timeline != 0 {
		e.gauge("timeline", "Timeline of the log that is received.", int64(p.Timeline))
		e.gauge("received_lsn_bytes", "Position up to which the log was received, as a number of bytes.", int64(p.Received))
		e.gauge("flushed_lsn_bytes", "Position up to which the log is on disk.", int64(p.Flushed))
	}
	if s.LagBytes != nil {
		e.gauge("server_lsn_bytes", "Position up to which the server was last known to have the log.", int64(p.ServerEnd))
		e.gauge("lag_bytes", "Log that the server is known to have and that is not on disk here.", *s.LagBytes)
	}
	e.seconds("lag_seconds", "How long ago all that the server had was here; 0 while it is and the log is streamed.", s.LagSeconds)
	e.moment("last_message_timestamp_seconds", "When the server last sent log or a keepalive.", p.LastHeard)
	e.seconds("step_seconds", "How long the present step has taken, such as a flush; 0 while more of the log is waited for.", s.StepSeconds)
	e.counter("received_bytes_total", "Bytes of the log that were received, some of them again after a disconnect.", s.Bytes)
	e.counter("completed_segments_total", "Segments that were completed.", s.Segments)
	e.gauge("uncompressed_segments", "Complete segments that are yet to be compressed.", s.Uncompressed)
	e.counter("reconnects_total", "Streams that were begun after the first.", s.Reconnects)
	e.counter("errors_total", "Errors, each of which ended a stream or an attempt at one.", s.Errors)
	e.counter("warnings_total", "Warnings, which ended nothing.", s.Warnings)
	e.gauge("gaps", "Stretches of the log that are missing in the directory. No server can be restored through them.", int64(len(s.Gaps)))
	if s.LastError != nil {
		e.moment("last_error_timestamp_seconds", "When the last error was.", s.LastError.At)
		e.gauge("last_error_info", "Always 1; the label is the last error.", 1, "message", clip(s.LastError.Message))
	}
	return e.String()
}

// exposer writes metrics, each with its help and its type.
type exposer struct {
	strings.Builder
	prefix string // of all names
}

func (e *exposer) gauge(name, help string, value int64, labels ...string) {
	e.metric("gauge", name, help, strconv.FormatInt(value, 10), labels)
}

func (e *exposer) counter(name, help string, value int64) {
	e.metric("counter", name, help, strconv.FormatInt(value, 10), nil)
}

func (e *exposer) seconds(name, help string, value float64) {
	e.metric("gauge", name, help, strconv.FormatFloat(value, 'f', 3, 64), nil)
}

// moment writes a time, but not one that never was.
func (e *exposer) moment(name, help string, t time.Time) {
	if !t.IsZero() {
		e.seconds(name, help, float64(t.UnixMilli())/1000)
	}
}

// metric writes one metric. labels are names and values in turn.
func (e *exposer) metric(kind, name, help, value string, labels []string) {
	e.WriteString("# HELP " + e.prefix + name + " " + help + "\n")
	e.WriteString("# TYPE " + e.prefix + name + " " + kind + "\n")
	e.WriteString(e.prefix + name + labelText(labels))
	e.WriteString(" " + value + "\n")
}

// escapes are those of the values of labels.
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// clip returns the beginning of an error's first line.
func clip(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line[:min(len(line), maxLabel)]
}
