package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/checkup"
	"basin/internal/pgtest"
	"basin/internal/repo"
)

// likeDebian has a server use configuration outside of its data directory, and returns the files by path.
func likeDebian(t *testing.T, k *kept) map[string]string {
	t.Helper()
	etc := filepath.Join(pgtest.TempDir(t), "etc")
	for _, dir := range []string{etc, etc + "/conf.d"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	own := func(name string) string {
		content, err := os.ReadFile(filepath.Join(k.DataDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(k.DataDir, name)); err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	k.Stop(t, pgtest.Fast)
	hba := own(hbaFile)
	files := map[string]string{
		etc + "/postgresql.conf": own(confFile) + "data_directory = '" + k.DataDir + "'\nhba_file = '" + etc + "/pg_hba.conf'\nident_file = '" + etc + "/pg_ident.conf'\n" +
			"external_pid_file = '" + etc + "/main.pid'\nwork_mem = '3MB'\ninclude_dir 'conf.d'",
		etc + "/conf.d/20.conf": "work_mem = '7MB' # more\ninclude '../it''s more.conf'\n",
		etc + "/conf.d/10.conf": "work_mem = '5MB'\nmaintenance_work_mem = '9MB'\n",
		etc + "/it's more.conf": "cluster_name = 'it''s'\n",
		etc + "/pg_hba.conf":    hba + "host all @users 10.0.0.0/8 reject\ninclude_if_exists absent.conf\n",
		etc + "/users":          "alice, \"Eve L\"\n",
		etc + "/pg_ident.conf":  own(identFile) + "map a b\n",
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Own(t, etc)
	k.Start(t, "-c", "config_file="+etc+"/postgresql.conf")
	return files
}

// TestConfigurationElsewhere backs up a server with its configuration outside of its data directory, as on Debian, by
// all that may read it and one who may not, and has a copy run with the same settings.
func TestConfigurationElsewhere(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, pgtest.Newest, nil)
	files := likeDebian(t, k)
	k.Exec(t, "CREATE ROLE poor LOGIN REPLICATION", "CREATE TABLE marks (n int)")
	const settings = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN ('work_mem', 'maintenance_work_mem', 'cluster_name', 'shared_buffers', 'max_connections')"
	const rules = "SELECT string_agg(concat_ws(' ', type, database, user_name, address, auth_method), '; ' ORDER BY rule_number) FROM pg_hba_file_rules WHERE error IS NULL"
	wantSettings, wantRules := k.Query(t, settings), k.Query(t, rules)
	names := slices.Sorted(maps.Keys(files))

	as := func(user string) []string {
		return []string{"-d", strings.Replace(k.ConnString(), "user=postgres", "user="+user, 1), "-c", "fast"}
	}
	refused := k.run(t, "backup", as("poor")...)
	refused.says(t, exitSuccess, "not in the backup: \"postgresql.conf\"", "pg_read_all_settings", checkup.FileGrants("poor"))
	k.run(t, "show", "latest").says(t, exitSuccess, "not saved", "postgresql.conf")
	k.Exec(t, "GRANT pg_read_all_settings TO poor")
	k.run(t, "backup", as("poor")...).says(t, exitSuccess, "/etc/postgresql.conf", "the role may not read files outside of the data directory")
	k.run(t, "check", as("poor")[:2]...).says(t, exitSuccess, "! configuration", "GRANT EXECUTE ON FUNCTION")
	for statement := range strings.SplitSeq(checkup.FileGrants("poor"), "\n") {
		k.Exec(t, statement)
	}
	k.run(t, "check", as("poor")[:2]...).says(t, exitSuccess, "✓ configuration", "saved with each backup")
	for reason, args := range map[string][]string{
		"over the wire":      as("poor"),
		"from the directory": append(as("postgres"), "-D", k.DataDir),
	} {
		k.run(t, "backup", args...).succeeded(t)
		shown := k.run(t, "show", "latest")
		shown.says(t, exitSuccess, names...)
		if strings.Contains(shown.stdout, "not saved") {
			t.Errorf("%s: %s", reason, shown.stdout)
		}
		into := filepath.Join(pgtest.TempDir(t), "files")
		k.run(t, "restore", "-D", into, "-N", "--file", repo.ConfigurationDir).succeeded(t)
		if diff := cmp.Diff(files, readBelow(t, filepath.Join(into, repo.ConfigurationDir), names)); diff != "" {
			t.Errorf("%s: %s", reason, diff)
		}
	}
	k.run(t, "verify").succeeded(t)
	k.archived(t)

	dir := filepath.Join(pgtest.TempDir(t), "data")
	k.run(t, "restore", "-D", dir, "-N").says(t, exitSuccess, "7 files from outside of the data directory", "without data_directory, hba_file, ident_file, external_pid_file", "cp -r")
	if diff := cmp.Diff(files, readBelow(t, filepath.Join(dir, repo.ConfigurationDir), names)); diff != "" {
		t.Error(diff)
	}
	restored := pgtest.StartDir(t, k.Major, dir, nil)
	restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if got := restored.Query(t, settings); got != wantSettings || !strings.Contains(got, "cluster_name=it's maintenance_work_mem=9216") || !strings.Contains(got, "work_mem=7168") {
		t.Errorf("settings %s, and were %s", got, wantSettings)
	}
	if got := restored.Query(t, rules); got != wantRules || !strings.Contains(got, "{alice,\"Eve L\"}") {
		t.Errorf("rules\n%s\nand were\n%s", got, wantRules)
	}
	if got := restored.Query(t, "SELECT concat_ws(' ', current_setting('data_directory'), current_setting('hba_file'), current_setting('external_pid_file'))"); got != dir+" "+dir+"/pg_hba.conf " {
		t.Errorf("the copy uses %s", got)
	}

	// What was restored is no configuration of the copy, and is not backed up as if it were.
	r := newStore(t, basin, nil, false)
	r.run(t, "backup", "-d", restored.ConnString(), "-c", "fast").succeeded(t)
	if shown := r.run(t, "show", "latest"); strings.Contains(shown.stdout, "configuration") {
		t.Error(shown.stdout)
	}
	restored.Stop(t, pgtest.Immediate)
	k.run(t, "restore", "-D", dir, "-N", "--delta", "--discard-wal").says(t, exitSuccess, "in place")
	if diff := cmp.Diff(files, readBelow(t, filepath.Join(dir, repo.ConfigurationDir), names)); diff != "" {
		t.Error(diff)
	}
	tars := filepath.Join(pgtest.TempDir(t), "tars")
	k.run(t, "restore", "-D", tars, "-N", "-Ft").says(t, exitSuccess, "in base.tar")
	extract(t, tars, "base", filepath.Join(tars, "data"))
	if diff := cmp.Diff(files, readBelow(t, filepath.Join(tars, "data", repo.ConfigurationDir), names)); diff != "" {
		t.Error(diff)
	}
}

// readBelow reads files at their whole paths below a directory.
func readBelow(t *testing.T, dir string, names []string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for _, name := range names {
		content, err := os.ReadFile(dir + name)
		if err != nil {
			t.Error(err)
		}
		found[name] = string(content)
	}
	return found
}
