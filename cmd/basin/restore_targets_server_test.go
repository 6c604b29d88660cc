package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// TestRestoreTargets restores one cluster to what is hard to name: a transaction, with tar files; now,
// although nothing happens; and what is latest, after two drills.
func TestRestoreTargets(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, pgtest.Newest, nil)
	k.tablespaces = []string{k.Tablespace(t, "one")}
	k.Exec(t, "CREATE TABLE numbers (n int) TABLESPACE one", "CREATE TABLE marks (n int)")
	insert := "INSERT INTO numbers SELECT count(*) FROM numbers RETURNING pg_current_xact_id()"
	early := k.Query(t, insert)
	k.backUp(t, false)
	xid := k.Query(t, insert)
	k.Query(t, insert)
	k.archived(t)

	dir := pgtest.TempDir(t)
	tar := filepath.Join(dir, "tar")
	args := func(more ...string) []string {
		return append([]string{"restore", "--repository", k.location, "--no-sync", "--target-action", "promote", "--format=tar", "-Z", "gzip:1"}, more...)
	}
	basin.run(t, nil, args("-D", tar, "--target-xid", early)...).says(t, exitFailure, "no transaction "+early+" has ended", "numbers from", "subtransaction")
	basin.run(t, nil, args("-D", tar, "--target-xid", "4000000000")...).says(t, exitFailure, "no transaction 4000000000 has ended")
	basin.run(t, nil, args("-D", tar, "--target-name", "none")...).says(t, exitFailure, "no restore point \"none\" between backup", "and the end of the log, ")
	space := filepath.Join(pgtest.TempDir(t), "space")
	basin.run(t, nil, "restore", "--repository", k.location, "-D", space, "--no-sync", "--file=pg_tblspc").says(t, exitSuccess, "directory pg_tblspc/")
	if found, err := filepath.Glob(filepath.Join(space, "pg_tblspc", "*", "PG_*", "*", "*")); err != nil || len(found) == 0 {
		t.Errorf("of the tablespaces: %q, %v", found, err)
	}
	basin.run(t, nil, args("-D", tar, "--delta")...).says(t, exitFailure, "tar files are made anew")
	several := basin.run(t, nil, args("-D", "-")...)
	if several.says(t, exitFailure, "can only write single tablespace to stdout"); several.stdout != "" || strings.Contains(several.stderr, k.location) {
		t.Errorf("a plan that is refused: %v", several)
	}
	// The rest of the last segment is zeros, to which recovery never comes.
	rest := k.Query(t, "SELECT '0/0'::pg_lsn + (floor((pg_current_wal_insert_lsn() - '0/0') / 16777216) * 16777216 - 8)")
	refused := basin.run(t, nil, args("-D", tar, "--target-lsn", rest)...)
	refused.says(t, exitFailure, "the last record of the log on timeline 1 begins at", "Without a target all that is there is recovered")
	_, last, _ := strings.Cut(refused.stderr, "--target-lsn=")
	last, _, _ = strings.Cut(last, " ")
	basin.run(t, nil, args("-D", tar, "--target-lsn", last, "--dry-run")...).says(t, exitSuccess, "target    "+last)
	if names := entries(t, dir); len(names) > 0 {
		t.Errorf("a restore that was refused has left %q", names)
	}
	basin.run(t, nil, args("-D", tar, "--target-xid", xid)...).says(t, exitSuccess, "transaction "+xid+"\n            committed at")
	b := storedBackup{major: k.Major, dir: tar, tar: true, manifest: true}
	data := filepath.Join(dir, "work", "data")
	extract(t, tar, "base", data)
	links := b.placeTablespaces(t, data, filepath.Join(dir, "work", "tablespaces"))
	if err := os.WriteFile(filepath.Join(data, "tablespace_map"), links, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, link := range entries(t, filepath.Join(data, "pg_tblspc")) {
		if err := os.Remove(filepath.Join(data, "pg_tblspc", link)); err != nil { // the server makes them
			t.Fatal(err)
		}
	}
	pgtest.Own(t, dir)
	restored := pgtest.StartDir(t, k.Major, data, nil)
	restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := restored.Query(t, "SELECT max(n) FROM numbers"); got != "1" {
		t.Errorf("at transaction %s: %s, want 1", xid, got)
	}
	restored.Stop(t, pgtest.Immediate)

	now := time.Now().UTC().Add(time.Second).Format("2006-01-02 15:04:05Z")
	for range 2 {
		drill := k.restore(t, "--target-time", now, "--target-action", "promote")
		drill.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
		drill.Exec(t, "CREATE TABLE drill (n int)", "SELECT pg_switch_wal()")
		if got := drill.Query(t, "SELECT count(*) FROM numbers"); got != "3" {
			t.Errorf("now: %s rows", got)
		}
		drill.Stop(t, pgtest.Immediate)
	}
	k.Exec(t, "CREATE TABLE afterwards AS SELECT 1")
	k.archived(t)
	latest := k.restore(t)
	latest.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := latest.Query(t, "SELECT to_regclass('drill') IS NULL AND to_regclass('afterwards') IS NOT NULL"); got != "t" {
		t.Error("the newest timeline is that of a drill")
	}
	latest.Stop(t, pgtest.Immediate)
	k.checkTwoLines(t, xid)
	k.checkKnownDamage(t)
}

// elsewhere returns the option that has the first tablespace be made at another place.
func (k *kept) elsewhere(t *testing.T) string {
	t.Helper()
	return "--tablespace-mapping=" + k.tablespaces[0] + "=" + filepath.Join(pgtest.TempDir(t), "one")
}

