package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"basin/internal/object/s3/s3test"
	"basin/internal/pgtest"
	"basin/internal/repo"
)

// TestPushBeside pushes a segment, and with it those that wait behind it: they are not read again when they are asked for,
// unless they have changed, and nothing is pushed behind one that the repository has with another content.
func TestPushBeside(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	r := newStore(t, basin, nil, false)
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1, Conf: map[string]string{"wal_level": "replica", "archive_mode": "on", "archive_command": "false"}})
	for i := range 8 {
		s.Exec(t, fmt.Sprintf("CREATE TABLE t%d (n int)", i), "SELECT pg_switch_wal()")
	}
	pgWAL, spool := filepath.Join(s.DataDir, "pg_wal"), pgtest.TempDir(t)
	ready, err := readQueue(pgWAL)
	if err != nil || ready.Files < 8 || ready.Bytes != int64(ready.Files)<<20 {
		t.Fatalf("%+v wait, error %v", ready, err)
	}
	names := ready.names
	push := func(name string, args ...string) ending {
		t.Helper()
		return r.run(t, "wal push", append(args, "-D", s.DataDir, "--spool="+spool, filepath.Join(pgWAL, name))...)
	}
	stored := func() []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(r.location, "main", "*", "wal", "00000001", "00000000", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for i := range found {
			found[i] = filepath.Base(found[i])
		}
		return found
	}
	eventually(t, "the log is old enough", func() bool {
		info, err := os.Stat(filepath.Join(pgWAL, names[len(names)-1]))
		return err == nil && time.Since(info.ModTime()) > youngTime
	})
	content, err := os.ReadFile(filepath.Join(pgWAL, names[5]))
	if err != nil {
		t.Fatal(err)
	}
	content[100]++
	other := filepath.Join(spool, names[5])
	if err := os.WriteFile(other, content, 0o644); err != nil {
		t.Fatal(err)
	}
	r.run(t, "wal push", "-D", s.DataDir, other).succeeded(t)

	push(names[0], "--jobs=1").succeeded(t)
	if got := stored(); !slices.Equal(got, []string{names[0], names[5]}) {
		t.Fatalf("with one job there are %v", got)
	}
	push(names[0]).succeeded(t) // again, as after a crash
	if got := stored(); !slices.Equal(got, names[:6]) {
		t.Fatalf("stored are %v", got)
	}
	away := r.location + ".away"
	if err := os.Rename(r.location, away); err != nil {
		t.Fatal(err)
	}
	for _, name := range names[1:4] {
		push(name).succeeded(t)
	}
	now := time.Now()
	if err := os.Chtimes(filepath.Join(pgWAL, names[4]), now, now); err != nil {
		t.Fatal(err)
	}
	push(names[4]).says(t, exitFailure, "no such file")
	if err := os.Rename(away, r.location); err != nil {
		t.Fatal(err)
	}
	push(names[4]).succeeded(t)
	push(names[5]).says(t, exitFailure, "with another content", "hint: Two servers write to one archive")
	if got := stored(); !slices.Equal(got, names[:6]) {
		t.Fatalf("behind a conflict are %v", got)
	}
	push(names[6]).succeeded(t)
	if got := stored(); !slices.Equal(got, names) {
		t.Fatalf("in the end there are %v", got)
	}
}

