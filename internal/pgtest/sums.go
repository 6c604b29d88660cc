package pgtest

import (
	"strings"
	"testing"
)

// Sums returns what is in every ordinary table of every database, as
// "database.schema.table" to a text that says how many rows it has and which, in
// whatever order. Large objects count as a table. Unlogged and temporary tables
// do not: a copy of a cluster has none of their rows.
//
// Every row is read from the table itself, so a good index cannot hide a lost
// page. Two clusters with the same Sums hold the same rows, also across majors.
func Sums(t testing.TB, s *Server) map[string]string {
	t.Helper()
	sums := make(map[string]string)
	for _, database := range databases(t, s) {
		tables := s.QueryIn(t, database, `
			SELECT format('%I.%I', n.nspname, c.relname)
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p'
			AND (n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
			     OR c.oid = 'pg_largeobject'::regclass)
			ORDER BY 1`)
		for table := range strings.SplitSeq(tables, "\n") {
			sums[database+"."+table] = sum(t, s, database, table)
		}
	}
	return sums
}

// sum adds up the first 64 bits of the MD5 of each row's text, which every major
// has, without being built in another way, and which no order changes.
func sum(t testing.TB, s *Server, database, table string) string {
	t.Helper()
	rows, err := s.run(t.Context(), database,
		"SET enable_indexscan = off",
		"SET enable_indexonlyscan = off",
		"SET enable_bitmapscan = off",
		"SET max_parallel_workers_per_gather = 0",
		"SET timezone = 'UTC'",
		"SET extra_float_digits = 3", // 10 and 11 would round
		`SELECT count(*) || ' rows, ' || coalesce(sum(('x' || substr(md5(r::text), 1, 16))::bit(64)::bigint::numeric), 0)
		 FROM `+table+` r`)
	if err != nil {
		t.Fatalf("%s in %s: %v", table, database, err)
	}
	return rows[0]
}

// CheckIndexes reads every B-tree index of every database and fails the test if
// it does not agree with its table, each row of which it must have. It makes the
// extension amcheck, so a server that only reads must have it already.
func CheckIndexes(t testing.TB, s *Server) {
	t.Helper()
	complete := ", true" // heapallindexed
	if s.Major == 10 {
		complete = ""
	}
	for _, database := range databases(t, s) {
		if s.QueryIn(t, database, "SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'") == "0" {
			s.ExecIn(t, database, "CREATE EXTENSION amcheck")
		}
		s.ExecIn(t, database, `
			SELECT bt_index_check(c.oid`+complete+`)
			FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
			WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisvalid`)
	}
}

// databases returns the names of all databases that can be connected to, but
// for template1.
func databases(t testing.TB, s *Server) []string {
	t.Helper()
	return strings.Split(s.Query(t, "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template1' ORDER BY 1"), "\n")
}
