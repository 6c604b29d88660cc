package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"basin/internal/pgtest"
)

// newPasswordServer starts a server that asks the user "secretive" for a
// password, which is "it's: secret", when it comes over TCP.
func newPasswordServer(t *testing.T) *pgtest.Server {
	t.Helper()
	s := pgtest.Start(t, pgtest.Config{
		HBA:  []string{"host all,replication secretive 127.0.0.1/32 scram-sha-256"},
		Conf: sideBySide(),
	})
	s.Exec(t, "CREATE ROLE secretive REPLICATION LOGIN PASSWORD 'it''s: secret'")
	return s
}

func TestPasswords(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := newPasswordServer(t)
	folder := pgtest.TempDir(t)
	passfile := func(name, mode, line string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		bits, err := strconv.ParseUint(mode, 8, 32)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, os.FileMode(bits)); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, path)
		return path
	}
	line := fmt.Sprintf(`127.0.0.1:%d:replication:secretive:it's\: secret`, s.Port)
	good := passfile("good", "600", "# of the tests\n*:*:*:someone else:x\n"+line)
	open := passfile("open", "644", line)
	wrong := passfile("wrong", "600", `*:*:*:*:wrong`)
	base := []string{"-h", "127.0.0.1", "-p", strconv.Itoa(s.Port), "-c", "fast"}
	for _, test := range []struct {
		reason string
		env    []string
		args   []string
		said   []string // empty: it succeeds
	}{
		{"in the environment", []string{"PGPASSWORD=it's: secret"}, []string{"-U", "secretive", "-w"}, nil},
		{"in the connection string", nil, []string{"-d", `user=secretive password='it\'s: secret'`, "-w"}, nil},
		{"in a URI", nil, []string{"-d", `postgresql://secretive:it's%3A%20secret@`, "-w"}, nil},
		{"in a file", []string{"PGPASSFILE=" + good}, []string{"-U", "secretive", "-w"}, nil},
		{"in a file of the connection string", nil, []string{"-d", "user=secretive passfile=" + good, "-w"}, nil},
		{"in a file that others can read", []string{"PGPASSFILE=" + open}, []string{"-U", "secretive", "-w"},
			[]string{"password file \"" + open + "\" has group or world access", "fe_sendauth: no password supplied"}},
		{"wrong in a file", []string{"PGPASSFILE=" + wrong}, []string{"-U", "secretive", "-w"},
			[]string{`password authentication failed for user "secretive"`, `password retrieved from file "` + wrong + `"`}},
		{"wrong", []string{"PGPASSWORD=wrong"}, []string{"-U", "secretive", "-w"},
			[]string{`pg_basebackup: error: connection to server at "127.0.0.1", port `, `failed: FATAL:  password authentication failed for user "secretive"`}},
		{"none", nil, []string{"-U", "secretive", "-w"}, []string{"fe_sendauth: no password supplied"}},
		{"none, and no terminal to ask at", nil, []string{"-U", "secretive"}, []string{"no password supplied"}},
		{"unknown user", nil, []string{"-U", "stranger", "-w"}, []string{`FATAL:  role "stranger" does not exist`}},
		{"user who may not", nil, []string{"-U", "clerk", "-w"}, []string{`FATAL:  permission denied to start WAL sender`}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			if strings.Contains(test.reason, "may not") {
				s.Exec(t, "CREATE ROLE clerk LOGIN")
			}
			dir := pgtest.TempDir(t)
			args := append(append([]string{"-D", filepath.Join(dir, "backup")}, base...), test.args...)
			c := basin.command(t.Context(), test.env, args...)
			c.SysProcAttr.Setpgid, c.SysProcAttr.Setsid = false, true // no terminal, whoever runs the tests
			e := startCommand(t, c).wait(t)
			if test.said == nil {
				e.succeeded(t)
				present(t, filepath.Join(dir, "backup", "backup_manifest"))
				return
			}
			e.failed(t, test.said...)
			if got := entries(t, dir); len(got) > 0 {
				t.Errorf("left behind: %q", got)
			}
		})
	}
}

// terminal is a terminal for a program: what the test writes is typed, what it
// reads is on the screen.
func terminal(t *testing.T) (test, program *os.File) {
	t.Helper()
	test, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { test.Close() })
	name, err := otherEnd(test)
	if err != nil {
		t.Fatal(err)
	}
	if program, err = os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	pgtest.Own(t, name)
	return test, program
}

