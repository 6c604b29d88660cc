package chain_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"basin/internal/chain"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/plain"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// Files of the chain that testChain returns.
const (
	thrice  = "base/5/1" // full, incremental, incremental: two blocks of each
	settled = "base/5/2" // full, and unchanged since
	late    = "base/5/3" // only in the newest
)

// testChain returns a full backup and two on top of it.
func testChain() []*testBackup {
	backups := []*testBackup{newTestBackup(0), newTestBackup(1), newTestBackup(2)}
	for n, b := range backups {
		b.algorithm = manifest.CRC32C
		if n > 0 {
			b.files[pgdata.IncrementalPath(thrice)] = incremental(6, []uint32{uint32(2 * n), uint32(2*n + 1)}, func(uint32) []byte { return page(byte(n)) })
			b.files[pgdata.IncrementalPath(settled)] = incremental(3, nil, nil)
		}
	}
	backups[0].files[thrice] = slices.Repeat(page('f'), 6)
	backups[0].files[settled] = slices.Repeat(page('s'), 3)
	backups[2].files[late] = page('l')
	return backups
}

// put returns a change of a number of four bytes in a backup's file, before it is written.
func put(n int, path string, offset int, number uint32) func([]*testBackup) {
	return func(c []*testBackup) { binary.LittleEndian.PutUint32(c[n].files[path][offset:], number) }
}

// rename returns a change of a file's name, which is nothing if there is to be none.
func rename(n int, from, to string) func([]*testBackup) {
	return func(c []*testBackup) {
		if to != "" {
			c[n].files[to] = c[n].files[from]
		}
		delete(c[n].files, from)
	}
}

// flip returns damage that was done to a byte of a file after the backup, counted from the end.
func flip(n int, path string, fromEnd int) func(*testing.T, []string) {
	return edit(n, path, func(p []byte) []byte { p[len(p)-fromEnd] ^= 1; return p })
}

func edit(n int, path string, change func([]byte) []byte) func(*testing.T, []string) {
	return func(t *testing.T, dirs []string) {
		name := filepath.Join(dirs[n], path)
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, name, change(content))
	}
}

func removeFile(n int, path string) func(*testing.T, []string) {
	return func(t *testing.T, dirs []string) {
		if err := os.Remove(filepath.Join(dirs[n], path)); err != nil {
			t.Fatal(err)
		}
	}
}

func longer(p []byte) []byte { return append(p, 'x') }

// incrementalThrice and incrementalSettled are what newer backups have.
var (
	incrementalThrice  = pgdata.IncrementalPath(thrice)
	incrementalSettled = pgdata.IncrementalPath(settled)
)

