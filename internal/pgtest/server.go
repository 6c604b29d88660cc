// Package pgtest starts real PostgreSQL servers for tests.
//
// It knows where build/postgres.sh put the servers of each major, how to make a
// cluster quickly, how to run it as a user that PostgreSQL accepts, what to stop
// and remove afterwards whatever happened, how to fill it and write to it, and
// how to tell whether two clusters hold the same rows. It knows nothing of
// backups: it imports no other package of this module, and it takes its standby
// by copying files, so that it can judge what the others do.
//
// What belongs to a cluster, such as wal_level, is in its postgresql.conf and so
// in its backups. What belongs to one run of it, such as port and socket folder,
// is given on the command line, so a copy never gets in the way of its origin.
//
// Nothing here skips a test. A server that is missing is a failure.
package pgtest

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that takes a moment on an idle machine.
const patience = time.Minute

// Server is a PostgreSQL server that runs until the test ends, or is stopped
// before. Its methods are for the test's own goroutine.
type Server struct {
	Major     int
	DataDir   string
	SocketDir string
	Port      int    // of the socket, and of 127.0.0.1
	RootCert  string // file of the certificate that vouches for the server's; empty without TLS

	dir  string            // for all but a data directory that was given
	conf map[string]string // of the command line
	cmd  *exec.Cmd
	gone chan struct{} // closed when cmd has ended
}

// Start makes a cluster and starts it.
func Start(t testing.TB, c Config) *Server {
	t.Helper()
	s := newServer(t, c.major(), nil)
	s.DataDir = filepath.Join(s.dir, "data")
	makeCluster(t, c, s.DataDir)
	if c.TLS {
		s.RootCert = filepath.Join(s.dir, "root.crt")
		makeCertificates(t, s.RootCert, s.DataDir)
	}
	s.Start(t)
	return s
}

