package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

// serveAxes are what a backup from basin serve, by a stock client, is made of.
func serveAxes() []axis {
	return []axis{
		{"server", []string{"13", "14", "15", "16", "17", "18"}},
		{"client", []string{"18", "15"}},
		{"format", []string{"plain", "tar", "stdout"}},
		{"wal", []string{"stream", "fetch", "none"}},
		{"compression", []string{"none", "gzip", "lz4", "zstd"}},
		{"tablespaces", []string{"0", "in place", "mapped"}},
		{"source", []string{"primary", "standby"}},
		{"manifest", []string{"default", "none", "sha256", "encoded", "absent"}},
		{"rate", []string{"any", "limited"}},
		{"kind", []string{"full", "incremental"}},
	}
}

// serveRule is false for what does not go together: what the client refuses, and what
// the server cannot do.
func serveRule(c matrixCase) bool {
	is := func(name string, values ...string) bool { return slices.Contains(values, c[name]) }
	old := is("server", "13", "14")
	compressed := is("compression", "gzip", "lz4", "zstd")
	switch {
	case is("client", "15") && is("server", "16", "17", "18"), // it refuses newer servers
		compressed && old,
		compressed && is("format", "stdout") && is("manifest", "default", "none", "sha256", "encoded"), // nothing can be put into it
		is("format", "stdout") && is("wal", "stream"),
		is("format", "stdout") && is("tablespaces", "in place", "mapped"), // it takes one archive
		is("tablespaces", "in place") && old,
		is("tablespaces", "in place") && is("server", "15") && is("format", "tar"), // 15 leaves them out
		is("tablespaces", "in place") && is("client", "15"),                        // which takes them for links
		is("tablespaces", "mapped") && is("source", "standby"),                     // on one machine it has them at the same place
		is("kind", "incremental") && is("server", "13", "14", "15", "16"),
		is("kind", "incremental") && is("client", "15"),
		is("kind", "incremental") && is("manifest", "absent"),
		is("kind", "incremental") && is("format", "tar", "stdout"), // pg_combinebackup takes none
		is("kind", "incremental") && is("source", "standby"):       // where summaries lag behind an idle one
		return false
	}
	return true
}

func (c matrixCase) name(axes []axis) string {
	var parts []string
	for _, a := range axes {
		if value := c[a.name]; a.name != "server" && (a.name == "format" || a.name == "wal" || value != a.values[0]) {
			parts = append(parts, a.name+"="+strings.ReplaceAll(value, " ", "-"))
		}
	}
	return strings.Join(parts, ",")
}

func TestServeMatrix(t *testing.T) {
	basin := newProgram(t, "basin")
	byServer := make(map[int]map[string][]matrixCase)
	for _, c := range chooseCases(serveAxes(), serveRule, "server", "client", "format", "wal", "compression", "tablespaces", "source") {
		if byServer[c.major()] == nil {
			byServer[c.major()] = make(map[string][]matrixCase)
		}
		byServer[c.major()][c["tablespaces"]] = append(byServer[c.major()][c["tablespaces"]], c)
	}
	for _, major := range slices.Backward(pgtest.Majors()) {
		if byServer[major] == nil {
			continue
		}
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			m := startServeMatrix(t, basin, major)
			for _, tablespaces := range []string{"0", "in place", "mapped"} {
				m.grow(t, tablespaces)
				for _, c := range byServer[major][tablespaces] {
					t.Run(c.name(serveAxes()), func(t *testing.T) { m.test(t, c) })
				}
			}
		})
	}
}

// serveMatrix is what the backups of one major are taken of.
type serveMatrix struct {
	*matrixSource
	basin   *program
	primary *served
	standby *served // nil once there are tablespaces that it cannot have
}

func startServeMatrix(t *testing.T, basin *program, major int) *serveMatrix {
	m := &serveMatrix{basin: basin, matrixSource: startMatrixSource(t, major)}
	if major >= 17 {
		m.Set(t, "summarize_wal", "on")
	}
	m.primary = startServe(t, basin, m.Server)
	m.standby = startServe(t, basin, m.Standby(t, nil))
	return m
}

// grow gives the source the tablespaces of a stage.
func (m *serveMatrix) grow(t *testing.T, tablespaces string) {
	switch tablespaces {
	case "in place":
		m.matrixSource.grow(t, "in place")
		m.WaitReplay(t, m.standby.Server)
	case "mapped":
		m.standby.ends(t)
		m.standby.Stop(t, pgtest.Fast)
		m.standby = nil
		m.matrixSource.grow(t, "1")
		m.matrixSource.grow(t, "2")
	}
}