// faults are chains that are wrong, and the intact one. In texts, $0 to $2 are the directories.
var faults = []struct {
	reason string
	change func([]*testBackup)        // before the backups are written; may be nil
	damage func(*testing.T, []string) // afterwards; may be nil
	order  []int                      // of the backups; nil is as they are
	o      chain.Options
	want   string // part of the error; empty is none
	warns  string // part of what is warned of
}{
	{reason: "intact"},
	{reason: "the full one alone", order: []int{0}},
	{reason: "intact, without a manifest", o: chain.Options{NoManifest: true}},

	{reason: "another cluster's", change: func(c []*testBackup) { c[0].systemID = 5 },
		want: "$0/global/pg_control: expected system identifier 7561234567890123456, but found 5"},
	{reason: "control file damaged", damage: flip(1, pgdata.ControlPath, pgdata.ControlSize-20), want: "$1/global/pg_control: CRC is incorrect"},
	{reason: "control file of a version to come", change: func(c []*testBackup) { c[2].version = 1900 }, want: "$2/global/pg_control: unexpected control file version"},
	{reason: "control file missing", damage: removeFile(1, pgdata.ControlPath), want: `could not open file "$1/global/pg_control": No such file or directory`},
	{reason: "control file too long", damage: edit(1, pgdata.ControlPath, longer), want: `file "$1/global/pg_control" is too large`},
	{reason: "pages of another size", change: func(c []*testBackup) {
		for _, b := range c {
			b.pageSize = 4096
		}
	}, want: "the cluster has pages of 4096 bytes, and files of 131072 pages, not 8192 and 131072"},
	{reason: "full alone, of pages of another size", change: func(c []*testBackup) { c[0].pageSize = 4096 }, order: []int{0}},

	{reason: "checksums enabled meanwhile", change: func(c []*testBackup) { c[1].checksums, c[2].checksums = true, true },
		want: `only some backups have checksums enabled: that at "$0" has none`},
	{reason: "checksums enabled meanwhile, and wanted so", change: func(c []*testBackup) { c[1].checksums, c[2].checksums = true, true },
		o: chain.Options{NoVerify: true}, warns: "only some backups have checksums enabled"},
	{reason: "checksums disabled meanwhile", change: func(c []*testBackup) { c[0].checksums = true }},

	{reason: "one left out", order: []int{0, 2}, want: `backup at "$0" starts at LSN 0/1000000, but expected 0/2000000`},
	{reason: "newest not last", order: []int{0, 2, 1}, want: `backup at "$2" starts at LSN 0/3000000, but expected 0/1000000`},
	{reason: "backwards", order: []int{2, 1, 0}, want: `backup at "$0" is a full backup, but only the first backup should be a full backup`},
	{reason: "full one missing", order: []int{1, 2}, want: `backup at "$1" is an incremental backup, but the first backup should be a full backup`},
	{reason: "two full ones", change: func(c []*testBackup) { c[1].previous = wal.Position{} },
		want: `backup at "$1" is a full backup, but only the first backup should be a full backup`},
	{reason: "another timeline", change: func(c []*testBackup) { c[0].start.Timeline = 3 }, want: `backup at "$0" starts on timeline 3, but expected 1`},
	{reason: "no label", damage: removeFile(1, pgdata.LabelPath), want: `could not open file "$1/backup_label": No such file or directory`},
	{reason: "label of nothing", change: func(c []*testBackup) { c[2].files[pgdata.LabelPath] = []byte("LABEL: x\n") },
		want: "$2/backup_label: could not find START WAL LOCATION"},
	{reason: "label too long", change: func(c []*testBackup) { c[2].files[pgdata.LabelPath] = make([]byte, pgdata.MaxLabelSize+1) },
		want: `file "$2/backup_label" is too large`},

	{reason: "newest manifest missing", damage: removeFile(2, manifest.Name),
		want: "cannot generate a manifest because no manifest is available for the final input backup", warns: `file "$2/backup_manifest" does not exist`},
	{reason: "newest manifest missing, and not wanted", damage: removeFile(2, manifest.Name), o: chain.Options{NoManifest: true}, warns: `file "$2/backup_manifest" does not exist`},
	{reason: "older manifest missing", damage: removeFile(1, manifest.Name), warns: `file "$1/backup_manifest" does not exist`},
	{reason: "older manifest missing, and a file damaged", damage: func(t *testing.T, dirs []string) {
		removeFile(1, manifest.Name)(t, dirs)
		flip(0, thrice, 1)(t, dirs)
	}, want: `checksum mismatch for file "$0/base/5/1"`, warns: `file "$1/backup_manifest" does not exist`},
	{reason: "manifest damaged", damage: flip(1, manifest.Name, 300), want: "$1/backup_manifest: manifest checksum mismatch"},
	{reason: "manifest of another cluster", change: func(c []*testBackup) { c[1].manifestID = 5 },
		want: "$1/global/pg_control: manifest system identifier is 5, but control file has 7561234567890123456"},
	{reason: "manifest of a server before 17", damage: edit(0, manifest.Name, func([]byte) []byte {
		const body = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n],\n"
		sum := manifest.SHA256.New()
		sum.Write([]byte(body))
		return fmt.Appendf(nil, "%s\"Manifest-Checksum\": \"%x\"}\n", body, sum.Sum(nil))
	}), want: "$0/backup_manifest: backup manifest version 1 does not support incremental backup"},

	{reason: "no incremental file", change: put(2, incrementalThrice, 0, 7),
		want: `file "$2/base/5/INCREMENTAL.1" has bad incremental magic number (0x7, expected 0xd3ae1f0d)`},
	{reason: "no incremental file in between", change: put(1, incrementalThrice, 0, 7),
		want: `file "$1/base/5/INCREMENTAL.1" has bad incremental magic number (0x7, expected 0xd3ae1f0d)`},
	{reason: "more blocks than a file has", change: put(1, incrementalThrice, 4, 131073),
		want: `file "$1/base/5/INCREMENTAL.1" has block count 131073 in excess of segment size 131072`},
	{reason: "longer than a file can be", change: put(1, incrementalThrice, 8, 131073),
		want: `file "$1/base/5/INCREMENTAL.1" has truncation block length 131073 in excess of segment size 131072`},
	{reason: "block past the end", change: put(2, incrementalThrice, 16, 131072),
		want: `file "$2/base/5/INCREMENTAL.1" has block number 131072 in excess of segment size 131072`},
	{reason: "blocks out of order", change: put(2, incrementalThrice, 16, 1), want: `file "$2/base/5/INCREMENTAL.1" has block number 1 after 4`},
	{reason: "a block twice", change: put(2, incrementalThrice, 16, 4), want: `file "$2/base/5/INCREMENTAL.1" has block number 4 after 4`},
	{reason: "fewer pages than blocks", change: func(c []*testBackup) { c[1].files[incrementalThrice] = c[1].files[incrementalThrice][:2*8192] },
		want: `file "$1/base/5/INCREMENTAL.1" has 16384 bytes, but 2 blocks and their header have 24576`},
	{reason: "empty", change: func(c []*testBackup) { c[1].files[incrementalThrice] = nil },
		want: `could not read file "$1/base/5/INCREMENTAL.1": read 0 of 12`},
	{reason: "cut off in the list of blocks", change: func(c []*testBackup) { c[1].files[incrementalThrice] = c[1].files[incrementalThrice][:16] },
		want: `could not read file "$1/base/5/INCREMENTAL.1": read 4 of 8`},
	{reason: "whole and incremental", change: func(c []*testBackup) { c[2].files[thrice] = page('x') },
		want: `"$2/base/5/1" and "$2/base/5/INCREMENTAL.1" are both there, but are the same file`},
	{reason: "incremental in the full one", change: rename(0, thrice, incrementalThrice), want: `file "$0/base/5/INCREMENTAL.1" has bad incremental magic number`},
	{reason: "incremental in the full one, in order", change: func(c []*testBackup) {
		rename(0, settled, "")(c)
		c[0].files[incrementalSettled] = incremental(3, nil, nil)
	},
		want: `full backup contains unexpected incremental file "$0/base/5/INCREMENTAL.2"`},
	{reason: "nothing to lay it over", change: rename(0, settled, ""), want: `could not open file "$0/base/5/INCREMENTAL.2": No such file or directory`},
	{reason: "nothing to lay it over in between", change: rename(1, incrementalThrice, ""), want: `could not open file "$1/base/5/INCREMENTAL.1": No such file or directory`},

	{reason: "new file damaged", damage: flip(2, late, 1), want: `checksum mismatch for file "$2/base/5/3"`},
	{reason: "newest incremental file damaged", damage: flip(2, incrementalThrice, 1), want: `checksum mismatch for file "$2/base/5/INCREMENTAL.1"`},
	{reason: "incremental file in between damaged", damage: flip(1, incrementalThrice, 1), want: `checksum mismatch for file "$1/base/5/INCREMENTAL.1"`},
	{reason: "incremental file without blocks damaged", damage: flip(1, incrementalSettled, 4), want: `checksum mismatch for file "$1/base/5/INCREMENTAL.2"`},
	{reason: "padding of a header damaged", damage: flip(1, incrementalThrice, 2*8192+1), want: `checksum mismatch for file "$1/base/5/INCREMENTAL.1"`},
	{reason: "full file damaged where it is used", damage: flip(0, thrice, 6*8192), want: `checksum mismatch for file "$0/base/5/1"`},
	{reason: "full file damaged where it is not", damage: flip(0, thrice, 1), want: `checksum mismatch for file "$0/base/5/1"`},
	{reason: "file that is copied whole damaged", damage: flip(0, settled, 1), want: `checksum mismatch for file "$0/base/5/2"`},
	{reason: "label damaged", damage: edit(2, pgdata.LabelPath, func(p []byte) []byte { p[len("START WAL LOCATION: 0/3000000 (")] ^= 1; return p }),
		want: `checksum mismatch for file "$2/backup_label"`},
	{reason: "damaged, and wanted so", damage: flip(0, thrice, 6*8192), o: chain.Options{NoVerify: true}},
	{reason: "damaged in all of them, and wanted so", damage: func(t *testing.T, dirs []string) {
		flip(0, settled, 1)(t, dirs)
		flip(1, incrementalThrice, 1)(t, dirs)
		flip(2, late, 1)(t, dirs)
	}, o: chain.Options{NoVerify: true}},
	{reason: "log damaged, which has no checksum", damage: flip(2, "pg_wal/00000001000000", 1)},
	{reason: "settings changed", damage: edit(2, "postgresql.auto.conf", longer)},
	{reason: "file that no other is made of damaged", damage: flip(1, "PG_VERSION", 1)},

	{reason: "new file longer", damage: edit(2, late, longer), want: `"$2/base/5/3" has size 8193 on disk but size 8192 in the manifest`},
	{reason: "full file longer", damage: edit(0, thrice, longer), want: `"$0/base/5/1" has size 49153 on disk but size 49152 in the manifest`},
	{reason: "incremental file in between longer", damage: edit(1, incrementalThrice, longer),
		want: `"$1/base/5/INCREMENTAL.1" has size 24577 on disk but size 24576 in the manifest`},
	{reason: "label longer", damage: edit(1, pgdata.LabelPath, longer), want: `"$1/backup_label" has size 137 on disk but size 136 in the manifest`},

	{reason: "file missing", damage: removeFile(2, late), want: `"$2/base/5/3" is present in the manifest but not on disk`},
	{reason: "incremental file missing", damage: removeFile(2, incrementalThrice), want: `"$2/base/5/INCREMENTAL.1" is present in the manifest but not on disk`},
	{reason: "file of a tablespace missing", damage: removeFile(2, spaceApart+"/PG_18/5/100"),
		want: `"$2/pg_tblspc/16500/PG_18/5/100" is present in the manifest but not on disk`},
	{reason: "file missing, and wanted so", damage: removeFile(2, late), o: chain.Options{NoVerify: true}},
	{reason: "file missing that no other is made of", damage: removeFile(1, "PG_VERSION")},
	{reason: "file more", damage: func(t *testing.T, dirs []string) { writeFile(t, dirs[2]+"/base/5/4", page('n')) },
		warns: `manifest file "$2/backup_manifest" contains no entry for file "base/5/4"`},
	{reason: "file more, and one missing", damage: func(t *testing.T, dirs []string) {
		writeFile(t, dirs[2]+"/base/5/4", page('n'))
		removeFile(2, late)(t, dirs)
	}, want: `"$2/base/5/3" is present in the manifest but not on disk`, warns: `contains no entry for file "base/5/4"`},
}

