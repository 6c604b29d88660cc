package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"basin/internal/pgtest"
)

// TestReadByOthers has the version and the help read as programs do that run
// pg_basebackup, through a link by that name.
func TestReadByOthers(t *testing.T) {
	basin := newProgram(t, "basin")
	link := &program{path: filepath.Join(pgtest.TempDir(t), "pg_basebackup"), home: basin.home}
	if err := os.Symlink(basin.path, link.path); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		reader  string
		args    []string
		pattern string
		want    string // of the first group
	}{
		{"barman, PostgreSQLClient.get_version_info", []string{"--version"}, `^\S+ \(PostgreSQL\) ([0-9.]+)`, "18.6"},
		{"barman, of distributions", []string{"--version"}, `(\d+(?:\.\d+)+|\d+(?:devel|beta|rc)\S*)`, "18.6"},
		{"Patroni, get_major_version", []string{"--version"}, `^[^\s]+ [^\s]+ (\d+)(?:\.\d+)?`, "18"},
		{"shell scripts: awk '{print $3}'", []string{"--version"}, `^\S+\s\S+\s(\S+)\n$`, "18.6"},
		{"PostgreSQL, find_other_exec", []string{"-V"}, `^(pg_basebackup \(PostgreSQL\) 18\.6\n)$`, "pg_basebackup (PostgreSQL) 18.6\n"},
		{"options looked for in the help", []string{"--help"}, `(?m)^ +-X, (--wal-method)=`, "--wal-method"},
		{"options looked for in the help", []string{"--help"}, `(--compress)=`, "--compress"},
		{"options looked for in the help", []string{"--help"}, `(--slot)=SLOTNAME`, "--slot"},
		{"options looked for in the help", []string{"--help"}, `(--checkpoint)=fast\|spread`, "--checkpoint"},
	} {
		t.Run(test.reader, func(t *testing.T) {
			e := link.run(t, nil, test.args...)
			e.succeeded(t)
			got := regexp.MustCompile(test.pattern).FindStringSubmatch(e.stdout)
			if len(got) < 2 || got[1] != test.want {
				t.Errorf("%q of %q", got, e.stdout)
			}
		})
	}
}
