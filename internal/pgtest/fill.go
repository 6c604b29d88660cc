package pgtest

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Tablespace makes a tablespace and returns its folder, which lasts as long as
// the server.
func (s *Server) Tablespace(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(s.dir, "tablespaces", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	Own(t, dir)
	s.Exec(t, fmt.Sprintf("CREATE TABLESPACE %q LOCATION '%s'", name, dir))
	return dir
}

//go:embed fill.sql
var fillSQL string

// Fill makes tables of many kinds, some 2 MB of them for each unit of scale: plain
// and partitioned, with B-tree and GIN indexes, with values that are stored
// beside the table, one that is unlogged, one that is empty, one in each of the
// tablespaces (placed_1 and so on), large objects, and a second database,
// "second". It leaves dead rows, a visibility map and a checkpoint behind.
func Fill(t testing.TB, s *Server, scale int, tablespaces ...string) {
	t.Helper()
	fill := strings.ReplaceAll(fillSQL, ":scale", strconv.Itoa(scale))
	s.Exec(t, strings.Split(fill, ";\n")...)
	for i, tablespace := range tablespaces {
		s.Exec(t,
			fmt.Sprintf("CREATE TABLE placed_%d (id int PRIMARY KEY USING INDEX TABLESPACE %[2]q, what text) TABLESPACE %[2]q", i+1, tablespace),
			fmt.Sprintf("INSERT INTO placed_%d SELECT g, md5(g::text) FROM generate_series(1, %d) g", i+1, 1000*scale))
	}
	s.Exec(t, "CREATE DATABASE second")
	s.ExecIn(t, "second",
		"CREATE TABLE notes (id int PRIMARY KEY, note text)",
		fmt.Sprintf("INSERT INTO notes SELECT g, repeat('note ', mod(g, 50)) FROM generate_series(1, %d) g", 1000*scale),
		"CHECKPOINT",
	)
}
