package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/pgtest"
)

// A primary that others have gone on without is rewound from its successor, and then
// follows that, both by way of basin serve.
func TestServeRewind(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{15, 17, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			conf := sideBySide()
			conf["allow_in_place_tablespaces"] = "on"
			old := pgtest.Start(t, pgtest.Config{Major: major, Checksums: true, Conf: conf})
			pgtest.Fill(t, old, 1)
			successor := old.Standby(t, conf)
			old.WaitReplay(t, successor)
			successor.Promote(t)
			successor.Exec(t, "CHECKPOINT") // before 16 pg_rewind believes the control file alone
			old.Exec(t, "CREATE TABLE lost AS SELECT generate_series(1, 20000) AS n", "DELETE FROM pg_largeobject")
			old.Exec(t, "CREATE DATABASE lost")
			old.Stop(t, pgtest.Fast)
			successor.Exec(t, "CREATE TABLE kept AS SELECT generate_series(1, 200000) AS n")
			if major >= 16 { // before, pg_rewind takes it for a link
				successor.Exec(t, "CREATE TABLESPACE here LOCATION ''")
				successor.Exec(t, "CREATE TABLE here TABLESPACE here AS SELECT * FROM kept")
			}

			v := startServe(t, basin, successor)
			load := pgtest.StartLoad(t.Context(), t, successor, 2)
			e := stock(t, major, "pg_rewind", "-D", old.DataDir, "--source-server="+v.conninfo()+" dbname=postgres", "--no-sync", "-R")
			if e.status != 0 {
				t.Fatalf("%s\nserver: %s", e, v.process.stderr.String())
			}
			if said := e.stderr + e.stdout; !strings.Contains(said, "Done!") {
				t.Error(said)
			}
			pgtest.SetRecovery(t, major, old.DataDir, pgtest.Recovery{Standby: true, Settings: map[string]string{
				"primary_slot_name": "", // that of the successor, of when it was a standby
			}})
			pgtest.Own(t, old.DataDir)
			old.Start(t)
			load.Stop(t)
			successor.WaitReplay(t, old)
			if diff := cmp.Diff(pgtest.Sums(t, successor), pgtest.Sums(t, old)); diff != "" {
				t.Error(diff)
			}
			v.ends(t)
		})
	}
}

// listFiles and fetchChunks are statements of pg_rewind as it sends them.
//
// Source: src/bin/pg_rewind/libpq_source.c, PostgreSQL 18.
const (
	listFiles = "WITH RECURSIVE files (path, filename, size, isdir) AS (\n" +
		"  SELECT '' AS path, filename, size, isdir FROM\n" +
		"  (SELECT pg_ls_dir('.', true, false) AS filename) AS fn,\n" +
		"        pg_stat_file(fn.filename, true) AS this\n" +
		"  UNION ALL\n" +
		"  SELECT parent.path || parent.filename || '/' AS path,\n" +
		"         fn, this.size, this.isdir\n" +
		"  FROM files AS parent,\n" +
		"       pg_ls_dir(parent.path || parent.filename, true, false) AS fn,\n" +
		"       pg_stat_file(parent.path || parent.filename || '/' || fn, true) AS this\n" +
		"       WHERE parent.isdir = 't'\n" +
		")\n" +
		"SELECT path || filename, size, isdir,\n" +
		"       pg_tablespace_location(pg_tablespace.oid) AS link_target\n" +
		"FROM files\n" +
		"LEFT OUTER JOIN pg_tablespace ON files.path = 'pg_tblspc/'\n" +
		"                             AND oid::text = files.filename\n"
	fetchChunks = "SELECT path, begin,\n" +
		"  pg_read_binary_file(path, begin, len, true) AS chunk\n" +
		"FROM unnest ($1::text[], $2::int8[], $3::int4[]) as x(path, begin, len)"
)

