package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/pgtest"
)

// TestPartsOfBackups restores databases and files of backups by themselves, of servers with page checksums and without.
func TestPartsOfBackups(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{14, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			conf := map[string]string{"autovacuum": "off", "max_prepared_transactions": "5"}
			if major == 14 { // it has no checksums either
				conf["full_page_writes"] = "off"
			}
			k := keep(t, basin, major, conf)
			k.tablespaces = append(k.tablespaces, k.Tablespace(t, "apart"))
			k.Exec(t, "CREATE DATABASE shop", "CREATE DATABASE crm TABLESPACE apart", `CREATE DATABASE "it's ""odd"""`)
			for _, database := range []string{"shop", "crm", `it's "odd"`} {
				k.ExecIn(t, database,
					"CREATE TABLE orders (id int PRIMARY KEY, body text) WITH (fillfactor = 50)", "CREATE TABLE untouched AS SELECT generate_series(1, 2000) AS n",
					"INSERT INTO orders SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 800) g",
					"INSERT INTO orders VALUES (0, (SELECT string_agg(md5(g::text), '') FROM generate_series(1, 3000) g))",
					"CREATE TABLE moved TABLESPACE "+map[bool]string{true: "pg_default", false: "apart"}[database == "crm"]+" AS SELECT generate_series(1, 500) AS n",
					"CREATE SEQUENCE numbers", "CREATE INDEX by_body ON orders USING gin (to_tsvector('simple', left(body, 20)))")
			}
			k.Exec(t, "CHECKPOINT")
			k.backUp(t, false)
			filesOfBackup(t, k)
			for _, database := range []string{"shop", "crm", `it's "odd"`} {
				k.ExecIn(t, database,
					"VACUUM untouched", // which marks pages that it does not change
					"UPDATE orders SET body = 'new' WHERE id % 7 = 0", "DELETE FROM orders WHERE id % 11 = 0", "VACUUM orders",
					"CREATE TABLE later AS SELECT * FROM orders", "INSERT INTO orders SELECT g, 'x' FROM generate_series(4000, 4500) g",
					"TRUNCATE moved", "INSERT INTO moved VALUES (7)", "VACUUM FULL pg_class", "CHECKPOINT", "UPDATE orders SET body = body || 'y' WHERE id % 5 = 0",
					"SELECT nextval('numbers')", "VACUUM FULL later", "REINDEX TABLE orders")
			}
			k.Exec(t, "CREATE DATABASE made", "DROP DATABASE IF EXISTS none")
			k.ExecIn(t, "crm", "BEGIN", "INSERT INTO untouched VALUES (0)", "PREPARE TRANSACTION 'half'")
			m := k.mark(t)
			k.archived(t)

			var plan restoreResult
			planned := k.run(t, "restore", "-D", filepath.Join(pgtest.TempDir(t), "data"), k.elsewhere(t), "--database", "shop", "--dry-run", "--json")
			if err := json.Unmarshal([]byte(planned.stdout), &plan); err != nil || plan.Databases == nil || plan.Databases.Left < 1<<20 ||
				!slices.Equal(plan.Databases.Whole, []string{"postgres", "shop", "template0", "template1"}) || !slices.Equal(plan.Databases.Empty, []string{"crm", `it's "odd"`}) {
				t.Errorf("%v, %v", planned, err)
			}
			s := k.restore(t, "--database", "shop", "--target-name", m.name, "--target-action", "promote")
			s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			if major == 14 && !strings.Contains(s.Log(t), "is uninitialized") {
				t.Error("recovery came to no page that is zeros")
			}
			got := emptied(t, s)
			if got != "crm\nit's \"odd\"" {
				t.Errorf("empty databases: %s", got)
			}
			for _, dbname := range []string{"crm", `'it\'s "odd"'`} {
				conn, err := pgconn.Connect(t.Context(), s.ConnString()+" dbname="+dbname)
				if err == nil {
					err = conn.Close(t.Context())
				}
				if err == nil || !strings.Contains(err.Error(), "is not a valid data directory") { // and no crash
					t.Errorf("database %s: %v", dbname, err)
				}
			}
			confirmed := basin.run(t, nil, "restored", "-U", "postgres", s.DataDir)
			confirmed.says(t, exitSuccess, "yes: recovery ended", "crm was left out of the restore", `DROP DATABASE "it's ""odd""";`, "'half' of postgres in crm")
			endStuck(t, s, confirmed.stdout)
			s.Exec(t, "DROP DATABASE crm", `DROP DATABASE "it's ""odd"""`)
			if e := basin.run(t, nil, "restored", "-U", "postgres", s.DataDir); e.status != exitSuccess || strings.Contains(e.stdout, "empty database") {
				t.Error(e)
			}
			sums := pgtest.Sums(t, s)
			for name, sum := range m.sums {
				if !strings.HasPrefix(name, "crm.") && !strings.HasPrefix(name, "it's") && sums[name] != sum {
					t.Errorf("%s: %s, want %s", name, sums[name], sum)
				}
			}
			if sums["shop.public.orders"] == "" {
				t.Errorf("%v", sums)
			}
			pgtest.CheckIndexes(t, s)
			s.Stop(t, pgtest.Fast)
			s.Start(t) // once more, as after a night

			e := basin.run(t, nil, "restore", "--repository", k.location, "-D", filepath.Join(pgtest.TempDir(t), "data"), "--database", "none")
			e.failed(t, `there is no database "none" in the backup`, `"it's \"odd\""`)
		})
	}
}

