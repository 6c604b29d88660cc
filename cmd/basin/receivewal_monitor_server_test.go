package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"basin/internal/client"
	"basin/internal/monitor"
	"basin/internal/pgtest"
	"basin/internal/wal"
)

// watched is a receiver of the log that tells how it is doing in every way.
type watched struct {
	*process
	status, address string
	notified        *text
}

// startWatched starts a receiver into an empty directory.
func startWatched(t *testing.T, s *pgtest.Server, args ...string) *watched {
	t.Helper()
	dir := pgtest.TempDir(t)
	log, socket := filepath.Join(dir, "log"), filepath.Join(dir, "notify")
	if err := os.Mkdir(log, 0o700); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, dir)
	w := &watched{status: filepath.Join(dir, "status.json"), notified: new(text)}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(w.notified, "%s\n", buf[:n])
		}
	}()
	args = append([]string{"receivewal", "-D", log, "-d", s.ConnString(), "-s", "1", "-v", "--synchronous",
		"--log-format=json", "--metrics-listen=0", "--status-file=" + w.status}, args...)
	w.process = newProgram(t, "basin").start(t, []string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=60000000"}, args...)
	listens := regexp.MustCompile(`http://([0-9.:]+)/metrics`)
	eventually(t, "an address to ask for metrics", func() bool {
		if m := listens.FindStringSubmatch(w.stderr.String()); m != nil {
			w.address = m[1]
		}
		return w.address != ""
	})
	return w
}

