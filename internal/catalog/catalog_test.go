package catalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"basin/internal/pgdata"
	"basin/internal/pgtest"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// openDir returns the catalogs of a data directory.
func openDir(t *testing.T, major int, dir string) *Catalogs {
	t.Helper()
	c, err := Open(Options{
		Major: major, Checksums: true,
		Open: func(path string) (File, int64, error) {
			f, err := os.Open(filepath.Join(dir, path))
			if err != nil {
				return nil, 0, err
			}
			info, err := f.Stat()
			return f, info.Size(), err
		},
		Tablespace: func(oid uint32) (string, error) {
			found, err := filepath.Glob(filepath.Join(dir, "pg_tblspc", number(oid), "PG_*"))
			if err == nil && len(found) != 1 {
				err = errors.New("there is none")
			}
			if err != nil {
				return "", err
			}
			return "pg_tblspc/" + number(oid) + "/" + filepath.Base(found[0]), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRelationsOfServers finds all relations where servers say they are.
func TestRelationsOfServers(t *testing.T) {
	for _, major := range pgtest.Majors() {
		if major < 13 {
			continue
		}
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, Checksums: true})
			s.Tablespace(t, "apart")
			s.Exec(t, "CREATE DATABASE shop TABLESPACE apart", `CREATE DATABASE "Odd.Name"`, "CREATE DATABASE gone", "DROP DATABASE gone")
			s.ExecIn(t, "shop",
				"CREATE SCHEMA orders", "CREATE SCHEMA empty",
				"CREATE TABLE orders.open (id serial PRIMARY KEY, body text)", "INSERT INTO orders.open (body) SELECT repeat('x', 10) FROM generate_series(1, 100)",
				"CREATE TABLE open (n int)", "TRUNCATE orders.open", "CREATE TABLE orders.closed TABLESPACE pg_default AS SELECT 1 AS n",
				"CREATE MATERIALIZED VIEW orders.sums AS SELECT count(*) FROM orders.open", "CREATE VIEW orders.shown AS SELECT 1 AS n",
				"CREATE TABLE orders.parts (n int) PARTITION BY LIST (n)", "CREATE UNLOGGED TABLE orders.fleeting (n int)",
				`CREATE TABLE orders."With ""Quotes"" and.Dots" (n int)`, "CREATE TABLE orders.gone (n int)", "DROP TABLE orders.gone",
				"BEGIN", "CREATE TABLE orders.undone (n int)", "ROLLBACK", "VACUUM FULL pg_class", "VACUUM FULL pg_namespace",
				"BEGIN", "CREATE TABLE orders.undone (n int)", "ROLLBACK", "CREATE TABLE orders.old (n int)", "ALTER TABLE orders.old RENAME TO new")
			all := s.QueryIn(t, "shop", `
				SELECT format('%I.%I', n.nspname, c.relname) || '|' || pg_relation_filepath(c.oid) || '|'
				|| coalesce(pg_relation_filepath(nullif(c.reltoastrelid, 0)), '')
				FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE c.relkind IN ('r', 'i', 'S', 'm', 't') AND (n.nspname = 'orders' OR n.nspname = 'public' OR c.oid < 3000)`)
			s.Stop(t, pgtest.Fast)
			c := openDir(t, major, s.DataDir)
			rows := strings.Split(all, "\n")
			if len(rows) < 80 {
				t.Fatalf("%d relations", len(rows))
			}
			for i, row := range rows {
				if strings.HasPrefix(row, "pg_") && i%5 > 0 {
					continue // of the catalogs some are enough
				}
				fields := strings.Split(row, "|")
				parts, err := ParseName(fields[0])
				if err != nil || len(parts) != 2 {
					t.Fatalf("%s: %q, %v", row, parts, err)
				}
				found, err := c.Relations("shop", parts[0], parts[1])
				if err != nil {
					t.Errorf("%s: %v", row, err)
					continue
				}
				has := len(found) == 3
				if found[0].Path != fields[1] || has != (fields[2] != "") || has && !slices.ContainsFunc(found, func(r Relation) bool { return r.Path == fields[2] && r.Kind == 't' }) {
					t.Errorf("%s: %v", row, found)
				}
			}
			for _, test := range []struct{ database, schema, name, want string }{
				{"shop", "orders", "shown", "shop.orders.shown is a view, which has no file"},
				{"shop", "orders", "parts", "shop.orders.parts is a partitioned table, which has no file"},
				{"shop", "orders", "undone", "there is no relation shop.orders.undone in the backup"},
				{"shop", "orders", "gone", "there is no relation shop.orders.gone in the backup"},
				{"shop", "orders", "old", "there is no relation shop.orders.old in the backup"},
				{"shop", "none", "open", "there is no schema none in database shop in the backup"},
				{"gone", "orders", "open", `there is no database "gone" in the backup`},
			} {
				if found, err := c.Relations(test.database, test.schema, test.name); err == nil || err.Error() != test.want {
					t.Errorf("%v: %v, %v", test, found, err)
				}
			}
			_, err := c.Database("none")
			if hint := usererr.Hint(err); !strings.Contains(hint, `"Odd.Name"`) || !strings.Contains(hint, `"shop"`) || strings.Contains(hint, "gone") {
				t.Errorf("%v, %s", err, hint)
			}
			several(t, major, s.DataDir, found(t, c, "orders", "new"))
		})
	}
}

