package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/manifest"
	"basin/internal/object/s3/s3test"
	"basin/internal/pgtest"
	"basin/internal/wal"
)

// repositoryAxes are what a chain of backups is made of.
func repositoryAxes() []axis {
	return []axis{
		{"server", []string{"13", "14", "15", "16", "17", "18"}},
		{"source", []string{"wire", "local"}},
		{"store", []string{"disk", "s3"}},
		{"sealed", []string{"plain", "encrypted"}},
		{"checksums", []string{"off", "on"}},
		{"hints", []string{"off", "on"}}, // wal_log_hints
		{"line", []string{"promoted", "rewound"}},
	}
}

// repositoryRule is false for what does not go together: pg_rewind is there of some majors, and needs to know of each
// page that was changed.
func repositoryRule(c matrixCase) bool {
	isWithout := c["checksums"] == "off" && c["hints"] == "off"
	return c["line"] != "rewound" || (c["server"] == "" || pgtest.Full(c.major())) && !isWithout
}

// repositoryCases returns choices that hold every major, and every pair of values of the other axes; or, with BASIN_MATRIX=full,
// every pair, and every server with every source and store.
func repositoryCases() []matrixCase {
	axes := repositoryAxes()
	if isFull() {
		return chooseCases(axes, repositoryRule, "server", "source", "store", "sealed")
	}
	cases := chooseCases(axes[1:], repositoryRule)
	majors := slices.Clone(axes[0].values)
	for _, c := range cases {
		next := slices.IndexFunc(majors, func(major string) bool {
			c["server"] = major
			return repositoryRule(c)
		})
		majors = append(slices.Delete(majors, next, next+1), c["server"])
	}
	return cases
}

// TestRepositoryMatrix takes backups of clusters to which all kinds of things happen, and restores each of several
// moments.
func TestRepositoryMatrix(t *testing.T) {
	basin := newProgram(t, "basin")
	bucket := s3test.Start(t)
	for _, c := range repositoryCases() {
		var name []string
		for _, a := range repositoryAxes() {
			name = append(name, a.name+"="+c[a.name])
		}
		t.Run(strings.Join(name, ","), func(t *testing.T) {
			t.Parallel()
			var in *s3test.Server
			if c["store"] == "s3" {
				in = bucket
			}
			testRepositoryCase(t, c, newStore(t, basin, in, c["sealed"] == "encrypted"))
		})
	}
}

// testRepositoryCase makes a chain of backups, under load, and restores.
func testRepositoryCase(t *testing.T, c matrixCase, r *store) {
	k := keepIn(t, r, pgtest.Config{
		Major: c.major(), Checksums: c["checksums"] == "on", Conf: map[string]string{"wal_log_hints": c["hints"]},
	})
	w := startWorkload(t, k.Server, rand.New(rand.NewPCG(uint64(c.major()), 1)), k.newTablespace(t, "one"), k.newTablespace(t, "two"))
	chain := func() {
		load := pgtest.StartLoad(t.Context(), t, k.Server, 1)
		eventually(t, "load", func() bool { return load.Committed() > 0 })
		k.backUp(t, c["source"] == "local")
		load.Stop(t)
		t.Logf("after a backup: %s", strings.Join(w.change(t, 5), ", "))
		k.mark(t)
	}
	chain()
	chain()
	k.archived(t)
	w.tablespaces = append(w.tablespaces, k.newTablespace(t, "three"))
	w.move(t)
	chain()
	lost := k.Server
	k.takeOver(t)
	w.Server = k.Server
	chain()
	if c["line"] == "rewound" {
		k.rewind(t, lost)
		w.Server = k.Server
	}
	chain()
	k.archived(t)

	for i, args := range [][]string{
		{"--target-lsn", k.marks[0].lsn},
		{"--target-time", k.marks[1].time},
		{"--target-name", k.marks[2].name},
		{"--target-time", k.marks[3].time, "--target-exclusive"},
		{"--target-xid", k.marks[4].xid, "--target-exclusive"},
	} {
		s := k.restore(t, append(args, "--target-action", "promote")...)
		k.marks[i].recovered(t, s)
		s.Stop(t, pgtest.Immediate)
	}
	k.checkQuiet(t, c["source"] == "local")
}

// newTablespace makes a tablespace, and returns its name.
func (k *kept) newTablespace(t *testing.T, name string) string {
	t.Helper()
	k.tablespaces = append(k.tablespaces, k.Tablespace(t, name))
	return name
}

// takeOver restores the cluster as a standby, which follows the server and is promoted while that goes on: what that writes
// then is lost, although it is archived.
func (k *kept) takeOver(t *testing.T) {
	t.Helper()
	old := k.Server
	standby := k.open(t, k.place(t, "--standby"), map[string]string{"primary_conninfo": old.ConnString()})
	old.WaitReplay(t, standby)
	standby.Promote(t)
	standby.Exec(t, "CHECKPOINT") // before 16 pg_rewind believes the control file alone
	old.Exec(t, "CREATE TABLE lost AS SELECT generate_series(1, 20000) AS n", "DELETE FROM pg_largeobject")
	k.archived(t)
	k.goesOn(t, standby)
	k.WaitFor(t, "SELECT archived_count > 1 AND last_archived_wal LIKE '00000002%' FROM pg_stat_archiver", "t")
	if name := switchSegment(t, standby); !strings.Contains(k.location, "://") {
		// A segment of which restore_command gave the beginning PostgreSQL takes for archived, and makes no part of it.
		isRestored := strings.Contains(standby.Log(t), `restored log file "`+name+`" from archive`)
		eventually(t, fmt.Sprintf("%s.partial is in the archive, unless the standby got the segment from there: %v", name, isRestored), func() bool {
			parts, err := filepath.Glob(filepath.Join(k.location, "main", "*", "wal", "00000001", "*", name+".partial"))
			return err == nil && len(parts) == map[bool]int{true: 0, false: 1}[isRestored]
		})
	}
	old.Exec(t, "ALTER SYSTEM SET restore_command = '"+k.restoreCommand()+"'") // for pg_rewind
	old.Stop(t, pgtest.Fast)
}

