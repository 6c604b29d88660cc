package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"basin/internal/pgtest"
)

// heldBackup is a backup that takes its time: it is on its way until it is stopped.
type heldBackup struct {
	*process
	name string // by which the server knows its connections
	dir  string // below which it writes
}

// slowly is what makes a backup of the smallest cluster take minutes.
const slowly = "--max-rate=128k"

// hold starts a backup and waits until members arrive, and the log too if it is
// streamed. The arguments are those beside the place of the backup, which
// comes to lie in a folder named backup.
func hold(t testing.TB, basin *program, s *pgtest.Server, args ...string) *heldBackup {
	t.Helper()
	h := prepareHold(t, basin, s, args...)
	h.begun(t, s)
	return h
}

// prepareHold is hold without the wait.
func prepareHold(t testing.TB, basin *program, s *pgtest.Server, args ...string) *heldBackup {
	t.Helper()
	h := &heldBackup{dir: pgtest.TempDir(t)}
	h.name = filepath.Base(h.dir)
	args = append([]string{"-D", filepath.Join(h.dir, "backup"), "-d", s.ConnString(), "-c", "fast", slowly}, args...)
	for i, arg := range args {
		args[i] = strings.ReplaceAll(arg, "$DIR", h.dir)
	}
	if err := os.Mkdir(filepath.Join(h.dir, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, h.dir)
	h.process = basin.start(t, []string{"PGAPPNAME=" + h.name}, args...)
	return h
}

// begun waits until the backup is on its way.
func (h *heldBackup) begun(t testing.TB, s *pgtest.Server) {
	t.Helper()
	streams := true
	for i, arg := range h.cmd.Args {
		if arg == "-X" {
			streams = h.cmd.Args[i+1] == "stream"
		}
	}
	eventually(t, "backup on its way", func() bool {
		select {
		case <-h.done:
			t.Fatalf("%s", h.wait(t))
		default:
		}
		states := s.Query(t, "SELECT string_agg(state, ' ' ORDER BY state) FROM pg_stat_replication WHERE application_name = '"+h.name+"'")
		received := s.Query(t, `SELECT coalesce(max(backup_streamed), 0) > 50000 FROM pg_stat_progress_basebackup
			JOIN pg_stat_replication USING (pid) WHERE application_name = '`+h.name+"'") == "t"
		return received && (states == "backup streaming" || !streams && states == "backup")
	})
}

// pid returns the server's process for one of the connections: "backup" or "streaming".
func (h *heldBackup) pid(t testing.TB, s *pgtest.Server, state string) int {
	t.Helper()
	answer := s.Query(t, "SELECT pid FROM pg_stat_replication WHERE application_name = '"+h.name+"' AND state = '"+state+"'")
	pid, err := strconv.Atoi(answer)
	if err != nil {
		t.Fatalf("%s: %q", state, answer)
	}
	return pid
}

// forgotten waits until the server has nothing of the backup any more.
func (h *heldBackup) forgotten(t testing.TB, s *pgtest.Server) {
	t.Helper()
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = '"+h.name+"'", "0")
	s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE temporary", "0")
}

// backupPath returns the directory of the backup.
func (h *heldBackup) backupPath() string { return filepath.Join(h.dir, "backup") }

// cleaned fails the test unless nothing is left but the folder that was there before.
func (h *heldBackup) cleaned(t testing.TB) {
	t.Helper()
	if got := fmt.Sprint(entries(t, h.dir)); got != "[empty]" {
		t.Errorf("left behind: %s", got)
	}
	if got := entries(t, filepath.Join(h.dir, "empty")); len(got) > 0 {
		t.Errorf("left behind in the directory that was empty: %q", got)
	}
}

func TestInterruptedBackup(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	for _, test := range []struct {
		reason string
		signal syscall.Signal
		args   []string
		said   string
	}{
		{"plain, log streamed", syscall.SIGINT, nil, `pg_basebackup: removing data directory "$DIR/backup"`},
		{"terminated", syscall.SIGTERM, nil, `pg_basebackup: removing data directory "$DIR/backup"`},
		{"terminal gone", syscall.SIGHUP, nil, `pg_basebackup: removing data directory "$DIR/backup"`},
		{"plain, log fetched", syscall.SIGTERM, []string{"-X", "fetch"}, `pg_basebackup: removing data directory`},
		{"tar, log streamed", syscall.SIGINT, []string{"-Ft"}, `pg_basebackup: removing data directory`},
		{"tar, compressed here", syscall.SIGINT, []string{"-Ft", "-Z", "client-zstd:workers=2"}, `pg_basebackup: removing data directory`},
		{"tar, compressed there", syscall.SIGTERM, []string{"-Ft", "-Z", "server-lz4"}, `pg_basebackup: removing data directory`},
		{"plain, compressed there", syscall.SIGTERM, []string{"-Z", "server-gzip"}, `pg_basebackup: removing data directory`},
		{"into a directory that is there", syscall.SIGINT, []string{"-D", "$DIR/empty"}, `removing contents of data directory "$DIR/empty"`},
		{"log apart", syscall.SIGINT, []string{"--waldir=$DIR/wal"}, `removing WAL directory "$DIR/wal"`},
		{"log apart in a directory that is there", syscall.SIGTERM, []string{"--waldir=$DIR/empty"}, `removing contents of WAL directory "$DIR/empty"`},
		{"with progress", syscall.SIGINT, []string{"-P", "-v"}, "removing data directory"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			h := hold(t, basin, s, test.args...)
			h.signal(t, test.signal)
			e := h.wait(t)
			if e.signal != test.signal {
				t.Errorf("%s", e)
			}
			e.said(t, strings.ReplaceAll(test.said, "$DIR", h.dir))
			h.cleaned(t)
			h.forgotten(t, s)
		})
	}
	t.Run("what there is is wanted", func(t *testing.T) {
		t.Parallel()
		h := hold(t, basin, s, "--no-clean")
		h.signal(t, syscall.SIGINT)
		h.wait(t).said(t, `data directory "`+h.backupPath()+`" not removed at user's request`)
		present(t, filepath.Join(h.backupPath(), "backup_label"))
		absent(t, filepath.Join(h.backupPath(), "backup_manifest"))
		absent(t, filepath.Join(h.backupPath(), "global", "pg_control"))
		h.forgotten(t, s)
	})
	t.Run("to standard output", func(t *testing.T) {
		t.Parallel()
		h := hold(t, basin, s, "-Ft", "-X", "fetch", "-D", "-")
		h.signal(t, syscall.SIGTERM)
		if e := h.wait(t); e.signal != syscall.SIGTERM || e.stdout == "" {
			t.Errorf("%d bytes of output, %s", len(e.stdout), e)
		}
		h.forgotten(t, s)
	})
	t.Run("a slot that was made for it stays", func(t *testing.T) { // as it does when the backup succeeds
		t.Parallel()
		h := hold(t, basin, s, "-C", "-S", "made_and_kept")
		h.signal(t, syscall.SIGINT)
		h.wait(t)
		h.cleaned(t)
		h.forgotten(t, s)
		s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'made_and_kept' AND NOT active", "1")
	})
}

