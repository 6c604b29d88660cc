package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"basin/internal/pgtest"
)

func TestFullDisk(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	tablespace := s.Tablespace(t, "large")
	s.Exec(t, "CREATE TABLE large TABLESPACE large AS SELECT g, repeat('x', 1000) FROM generate_series(1, 9000) g")
	noSpace := []string{"No space left on device", "pg_basebackup: hint: ", "bytes free"}
	for _, test := range []struct {
		reason string
		args   []string // $FULL is on the small disk, $DIR on another
		said   []string
		left   string // on the small disk
	}{
		{"plain", []string{"-D", "$FULL/new", "-T", tablespace + "=$DIR/large"}, noSpace, "[]"},
		{"plain, log fetched", []string{"-D", "$FULL/new", "-X", "fetch", "-T", tablespace + "=$DIR/large"}, noSpace, "[]"},
		{"plain, the disk itself", []string{"-D", "$FULL", "-T", tablespace + "=$DIR/large"}, append(noSpace, `removing contents of data directory "$FULL"`), "[]"},
		{"tar", []string{"-Ft", "-D", "$FULL/new"}, noSpace, "[]"},
		{"tar, log fetched", []string{"-Ft", "-X", "fetch", "-D", "$FULL/new"}, noSpace, "[]"},
		{"tar, compressed by many", []string{"-Ft", "-X", "fetch", "-Z", "client-zstd:level=1,workers=4", "-D", "$FULL/new"}, noSpace, "[]"},
		{"tar, compressed there", []string{"-Ft", "-X", "fetch", "-Z", "server-gzip:1", "-D", "$FULL/new"}, noSpace, "[]"},
		{"log apart", []string{"-D", "$DIR/new", "--waldir=$FULL/wal", "-T", tablespace + "=$DIR/large"}, noSpace, "[]"},
		{"tablespace", []string{"-D", "$DIR/new", "-T", tablespace + "=$FULL/large"}, noSpace, "[]"},
		{"what there is is wanted", []string{"-n", "-D", "$FULL/new", "-T", tablespace + "=$DIR/large"}, append(noSpace, "not removed at user's request"), "[new]"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			full, ok := smallDisk(t, 2)
			if !ok {
				return
			}
			dir := pgtest.TempDir(t)
			place := strings.NewReplacer("$FULL", full, "$DIR", dir)
			args := []string{"-d", s.ConnString(), "-c", "fast"}
			for _, arg := range test.args {
				args = append(args, place.Replace(arg))
			}
			e := basin.run(t, nil, args...)
			for _, text := range test.said {
				e.failed(t, place.Replace(text))
			}
			if got := fmt.Sprint(entries(t, full)); got != test.left {
				t.Errorf("left on the small disk: %s", got)
			}
			if got := entries(t, dir); len(got) > 0 && test.left == "[]" {
				t.Errorf("left elsewhere: %q", got)
			}
		})
	}
	t.Run("file too large", func(t *testing.T) {
		t.Parallel()
		for _, args := range [][]string{{"-Ft", "-X", "fetch"}, {"-T", tablespace + "=$DIR/large"}} {
			dir := pgtest.TempDir(t)
			args = append(args, "-D", filepath.Join(dir, "new"), "-d", s.ConnString(), "-c", "fast")
			for i, arg := range args {
				args[i] = strings.ReplaceAll(arg, "$DIR", dir)
			}
			c := basin.command(t.Context(), nil, args...)
			c.Args = append([]string{"sh", "-c", `ulimit -f 2048 && exec "$@"`, "sh", c.Path}, args...)
			c.Path = "/bin/sh"
			startCommand(t, c).wait(t).failed(t, "File too large", "hint: ", "ulimit -f")
			if got := entries(t, dir); len(got) > 0 {
				t.Errorf("left behind: %q", got)
			}
		}
	})
	t.Run("standard output", func(t *testing.T) {
		t.Parallel()
		s := pgtest.Start(t, pgtest.Config{}) // one without tablespaces
		for _, compression := range []string{"none", "client-lz4"} {
			full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer full.Close()
			c := basin.command(t.Context(), nil, "-Ft", "-X", "fetch", "-D", "-", "-Z", compression, "-d", s.ConnString(), "-c", "fast")
			c.Stdout = full
			startCommand(t, c).wait(t).failed(t, "No space left on device")
		}
	})
	t.Run("nobody reads the standard output", func(t *testing.T) {
		t.Parallel()
		s := pgtest.Start(t, pgtest.Config{})
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		c := basin.command(t.Context(), nil, "-Ft", "-X", "fetch", "-D", "-", "-d", s.ConnString(), "-c", "fast")
		c.Stdout = w
		p := startCommand(t, c)
		w.Close()
		if e := p.wait(t); e.signal != syscall.SIGPIPE && e.status != exitFailure {
			t.Errorf("%s", e)
		}
	})
}

