package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// TestZeroPagesOfServer shows a fault of servers that is not combinebackup's to mend: of a
// table that VACUUM cut off, and that COPY extended by pages of which it used only the first
// ones, an incremental backup says that the rest is as it was before. docs/differential.md
// tells it to users; should the test fail because rows are as they were, it is to be taken out
// of there.
func TestZeroPagesOfServer(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range soundMajors(t) {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{
				Major: major, Checksums: true,
				Conf: map[string]string{"summarize_wal": "on", "wal_keep_size": "1GB", "autovacuum": "off"},
			})
			c := &backupChain{basin: basin, work: pgtest.TempDir(t), workload: &workload{Server: s}}
			s.Exec(t,
				"CREATE TABLE victim (id int PRIMARY KEY, b text)",
				"INSERT INTO victim SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g",
				"VACUUM (FREEZE) victim", // else the pages that stay are changed by the next
				"CREATE EXTENSION amcheck")
			c.take(t)
			s.Exec(t,
				"DELETE FROM victim WHERE id > 5000",
				"VACUUM victim",
				`COPY victim FROM PROGRAM 'seq -f "%.0f	copied in" 100001 110000'`,
				"CHECKPOINT")
			if zeros := zeroPages(t, filepath.Join(s.DataDir, s.Query(t, "SELECT pg_relation_filepath('victim')"))); zeros == 0 {
				t.Fatal("COPY left no page of zeros behind")
			}
			c.take(t)
			own := c.compare(t, combineWay{})
			restored := pgtest.StartDir(t, major, own, nil)
			count := func(s *pgtest.Server) string {
				return s.Query(t, "SELECT count(*), count(*) FILTER (WHERE id BETWEEN 5001 AND 20000) FROM victim")
			}
			if got := count(s); got != "15000|0" {
				t.Errorf("%s rows and deleted ones", got)
			}
			if got := count(restored); strings.HasSuffix(got, "|0") {
				t.Errorf("%s rows: the fault is gone", got)
			}
			out, err := pgtest.Command(t, major, "pg_amcheck", "--all", "--heapallindexed",
				"-h", restored.SocketDir, "-p", strconv.Itoa(restored.Port), "-U", "postgres").CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte(`lacks matching index tuple within index "victim_pkey"`)) {
				t.Errorf("pg_amcheck: %v\n%s", err, out)
			}
		})
	}
}

// zeroPages counts the pages of a file that hold nothing.
func zeroPages(t *testing.T, name string) (n int) {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	empty := make([]byte, 8192)
	for ; len(content) >= len(empty); content = content[len(empty):] {
		if bytes.Equal(content[:len(empty)], empty) {
			n++
		}
	}
	return n
}
