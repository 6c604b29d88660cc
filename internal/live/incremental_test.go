package live

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/pgtest"
	"basin/internal/protocol"
	"basin/internal/wal"
)

func summarizing(t *testing.T, major int) *pgtest.Server {
	t.Helper()
	return start(t, major, map[string]string{"summarize_wal": "on"})
}

// TestIncremental takes a full backup and two on top of it, and has PostgreSQL's own program
// lay them over one another. What comes out is to be the files of the server.
func TestIncremental(t *testing.T) {
	for _, major := range []int{17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := summarizing(t, major)
			s.Exec(t,
				"CREATE TABLE regrown AS SELECT g AS id, repeat('x', 500) FROM generate_series(1, 3000) g",
				"CREATE TABLE shrunk AS SELECT g AS id, repeat('x', 500) FROM generate_series(1, 3000) g",
				"VACUUM regrown, shrunk")
			regrown := filepath.Join(s.DataDir, s.Query(t, "SELECT pg_relation_filepath('regrown')"))
			var chain []string
			o := Options{WAL: true, Manifest: WithManifest, Algorithm: manifest.CRC32C}
			for i := range 3 {
				if i > 0 {
					o.Parent = openManifest(t, filepath.Join(chain[i-1], manifest.Name))
					change(t, s, i)
				}
				if i == 1 { // pages behind where it was cut off that are not in the log
					s.Exec(t, "CHECKPOINT")
					f, err := os.OpenFile(regrown, os.O_APPEND|os.O_WRONLY, 0)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := f.Write(make([]byte, 40*pgdata.PageSize)); err != nil {
						t.Fatal(err)
					}
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
				}
				if i == 1 {
					compareIncremental(t, s, o)
				}
				src := backUp(t, s, o)
				dir, err := toDir(t, src, 1)
				if err != nil {
					t.Fatal(err)
				}
				if err := src.Close(); err != nil {
					t.Error(err)
				}
				tool(t, major, "pg_verifybackup", dir)
				chain = append(chain, dir)
			}
			if found, err := filepath.Glob(filepath.Join(chain[2], "base", "*", "INCREMENTAL.*")); err != nil || len(found) < 50 {
				t.Errorf("%d incremental files, %v", len(found), err)
			}
			work := pgtest.TempDir(t)
			combined := filepath.Join(work, "combined")
			args := append(slices.Clone(chain), "--output="+combined)
			for i, dir := range chain {
				links, err := filepath.Glob(filepath.Join(dir, "pg_tblspc", "*"))
				if err != nil {
					t.Fatal(err)
				}
				for _, link := range links {
					if target, err := os.Readlink(link); err == nil && i == len(chain)-1 {
						args = append(args, "--tablespace-mapping="+target+"="+filepath.Join(work, filepath.Base(link)))
					}
				}
			}
			tool(t, major, "pg_combinebackup", args...)
			tool(t, major, "pg_verifybackup", combined)
			compareRelations(t, s.DataDir, combined)
			want := pgtest.Sums(t, s)
			s.Stop(t, pgtest.Immediate)
			restored := pgtest.StartDir(t, major, combined, nil)
			if diff := cmp.Diff(want, pgtest.Sums(t, restored)); diff != "" {
				t.Errorf("rows (-server +restored):\n%s", diff)
			}
			pgtest.CheckIndexes(t, restored)
		})
	}
}

// change changes something of everything.
func change(t *testing.T, s *pgtest.Server, i int) {
	t.Helper()
	s.Exec(t,
		"UPDATE accounts SET balance = balance + 1 WHERE id % 500 = 3",
		fmt.Sprintf("DELETE FROM documents WHERE id %% 100 = %d", i),
		fmt.Sprintf("CREATE TABLE new_%d AS SELECT generate_series(1, 1000)", i),
		"UPDATE placed_1 SET what = 'changed' WHERE id % 100 = 5",
		"DELETE FROM shrunk WHERE id > 2500 - "+fmt.Sprint(500*i),
		"VACUUM shrunk, accounts",
		"UPDATE shrunk SET id = -id WHERE id = 5")
	if i == 1 {
		s.Exec(t, "TRUNCATE blobs", "DELETE FROM regrown WHERE id > 1000", "VACUUM regrown", "CREATE DATABASE third STRATEGY file_copy")
		return
	}
	s.Exec(t, "DROP TABLE new_1", "CREATE DATABASE fourth", "INSERT INTO blobs SELECT g, 'again' FROM generate_series(1, 1000) g")
}

