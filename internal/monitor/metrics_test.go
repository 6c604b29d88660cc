package monitor

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"basin/internal/client"
)

// sample is a line with a value, and what may be in its labels.
var sample = regexp.MustCompile(`^([a-z_]+)(?:\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*\})? (-?[0-9]+(?:\.[0-9]+)?)$`)

// parseMetrics reads the text format as strictly as its definition allows. It returns
// the values by name, and the lines.
func parseMetrics(t *testing.T, text string) (values map[string]string, lines []string) {
	t.Helper()
	values = make(map[string]string)
	if !strings.HasSuffix(text, "\n") {
		t.Error("the last line has no end")
	}
	lines = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "#") {
			continue
		}
		m := sample.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("not a sample: %q", line)
			continue
		}
		name := m[1]
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		if i < 2 || !strings.HasPrefix(lines[i-2], "# HELP "+name+" ") || lines[i-1] != "# TYPE "+name+" "+kind {
			t.Errorf("%s: before it come %q", name, lines[max(i-2, 0):i])
		}
		if _, ok := values[name]; ok || !strings.HasPrefix(name, "basin_receivewal_") {
			t.Errorf("%s: a second one, or a wrong name", name)
		}
		values[name] = m[2]
	}
	return values, lines
}

func TestMetrics(t *testing.T) {
	at := time.Unix(1_700_000_000, 250_000_000)
	var log stream
	m := start(t, Options{Version: `1.2"3`, Slot: "archive", Directory: `/srv/a\b`, Progress: log.status})
	m.Connected("7000000000000000001", "line\nbreak")
	bare, _ := parseMetrics(t, exposition(m.Status()))
	for _, name := range []string{"received_lsn_bytes", "server_lsn_bytes", "lag_bytes", "timeline", "last_error_info", "last_message_timestamp_seconds"} {
		if value, ok := bare["basin_receivewal_"+name]; ok {
			t.Errorf("%s is %s before anything is known of it", name, value)
		}
	}
	log.set(func(s *client.ReceiveStatus) {
		*s = client.ReceiveStatus{
			Timeline: 3, Received: 1<<53 + 1, Flushed: 1 << 53, ServerEnd: 1<<53 + 10, Bytes: 12345, Segments: 7,
			LastHeard: at, CaughtUp: at,
		}
	})
	m.Opened(func() int { return 4 })
	m.Gaps([]string{"segment 000000010000000000000005"})
	m.Streaming()
	m.Disconnected(errors.New("no way: \"back\\slash\" \xff\nsecond line"))
	m.Streaming()
	m.Warned()
	values, lines := parseMetrics(t, exposition(m.Status()))
	for name, want := range map[string]string{
		"build_info": "1", "info": "1", "streaming": "1", "timeline": "3",
		"received_lsn_bytes": "9007199254740993", "flushed_lsn_bytes": "9007199254740992", "server_lsn_bytes": "9007199254741002", "lag_bytes": "10",
		"last_message_timestamp_seconds": "1700000000.250", "step_seconds": "0.000",
		"received_bytes_total": "12345", "completed_segments_total": "7", "uncompressed_segments": "4",
		"reconnects_total": "1", "errors_total": "1", "warnings_total": "1", "gaps": "1", "last_error_info": "1",
	} {
		if got := values["basin_receivewal_"+name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, want := range []string{
		`basin_receivewal_info{system_identifier="7000000000000000001",slot="archive",application_name="line\nbreak",directory="/srv/a\\b"} 1`,
		`basin_receivewal_last_error_info{message="no way: \"back\\slash\" ` + "\uFFFD" + `"} 1`,
	} {
		if !strings.Contains("\n"+strings.Join(lines, "\n")+"\n", "\n"+want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	if lag := values["basin_receivewal_lag_seconds"]; len(lag) < len("1000000.000") {
		t.Errorf("lag is %s s since 2023", lag)
	}
	rules, err := os.ReadFile("../../packaging/basin-receivewal.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile(`basin_receivewal_[a-z_]+`).FindAllString(string(rules), -1) {
		if _, ok := values[name]; !ok {
			t.Errorf("there is a rule for %s, which does not exist", name)
		}
	}
	guide, err := os.ReadFile("../../docs/receivewal.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range values {
		if !strings.Contains(string(guide), "`"+strings.TrimPrefix(name, "basin_receivewal_")+"`") {
			t.Errorf("docs/receivewal.md says nothing of the metric %s", name)
		}
	}
}

// ask returns the status and the body of an answer.
func ask(t *testing.T, url string) (int, string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestEndpoint(t *testing.T) {
	m := start(t, Options{Progress: new(stream).status, Listen: "127.0.0.1:0"})
	base := "http://" + m.Address()
	if status, body := ask(t, base+"/metrics"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	} else {
		parseMetrics(t, body)
	}
	if status, body := ask(t, base+"/healthz"); status != http.StatusServiceUnavailable || !strings.HasPrefix(body, "starting since ") {
		t.Errorf("%d %s", status, body)
	}
	m.Streaming()
	if status, body := ask(t, base+"/healthz"); status != http.StatusOK || body != "streaming\n" {
		t.Errorf("%d %s", status, body)
	}
	if status, body := ask(t, base+"/"); status != http.StatusNotFound {
		t.Errorf("%d %s", status, body)
	}
	if _, err := Start(Options{Progress: new(stream).status, Listen: m.Address()}); err == nil {
		t.Error("two listen at the same address")
	}
	m.End(nil, Ending{})
	if answer, err := http.Get(base + "/healthz"); err == nil {
		t.Errorf("after the end: %s", answer.Status)
		answer.Body.Close()
	}
}

func TestEndpointTakesUpLittle(t *testing.T) {
	m := start(t, Options{Progress: new(stream).status, Listen: "127.0.0.1:0"})
	defer m.End(nil, Ending{})
	var idle []net.Conn
	for range 3 * maxConnections { // the system accepts them, the endpoint does not
		conn, err := net.Dial("tcp", m.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
	}
	for _, conn := range idle { // who goes makes room
		conn.Close()
	}
	if status, body := ask(t, "http://"+m.Address()+"/metrics"); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
}

func TestTrouble(t *testing.T) {
	at := time.Date(2026, 11, 26, 7, 30, 0, 0, time.UTC)
	failed := &Problem{Message: "could not connect"}
	for _, test := range []struct {
		reason string
		status Status
		want   string
	}{
		{"well", Status{State: Streaming, LastError: failed}, ""},
		{"nothing yet", Status{State: Starting, Since: at}, "starting since 2026-11-26T07:30:00Z"},
		{"gone", Status{State: Disconnected, Since: at, LastError: failed}, "disconnected since 2026-11-26T07:30:00Z\nlast error: could not connect"},
		{"a slow disk", Status{State: Streaming, step: stuckAfter - 1}, ""},
		{"stuck", Status{State: Streaming, step: 90 * time.Second}, "in the same step for 1m30s"},
		{"gap", Status{State: Streaming, Gaps: []string{"segments A to B", "segment C"}}, "missing: segments A to B\nmissing: segment C"},
		{"ended", Status{State: Ended, Ended: &Ending{At: at, Reason: AtEndPosition}}, "ended at 2026-11-26T07:30:00Z: end position"},
	} {
		if got := test.status.Trouble(); got != test.want {
			t.Errorf("%s: got %q, want %q", test.reason, got, test.want)
		}
		answer := httptest.NewRecorder()
		handler("streaming", nil, test.status.Trouble).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		if healthy := answer.Code == http.StatusOK; healthy != (test.want == "") {
			t.Errorf("%s: answered %d", test.reason, answer.Code)
		}
	}
}

func TestListenAddress(t *testing.T) {
	for _, test := range []struct{ value, want string }{
		{"9187", "127.0.0.1:9187"},
		{":9187", "127.0.0.1:9187"},
		{"0", "127.0.0.1:0"},
		{"*:9187", ":9187"},
		{"0.0.0.0:9187", "0.0.0.0:9187"},
		{"db1.example:9187", "db1.example:9187"},
		{"[::1]:9187", "[::1]:9187"},
		{"", ""},
		{"db1", ""},
		{"db1:", ""},
		{"::1", ""},
		{"9187x", ""},
		{"65536", ""},
		{"-1", ""},
	} {
		got, err := ListenAddress(test.value)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%q: got %q, %v; want %q", test.value, got, err, test.want)
		}
	}
}