// switchSegment returns the segment of timeline 1 in which a server that was promoted has left it.
func switchSegment(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", wal.HistoryName(2)))
	if err != nil {
		t.Fatal(err)
	}
	history, err := wal.ParseHistory(2, content)
	if err != nil || len(history) != 1 {
		t.Fatal(history, err)
	}
	size, err := strconv.ParseInt(s.Query(t, "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return wal.SegmentAt(wal.Position{LSN: history[0].End, Timeline: 1}, size).Name(size)
}

// goesOn has another server be the cluster.
func (k *kept) goesOn(t *testing.T, s *pgtest.Server) {
	t.Helper()
	k.Server = s
	for place := range strings.SplitSeq(s.Query(t, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_'"), "\n") {
		if place != "" && !slices.Contains(k.tablespaces, place) {
			k.tablespaces = append(k.tablespaces, place)
		}
	}
	s.Exec(t, "INSERT INTO marks VALUES (3)", "SELECT pg_switch_wal()")
}

// rewind has a server that others have gone on without follow its successor, and takes its place again.
func (k *kept) rewind(t *testing.T, old *pgtest.Server) {
	t.Helper()
	successor := k.Server
	tool(t, k.Major, "pg_rewind", "-D", old.DataDir, "--source-server="+successor.ConnString(), "--no-sync", "--restore-target-wal", "-R")
	pgtest.SetRecovery(t, k.Major, old.DataDir, pgtest.Recovery{Standby: true, Settings: map[string]string{
		"primary_conninfo": successor.ConnString(), "restore_command": k.restoreCommand(),
	}})
	pgtest.Own(t, old.DataDir)
	old.Start(t)
	successor.WaitReplay(t, old)
	successor.Stop(t, pgtest.Fast)
	old.WaitFor(t, "SELECT count(*) FROM pg_stat_wal_receiver", "0")
	old.Promote(t)
	k.goesOn(t, old)
}

// checkQuiet takes a backup of which each file is to be the same as in one of the stock program, and has a copy come to the
// end of the log, and a standby, whose pages are to be those of the cluster.
func (k *kept) checkQuiet(t *testing.T, isLocal bool) {
	t.Helper()
	k.Exec(t, "ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()")
	k.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'", "0")
	end := mark{name: "the end", sums: pgtest.Sums(t, k.Server)}
	k.Exec(t, "CHECKPOINT")
	stockDir := filepath.Join(pgtest.TempDir(t), "stock")
	tool(t, pgtest.Newest, "pg_basebackup", "-d", k.ConnString(), "-D", stockDir, "-F", "tar", "-X", "none", "-c", "fast", "--no-sync", "--manifest-checksums=SHA256")
	k.backUp(t, isLocal)
	dir := k.place(t, "--standby")
	if n := sameDigests(t, filepath.Join(stockDir, manifest.Name), dir); n < 500 {
		t.Errorf("digests of %d files were compared", n)
	}
	end.recovered(t, k.restore(t))

	copied := k.open(t, dir, nil)
	k.Stop(t, pgtest.Fast)
	last := checkpointOf(t, k.Server)
	k.pushRest(t, last)
	copied.WaitFor(t, "SELECT pg_last_wal_replay_lsn() > '"+last+"'", "t")
	copied.Stop(t, pgtest.Fast)
	if n := samePages(t, k.DataDir, copied.DataDir); n < 100 {
		t.Errorf("%d files were compared", n)
	}
}

// ofOneBackup are the files that two backups of the same cluster do not share: where they begin, and how they recover.
var ofOneBackup = []string{"backup_label", "tablespace_map", "global/pg_control", "postgresql.auto.conf", "standby.signal"}

// sameDigests fails the test unless the files of a data directory are those of a manifest with SHA-256. It returns how many
// were compared.
func sameDigests(t *testing.T, list, dir string) (files int) {
	t.Helper()
	there := make(map[string]string)
	var walk func(dir, below string)
	walk = func(dir, below string) {
		for _, entry := range readDir(t, dir) {
			path, name := filepath.Join(dir, entry.Name()), filepath.ToSlash(filepath.Join(below, entry.Name()))
			if info, err := os.Stat(path); err != nil { // of what a link of a tablespace leads to
				t.Fatal(err)
			} else if info.IsDir() {
				walk(path, name)
			} else {
				there[name] = digestOf(t, path)
			}
		}
	}
	walk(dir, "")
	f, err := os.Open(list)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wanted := make(map[string]string)
	if _, err := manifest.Read(f, func(f manifest.File) error {
		wanted[f.Path] = hex.EncodeToString(f.Checksum)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(ofOneBackup, manifest.Name) {
		delete(there, name)
		delete(wanted, name)
	}
	if diff := cmp.Diff(wanted, there); diff != "" {
		t.Errorf("pg_basebackup had, and %s has:\n%s", dir, diff)
	}
	return len(wanted)
}

func readDir(t *testing.T, dir string) []fs.DirEntry {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// digestOf returns the SHA-256 of a file.
func digestOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}