// compareIncremental compares which files are incremental ones with what the server decides.
func compareIncremental(t *testing.T, s *pgtest.Server, o Options) {
	t.Helper()
	o.Parent = nil
	fullStart, full, fullEnd := take(t, backUp(t, s, o))
	dir := t.TempDir()
	path := filepath.Join(dir, manifest.Name)
	if err := os.WriteFile(path, []byte(full[len(full)-1].content), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Exec(t, "UPDATE accounts SET balance = balance + 1 WHERE id % 500 = 4", "DROP TABLE IF EXISTS for_comparison", "CREATE TABLE for_comparison (id int)")
	o.Parent = openManifest(t, path)
	if diff := cmp.Diff([]manifest.Range{{Timeline: 1, Start: fullStart.Position.LSN, End: fullEnd.LSN}}, o.Parent.Ranges); diff != "" {
		t.Errorf("ranges (-want +got):\n%s", diff)
	}
	describe := func(all []taken) (lines []string) {
		for _, k := range all {
			listed := backup.ManifestPath(k.m.Tablespace, k.m.Path)
			whole, isIncremental := pgdata.CutIncremental(listed)
			if r, _, ok := pgdata.ParseRelationPath(whole); ok && r.Fork != pgdata.VisibilityFork {
				lines = append(lines, fmt.Sprint(listed, " ", k.m.Size, " ", isIncremental))
			}
		}
		slices.Sort(lines)
		return lines
	}
	_, want, _ := theirs(t, s, protocol.BaseBackup{Incremental: true}, path, new(notices))
	_, got, _ := take(t, backUp(t, s, o))
	if diff := cmp.Diff(describe(want), describe(got)); diff != "" {
		t.Errorf("files (-server +ours):\n%s", diff)
	}
	labels := 0
	for _, k := range got {
		if k.m.Path == pgdata.LabelPath {
			labels++
			label, err := pgdata.ParseLabel([]byte(k.content), k.m.Path)
			if err != nil || label.Previous != fullStart.Position {
				t.Errorf("the label says %+v, %v; the parent began at %v", label, err, fullStart.Position)
			}
		}
	}
	if labels != 1 {
		t.Errorf("%d labels", labels)
	}
}

// compareRelations compares the files of relations of two data directories.
func compareRelations(t *testing.T, want, got string) {
	t.Helper()
	files := 0
	for _, root := range []string{"base", "global", "pg_tblspc"} {
		var walk func(within string)
		walk = func(within string) {
			entries, err := os.ReadDir(filepath.Join(want, within))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				path := within + "/" + e.Name()
				if e.IsDir() || e.Type() == fs.ModeSymlink {
					walk(path)
					continue
				}
				r, _, ok := pgdata.ParseRelationPath(path)
				if _, err := os.Lstat(filepath.Join(want, within, fmt.Sprint(r.Relation, "_init"))); !ok || err == nil && r.Fork != pgdata.InitFork {
					continue
				}
				theirs, err := os.ReadFile(filepath.Join(want, path))
				if err != nil {
					t.Fatal(err)
				}
				ours, err := os.ReadFile(filepath.Join(got, path))
				if files++; err != nil || !bytes.Equal(theirs, ours) {
					t.Errorf("%s: %d and %d bytes differ: %v", path, len(theirs), len(ours), err)
				}
			}
		}
		walk(root)
	}
	if files < 500 {
		t.Errorf("%d files were compared", files)
	}
}

func TestIncrementalIsRefused(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Config{Conf: map[string]string{"summarize_wal": "on"}})
	_, all, _ := take(t, backUp(t, s, Options{Manifest: WithManifest}))
	path := filepath.Join(t.TempDir(), manifest.Name)
	if err := os.WriteFile(path, []byte(all[len(all)-1].content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason  string
		change  func(*manifest.Catalog)
		message string
	}{
		{"intact", func(*manifest.Catalog) {}, ""},
		{"another cluster", func(c *manifest.Catalog) { c.SystemID++ }, "system identifier in backup manifest is"},
		{"version 1", func(c *manifest.Catalog) { c.Version = 1 }, "backup manifest version 1 does not support incremental backup"},
		{"no log", func(c *manifest.Catalog) { c.Ranges = nil }, "manifest contains no required WAL ranges"},
		{"a later end", func(c *manifest.Catalog) { c.Ranges[0].End += 1 << 40 }, "manifest requires WAL from final timeline 1 ending at"},
		{"another timeline", func(c *manifest.Catalog) { c.Ranges[0].Timeline = 7 }, "timeline 7 found in manifest, but not in this server's history"},
		{"log that is not summarized", func(c *manifest.Catalog) { c.Ranges[0].Start = 0x28 }, "WAL summaries are required on timeline 1 from 0/28 to"},
	} {
		catalog := openManifest(t, path)
		catalog.Ranges = slices.Clone(catalog.Ranges)
		test.change(catalog)
		src := backUp(t, s, Options{Parent: catalog})
		_, err := src.Begin(t.Context())
		if err == nil != (test.message == "") || err != nil && !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: %v", test.reason, err)
		}
	}
}