// checkKnownDamage damages what the newest backup alone needs: once verify has found it, the one before is restored, and the
// newest only if it is asked for.
func (k *kept) checkKnownDamage(t *testing.T) {
	t.Helper()
	packs := func() map[string]bool {
		found, err := filepath.Glob(filepath.Join(k.location, "*", "*", "packs", "*"))
		if err != nil || len(found) == 0 {
			t.Fatal("no packs", err)
		}
		names := make(map[string]bool)
		for _, name := range found {
			names[name] = true
		}
		return names
	}
	args := func(more ...string) []string {
		return append([]string{"restore", "--repository", k.location, "--no-sync", "-D", filepath.Join(pgtest.TempDir(t), "data")}, more...)
	}
	dry := args("--dry-run")
	k.basin.run(t, nil, dry...).says(t, exitFailure, "which exists but is not empty", "--tablespace-mapping=")
	mapping := k.elsewhere(t)
	before := packs()
	k.backUp(t, false)
	for name := range packs() {
		if !before[name] {
			if err := os.Truncate(name, 100); err != nil {
				t.Fatal(err)
			}
		}
	}
	k.basin.run(t, nil, "verify", "--repository", k.location).says(t, exitFailure, "damaged")
	k.basin.run(t, nil, "list", "--repository", k.location).says(t, exitSuccess, "cannot be restored: backup", "is not whole: it needs", "restorable on timeline 1: from")
	k.basin.run(t, nil, "show", "--repository", k.location, "latest").says(t, exitSuccess, "is not whole: it needs")
	k.basin.run(t, nil, args(mapping, "--dry-run")...).says(t, exitSuccess, "warning: an older backup than the newest is restored: backup", "found damaged or missing by basin verify")
	k.basin.run(t, nil, args(mapping, "--backup=latest")...).says(t, exitFailure, "warning: backup", "found damaged or missing by basin verify", "basin verify names the backups")
	for name := range packs() {
		if err := os.Truncate(name, 100); err != nil {
			t.Fatal(err)
		}
	}
	k.basin.run(t, nil, "verify", "--repository", k.location).says(t, exitFailure, "damaged")
	k.basin.run(t, nil, args(mapping, "--dry-run")...).says(t, exitFailure, "found damaged or missing by basin verify", "hint: basin verify 20") // which takes no --backup
}

// checkTwoLines goes on from a transaction on a timeline of its own, and asks for a moment before that began, when the source
// was written to.
func (k *kept) checkTwoLines(t *testing.T, xid string) {
	t.Helper()
	const now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"Z\"')"
	before := k.Query(t, now)
	fork := k.restore(t, "--target-xid", xid, "--target-action", "promote")
	fork.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	fork.Exec(t, "CREATE TABLE forked AS SELECT 1", "SELECT pg_switch_wal()")
	after := fork.Query(t, now)
	current := fork.Query(t, "SELECT pg_walfile_name(pg_current_wal_lsn())")
	for _, name := range entries(t, filepath.Join(fork.DataDir, "pg_wal")) {
		if strings.HasPrefix(name, "00000002") && name < current {
			k.basin.run(t, nil, "wal", "push", "--repository", k.location, "-D", fork.DataDir, filepath.Join(fork.DataDir, "pg_wal", name)).says(t, exitSuccess)
		}
	}
	plan := func(more ...string) ending {
		return k.basin.run(t, nil, append([]string{"restore", "--repository", k.location, "-D", filepath.Join(pgtest.TempDir(t), "data"), "--dry-run", k.elsewhere(t)}, more...)...)
	}
	plan("--target-time", before).says(t, exitFailure, "there were two timelines: timeline 1 went on behind", "--target-timeline=1 restores what was there then")
	plan("--target-time", before, "--target-timeline=1").says(t, exitSuccess, ", timeline 1:")
	plan("--target-time", before, "--target-timeline=2").says(t, exitSuccess, ", timeline 2:")
	plan("--target-time", after).says(t, exitSuccess, ", timeline 2:")
}

// TestRestoreWithoutConfiguration restores a server that has its configuration outside of its data directory, as
// on Debian.
func TestRestoreWithoutConfiguration(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, pgtest.Newest, map[string]string{"max_connections": "123", "max_locks_per_transaction": "77", "max_prepared_transactions": "5"})
	for _, name := range []string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf"} {
		if err := os.Rename(filepath.Join(k.DataDir, name), filepath.Join(pgtest.TempDir(t), name)); err != nil {
			t.Fatal(err)
		}
	}
	k.run(t, "backup", "-d", k.ConnString(), "-c", "fast").says(t, exitSuccess, "files of configuration are not in the backup", "will not start again")
	dir := filepath.Join(pgtest.TempDir(t), "data")
	k.run(t, "restore", "-D", dir, "--no-sync").says(t, exitSuccess, "the backup has no postgresql.conf", "over the socket")
	hba := filepath.Join(dir, "pg_hba.conf")
	if content, err := os.ReadFile(hba); err != nil || !strings.Contains(string(content), "local all all peer") || strings.Contains(string(content), "host") {
		t.Errorf("%q, %v", content, err)
	}
	if err := os.WriteFile(hba, []byte("local all all trust\nhost all all 127.0.0.1/32 trust\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	restored := pgtest.StartDir(t, k.Major, dir, nil)
	restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	got := restored.Query(t, "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('max_connections', 'max_locks_per_transaction', 'max_prepared_transactions', 'max_wal_senders', 'max_worker_processes')")
	if got != "123 77 5 10 8" {
		t.Errorf("settings %s", got)
	}
}