func TestPasswordPrompt(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := newPasswordServer(t)
	for _, test := range []struct {
		reason string
		user   string
		args   []string
		typed  string // empty: nothing is asked
		said   string // empty: it succeeds
	}{
		{"the server wants one", "secretive", nil, "it's: secret\n", ""},
		{"the user wants to be asked", "secretive", []string{"-W"}, "it's: secret\n", ""},
		{"the user wants to be asked for nothing", "postgres", []string{"-W"}, "whatever\n", ""},
		{"wrong", "secretive", nil, "wrong\n", `password authentication failed for user "secretive"`},
		{"not to be asked", "secretive", []string{"-w"}, "", "no password supplied"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			keyboard, tty := terminal(t)
			dir := pgtest.TempDir(t)
			args := append([]string{"-D", filepath.Join(dir, "backup"), "-h", "127.0.0.1", "-p", strconv.Itoa(s.Port), "-U", test.user, "-c", "fast"}, test.args...)
			c := basin.command(t.Context(), nil, args...)
			c.Stdin = tty
			c.SysProcAttr.Setpgid, c.SysProcAttr.Setsid, c.SysProcAttr.Setctty = false, true, true
			p := startCommand(t, c)
			var screen text
			go func() {
				buffer := make([]byte, 256)
				for {
					n, err := keyboard.Read(buffer)
					if err != nil {
						return
					}
					_, _ = screen.Write(buffer[:n])
				}
			}()
			if test.typed != "" {
				eventually(t, "prompt", func() bool { return strings.Contains(screen.String(), "Password: ") })
				if _, err := keyboard.WriteString(test.typed); err != nil {
					t.Fatal(err)
				}
			}
			e := p.wait(t)
			if test.said == "" {
				e.succeeded(t)
			} else {
				e.failed(t, test.said)
			}
			if typed := strings.TrimSpace(test.typed); typed != "" && strings.Contains(screen.String(), typed) {
				t.Errorf("the password can be read on the screen: %q", screen.String())
			}
			if asked := strings.Count(screen.String(), "Password: "); asked != 1 && test.typed != "" || asked > 0 && test.typed == "" {
				t.Errorf("asked %d times: %q", asked, screen.String())
			}
		})
	}
}

// deafPort returns a port of this machine that nobody listens at.
func deafPort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestSeveralHosts(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	primary := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	standby := primary.Standby(t, nil)
	primary.WaitReplay(t, standby)
	deaf := deafPort(t)
	both := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres", standby.Port, primary.Port)
	for _, test := range []struct {
		reason, conninfo string
		from             string // as backup_label has it; empty: it fails
		said             string
	}{
		{"first is down", fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres", deaf, primary.Port), "primary", ""},
		{"first is no socket", fmt.Sprintf("host=/nonexistent,%s port=%d user=postgres", primary.SocketDir, primary.Port), "primary", ""},
		{"primary", both + " target_session_attrs=primary", "primary", ""},
		{"standby", both + " target_session_attrs=standby", "standby", ""},
		{"read-write", both + " target_session_attrs=read-write", "primary", ""},
		{"read-only", both + " target_session_attrs=read-only", "standby", ""},
		{"any", both, "standby", ""},
		{"standby if there is one", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres target_session_attrs=prefer-standby", primary.Port), "primary", ""},
		{"no standby", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres target_session_attrs=standby", primary.Port), "", "server is not in hot standby mode"},
		{"no primary", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres target_session_attrs=primary", standby.Port), "", "server is in hot standby mode"},
		{"all down", fmt.Sprintf("host=127.0.0.1,/nonexistent port=%d user=postgres", deaf), "", "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"},
		{"no socket", "host=/nonexistent user=postgres", "", `connection to server on socket "/nonexistent/.s.PGSQL.5432" failed: No such file or directory`},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(pgtest.TempDir(t), "backup")
			e := basin.run(t, nil, "-D", dir, "-d", test.conninfo, "-c", "fast")
			if test.from == "" {
				e.failed(t, test.said)
				absent(t, dir)
				return
			}
			e.succeeded(t)
			label, err := os.ReadFile(filepath.Join(dir, "backup_label"))
			if err != nil || !strings.Contains(string(label), "\nBACKUP FROM: "+test.from+"\n") {
				t.Errorf("%v: %s", err, label)
			}
		})
	}
}