// found returns where a relation is.
func found(t *testing.T, c *Catalogs, schema, name string) string {
	t.Helper()
	relations, err := c.Relations("shop", schema, name)
	if err != nil {
		t.Fatal(err)
	}
	return relations[0].Path
}

// several makes a row of pg_class be there twice, with another file, as when its two versions come from pages that
// were read before and after a change.
func several(t *testing.T, major int, dir, path string) {
	t.Helper()
	other := path + "0"
	content, err := os.ReadFile(filepath.Join(dir, path))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, other), content, 0o600); err != nil {
		t.Fatal(err)
	}
	c := openDir(t, major, dir)
	s := &search{Catalogs: c, nodes: relationMap{}}
	if s.database, err = c.Database("shop"); err != nil {
		t.Fatal(err)
	}
	node, err := strconv.ParseUint(filepath.Base(path), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	row := class{oid: 1, name: "new", kind: 'r', node: uint32(node), version: tuple{xmin: 900}}
	again := row
	again.node, again.version.xmin = row.node*10, 901
	if r, err := s.relation(again, []class{again, row}); err == nil || !strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), path+" ") {
		t.Errorf("%v, %v", r, err)
	}
	if r, err := s.relation(row, []class{row, row}); err != nil || r.Path != path {
		t.Errorf("%v, %v", r, err)
	}
}

