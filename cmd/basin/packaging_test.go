package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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

// TestUnitCallsBasinWell has the command of the unit, with the settings of the
// example, read by those who will.
func TestUnitCallsBasinWell(t *testing.T) {
	unit, environment := settings(packaged(t, "basin-receivewal@.service")), settings(packaged(t, "basin-receivewal.env"))
	if len(unit["ExecStart"]) != 1 {
		t.Fatalf("ExecStart: %q", unit["ExecStart"])
	}
	specifiers := strings.NewReplacer("%i", "main", "%S", "/var/lib", "%t", "/run")
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
	if len(argv) < 2 || argv[0] != "/usr/bin/basin" || argv[1] != "receivewal" {
		t.Fatalf("%q", argv)
	}
	o, err := parseReceiveWAL(call{argv: argv[1:], called: "basin receivewal", report: newReport("basin", os.Stderr, os.LookupEnv)})
	if err != nil {
		t.Fatalf("%q: %v", argv, err)
	}
	state, runtime := "/var/lib/"+specifiers.Replace(unit["StateDirectory"][0]), "/run/"+specifiers.Replace(unit["RuntimeDirectory"][0])
	if o.Directory != state || filepath.Dir(o.StatusFile) != runtime || o.Slot != "archive" || !o.Synchronous || o.Password != promptNever || o.MetricsListen == "" {
		t.Errorf("%q is read as %+v", argv, o)
	}
	for name, want := range map[string]string{"Type": "notify", "Restart": "always", "RestartPreventExitStatus": fmt.Sprint(exitGap)} {
		if got := unit[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
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
