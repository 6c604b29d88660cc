package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

// TestCombineForms combines chains of every form into every form. What comes out is
// unpacked and is, file by file, what the data directories make together.
func TestCombineForms(t *testing.T) {
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{
		Checksums: true, WALSegmentSizeMB: 1,
		Conf: map[string]string{"summarize_wal": "on", "allow_in_place_tablespaces": "on", "autovacuum": "off"},
	})
	space := s.Tablespace(t, "outside")
	s.Exec(t, "CREATE TABLESPACE inside LOCATION ''",
		"CREATE TABLE elsewhere TABLESPACE outside AS SELECT g, repeat('x', 200) FROM generate_series(1, 3000) g",
		"CREATE TABLE inplace TABLESPACE inside AS SELECT g, repeat('x', 200) FROM generate_series(1, 3000) g",
		"CREATE TABLE large AS SELECT g, repeat('x', 500) FROM generate_series(1, 3000) g")
	pgtest.CheckIndexes(t, s)
	work := pgtest.TempDir(t)
	take := func(form string, number int, options ...string) string {
		dir := filepath.Join(work, form+strings.Repeat("i", number))
		args := append([]string{"basebackup", "-d", s.ConnString(), "-D", dir, "-c", "fast", "-N"}, options...)
		if number > 0 {
			args = append(args, "-i", filepath.Join(work, form+strings.Repeat("i", number-1), "backup_manifest"))
		}
		if form == "plain" {
			args = append(args, "-T", space+"="+dir+".space")
		}
		basin.run(t, nil, args...).succeeded(t)
		return dir
	}
	forms := map[string][]string{
		"plain": nil, "tar": {"-Ft"}, "gzip": {"-Ft", "-z"}, "zstd": {"-Ft", "-Z", "zstd", "-X", "fetch"}, "server-lz4": {"-Ft", "-Z", "server-lz4"},
	}
	chains := make(map[string][]string)
	for number := range 3 {
		if number > 0 {
			s.Exec(t, "UPDATE large SET g = -g WHERE g % 500 = 3", "UPDATE elsewhere SET g = -g WHERE g % 1000 = 7", "DELETE FROM inplace WHERE g % 700 = 5")
		}
		for form, options := range forms {
			chains[form] = append(chains[form], take(form, number, options...))
		}
	}
	for form, chain := range chains {
		t.Run(form, func(t *testing.T) {
			t.Parallel()
			outside := space
			if form == "plain" {
				outside = chain[2] + ".space"
			}
			plain := combined{dir: filepath.Join(pgtest.TempDir(t), "plain")}
			basin.run(t, nil, append([]string{"combinebackup", "-N", "-o", plain.dir, "-T", outside + "=" + plain.dir + ".space"}, chain...)...).succeeded(t)
			tool(t, 18, "pg_verifybackup", plain.dir)
			basin.run(t, nil, "verifybackup", "--page-checksums", plain.dir).succeeded(t)
			basin.run(t, nil, append([]string{"verifybackup", "--page-checksums"}, chain...)...).succeeded(t)
			if form == "gzip" {
				e := basin.run(t, nil, append([]string{"combinebackup", "-n", "-P", "-o", plain.dir + "x", "-T", outside + "=" + plain.dir + "x.space"}, chain...)...)
				if n := strings.Count(e.stderr, "unpacking \""); e.status != exitSuccess || n != 3*4 {
					t.Errorf("%d archives of 12 are told of: %v", n, e)
				}
			}
			want := plain.files(t)
			if n := len(want); n < 900 {
				t.Fatalf("only %d files", n)
			}
			for _, options := range [][]string{nil, {"--compress=zstd"}, {"--compress=gzip:1", "--jobs=1"}} {
				tarred := combined{dir: filepath.Join(pgtest.TempDir(t), "tar")}
				args := append([]string{"combinebackup", "-N", "-o", tarred.dir, "--format=t"}, options...)
				basin.run(t, nil, append(args, chain...)...).succeeded(t)
				basin.run(t, nil, "verifybackup", "--page-checksums", tarred.dir).succeeded(t)
				again := combined{dir: filepath.Join(pgtest.TempDir(t), "again")}
				basin.run(t, nil, "combinebackup", "-N", "-o", again.dir, "-T", outside+"="+again.dir+".space", tarred.dir).succeeded(t)
				if diff := cmp.Diff(want, again.files(t)); diff != "" {
					t.Errorf("%v: (-plain +by tar files)\n%s", options, diff)
				}
			}
			if form != "tar" {
				return
			}
			tarred := filepath.Join(pgtest.TempDir(t), "tar")
			basin.run(t, nil, append([]string{"combinebackup", "-N", "-o", tarred, "--format=t"}, chain...)...).succeeded(t)
			data := storedBackup{major: 18, dir: tarred, tar: true, manifest: true}.restore(t, filepath.Join(pgtest.TempDir(t), "unpacked"))
			restored := pgtest.StartDir(t, 18, data, nil)
			if diff := cmp.Diff(quietSums(t, s), quietSums(t, restored)); diff != "" {
				t.Errorf("rows (-server +restored):\n%s", diff)
			}
			checkStructure(t, restored)
		})
	}
}

