package main

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// TestRepositoryChain takes backups, each on the one before, while servers crash, one fails over and the old one is rewound, and
// restores moments all along: twelve of them, or, with BASIN_MATRIX=full, two hundred.
func TestRepositoryChain(t *testing.T) {
	t.Parallel()
	length := 12
	if isFull() {
		length = 200
	}
	k := keepIn(t, newStore(t, newProgram(t, "basin"), nil, false), pgtest.Config{Checksums: true, WALSegmentSizeMB: 1})
	k.Exec(t, "CREATE TABLE kept (id int PRIMARY KEY, a int, b text)", "CREATE INDEX ON kept (a)", "CREATE TABLE gone (n int)")
	random := rand.New(rand.NewPCG(200, 1))
	lost := k.Server
	began := time.Now()
	var names []string
	for i := range length {
		k.backUp(t, i%3 == 2)
		k.step(t, random, i)
		if i%max(1, length/8) == 0 {
			k.mark(t)
		}
		switch {
		case i == length*2/5:
			k.takeOver(t)
		case i == length*2/5+2: // soon, since the old one replays the log from there on
			k.rewind(t, lost)
		case i%7 == 3:
			k.Kill(t)
			k.Start(t)
		}
	}
	k.backUp(t, false)
	k.archived(t)
	took := time.Since(began)
	labels := k.listed(t)
	if len(labels) != length+1 {
		t.Errorf("%d backups are listed, want %d", len(labels), length+1)
	}
	for i, m := range k.marks {
		if i%3 == 0 || i == len(k.marks)-1 || length > 100 {
			s := k.restore(t, [][]string{{"--target-lsn", m.lsn}, {"--target-name", m.name}, {"--target-time", m.time}}[i%3]...)
			s.WaitFor(t, "SELECT pg_is_wal_replay_paused()", "t")
			s.Exec(t, "SELECT pg_wal_replay_resume()")
			m.recovered(t, s)
			s.Stop(t, pgtest.Immediate)
			names = append(names, m.name)
		}
	}
	if e := k.run(t, "verify"); e.status != exitSuccess {
		t.Error(e)
	}
	before := sizeOf(t, k.location)
	for _, command := range [][]string{{"forget", "--keep-last=2"}, {"prune"}} {
		if e := k.run(t, command[0], command[1:]...); e.status != exitSuccess {
			t.Fatal(e)
		}
	}
	end := mark{name: "the end", sums: pgtest.Sums(t, k.Server)}
	end.recovered(t, k.restore(t))
	t.Logf("%d backups, and what happened between them, took %v; the repository had %s, and %s of the last two alone; restored were %v and the end",
		len(labels), took.Round(time.Second), bytesText(before), bytesText(sizeOf(t, k.location)), names)
}

// step changes the cluster in a way of its own.
func (k *kept) step(t *testing.T, random *rand.Rand, i int) {
	t.Helper()
	k.Exec(t, fmt.Sprintf("INSERT INTO kept SELECT %d + g, g, repeat(md5(g::text), 4) FROM generate_series(1, 1000) g", i*1000))
	switch random.IntN(7) {
	case 0:
		k.Exec(t, "DELETE FROM kept WHERE id > (SELECT max(id) - 800 FROM kept)", "VACUUM kept")
	case 1:
		k.Exec(t, "UPDATE kept SET a = -a WHERE id % 20 = 0")
	case 2:
		k.Exec(t, "TRUNCATE gone", "INSERT INTO gone SELECT generate_series(1, "+strconv.Itoa(random.IntN(20000))+")")
	case 3:
		k.Exec(t, "VACUUM FULL gone", "REINDEX TABLE kept")
	case 4:
		k.Exec(t, "DROP TABLE gone", "CREATE TABLE gone AS SELECT generate_series(1, 5000) AS n", "CREATE INDEX ON gone (n)")
	case 5:
		k.Exec(t, "DELETE FROM kept WHERE id % 9 = 1", "VACUUM (FREEZE) kept")
	case 6:
		k.Exec(t, "CHECKPOINT")
	}
}

// sizeOf returns how many bytes the files below a folder have.
func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return size
}

// TestTablespaceInPlace has a tablespace that is a directory in pg_tblspc, which PostgreSQL 15 sends and lists as a part of the data directory, and later
// ones as one of its own.
func TestTablespaceInPlace(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	for _, major := range []int{15, 16} {
		k := keep(t, basin, major, map[string]string{"allow_in_place_tablespaces": "on"})
		k.Exec(t, "CREATE TABLESPACE inside LOCATION ''", "CREATE TABLE rows TABLESPACE inside AS SELECT generate_series(1, 1000) n")
		path := k.Query(t, "SELECT pg_relation_filepath('rows')")
		for _, isLocal := range []bool{false, true} {
			k.backUp(t, isLocal)
			dir := k.place(t, "--target-immediate", "--target-action=promote")
			s := k.open(t, dir, nil)
			s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			if got := s.Query(t, "SELECT count(*) FROM rows"); got != "1000" {
				t.Errorf("with %d, local %v, there are %s rows", major, isLocal, got)
			}
			s.Stop(t, pgtest.Immediate)
			for _, what := range []string{path, "postgres.public.rows"} {
				into := filepath.Join(pgtest.TempDir(t), "files")
				k.run(t, "restore", "-D", into, "--no-sync", "--file="+what).says(t, exitSuccess, path)
				if _, err := os.Stat(filepath.Join(into, path)); err != nil {
					t.Errorf("with %d, local %v, --file=%s: %v", major, isLocal, what, err)
				}
			}
		}
	}
}
