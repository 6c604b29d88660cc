package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

// damagePages changes a byte in the first pages of a table's file.
func damagePages(t *testing.T, s *pgtest.Server, table string, pages int) {
	t.Helper()
	path := s.Query(t, "SELECT pg_relation_filepath('"+table+"')")
	s.Stop(t, pgtest.Fast)
	file, err := os.OpenFile(filepath.Join(s.DataDir, path), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for page := range pages {
		if _, err := file.WriteAt([]byte("damaged"), int64(page)*8192+4000); err != nil {
			t.Fatal(err)
		}
	}
	s.Start(t)
}

func TestDamagedPages(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, major := range []int{13, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, Checksums: true})
			s.Exec(t, "CREATE TABLE victim AS SELECT g, repeat('x', 500) FROM generate_series(1, 500) g")
			damagePages(t, s, "victim", 7)
			for _, test := range []struct {
				args []string
				kept []string
			}{
				{nil, []string{"PG_VERSION", "global/pg_control"}},
				{[]string{"-Ft"}, []string{"base.tar"}},
				{[]string{"-Ft", "-X", "fetch", "-z"}, []string{"base.tar.gz"}},
			} {
				dir := filepath.Join(pgtest.TempDir(t), "backup")
				e := basin.run(t, nil, append([]string{"-D", dir, "-d", s.ConnString(), "-c", "fast"}, test.args...)...)
				e.failed(t, "\nWARNING:  7 total checksum verification failures\npg_basebackup: error: checksum error occurred\n")
				if !strings.HasPrefix(e.stderr, "WARNING:  checksum verification failed in file ") || strings.Contains(e.stderr, "removing") {
					t.Errorf("%s", e)
				}
				for _, name := range test.kept {
					present(t, filepath.Join(dir, name))
				}
				absent(t, filepath.Join(dir, "backup_manifest"))
			}
			dir := filepath.Join(pgtest.TempDir(t), "backup")
			basin.run(t, nil, "-D", dir, "-d", s.ConnString(), "-c", "fast", "--no-verify-checksums").succeeded(t)
			tool(t, pgtest.Newest, "pg_verifybackup", "-n", dir)
		})
	}
}

func TestStandbyAsSource(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, major := range []int{14, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			primary := pgtest.Start(t, pgtest.Config{Major: major, Checksums: true})
			pgtest.Fill(t, primary, 1)
			standby := primary.Standby(t, nil)
			load := pgtest.StartLoad(t.Context(), t, primary, 1)
			eventually(t, "load", func() bool { return load.Committed() > 20 })
			primary.WaitReplay(t, standby)
			want := quietSums(t, primary)
			for _, args := range [][]string{{"-X", "stream"}, {"-Ft", "-X", "fetch"}, {"-R", "-C", "-S", "cascade"}} { // the settings that come along name a slot of the primary
				work := pgtest.TempDir(t)
				dir := filepath.Join(work, "backup")
				basin.run(t, nil, append([]string{"-D", dir, "-d", standby.ConnString(), "-c", "fast"}, args...)...).succeeded(t)
				b := storedBackup{major: major, dir: dir, tar: args[0] == "-Ft", manifest: true}
				data := b.restore(t, work)
				label, err := os.ReadFile(filepath.Join(data, "backup_label"))
				if err != nil || !strings.Contains(string(label), "\nBACKUP FROM: standby\n") {
					t.Errorf("%v: %s", err, label)
				}
				if args[0] != "-R" {
					if err := os.Remove(filepath.Join(data, "standby.signal")); err != nil {
						t.Fatal(err) // it came with the backup, as the settings that go with it
					}
				}
				restored := pgtest.StartDir(t, major, data, nil)
				if args[0] == "-R" { // it follows the standby, and by it the primary
					primary.WaitReplay(t, restored)
					tool(t, major, "pg_ctl", "promote", "--wait", "--pgdata="+data)
					restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
				}
				if diff := cmp.Diff(want, quietSums(t, restored)); diff != "" {
					t.Errorf("rows (-primary +restored):\n%s", diff)
				}
				checkLoad(t, restored, 20)
				restored.Stop(t, pgtest.Immediate)
			}
			load.Stop(t)
		})
	}
}

func TestStandbyPromotedDuringBackup(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, args := range [][]string{nil, {"-Ft", "-X", "fetch"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			t.Parallel()
			primary := pgtest.Start(t, pgtest.Config{})
			standby := primary.Standby(t, nil)
			h := hold(t, basin, standby, args...)
			tool(t, standby.Major, "pg_ctl", "promote", "--wait", "--pgdata="+standby.DataDir)
			h.wait(t).failed(t, "ERROR:  the standby was promoted during online backup", "removing data directory")
			h.cleaned(t)
			h.forgotten(t, standby)
		})
	}
}

