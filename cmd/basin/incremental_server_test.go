package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

// soundMinor is the first release of a major whose incremental backups are good.
// Servers before it can leave changed blocks out of one, whoever asks for it.
func soundMinor(major int) int {
	if major == 17 {
		return 12
	}
	return 6 // of 18
}

// soundMajors returns the majors of which incremental backups can be taken that are good.
func soundMajors(t *testing.T) (sound []int) {
	t.Helper()
	for _, major := range []int{17, 18} {
		version := pgtest.Version(t, major)
		_, minor, _ := strings.Cut(version, ".")
		if n, err := strconv.Atoi(minor); err != nil || n < soundMinor(major) {
			t.Logf("PostgreSQL %s leaves changed blocks out of incremental backups; %d.%d is the first that does not: none is taken of it",
				version, major, soundMinor(major))
			continue
		}
		sound = append(sound, major)
	}
	return sound
}

func TestIncremental(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, major := range soundMajors(t) {
		version := pgtest.Version(t, major)
		for _, kind := range []struct {
			reason string
			args   []string
		}{
			{"plain", nil},
			{"plain, compressed there", []string{"-Z", "server-zstd", "-X", "fetch"}},
			{"tar", []string{"-Ft"}},
			{"tar, compressed here", []string{"-Ft", "-Z", "client-lz4", "-X", "fetch"}},
		} {
			t.Run(version+" "+kind.reason, func(t *testing.T) {
				t.Parallel()
				testIncremental(t, basin, major, kind.args)
			})
		}
	}
}

// testIncremental takes a full backup and two more on top of each other, has
// them combined and starts a server on the outcome.
func testIncremental(t *testing.T, basin *program, major int, kind []string) {
	s := pgtest.Start(t, pgtest.Config{
		Major: major, Checksums: true,
		Conf: map[string]string{"summarize_wal": "on", "wal_keep_size": "1GB", "allow_in_place_tablespaces": "on"},
	})
	s.Exec(t, "CREATE TABLESPACE inside LOCATION ''")
	pgtest.Fill(t, s, 1, "inside")
	pgtest.CheckIndexes(t, s)
	work := pgtest.TempDir(t)
	var chain []string
	before := ""
	for i := range 3 {
		dir := filepath.Join(work, fmt.Sprint(i))
		args := append([]string{"-D", dir, "-d", s.ConnString(), "-c", "fast"}, kind...)
		if i > 0 {
			s.Exec(t,
				"UPDATE accounts SET balance = balance + 1 WHERE id % 50 = 3",
				"DELETE FROM documents WHERE id % 10 = "+strconv.Itoa(i),
				fmt.Sprintf("CREATE TABLE new_%d AS SELECT generate_series(1, 1000)", i),
				"TRUNCATE blobs",
				"UPDATE placed_1 SET what = 'changed' WHERE id % 100 = 5")
			args = append(args, "-i", filepath.Join(before, "backup_manifest"))
		}
		load := pgtest.StartLoad(t.Context(), t, s, 1)
		basin.run(t, nil, args...).succeeded(t)
		load.Stop(t)
		b := storedBackup{major: major, dir: dir, tar: len(kind) > 0 && kind[0] == "-Ft", manifest: true}
		unpacked := filepath.Join(work, fmt.Sprint("unpacked ", i))
		data := b.restore(t, unpacked)
		if b.tar { // which pg_combinebackup does not take
			copyManifest(t, dir, data)
		}
		chain, before = append(chain, data), dir
	}
	if found, err := filepath.Glob(filepath.Join(chain[2], "base", "*", "INCREMENTAL.*")); err != nil || len(found) < 50 {
		t.Errorf("%d incremental files, %v", len(found), err)
	}
	combined := filepath.Join(work, "combined")
	tool(t, major, "pg_combinebackup", append(chain, "--output="+combined)...)
	tool(t, major, "pg_verifybackup", combined)
	restored := pgtest.StartDir(t, major, combined, nil)
	if diff := cmp.Diff(quietSums(t, s), quietSums(t, restored)); diff != "" {
		t.Errorf("rows (-server +restored):\n%s", diff)
	}
	checkLoad(t, restored, 1)
	checkStructure(t, restored)
}

func TestIncrementalRefused(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{Conf: map[string]string{"summarize_wal": "on"}})
	stranger := pgtest.Start(t, pgtest.Config{Conf: map[string]string{"summarize_wal": "on"}})
	old := pgtest.Start(t, pgtest.Config{Major: 16})
	without := pgtest.Start(t, pgtest.Config{})
	work := pgtest.TempDir(t)
	full := func(name string, s *pgtest.Server) string {
		dir := filepath.Join(work, name)
		basin.run(t, nil, "-D", dir, "-d", s.ConnString(), "-c", "fast").succeeded(t)
		return filepath.Join(dir, "backup_manifest")
	}
	ours, theirs, withouts := full("ours", s), full("theirs", stranger), full("withouts", without)
	for _, test := range []struct {
		reason   string
		server   *pgtest.Server
		manifest string
		said     []string
	}{
		{"manifest of another cluster", s, theirs, []string{"ERROR:  system identifier in backup manifest is ", ", but database system identifier is "}},
		{"no manifest", s, filepath.Join(work, "nothing"), []string{`could not open file "` + filepath.Join(work, "nothing") + `": No such file or directory`}},
		{"not a manifest", s, filepath.Join(work, "ours", "PG_VERSION"), []string{"could not upload manifest: ERROR:  "}},
		{"empty", s, "/dev/null", []string{"could not upload manifest: ERROR:  "}},
		{"a directory", s, work, []string{work}},
		{"server that does not summarize", without, withouts, []string{"ERROR:  incremental backups cannot be taken unless WAL summarization is enabled"}},
		{"server before 17", old, ours, []string{"server does not support incremental backup"}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(pgtest.TempDir(t), "backup")
			basin.run(t, nil, "-D", dir, "-d", test.server.ConnString(), "-c", "fast", "-i", test.manifest).failed(t, test.said...)
			absent(t, dir)
		})
	}
}
