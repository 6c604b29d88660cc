package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

// kept is a cluster whose backups and log are kept in a repository.
type kept struct {
	*pgtest.Server
	basin       *program
	repository  string
	tablespaces []string // where they are
	marks       []mark
}

// mark is a moment of a cluster, and what was in it then.
type mark struct {
	name, time, lsn string
	sums            map[string]string
}

// keep starts a server that archives its log into a new repository.
func keep(t *testing.T, basin *program, major int, conf map[string]string) *kept {
	t.Helper()
	k := &kept{basin: basin, repository: filepath.Join(pgtest.TempDir(t), "repository")}
	if e := basin.run(t, nil, "init", k.repository); e.status != exitSuccess {
		t.Fatal(e)
	}
	settings := map[string]string{
		"archive_mode": "on", "archive_command": basin.path + " wal push --repository " + k.repository + " %p",
		"wal_level": "replica", "max_wal_senders": "10",
	}
	for name, value := range conf {
		settings[name] = value
	}
	k.Server = pgtest.Start(t, pgtest.Config{Major: major, Checksums: major != 14, Conf: settings})
	return k
}

// backUp takes a backup over the wire, or of the data directory.
func (k *kept) backUp(t *testing.T, isLocal bool) {
	t.Helper()
	args := []string{"backup", "--repository", k.repository, "-d", k.ConnString(), "-c", "fast"}
	if isLocal {
		args = append(args, "--pgdata", k.DataDir)
	}
	if e := k.basin.run(t, nil, args...); e.status != exitSuccess || e.stderr != "" {
		t.Fatal(e)
	}
}

// mark notes what is in the cluster now. Something is written before and after, so that times and
// positions lie between two commits.
func (k *kept) mark(t *testing.T) mark {
	t.Helper()
	m := mark{name: fmt.Sprintf("mark %d", len(k.marks)), sums: pgtest.Sums(t, k.Server)}
	k.Exec(t, "SELECT pg_create_restore_point('"+m.name+"')")
	m.lsn = k.Query(t, "SELECT pg_current_wal_insert_lsn()")
	m.time = k.Query(t, "SELECT clock_timestamp()")
	k.WaitFor(t, "SELECT clock_timestamp() > '"+m.time+"'", "t")
	k.Exec(t, "CREATE TABLE IF NOT EXISTS marks (n int)", "INSERT INTO marks VALUES (1)")
	k.marks = append(k.marks, m)
	return m
}

// archived waits until all that was written by now is in the repository.
func (k *kept) archived(t *testing.T) {
	t.Helper()
	k.Exec(t, "INSERT INTO marks VALUES (2)")
	name := k.Query(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	k.Exec(t, "SELECT pg_switch_wal()")
	k.WaitFor(t, "SELECT last_archived_wal >= '"+name+"' FROM pg_stat_archiver", "t")
}

// pushRest pushes the segment that a server which is stopped has not archived, as a part.
func (k *kept) pushRest(t *testing.T, end string) {
	t.Helper()
	at, err := wal.ParseLSN(end)
	if err != nil {
		t.Fatal(err)
	}
	name := wal.SegmentAt(wal.Position{LSN: at, Timeline: 1}, wal.DefaultSegmentSize).Name(wal.DefaultSegmentSize)
	content, err := os.ReadFile(filepath.Join(k.DataDir, "pg_wal", name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pgtest.TempDir(t), name+".partial")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := k.basin.run(t, nil, "wal", "push", "--repository", k.repository, "--pgdata", k.DataDir, path); e.status != exitSuccess {
		t.Fatal(e)
	}
}

// restore restores the cluster, and starts it.
func (k *kept) restore(t *testing.T, args ...string) *pgtest.Server {
	t.Helper()
	dir := pgtest.TempDir(t)
	args = append([]string{"restore", "--repository", k.repository, "-D", filepath.Join(dir, "data"), "--no-sync"}, args...)
	for i, from := range k.tablespaces {
		args = append(args, "-T", from+"="+filepath.Join(dir, "tablespace"+strconv.Itoa(i)))
	}
	if e := k.basin.run(t, nil, args...); e.status != exitSuccess {
		t.Fatal(e)
	}
	return pgtest.StartDir(t, k.Major, filepath.Join(dir, "data"), nil)
}

// recovered waits until a restored server can be written to, and compares it with a mark.
func (m mark) recovered(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if diff := cmp.Diff(m.sums, pgtest.Sums(t, s)); diff != "" {
		t.Errorf("%s: the source had, and the copy has:\n%s", m.name, diff)
	}
	pgtest.CheckIndexes(t, s)
}

// TestRepository takes backups of clusters to which all kinds of things happen, and restores each of
// several moments.
func TestRepository(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range pgtest.Majors() {
		if major < 13 {
			continue
		}
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			k := keep(t, basin, major, nil)
			random := rand.New(rand.NewPCG(uint64(major), 1))
			for _, name := range []string{"one", "two"} {
				k.tablespaces = append(k.tablespaces, k.Tablespace(t, name))
			}
			w := startWorkload(t, k.Server, random, "one", "two")
			for i := range 5 {
				k.backUp(t, i%2 == 1)
				names := w.change(t, 5)
				t.Logf("after backup %d: %s", i, strings.Join(names, ", "))
				k.mark(t)
			}
			k.backUp(t, false)
			k.archived(t)
			for i, args := range [][]string{
				{"--target-name", k.marks[0].name},
				{"--target-time", k.marks[1].time},
				{"--target-lsn", k.marks[2].lsn},
				{"--target-time", k.marks[3].time, "--target-exclusive"},
				{"--target-name", k.marks[4].name},
			} {
				k.marks[i].recovered(t, k.restore(t, append(args, "--target-action", "promote")...))
			}
			// The whole log, page by page.
			copied := k.restore(t, "--standby")
			k.Stop(t, pgtest.Fast)
			end := checkpointOf(t, k.Server)
			k.pushRest(t, end)
			copied.WaitFor(t, "SELECT pg_last_wal_replay_lsn() > '"+end+"'", "t")
			copied.Stop(t, pgtest.Fast)
			if n := samePages(t, k.DataDir, copied.DataDir); n < 100 {
				t.Errorf("%d files were compared", n)
			}
		})
	}
}
