package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// cluster is what a source knows of the cluster.
type cluster struct {
	version       int // as server_version_num
	catalog       string
	systemID      uint64
	segmentSize   int64
	directory     string // of the data, as the server has it
	started       string // when the postmaster was
	postmaster    []byte // what its file says of it
	inRecovery    bool
	dataChecksums bool
	summarizes    bool   // the log
	statistics    string // where temporary ones are kept, if that is told

	uid, gid          int // of the data directory
	dirMode, fileMode fs.FileMode
}

// major returns the major version, such as 18.
func (c *cluster) major() int { return c.version / 10000 }

// versionDir returns the name of the directory that a tablespace has for this version.
//
// Source: TABLESPACE_VERSION_DIRECTORY in src/include/common/relpath.h, PostgreSQL 18.
func (c *cluster) versionDir() string { return fmt.Sprintf("PG_%d_%s", c.major(), c.catalog) }

// Oldest versions of the server, as server_version_num, that have something.
const (
	version11 = 110000 // checks pages, and does without temporary and unlogged relations
	version12 = 120000 // says of pages that it could not check them
	version13 = 130000 // has manifests, and slots that tell what they hold
	version14 = 140000 // has idle_session_timeout
	version15 = 150000 // has pg_backup_start, and no files of statistics
	version16 = 160000 // sends tablespaces within the data directory as archives of their own
	version17 = 170000 // has incremental backups
)

// row returns the one row of a statement.
func (s *Source) row(ctx context.Context, sql string) ([]string, error) {
	rows, err := s.o.Session.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, fmt.Errorf("the server answers %d rows and not one to: %s", len(rows), sql)
	}
	texts := make([]string, len(rows[0]))
	for i, column := range rows[0] {
		texts[i] = string(column)
	}
	return texts, nil
}

// prepare sets the session up, and sees that it is one of the cluster of the data directory.
func (s *Source) prepare(ctx context.Context) error {
	version, err := s.row(ctx, "SELECT pg_catalog.current_setting('server_version_num')")
	if err != nil {
		return err
	}
	if s.cluster.version, err = strconv.Atoi(version[0]); err != nil || s.cluster.version < 100000 {
		return usererr.Hinted("PostgreSQL 10 is the oldest that can be backed up this way.", "server version %q is not supported", version[0])
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	if err := s.identify(ctx); err != nil {
		return err
	}
	return s.checkDirectory(ctx)
}

// settle keeps the session from being ended while the backup runs, and has texts come as
// they are.
func (s *Source) settle(ctx context.Context) error {
	settings := []string{"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"}
	if s.cluster.version >= version14 {
		settings = append(settings, "idle_session_timeout")
	}
	if s.cluster.version >= version17 {
		settings = append(settings, "transaction_timeout")
	}
	sql := "SET standard_conforming_strings = on; SET search_path = pg_catalog; " +
		"SELECT pg_catalog.set_config('client_encoding', pg_catalog.current_setting('server_encoding'), false)"
	for _, name := range settings {
		sql += "; SET " + name + " = 0"
	}
	_, err := s.o.Session.Query(ctx, sql)
	return err
}

// identify asks the server what it is.
func (s *Source) identify(ctx context.Context) error {
	c := &s.cluster
	row, err := s.row(ctx, `SELECT s.system_identifier, s.catalog_version_no, pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()), pg_catalog.pg_is_in_recovery(),`+
		` pg_catalog.current_setting('wal_segment_size'), pg_catalog.current_setting('data_checksums'),`+
		` coalesce(pg_catalog.current_setting('summarize_wal', true), ''), coalesce(pg_catalog.current_setting('stats_temp_directory', true), '')`+
		` FROM pg_catalog.pg_control_system() s`)
	if err != nil {
		return err
	}
	if c.systemID, err = strconv.ParseUint(row[0], 10, 64); err != nil {
		id, err := strconv.ParseInt(row[0], 10, 64) // it is shown as a bigint
		if err != nil {
			return fmt.Errorf("system identifier %q: %w", row[0], err)
		}
		c.systemID = uint64(id)
	}
	c.catalog, c.started, c.inRecovery = row[1], row[2], row[3] == "t"
	if c.segmentSize, err = wal.ParseSegmentSize(row[4]); err != nil {
		return err
	}
	c.dataChecksums, c.summarizes, c.statistics = row[5] == "on", row[6] == "on", row[7]
	return nil
}

// postmasterPath is where a postmaster tells of itself.
const postmasterPath = "postmaster.pid"

// errOtherCluster is what is wrong with a data directory that is not the server's.
var errOtherCluster = errors.New("the data directory is not that of the server")

// otherCluster says how it is seen that a data directory is not the server's.
func (s *Source) otherCluster(format string, args ...any) error {
	return &usererr.Error{
		Err:    fmt.Errorf("\"%s\": %w", s.o.DataDir, errOtherCluster),
		Detail: fmt.Sprintf(format, args...),
		Hint:   "Name the directory that the server answers to SHOW data_directory, as it is found on this machine, or connect to the server that runs there.",
	}
}

// checkDirectory sees that the data directory is the server's, and what it is like.
func (s *Source) checkDirectory(ctx context.Context) error {
	c := &s.cluster
	dir, err := os.Stat(s.o.DataDir)
	if err != nil {
		return localfs.Errorf(err, s.o.DataDir, "could not access directory \"%s\"", s.o.DataDir)
	}
	content, err := s.readControl(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return s.otherCluster("It has no \"%s\".", pgdata.ControlPath)
	}
	if err != nil {
		return err
	}
	control, err := pgdata.ParseControl(content)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", s.path(pgdata.ControlPath), err)
	case control.SystemID != c.systemID:
		return s.otherCluster("Its system identifier is %d, and that of the server %d.", control.SystemID, c.systemID)
	case control.PageSize != pgdata.PageSize || control.SegmentPages != pgdata.SegmentPages:
		return fmt.Errorf("the cluster has pages of %d bytes, and files of %d pages, not %d and %d", control.PageSize, control.SegmentPages, pgdata.PageSize, pgdata.SegmentPages)
	}
	if c.postmaster, err = os.ReadFile(s.path(postmasterPath)); err != nil {
		return s.otherCluster("%v; no server runs there.", localfs.Errorf(err, "", "Could not read its \"%s\"", postmasterPath))
	}
	if err := s.checkPlace(ctx, dir); err != nil {
		return err
	}
	c.dirMode, c.fileMode = localfs.DirModeOwner, localfs.FileModeOwner
	if dir.Mode().Perm()&groupMode == groupMode && c.version >= version11 {
		c.dirMode, c.fileMode = groupMode, 0o640
	}
	if stat, ok := dir.Sys().(*syscall.Stat_t); ok {
		c.uid, c.gid = int(stat.Uid), int(stat.Gid)
	}
	return nil
}

