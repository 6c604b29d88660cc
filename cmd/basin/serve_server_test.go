package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"basin/internal/pgtest"
)

// served is a cluster beside which basin serve runs.
type served struct {
	*pgtest.Server
	basin   *program
	process *process
	args    []string
	port    int
}

// startServe starts basin serve for a cluster, and lets anyone on this machine in as the
// superuser, unless args say otherwise.
func startServe(t testing.TB, basin *program, s *pgtest.Server, args ...string) *served {
	t.Helper()
	v := &served{Server: s, basin: basin}
	all := []string{"serve", "-w", "-d", s.ConnString(), "--pgdata", s.DataDir, "--listen", "127.0.0.1:0"}
	if !strings.Contains(strings.Join(args, " "), "--hba") {
		hba := filepath.Join(pgtest.TempDir(t), "trust.hba")
		if err := os.WriteFile(hba, []byte("host all,replication all 127.0.0.1/32 trust\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		all = append(all, "--hba", hba)
	}
	v.args = append(all, args...)
	v.start(t)
	return v
}

var readyAt = regexp.MustCompile(`ready address=127\.0\.0\.1:(\d+)`)

// start starts the server, once more if it has ended, at the same port.
func (v *served) start(t testing.TB) {
	t.Helper()
	args := v.args
	if v.port != 0 {
		args = append(args[:len(args):len(args)], "--listen", fmt.Sprintf("127.0.0.1:%d", v.port))
	}
	v.process = v.basin.start(t, nil, args...)
	eventually(t, "readiness", func() bool {
		m := readyAt.FindStringSubmatch(v.process.stderr.String())
		if m == nil {
			select {
			case <-v.process.done:
				t.Fatalf("%s", v.process.wait(t))
			default:
			}
			return false
		}
		v.port, _ = strconv.Atoi(m[1])
		return true
	})
}

// conninfo returns how clients reach the server.
func (v *served) conninfo() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=postgres", v.port)
}

// ends ends the server in good order.
func (v *served) ends(t testing.TB) {
	t.Helper()
	e := v.process.ends(t, syscall.SIGTERM)
	if e.status != exitSuccess || e.signal != 0 {
		t.Fatalf("%s", e)
	}
}

// stock runs a stock program of a major to its end.
func stock(t testing.TB, major int, program string, args ...string) ending {
	t.Helper()
	return startCommand(t, pgtest.Command(t, major, program, args...)).wait(t)
}

func TestServeBaseBackup(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{13, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, Checksums: true, Conf: sideBySide()})
			pgtest.Fill(t, s, 1)
			v := startServe(t, basin, s)
			dir := filepath.Join(pgtest.TempDir(t), "backup")
			client := 18
			if e := stock(t, client, "pg_basebackup", "-d", v.conninfo(), "-D", dir, "-c", "fast", "-X", "stream"); e.status != 0 {
				t.Fatalf("%s\nserver: %s", e, v.process.stderr.String())
			}
			tool(t, pgtest.Newest, "pg_verifybackup", "-n", dir)
			v.ends(t)
		})
	}
}

func TestServeLooksAtTheDataDirectory(t *testing.T) {
	basin := newProgram(t, "basin")
	s, other := pgtest.Start(t, pgtest.Config{}), pgtest.Start(t, pgtest.Config{})
	for _, test := range []struct{ reason, dir, said string }{
		{"another cluster's", other.DataDir, "but the connection leads to cluster"},
		{"none", other.SocketDir, "is not a data directory"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			basin.run(t, nil, "serve", "-w", "-d", s.ConnString(), "--pgdata", test.dir, "--listen", "127.0.0.1:0").failed(t, test.said)
		})
	}
}

func TestServeSaysWhatToDoAboutItsFiles(t *testing.T) {
	basin := newProgram(t, "basin")
	dir := pgtest.TempDir(t)
	for name, content := range map[string]string{"md5.hba": "host replication all all md5\n", "users": "somebody:md5abc\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"--hba", filepath.Join(dir, "md5.hba")}, {"--users", filepath.Join(dir, "users")}} {
		basin.run(t, nil, append([]string{"serve", "-D", dir}, args...)...).failed(t, args[1], "hint: ")
	}
}
