package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// importing is a server whose backups are imported into a new repository.
func importing(t *testing.T, basin *program, major int, conf map[string]string) *kept {
	t.Helper()
	k := &kept{store: newStore(t, basin, nil, false), Server: pgtest.Start(t, pgtest.Config{Major: major, Checksums: true, Conf: conf})}
	k.Exec(t, "CREATE EXTENSION amcheck") // for the copies
	return k
}

// take takes a backup as pg_basebackup does.
func (k *kept) take(t *testing.T, name string, args ...string) string {
	t.Helper()
	dir := filepath.Join(pgtest.TempDir(t), name)
	args = append([]string{"basebackup", "-d", k.ConnString(), "-D", dir, "-c", "fast", "--no-sync", "-l", name}, args...)
	if e := k.basin.run(t, nil, args...); e.status != exitSuccess {
		t.Fatal(e)
	}
	return dir
}

// TestImportArchives imports tar files of a server before 17, with a tablespace, and restores them.
func TestImportArchives(t *testing.T) {
	t.Parallel()
	k := importing(t, newProgram(t, "basin"), 14, nil)
	pgtest.Fill(t, k.Server, 1)
	k.tablespaces = []string{k.Tablespace(t, "elsewhere")}
	k.Exec(t, "CREATE TABLE placed TABLESPACE elsewhere AS SELECT generate_series(1, 1000) n", "CHECKPOINT")
	sums := pgtest.Sums(t, k.Server)
	dir := k.take(t, "old", "-Ft", "-Z", "gzip", "-X", "stream")
	for _, want := range []string{" stored\n", "is there already\n"} {
		if e := k.basin.run(t, nil, "import", "--repository", k.location, dir); e.status != exitSuccess || e.stderr != "" || !strings.HasSuffix(e.stdout, want) {
			t.Fatal(e)
		}
	}
	mark{name: "what was imported", sums: sums}.recovered(t, k.restore(t))
	if e := k.basin.run(t, nil, "show", "--repository", k.location, "latest"); !strings.Contains(e.stdout, "label           old\n") || !strings.Contains(e.stdout, "PostgreSQL 14") {
		t.Error(e)
	}
}

// TestImport imports data directories, one of them a chain, and none that is not what its manifest says.
func TestImport(t *testing.T) {
	t.Parallel()
	k := importing(t, newProgram(t, "basin"), 17, map[string]string{"summarize_wal": "on"})
	pgtest.Fill(t, k.Server, 1)
	full := k.take(t, "full", "-R")
	const second = "date_trunc('second', clock_timestamp())" // by which imports are ordered
	k.WaitFor(t, "SELECT "+second+" > '"+k.Query(t, "SELECT "+second)+"'", "t")
	k.Exec(t, "CREATE TABLE later AS SELECT generate_series(1, 1000) n")
	sums := pgtest.Sums(t, k.Server)
	incremental := k.take(t, "incremental", "--incremental", filepath.Join(full, "backup_manifest"))
	imports := func(dirs ...string) ending {
		return k.basin.run(t, nil, append([]string{"import", "--repository", k.location}, dirs...)...)
	}
	if e := imports(incremental); e.status != exitFailure || !strings.Contains(e.stderr, "is an incremental backup") || !strings.Contains(e.stderr, "hint: Name all backups of the chain") {
		t.Errorf("an incremental one alone: %v", e)
	}
	path := filepath.Join(full, "base", "1", "PG_VERSION")
	if err := os.WriteFile(path, []byte("71\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, full)
	if e := imports(full); e.status != exitFailure || !strings.Contains(e.stderr, "base/1/PG_VERSION") || !strings.Contains(e.stderr, "was not imported") {
		t.Errorf("damaged: %v", e)
	}
	if e := k.basin.run(t, nil, "list", "--repository", k.location); !strings.Contains(e.stdout, "no backups") {
		t.Errorf("after that: %v", e)
	}
	if err := os.WriteFile(path, []byte("17\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, full)
	for _, dirs := range [][]string{{full}, {full, incremental}} {
		if e := imports(dirs...); e.status != exitSuccess || e.stderr != "" {
			t.Fatal(e)
		}
	}
	mark{name: "the chain", sums: sums}.recovered(t, k.restore(t))
	if e := k.basin.run(t, nil, "verify", "--repository", k.location); e.status != exitSuccess {
		t.Error(e)
	}
}