// TestForgetOnFullDisk fills the file system of a repository: forget and prune make room all the same, and whoever else writes is told
// what to do.
func TestForgetOnFullDisk(t *testing.T) {
	t.Parallel()
	dir, ok := smallDisk(t, 24)
	if !ok {
		return
	}
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{Conf: map[string]string{"wal_level": "replica"}})
	location := "--repository=" + filepath.Join(dir, "repository")
	basin.run(t, nil, "init", location).says(t, exitSuccess)
	for range 2 {
		basin.run(t, nil, "backup", location, "-c", "fast", "--full", "-d", s.ConnString()).says(t, exitSuccess)
		s.Exec(t, "CREATE TABLE IF NOT EXISTS t AS SELECT 1 AS n", "VACUUM FULL pg_class")
	}
	n := 0
	for size := 1 << 20; size > 0; n++ { // down to the last byte
		f, err := os.Create(filepath.Join(dir, fmt.Sprint("filler", n)))
		if err == nil {
			_, err = f.Write(make([]byte, size))
			_ = f.Close()
		}
		if err != nil {
			size /= 2
		}
	}
	basin.run(t, nil, "pin", location, "latest").says(t, exitFailure, "no space left on device", "basin forget removes backups")
	basin.run(t, nil, "verify", location).says(t, exitFailure, "2 backups: ", "what was verified is not noted", "no space left on device", "basin forget removes backups")
	basin.run(t, nil, "forget", location, "--keep-last=1").says(t, exitSuccess, "no rule keeps it")
	basin.run(t, nil, "prune", location).says(t, exitSuccess, "of 1 backup")
	basin.run(t, nil, "verify", location).says(t, exitSuccess)
	basin.run(t, nil, "pin", location, "latest").says(t, exitSuccess)
}