func TestCheckRanges(t *testing.T) {
	all := []line{{3, 300, 0}, {2, 200, 300}, {1, 0, 200}}
	for _, test := range []struct {
		reason  string
		ranges  []manifest.Range
		want    wal.Position
		message string
	}{
		{"of the last timeline", []manifest.Range{{Timeline: 3, Start: 310, End: 320}}, wal.Position{LSN: 310, Timeline: 3}, ""},
		{"of two", []manifest.Range{{Timeline: 3, Start: 300, End: 320}, {Timeline: 2, Start: 210, End: 300}}, wal.Position{LSN: 210, Timeline: 2}, ""},
		{"of two, the older first", []manifest.Range{{Timeline: 2, Start: 210, End: 300}, {Timeline: 3, Start: 300, End: 320}}, wal.Position{LSN: 210, Timeline: 2}, ""},
		{"of all", []manifest.Range{{Timeline: 3, Start: 300, End: 320}, {Timeline: 2, Start: 200, End: 300}, {Timeline: 1, Start: 10, End: 200}}, wal.Position{LSN: 10, Timeline: 1}, ""},
		{"of one before", []manifest.Range{{Timeline: 1, Start: 10, End: 20}}, wal.Position{LSN: 10, Timeline: 1}, ""},
		{"up to the start", []manifest.Range{{Timeline: 3, Start: 310, End: 400}}, wal.Position{LSN: 310, Timeline: 3}, ""},
		{"behind the start", []manifest.Range{{Timeline: 3, Start: 310, End: 401}}, wal.Position{}, "from final timeline 3 ending at 0/191, but this backup starts at 0/190"},
		{"before its timeline", []manifest.Range{{Timeline: 3, Start: 299, End: 320}}, wal.Position{}, "from initial timeline 3 starting at"},
		{"a gap between two", []manifest.Range{{Timeline: 3, Start: 301, End: 320}, {Timeline: 2, Start: 210, End: 300}}, wal.Position{}, "from continuation timeline 3 starting at"},
		{"another switch", []manifest.Range{{Timeline: 3, Start: 300, End: 320}, {Timeline: 2, Start: 210, End: 299}}, wal.Position{}, "from non-final timeline 2 ending at"},
		{"behind where a timeline was left", []manifest.Range{{Timeline: 2, Start: 210, End: 301}}, wal.Position{}, "from final timeline 2 ending at 0/12D, but this server switched timelines at 0/12C"},
		{"unknown", []manifest.Range{{Timeline: 4, Start: 310, End: 320}}, wal.Position{}, "timeline 4 found in manifest"},
	} {
		got, err := checkRanges(test.ranges, all, 400)
		if err == nil != (test.message == "") || err != nil && !strings.Contains(err.Error(), test.message) || got != test.want {
			t.Errorf("%s: %v, %v", test.reason, got, err)
		}
	}
}

func TestNeededSummaries(t *testing.T) {
	all := []line{{2, 200, 0}, {1, 0, 200}}
	files := func(numbers ...int) (files []pgdata.SummaryFile) {
		for i := 0; i < len(numbers); i += 3 {
			files = append(files, pgdata.SummaryFile{Timeline: wal.Timeline(numbers[i]), Start: wal.LSN(numbers[i+1]), End: wal.LSN(numbers[i+2])})
		}
		return files
	}
	for _, test := range []struct {
		reason  string
		files   []pgdata.SummaryFile
		want    []pgdata.SummaryFile
		message string
	}{
		{"in the order of the log", files(2, 250, 300, 1, 150, 200, 2, 200, 250, 1, 50, 150), files(1, 50, 150, 1, 150, 200, 2, 200, 250, 2, 250, 300), ""},
		{"wider", files(1, 0, 400, 2, 100, 1000), files(1, 0, 400, 2, 100, 1000), ""},
		{"another timeline", files(1, 0, 200, 3, 200, 300), nil, "on timeline 2 from 0/C8 to 0/12C, but no summaries"},
		{"a gap", files(1, 0, 200, 2, 200, 250, 2, 251, 300), nil, "on timeline 2 from 0/C8 to 0/12C, but the summaries for that timeline and LSN range are incomplete"},
		{"nothing at the beginning", files(1, 101, 200, 2, 200, 300), nil, "on timeline 1 from 0/64 to 0/C8, but the summaries"},
		{"none", nil, nil, "no summaries for that timeline"},
	} {
		got, err := neededSummaries(test.files, all, wal.Position{LSN: 100, Timeline: 1}, 300)
		if err == nil != (test.message == "") || err != nil && !strings.Contains(err.Error(), test.message) {
			t.Errorf("%s: %v", test.reason, err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.reason, diff)
		}
	}
}

