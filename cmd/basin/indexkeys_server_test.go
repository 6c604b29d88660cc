package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"basin/internal/pgtest"
)

// TestBackupWithoutKey takes backups on a host that has no private key: what did not change since its own last one is not stored again, what
// it keeps for that reads no page, and without it all is stored. Each restores.
func TestBackupWithoutKey(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	for _, test := range []struct {
		major int
		local bool
	}{{18, false}, {14, true}} {
		t.Run(strconv.Itoa(test.major), func(t *testing.T) {
			t.Parallel()
			k := keepIn(t, newStore(t, basin, nil, true), pgtest.Config{Major: test.major, Checksums: true})
			cache := pgtest.TempDir(t)
			pgtest.Own(t, cache)
			backUp := func(says string) {
				t.Helper()
				args := append([]string{"backup", "-v", "-d", k.ConnString(), "-c", "fast"}, k.options...)
				if test.local {
					args = append(args, "--pgdata", k.DataDir)
				}
				basin.run(t, []string{"XDG_CACHE_HOME=" + cache}, args...).says(t, exitSuccess, says)
			}
			k.Exec(t, "CREATE TABLE bulk AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i", "CHECKPOINT")
			backUp("all is stored")
			k.Exec(t, "UPDATE bulk SET md5 = 'x' WHERE i % 5000 = 0")
			backUp("is not stored again")
			k.Exec(t, "DELETE FROM bulk WHERE i % 1000 = 1")
			backUp("is not stored again")
			m := k.mark(t)
			k.archived(t)
			files, err := filepath.Glob(filepath.Join(cache, "basin", "*.keys"))
			if err != nil || len(files) != 1 {
				t.Fatalf("kept are %v, %v", files, err)
			}
			info, err := os.Stat(files[0])
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("it is kept with mode %v, %v", info.Mode(), err)
			}
			m.recovered(t, k.restore(t, "--target-name", m.name, "--target-action=promote"))
			if err := os.Chmod(files[0], 0o644); err != nil {
				t.Fatal(err)
			}
			backUp("can be read by others")
			if err := os.Remove(files[0]); err != nil {
				t.Fatal(err)
			}
			backUp("all is stored")
			var l struct{ Clusters []clusterListing }
			if err := json.Unmarshal([]byte(k.run(t, "list", "--json").stdout), &l); err != nil || len(l.Clusters) != 1 || len(l.Clusters[0].Backups) != 5 {
				t.Fatalf("%v, %v", l, err)
			}
			all := l.Clusters[0].Backups
			for i, full := range []bool{true, false, false, true, true} {
				if is := all[i].Stored > all[0].Stored/2; is != full || (all[i].Kind == "full") != full {
					t.Errorf("backup %d is %s, and %d bytes were stored, where %d were for the first", i, all[i].Kind, all[i].Stored, all[0].Stored)
				}
			}
			k.run(t, "verify").succeeded(t)
			k.run(t, "forget", "--keep-last=1").succeeded(t)
			k.run(t, "prune").succeeded(t)
			k.run(t, "verify").succeeded(t)
		})
	}
}
