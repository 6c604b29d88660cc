package verify

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/manifest"
	"basin/internal/pgdata"
)

// control returns a control file of 18.
func control(systemID uint64) []byte {
	p := binary.LittleEndian.AppendUint64(nil, systemID)
	p = binary.LittleEndian.AppendUint32(p, 1800)
	p = append(p, bytes.Repeat([]byte("x"), 280)...)
	p = binary.LittleEndian.AppendUint32(p, crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
	return append(p, make([]byte, pgdata.ControlSize-len(p))...)
}

// files are the files of one, by path.
type files map[string]string

func newBackup() files {
	return files{
		"PG_VERSION": "18\n", "backup_label": "START WAL LOCATION: 0/2000028\n", "global/pg_control": string(control(7)),
		"base/1/1259": strings.Repeat("a page of a relation ", 50_000), "base/1/empty": "",
		"pg_tblspc/16400/PG_18_1/5/16401": "in a tablespace",
	}
}

// manifestOf returns the manifest of a backup.
func manifestOf(b files, algorithm manifest.Algorithm) string {
	var s strings.Builder
	s.WriteString("{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7,\n\"Files\": [\n")
	for i, path := range slices.Sorted(maps.Keys(b)) {
		if i > 0 {
			s.WriteString(",\n")
		}
		fmt.Fprintf(&s, `{ "Path": %q, "Size": %d, "Last-Modified": "2026-11-26 10:00:00 GMT"`, path, len(b[path]))
		if sum := algorithm.New(); sum != nil {
			_, _ = sum.Write([]byte(b[path]))
			fmt.Fprintf(&s, `, "Checksum-Algorithm": "%v", "Checksum": "%x"`, algorithm, sum.Sum(nil))
		}
		s.WriteString(" }")
	}
	s.WriteString("\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000120\" }\n],\n")
	sum := sha256.Sum256([]byte(s.String()))
	return s.String() + `"Manifest-Checksum": "` + hex.EncodeToString(sum[:]) + "\"}\n"
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// plain writes a backup as a directory.
func (b files) plain(t *testing.T, dir string) {
	for path, content := range b {
		write(t, filepath.Join(dir, path), []byte(content))
	}
}

// archives writes a backup as tar files, that of the tablespace compressed.
func (b files) archives(t *testing.T, dir string) {
	parts := map[string]*bytes.Buffer{"base.tar": {}, "16400.tar.gz": {}}
	for name, part := range parts {
		w := tar.NewWriter(part)
		for _, path := range slices.Sorted(maps.Keys(b)) {
			within, isOther := strings.CutPrefix(path, "pg_tblspc/16400/")
			if isOther != (name != "base.tar") {
				continue
			}
			err := w.WriteHeader(&tar.Header{Name: "./" + within, Mode: 0o600, Size: int64(len(b[path])), Typeflag: tar.TypeReg})
			_, writeErr := w.Write([]byte(b[path]))
			if err := errors.Join(err, writeErr); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		content := part.Bytes()
		if name != "base.tar" {
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			_, err := z.Write(content)
			if err := errors.Join(err, z.Close()); err != nil {
				t.Fatal(err)
			}
			content = packed.Bytes()
		}
		write(t, filepath.Join(dir, name), content)
	}
}

// verified verifies what is in a directory, and returns the problems.
func verified(t *testing.T, dir string, isPlain bool, o Options) (problems []string, err error) {
	t.Helper()
	m, files, err := Load(filepath.Join(dir, manifest.Name))
	if err != nil {
		t.Fatal(err)
	}
	o.Ignore = append(o.Ignore, manifest.DefaultIgnore()...)
	o.Report = func(err error) { problems = append(problems, strings.ReplaceAll(err.Error(), dir, "DIR")) }
	v := New(m, files, o)
	if isPlain {
		err = v.Directory(dir)
	} else {
		err = v.Archives(t.Context(), dir)
	}
	if err == nil {
		err = v.Missing()
	}
	if err == nil && isPlain && !o.SkipChecksums {
		err = v.Checksums(t.Context(), dir)
	}
	if done, total := v.Progress(); err == nil && len(problems) == 0 && done != total {
		t.Errorf("%d of %d bytes were verified", done, total)
	}
	if v.Problems() != len(problems) {
		t.Errorf("%d problems, %d were told", v.Problems(), len(problems))
	}
	return problems, err
}

func TestEachDamageIsFound(t *testing.T) {
	for _, c := range []struct {
		reason     string
		damage     func(b files)
		plain, tar []string
		fatal      [2]string // the errors that end it, plain and tar
	}{
		{reason: "none", damage: func(files) {}},
		{
			reason: "a bit in a relation",
			damage: func(b files) { b["base/1/1259"] = "A" + b["base/1/1259"][1:] },
			plain:  []string{`checksum mismatch for file "base/1/1259"`},
			tar:    []string{`checksum mismatch for file "base/1/1259" in archive "base.tar"`},
		},
		{
			reason: "a file is shorter, another longer",
			damage: func(b files) { b["backup_label"], b["base/1/empty"] = "", "x" },
			plain: []string{
				`"backup_label" has size 0 on disk but size 30 in the manifest`, `"base/1/empty" has size 1 on disk but size 0 in the manifest`,
			},
			tar: []string{
				`file "./backup_label" has size 0 in archive "base.tar" but size 30 in the manifest`,
				`file "./base/1/empty" has size 1 in archive "base.tar" but size 0 in the manifest`,
			},
		},
		{
			reason: "a file is missing, and one too many",
			damage: func(b files) {
				delete(b, "base/1/1259")
				b["base/1/1260"] = "x"
			},
			plain: []string{`"base/1/1260" is present on disk but not in the manifest`, `"base/1/1259" is present in the manifest but not on disk`},
			tar: []string{
				`file "./base/1/1260" is present in archive "base.tar" but not in the manifest`, `"base/1/1259" is present in the manifest but not on disk`,
			},
		},
		{
			reason: "two files are swapped",
			damage: func(b files) {
				b["a"], b["b"] = b["b"], b["a"]
			},
			plain: []string{`checksum mismatch for file "a"`, `checksum mismatch for file "b"`},
			tar:   []string{`checksum mismatch for file "a" in archive "base.tar"`, `checksum mismatch for file "b" in archive "base.tar"`},
		},
		{
			reason: "in a tablespace",
			damage: func(b files) { b["pg_tblspc/16400/PG_18_1/5/16401"] = "IN a tablespace" },
			plain:  []string{`checksum mismatch for file "pg_tblspc/16400/PG_18_1/5/16401"`},
			tar:    []string{`checksum mismatch for file "pg_tblspc/16400/PG_18_1/5/16401" in archive "16400.tar.gz"`},
		},
		{
			reason: "files that may change",
			damage: func(b files) { b["postgresql.auto.conf"], b["standby.signal"], b["pg_wal/x"] = "x", "", "y" },
		},
		{
			reason: "control file of another cluster",
			damage: func(b files) { b["global/pg_control"] = string(control(8)) },
			fatal: [2]string{
				"DIR/global/pg_control: manifest system identifier is 7, but control file has 8",
				"base.tar: global/pg_control: manifest system identifier is 7, but control file has 8",
			},
			tar: []string{`checksum mismatch for file "global/pg_control" in archive "base.tar"`},
		},
		{
			reason: "control file is damaged",
			damage: func(b files) {
				b["global/pg_control"] = b["global/pg_control"][:40] + "y" + b["global/pg_control"][41:]
			},
			fatal: [2]string{"DIR/global/pg_control: CRC is incorrect", "base.tar: global/pg_control: CRC is incorrect"},
			tar:   []string{`checksum mismatch for file "global/pg_control" in archive "base.tar"`},
		},
	} {
		t.Run(c.reason, func(t *testing.T) {
			whole := newBackup()
			whole["a"], whole["b"] = "first", "other"
			for i, form := range []func(files, *testing.T, string){files.plain, files.archives} {
				dir := t.TempDir()
				write(t, filepath.Join(dir, manifest.Name), []byte(manifestOf(whole, manifest.SHA256)))
				b := maps.Clone(whole)
				c.damage(b)
				form(b, t, dir)
				problems, err := verified(t, dir, i == 0, Options{})
				if diff := cmp.Diff([][]string{c.plain, c.tar}[i], problems); diff != "" {
					t.Error(diff)
				}
				if got := strings.ReplaceAll(fmt.Sprint(err), dir, "DIR"); got != orElse(c.fatal[i], "<nil>") {
					t.Errorf("ends with %s", got)
				}
			}
		})
	}
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func TestArchivesThatCannotBeRead(t *testing.T) {
	whole := newBackup()
	dir := t.TempDir()
	write(t, filepath.Join(dir, manifest.Name), []byte(manifestOf(whole, manifest.CRC32C)))
	whole.archives(t, dir)
	for _, name := range []string{"16400.tar.gz", "base.tar"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), content[:len(content)*2/3])
	}
	for _, name := range []string{"notes.txt", "0.tar", "16401.zip", "4294967296.tar", "pg_wal.tar", "16402.tgz"} {
		write(t, filepath.Join(dir, name), nil)
	}
	if err := os.Mkdir(filepath.Join(dir, "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	problems, err := verified(t, dir, false, Options{Ignore: []string{"16402.tgz"}})
	want := []string{
		`file "0.tar" is not expected in a tar format backup`, `file "16401.zip" is not expected in a tar format backup`,
		`file "4294967296.tar" is not expected in a tar format backup`, `file "base" is not a regular file`,
		`file "notes.txt" is not expected in a tar format backup`,
		`could not read archive "16400.tar.gz": decompress gzip data: unexpected EOF`, `could not read archive "base.tar": unexpected EOF`,
	}
	if diff := cmp.Diff(want, problems[:min(len(want), len(problems))]); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for _, p := range problems[len(want):] {
		if !strings.Contains(p, "is present in the manifest but not on disk") {
			t.Error(p)
		}
	}
}

func TestOptions(t *testing.T) {
	whole := newBackup()
	dir := t.TempDir()
	write(t, filepath.Join(dir, manifest.Name), []byte(manifestOf(whole, manifest.CRC32C)))
	b := maps.Clone(whole)
	b["PG_VERSION"], b["backup_label"] = "17\n", "start WAL LOCATION: 0/2000028\n"
	delete(b, "base/1/1259")
	b.plain(t, dir)
	for _, c := range []struct {
		o    Options
		want []string
		err  error
	}{
		{Options{SkipChecksums: true}, []string{`"base/1/1259" is present in the manifest but not on disk`}, nil},
		{Options{Ignore: []string{"base/1", "PG_VERSION"}}, []string{`checksum mismatch for file "backup_label"`}, nil},
		{Options{Ignore: []string{"base/1"}, StopAtFirst: true}, []string{`checksum mismatch for file "PG_VERSION"`}, ErrStopped},
		{Options{StopAtFirst: true}, []string{`"base/1/1259" is present in the manifest but not on disk`}, ErrStopped},
	} {
		problems, err := verified(t, dir, true, c.o)
		if diff := cmp.Diff(c.want, problems); diff != "" || !errors.Is(err, c.err) {
			t.Errorf("%+v: %v %s", c.o, err, diff)
		}
	}
}

func TestVerificationCanBeStopped(t *testing.T) {
	whole := newBackup()
	ctx, cancel := context.WithCancelCause(t.Context())
	wanted := errors.New("enough")
	cancel(wanted)
	for _, form := range []func(files, *testing.T, string){files.plain, files.archives} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, manifest.Name), []byte(manifestOf(whole, manifest.CRC32C)))
		form(whole, t, dir)
		m, files, err := Load(filepath.Join(dir, manifest.Name))
		if err != nil {
			t.Fatal(err)
		}
		v := New(m, files, Options{Report: func(err error) { t.Error(err) }})
		if _, err := os.Stat(filepath.Join(dir, "base.tar")); err == nil {
			v.ignore = []string{manifest.Name}
			err = v.Archives(ctx, dir)
			if !errors.Is(err, wanted) {
				t.Error(err)
			}
			continue
		}
		if err := v.Checksums(ctx, dir); !errors.Is(err, wanted) {
			t.Error(err)
		}
	}
}
