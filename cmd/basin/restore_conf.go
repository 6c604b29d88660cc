package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/repo"
)

// confFile is a file of configuration that a server does not start without.
const confFile = "postgresql.conf"

// lacksConf says whether a backup has no configuration, as of a server that has it outside of its data
// directory.
func (r *restoreRun) lacksConf(ctx context.Context, commit repo.Commit) (bool, error) {
	_, isThere, err := r.cluster.NewSource(commit, repo.SourceOptions{}).Lookup(ctx, 0, confFile)
	return !isThere, err
}

// needed are settings that may not be lower than those with which the log was written, and where the
// control file has these.
//
// Source: CheckRequiredParameterValues in src/backend/access/transam/xlogrecovery.c, and ControlFileData in
// src/include/catalog/pg_control.h, PostgreSQL 13 to 18.
var needed = []struct {
	name string
	at   int
}{
	{"max_connections", 180}, {"max_worker_processes", 184}, {"max_wal_senders", 188},
	{"max_prepared_transactions", 192}, {"max_locks_per_transaction", 196},
}

// neededSettings returns lines of configuration that have recovery go on: what a control file says.
func neededSettings(control []byte, version int) string {
	var b strings.Builder
	for _, s := range needed {
		if version >= 130000 && len(control) >= s.at+4 {
			fmt.Fprintf(&b, "%s = %d\n", s.name, int32(binary.LittleEndian.Uint32(control[s.at:])))
		}
	}
	return b.String()
}

// confSource yields a backup that has no configuration, with one by which the server starts. Nobody can
// connect but over the socket, as the same user of the system.
type confSource struct {
	backup.Source
	version int
	seen    map[string]bool // what the backup has of it
	queue   []backup.Member
	readers []io.Reader
}

func newConfSource(source backup.Source, version int) *confSource {
	return &confSource{Source: source, version: version, seen: make(map[string]bool)}
}

// Next returns the next member. The configuration comes before the control file.
func (s *confSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if len(s.queue) > 0 {
		m, r := s.queue[0], s.readers[0]
		s.queue, s.readers = s.queue[1:], s.readers[1:]
		return m, r, nil
	}
	m, r, err := s.Source.Next(ctx)
	if err != nil || m.Tablespace != 0 {
		return m, r, err
	}
	s.seen[m.Path] = true
	if m.Path != pgdata.ControlPath {
		return m, r, nil
	}
	control, err := io.ReadAll(io.LimitReader(r, m.Size+1))
	if err != nil {
		return m, nil, err
	}
	note := "# by basin restore: the backup has no such file, since the server had its configuration elsewhere,\n" +
		"# as Debian has in /etc/postgresql. Put the original in its place before the server is used.\n"
	s.add(confFile, note+neededSettings(control, s.version))
	s.add("pg_hba.conf", note+"local all all peer\nlocal replication all peer\n")
	s.add("pg_ident.conf", note)
	s.queue, s.readers = append(s.queue, m), append(s.readers, bytes.NewReader(control))
	return s.Next(ctx)
}

// add has a file come that the backup does not have.
func (s *confSource) add(path, text string) {
	if s.seen[path] {
		return
	}
	s.queue = append(s.queue, backup.Member{
		Path: path, Kind: backup.File, Size: int64(len(text)), Mode: localfs.FileModeOwner,
		UID: backup.InjectedUID, GID: backup.InjectedGID, ModTime: time.Now(),
	})
	s.readers = append(s.readers, strings.NewReader(text))
}