// TestInterruptedBeforeCheckpoint has the server busy with what a backup waits for
// first, for which it does not look at its connection.
func TestInterruptedBeforeCheckpoint(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{})
	checkpointer, err := strconv.Atoi(s.Query(t, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(checkpointer, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(checkpointer, syscall.SIGCONT)
	h := prepareHold(t, basin, s, "-v")
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase = 'waiting for checkpoint to finish'", "1")
	h.signal(t, syscall.SIGINT)
	if e := h.wait(t); e.signal != syscall.SIGINT {
		t.Errorf("%s", e)
	}
	h.cleaned(t)
}

// TestInterruptedWithStuckOutput has a program that waits for whoever reads its
// standard output, and that is not to wait once it is interrupted.
func TestInterruptedWithStuckOutput(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{})
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close() // which nobody reads from
	defer writer.Close()
	c := basin.command(t.Context(), []string{"PGAPPNAME=stuck"}, "-D", "-", "-Ft", "-X", "fetch", "-c", "fast", "-d", s.ConnString())
	c.Stdout = writer
	p := startCommand(t, c)
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stuck' AND wait_event = 'ClientWrite'", "1")
	p.signal(t, syscall.SIGTERM)
	if e := p.wait(t); e.signal != syscall.SIGTERM {
		t.Errorf("%s", e)
	}
}

func TestServerDiesDuringBackup(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	terminate := func(state string) func(*testing.T, *pgtest.Server, *heldBackup) {
		return func(t *testing.T, s *pgtest.Server, h *heldBackup) {
			s.Exec(t, fmt.Sprintf("SELECT pg_terminate_backend(%d)", h.pid(t, s, state)))
		}
	}
	kill := func(state string) func(*testing.T, *pgtest.Server, *heldBackup) {
		return func(t *testing.T, s *pgtest.Server, h *heldBackup) {
			if err := syscall.Kill(h.pid(t, s, state), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		reason string
		happen func(*testing.T, *pgtest.Server, *heldBackup)
		said   []string
	}{
		{"sender of the log is told to end", terminate("streaming"), []string{"background process terminated unexpectedly"}},
		{"sender of the backup is told to end", terminate("backup"), []string{"terminating connection due to administrator command"}},
		{"sender of the log is killed", kill("streaming"), nil},
		{"sender of the backup is killed", kill("backup"), nil},
		{"server is shut down", func(t *testing.T, s *pgtest.Server, _ *heldBackup) { s.Stop(t, pgtest.Fast) }, nil},
		{"server is shut down at once", func(t *testing.T, s *pgtest.Server, _ *heldBackup) { s.Stop(t, pgtest.Immediate) }, nil},
		{"server is killed", func(t *testing.T, s *pgtest.Server, _ *heldBackup) { s.Kill(t) }, nil},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{})
			h := hold(t, basin, s)
			test.happen(t, s, h)
			e := h.wait(t)
			e.failed(t, append(test.said, "pg_basebackup: error: ", `removing data directory "`+h.backupPath()+`"`)...)
			h.cleaned(t)
		})
	}
}