func TestUnusualNames(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	tablespace := filepath.Join(filepath.Dir(s.DataDir), "a space, a = and a \"quote\"")
	if err := os.Mkdir(tablespace, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, tablespace)
	s.Exec(t, "CREATE TABLESPACE odd LOCATION '"+tablespace+"'",
		"CREATE TABLE odd TABLESPACE odd AS SELECT generate_series(1, 100)",
		`CREATE DATABASE "a 'quoted' base"`)
	names := []string{"with space", "with'quote", `with"two`, `with\backslash`, "with\nline", "latin\xe9", "\xff\xfe", "später", "-rf", "#", "~", strings.Repeat("n", 98)}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(s.DataDir, name), []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Own(t, s.DataDir)
	for _, format := range []string{"plain", "tar"} {
		work := pgtest.TempDir(t)
		dir := filepath.Join(work, "backup, it's = new")
		place := filepath.Join(work, "tablespace = it's")
		escape := strings.NewReplacer("=", `\=`)
		basin.run(t, nil, "-D", dir, "-F", format, "-d", s.ConnString(), "-c", "fast", "-l", `label with 'quotes', ü and \`,
			"-T", escape.Replace(tablespace)+"="+escape.Replace(place)).succeeded(t)
		b := storedBackup{major: s.Major, dir: dir, tar: format == "tar", manifest: true}
		data := b.restore(t, work)
		for _, name := range names {
			content, err := os.ReadFile(filepath.Join(data, name))
			if err != nil || string(content) != "content of "+name {
				t.Errorf("%s: %q: %v, %q", format, name, err, content)
			}
		}
		label, err := os.ReadFile(filepath.Join(data, "backup_label"))
		if err != nil || !strings.Contains(string(label), "\nLABEL: label with 'quotes', ü and \\\n") {
			t.Errorf("%v: %s", err, label)
		}
		restored := pgtest.StartDir(t, s.Major, data, nil)
		if got := restored.Query(t, "SELECT count(*) FROM odd"); got != "100" {
			t.Errorf("%s rows", got)
		}
	}
}

// TestLongNames has names around the longest that tar holds, 99 bytes.
func TestLongNames(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, length := range []int{98, 99, 100, 101} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{})
			name := strings.Repeat("n", length)
			if err := os.WriteFile(filepath.Join(s.DataDir, name), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
			pgtest.Own(t, s.DataDir)
			for _, format := range []string{"plain", "tar"} {
				work := pgtest.TempDir(t)
				dir := filepath.Join(work, "backup")
				e := basin.run(t, nil, "-D", dir, "-F", format, "-d", s.ConnString(), "-c", "fast")
				if length > 99 {
					e.failed(t, `ERROR:  file name too long for tar format: "`+name+`"`, "removing data directory")
					absent(t, dir)
					continue
				}
				e.succeeded(t)
				b := storedBackup{major: s.Major, dir: dir, tar: format == "tar", manifest: true}
				present(t, filepath.Join(b.restore(t, work), name))
			}
		})
	}
}

// TestLongTablespaces has folders of tablespaces whose names are around the
// longest link that tar holds, 99 bytes. In tar format they are not sent as links.
func TestLongTablespaces(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, length := range []int{99, 100} {
		t.Run(fmt.Sprint(length), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{})
			parent := pgtest.TempDir(t)
			location := filepath.Join(parent, strings.Repeat("n", length-len(parent)-1))
			if err := os.Mkdir(location, 0o700); err != nil {
				t.Fatal(err)
			}
			pgtest.Own(t, location)
			s.Exec(t, "CREATE TABLESPACE long LOCATION '"+location+"'")
			for _, format := range []string{"plain", "tar"} {
				work := pgtest.TempDir(t)
				dir := filepath.Join(work, "backup")
				e := basin.run(t, nil, "-D", dir, "-F", format, "-T", location+"="+filepath.Join(work, "long"), "-d", s.ConnString(), "-c", "fast")
				if length > 99 && format == "plain" {
					e.failed(t, "ERROR:  symbolic link target too long for tar format", location)
					if got := entries(t, work); len(got) > 0 {
						t.Errorf("left behind: %q", got)
					}
					continue
				}
				e.succeeded(t)
				b := storedBackup{major: s.Major, dir: dir, tar: format == "tar", manifest: true}
				b.restore(t, work)
			}
		})
	}
}

func TestSegmentSizes(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, test := range []struct {
		major, megabytes int
		args             []string
	}{
		{11, 1, []string{"-Ft"}},
		{18, 1, nil},
		{18, 1, []string{"-Ft"}},
		{18, 1, []string{"-Ft", "-X", "fetch"}},
		{17, 64, []string{"-X", "fetch"}},
		{18, 1024, nil},
	} {
		t.Run(fmt.Sprint(test.major, " ", test.megabytes, " ", test.args), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: test.major, WALSegmentSizeMB: test.megabytes})
			var load *pgtest.Load
			if test.megabytes < 1024 {
				load = pgtest.StartLoad(t.Context(), t, s, 1)
			}
			work := pgtest.TempDir(t)
			dir := filepath.Join(work, "backup")
			basin.run(t, nil, append([]string{"-D", dir, "-d", s.ConnString(), "-c", "fast"}, test.args...)...).succeeded(t)
			if load != nil {
				load.Stop(t)
			}
			b := storedBackup{major: test.major, dir: dir, tar: len(test.args) > 0 && test.args[0] == "-Ft", manifest: test.major >= 13}
			data := b.restore(t, work)
			segment := regexp.MustCompile(`^[0-9A-F]{24}$`)
			for _, name := range entries(t, filepath.Join(data, "pg_wal")) {
				info, err := os.Stat(filepath.Join(data, "pg_wal", name))
				if err != nil {
					t.Fatal(err)
				}
				if segment.MatchString(name) && info.Size() != int64(test.megabytes)<<20 {
					t.Errorf("segment %s has %d bytes", name, info.Size())
				}
			}
			s.Stop(t, pgtest.Immediate)
			pgtest.StartDir(t, test.major, data, nil).Query(t, "SELECT 1")
		})
	}
}

// TestModes has data directories that a group may read and such that it may not,
// and users whose umask would have it otherwise.
func TestModes(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	for _, group := range []bool{false, true} {
		s := pgtest.Start(t, pgtest.Config{GroupAccess: group, Conf: sideBySide()})
		dirMode, fileMode := fs.FileMode(0o700), fs.FileMode(0o600)
		if group {
			dirMode, fileMode = 0o750, 0o640
		}
		for _, umask := range []string{"0", "077", "0777"} {
			for _, args := range [][]string{{"-R"}, {"-X", "fetch"}, {"--waldir=$DIR/backup.wal"}, {"-Ft", "-R", "-z"}} {
				t.Run(fmt.Sprint(group, " ", umask, " ", args), func(t *testing.T) {
					t.Parallel()
					work := pgtest.TempDir(t)
					all := []string{"-D", filepath.Join(work, "backup"), "-d", s.ConnString(), "-c", "fast"}
					for _, arg := range args {
						all = append(all, strings.ReplaceAll(arg, "$DIR", work))
					}
					c := basin.command(t.Context(), nil, all...)
					c.Args = append([]string{"sh", "-c", "umask " + umask + ` && exec "$@"`, "sh", c.Path}, all...)
					c.Path = "/bin/sh"
					startCommand(t, c).wait(t).succeeded(t)
					if err := filepath.WalkDir(work, func(path string, entry fs.DirEntry, err error) error {
						if err != nil || path == work || entry.Type() == fs.ModeSymlink {
							return err
						}
						info, err := entry.Info()
						if err != nil {
							return err
						}
						want := fileMode
						if entry.IsDir() {
							want = dirMode
						}
						if info.Mode().Perm() != want {
							t.Errorf("%s: %v, not %v", path, info.Mode(), want)
						}
						return nil
					}); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
}

// TestSameBytes compares a tar backup of a server at rest with its data directory.
func TestSameBytes(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{Conf: map[string]string{"autovacuum": "off"}})
	pgtest.Fill(t, s, 1)
	work := pgtest.TempDir(t)
	dir := filepath.Join(work, "backup")
	basin.run(t, nil, "-D", dir, "-d", s.ConnString(), "-c", "fast").succeeded(t)
	s.Stop(t, pgtest.Fast)
	compared := 0
	if err := filepath.WalkDir(filepath.Join(dir, "base"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		copied, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		original, err := os.ReadFile(filepath.Join(s.DataDir, strings.TrimPrefix(path, dir)))
		if err != nil {
			return err
		}
		if !bytes.Equal(copied, original) {
			t.Errorf("%s differs", path)
		}
		compared++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if compared < 900 {
		t.Errorf("only %d files", compared)
	}
}