// combined is a data directory that came out, with one tablespace beside it.
type combined struct{ dir string }

// files returns what is in the files, but for the manifest, whose order may be another.
func (c combined) files(t *testing.T) map[string]string {
	t.Helper()
	out, err := exec.Command("bash", "-c", `cd "$1" && find -L . -type f ! -name backup_manifest -exec sha256sum {} +`, "bash", c.dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	sums := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		sums[name] = sum
	}
	return sums
}

// TestCombineToTheStandardOutput has one archive there, with the manifest in it.
func TestCombineToTheStandardOutput(t *testing.T) {
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1})
	work := pgtest.TempDir(t)
	full := filepath.Join(work, "full")
	basin.run(t, nil, "basebackup", "-d", s.ConnString(), "-D", full, "-c", "fast", "-N").succeeded(t)
	e := basin.run(t, nil, "combinebackup", "-o", "-", "--format=t", full)
	e.succeeded(t)
	untar := exec.Command("tar", "-xf", "-", "-C", work)
	untar.Stdin = strings.NewReader(e.stdout)
	if out, err := untar.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("chmod", "-R", "a+rX", work).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	basin.run(t, nil, "verifybackup", work).succeeded(t)
}

// TestCombineRefuses has command lines and directories of which nothing can be made. What
// was there before is there after it.
func TestCombineRefuses(t *testing.T) {
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1})
	s.Tablespace(t, "outside")
	work := pgtest.TempDir(t)
	full, out, taken := filepath.Join(work, "full"), filepath.Join(work, "out"), filepath.Join(work, "taken")
	basin.run(t, nil, "basebackup", "-d", s.ConnString(), "-D", full, "-c", "fast", "-N", "-Ft").succeeded(t)
	if err := os.Mkdir(taken, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(taken, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reason string
		args   []string
		said   []string
	}{
		{"nothing to combine", []string{"-o", out}, []string{"no input directories specified", `hint: Try "basin combinebackup --help"`}},
		{"nowhere to put it", []string{full}, []string{"no output directory specified"}},
		{"plain and compressed", []string{"-o", out, "--compress=gzip", full}, []string{"only tar mode backups can be compressed"}},
		{"tar and linked", []string{"-o", out, "--format=t", "--link", full}, []string{"files of tar mode backups can only be copied"}},
		{"no such format", []string{"-o", out, "--format=x", full}, []string{`invalid output format "x"`}},
		{"no such compression", []string{"-o", out, "--format=t", "--compress=bzip2", full}, []string{"bzip2"}},
		{"no jobs", []string{"-o", out, "--jobs=0", full}, []string{"--jobs must be in range 1..256"}},
		{"no such checksum", []string{"-o", out, "--manifest-checksums=MD5", full}, []string{`unrecognized checksum algorithm: "MD5"`}},
		{"no such directory", []string{"-o", out, full + "x"}, []string{`could not open directory "` + full + `x": No such file or directory`}},
		{"no backup there", []string{"-o", out, taken}, []string{`there is no backup in "` + taken + `"`, "hint: "}},
		{"output not empty", []string{"-o", taken, "--format=t", full}, []string{`directory "` + taken + `" exists but is not empty`}},
		{"output not empty, dry run", []string{"-n", "-o", taken, "--format=t", full}, []string{`directory "` + taken + `" exists but is not empty`}},
		{"tablespace without a place", []string{"-o", out, full}, []string{"has no tablespace mapping", "hint: Say where it goes with -T"}},
		{"no temporary directory", []string{"-o", out, "--format=t", "--temp-dir", work + "/none", full}, []string{work + "/none"}},
		{"standard output, several archives", []string{"-o", "-", "--format=t", full}, []string{"can only write single tablespace to stdout, database has 2"}},
	} {
		t.Run(test.reason, func(t *testing.T) {
			basin.run(t, nil, append([]string{"combinebackup"}, test.args...)...).failed(t, test.said...)
			absent(t, out)
			if got := entries(t, taken); cmp.Diff([]string{"file"}, got) != "" {
				t.Errorf("there is now %q", got)
			}
		})
	}
	basin.run(t, nil, "combinebackup", "-n", "-o", out, "--format=t", full).succeeded(t)
	absent(t, out)
	e := basin.run(t, nil, "combinebackup", "-d", "-P", "-o", out, "--format=t", full)
	for _, said := range []string{"(100%), ", " kB combined\n", `copied "` + full + `/base.tar: PG_VERSION"`} {
		if e.status != exitSuccess || !strings.Contains(e.stderr, said) {
			t.Errorf("without saying %q: %v", said, e)
		}
	}
}
