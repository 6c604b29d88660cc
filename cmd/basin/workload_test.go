package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// workload is what happens to a cluster between backups: a random choice of what changes
// files in ways of its own.
type workload struct {
	*pgtest.Server
	random      *rand.Rand
	tablespaces []string      // that tables wander through
	tables      []placedTable // of the form (id bigint PRIMARY KEY, a int, b text), with an index of a
	databases   []string      // that were made as copies of "second"
	made        int           // names so far
	deck        []operation   // in the order in which they come
	touched     []string      // tables, by the operation that is being done
	cut         []placedTable // that are left alone until the next backup
}

type placedTable struct{ database, name string }

// operation is one change of a workload. None does what servers get wrong: all-zero pages
// where a relation was cut off before, see TestZeroPagesOfServer, and growth of such a
// relation after a checkpoint, see TestOrderOfSummaries.
type operation struct {
	name string
	do   func(*workload, *testing.T)
}

func operations() []operation {
	return []operation{
		{"insert", (*workload).insert},
		{"update", (*workload).update},
		{"update all", (*workload).updateAll},
		{"delete", (*workload).remove},
		{"roll back", (*workload).rollBack},
		{"copy in", (*workload).copyIn},
		{"truncate", (*workload).truncate},
		{"truncate and fill again", (*workload).truncateAndFill},
		{"create and truncate at once", (*workload).createAndTruncate},
		{"shrink", (*workload).shrink},
		{"shrink and regrow", (*workload).shrinkAndRegrow},
		{"create", (*workload).create},
		{"drop", (*workload).drop},
		{"drop and create", (*workload).dropAndCreate},
		{"vacuum", (*workload).vacuum},
		{"vacuum full", (*workload).vacuumFull},
		{"reindex", (*workload).reindex},
		{"move to another tablespace", (*workload).move},
		{"move a database", (*workload).moveDatabase},
		{"database by file copy", (*workload).copyDatabase},
		{"database in place of another", (*workload).replaceDatabase},
		{"relfilenode reused", (*workload).reuseRelfilenode},
		{"unlogged", (*workload).unlogged},
		{"large objects", (*workload).largeObjects},
		{"checkpoint", (*workload).checkpoint},
		{"crash", (*workload).crash},
	}
}

// startWorkload fills a cluster that has at least two tablespaces.
func startWorkload(t *testing.T, s *pgtest.Server, random *rand.Rand, tablespaces ...string) *workload {
	t.Helper()
	w := &workload{Server: s, random: random, tablespaces: tablespaces}
	pgtest.Fill(t, s, 1, tablespaces...)
	for _, database := range []string{"postgres", "postgres", "postgres", "second"} {
		w.createIn(t, database)
	}
	w.Exec(t, "CREATE TABLE grown (id int, b text)", "CREATE UNLOGGED TABLE flighty (id int PRIMARY KEY)")
	w.Exec(t, "CREATE TABLE reused (id int, a int)", "INSERT INTO reused SELECT g, g FROM generate_series(1, 3000) g")
	w.copyDatabase(t)
	return w
}

// change does a number of operations and returns their names, with the tables they changed. All have their turn before
// one comes again.
func (w *workload) change(t *testing.T, n int) (names []string) {
	t.Helper()
	w.cut = nil
	for range n {
		if len(w.deck) == 0 {
			w.deck = operations()
			if w.Major < 15 { // where nobody chooses the OID of a database, or the file of a relation
				w.deck = slices.DeleteFunc(w.deck, func(o operation) bool {
					return o.name == "database in place of another" || o.name == "relfilenode reused"
				})
			}
			w.random.Shuffle(len(w.deck), func(i, j int) { w.deck[i], w.deck[j] = w.deck[j], w.deck[i] })
		}
		next := w.deck[0]
		w.deck = w.deck[1:]
		w.touched = nil
		next.do(w, t)
		names = append(names, strings.Join(append([]string{next.name}, w.touched...), " "))
	}
	return names
}