// volatile are files that a cluster changes while nobody does anything, and those of its
// backends.
var volatile = regexp.MustCompile(`^(postmaster\.pid|pg_stat.*|.*pg_internal\.init.*|pg_logical/replorigin.*|global/pgstat.*|pg_replslot.*)`)

// shown puts a result in words: the columns, the rows, and the end.
func shown(r *pgconn.Result) string {
	var lines []string
	for _, f := range r.FieldDescriptions {
		lines = append(lines, fmt.Sprintf("column %s of %d, %d bytes, %d, in format %d", f.Name, f.DataTypeOID, f.DataTypeSize, f.TypeModifier, f.Format))
	}
	tag := r.CommandTag.String()
	var rows []string
	for _, row := range r.Rows {
		words := ""
		for _, value := range row {
			if value == nil {
				words += " NULL"
				continue
			}
			words += fmt.Sprintf(" %q", value)
		}
		if len(row) == 4 && volatile.Match(row[0]) {
			tag = "SELECT some"
			continue
		}
		rows = append(rows, words)
	}
	slices.Sort(rows)
	lines = append(append(lines, rows...), tag)
	if e := (*pgconn.PgError)(nil); errors.As(r.Err, &e) {
		lines = append(lines, e.Severity+" "+e.Code+": "+e.Message)
	} else if r.Err != nil {
		lines = append(lines, r.Err.Error())
	}
	return strings.Join(lines, "\n")
}

