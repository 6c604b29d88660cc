package pgtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Recovery says what a server is to do with the log when it starts.
type Recovery struct {
	Standby  bool              // go on until promoted; else end recovery at the end of the log, or at a target
	Settings map[string]string // restore_command, primary_conninfo, recovery_target_time and so on
}

// SetRecovery writes what makes the next start of a data directory a recovery: a
// signal file, and settings in postgresql.auto.conf; until 11, recovery.conf.
func SetRecovery(t testing.TB, major int, dataDir string, r Recovery) {
	t.Helper()
	var lines []string
	for name, value := range r.Settings {
		lines = append(lines, setting(name, value))
	}
	if major < 12 {
		lines = append(lines, setting("standby_mode", onOff[r.Standby]))
		appendFile(t, filepath.Join(dataDir, "recovery.conf"), lines)
		return
	}
	appendFile(t, filepath.Join(dataDir, "postgresql.auto.conf"), lines)
	signal := "recovery.signal"
	if r.Standby {
		signal = "standby.signal"
	}
	appendFile(t, filepath.Join(dataDir, signal), nil)
}

var onOff = map[bool]string{false: "off", true: "on"}

// Standby starts a copy of the running server that follows it. The copy is made
// with the low-level backup functions, and a slot keeps the log that it needs. The
// server cannot have tablespaces: on one machine they would have to be renamed.
func (s *Server) Standby(t testing.TB, conf map[string]string) *Server {
	t.Helper()
	if got := s.Query(t, "SELECT count(*) FROM pg_tablespace"); got != "2" {
		t.Fatal("a server with tablespaces cannot have a standby on the same machine")
	}
	standby := newServer(t, s.Major, conf)
	standby.DataDir = filepath.Join(standby.dir, "data")
	slot := fmt.Sprintf("standby_%d", standby.Port)
	s.Exec(t, "SELECT pg_create_physical_replication_slot('"+slot+"', true)")

	start, stop := "SELECT pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if s.Major < 15 {
		start, stop = "SELECT pg_start_backup('standby', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	conn := s.Connect(t, "")
	if _, err := query(t.Context(), conn, start); err != nil {
		t.Fatal(err)
	}
	if err := copyRunning(standby.DataDir, s.DataDir); err != nil {
		t.Fatal(err)
	}
	label, err := query(t.Context(), conn, stop)
	if err != nil {
		t.Fatal(err)
	}
	appendFile(t, filepath.Join(standby.DataDir, "backup_label"), label)
	SetRecovery(t, s.Major, standby.DataDir, Recovery{Standby: true, Settings: map[string]string{
		"primary_conninfo":  s.ConnString(),
		"primary_slot_name": slot,
	}})
	Own(t, standby.DataDir)
	standby.Start(t)
	return standby
}

// Promote makes a standby, of 12 or later, a primary, and waits until it is one.
func (s *Server) Promote(t testing.TB) {
	t.Helper()
	s.Exec(t, "SELECT pg_promote()")
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
}

// WaitReplay waits until a standby has replayed all that was written up to now.
func (s *Server) WaitReplay(t testing.TB, standby *Server) {
	t.Helper()
	now := s.Query(t, "SELECT pg_current_wal_lsn()")
	standby.WaitFor(t, "SELECT pg_last_wal_replay_lsn() >= '"+now+"'", "t")
}

// copyRunning copies a data directory that a server writes to, without its log,
// its slots and what says that it runs. A file that goes away was not needed.
func copyRunning(to, from string) error {
	return filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name != from {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case entry.IsDir() && filepath.Dir(rel) == "pg_replslot":
			return fs.SkipDir
		case entry.IsDir():
			return os.Mkdir(target, 0o700)
		case !entry.Type().IsRegular() || strings.HasPrefix(rel, "postmaster.") || strings.HasPrefix(rel, "pg_wal/"):
			return nil
		}
		if err := copyFile(target, name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func copyFile(to, from string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
