package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"basin/internal/client"
	"basin/internal/manifest"
	"basin/internal/pgtest"
	"basin/internal/repo"
)

// What a backup says of how it was read.
const (
	readsSummaries = "only what the server's summaries of the log name is read"
	readsAll       = "every page is read: "
)

// backUpSaying takes a backup, and returns what it says.
func (k *kept) backUpSaying(t *testing.T, isLocal bool, more ...string) string {
	t.Helper()
	args := append([]string{"-d", k.ConnString(), "-c", "fast", "-v"}, more...)
	if isLocal {
		args = append(args, "--pgdata", k.DataDir)
	}
	e := k.run(t, "backup", args...)
	if e.status != exitSuccess {
		t.Fatal(e)
	}
	return e.stderr
}

// TestBackupSinceSummaries takes backups of what the server's summaries name, while all kinds of things happen,
// and compares every page.
func TestBackupSinceSummaries(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range soundMajors(t) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			k := keep(t, basin, major, map[string]string{"summarize_wal": "on"})
			random := rand.New(rand.NewPCG(uint64(major), 7))
			for _, name := range []string{"one", "two"} {
				k.tablespaces = append(k.tablespaces, k.Tablespace(t, name))
			}
			w := startWorkload(t, k.Server, random, "one", "two")
			k.Exec(t, "CREATE TABLE marks (n int)")
			k.backUp(t, false)
			for i := range 4 {
				names := w.change(t, 5)
				t.Logf("before backup %d: %s", i+1, strings.Join(names, ", "))
				if said := k.backUpSaying(t, i%2 == 1); !strings.Contains(said, readsSummaries) {
					t.Errorf("backup %d: %s", i+1, said)
				}
			}
			k.archived(t)
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

// TestBackupSinceCutOff is about what servers' own incremental backups get wrong, as TestZeroPagesOfServer and
// TestOrderOfSummaries show: of relations that were cut off and have grown again.
func TestBackupSinceCutOff(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range soundMajors(t) {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			k := keep(t, basin, major, map[string]string{"summarize_wal": "on", "autovacuum": "off"})
			for _, table := range []string{"victim", "late"} {
				k.Exec(t, "CREATE TABLE "+table+" (id int PRIMARY KEY, b text)",
					"INSERT INTO "+table+" SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g",
					"VACUUM (FREEZE) "+table)
			}
			count := func(s *pgtest.Server) string {
				return s.Query(t, "SELECT count(*), count(*) FILTER (WHERE id BETWEEN 5001 AND 20000), (SELECT count(*) FROM late) FROM victim")
			}
			compare := func(want string) {
				t.Helper()
				if got := count(k.Server); got != want {
					t.Fatalf("%s rows, deleted ones and late ones", got)
				}
				copied := k.restore(t, "--target-immediate", "--target-action", "promote")
				copied.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
				if got := count(copied); got != want {
					t.Errorf("%s rows, deleted ones and late ones in the copy, want %s", got, want)
				}
				pgtest.CheckIndexes(t, copied)
				copied.Stop(t, pgtest.Fast)
			}
			k.backUp(t, false)
			k.Exec(t, "DELETE FROM victim WHERE id > 5000", "VACUUM victim",
				`COPY victim FROM PROGRAM 'seq -f "%.0f	copied in" 100001 110000'`, "CHECKPOINT")
			if zeros := zeroPages(t, filepath.Join(k.DataDir, k.Query(t, "SELECT pg_relation_filepath('victim')"))); zeros == 0 {
				t.Fatal("COPY left no page of zeros behind")
			}
			if said := k.backUpSaying(t, false); !strings.Contains(said, readsSummaries) {
				t.Error(said)
			}
			compare("15000|0|20000")
			k.Exec(t, "DELETE FROM late WHERE id > 15000", "VACUUM late", "CHECKPOINT",
				"INSERT INTO late SELECT g, repeat('y', 100) FROM generate_series(20001, 22000) g", "CHECKPOINT")
			want := readsSummaries
			if major >= 18 {
				want = readsAll + "relation "
			}
			if said := k.backUpSaying(t, false); !strings.Contains(said, want) {
				t.Error(said)
			}
			compare("15000|0|17000")
			if e := k.run(t, "verify"); e.status != exitSuccess {
				t.Error(e)
			}
		})
	}
}

