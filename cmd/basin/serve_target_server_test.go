package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"basin/internal/pgtest"
)

func TestServeTargets(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, major := range []int{15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, pgtest.Config{Major: major, Conf: sideBySide()})
			pgtest.Fill(t, s, 1)
			s.Tablespace(t, "aside")
			dir, outside := pgtest.TempDir(t), pgtest.TempDir(t)
			below := func(name string) string { return filepath.Join(dir, name) }
			for _, name := range []string{"empty", "full", "full/something"} {
				if err := os.Mkdir(below(name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for name, to := range map[string]string{"link": outside, "up": "..", "inside": "empty", "file": "full/nothing"} {
				if err := os.Symlink(to, below(name)); err != nil {
					t.Fatal(err)
				}
			}
			pgtest.Own(t, dir)
			v := startServe(t, basin, s, "--target-directory", dir)
			take := func(target string, args ...string) ending {
				t.Helper()
				return stock(t, major, "pg_basebackup", append([]string{"-d", v.conninfo(), "-c", "fast", "-t", target}, args...)...)
			}
			for _, name := range []string{"new", "empty"} {
				if e := take("server:"+below(name), "-X", "fetch"); e.status != 0 {
					t.Fatalf("%s\nserver: %s", e, v.process.stderr.String())
				}
				tool(t, pgtest.Newest, "pg_verifybackup", "-n", below(name))
			}
			if got := entries(t, below("new")); len(got) != 3 || got[1] != "backup_manifest" || got[2] != "base.tar" {
				t.Errorf("there is %q", got)
			}
			if e := take("server:"+below("zipped"), "-X", "fetch", "-Z", "gzip"); e.status != 0 {
				t.Fatal(e)
			}
			tool(t, pgtest.Newest, "pg_verifybackup", "-n", below("zipped"))
			for _, method := range []string{"none", "fetch"} {
				if e := take("blackhole", "-X", method); e.status != 0 {
					t.Fatal(e)
				}
			}
			for _, c := range []struct{ path, want string }{
				{"/etc", "permission denied to create backup in directory"},
				{outside + "/x", "permission denied to create backup in directory"},
				{dir, "permission denied to create backup in directory"},
				{dir + "/../" + filepath.Base(outside) + "/x", "permission denied to create backup in directory"},
				{dir + "x/y", "permission denied to create backup in directory"},
				{below("new/../../x"), "permission denied to create backup in directory"},
				{below("link/x"), "escapes"},
				{below("link"), "escapes"},
				{below("up/x"), "escapes"},
				{below("file"), "could not create directory"},
				{below("full"), fmt.Sprintf(`directory "%s" exists but is not empty`, below("full"))},
				{below("new"), fmt.Sprintf(`directory "%s" exists but is not empty`, below("new"))},
				{below("inside"), "exists but is not empty"},
				{below("absent/x"), "No such file or directory"},
				{"relative", "relative path not allowed for backup stored on server"},
			} {
				e := take("server:"+c.path, "-X", "fetch")
				if e.status != 1 || !strings.Contains(e.stderr, c.want) {
					t.Errorf("%s: %s", c.path, e)
				}
			}
			if got := entries(t, outside); len(got) > 0 {
				t.Errorf("outside there is %q", got)
			}
			c := startCommand(t, pgtest.Command(t, major, "pg_basebackup", "-d", v.conninfo(), "-c", "fast", "-X", "fetch", "-r", "1M", "-t", "server:"+below("cut")))
			eventually(t, "an archive", func() bool { _, err := os.Stat(below("cut/base.tar")); return err == nil })
			c.signal(t, syscall.SIGKILL)
			eventually(t, "its end", func() bool { _, err := os.Lstat(below("cut")); return os.IsNotExist(err) })
			v.ends(t)
			v = startServe(t, basin, s)
			if e := take("server:"+below("more"), "-X", "fetch"); e.status != 1 || !strings.Contains(e.stderr, "permission denied to create backup stored on server") {
				t.Error(e)
			}
			v.ends(t)
		})
	}
}
