package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"basin/internal/localfs"
	"basin/internal/pgtest"
)

// newSpool returns a folder for a spool, in which nobody is at work any more when it is removed: who gets log ahead goes on behind the end
// of the wal get that started it.
func newSpool(t *testing.T) string {
	t.Helper()
	dir := pgtest.TempDir(t)
	t.Cleanup(func() {
		eventually(t, "nobody gets log ahead any more", func() bool { return !isNamed(t, dir) })
	})
	return dir
}

// isNamed says whether a process has a folder, or what is in it, on its command line.
func isNamed(t *testing.T, dir string) bool {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(commands) == 0 {
		t.Fatalf("no processes are to be seen, error %v", err)
	}
	return slices.ContainsFunc(commands, func(command string) bool {
		line, err := os.ReadFile(command)
		return err == nil && bytes.Contains(line, []byte(dir)) // else it has ended
	})
}

// TestGetAhead gets a log segment by segment: what comes next is in the spool when it is asked for, and what was
// damaged there is got from the repository.
func TestGetAhead(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	repository := filepath.Join(pgtest.TempDir(t), "repository")
	if e := basin.run(t, nil, "init", repository); e.status != exitSuccess {
		t.Fatal(e)
	}
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1, Conf: map[string]string{"wal_level": "replica", "wal_keep_size": "100MB"}})
	for i := range 8 {
		s.Exec(t, fmt.Sprintf("CREATE TABLE t%d (n int)", i), "SELECT pg_switch_wal()")
	}
	s.Stop(t, pgtest.Fast)
	pages := func(name string) []byte {
		t.Helper()
		content, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", name))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	names := slices.DeleteFunc(entries(t, filepath.Join(s.DataDir, "pg_wal")), func(name string) bool { return len(name) != 24 })
	names = names[:8]
	for _, name := range names {
		if e := basin.run(t, nil, "wal", "push", "--repository", repository, "-D", s.DataDir, filepath.Join(s.DataDir, "pg_wal", name)); e.status != exitSuccess {
			t.Fatal(e)
		}
	}
	dir := newSpool(t)
	spooled := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "*", "*.log"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	get := func(name string, status int) ending {
		t.Helper()
		path := filepath.Join(dir, "RECOVERYXLOG")
		if err := removeIfThere(path); err != nil {
			t.Fatal(err)
		}
		e := basin.run(t, nil, "wal", "get", "--repository", repository, "-D", s.DataDir, "--spool", dir, name, path)
		if e.status != status {
			t.Fatal(e)
		}
		if got, err := os.ReadFile(path); status == exitSuccess && (err != nil || !bytes.Equal(got, pages(name))) {
			t.Fatalf("%s comes as %d bytes, error %v", name, len(got), err)
		}
		return e
	}
	get(names[0], exitSuccess).succeeded(t)
	eventually(t, "the others are in the spool", func() bool { return len(spooled()) == len(names)-1 })
	eventually(t, "at the end of the log nobody is at work", func() bool {
		locks, err := filepath.Glob(filepath.Join(dir, "*", "lock"))
		if err != nil || len(locks) != 1 {
			return false
		}
		f, err := os.Open(locks[0])
		if err != nil {
			return false
		}
		defer f.Close()
		return !localfs.Lock(f)
	})
	away := repository + ".away"
	if err := os.Rename(repository, away); err != nil {
		t.Fatal(err)
	}
	for _, name := range names[1:6] {
		get(name, exitSuccess).succeeded(t)
	}
	if left := spooled(); len(left) != 2 {
		t.Errorf("in the spool are left %v", left)
	}
	damaged := spooled()[0]
	if err := os.WriteFile(damaged, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	get(names[6], exitUnknown).said(t, "no such file")
	if err := os.Rename(away, repository); err != nil {
		t.Fatal(err)
	}
	get(names[6], exitSuccess)
	get(names[7], exitSuccess)
	next, err := window(names[7], 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if e := get(next[0], exitFailure); e.stderr != "" { // a standby asks every few seconds
		t.Error(e)
	}

	// Of several repositories the first is away.
	dir = newSpool(t)
	config := filepath.Join(dir, "basin.toml")
	write(t, config, fmt.Sprintf("[repository.a]\nlocation = %q\n[repository.b]\nlocation = %q\n[cluster.main]\nrepositories = [\"a\", \"b\"]\nspool = %q\n", away, repository, dir))
	basin.run(t, nil, "wal", "get", "--config", config, "-D", s.DataDir, names[0], filepath.Join(dir, "RECOVERYXLOG")).says(t, exitSuccess, "repository b has it")
	eventually(t, "the others are got from the other repository", func() bool { return len(spooled()) == len(names)-1 })
}

// TestGetAheadGoesOn takes segments one after another, which are so large that few have room in the spool: those behind them come, got by
// one process.
func TestGetAheadGoesOn(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	repository := filepath.Join(pgtest.TempDir(t), "repository")
	if e := basin.run(t, nil, "init", repository); e.status != exitSuccess {
		t.Fatal(e)
	}
	const size = 64 << 20
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: size >> 20, Conf: map[string]string{"wal_level": "replica", "wal_keep_size": "1GB", "max_wal_size": "2GB"}})
	for i := range 6 {
		s.Exec(t, fmt.Sprintf("CREATE TABLE t%d (n int)", i), "SELECT pg_switch_wal()")
	}
	s.Stop(t, pgtest.Fast)
	names := slices.DeleteFunc(entries(t, filepath.Join(s.DataDir, "pg_wal")), func(name string) bool { return len(name) != 24 })[:6]
	for _, name := range names {
		basin.run(t, nil, "wal", "push", "--repository", repository, "-D", s.DataDir, filepath.Join(s.DataDir, "pg_wal", name)).says(t, exitSuccess)
	}
	dir := newSpool(t)
	// A configuration named from where this is, which is elsewhere for who gets ahead.
	config := filepath.Join(pgtest.TempDir(t), "basin.toml")
	write(t, config, fmt.Sprintf("[repository.only]\nlocation = %q\n[cluster.main]\nrepositories = [\"only\"]\n", repository))
	pgtest.Own(t, config)
	path := filepath.Join(dir, "RECOVERYXLOG")
	isThere := func(name string) bool {
		found, err := filepath.Glob(filepath.Join(dir, "*", name+".*.log"))
		return err == nil && len(found) == 1
	}
	for i, name := range names {
		get := basin.command(t.Context(), []string{"BASIN_CONFIG=basin.toml"}, "wal", "get", "-D", s.DataDir, "--spool", dir, name, path)
		get.Dir = filepath.Dir(config)
		startCommand(t, get).wait(t).succeeded(t)
		if here, err := os.Stat(path); err != nil || here.Size() != size {
			t.Fatal(here, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		for _, next := range names[i+1 : min(i+3, len(names))] {
			eventually(t, next+" is in the spool", func() bool { return isThere(next) })
		}
		if i+3 < len(names) && isThere(names[i+3]) {
			t.Errorf("behind %s more is in the spool than has room", name)
		}
		if i == 0 { // whoever is at work has it open, and goes on: a process that began now would find nothing
			if err := os.Rename(repository, repository+".away"); err != nil {
				t.Fatal(err)
			}
		}
	}
}
