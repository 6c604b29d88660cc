package main

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"basin/internal/pgtest"
)

// A cluster is backed up and restored with no key on the host, but a command in the configuration that unwraps it: it is run
// for what reads, and not for each segment that is pushed.
func TestKeyCommandRestores(t *testing.T) {
	t.Parallel()
	dir := pgtest.TempDir(t)
	r := &store{basin: newProgram(t, "basin"), location: filepath.Join(dir, "repository"), env: []string{"BASIN_CONFIG=" + filepath.Join(dir, "basin.toml")}}
	r.options = []string{"--repository=" + r.location}
	calls := filepath.Join(dir, "calls")
	command := "echo . >>" + calls + " # it's 100 %p \\ sure\n" + `printf '%s\n' "$(tr 'A-Za-z' "N-ZA-Mn-za-m")"`
	write(t, filepath.Join(dir, "basin.toml"), "[repository.only]\nlocation = '"+r.location+"'\nkey_command = '''\n"+command+"'''\n")
	pgtest.Own(t, dir)
	called := func(reason string, least, most int) {
		t.Helper()
		content, err := os.ReadFile(calls)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if n := bytes.Count(content, []byte(".")); n < least || n > most {
			t.Errorf("%s: the command was run %d times, and not %d to %d times", reason, n, least, most)
		}
		if err := os.RemoveAll(calls); err != nil {
			t.Fatal(err)
		}
	}

	r.basin.run(t, r.env, "init", r.location, "--wrap-command=tr A-Za-z N-ZA-Mn-za-m").succeeded(t)
	called("init", 1, 1)
	k := keepIn(t, r, pgtest.Config{Major: pgtest.Newest})
	k.backUp(t, false)
	called("a backup, and log that is pushed", 1, 1)
	m := k.mark(t)
	k.archived(t)
	called("log that is pushed", 0, 0)
	to := k.place(t, "--target-lsn="+m.lsn, "--target-action=promote")
	called("a restore", 1, 1)
	m.recovered(t, pgtest.StartDir(t, k.Major, to, nil)) // with restore_command as it is
	called("recovery", 1, 100)
}