func TestNames(t *testing.T) {
	for text, want := range map[string][]string{
		"shop.public.orders":         {"shop", "public", "orders"},
		"Shop.PUBLIC.Orders":         {"shop", "public", "orders"},
		`"Shop".public."a.b""c"`:     {"Shop", "public", `a.b"c`},
		"one":                        {"one"},
		"schön.übrig.x":              {"schön", "übrig", "x"},
		"":                           nil,
		"a..b":                       nil,
		`"a.b`:                       nil,
		`"a"b`:                       nil,
		"a.":                         nil,
		strings.Repeat("n", 64):      nil,
		strings.Repeat("n", maxName): {strings.Repeat("n", maxName)},
	} {
		got, err := ParseName(text)
		if (err == nil) != (want != nil) || want != nil && !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
}

// TestVersionsOfRows says which versions of rows are there.
func TestVersionsOfRows(t *testing.T) {
	committed := func(xid uint32) (bool, error) { return xid%2 == 0, nil }
	for _, test := range []struct {
		why   string
		tuple tuple
		want  bool
	}{
		{"made by who committed", tuple{xmin: 100, infomask: xmaxInvalid}, true},
		{"made by who did not", tuple{xmin: 101, infomask: xmaxInvalid}, false},
		{"a hint says committed", tuple{xmin: 101, infomask: xminCommitted | xmaxInvalid}, true},
		{"a hint says aborted", tuple{xmin: 100, infomask: xminInvalid | xmaxInvalid}, false},
		{"frozen", tuple{xmin: 101, infomask: xminFrozen | xmaxInvalid}, true},
		{"of initdb", tuple{xmin: 1, infomask: xmaxInvalid}, true},
		{"deleted by who committed", tuple{xmin: 100, xmax: 102}, false},
		{"deleted by who did not", tuple{xmin: 100, xmax: 103}, true},
		{"a hint says deleted", tuple{xmin: 100, xmax: 103, infomask: xmaxCommitted}, false},
		{"locked only", tuple{xmin: 100, xmax: 102, infomask: lockOnly | exclusiveLock}, true},
		{"locked only, as before 9.3", tuple{xmin: 100, xmax: 102, infomask: exclusiveLock}, true},
		{"several had to do with it", tuple{xmin: 100, xmax: 102, infomask: xmaxIsMulti}, true},
	} {
		if got, err := test.tuple.isLive(committed); err != nil || got != test.want {
			t.Errorf("%s: %t, %v", test.why, got, err)
		}
	}
	if !(tuple{xmin: 5}).isNewer(tuple{xmin: 4000000000}) || (tuple{xmin: 1000, infomask: xminFrozen}).isNewer(tuple{xmin: 3}) {
		t.Error("numbers of transactions go round, and what is frozen is oldest")
	}
}

// TestTransactionPlaces finds transactions in pg_xact.
func TestTransactionPlaces(t *testing.T) {
	for _, test := range []struct {
		xid, segment, page uint32
		at                 int
		shift              uint
	}{
		{3, 0, 0, 0, 6}, {4, 0, 0, 1, 0}, {32767, 0, 0, 8191, 6}, {32768, 0, 1, 0, 0}, {32768 * 32, 1, 0, 0, 0}, {1<<32 - 1, 4095, 31, 8191, 6},
	} {
		if segment, page, at, shift := transactionPlace(test.xid); segment != test.segment || page != test.page || at != test.at || shift != test.shift {
			t.Errorf("%d: %d, %d, %d, %d", test.xid, segment, page, at, shift)
		}
	}
}

// mapOf makes a pg_filenode.map.
func mapOf(size int, pairs ...uint32) []byte {
	content := make([]byte, size)
	binary.LittleEndian.PutUint32(content, 0x592717)
	binary.LittleEndian.PutUint32(content[4:], uint32(len(pairs)/2))
	for i, n := range pairs {
		binary.LittleEndian.PutUint32(content[8+4*i:], n)
	}
	end := 8 + 8*((size-12)/8)
	binary.LittleEndian.PutUint32(content[end:], crc32.Checksum(content[:end], castagnoli))
	return content
}

func TestRelationMaps(t *testing.T) {
	for _, size := range []int{512, 524} {
		whole := mapOf(size, 1259, 16400, 2615, 3)
		if m, err := parseRelationMap(whole); err != nil || len(m) != 2 || m[1259] != 16400 {
			t.Errorf("%d bytes: %v, %v", size, m, err)
		}
		for at := range size {
			damaged := bytes.Clone(whole)
			damaged[at] ^= 0x10
			if _, err := parseRelationMap(damaged); (err == nil) != (size == 512 && at >= 508) {
				t.Errorf("%d bytes, damage at %d: %v", size, at, err)
			}
		}
		if _, err := parseRelationMap(whole[:size-1]); err == nil {
			t.Error("too short")
		}
	}
}

// TestPagesThatWereBeingWritten tells pages that may be half of older ones from damage.
func TestPagesThatWereBeingWritten(t *testing.T) {
	page := make(pgdata.Page, pgdata.PageSize)
	for at, n := range map[int]uint16{12: 28, 14: 8000, 16: 8192, 18: 8192 | 4} {
		binary.LittleEndian.PutUint16(page[at:], n)
	}
	binary.LittleEndian.PutUint32(page[24:], 8000|1<<15|100<<17)
	page[8000+22] = 24
	binary.LittleEndian.PutUint16(page[8000+20:], xminFrozen|xmaxInvalid)
	binary.LittleEndian.PutUint32(page[4:], 100) // its LSN
	for _, test := range []struct {
		why      string
		start    uint64
		checksum bool // is right
		lower    uint16
		want     error
		rows     int
		torn     int
	}{
		{"as it should be", 200, true, 28, nil, 1, 0},
		{"damaged before the backup", 200, false, 28, errChecksum, 0, 0},
		{"changed since", 50, false, 28, nil, 1, 1},
		{"changed since, and makes no sense", 50, false, 9000, nil, 0, 1},
		{"makes no sense, with a checksum", 50, true, 9000, errPage, 0, 0},
	} {
		c := &Catalogs{o: Options{Checksums: true, Start: wal.LSN(test.start)}}
		p := pgdata.Page(bytes.Clone(page))
		binary.LittleEndian.PutUint16(p[12:], test.lower)
		sum := p.ComputeChecksum(7)
		if !test.checksum {
			sum++
		}
		binary.LittleEndian.PutUint16(p[8:], sum)
		rows := 0
		err := c.scanPage(p, 7, func(tuple) error { rows++; return nil })
		if !errors.Is(err, test.want) || test.want == nil && err != nil || rows != test.rows || c.Torn() != test.torn {
			t.Errorf("%s: %v, %d rows, %d torn", test.why, err, rows, c.Torn())
		}
	}
}

// FuzzPage reads pages of whoever wrote to the repository's disk.
func FuzzPage(f *testing.F) {
	page := make([]byte, pgdata.PageSize)
	for at, n := range map[int]uint16{12: 28, 14: 8000, 16: 8192, 18: 8192 | 4} {
		binary.LittleEndian.PutUint16(page[at:], n)
	}
	binary.LittleEndian.PutUint32(page[24:], 8000|1<<15|190<<17)
	page[8000+22] = 24
	f.Add(page)
	f.Fuzz(func(t *testing.T, data []byte) {
		p := make(pgdata.Page, pgdata.PageSize)
		copy(p, data)
		c := &Catalogs{layout: layout{databaseTablespace: 224, toast: 112}}
		_ = parsePage(p, func(v tuple) error {
			_, err := c.parseClass(v)
			if _, liveErr := v.isLive(func(uint32) (bool, error) { return true, nil }); liveErr != nil {
				t.Error(liveErr)
			}
			return err
		})
		_, _ = parseRelationMap(data)
		_, _ = ParseName(string(data))
	})
}