// groupMode is what the data directory of a cluster that its group may read has as
// permissions.
//
// Source: PG_DIR_MODE_GROUP in src/include/common/file_perm.h, PostgreSQL 18.
const groupMode fs.FileMode = 0o750

// checkPlace compares the data directory with the one that the server has. A copy of a
// cluster has its system identifier too.
func (s *Source) checkPlace(ctx context.Context, dir fs.FileInfo) error {
	row, err := s.row(ctx, "SELECT pg_catalog.current_setting('data_directory')")
	if err != nil {
		return err
	}
	s.cluster.directory = row[0]
	if within, err := filepath.Rel(row[0], s.cluster.statistics); err == nil && filepath.IsAbs(s.cluster.statistics) {
		s.cluster.statistics = within
	}
	theirs, err := os.Stat(row[0])
	switch {
	case err == nil && os.SameFile(theirs, dir):
		return nil
	case err == nil:
		if _, err := os.Stat(filepath.Join(row[0], postmasterPath)); err == nil {
			return s.otherCluster("The server's is \"%s\".", row[0])
		}
	}
	// The server may see another tree of files, as in a container: it is asked to read what
	// only one directory can have.
	row, err = s.row(ctx, "SELECT pg_catalog.pg_read_file('"+postmasterPath+"')")
	if err != nil {
		return fmt.Errorf("\"%s\" may not be the data directory of the server, which is asked to read its \"%s\": %w", s.o.DataDir, postmasterPath, err)
	}
	if !bytes.Equal(bytes.TrimSpace([]byte(row[0])), bytes.TrimSpace(s.cluster.postmaster)) {
		return s.otherCluster("Another server is named in its \"%s\".", postmasterPath)
	}
	return nil
}

// checkSame sees, once all was read, that the server is the one it was: one that was
// restarted has forgotten the backup.
func (s *Source) checkSame(ctx context.Context) error {
	row, err := s.row(ctx, "SELECT pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())")
	if err != nil {
		return lost(ctx, err)
	}
	now, err := os.ReadFile(s.path(postmasterPath))
	if err != nil {
		return restarted(localfs.Errorf(err, "", "could not read file \"%s\"", s.path(postmasterPath)))
	}
	if row[0] != s.cluster.started || firstLines(now) != firstLines(s.cluster.postmaster) {
		return restarted(fmt.Errorf("it was started at %s, and at %s again, in seconds of the Unix time", s.cluster.started, row[0]))
	}
	return nil
}

// lost is the error of a session that does not answer any more.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return restarted(err)
}

// restarted is the error of a server that is not the one it was when the backup began.
func restarted(err error) error {
	return usererr.Hinted("A server that stops gives up the backups that run: take the backup again.", "the server was restarted, or its connection lost, during the backup: %w", err)
}

// firstLines returns what a postmaster's file says of it that does not change while it runs:
// its process, the directory, and the time.
//
// Source: src/include/utils/pidfile.h, PostgreSQL 18.
func firstLines(content []byte) string {
	lines := strings.SplitAfterN(string(content), "\n", 4)
	return strings.Join(lines[:min(len(lines), 3)], "")
}

// path returns where a file of the data directory is.
func (s *Source) path(within string) string { return s.o.DataDir + "/" + within }

// quoted returns a text as a constant of SQL.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }
