package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/monitor"
	"basin/internal/server"
	"basin/internal/wal"
)

// packaged reads a file of packaging/.
func packaged(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../../packaging", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// settings returns the lines NAME=VALUE of a file, by name.
func settings(text string) map[string][]string {
	values := make(map[string][]string)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(line, "#") {
			values[name] = append(values[name], value)
		}
	}
	return values
}

// unitCommand returns the command that a unit runs, for the cluster main and with the
// settings of its example, as systemd would.
func unitCommand(t *testing.T, unit, environment map[string][]string) []string {
	t.Helper()
	if len(unit["ExecStart"]) != 1 {
		t.Fatalf("ExecStart: %q", unit["ExecStart"])
	}
	var argv []string
	for _, word := range strings.Fields(specifiers.Replace(unit["ExecStart"][0])) {
		switch {
		case strings.HasPrefix(word, "$"): // cut into words
			argv = append(argv, strings.Fields(environment[word[1:]][0])...)
		default:
			for name, values := range environment {
				word = strings.ReplaceAll(word, "${"+name+"}", values[0])
			}
			argv = append(argv, word)
		}
	}
	if len(argv) < 2 || argv[0] != "/usr/bin/basin" {
		t.Fatalf("%q", argv)
	}
	return argv[1:]
}

// specifiers are those of a unit for the cluster main.
var specifiers = strings.NewReplacer("%i", "main", "%S", "/var/lib", "%t", "/run")

