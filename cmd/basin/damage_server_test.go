package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// brokenBackup is a copy of a backup that is to be damaged. Its files are named as in the
// manifest, whatever form it has.
type brokenBackup struct {
	dir string
	tar bool
}

// copyBackup copies a backup. Files that are not damaged are those of the original.
func copyBackup(t *testing.T, dir string) *brokenBackup {
	t.Helper()
	to := filepath.Join(pgtest.TempDir(t), filepath.Base(dir))
	if out, err := exec.Command("cp", "-al", dir, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err := os.Stat(filepath.Join(to, "base.tar"))
	return &brokenBackup{dir: to, tar: err == nil}
}

// archive returns where a file of a tar backup is: nothing for what lies beside the archives.
func (b *brokenBackup) archive(name string) (archive, member string) {
	if rest, ok := strings.CutPrefix(name, "pg_wal/"); ok {
		return "pg_wal.tar", rest
	}
	if parts := strings.SplitN(name, "/", 3); len(parts) == 3 && parts[0] == "pg_tblspc" {
		return parts[1] + ".tar", parts[2]
	}
	if name == "backup_manifest" {
		return "", name
	}
	return "base.tar", name
}

type tarMember struct {
	header  *tar.Header
	content []byte
}

func (b *brokenBackup) members(t *testing.T, archive string) (all []tarMember) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(b.dir, archive))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(content))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		var content []byte
		if err == nil {
			content, err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tarMember{h, content})
	}
}

// replace makes another file of one, without changing that of the original.
func (b *brokenBackup) replace(t *testing.T, name string, content []byte) {
	t.Helper()
	file := filepath.Join(b.dir, name)
	if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o644); err != nil { // for whoever the program runs as
		t.Fatal(err)
	}
}

