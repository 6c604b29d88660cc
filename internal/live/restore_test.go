package live

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/manifest"
	"basin/internal/pgtest"
)

// TestCopyStarts copies a cluster that is written to, and starts a server on the copy.
func TestCopyStarts(t *testing.T) {
	for _, test := range []struct {
		major   int
		apart   bool
		workers int
	}{
		{10, false, 1}, {13, true, 1}, {15, false, 1}, {17, true, 3}, {18, false, 1},
	} {
		t.Run(fmt.Sprint(test.major, " apart ", test.apart), func(t *testing.T) {
			t.Parallel()
			s := start(t, test.major, nil)
			load := pgtest.StartLoad(t.Context(), t, s, 1)
			src := backUp(t, s, Options{WAL: true, Manifest: WithManifest, Algorithm: manifest.CRC32C, Apart: test.apart, EstimateSize: true})
			dir, err := toDir(t, src, test.workers)
			if err != nil {
				t.Fatal(err)
			}
			if err := src.Close(); err != nil {
				t.Error(err)
			}
			load.Stop(t)
			if test.major >= 13 {
				args := []string{dir}
				if !pgtest.Full(test.major) {
					args = append(args, "--no-parse-wal")
				}
				tool(t, max(test.major, 15), "pg_verifybackup", args...)
			}
			want := quietSums(t, s)
			s.Stop(t, pgtest.Immediate)
			restored := pgtest.StartDir(t, test.major, dir, nil)
			restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			if diff := cmp.Diff(want, quietSums(t, restored)); diff != "" {
				t.Errorf("rows (-server +restored):\n%s", diff)
			}
			checkLoad(t, restored)
			pgtest.CheckIndexes(t, restored)
			if found, err := filepath.Glob(filepath.Join(dir, "backup_label")); err != nil || len(found) > 0 {
				t.Errorf("the label is still there: %v", err)
			}
		})
	}
}

// quietSums returns the sums of the tables that the load leaves alone.
func quietSums(t *testing.T, s *pgtest.Server) map[string]string {
	t.Helper()
	sums := pgtest.Sums(t, s)
	maps.DeleteFunc(sums, func(table, _ string) bool { return strings.HasPrefix(table, "postgres.public.load_") })
	return sums
}

// checkLoad sees that a server has what the load leaves behind at some moment.
func checkLoad(t *testing.T, s *pgtest.Server) {
	t.Helper()
	answer := s.Query(t, `SELECT count(*), coalesce(max(n), 0), (SELECT total / 5 FROM load_totals WHERE client = 0) FROM load_log WHERE client = 0`)
	parts := strings.Split(answer, "|")
	if parts[0] == "0" || parts[0] != parts[1] || parts[0] != parts[2] {
		t.Errorf("transactions, the last, and their total: %s", answer)
	}
}
