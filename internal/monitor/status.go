package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"basin/internal/client"
	"basin/internal/localfs"
)

// State is what a receiver is at.
type State string

// The states. Streaming and Disconnected follow each other; the others come once.
const (
	Starting     State = "starting"     // nothing was received yet
	Streaming    State = "streaming"    // the server sends, or will once it has something
	Disconnected State = "disconnected" // the stream broke, and is tried again
	Stopping     State = "stopping"     // what came is being brought to an end
	Ended        State = "ended"
)

// Format is the version of what a status file holds: another one if a field is
// gone or means something else. New fields do not change it.
const Format = 1

// Status is how a receiver is doing. As JSON it is what the status file holds; every
// field is always there.
type Status struct {
	Format  int       `json:"format"`
	Version string    `json:"version"` // of the program
	PID     int       `json:"pid"`
	Started time.Time `json:"started_at"`
	Written time.Time `json:"written_at"`
	State   State     `json:"state"`
	Since   time.Time `json:"state_since"`

	SystemID        string `json:"system_identifier"` // of the cluster; empty before the first connection
	Slot            string `json:"slot"`              // empty if none is used
	ApplicationName string `json:"application_name"`
	Directory       string `json:"directory"`

	Timeline   uint32  `json:"timeline"`     // zero before the first stream
	Received   string  `json:"received_lsn"` // empty before the first stream, as the next two
	Flushed    string  `json:"flushed_lsn"`
	ServerEnd  string  `json:"server_lsn"`
	LagBytes   *int64  `json:"lag_bytes"`   // from Flushed to ServerEnd; null if that is not known
	LagSeconds float64 `json:"lag_seconds"` // since all that the server had was here; zero if it is
	// LastMessage is when the server last sent log or a keepalive; null is never.
	LastMessage *time.Time `json:"last_message_at"`
	StepSeconds float64    `json:"step_seconds"` // how long the present step, such as a flush, has taken

	Bytes        int64 `json:"received_bytes"`
	Segments     int64 `json:"completed_segments"`
	Uncompressed int64 `json:"uncompressed_segments"` // complete, and yet to be compressed
	Reconnects   int64 `json:"reconnects"`            // streams after the first
	Errors       int64 `json:"errors"`
	Warnings     int64 `json:"warnings"`

	LastError *Problem `json:"last_error"` // null if there was none
	Gaps      []string `json:"gaps"`       // missing segments; a server cannot be restored through them
	Ended     *Ending  `json:"ended"`      // null until then

	streams  int64
	progress client.ReceiveStatus
	step     time.Duration
}

// Problem is an error as its user was told.
type Problem struct {
	At      time.Time `json:"at"`
	Message string    `json:"message"`
	Detail  string    `json:"detail"` // may be empty
	Hint    string    `json:"hint"`   // may be empty
}

// Ending is how a receiver ended.
type Ending struct {
	At         time.Time `json:"at"`
	Reason     Reason    `json:"reason"`
	ExitStatus int       `json:"exit_status"` // as a shell shows it: 128 and its number if a signal ended the process
	Signal     string    `json:"signal"`      // SIGTERM; empty if it was none
}

// Reason is why a receiver ended.
type Reason string

// The reasons.
const (
	BySignal      Reason = "signal"
	AtEndPosition Reason = "end position"
	WithGap       Reason = "gap" // log is missing that no server and no slot held
	WithError     Reason = "error"
)

// stuckAfter is how long a step may take until health checks are told.
const stuckAfter = time.Minute

// Trouble returns what keeps the receiver from being healthy, one line for each
// problem; empty if it streams and no log is missing.
func (s Status) Trouble() string {
	var lines []string
	since := s.Since.Format(time.RFC3339)
	switch s.State {
	case Streaming:
	case Ended:
		lines = append(lines, fmt.Sprintf("ended at %s: %s", s.Ended.At.Format(time.RFC3339), s.Ended.Reason))
	default:
		lines = append(lines, fmt.Sprintf("%s since %s", s.State, since))
	}
	if s.State != Streaming && s.LastError != nil {
		lines = append(lines, "last error: "+s.LastError.Message)
	}
	if s.step >= stuckAfter {
		lines = append(lines, fmt.Sprintf("in the same step for %v", s.step.Round(time.Second)))
	}
	for _, gap := range s.Gaps {
		lines = append(lines, "missing: "+gap)
	}
	return strings.Join(lines, "\n")
}

// summary is one line about the receiver.
func (s Status) summary() string {
	switch {
	case s.State == Streaming && s.LagBytes != nil:
		return fmt.Sprintf("streaming timeline %d at %s, %d bytes not flushed", s.Timeline, s.Received, *s.LagBytes)
	case s.State == Disconnected && s.LastError != nil:
		return "disconnected: " + clip(s.LastError.Message)
	case s.State == Ended:
		return "ended: " + string(s.Ended.Reason)
	}
	return string(s.State)
}

// writeStatusFile replaces the file by one that holds s. Who reads it sees the one or
// the other. It is not made durable: after a crash of the system there is nothing
// that it could tell.
func writeStatusFile(name string, s Status) error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	temporary := localfs.Temporary(name)
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, statusFileMode)
	if err != nil {
		return localfs.Errorf(err, name, "could not create status file \"%s\"", temporary)
	}
	_, err = f.Write(append(content, '\n'))
	if err := errors.Join(err, f.Chmod(statusFileMode), f.Close()); err != nil {
		return localfs.Errorf(err, name, "could not write status file \"%s\"", temporary)
	}
	if err := os.Rename(temporary, name); err != nil {
		return localfs.Errorf(err, name, "could not rename status file \"%s\" to \"%s\"", temporary, name)
	}
	return nil
}

// statusFileMode lets others read the file, as who watches is seldom who receives.
// The umask, which keeps the log to its owner, does not count.
const statusFileMode = 0o644
