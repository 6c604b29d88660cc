package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/pgtest"
)

// TestBackupsAreVerified has backups of each server that writes manifests verified, with
// their log, and with one byte of it changed.
func TestBackupsAreVerified(t *testing.T) {
	for _, major := range []int{13, 15, 17, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major})
			pgtest.Fill(t, s, 1)
			basin := newProgram(t, "basin")
			for _, form := range []struct {
				name, log string // and the file that the log is in
				options   []string
			}{
				{"plain", "pg_wal/", nil},
				{"plain, fetched", "pg_wal/", []string{"-X", "fetch"}},
				{"tar", "pg_wal.tar", []string{"-Ft"}},
				{"tar, fetched", "base.tar", []string{"-Ft", "-X", "fetch"}},
				{"tar, gzip", "pg_wal.tar.gz", []string{"-Ft", "-z"}},
				{"tar, zstd", "pg_wal.tar.zst", []string{"-Ft", "-Z", "zstd", "--compress-wal"}},
			} {
				dir := filepath.Join(pgtest.TempDir(t), "backup")
				basin.run(t, nil, append([]string{"basebackup", "-d", s.ConnString(), "-D", dir, "-c", "fast", "-N"}, form.options...)...).succeeded(t)
				e := basin.run(t, nil, "verifybackup", "-P", dir)
				if e.status != 0 || e.stdout != "backup successfully verified\n" || !strings.HasSuffix(e.stderr, "(100%) verified\n") {
					t.Errorf("%s: %v", form.name, e)
				}
				// Of a compressed file another byte would be changed, and not be read any more.
				if !strings.HasSuffix(form.log, ".gz") && !strings.HasSuffix(form.log, ".zst") {
					damageLog(t, filepath.Join(dir, form.log))
					e := basin.run(t, nil, "verifybackup", dir)
					e.failed(t, "WAL parsing failed for timeline 1", "detail: after 0/")
					if strings.Contains(e.stderr, "checksum mismatch for file") || e.stdout != "" {
						t.Errorf("%s: %v", form.name, e)
					}
				}
			}
		})
	}
}

// damageLog changes a byte of a record that a backup writes about itself, in a file or
// in one of those in a directory.
func damageLog(t *testing.T, path string) {
	t.Helper()
	paths := []string{path}
	if isDirectory(path) {
		paths = nil
		for _, name := range entries(t, path) {
			if len(name) == 24 {
				paths = append(paths, filepath.Join(path, name))
			}
		}
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The record of a running transactions' snapshot is within each backup's range: the
		// backup begins with one. Its resource manager is RM_STANDBY_ID.
		at := runningTransactions(content)
		if at < 0 {
			continue
		}
		content[at+30] ^= 1
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("the record is not found in %s", path)
}

// runningTransactions returns where the last record XLOG_RUNNING_XACTS begins, less than
// zero if there is none: 24 bytes of header, of which the 17th and 18th are 0x10 and 8.
func runningTransactions(content []byte) int {
	for from := len(content); ; {
		i := bytes.LastIndex(content[:from], []byte{0x10, 8, 0, 0})
		if i < 16 {
			return -1
		}
		if i%8 == 0 && content[i-16] < 100 && content[i-15] == 0 {
			return i - 16
		}
		from = i
	}
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// TestDamageFromBeforeTheBackup has pages verified that were damaged in the server, so
// that the manifest has the checksums of damaged files.
func TestDamageFromBeforeTheBackup(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, Checksums: true})
			pgtest.Fill(t, s, 1)
			s.Exec(t, "CREATE TABLE victim AS SELECT g, repeat('x', 500) FROM generate_series(1, 500) g", "CHECKPOINT")
			victim := s.Query(t, "SELECT pg_relation_filepath('victim')")
			backup := func(options ...string) (dir string) {
				dir = filepath.Join(pgtest.TempDir(t), "backup")
				args := []string{"basebackup", "-d", s.ConnString(), "-D", dir, "-c", "fast", "-N", "--no-verify-checksums"}
				basin.run(t, nil, append(args, options...)...).succeeded(t)
				return dir
			}
			intact := backup()
			basin.run(t, nil, "verifybackup", "--page-checksums", intact).succeeded(t)
			damagePages(t, s, "victim", 7)
			for _, options := range [][]string{nil, {"-Ft"}, {"-Ft", "-z"}} {
				dir := backup(options...)
				basin.run(t, nil, "verifybackup", dir).succeeded(t)
				var result verifyResult
				e := basin.run(t, nil, "verifybackup", "--page-checksums", "--json", dir)
				if err := json.Unmarshal([]byte(e.stdout), &result); err != nil || e.status != exitFailure || e.stderr != "" ||
					result.Verified || len(result.Problems) != 7 || result.Files < 900 || result.Bytes < 1<<20 {
					t.Errorf("%v %+v %v", err, result, e)
				}
				e = basin.run(t, nil, "verifybackup", "--page-checksums", dir)
				e.failed(t, fmt.Sprintf("checksum verification failed in file \"%s\", block 0: calculated ", victim), ", block 6: calculated ")
				if n := strings.Count(e.stderr, "error: "); n != 7 {
					t.Errorf("%d pages of 7: %v", n, e)
				}
			}
		})
	}
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		s := pgtest.Start(t, pgtest.Config{})
		dir := filepath.Join(pgtest.TempDir(t), "backup")
		basin.run(t, nil, "basebackup", "-d", s.ConnString(), "-D", dir, "-c", "fast", "-N").succeeded(t)
		basin.run(t, nil, "verifybackup", "--page-checksums", dir).failed(t, "data checksums are not enabled in the cluster", "hint: ")
		basin.run(t, nil, "verifybackup", "--page-checksums", "-s", dir).failed(t, "cannot specify both")
		for path, want := range map[string]string{
			dir: `"verified":true,`, filepath.Dir(dir): `"verified":false,"files":0,"bytes":0,"problems":[{"message":"could not open file `,
		} {
			if e := basin.run(t, nil, "verifybackup", "--json", path); !strings.Contains(e.stdout, want) || e.stderr != "" {
				t.Errorf("%v %s", e, e.stdout)
			}
		}
	})
}