// TestFullQueue has a repository go away until more log waits than may: it is kept, or, if that is wanted, given up, which is
// critical until there is a backup behind it.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	r := newStore(t, basin, nil, false)
	spool, config := pgtest.TempDir(t), filepath.Join(pgtest.TempDir(t), "basin.toml")
	configure := func(full string, data string) {
		t.Helper()
		write(t, config, fmt.Sprintf("[repository.local]\nlocation = %q\n[cluster.main]\nrepositories = [\"local\"]\nspool = %q\nqueue_max = \"4MiB\"\nqueue_full = %q\n%s",
			r.location, spool, full, data))
	}
	configure("keep", "")
	r.options = []string{"--config=" + config}
	k := keepIn(t, r, pgtest.Config{WALSegmentSizeMB: 1})
	k.Exec(t, "CREATE TABLE marks (n int)")
	k.backUp(t, false)
	configure("keep", fmt.Sprintf("data_directory = %q\n", k.DataDir))
	waiting := func() int {
		t.Helper()
		q, err := readQueue(filepath.Join(k.DataDir, "pg_wal"))
		if err != nil {
			t.Fatal(err)
		}
		return q.Files
	}
	fill := func() {
		k.Exec(t, "CREATE TABLE IF NOT EXISTS fill (n int)", "INSERT INTO fill VALUES (1)", "SELECT pg_switch_wal()")
	}
	logged := func(text string) bool { return bytes.Contains([]byte(k.Log(t)), []byte(text)) }
	status := func(want int, texts ...string) {
		t.Helper()
		r.run(t, "status", "--max-log-age=off", "--max-verify-age=off").says(t, want, texts...)
	}
	status(int(stateOK))
	away := r.location + ".away"
	if err := os.Rename(r.location, away); err != nil {
		t.Fatal(err)
	}
	for waiting() < 3 {
		fill()
	}
	status(int(stateWarning), "wait to be archived", "no such file")
	for waiting() < 7 {
		fill()
	}
	eventually(t, "it is warned", func() bool { return logged("more than queue_max") })
	status(int(stateCritical), "all is kept")
	if n := waiting(); n < 7 {
		t.Fatalf("only %d wait", n)
	}

	configure("drop", fmt.Sprintf("data_directory = %q\n", k.DataDir))
	fill() // which wakes who archives
	eventually(t, "log is given up", func() bool { return waiting() <= 4 })
	if !logged("is given up, and missing for good in " + r.location) {
		t.Error(k.Log(t))
	}
	status(int(stateCritical), "log is missing for good", "is yet to be told", "no such file")

	if err := os.Rename(away, r.location); err != nil {
		t.Fatal(err)
	}
	fill()
	eventually(t, "the repository takes log", func() bool { return logged("takes log again; log is missing for good") })
	k.archived(t)
	if left, err := filepath.Glob(filepath.Join(spool, "*"+droppedEnd)); err != nil || len(left) > 0 {
		t.Errorf("it is still noted here: %v, %v", left, err)
	}
	status(int(stateCritical), "log is missing for good", "a new one is needed")
	k.backUp(t, false)
	k.archived(t)
	status(int(stateOK))
}

// TestPushLargeSegment pushes a segment that is not in memory as a whole, from where no data directory is.
func TestPushLargeSegment(t *testing.T) {
	basin := newProgram(t, "basin")
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 128, Conf: map[string]string{"wal_keep_size": "1GB"}})
	s.Exec(t, "CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 100000) g", "SELECT pg_switch_wal()")
	s.Stop(t, pgtest.Fast)
	const name = "000000010000000000000001"
	path, dir := filepath.Join(s.DataDir, "pg_wal", name), pgtest.TempDir(t)
	content, err := os.ReadFile(path)
	if err != nil || len(content) <= repo.WholeLog {
		t.Fatal(len(content), err)
	}
	other := filepath.Join(dir, name)
	content[len(content)-1]++
	write(t, other, string(content))
	content[len(content)-1]--
	for _, r := range []*store{newStore(t, basin, nil, false), newStore(t, basin, s3test.Start(t), true)} {
		r.run(t, "wal push", path).succeeded(t)
		r.run(t, "wal push", path).says(t, exitSuccess) // a bucket that has it may hang up on who sends it: that is told
		r.run(t, "wal push", other).failed(t, "it follows a page of zeros")
		got := filepath.Join(dir, "RECOVERYXLOG")
		r.run(t, "wal get", "-D", s.DataDir, name, got).succeeded(t)
		if there, err := os.ReadFile(got); err != nil || !bytes.Equal(there, content) {
			t.Errorf("%d bytes come back, error %v", len(there), err)
		}
	}
}