// checkSettings compares lines of a unit with what they have to be.
func checkSettings(t *testing.T, unit map[string][]string, want map[string]string) {
	t.Helper()
	for name, want := range want {
		if got := unit[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

// TestUnitCallsBasinWell has the command of the unit, with the settings of the
// example, read by those who will.
func TestUnitCallsBasinWell(t *testing.T) {
	unit, environment := settings(packaged(t, "basin-receivewal@.service")), settings(packaged(t, "basin-receivewal.env"))
	argv := unitCommand(t, unit, environment)
	o, err := parseReceiveWAL(call{argv: argv, called: "basin receivewal", report: newReport("basin", os.Stderr, os.LookupEnv)})
	if err != nil || argv[0] != "receivewal" {
		t.Fatalf("%q: %v", argv, err)
	}
	state, runtime := "/var/lib/"+specifiers.Replace(unit["StateDirectory"][0]), "/run/"+specifiers.Replace(unit["RuntimeDirectory"][0])
	if o.Directory != state || filepath.Dir(o.StatusFile) != runtime || o.Slot != "archive" || !o.Synchronous || o.Password != promptNever || o.MetricsListen == "" {
		t.Errorf("%q is read as %+v", argv, o)
	}
	checkSettings(t, unit, map[string]string{"Type": "notify", "Restart": "always", "RestartPreventExitStatus": fmt.Sprint(exitGap)})
}

func TestServeUnitCallsBasinWell(t *testing.T) {
	unit, environment := settings(packaged(t, "basin-serve@.service")), settings(packaged(t, "basin-serve.env"))
	argv := unitCommand(t, unit, environment)
	o, err := parseServe(call{argv: argv, called: "basin serve", report: newReport("basin", os.Stderr, os.LookupEnv)})
	if err != nil || argv[0] != "serve" {
		t.Fatalf("%q: %v", argv, err)
	}
	if o.DataDir != environment["DATADIR"][0] || o.Listen != ":5442" || o.TLSKey == "" || o.HBA == "" || o.Users == "" || o.Password != promptNever || o.MetricsListen == "" {
		t.Errorf("%q is read as %+v", argv, o)
	}
	checkSettings(t, unit, map[string]string{"Type": "notify", "Restart": "always", "ExecReload": "/bin/kill -HUP $MAINPID"})
}

// TestServeMetricsAreKnown has each metric that alerts and the documentation name be one
// that there is, and the documentation name all.
func TestServeMetricsAreKnown(t *testing.T) {
	m, err := monitor.StartServer(monitor.ServerOptions{
		Status: func() (s server.Status) { return s }, Listen: "127.0.0.1:0",
		Log: func() (wal.Position, time.Time) { return wal.Position{LSN: 1, Timeline: 1}, time.Time{} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	answer, err := http.Get("http://" + m.Address() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\bbasin_serve_([a-z_]+)`)
	known := make(map[string]bool)
	for _, found := range name.FindAllStringSubmatch(string(text), -1) {
		known[found[1]] = true
	}
	for _, found := range name.FindAllStringSubmatch(packaged(t, "basin-serve.rules.yml"), -1) {
		if !known[found[1]] {
			t.Errorf("the rules have metric %q, which there is none of", found[1])
		}
	}
	page, err := os.ReadFile("../../docs/serve.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(page), "### Metrics")
	table, _, _ = strings.Cut(table, "\n### ")
	documented := make(map[string]bool)
	for _, found := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` ").FindAllStringSubmatch(table, -1) {
		documented[found[1]] = true
	}
	if diff := cmp.Diff(known, documented); diff != "" {
		t.Errorf("metrics there are, and those that are documented (-there +documented):\n%s", diff)
	}
}

func TestRestoreScript(t *testing.T) {
	const size = 1 << 20
	content := bytes.Repeat([]byte("log "), 1000)
	binary.LittleEndian.PutUint32(content[32:], size) // xlp_seg_size
	pack := func(program string) []byte {
		c := exec.Command(program, "-c")
		c.Stdin = bytes.NewReader(content)
		packed, err := c.Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		return packed
	}
	gzip, lz4, zstd := pack("gzip"), pack("lz4"), pack("zstd")
	for _, test := range []struct {
		reason string
		files  map[string][]byte
		status int
		want   int // bytes of content, followed by zeros; whole is as it is
		whole  bool
	}{
		{"nothing", map[string][]byte{"other": content}, 1, 0, false},
		{"complete", map[string][]byte{"wanted": content, "wanted.partial": content[:10]}, 0, len(content), true},
		{"gzip", map[string][]byte{"wanted.gz": gzip}, 0, len(content), true},
		{"lz4", map[string][]byte{"wanted.lz4": lz4}, 0, len(content), true},
		{"zstd", map[string][]byte{"wanted.zst": zstd}, 0, len(content), true},
		{"cut short, which ends the server", map[string][]byte{"wanted.gz": gzip[:20]}, 255, 0, false},
		{"partial", map[string][]byte{"wanted.partial": content}, 0, len(content), false},
		{"partial of full size", map[string][]byte{"wanted.partial": append(bytes.Clone(content), make([]byte, size-len(content))...)}, 0, len(content), false},
		{"partial, gzip", map[string][]byte{"wanted.gz.partial": gzip}, 0, len(content), false},
		{"partial, lz4, without its end", map[string][]byte{"wanted.lz4.partial": lz4[:len(lz4)-8]}, 0, len(content), false},
		{"partial, zstd", map[string][]byte{"wanted.zst.partial": zstd}, 0, len(content), false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			dir := t.TempDir()
			for name, file := range test.files {
				if err := os.WriteFile(filepath.Join(dir, name), file, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			to := filepath.Join(t.TempDir(), "to")
			c := exec.Command("../../packaging/restore-wal.sh", dir, "wanted", to)
			out, _ := c.CombinedOutput() // the status is what counts
			if status := c.ProcessState.ExitCode(); status != test.status {
				t.Fatalf("status %d: %s", status, out)
			}
			if test.status != 0 {
				return
			}
			got, err := os.ReadFile(to)
			if err != nil {
				t.Fatal(err)
			}
			want := content[:test.want]
			if !test.whole {
				want = append(bytes.Clone(want), make([]byte, size-test.want)...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes, not the %d that there should be", len(got), len(want))
			}
		})
	}
}