// some returns a table that was made before.
func (w *workload) some(t *testing.T) placedTable {
	t.Helper()
	isCut := func(p placedTable) bool { return slices.Contains(w.cut, p) }
	free := slices.DeleteFunc(slices.Clone(w.tables), isCut)
	if len(free) == 0 {
		w.create(t)
		return w.tables[len(w.tables)-1]
	}
	return free[w.random.IntN(len(free))]
}

// leave has a table that was cut off stay as it is until the next backup, where the order
// of the server's summaries would matter.
func (w *workload) leave(p placedTable) {
	if w.Major >= 18 {
		w.cut = append(w.cut, p)
	}
}

// between returns a number from least to most.
func (w *workload) between(least, most int) int { return least + w.random.IntN(most-least+1) }

// on runs statements in the database of a table, in which %s stands for its name.
func (w *workload) on(t *testing.T, p placedTable, statements ...string) {
	t.Helper()
	for i := range statements {
		statements[i] = strings.ReplaceAll(statements[i], "%s", p.name)
	}
	if !slices.Contains(w.touched, p.name) {
		w.touched = append(w.touched, p.name)
	}
	w.ExecIn(t, p.database, statements...)
}

// rows returns a statement that adds rows behind those that are there, one after the other.
func (w *workload) rows(n int) string {
	return fmt.Sprintf(`INSERT INTO %%s SELECT m + g, g %% 1000, repeat(md5((m + g)::text), 1 + g %% 5)
		FROM generate_series(1, %d) g, (SELECT coalesce(max(id), 0) AS m FROM %%s) AS last`, n)
}

func (w *workload) insert(t *testing.T) { w.on(t, w.some(t), w.rows(w.between(1, 3000))) }

func (w *workload) update(t *testing.T) {
	w.on(t, w.some(t), fmt.Sprintf("UPDATE %%s SET a = a + 1, b = 'changed ' || b WHERE id %% %d = 0", w.between(10, 500)))
}

func (w *workload) updateAll(t *testing.T) { w.on(t, w.some(t), "UPDATE %s SET a = -a") }

func (w *workload) remove(t *testing.T) {
	w.on(t, w.some(t), fmt.Sprintf("DELETE FROM %%s WHERE id %% %d = 1", w.between(3, 100)))
}

func (w *workload) rollBack(t *testing.T) {
	w.on(t, w.some(t), "BEGIN; "+w.rows(500)+"; UPDATE %s SET a = 0 WHERE id < 100; ROLLBACK")
}

// copyIn extends by many pages at once, in a table that never shrinks.
func (w *workload) copyIn(t *testing.T) {
	w.Exec(t, fmt.Sprintf("COPY grown FROM PROGRAM 'seq -f \"%%.0f\tcopied in\" 1 %d'", w.between(100, 20000)))
}

func (w *workload) truncate(t *testing.T) { w.on(t, w.some(t), "TRUNCATE %s") }

func (w *workload) truncateAndFill(t *testing.T) {
	w.on(t, w.some(t), "BEGIN; TRUNCATE %s; "+w.rows(w.between(10, 2000))+"; COMMIT")
}

// createAndTruncate has a file truncated as it is, since nobody else has seen it.
func (w *workload) createAndTruncate(t *testing.T) {
	p := placedTable{"postgres", w.name()}
	w.on(t, p, "BEGIN; CREATE TABLE %s (id bigint PRIMARY KEY, a int, b text); "+w.rows(2000)+"; TRUNCATE %s; "+w.rows(300)+"; COMMIT",
		"CREATE INDEX ON %s (a)")
	w.tables = append(w.tables, p)
}

// shrink has VACUUM cut off the end of the file.
func (w *workload) shrink(t *testing.T) {
	p := w.some(t)
	w.on(t, p, "DELETE FROM %s WHERE id > (SELECT max(id) / 3 FROM %s)", "VACUUM %s")
	w.leave(p)
}

