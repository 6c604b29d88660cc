package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// restoredDir is what a restored data directory tells by itself.
type restoredDir struct {
	path     string
	systemID uint64
	control  pgdata.ControlState
	settings map[string]string // of postgresql.auto.conf
	isBegun  bool              // recovery was: the backup label is there no more
	signal   string            // recovery.signal or standby.signal, if recovery has not ended; empty if it has
	history  string            // of the timeline that it is on; empty if there is none
	running  *postmaster       // nil if no server runs there
}

// postmaster is what postmaster.pid says of a server that runs.
//
// Source: src/include/utils/pidfile.h, PostgreSQL 18.
type postmaster struct {
	started time.Time
	port    string
	socket  string // directory; may be empty
}

// readRestored reads a data directory.
func readRestored(dir string) (*restoredDir, error) {
	d := &restoredDir{path: dir}
	if err := d.readControl(); err != nil {
		return nil, err
	}
	content, err := d.read("postgresql.auto.conf")
	if err != nil {
		return nil, err
	}
	d.settings = parseSettings(content)
	d.isBegun = !d.has(pgdata.LabelPath)
	for _, name := range []string{"standby.signal", "recovery.signal"} {
		if d.signal == "" && d.has(name) {
			d.signal = name
		}
	}
	if err := d.follow(d.control.Timeline); err != nil {
		return nil, err
	}
	d.running, err = d.postmaster()
	return d, err
}

// follow reads the history of the timeline that the cluster is on.
func (d *restoredDir) follow(t wal.Timeline) (err error) {
	d.control.Timeline = t
	d.history, err = d.read(filepath.Join("pg_wal", wal.HistoryName(t)))
	return err
}

// readControl reads the control file.
func (d *restoredDir) readControl() error {
	path := filepath.Join(d.path, filepath.FromSlash(pgdata.ControlPath))
	content, control, err := readControlFile(path)
	if _, missing := os.Stat(d.path); errors.Is(missing, fs.ErrNotExist) {
		return usererr.Hinted("Name the directory that basin restore was given.", "there is no directory \"%s\"", d.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return usererr.Hinted("Name the directory that basin restore was given. A restore writes that file last: without it, it was broken off.",
			"\"%s\" is not a whole data directory: it has no %s", d.path, pgdata.ControlPath)
	}
	if err != nil {
		return err
	}
	d.systemID = control.SystemID
	if d.control, err = pgdata.ParseControlState(content); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// read returns a file, empty if it is not there.
func (d *restoredDir) read(name string) (string, error) {
	path := filepath.Join(d.path, name)
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	return string(content), nil
}

func (d *restoredDir) has(name string) bool {
	_, err := os.Lstat(filepath.Join(d.path, name))
	return err == nil
}

// isEmptyDatabase says whether a database was left out of the restore, so that its files are zeros. The numbers are those of the
// database and its tablespace.
func (d *restoredDir) isEmptyDatabase(oid, tablespace string) bool {
	const ofDefault = "1663" // DEFAULTTABLESPACE_OID
	dirs := []string{filepath.Join(d.path, "base")}
	if tablespace != ofDefault {
		dirs = nil
		top := filepath.Join(d.path, "pg_tblspc", tablespace)
		entries, _ := os.ReadDir(top) // without, there is none that is known to be empty
		for _, e := range entries {
			dirs = append(dirs, filepath.Join(top, e.Name())) // of each version that was there
		}
	}
	return slices.ContainsFunc(dirs, func(dir string) bool {
		content, err := os.ReadFile(filepath.Join(dir, oid, "PG_VERSION"))
		return err == nil && len(content) > 0 && len(bytes.Trim(content, "\x00")) == 0
	})
}

// postmaster returns the server that runs there, nil if none does.
func (d *restoredDir) postmaster() (*postmaster, error) {
	content, err := d.read("postmaster.pid")
	if err != nil || content == "" {
		return nil, err
	}
	lines := append(strings.Split(content, "\n"), "", "", "", "", "")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || pid <= 0 || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return nil, nil // it was left by a server that has crashed
	}
	started, err := strconv.ParseInt(strings.TrimSpace(lines[2]), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%s has no time in its third line", filepath.Join(d.path, "postmaster.pid"))
	}
	return &postmaster{time.Unix(started, 0), strings.TrimSpace(lines[3]), strings.TrimSpace(lines[4])}, nil
}

// parseSettings reads lines of name = 'value'; of several of a name the last counts.
//
// Source: src/backend/utils/misc/guc-file.l, PostgreSQL 18.
func parseSettings(content string) map[string]string {
	settings := make(map[string]string)
	for line := range strings.Lines(content) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		settings[name] = unquoteSetting(strings.TrimSpace(value))
	}
	return settings
}

