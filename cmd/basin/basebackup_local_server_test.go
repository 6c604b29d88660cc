package main

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

func TestBackupOfDataDirectory(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, major := range []int{10, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := startMatrixSource(t, major)
			s.grow(t, "1")
			if major >= 17 {
				s.Set(t, "summarize_wal", "on")
			}
			var parent string
			for _, c := range []struct {
				name string
				args []string
				tar  bool
			}{
				{"plain", []string{"-X", "stream", "-P"}, false},
				{"fetch", []string{"-X", "fetch", "--max-rate=500M"}, false},
				{"tar", []string{"-X", "stream", "-Ft", "-Z", "zstd"}, true},
			} {
				work := pgtest.TempDir(t)
				dir := filepath.Join(work, "backup")
				args := append([]string{"-d", s.ConnString(), "-c", "fast", "--source-pgdata", s.DataDir, "-D", dir}, c.args...)
				if !c.tar {
					args = append(args, "-T", s.tablespaces["first"]+"="+filepath.Join(work, "first"))
				}
				if e := basin.run(t, nil, args...); e.status != exitSuccess {
					t.Fatalf("%s: %s", c.name, e)
				}
				if c.name == "plain" {
					parent = filepath.Join(work, "manifest") // the copy is started below, and changes
					if content, err := os.ReadFile(filepath.Join(dir, "backup_manifest")); major >= 13 && err != nil {
						t.Fatal(err)
					} else if err := os.WriteFile(parent, content, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				b := storedBackup{major: major, dir: dir, tar: c.tar, manifest: major >= 13}
				restored := pgtest.StartDir(t, major, b.restore(t, work), map[string]string{"archive_mode": "off"})
				restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
				if diff := cmp.Diff(s.sums, quietSums(t, restored)); diff != "" {
					t.Errorf("%s: rows (-server +restored):\n%s", c.name, diff)
				}
				restored.Stop(t, pgtest.Fast)
			}
			if major < 17 {
				return
			}
			s.Exec(t, "CREATE TABLE afterwards AS SELECT generate_series(1, 1000) g")
			changes := filepath.Join(pgtest.TempDir(t), "changes")
			basin.run(t, nil, "-d", s.ConnString(), "-c", "fast", "--source-pgdata", s.DataDir, "-D", changes, "--incremental", parent,
				"-T", s.tablespaces["first"]+"="+filepath.Join(filepath.Dir(changes), "first")).succeeded(t)
			tool(t, major, "pg_verifybackup", changes)
		})
	}
}

func TestBackupOfAnotherDataDirectory(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s, other := pgtest.Start(t, pgtest.Config{}), pgtest.Start(t, pgtest.Config{})
	dir := filepath.Join(pgtest.TempDir(t), "backup")
	basin.run(t, nil, "-d", s.ConnString(), "-c", "fast", "--source-pgdata", other.DataDir, "-D", dir).failed(t, "data directory")
	absent(t, dir)
	basin.run(t, nil, "-d", s.ConnString(), "-t", "blackhole", "-X", "none", "--source-pgdata", s.DataDir).
		failed(t, "the server neither stores nor compresses", "Leave out --source-pgdata")
}