func (w *workload) shrinkAndRegrow(t *testing.T) {
	p := w.some(t)
	w.on(t, p, w.rows(2000), "DELETE FROM %s WHERE id > (SELECT max(id) / 4 FROM %s)", "VACUUM %s")
	if w.leave(p); w.Major < 18 && w.random.IntN(2) == 0 {
		w.checkpoint(t)
	}
	w.on(t, p, w.rows(w.between(500, 4000)))
}

func (w *workload) name() string {
	w.made++
	return fmt.Sprintf("made_%d", w.made)
}

func (w *workload) createIn(t *testing.T, database string) {
	p := placedTable{database, w.name()}
	w.on(t, p, "CREATE TABLE %s (id bigint PRIMARY KEY, a int, b text)", "CREATE INDEX ON %s (a)", w.rows(w.between(1000, 5000)))
	w.tables = append(w.tables, p)
}

func (w *workload) create(t *testing.T) { w.createIn(t, "postgres") }

func (w *workload) drop(t *testing.T) {
	if len(w.tables) < 4 {
		w.create(t)
	}
	i := w.random.IntN(len(w.tables))
	w.on(t, w.tables[i], "DROP TABLE %s")
	w.tables = slices.Delete(w.tables, i, i+1)
}

func (w *workload) dropAndCreate(t *testing.T) {
	w.drop(t)
	w.checkpoint(t) // which removes the files
	w.create(t)
}

func (w *workload) vacuum(t *testing.T) {
	w.on(t, w.some(t), "VACUUM (TRUNCATE false) %s")
	w.on(t, w.some(t), "VACUUM (FREEZE, TRUNCATE false) %s")
}

func (w *workload) vacuumFull(t *testing.T) {
	w.on(t, w.some(t), "VACUUM FULL %s")
	w.Exec(t, "VACUUM FULL pg_attribute") // a relation whose file is in pg_filenode.map otherwise
}

func (w *workload) reindex(t *testing.T) {
	w.on(t, w.some(t), "REINDEX TABLE %s")
	w.Exec(t, "REINDEX TABLE pg_class")
}

// move moves a table, and an index, elsewhere. Those of "second" stay: a copy of a database cannot be put where
// tables of it are.
func (w *workload) move(t *testing.T) {
	all := append([]string{"pg_default"}, w.tablespaces...)
	for _, statement := range []string{"ALTER TABLE %%s SET TABLESPACE %s", "ALTER INDEX %%s_pkey SET TABLESPACE %s"} {
		p, to := w.some(t), all[w.random.IntN(len(all))]
		if p.database == "second" {
			to = all[0]
		}
		w.on(t, p, fmt.Sprintf(statement, to))
	}
}

func (w *workload) moveDatabase(t *testing.T) {
	if w.Query(t, "SELECT count(*) FROM pg_database WHERE datname = 'wanderer'") == "0" {
		w.Exec(t, "CREATE DATABASE wanderer TEMPLATE second TABLESPACE "+w.tablespaces[1])
		return
	}
	w.ExecIn(t, "wanderer", "CREATE TABLE "+w.name()+" AS SELECT generate_series(1, 1000)")
	at := w.Query(t, "SELECT spcname FROM pg_database JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = 'wanderer'")
	to := w.tablespaces[0]
	if at == to {
		to = "pg_default"
	}
	w.Exec(t, "ALTER DATABASE wanderer SET TABLESPACE "+to)
}

// copyDatabase copies the files of a database, of which the log has only that they were.
func (w *workload) copyDatabase(t *testing.T) {
	name := w.name()
	strategy := "STRATEGY file_copy"
	if w.Major < 15 {
		strategy = "" // there is no other
	}
	w.Exec(t, fmt.Sprintf("CREATE DATABASE %s TEMPLATE second %s", name, strategy))
	w.databases = append(w.databases, name)
	for _, p := range w.tables {
		if p.database == "second" {
			w.tables = append(w.tables, placedTable{name, p.name})
		}
	}
}