// test takes one backup, and whatever it is made of, and starts a server of it.
func (m *serveMatrix) test(t *testing.T, c matrixCase) {
	work := pgtest.TempDir(t)
	v := m.primary
	if c["source"] == "standby" {
		v = m.standby
	}
	load := pgtest.StartLoad(t.Context(), t, m.Server, 1)
	eventually(t, "load", func() bool { return load.Committed() > 0 })
	dir := filepath.Join(work, "backup")
	if c["kind"] == "incremental" {
		parent := filepath.Join(work, "full")
		m.take(t, v, matrixCase{"client": c["client"], "format": "plain", "wal": "none"}, filepath.Join(work, "first"), parent)
		was := load.Committed()
		eventually(t, "changes", func() bool { return load.Committed() > was+20 })
		changes := filepath.Join(work, "changes")
		m.take(t, v, c, filepath.Join(work, "tablespaces"), changes, "--incremental="+filepath.Join(parent, "backup_manifest"))
		m.verify(t, c, changes)
		args := []string{"-o", dir, parent, changes}
		for name := range m.tablespaces {
			args = append(args, "-T", filepath.Join(work, "tablespaces", name)+"="+filepath.Join(work, "combined", name))
		}
		tool(t, m.Major, "pg_combinebackup", args...)
	} else {
		m.take(t, v, c, filepath.Join(work, "tablespaces"), dir)
	}
	load.Stop(t)
	v.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('basin backup', 'basin pin')", "0")
	v.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE temporary", "0")

	if c["format"] == "stdout" {
		data := filepath.Join(work, "stdout")
		extract(t, dir, "base", data)
		pgtest.Own(t, work)
		dir = data
	}
	b := storedBackup{major: m.Major, dir: dir, tar: c["format"] == "tar", manifest: c["manifest"] != "absent"}
	if c["wal"] == "none" {
		b.archive = m.archive
		if c["source"] == "standby" { // which archives nothing, but has the primary's log
			last := m.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
			m.WaitFor(t, "SELECT last_archived_wal >= '"+last+"' FROM pg_stat_archiver", "t")
		}
	}
	data := b.restore(t, work)
	if c["source"] == "standby" { // the copy is not to be one
		if err := os.Remove(filepath.Join(data, "standby.signal")); err != nil {
			t.Fatal(err)
		}
	}
	conf := map[string]string{"archive_mode": "off"}
	if c["wal"] == "none" {
		pgtest.SetRecovery(t, m.Major, data, pgtest.Recovery{Settings: map[string]string{"restore_command": "cp " + m.archive + "/%f %p"}})
	}
	restored := pgtest.StartDir(t, m.Major, data, conf)
	restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if diff := cmp.Diff(m.sums, quietSums(t, restored)); diff != "" {
		t.Errorf("rows (-server +restored):\n%s", diff)
	}
	checkLoad(t, restored, 1)
	checkStructure(t, restored)
	restored.Stop(t, pgtest.Fast)
}

// verify has the stock program look at a backup that cannot be started by itself.
func (m *serveMatrix) verify(t *testing.T, c matrixCase, dir string) {
	storedBackup{major: m.Major, dir: dir, manifest: true, archive: map[bool]string{true: m.archive}[c["wal"] == "none"]}.verify(t, dir)
}

// take takes a backup with a stock client.
func (m *serveMatrix) take(t *testing.T, v *served, c matrixCase, tablespaces, dir string, more ...string) {
	t.Helper()
	client, err := strconv.Atoi(c["client"])
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{"-d", v.conninfo(), "-c", "fast", "-X", c["wal"]}, more...)
	switch c["format"] {
	case "plain":
		args = append(args, "-D", dir)
		for name, from := range m.tablespaces {
			args = append(args, "-T", from+"="+filepath.Join(tablespaces, name))
		}
	case "tar":
		args = append(args, "-D", dir, "-Ft")
	case "stdout":
		args = append(args, "-D", "-", "-Ft")
	}
	switch c["compression"] {
	case "zstd":
		args = append(args, "-Z", "server-zstd:level=1,workers=2")
	case "gzip", "lz4":
		args = append(args, "-Z", "server-"+c["compression"]+":1")
	}
	switch c["manifest"] {
	case "none", "sha256":
		args = append(args, "--manifest-checksums="+c["manifest"])
	case "encoded":
		args = append(args, "--manifest-force-encode")
	case "absent":
		args = append(args, "--no-manifest")
	}
	if c["rate"] == "limited" {
		args = append(args, "--max-rate=200M")
	}
	command := pgtest.Command(t, client, "pg_basebackup", args...)
	if c["format"] == "stdout" {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		suffix := map[string]string{"gzip": ".gz", "lz4": ".lz4", "zstd": ".zst"}[c["compression"]]
		out, err := os.Create(filepath.Join(dir, "base.tar"+suffix))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		command.Stdout = out
	}
	e := startCommand(t, command).wait(t)
	if e.status != exitSuccess || e.signal != 0 || !onlyNotices(e.stderr) {
		t.Fatalf("%s\nserver:\n%s", e, fmt.Sprint(v.process.stderr.String()))
	}
}