// StartDir starts a server on a data directory that is there already, such as a
// restored backup, on a port and a socket of its own. conf wins over what the
// directory's own files say. When the tests run as root the directory is given
// to the servers' user first.
//
// It returns when connections are accepted, which during recovery may be long
// before its end: see Server.WaitFor.
func StartDir(t testing.TB, major int, dir string, conf map[string]string) *Server {
	t.Helper()
	version, err := os.ReadFile(filepath.Join(dir, "PG_VERSION"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(version)) != strconv.Itoa(major) {
		t.Fatalf("%s is a data directory of PostgreSQL %s, not of %d", dir, version, major)
	}
	Own(t, dir)
	s := newServer(t, major, conf)
	s.DataDir = dir
	s.Start(t)
	return s
}

// newServer returns a server without a data directory that is not yet started.
func newServer(t testing.TB, major int, conf map[string]string) *Server {
	t.Helper()
	s := &Server{Major: major, dir: TempDir(t), Port: FreePort(t), gone: make(chan struct{})}
	close(s.gone)
	s.SocketDir = s.dir
	if path := s.SocketDir + "/.s.PGSQL.12345"; len(path) > 107 { // sun_path of struct sockaddr_un
		t.Fatalf("%s: too long a name for a socket; set TMPDIR to a shorter one", path)
	}
	s.conf = map[string]string{
		"port":                    strconv.Itoa(s.Port),
		"listen_addresses":        "127.0.0.1",
		"unix_socket_directories": s.SocketDir,
		"logging_collector":       "off", // so that the log comes to where Log finds it
	}
	maps.Copy(s.conf, conf)
	t.Cleanup(func() {
		if t.Failed() && s.cmd != nil {
			t.Logf("end of the log of PostgreSQL %d in %s:\n%s", s.Major, s.DataDir, s.tail())
		}
		if s.running() {
			s.Stop(t, Immediate)
		}
	})
	return s
}

// Start starts a server that was stopped, killed or has died. args are added to the
// command line of this run, such as "-b".
func (s *Server) Start(t testing.TB, args ...string) {
	t.Helper()
	if s.running() {
		t.Fatal("the server runs already")
	}
	log, err := os.OpenFile(s.logFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command(filepath.Join(Bin(t, s.Major), "postgres"), "-D", s.DataDir)
	for _, name := range slices.Sorted(maps.Keys(s.conf)) {
		s.cmd.Args = append(s.cmd.Args, "-c", name+"="+s.conf[name])
	}
	s.cmd.Args = append(s.cmd.Args, args...)
	s.cmd.Env = environment()
	s.cmd.Dir = s.dir
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = ProcessAttributes(syscall.SIGQUIT)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.gone = make(chan struct{})
	go func(cmd *exec.Cmd, gone chan struct{}) {
		cmd.Wait()
		close(gone)
	}(s.cmd, s.gone)
	wait(t, "start of PostgreSQL in "+s.DataDir, func() bool {
		if !s.running() {
			t.Fatalf("PostgreSQL %d did not start in %s: %v", s.Major, s.DataDir, s.cmd.ProcessState)
		}
		return s.ready()
	})
}

// ready tells whether the server accepts connections, or has reached what it
// calls standby, where it never will. It says so in line 8 of its file.
//
// Source: src/include/utils/pidfile.h, PostgreSQL 10 to 18.
func (s *Server) ready() bool {
	file, err := os.ReadFile(filepath.Join(s.DataDir, "postmaster.pid"))
	if err != nil {
		return false
	}
	lines := strings.Split(string(file), "\n")
	// The file may be one that a killed server, or the origin of a copy, has left.
	if len(lines) < 8 || lines[0] != strconv.Itoa(s.cmd.Process.Pid) {
		return false
	}
	status := strings.TrimSpace(lines[7])
	return status == "ready" || status == "standby"
}

func (s *Server) running() bool {
	select {
	case <-s.gone:
		return false
	default:
		return true
	}
}

// Mode is how to stop a server, with the words of pg_ctl.
type Mode syscall.Signal

// The modes of Stop.
const (
	Smart     = Mode(syscall.SIGTERM) // wait until the clients have gone
	Fast      = Mode(syscall.SIGINT)  // with a checkpoint
	Immediate = Mode(syscall.SIGQUIT) // without: the next start recovers
)

// Stop stops the server and waits until it is gone.
func (s *Server) Stop(t testing.TB, mode Mode) {
	t.Helper()
	if !s.running() {
		t.Fatal("the server does not run")
	}
	if err := s.cmd.Process.Signal(syscall.Signal(mode)); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	wait(t, "stop of PostgreSQL in "+s.DataDir, func() bool { return !s.running() })
}

// Restart stops the server with a checkpoint and starts it again, on the same port.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Stop(t, Fast)
	s.Start(t)
}

// Kill ends the server and each of its processes with SIGKILL, as if the machine
// had lost its power, but for what the kernel has yet to write.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if !s.running() {
		t.Fatal("the server does not run")
	}
	// A stopped postmaster has no more children after they were counted.
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	wait(t, "stop of PostgreSQL in "+s.DataDir, func() bool { // until then it may start another
		state, _, ok := processStat(s.cmd.Process.Pid)
		return !ok || state == "T" || state == "Z"
	})
	children := childrenOf(t, s.cmd.Process.Pid)
	for _, pid := range append(children, s.cmd.Process.Pid) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	wait(t, "end of a killed PostgreSQL in "+s.DataDir, func() bool {
		return !s.running() && !slices.ContainsFunc(children, alive)
	})
}

// childrenOf returns the processes that a process has started.
func childrenOf(t testing.TB, pid int) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var children []int
	for _, entry := range entries {
		child, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if _, parent, ok := processStat(child); ok && parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// alive tells whether a process is neither gone nor only kept as a name until
// its parent, which may never, asks for it.
func alive(pid int) bool {
	state, _, ok := processStat(pid)
	return ok && state != "Z" && state != "X"
}

// processStat returns state and parent of a process, as proc(5) tells them.
func processStat(pid int) (state string, parent int, ok bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, false
	}
	// The name before them is in parentheses, and may hold some.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return "", 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	return fields[0], parent, err == nil
}

// Log returns all that the server has logged since it was first started.
func (s *Server) Log(t testing.TB) string {
	t.Helper()
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

// tail returns the last lines of the log.
func (s *Server) tail() string {
	log, _ := os.ReadFile(s.logFile())
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

// wait asks until something holds, and fails the test if it takes too long.
func wait(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}