// TestIncrementalAcrossPromotion takes a full backup of a server, and an incremental one of its
// standby once that is a server itself.
func TestIncrementalAcrossPromotion(t *testing.T) {
	t.Parallel()
	primary := pgtest.Start(t, pgtest.Config{Checksums: true, Conf: map[string]string{"summarize_wal": "on", "autovacuum": "off"}})
	pgtest.Fill(t, primary, 1)
	standby := primary.Standby(t, nil)
	o := Options{WAL: true, Manifest: WithManifest, Algorithm: manifest.CRC32C}
	full, err := toDir(t, backUp(t, primary, o), 1)
	if err != nil {
		t.Fatal(err)
	}
	primary.Exec(t, "UPDATE accounts SET balance = 0 WHERE id % 100 = 1", "DELETE FROM documents WHERE id > 900", "VACUUM documents")
	primary.WaitReplay(t, standby)
	standby.Promote(t)
	standby.Exec(t, "UPDATE accounts SET balance = 1 WHERE id % 100 = 2", "INSERT INTO documents SELECT g, '{}' FROM generate_series(2000, 2100) g")
	o.Parent, o.Apart = openManifest(t, filepath.Join(full, manifest.Name)), true
	incremental, err := toDir(t, backUp(t, standby, o), 2)
	if err != nil {
		t.Fatal(err)
	}
	tool(t, standby.Major, "pg_verifybackup", incremental)
	if found, err := filepath.Glob(filepath.Join(incremental, "base", "*", "INCREMENTAL.*")); err != nil || len(found) < 50 {
		t.Errorf("%d incremental files, %v", len(found), err)
	}
	combined := filepath.Join(pgtest.TempDir(t), "combined")
	tool(t, standby.Major, "pg_combinebackup", full, incremental, "--output="+combined)
	tool(t, standby.Major, "pg_verifybackup", combined)
	compareRelations(t, standby.DataDir, combined)
	want := pgtest.Sums(t, standby)
	restored := pgtest.StartDir(t, standby.Major, combined, nil)
	if diff := cmp.Diff(want, pgtest.Sums(t, restored)); diff != "" {
		t.Errorf("rows (-server +restored):\n%s", diff)
	}
}

// TestIncrementalOfChanges takes a chain of a server that is written to all the time.
func TestIncrementalOfChanges(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Config{Major: 17, Checksums: true, Conf: map[string]string{"summarize_wal": "on", "autovacuum_naptime": "1s"}})
	pgtest.Fill(t, s, 1)
	load := pgtest.StartLoad(t.Context(), t, s, 2)
	var chain []string
	o := Options{WAL: true, Manifest: WithManifest, Algorithm: manifest.CRC32C}
	for i := range 4 {
		if i > 0 {
			s.Exec(t, "BEGIN; LOCK TABLE load_rows IN SHARE ROW EXCLUSIVE MODE; DELETE FROM load_rows WHERE id > (SELECT max(id) / 2 FROM load_rows); COMMIT", "VACUUM load_rows", "CREATE TABLE IF NOT EXISTS copied (LIKE accounts)", "INSERT INTO copied SELECT * FROM accounts")
			o.Parent = openManifest(t, filepath.Join(chain[i-1], manifest.Name))
		}
		o.Apart = i%2 == 0
		dir, err := toDir(t, backUp(t, s, o), 2)
		if err != nil {
			t.Fatal(err)
		}
		tool(t, s.Major, "pg_verifybackup", dir)
		chain = append(chain, dir)
	}
	load.Stop(t)
	combined := filepath.Join(pgtest.TempDir(t), "combined")
	tool(t, s.Major, "pg_combinebackup", append(chain, "--output="+combined)...)
	tool(t, s.Major, "pg_verifybackup", combined)
	restored := pgtest.StartDir(t, s.Major, combined, nil)
	if diff := cmp.Diff(quietSums(t, s), quietSums(t, restored)); diff != "" {
		t.Errorf("rows (-server +restored):\n%s", diff)
	}
	checkLoad(t, restored)
	pgtest.CheckIndexes(t, restored)
}