// TestBackupReadsAll is about all that speaks against summaries: then every page is read, and it is said why.
func TestBackupReadsAll(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, pgtest.Newest, map[string]string{"summarize_wal": "on"})
	k.Exec(t, "CREATE TABLE a AS SELECT g FROM generate_series(1, 1000) g")
	say := func(reason, want string, isLocal bool, more ...string) {
		t.Helper()
		if said := k.backUpSaying(t, isLocal, more...); !strings.Contains(said, want) {
			t.Errorf("%s: want %q in:\n%s", reason, want, said)
		}
	}
	if said := k.backUpSaying(t, false); strings.Contains(said, readsAll) || strings.Contains(said, readsSummaries) {
		t.Errorf("the first backup: %s", said)
	}
	for _, isLocal := range []bool{false, true} {
		say("nothing is wrong", readsSummaries, isLocal)
	}
	k.Exec(t, "CREATE ROLE replicator LOGIN REPLICATION")
	say("the role may do nothing but replicate", readsSummaries, false, "-U", "replicator")
	k.Exec(t, "REVOKE CONNECT ON DATABASE postgres FROM public")
	say("the role may connect to no database", readsAll+"what was cut off is not known without an ordinary connection", false, "-U", "replicator")
	for _, isLocal := range []bool{false, true} {
		k.Exec(t, "ALTER SYSTEM SET summarize_wal = off", "SELECT pg_reload_conf()")
		k.WaitFor(t, "SHOW summarize_wal", "off")
		say("no summaries are made", readsAll+"summarize_wal is off on the server", isLocal)
		k.Exec(t, "ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()")
		k.WaitFor(t, "SHOW summarize_wal", "on")
		say("summaries are made again", readsSummaries, isLocal)
		k.Exec(t, "INSERT INTO a VALUES (2)", "CHECKPOINT")
		redo := k.Query(t, "SELECT redo_lsn FROM pg_control_checkpoint()")
		k.WaitFor(t, "SELECT count(*) > 0 FROM pg_available_wal_summaries() WHERE end_lsn >= '"+redo+"'", "t")
		summaries := filepath.Join(k.DataDir, "pg_wal", "summaries")
		entries, err := os.ReadDir(summaries)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if err := os.Remove(filepath.Join(summaries, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
		say("summaries are missing", readsAll+"WAL summaries are required on timeline 1", isLocal)
	}
	say("all is well again", readsSummaries, false, "-P")
	copied := k.restore(t, "--target-immediate", "--target-action", "promote")
	copied.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	say("something happens meanwhile", readsSummaries, false)
	for range 3 { // so that the copy's log goes on behind where the parent ends
		copied.Exec(t, "INSERT INTO a VALUES (3)", "SELECT pg_switch_wal()")
	}
	original := k.Server
	k.Server = copied
	say("the parent is of another line", readsAll+"backup 2", false)
	say("the parent is of this one", readsSummaries, false)
	say("the parent is of this one", readsSummaries, true)
	k.Server = original
	say("the parent is of another line again", readsAll+"backup 2", true)
	k.Stop(t, pgtest.Fast)
	if out, err := pgtest.Command(t, k.Major, "pg_checksums", "--disable", "-D", k.DataDir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	k.Start(t)
	say("pages have no checksums any more", readsAll+"checksums of pages were switched off since backup", false)
	say("they had none", readsSummaries, false)
}

// TestBackupChecksSummaries is about what is known without the server.
func TestBackupChecksSummaries(t *testing.T) {
	now := time.Now()
	good := repo.Commit{ID: "x", FullScan: now.Add(-time.Hour), Ranges: []manifest.Range{{Timeline: 1, Start: 1, End: 2}}}
	for _, c := range []struct {
		reason string
		change func(*backupOptions, *repo.Commit, *client.Conn)
		want   string
	}{
		{"it is asked for", func(o *backupOptions, _ *repo.Commit, _ *client.Conn) { o.FullScan = true }, "--full-scan asks for it"},
		{"the last time was long ago", func(_ *backupOptions, c *repo.Commit, _ *client.Conn) { c.FullScan = now.Add(-31 * 24 * time.Hour) }, "that was last done 744h0m0s ago"},
		{"it is done more often", func(o *backupOptions, _ *repo.Commit, _ *client.Conn) { o.FullScanEvery = time.Hour }, "that was last done 1h0m0s ago"},
		{"pages of the parent are damaged", func(_ *backupOptions, c *repo.Commit, _ *client.Conn) { c.Damaged = true }, "backup x is of pages with wrong checksums"},
		{"the server has no summaries", func(_ *backupOptions, _ *repo.Commit, c *client.Conn) { c.Version = 160009 }, "the server's version 160009 has no summaries"},
		{"17.11 forgets bits of visibility maps", func(_ *backupOptions, _ *repo.Commit, c *client.Conn) { c.Version = 170011 }, "the server's version 170011 has no summaries"},
		{"so does 18.5", func(_ *backupOptions, _ *repo.Commit, c *client.Conn) { c.Version = 180005 }, "the server's version 180005 has no summaries"},
		{"the parent's log is not known", func(_ *backupOptions, c *repo.Commit, _ *client.Conn) { c.Ranges = nil }, "backup x does not say which log it needs"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			b := &repositoryBackup{o: backupOptions{FullScanEvery: fullScanEvery}, conn: new(client.Conn)}
			b.conn.Version = 180006
			parent := good
			c.change(&b.o, &parent, b.conn)
			if err := b.checkSummaries(t.Context(), &parent); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

// TestBackupOutlivesItsLog is about a backup whose connection for the log breaks: it goes on.
func TestBackupOutlivesItsLog(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, pgtest.Newest, map[string]string{"archive_mode": "off"})
	taking := basin.start(t, k.env, k.words("backup", "-d", k.ConnString(), "-c", "fast", "--max-rate", "8M")...)
	k.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", "1")
	k.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE state = 'streaming'")
	e := taking.wait(t)
	if e.status != exitSuccess || !strings.Contains(e.stderr, "the stream of the log broke, and is taken up again") {
		t.Fatal(e)
	}
	copied := k.restore(t, "--target-immediate", "--target-action", "promote")
	copied.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
}