// TestFaults has each chain combined in each way in which files are made: whether they are
// read in doing so must not matter.
func TestFaults(t *testing.T) {
	for _, method := range []plain.CopyMethod{plain.CopyBytes, plain.CopyRange, plain.CopyLink} {
		for _, fault := range faults {
			t.Run(fmt.Sprint(fault.reason, " ", method), func(t *testing.T) {
				t.Parallel()
				backups, work := testChain(), t.TempDir()
				if fault.change != nil {
					fault.change(backups)
				}
				var dirs, inputs []string
				for n, b := range backups {
					dirs = append(dirs, filepath.Join(work, fmt.Sprint(n)))
					b.write(t, dirs[n])
				}
				if fault.damage != nil {
					fault.damage(t, dirs)
				}
				if fault.order == nil {
					fault.order = []int{0, 1, 2}
				}
				for _, n := range fault.order {
					inputs = append(inputs, dirs[n])
				}
				named := strings.NewReplacer("$0", dirs[0], "$1", dirs[1], "$2", dirs[2])
				c := combination{Options: fault.o, method: method, workers: 2}
				c.Checksums = manifest.CRC32C
				warnings, err := c.combine(t.Context(), filepath.Join(work, "out"), inputs...)
				if want := named.Replace(fault.want); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("error: %v", err)
				}
				checkHint(t, err)
				if got := strings.Join(warnings, "\n"); (got == "") != (fault.warns == "") || !strings.Contains(got, named.Replace(fault.warns)) {
					t.Errorf("warnings: %s", got)
				}
			})
		}
	}
}

// hints are what goes with errors that a user can do something about, by a part of their text.
var hints = map[string]string{
	"checksum mismatch for":              "With --no-verify the file is used as it is",
	"on disk but size":                   "With --no-verify the file is used as it is",
	"is present in the manifest but not": "use another copy of the backup, or one from before",
	"starts at LSN":                      "Name the backups from the oldest to the newest and leave none out",
	"is a full backup, but":              "Name the oldest backup of the chain first",
	"is an incremental backup, but":      "Name all backups of the chain, beginning with the full one.",
	"have checksums enabled":             "Take a full backup after the checksums were enabled",
	"cannot generate a manifest":         "Combine with --no-manifest",
}

func checkHint(t *testing.T, err error) {
	t.Helper()
	for text, hint := range hints {
		if err != nil && strings.Contains(err.Error(), text) && !strings.Contains(usererr.Hint(err), hint) {
			t.Errorf("%v\nhint: %s", err, usererr.Hint(err))
		}
	}
}