func TestUnusableDirectories(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	tablespace := s.Tablespace(t, "one")
	for _, test := range []struct {
		reason  string
		prepare string // a shell script, in the folder that the program gets as $DIR
		args    []string
		said    string
		left    string
	}{
		{"not empty", "mkdir d; echo x >d/file", []string{"-D", "$DIR/d"}, `error: directory "$DIR/d" exists but is not empty`, "d d/file"},
		{"hidden file", "mkdir d; echo x >d/.file", []string{"-D", "$DIR/d"}, `error: directory "$DIR/d" exists but is not empty`, "d d/.file"},
		{"root of a disk", "mkdir -p d/lost+found", []string{"-D", "$DIR/d"}, `error: directory "$DIR/d" exists but is not empty`, "d d/lost+found"},
		{"a file", "echo x >d", []string{"-D", "$DIR/d"}, `error: could not access directory "$DIR/d": Not a directory`, "d"},
		{"below a file", "echo x >d", []string{"-D", "$DIR/d/new"}, `"$DIR/d/new": Not a directory`, "d"},
		{"not to be written to", "mkdir d; chmod 555 d", []string{"-D", "$DIR/d/new"}, `error: could not create directory "$DIR/d/new": Permission denied`, "d"},
		{"empty and not to be written to", "mkdir d; chmod 555 d", []string{"-D", "$DIR/d", "-T", tablespace + "=$DIR/t"}, "Permission denied", "d"},
		{"not to be read", "mkdir d; chmod 111 d", []string{"-D", "$DIR/d"}, `error: could not access directory "$DIR/d": Permission denied`, "d"},
		{"link to nowhere", "ln -s nowhere d", []string{"-D", "$DIR/d"}, `"$DIR/d": File exists`, "d"},
		{"WAL directory not empty", "mkdir w; echo x >w/file", []string{"-D", "$DIR/d", "--waldir=$DIR/w"}, `error: directory "$DIR/w" exists but is not empty`, "w w/file"},
		{"tablespace not empty", "mkdir t; echo x >t/file", []string{"-D", "$DIR/d", "-T", tablespace + "=$DIR/t"}, `error: directory "$DIR/t" exists but is not empty`, "t t/file"},
		{"tablespace not mapped", "", []string{"-D", "$DIR/d"}, `error: directory "` + tablespace + `" exists but is not empty`, ""},
		{"tablespace not to be written to", "mkdir t; chmod 555 t", []string{"-D", "$DIR/d", "-T", tablespace + "=$DIR/t/new"}, `error: could not create directory "$DIR/t/new": Permission denied`, "t"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			dir := pgtest.TempDir(t)
			if out, err := runShell(dir, test.prepare).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			args := []string{"-d", s.ConnString(), "-c", "fast"}
			for _, arg := range test.args {
				args = append(args, strings.ReplaceAll(arg, "$DIR", dir))
			}
			basin.run(t, nil, args...).failed(t, strings.ReplaceAll(test.said, "$DIR", dir))
			out, err := runShell(dir, "find . -mindepth 1 -printf '%P\n' | sort | xargs").Output()
			if err != nil && test.reason != "not to be read" {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(out)); got != test.left {
				t.Errorf("left behind: %q, not %q", got, test.left)
			}
		})
	}
}

// runShell returns a script, run in a folder as the user the program runs as.
func runShell(dir, script string) *exec.Cmd {
	c := exec.Command("/bin/sh", "-c", script)
	c.Dir = dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: pgtest.Credential()}
	return c
}

// removeInUse removes a folder that somebody goes on making files in, until he
// finds it gone: a removal that comes by just before such a file fails.
func removeInUse(dir string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := os.RemoveAll(dir)
		if !errors.Is(err, syscall.ENOTEMPTY) || time.Now().After(deadline) {
			return err
		}
	}
}

func TestDirectoryGoesAwayDuringBackup(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	s := pgtest.Start(t, pgtest.Config{Conf: sideBySide()})
	for _, test := range []struct {
		reason string
		happen func(*heldBackup) error
		left   string
	}{
		{"removed", func(h *heldBackup) error { return removeInUse(h.backupPath()) }, "[empty]"},
		{"moved and replaced", func(h *heldBackup) error {
			if err := os.Rename(h.backupPath(), h.backupPath()+".moved"); err != nil {
				return err
			}
			return os.WriteFile(h.backupPath(), []byte("not a backup"), 0o644)
		}, "[backup backup.moved empty]"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			h := hold(t, basin, s)
			if err := test.happen(h); err != nil {
				t.Fatal(err)
			}
			if test.reason != "removed" { // without an end of its own
				h.signal(t, syscall.SIGTERM)
				h.wait(t)
			} else {
				h.wait(t).failed(t, "No such file or directory")
			}
			if got := fmt.Sprint(entries(t, h.dir)); got != test.left {
				t.Errorf("left behind: %s", got)
			}
			if moved := h.backupPath() + ".moved"; test.reason != "removed" && len(entries(t, moved)) > 0 {
				t.Errorf("left where it was moved: %q", entries(t, moved))
			}
			h.forgotten(t, s)
		})
	}
}
