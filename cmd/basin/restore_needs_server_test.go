package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"basin/internal/pgtest"
)

// TestRestoreNeededSettings restores a cluster whose log needs more than the configuration in the backup has: some settings were raised after it, and
// one was lowered before it, which the server had not heeded yet.
func TestRestoreNeededSettings(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, pgtest.Newest} { // hot standby servers before 14 end, and later ones pause
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			k := keep(t, newProgram(t, "basin"), major, nil)
			k.Exec(t, "ALTER SYSTEM SET max_connections = 50")
			k.backUp(t, false)
			k.Exec(t, "ALTER SYSTEM SET max_connections = 300", "ALTER SYSTEM SET max_prepared_transactions = 7", "ALTER SYSTEM SET max_locks_per_transaction = 65")
			k.Stop(t, pgtest.Fast)
			k.Start(t)
			m := k.mark(t)
			k.Exec(t, "ALTER SYSTEM SET max_connections = 110", "ALTER SYSTEM SET max_worker_processes = 12") // recovery comes by what was before, too
			k.Stop(t, pgtest.Fast)
			k.Start(t)
			k.archived(t)

			plan := func(args ...string) (result restoreResult) {
				t.Helper()
				e := k.run(t, "restore", append([]string{"-D", filepath.Join(pgtest.TempDir(t), "data"), "--dry-run", "--json"}, args...)...)
				if err := json.Unmarshal([]byte(e.stdout), &result); err != nil {
					t.Fatal(e, err)
				}
				return result
			}
			if got, want := plan("--target-immediate").Raised, []raisedSetting{{"max_connections", 50, 100}}; !slices.Equal(got, want) {
				t.Errorf("for the backup %v, want %v", got, want)
			}
			want := []raisedSetting{{"max_connections", 50, 300}, {"max_worker_processes", 8, 12}, {"max_prepared_transactions", 0, 7}, {"max_locks_per_transaction", 64, 65}}
			if got := plan().Raised; !slices.Equal(got, want) {
				t.Errorf("for all of the log %v, want %v", got, want)
			}
			k.run(t, "restore", "-D", filepath.Join(pgtest.TempDir(t), "data"), "--dry-run").says(t, exitSuccess, "max_connections = 300, since recovery needs it; the configuration in the backup has 50")
			s := k.restore(t, "--target-lsn", m.lsn, "--target-action=promote")
			m.recovered(t, s)
			if got := s.Query(t, "SHOW max_connections"); got != "300" {
				t.Errorf("max_connections = %s", got)
			}
			standby := k.restore(t, "--standby")
			standby.WaitFor(t, "SELECT to_regclass('marks') IS NOT NULL", "t")
			standby.WaitFor(t, "SELECT count(*) FROM marks", "2")
		})
	}
}