// unquoteSetting returns what a value in single quotes stands for; one without is up to a blank or comment.
func unquoteSetting(value string) string {
	if !strings.HasPrefix(value, "'") {
		if end := strings.IndexAny(value, " \t#"); end >= 0 {
			value = value[:end]
		}
		return value
	}
	var b strings.Builder
	for i := 1; i < len(value); i++ {
		switch {
		case value[i] == '\'' && i+1 < len(value) && value[i+1] == '\'', value[i] == '\\' && i+1 < len(value):
			i++
			b.WriteByte(value[i])
		case value[i] == '\'':
			return b.String()
		default:
			b.WriteByte(value[i])
		}
	}
	return b.String()
}

// restoredTarget is how far recovery was to come, as the settings say.
type restoredTarget struct {
	kind, value string // time, lsn, xid, name, immediate; empty is the end of the log
	inclusive   bool
	timeline    wal.Timeline // zero if it is not a number
	lsn         wal.LSN      // of the kind
	shutsDown   bool
}

// target returns how far recovery was to come. ok is false if no settings of a restore are there.
func (d *restoredDir) target() (t restoredTarget, ok bool) {
	if d.settings["restore_command"] == "" {
		return t, false
	}
	t.inclusive = d.settings["recovery_target_inclusive"] != "off"
	t.shutsDown = d.settings["recovery_target_action"] == "shutdown"
	if n, err := strconv.ParseUint(d.settings["recovery_target_timeline"], 10, 32); err == nil {
		t.timeline = wal.Timeline(n)
	}
	for _, kind := range []string{"time", "lsn", "xid", "name"} {
		if value := d.settings["recovery_target_"+kind]; value != "" {
			t.kind, t.value = kind, value
		}
	}
	if d.settings["recovery_target"] != "" {
		t.kind = "immediate"
	}
	if t.kind == "lsn" {
		var err error
		if t.lsn, err = wal.ParseLSN(t.value); err != nil {
			return t, false
		}
	}
	return t, true
}

// String tells the target.
func (t restoredTarget) String() string {
	how := ""
	if !t.inclusive {
		how = ", which is left out"
	}
	switch t.kind {
	case "":
		return "the end of the log"
	case "xid":
		return "transaction " + t.value + how
	case "name":
		return "restore point \"" + t.value + "\""
	case "immediate":
		return "as soon as the cluster is consistent"
	case "lsn":
		return "position " + t.value + how
	}
	return t.value + how
}

// pageHeader is how much may lie between the end of a record and the next: the header of a segment's first page, in bytes.
//
// Source: SizeOfXLogLongPHD in src/include/access/xlog_internal.h, PostgreSQL 18.
const pageHeader = 40

// covers says whether a cluster that has replayed up to a position has come to a target that is one.
func (t restoredTarget) covers(replayed wal.LSN) bool {
	if t.inclusive {
		return replayed > t.lsn
	}
	return replayed+pageHeader >= t.lsn
}

// recoveryEnd is where recovery ended, and why, as the history of the timeline that began then says.
type recoveryEnd struct {
	at     wal.LSN
	reason string
}

// noTarget is the reason if recovery ended since there was no more log.
//
// Source: getRecoveryStopReason in src/backend/access/transam/xlogrecovery.c, PostgreSQL 18.
const noTarget = "no recovery target specified"

// String tells it as the end of a sentence.
func (e recoveryEnd) String() string {
	if e.reason == "reached consistency" { // of getRecoveryStopReason, too: all others say before, after or at what
		return "as soon as the cluster was consistent"
	}
	return e.reason
}

// end returns where recovery on the timeline of the target ended; ok is false if it has not.
func (d *restoredDir) end(t restoredTarget) (e recoveryEnd, ok bool) {
	for line := range strings.Lines(d.history) {
		fields := strings.SplitN(strings.TrimRight(line, "\n"), "\t", 3)
		n, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil || len(fields) < 3 || t.timeline != 0 && wal.Timeline(n) != t.timeline {
			continue
		}
		at, err := wal.ParseLSN(fields[1])
		if err != nil {
			continue
		}
		e, ok = recoveryEnd{at, fields[2]}, true
	}
	return e, ok
}

// lastCommitBefore returns when the last transaction ended before a position, as far as the segment tells that is in
// pg_wal; the zero time if it does not.
func (d *restoredDir) lastCommitBefore(at wal.LSN) (last time.Time) {
	const most = wal.MaxSegmentSize
	for size := int64(1 << 20); size <= most; size *= 2 { // the name of the file depends on it
		segment := wal.SegmentAt(wal.Position{LSN: at - 1, Timeline: d.control.Timeline}, size)
		path := filepath.Join(d.path, "pg_wal", segment.Name(size))
		info, err := os.Stat(path)
		if err != nil || info.Size() != size {
			continue
		}
		file, err := os.Open(path)
		if err != nil {
			return last
		}
		defer file.Close()
		reader := wal.NewRecordReader(file, segment.Start(size), size)
		for {
			record, err := reader.Next()
			if err != nil || record.End > at {
				return last
			}
			if end, isCommit := record.Commit(); isCommit {
				last = end.Time
			}
		}
	}
	return last
}