// replaceDatabase puts a database where another was: all paths are the same, and the files
// are others.
func (w *workload) replaceDatabase(t *testing.T) {
	name := w.databases[w.random.IntN(len(w.databases))]
	oid := w.Query(t, "SELECT oid FROM pg_database WHERE datname = '"+name+"'")
	w.Exec(t, fmt.Sprintf("DROP DATABASE %s WITH (FORCE)", name))
	w.tables = slices.DeleteFunc(w.tables, func(p placedTable) bool { return p.database == name })
	if w.random.IntN(2) == 0 {
		w.checkpoint(t)
	}
	strategy := []string{"file_copy", "wal_log"}[w.random.IntN(2)]
	w.Exec(t, fmt.Sprintf("CREATE DATABASE %s OID = %s TEMPLATE second STRATEGY %s", name, oid, strategy))
	for _, p := range w.tables {
		if p.database == "second" {
			w.tables = append(w.tables, placedTable{name, p.name})
		}
	}
}

// reuseRelfilenode puts a table into a file that was its own once and was removed, as happens
// when the counter of OIDs has come round. A server that is being upgraded can be told to.
func (w *workload) reuseRelfilenode(t *testing.T) {
	const file = "SELECT pg_relation_filenode('reused')"
	first := w.Query(t, file)
	w.Exec(t, "TRUNCATE reused", "INSERT INTO reused SELECT g, 0 FROM generate_series(1, 100) g")
	w.Stop(t, pgtest.Fast)
	w.Start(t, "-b")
	w.Exec(t, "SELECT pg_catalog.binary_upgrade_set_next_heap_relfilenode("+first+")", "TRUNCATE reused")
	w.Stop(t, pgtest.Fast)
	w.Start(t)
	w.Exec(t, fmt.Sprintf("INSERT INTO reused SELECT -g, g FROM generate_series(1, %d) g", w.between(0, 6000)))
	if got := w.Query(t, file); got != first {
		t.Errorf("relfilenode %s, not %s again", got, first)
	}
}

// unlogged changes what is not in the log, and has a table become such.
func (w *workload) unlogged(t *testing.T) {
	w.Exec(t, "TRUNCATE flighty", "INSERT INTO flighty SELECT generate_series(1, 2000)")
	p := w.some(t)
	w.on(t, p, "ALTER TABLE %s SET UNLOGGED", w.rows(100))
	if w.random.IntN(2) == 0 {
		w.checkpoint(t)
	}
	w.on(t, p, "ALTER TABLE %s SET LOGGED")
}

func (w *workload) largeObjects(t *testing.T) {
	w.Exec(t, "SELECT lo_from_bytea(0, decode(repeat(md5(g::text), 100), 'hex')) FROM generate_series(1, 20) g",
		"SELECT lo_unlink(oid) FROM (SELECT oid FROM pg_largeobject_metadata ORDER BY oid LIMIT 5) AS oldest")
}

func (w *workload) checkpoint(t *testing.T) { w.Exec(t, "CHECKPOINT") }

func (w *workload) crash(t *testing.T) {
	w.Kill(t)
	w.Start(t)
}

// grow has a relation cross the border between its first file and its second, before the
// n-th backup: a row has a page for itself.
func (w *workload) grow(t *testing.T, n int) {
	const pages = 131072 // of a file of 1 GiB
	rows := func(from, to int) string {
		return fmt.Sprintf("INSERT INTO big SELECT g, repeat('x', 700) FROM generate_series(%d, %d) g", from, to)
	}
	switch n {
	case 0:
		w.Exec(t, "CREATE TABLE big (id int, b text) WITH (fillfactor = 10)", rows(1, pages-500), "CREATE INDEX ON big (id)")
	case 1:
		w.Exec(t, rows(pages-499, pages+300))
	case 2:
		w.Exec(t, "UPDATE big SET b = 'changed' WHERE id % 1000 = 0")
	case 3:
		w.Exec(t, fmt.Sprintf("DELETE FROM big WHERE id > %d", pages-1000), "VACUUM big")
	case 4:
		w.Exec(t, rows(pages, pages+2500))
	case 5:
		w.Exec(t, fmt.Sprintf("DELETE FROM big WHERE id > %d", pages-1000), "VACUUM big", rows(pages, pages+1500))
	}
}
