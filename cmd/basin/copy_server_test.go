package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"basin/internal/pgtest"
)

// TestCopyToOffsite copies a repository to an encrypted one, as backups and log come. When the first is lost
// the cluster is restored from the other.
func TestCopyToOffsite(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	k := keep(t, basin, 15, nil)
	run := func(args ...string) string {
		t.Helper()
		e := basin.run(t, nil, args...)
		if e.status != exitSuccess {
			t.Fatal(e)
		}
		return e.stdout
	}
	dir := pgtest.TempDir(t)
	offsite, keyFile, identityFile, config := filepath.Join(dir, "offsite"), filepath.Join(dir, "offsite.key"), filepath.Join(dir, "identity"), filepath.Join(dir, "basin.toml")
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	write(t, identityFile, identity.String())
	configure := func(order string) {
		write(t, config, fmt.Sprintf("[repository.local]\nlocation = %q\n[repository.offsite]\nlocation = %q\nkey_file = %q\n[cluster.main]\nrepositories = [%s]\n",
			k.location, offsite, keyFile, order))
	}
	configure(`"local", "offsite"`)
	pgtest.Own(t, dir)
	run("init", "--encrypt", "--recipient="+identity.Recipient().String(), offsite)
	run("key", "unlock", "--repository="+offsite, "--identity="+identityFile, "--key-file="+keyFile)

	pgtest.Fill(t, k.Server, 1)
	k.backUp(t, false)
	k.mark(t)
	k.backUp(t, true)
	k.archived(t)
	copies := []string{"copy", "--config=" + config, "--repository=local", "--to=offsite"}
	list := func(repository string) (l listing) {
		t.Helper()
		if err := json.Unmarshal([]byte(run("list", "--json", "--config="+config, "--repository="+repository)), &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	if said := run(append(copies, "--dry-run")...); strings.Count(said, "would be copied") != 3 {
		t.Errorf("a dry run says\n%s", said)
	}
	if l := list("offsite"); len(l.Clusters) > 0 {
		t.Errorf("after it there is %v", l.Clusters)
	}
	if said := run(append(copies, "--verbose")...); strings.Count(said, " copied: ") != 2 {
		t.Errorf("a copy says\n%s", said)
	}
	if diff := cmp.Diff(list("local").Clusters, list("offsite").Clusters, cmp.AllowUnexported(windowListing{}, gapListing{}), cmpopts.IgnoreFields(backupListing{}, "Stored")); diff != "" {
		t.Errorf("the copies are others:\n%s", diff)
	}
	if said := run(copies...); said != "no new backups\nof the log: 0 files, 0 B, copied\n" {
		t.Errorf("once more:\n%s", said)
	}
	run("backup", "--config="+config, "-d", k.ConnString(), "-c", "fast")
	for _, repository := range []string{"local", "offsite"} {
		if n := len(list(repository).Clusters[0].Backups); n != 3 {
			t.Errorf("repository %s has %d backups after one into both", repository, n)
		}
	}
	m := k.mark(t)
	k.archived(t)
	run(append(copies, "--log-only")...)
	if e := basin.run(t, nil, "copy", "--config="+config, "--repository=offsite", "--to="+offsite); e.status == exitSuccess || !strings.Contains(e.stderr, "both are one repository") {
		t.Errorf("to itself: %v", e)
	}
	run("verify", "--config="+config, "--repository=offsite")

	k.Exec(t, "CREATE TABLE more (n int)")
	k.archived(t) // in the first repository alone
	plan := basin.run(t, nil, "restore", "--config="+config, "-D", filepath.Join(pgtest.TempDir(t), "data"), "--dry-run")
	if plan.says(t, exitSuccess, "from      "+k.location); strings.Contains(plan.stderr, "is read") {
		t.Error(plan)
	}
	configure(`"offsite", "local"`)
	basin.run(t, nil, "restore", "--config="+config, "-D", filepath.Join(pgtest.TempDir(t), "data"), "--dry-run").says(t, exitSuccess,
		"from      "+k.location, "repository local is read: its log leads further than that of offsite")
	basin.run(t, nil, "list", "--config="+config).says(t, exitSuccess, "this is about repository offsite of offsite, local")

	k.Stop(t, pgtest.Fast)
	if err := os.Rename(k.location, k.location+".lost"); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(pgtest.TempDir(t), "data")
	e := basin.run(t, nil, "restore", "--config="+config, "-D", to, "--no-sync", "--target-name="+m.name, "--target-action=promote")
	if e.status != exitSuccess || !strings.Contains(e.stderr, "repository offsite is read") {
		t.Fatal(e)
	}
	m.recovered(t, pgtest.StartDir(t, k.Major, to, nil))
}
