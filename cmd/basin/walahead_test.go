package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

// TestSpoolIsOfOneCluster has two clusters in one data directory, one after the other: what is in the spool of the first is not given out to
// the second, nor is what was got unchecked given out to who did not ask for that.
func TestSpoolIsOfOneCluster(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	location, dir, data := filepath.Join(pgtest.TempDir(t), "repository"), pgtest.TempDir(t), pgtest.TempDir(t)
	basin.run(t, nil, "init", location).says(t, exitSuccess)
	for _, name := range []string{"global", "pg_wal"} {
		if err := os.Mkdir(filepath.Join(data, name), 0o700); err != nil {
			t.Fatal(err)
		}
		pgtest.Own(t, filepath.Join(data, name))
	}
	be := func(systemID uint64) {
		t.Helper()
		write(t, filepath.Join(data, "global", "pg_control"), string(forgedControl(systemID)))
	}
	var names []string
	for _, systemID := range []uint64{7, 99} {
		be(systemID)
		names = nil
		for number := range uint64(3) {
			segment := wal.Segment{Timeline: 1, Number: 5 + number}
			name := segment.Name(wal.DefaultSegmentSize)
			path, content := filepath.Join(data, "pg_wal", name), forgedSegment(systemID, segment, fmt.Sprint("of ", systemID))
			if number == 1 {
				content[60] ^= 1 // the checksum of its record: recovery would end there
			}
			write(t, path, string(content))
			basin.run(t, nil, "wal", "push", "--repository", location, "-D", data, path).says(t, exitSuccess)
			names = append(names, name)
		}
	}
	path := filepath.Join(dir, "RECOVERYXLOG")
	get := func(name string, more ...string) ending {
		t.Helper()
		return basin.run(t, nil, append(append([]string{"wal", "get", "--repository", location, "-D", data, "--spool", dir}, more...), name, path)...)
	}
	be(7)
	get(names[0], "--unchecked").says(t, exitSuccess)
	eventually(t, names[1]+" is in the spool", func() bool {
		found, err := filepath.Glob(filepath.Join(dir, "*", names[1]+".*.log"))
		return err == nil && len(found) == 1
	})
	be(99)
	get(names[1], "--unchecked").says(t, exitSuccess)
	if content, err := os.ReadFile(path); err != nil || !strings.Contains(string(content[:100]), "of 99") {
		t.Errorf("%s comes as another file, error %v", names[1], err)
	}
	be(7)
	get(names[1]).says(t, exitUnknown, "recovery would end there")
}