// What pg_rewind asks is answered in the very words of the cluster.
func TestServeRewindAnswers(t *testing.T) {
	basin := newProgram(t, "basin")
	conf := sideBySide()
	conf["allow_in_place_tablespaces"], conf["autovacuum"] = "on", "off"
	s := pgtest.Start(t, pgtest.Config{Conf: conf})
	location := s.Tablespace(t, "apart")
	s.Exec(t, "CREATE TABLESPACE here LOCATION ''")
	for _, space := range []string{"apart", "here"} {
		s.Exec(t, "CREATE TABLE "+space+" TABLESPACE "+space+" AS SELECT generate_series(1, 100000) AS n")
	}
	apart := s.Query(t, "SELECT pg_relation_filepath('apart')")
	s.Exec(t, "CHECKPOINT")
	v := startServe(t, basin, s)

	whole := func(path string) func(c *pgconn.PgConn) []*pgconn.Result {
		return func(c *pgconn.PgConn) []*pgconn.Result {
			return []*pgconn.Result{c.ExecParams(t.Context(), "SELECT pg_read_binary_file($1)", [][]byte{[]byte(path)}, nil, nil, []int16{1}).Read()}
		}
	}
	chunks := func(formats []int16, arrays ...string) func(c *pgconn.PgConn) []*pgconn.Result {
		return func(c *pgconn.PgConn) []*pgconn.Result {
			name := strconv.Itoa(len(arrays[0])) + arrays[1]
			d, err := c.Prepare(t.Context(), name, fetchChunks, nil)
			if err != nil {
				t.Fatal(err)
			}
			values := make([][]byte, len(arrays))
			for i, a := range arrays {
				values[i] = []byte(a)
			}
			r := c.ExecPrepared(t.Context(), name, values, nil, formats).Read()
			if err := c.Deallocate(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			return []*pgconn.Result{{FieldDescriptions: d.Fields}, r}
		}
	}
	simple := func(sql string) func(c *pgconn.PgConn) []*pgconn.Result {
		return func(c *pgconn.PgConn) []*pgconn.Result {
			all, err := c.Exec(t.Context(), sql).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
	}
	theirs := s.Connect(t, "")
	ours, err := pgconn.Connect(t.Context(), v.conninfo()+" dbname=postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close(t.Context())
	for _, c := range []struct {
		name string
		ask  func(c *pgconn.PgConn) []*pgconn.Result
	}{
		{"a timeout", simple("SET statement_timeout = 0")},
		{"another", simple("SET transaction_timeout = 0")},
		{"read-only", simple("SET default_transaction_read_only = on")},
		{"the search path", simple("SELECT pg_catalog.set_config('search_path', '', false);")},
		{"whole pages", simple("SHOW full_page_writes")},
		{"the end of the log", simple("SELECT pg_current_wal_insert_lsn()")},
		{"is it a standby", simple("SELECT pg_catalog.pg_is_in_recovery()")},
		{"is it one, in binary", func(c *pgconn.PgConn) []*pgconn.Result {
			return []*pgconn.Result{c.ExecParams(t.Context(), "SELECT pg_is_in_recovery()", nil, nil, nil, []int16{1}).Read()}
		}},
		{"nothing", simple(" ; ")},
		{"a number in binary", func(c *pgconn.PgConn) []*pgconn.Result {
			return []*pgconn.Result{c.ExecParams(t.Context(), "SELECT 1", nil, nil, nil, []int16{1}).Read()}
		}},
		{"all files", simple(listFiles)},
		{"the control file", whole("global/pg_control")},
		{"a file that is not there", whole("pg_wal/00000009.history")},
		{"pieces", chunks([]int16{1}, `{"PG_VERSION","PG_VERSION",gone,"`+apart+`","`+apart+`"}`, "{0,1,0,8192,99999999}", "{1048576,1,5,8192,8192}")},
		{"as text", chunks(nil, `{"PG_VERSION"}`, "{0}", "{10}")},
		{"no pieces", chunks([]int16{1}, "{}", "{}", "{}")},
		{"a name of all letters", chunks([]int16{1}, `{"a\\\\b \\\"{},NULL"}`, "{ 0 }", "{5}")},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := c.ask(theirs), c.ask(ours)
			if len(a) != len(b) {
				t.Fatalf("%d results, want %d", len(b), len(a))
			}
			for i := range a {
				if diff := cmp.Diff(shown(a[i]), shown(b[i])); diff != "" {
					t.Error(diff)
				}
				if c.name == "all files" && !strings.Contains(shown(b[i]), location) {
					t.Error("no tablespace")
				}
			}
		})
	}
}

// Who may replicate may take files, and only those of the cluster while it runs.
func TestServeRewindRights(t *testing.T) {
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	s.Exec(t, "CREATE ROLE rewinder LOGIN REPLICATION", "CREATE ROLE nobody LOGIN")
	v := startServe(t, basin, s)
	if _, err := pgconn.Connect(t.Context(), strings.Replace(v.conninfo(), "postgres", "nobody", 1)+" dbname=postgres"); sqlState(err) != "42501" {
		t.Errorf("one who may not replicate: %v", err)
	}
	c, err := pgconn.Connect(t.Context(), strings.Replace(v.conninfo(), "postgres", "rewinder", 1)+" dbname=postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	for _, test := range []struct{ path, code string }{
		{"PG_VERSION", ""},
		{"pg_wal/gone", "58P01"},
		{"/etc/passwd", "42501"},
		{"../" + s.DataDir + "/PG_VERSION", "42501"},
		{"base/../PG_VERSION", "42501"},
		{"base", "42809"},
	} {
		r := c.ExecParams(t.Context(), "SELECT pg_read_binary_file($1)", [][]byte{[]byte(test.path)}, nil, nil, nil).Read()
		if code := sqlState(r.Err); code != test.code {
			t.Errorf("%s: %v, want %q", test.path, r.Err, test.code)
		}
	}
	if _, err := c.Exec(t.Context(), "SELECT pg_current_wal_insert_lsn()").ReadAll(); err != nil {
		t.Error(err)
	}
	s.Restart(t)
	if _, err := c.Exec(t.Context(), "SELECT pg_current_wal_insert_lsn()").ReadAll(); sqlState(err) != "57P01" {
		t.Errorf("of a cluster that was restarted: %v", err)
	}
}

// sqlState returns the SQLSTATE of an error, if it has one.
func sqlState(err error) string {
	e := (*pgconn.PgError)(nil)
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