// endStuck does what is told of a prepared transaction that nobody can end.
func endStuck(t *testing.T, s *pgtest.Server, told string) {
	t.Helper()
	_, name, ok := strings.Cut(told, "remove the file in pg_twophase whose name ends in ")
	name, _, _ = strings.Cut(name, ",")
	if !ok || len(name) != 8 {
		t.Fatalf("told is %s", told)
	}
	s.Stop(t, pgtest.Fast)
	files, err := filepath.Glob(filepath.Join(s.DataDir, "pg_twophase", "*"+name))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	s.Start(t)
}

// emptied returns the databases of a server whose files take no room, of those that have any.
func emptied(t *testing.T, s *pgtest.Server) string {
	t.Helper()
	var names []string
	for row := range strings.SplitSeq(s.Query(t, "SELECT oid || '|' || datname FROM pg_database ORDER BY datname"), "\n") {
		oid, name, _ := strings.Cut(row, "|")
		var size, used int64
		for _, pattern := range []string{"base/" + oid, "pg_tblspc/*/PG_*/" + oid} {
			dirs, err := filepath.Glob(filepath.Join(s.DataDir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range dirs {
				err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
					if err != nil || entry.IsDir() {
						return err
					}
					info, err := entry.Info()
					if err == nil {
						size += info.Size()
						used += info.Sys().(*syscall.Stat_t).Blocks * 512
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		if size == 0 {
			t.Errorf("database %s has no files", name)
		}
		if used < size/2 { // what came with the log is there
			names = append(names, name)
		}
	}
	return strings.Join(names, "\n")
}

// filesOfBackup gets files of the last backup of a cluster in which nothing happened since.
func filesOfBackup(t *testing.T, k *kept) {
	t.Helper()
	path := func(relation string) string {
		return k.QueryIn(t, "shop", "SELECT pg_relation_filepath("+relation+")")
	}
	orders := path("'orders'")
	toast := path("(SELECT reltoastrelid FROM pg_class WHERE oid = 'orders'::regclass)")
	toastIndex := path("(SELECT indexrelid FROM pg_index WHERE indrelid = (SELECT reltoastrelid FROM pg_class WHERE oid = 'orders'::regclass))")
	moved := path("'moved'")
	for _, test := range []struct {
		files []string
		want  []string // some that are there
		count int      // zero is any number
	}{
		{[]string{"shop.public.orders"}, []string{orders, orders + "_fsm", toast, toast + "_fsm", toastIndex}, 5},
		{[]string{"shop.public.moved"}, []string{moved}, 0},
		{[]string{"Shop.Public.Orders_PKEY", "shop.public.numbers"}, []string{path("'orders_pkey'"), path("'numbers'")}, 2},
		{[]string{"shop.pg_catalog.pg_class"}, []string{path("'pg_class'")}, 0},
		{[]string{"shop.pg_catalog.pg_database"}, []string{path("'pg_database'")}, 0},
		{[]string{`"it's ""odd""".public.orders`}, nil, 5},
		{[]string{"global/pg_filenode.map", moved, "PG_VERSION"}, []string{"global/pg_filenode.map", moved, "PG_VERSION"}, 3},
		{[]string{filepath.Dir(moved) + "/"}, []string{moved}, 0},
		{[]string{"base/1"}, []string{"base/1/PG_VERSION"}, 0},
	} {
		dir := filepath.Join(pgtest.TempDir(t), "files")
		args := []string{"restore", "--repository", k.location, "-D", dir, "--no-sync"}
		for _, f := range test.files {
			args = append(args, "--file", f)
		}
		if e := k.basin.run(t, nil, args...); e.status != exitSuccess || e.stderr != "" {
			t.Errorf("%v: %v", test.files, e)
			continue
		}
		count := 0
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			count++
			rel, _ := filepath.Rel(dir, path)
			got, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if want, err := os.ReadFile(filepath.Join(k.DataDir, rel)); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v: %s is not as it was, %v", test.files, rel, err)
			}
			return nil
		})
		if err != nil || test.count > 0 && count != test.count {
			t.Errorf("%v: %d files, %v", test.files, count, err)
		}
		for _, name := range test.want {
			present(t, filepath.Join(dir, name))
		}
	}
	for name, want := range map[string]string{
		"shop.public.none": "there is no relation shop.public.none", "base/1/none": "has no file", "../postgres": "has no file", "orders": "has no file", "shop.public.odd.Name": "in double quotes",
		"shop.public.oddName": "in double quotes",
	} {
		dir := filepath.Join(pgtest.TempDir(t), "files")
		k.basin.run(t, nil, "restore", "--repository", k.location, "-D", dir, "--file", name).failed(t, want)
		absent(t, dir)
	}
	e := k.basin.run(t, nil, "show", "--repository", k.location, "--files", "latest", "*"+filepath.Base(orders)+"*")
	if !strings.Contains(e.stdout, "  "+orders+"\n") || !strings.Contains(e.stdout, "  "+orders+"_fsm\n") || strings.Contains(e.stdout, "global") {
		t.Errorf("%v", e)
	}
}