// rewrite makes another archive of one.
func (b *brokenBackup) rewrite(t *testing.T, archive string, members []tarMember) {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, m := range members {
		m.header.Size = int64(len(m.content))
		if err := w.WriteHeader(m.header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.replace(t, archive, out.Bytes())
}

func (b *brokenBackup) read(t *testing.T, name string) []byte {
	t.Helper()
	if archive, member := b.archive(name); b.tar && archive != "" {
		for _, m := range b.members(t, archive) {
			if path.Clean(m.header.Name) == member {
				return m.content
			}
		}
		t.Fatalf("%s is not in %s", member, archive)
	}
	content, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// write writes a file, or with nil removes it.
func (b *brokenBackup) write(t *testing.T, name string, content []byte) {
	t.Helper()
	archive, member := b.archive(name)
	switch {
	case b.tar && archive != "":
		members := b.members(t, archive)
		i := slices.IndexFunc(members, func(m tarMember) bool { return path.Clean(m.header.Name) == member })
		switch {
		case i < 0:
			members = append(members, tarMember{&tar.Header{Typeflag: tar.TypeReg, Name: member, Mode: 0o600}, content})
		case content == nil:
			members = slices.Delete(members, i, i+1)
		default:
			members[i].content = content
		}
		b.rewrite(t, archive, members)
	case content == nil:
		if err := os.Remove(filepath.Join(b.dir, name)); err != nil {
			t.Fatal(err)
		}
	default:
		b.replace(t, name, content)
	}
}

var manifestEntry = regexp.MustCompile(`\{ "Path": "([^"]*)", "Size": ([0-9]+)[^\n]*"Checksum": "([0-9a-f]*)" \}`)

// find returns the first file of the manifest that matches, and has bytes.
func (b *brokenBackup) find(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile("^" + pattern + "$")
	for _, m := range manifestEntry.FindAllSubmatch(b.read(t, "backup_manifest"), -1) {
		if re.Match(m[1]) && string(m[2]) != "0" {
			return string(m[1])
		}
	}
	t.Fatalf("no file of the backup is %s", pattern)
	return ""
}

// sealManifest gives the manifest another content, and the checksum of that.
func (b *brokenBackup) sealManifest(t *testing.T, content []byte) {
	t.Helper()
	i := bytes.LastIndex(content, []byte(`"Manifest-Checksum"`))
	sum := sha256.Sum256(content[:i])
	b.replace(t, "backup_manifest", fmt.Appendf(content[:i:i], "\"Manifest-Checksum\": \"%x\"}\n", sum))
}

// relist gives the manifest the checksum that a file has now.
func (b *brokenBackup) relist(t *testing.T, name string) {
	t.Helper()
	content := b.read(t, "backup_manifest")
	for _, m := range manifestEntry.FindAllSubmatchIndex(content, -1) {
		if string(content[m[2]:m[3]]) == name {
			sum := crc32.Checksum(b.read(t, name), crc32.MakeTable(crc32.Castagnoli))
			hex.Encode(content[m[6]:m[7]], binary.LittleEndian.AppendUint32(nil, sum))
		}
	}
	b.sealManifest(t, content)
}

// damage is one thing that befalls a backup.
type damage struct {
	reason string
	// do damages a backup and returns what is to be told of it.
	do func(t *testing.T, b *brokenBackup) []string
	// combined says that combinebackup makes a backup of it all the same: it does not read
	// the log, and what no manifest has does no harm.
	combined bool
}

// flip changes a bit in the middle of a file.
func flip(pattern string) damage {
	return damage{"a bit of " + pattern, func(t *testing.T, b *brokenBackup) []string {
		name := b.find(t, pattern)
		content := b.read(t, name)
		content[len(content)/2] ^= 0x10
		b.write(t, name, content)
		return []string{name}
	}, strings.HasPrefix(pattern, "pg_wal/")}
}

// edit changes the manifest, whose checksum is then another's or, if it is sealed, its own.
func edit(reason string, sealed bool, change func(t *testing.T, b *brokenBackup, content []byte) []byte, told ...string) damage {
	return damage{"manifest edited: " + reason, func(t *testing.T, b *brokenBackup) []string {
		content := change(t, b, b.read(t, "backup_manifest"))
		if sealed {
			b.sealManifest(t, content)
		} else {
			b.replace(t, "backup_manifest", content)
		}
		return told
	}, strings.HasPrefix(told[0], "WAL ") || strings.HasPrefix(told[0], "but not in")}
}

// Patterns of files: of a table that the test has made, and what may stand before a name.
const (
	table   = `base/5/1[6-9][0-9]{3}`
	changed = `base/5/INCREMENTAL\.1[6-9][0-9]{3}`
	either  = `(INCREMENTAL\.)?`
)

// damages are those that each form of backup is tried with. relation is a pattern of a
// relation's file there.
func damages(relation string) []damage {
	change := func(reason, pattern string, do func(content []byte) []byte) damage {
		return damage{reason, func(t *testing.T, b *brokenBackup) []string {
			name := b.find(t, pattern)
			b.write(t, name, do(b.read(t, name)))
			return []string{name}
		}, false}
	}
	all := []damage{
		{"none", func(*testing.T, *brokenBackup) []string { return nil }, true},
		change("a page less", relation, func(p []byte) []byte { return p[:len(p)-8192] }),
		change("all cut off", relation, func([]byte) []byte { return []byte{} }),
		change("a byte less", "PG_VERSION", func(p []byte) []byte { return p[:len(p)-1] }),
		change("a page more", relation, func(p []byte) []byte { return append(p, make([]byte, 8192)...) }),
		change("a byte more", "backup_label", func(p []byte) []byte { return append(p, '\n') }),
		change("removed", relation, func([]byte) []byte { return nil }),
		change("removed, needed to start", "global/pg_filenode.map", func([]byte) []byte { return nil }),
		{"a file more", func(t *testing.T, b *brokenBackup) []string {
			b.write(t, "base/1/99999", make([]byte, 8192))
			return []string{"base/1/99999"}
		}, true},
		{"two files swapped", func(t *testing.T, b *brokenBackup) []string {
			one, other := b.find(t, "global/[0-9]+|PG_VERSION"), b.find(t, "base/1/pg_filenode.map")
			p, q := b.read(t, one), b.read(t, other)
			b.write(t, one, q)
			b.write(t, other, p)
			return []string{one, other}
		}, false},
		{"another cluster's control file", func(t *testing.T, b *brokenBackup) []string {
			control := b.read(t, "global/pg_control")
			control[0] ^= 1
			end := 292 // of 18, where the checksum is
			binary.LittleEndian.PutUint32(control[end:], crc32.Checksum(control[:end], crc32.MakeTable(crc32.Castagnoli)))
			b.write(t, "global/pg_control", control)
			return []string{"system identifier", "pg_control"}
		}, false},
		edit("a size", false, func(_ *testing.T, _ *brokenBackup, p []byte) []byte {
			return bytes.Replace(p, []byte(`"Size": 8192`), []byte(`"Size": 8193`), 1)
		}, "manifest checksum mismatch"),
		edit("its checksum", false, func(_ *testing.T, _ *brokenBackup, p []byte) []byte {
			p[len(p)-10] ^= 1
			return p
		}, "manifest checksum"),
		edit("cut short", false, func(_ *testing.T, _ *brokenBackup, p []byte) []byte { return p[:len(p)/2] }, "could not parse backup manifest"),
		edit("a file taken out", true, func(t *testing.T, b *brokenBackup, p []byte) []byte {
			i := bytes.Index(p, []byte(`{ "Path": "`+b.find(t, relation)))
			j := i + bytes.IndexByte(p[i:], '\n') + 1
			return slices.Delete(p, i, j)
		}, "but not in the manifest"),
		edit("a size, and sealed", true, func(_ *testing.T, _ *brokenBackup, p []byte) []byte {
			return bytes.Replace(p, []byte(`"Size": 8192`), []byte(`"Size": 16384`), 1)
		}, "but size 16384 in the manifest"),
		edit("another cluster, and sealed", true, func(_ *testing.T, _ *brokenBackup, p []byte) []byte {
			return bytes.Replace(p, []byte(`"System-Identifier": `), []byte(`"System-Identifier": 1`), 1)
		}, "manifest"),
		edit("more log, and sealed", true, func(_ *testing.T, _ *brokenBackup, p []byte) []byte {
			return regexp.MustCompile(`"End-LSN": "0/`).ReplaceAll(p, []byte(`"End-LSN": "1/`))
		}, "WAL parsing failed for timeline 1"),
		edit("another timeline, and sealed", true, func(_ *testing.T, _ *brokenBackup, p []byte) []byte {
			return bytes.Replace(p, []byte(`"Timeline": 1`), []byte(`"Timeline": 2`), 1)
		}, "WAL parsing failed for timeline 2"),
		{"a segment of the log missing", func(t *testing.T, b *brokenBackup) []string {
			segment := b.segments(t)[0]
			b.write(t, "pg_wal/"+segment, nil)
			return []string{"WAL parsing failed for timeline 1", "segment"}
		}, true},
		{"a record of the log broken", func(t *testing.T, b *brokenBackup) []string {
			for _, segment := range b.segments(t) {
				content := b.read(t, "pg_wal/"+segment)
				if at := runningTransactions(content); at >= 0 {
					content[at+30] ^= 1
					b.write(t, "pg_wal/"+segment, content)
					return []string{"WAL parsing failed for timeline 1", "after 0/"}
				}
			}
			t.Fatal("there is no such record")
			return nil
		}, true},
		{"a segment of another timeline's log", func(t *testing.T, b *brokenBackup) []string {
			segment := b.segments(t)[0]
			content := b.read(t, "pg_wal/"+segment)
			for page := 0; page < len(content); page += 8192 {
				binary.LittleEndian.PutUint32(content[page+4:], 2) // xlp_tli
			}
			b.write(t, "pg_wal/"+segment, content)
			return []string{"WAL parsing failed for timeline 1", "timeline 2"}
		}, true},
	}
	for _, kind := range []string{
		relation, "base/5/" + either + "[0-9]+_vm", "base/5/" + either + "[0-9]+_fsm", "base/5/" + either + "[0-9]+_init", "global/" + either + "[0-9]+", "global/pg_control", "global/pg_filenode.map",
		"base/[0-9]+/pg_filenode.map", "PG_VERSION", "base/[0-9]+/PG_VERSION", "backup_label", "pg_xact/0000", "pg_multixact/.*",
		"postgresql.conf", "pg_hba.conf", "pg_tblspc/.*",
	} {
		all = append(all, flip(kind))
	}
	return all
}

// named returns the first that is told which names a file, without its directory; or all.
func named(told []string) []string {
	if strings.Contains(told[0], " ") {
		return told
	}
	return []string{path.Base(told[0])}
}

// segments returns the segments of the log in the backup.
func (b *brokenBackup) segments(t *testing.T) (names []string) {
	t.Helper()
	if b.tar {
		for _, m := range b.members(t, "pg_wal.tar") {
			names = append(names, path.Clean(m.header.Name))
		}
	} else {
		names = entries(t, filepath.Join(b.dir, "pg_wal"))
	}
	return slices.DeleteFunc(names, func(name string) bool { return len(name) != 24 })
}

// TestDamageIsFound damages backups of each form, and both of a chain, in one way at a
// time. Each is found and named, and none where there is none.
func TestDamageIsFound(t *testing.T) {
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{
		Checksums: true, WALSegmentSizeMB: 1,
		Conf: map[string]string{"summarize_wal": "on", "allow_in_place_tablespaces": "on", "autovacuum": "off"},
	})
	s.Exec(t, "CREATE TABLESPACE inside LOCATION ''",
		"CREATE TABLE elsewhere TABLESPACE inside AS SELECT g FROM generate_series(1, 1000) g",
		"CREATE TABLE large AS SELECT g, repeat('x', 500) FROM generate_series(1, 3000) g",
		"CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)",
		"VACUUM large")
	dir := pgtest.TempDir(t)
	take := func(name string, options ...string) string {
		to := filepath.Join(dir, name)
		args := []string{"basebackup", "-d", s.ConnString(), "-D", to, "-c", "fast", "-N"}
		basin.run(t, nil, append(args, options...)...).succeeded(t)
		return to
	}
	full, fullTar := take("full"), take("full-tar", "-Ft")
	s.Exec(t, "UPDATE large SET g = -g WHERE g % 100 = 3", "UPDATE elsewhere SET g = -g WHERE g = 500", "VACUUM large")
	chain := []string{full, take("incremental", "-i", filepath.Join(full, "backup_manifest"))}
	chainTar := []string{fullTar, take("incremental-tar", "-Ft", "-i", filepath.Join(fullTar, "backup_manifest"))}
	for _, form := range []struct {
		name     string
		backups  []string
		relation []string // of each backup
	}{
		{"plain", []string{full}, []string{table}},
		{"tar", []string{fullTar}, []string{table}},
		{"chain", chain, []string{table, changed}},
		{"chain of tar files", chainTar, []string{table, changed}},
	} {
		for i, relation := range form.relation {
			for j, d := range damages(relation) {
				if form.name == "chain of tar files" && j%4 != i { // each of them is in the others
					continue
				}
				t.Run(fmt.Sprintf("%s %d %s", form.name, i, d.reason), func(t *testing.T) {
					t.Parallel()
					args := append([]string{"verifybackup"}, form.backups...)
					b := copyBackup(t, form.backups[i])
					args[1+i] = b.dir
					told := d.do(t, b)
					if told == nil {
						basin.run(t, nil, args...).succeeded(t)
					} else {
						basin.run(t, nil, args...).failed(t, told...)
					}
					// Alone, as of a chain not all that is in an older backup is wanted.
					if i > 0 {
						return
					}
					out := filepath.Join(pgtest.TempDir(t), "out")
					e := basin.run(t, nil, "combinebackup", "-N", "-o", out, b.dir)
					if d.combined {
						if e.status != exitSuccess {
							t.Errorf("not combined: %v", e)
						}
						return
					}
					e.failed(t, named(told)...)
					absent(t, out)
				})
			}
			t.Run(fmt.Sprintf("%s %d a page from before the backup", form.name, i), func(t *testing.T) {
				t.Parallel()
				args := append([]string{"verifybackup", "--page-checksums"}, form.backups...)
				basin.run(t, nil, args...).succeeded(t)
				b := copyBackup(t, form.backups[i])
				args[2+i] = b.dir
				name := b.find(t, relation)
				content := b.read(t, name)
				// The second page, which is not changed later; of an incremental file it is the
				// first, behind the header.
				content[2*8192-100] ^= 4
				b.write(t, name, content)
				b.relist(t, name)
				basin.run(t, nil, append([]string{"verifybackup"}, args[2:]...)...).succeeded(t)
				alone := basin.run(t, nil, "verifybackup", "--page-checksums", b.dir)
				alone.failed(t, fmt.Sprintf("checksum verification failed in file \"%s\", block ", name), ": calculated ")
				if n := strings.Count(alone.stderr, "error: "); n != 1 {
					t.Errorf("%d problems: %v", n, alone)
				}
				whole := strings.Replace(name, "INCREMENTAL.", "", 1)
				basin.run(t, nil, args...).failed(t, fmt.Sprintf("checksum verification failed in file \"%s\", block ", whole), ": calculated ")
			})
		}
	}
}

// TestLinksAndOthersInTheWay has something else in the place of a file or a directory that the
// manifest has. combinebackup passes over it, and then misses what was there.
func TestLinksAndOthersInTheWay(t *testing.T) {
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1})
	dir := filepath.Join(pgtest.TempDir(t), "backup")
	basin.run(t, nil, "basebackup", "-d", s.ConnString(), "-D", dir, "-c", "fast", "-N").succeeded(t)
	tarDir := filepath.Join(pgtest.TempDir(t), "tar")
	basin.run(t, nil, "basebackup", "-d", s.ConnString(), "-D", tarDir, "-c", "fast", "-N", "-Ft").succeeded(t)
	shell := func(script string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			if out, err := exec.Command("bash", "-ec", `cd "$1"; `+script, "bash", dir).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	for _, test := range []struct {
		reason, dir string
		do          func(t *testing.T, dir string)
		said        []string // of combinebackup
		verified    string   // what verifybackup says; nothing if all is there for it
	}{
		{"a link to the file", dir, shell("mv PG_VERSION v; ln -s v PG_VERSION; rm -rf v2"), []string{`PG_VERSION" is not a regular file`}, `"v" is present on disk but not in the manifest`},
		{"a link to a relation", dir, shell("mv base/1/1259 ../x; ln -s ../../../x base/1/1259"), []string{`base/1/1259" is not a regular file`}, ""},
		{"a link to a directory", dir, shell("mv pg_xact ../x; ln -s ../x pg_xact"), []string{"1 files of \"", "hint: "}, ""},
		{"a named pipe", dir, shell("rm base/1/1259; mkfifo base/1/1259"), []string{`base/1/1259" is not a regular file`}, `"base/1/1259" is not a regular file or directory`},
		{"a named pipe for the manifest", dir, shell("rm backup_manifest; mkfifo backup_manifest"), []string{`backup_manifest" is not a regular file`}, "it is not a regular file"},
		{"a named pipe for the log", dir, shell("cd pg_wal; for f in 0*; do rm $f; mkfifo $f; done"), nil, "is not a regular file"},
		{"a segment that is cut", dir, shell("cd pg_wal; for f in 0*; do head -c 200 $f > x; mv x $f; done"), nil, "has 200 bytes, which no segment has"},
		{"a named pipe for an archive", tarDir, shell("rm base.tar; mkfifo base.tar"), []string{`base.tar": it is not a regular file`}, `file "base.tar" is not a regular file`},
		{"a named pipe for that of the log", tarDir, shell("rm pg_wal.tar; mkfifo pg_wal.tar"), []string{`pg_wal.tar": it is not a regular file`}, "it is not a regular file"},
		{"an archive twice", tarDir, shell("gzip -c base.tar > base.tar.gz"), []string{`base.tar.gz" are archives of the same`}, `base.tar.gz" are archives of the same`},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			b := copyBackup(t, test.dir)
			test.do(t, b.dir)
			e := basin.run(t, nil, "verifybackup", b.dir)
			if test.verified == "" {
				e.succeeded(t)
			} else {
				e.failed(t, test.verified)
			}
			if test.said == nil {
				return
			}
			out := filepath.Join(pgtest.TempDir(t), "out")
			basin.run(t, nil, "combinebackup", "-N", "-o", out, b.dir).failed(t, test.said...)
			absent(t, out)
		})
	}
}