// ask returns what is answered to a request, with its status before it.
func (w *watched) ask(t *testing.T, path string) string {
	t.Helper()
	answer, err := http.Get("http://" + w.address + path)
	if err != nil {
		t.Fatalf("%v\n%s", err, w.stderr.String())
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %s", answer.StatusCode, body)
}

// metric returns the value of a metric that has no labels, or -1.
func (w *watched) metric(t *testing.T, name string) float64 {
	t.Helper()
	_, after, ok := strings.Cut(w.ask(t, "/metrics"), "\nbasin_receivewal_"+name+" ")
	if !ok {
		return -1
	}
	text, _, _ := strings.Cut(after, "\n")
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// read returns what the status file says.
func (w *watched) read(t *testing.T) (s monitor.Status) {
	t.Helper()
	content, err := os.ReadFile(w.status)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &s); err != nil {
		t.Fatalf("%v:\n%s", err, content)
	}
	return s
}

// is waits for a state.
func (w *watched) is(t *testing.T, state monitor.State) {
	t.Helper()
	eventually(t, string(state), func() bool { return w.read(t).State == state })
}

func TestReceiverIsWatched(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Config{})
	s.Exec(t, "SELECT pg_create_physical_replication_slot('archive', true)")
	w := startWatched(t, s, "-S", "archive")
	w.is(t, monitor.Streaming)
	if got := w.ask(t, "/healthz"); got != "200 streaming\n" {
		t.Error(got)
	}
	s.Exec(t, "SELECT pg_switch_wal()", "CREATE TABLE news AS SELECT generate_series(1, 1000)")
	end, err := wal.ParseLSN(s.Query(t, "SELECT pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all of the log on disk", func() bool {
		return w.metric(t, "flushed_lsn_bytes") >= float64(end) && w.metric(t, "lag_bytes") == 0 && w.metric(t, "lag_seconds") == 0
	})
	if n := w.metric(t, "completed_segments_total"); n < 1 {
		t.Errorf("%v segments completed", n)
	}
	id, err := strconv.ParseInt(s.Query(t, "SELECT system_identifier FROM pg_control_system()"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	labels := fmt.Sprintf(`basin_receivewal_info{system_identifier="%d",slot="archive",application_name="basin",`, uint64(id)) // which SQL does not have
	if got := w.ask(t, "/metrics"); !strings.Contains(got, labels) {
		t.Errorf("%s\nwithout %s", got, labels)
	}

	s.Kill(t)
	w.is(t, monitor.Disconnected)
	if got := w.ask(t, "/healthz"); !strings.HasPrefix(got, "503 disconnected since ") || !strings.Contains(got, "last error: ") {
		t.Error(got)
	}
	s.Start(t)
	w.is(t, monitor.Streaming)
	if got := w.metric(t, "reconnects_total"); got != 1 {
		t.Errorf("%v reconnects", got)
	}

	s.Exec(t, `DO $$ BEGIN
		PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots;
		FOR i IN 1 .. 1000 LOOP
			BEGIN
				PERFORM pg_drop_replication_slot('archive');
				EXIT;
			EXCEPTION WHEN object_in_use THEN
				PERFORM pg_sleep(0.01);
			END;
		END LOOP;
	END $$`)
	e := w.wait(t)
	if e.status != exitGap {
		t.Fatal(e)
	}
	last := w.read(t)
	if last.State != monitor.Ended || last.Ended == nil || last.Ended.Reason != monitor.WithGap || last.Ended.ExitStatus != exitGap ||
		len(last.Gaps) != 1 || last.LastError == nil || !strings.Contains(last.LastError.Message, `"archive" does not exist`) || last.LastError.Hint == "" {
		t.Errorf("after the end: %+v", last)
	}

	lines := strings.Split(strings.TrimSpace(w.notified.String()), "\n")
	ready, stopping := slices.Index(lines, "READY=1"), slices.Index(lines, "STOPPING=1")
	if ready < 0 || stopping < ready || slices.Contains(lines[ready+1:], "READY=1") || !slices.Contains(lines, "WATCHDOG=1") {
		t.Errorf("systemd was told %q", lines)
	}
	checkJSON(t, e.stderr, `"level":"ERROR"`, `"hint":"Nothing holds the log that comes next`, `"program":"basin"`, `"msg":"starting log streaming at `)
}

// checkJSON fails the test unless text is lines of JSON, in which the pieces occur.
func checkJSON(t *testing.T, text string, pieces ...string) {
	t.Helper()
	for line := range strings.Lines(text) {
		var record struct {
			Time, Level, Msg, Program string
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil || record.Time == "" || record.Level == "" || record.Msg == "" || record.Program == "" {
			t.Errorf("%q: %v, %+v", line, err, record)
		}
	}
	for _, piece := range pieces {
		if !strings.Contains(text, piece) {
			t.Errorf("nothing says %s:\n%s", piece, text)
		}
	}
}

func TestEndsAreTold(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Config{})

	w := startWatched(t, s)
	w.is(t, monitor.Streaming)
	w.signal(t, syscall.SIGTERM)
	if e := w.wait(t); e.status != exitSuccess {
		t.Error(e)
	}
	if got := w.read(t).Ended; got == nil || got.Reason != monitor.BySignal || got.Signal != "SIGTERM" || got.ExitStatus != exitSuccess {
		t.Errorf("after SIGTERM: %+v", got)
	}

	w = startWatched(t, s)
	w.is(t, monitor.Streaming)
	w.signal(t, syscall.SIGHUP)
	if e := w.wait(t); e.signal != syscall.SIGHUP {
		t.Error(e)
	}
	if got := w.read(t).Ended; got == nil || got.Reason != monitor.BySignal || got.Signal != "SIGHUP" || got.ExitStatus != 129 {
		t.Errorf("after SIGHUP: %+v", got)
	}

	end := s.Query(t, "SELECT pg_current_wal_lsn()")
	s.Exec(t, "SELECT pg_switch_wal()", "CREATE TABLE news ()")
	dir := pgtest.TempDir(t)
	pgtest.Own(t, dir)
	status := filepath.Join(dir, "status.json")
	for _, test := range []struct {
		reason string
		args   []string
		want   monitor.Ending
		error  string // of last_error
	}{
		{"end position", []string{"-D", dir, "-d", s.ConnString(), "-E", end}, monitor.Ending{Reason: monitor.AtEndPosition}, ""},
		{"no directory", []string{"-D", filepath.Join(dir, "absent"), "-d", s.ConnString()}, monitor.Ending{Reason: monitor.WithError, ExitStatus: 1}, "could not open directory"},
		{"no server", []string{"-D", dir, "-h", dir}, monitor.Ending{Reason: monitor.WithError, ExitStatus: 1}, "connection to server on socket"},
		{"once only", []string{"-D", dir, "-d", s.ConnString(), "-n", "-E", "FF/0", "-S", "in_use"}, monitor.Ending{Reason: monitor.WithError, ExitStatus: 1}, "is active for PID"},
	} {
		if test.reason == "once only" { // why it disconnected is what counts
			s.Exec(t, "SELECT pg_create_physical_replication_slot('in_use', true)")
			holder := startWatched(t, s, "-S", "in_use")
			holder.is(t, monitor.Streaming)
		}
		e := newProgram(t, "basin").run(t, nil, append(append([]string{"receivewal"}, test.args...), "--status-file="+status)...)
		got := (&watched{status: status}).read(t)
		if got.Ended == nil || e.status != test.want.ExitStatus {
			t.Errorf("%s: %+v; %s", test.reason, got, e)
			continue
		}
		test.want.At = got.Ended.At
		if *got.Ended != test.want || (got.LastError == nil) != (test.error == "") || got.LastError != nil && !strings.Contains(got.LastError.Message, test.error) {
			t.Errorf("%s: %+v, %+v; %s", test.reason, *got.Ended, got.LastError, e)
		}
	}
}

func TestEndingOf(t *testing.T) {
	gap := exitStatus{fmt.Errorf("lost: %w", client.ErrGap), exitGap}
	for _, test := range []struct {
		told, err error
		want      monitor.Ending
	}{
		{nil, nil, monitor.Ending{Reason: monitor.AtEndPosition}},
		{nil, os.ErrClosed, monitor.Ending{Reason: monitor.WithError, ExitStatus: 1}},
		{nil, gap, monitor.Ending{Reason: monitor.WithGap, ExitStatus: 3}},
		{interrupted{syscall.SIGINT}, nil, monitor.Ending{Reason: monitor.BySignal, Signal: "SIGINT"}},
		{interrupted{syscall.SIGHUP}, interrupted{syscall.SIGHUP}, monitor.Ending{Reason: monitor.BySignal, Signal: "SIGHUP", ExitStatus: 129}},
		{interrupted{syscall.SIGTERM}, os.ErrClosed, monitor.Ending{Reason: monitor.BySignal, Signal: "SIGTERM", ExitStatus: 143}},
	} {
		if got := endingOf(test.told, test.err); got != test.want {
			t.Errorf("told to end by %v, with %v: got %+v, want %+v", test.told, test.err, got, test.want)
		}
	}
}
