package main

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

// matrixAxes are what a backup is made of. Of the sums of manifests, which nothing else depends on, one is tried unless all
// are asked for.
func matrixAxes() []axis {
	manifests := []string{"default", "none", "sha256", "encoded", "absent"}
	if isFull() {
		manifests = append(manifests, "sha224", "sha384", "sha512")
	}
	return []axis{
		{"server", []string{"13", "14", "15", "16", "17", "18"}},
		{"format", []string{"plain", "tar"}},
		{"wal", []string{"none", "fetch", "stream"}},
		{"compression", []string{"none", "client-gzip", "client-lz4", "client-zstd", "server-gzip", "server-lz4", "server-zstd"}},
		{"checkpoint", []string{"fast", "spread"}},
		{"manifest", manifests},
		{"recovery", []string{"no", "standby"}},
		{"tablespaces", []string{"0", "1", "2", "in place"}},
		{"rate", []string{"any", "limited"}},
		{"slot", []string{"temporary", "named", "no"}},
		{"waldir", []string{"inside", "apart"}},
		{"sync", []string{"fsync", "syncfs", "no"}},
		{"connection", []string{"socket", "password", "TLS"}},
	}
}

// matrixCase is a choice on matrixAxes, by name; empty is not chosen yet.
type matrixCase map[string]string

func (c matrixCase) major() int { n, _ := strconv.Atoi(c["server"]); return n }

// matrixRule is false for what does not go together: what the program refuses, and
// what the server cannot do.
func matrixRule(c matrixCase) bool {
	is := func(name string, values ...string) bool { return slices.Contains(values, c[name]) }
	onServer, onClient := strings.HasPrefix(c["compression"], "server-"), strings.HasPrefix(c["compression"], "client-")
	withLibraries := c["server"] == "" || pgtest.Full(c.major())
	switch {
	case onClient && is("format", "plain"),
		is("waldir", "apart") && is("format", "tar"),
		is("slot", "named", "no") && is("wal", "none", "fetch"),
		onServer && is("server", "10", "11", "12", "13", "14"),
		is("compression", "server-lz4", "server-zstd") && !withLibraries,
		is("tablespaces", "in place") && is("server", "10", "11", "12", "13", "14"),
		is("tablespaces", "in place") && is("server", "15") && is("format", "tar"): // 15 leaves them out
		return false
	}
	return true
}

// matrixCases returns what TestMatrix tries: choices that hold every pair of
// values, or with BASIN_MATRIX=full, every format with every way to get the log,
// every compression and every server. 10, 11 and 12, which have no manifest and a
// smaller choice of everything, are tried with a few.
func matrixCases() []matrixCase {
	cases := chooseCases(matrixAxes(), matrixRule, "server", "format", "wal", "compression", "recovery")
	for _, server := range []string{"10", "11", "12"} {
		for _, few := range []matrixCase{
			{"format": "plain", "wal": "stream", "recovery": "no", "compression": "none", "tablespaces": "0", "waldir": "apart"},
			{"format": "tar", "wal": "fetch", "recovery": "no", "compression": "client-zstd", "tablespaces": "0", "waldir": "inside"},
			{"format": "plain", "wal": "stream", "recovery": "standby", "compression": "none", "tablespaces": "2", "waldir": "inside"},
			{"format": "tar", "wal": "stream", "recovery": "standby", "compression": "client-gzip", "tablespaces": "2", "waldir": "inside"},
		} {
			rest := matrixCase{
				"server": server, "checkpoint": "fast", "manifest": "absent", "rate": "any",
				"slot": "temporary", "sync": "fsync", "connection": "password",
			}
			maps.Copy(rest, few)
			cases = append(cases, rest)
		}
	}
	return cases
}

// chooseCases returns choices that hold every pair of values, or with BASIN_MATRIX=full
// besides every combination of the values of the axes named.
func chooseCases(axes []axis, rule func(matrixCase) bool, all ...string) []matrixCase {
	named := func(c choice) matrixCase {
		m := make(matrixCase)
		for i, value := range c {
			if value != unset {
				m[axes[i].name] = axes[i].values[value]
			}
		}
		return m
	}
	is := func(c choice) bool { return rule(named(c)) }
	choices := pairs(axes, is)
	if isFull() {
		choices = append(choices, every(axes, is, all...)...)
	}
	cases := make([]matrixCase, len(choices))
	for i, c := range choices {
		cases[i] = named(c)
	}
	return cases
}

func TestMatrix(t *testing.T) {
	basin := newProgram(t, "pg_basebackup")
	bySource := make(map[int]map[string][]matrixCase) // by major, then by tablespaces
	for _, c := range matrixCases() {
		if bySource[c.major()] == nil {
			bySource[c.major()] = make(map[string][]matrixCase)
		}
		stage := c["tablespaces"]
		bySource[c.major()][stage] = append(bySource[c.major()][stage], c)
	}
	results := newMatrixResults()
	t.Run("servers", func(t *testing.T) { // returns when all of them are done
		for _, major := range slices.Backward(pgtest.Majors()) {
			t.Run(strconv.Itoa(major), func(t *testing.T) {
				t.Parallel()
				t.Logf("PostgreSQL %s", pgtest.Version(t, major))
				s := startMatrixSource(t, major)
				for _, tablespaces := range []string{"0", "1", "2", "in place"} {
					s.grow(t, tablespaces)
					for _, c := range bySource[major][tablespaces] {
						ok := t.Run(c.String(), func(t *testing.T) { testMatrixCase(t, basin, s, c) })
						results.add(c, ok)
					}
				}
			})
		}
	})
	results.write(t)
}

// String names what was chosen, without what is the usual.
func (c matrixCase) String() string {
	var parts []string
	for _, a := range matrixAxes() {
		switch value := c[a.name]; {
		case a.name == "server", a.name != "format" && a.name != "wal" && value == a.values[0]:
		case a.name == "format":
			parts = append(parts, value)
		default:
			parts = append(parts, a.name+"="+strings.ReplaceAll(value, " ", "-"))
		}
	}
	return strings.Join(parts, ",")
}

// matrixSource is a server that backups are taken of while it is written to.
type matrixSource struct {
	*pgtest.Server
	archive     string            // where its log is archived
	tablespaces map[string]string // folders by name, but for those in place
	sums        map[string]string // of the tables that do not change
}

func startMatrixSource(t *testing.T, major int) *matrixSource {
	archive := pgtest.TempDir(t)
	keep, size := "wal_keep_size", "1GB"
	if major < 13 {
		keep, size = "wal_keep_segments", "64"
	}
	conf := map[string]string{
		"archive_mode":                 "on",
		"archive_command":              "cp --reflink=auto %p " + archive + "/%f",
		"checkpoint_completion_target": "0", // a spread checkpoint takes minutes otherwise
		"password_encryption":          "scram-sha-256",
		keep:                           size, // for a standby that starts from an older place
	}
	if major >= 15 {
		conf["allow_in_place_tablespaces"] = "on" // also for the copies: recovery refuses them otherwise
	}
	s := &matrixSource{archive: archive, tablespaces: make(map[string]string)}
	s.Server = pgtest.Start(t, pgtest.Config{
		Major: major, Checksums: true, TLS: true, Conf: conf,
		HBA: []string{"host all,replication backup 127.0.0.1/32 scram-sha-256"},
	})
	s.Exec(t, "CREATE ROLE backup REPLICATION LOGIN PASSWORD 'it''s a \\ secret'")
	pgtest.Fill(t, s.Server, 1)
	pgtest.CheckIndexes(t, s.Server) // which leaves amcheck behind, for the copies
	s.sums = quietSums(t, s.Server)
	return s
}

// grow gives the source the tablespaces of a stage of TestMatrix. They are not
// taken away again.
func (s *matrixSource) grow(t *testing.T, stage string) {
	t.Helper()
	name := map[string]string{"1": "first", "2": "second one", "in place": "inside"}[stage]
	switch {
	case name == "", stage == "in place" && s.Major < 15:
		return
	case stage == "in place":
		s.Exec(t, "CREATE TABLESPACE inside LOCATION ''")
	default:
		s.tablespaces[name] = s.Tablespace(t, name)
	}
	s.Exec(t, fmt.Sprintf("CREATE TABLE %q (id int PRIMARY KEY USING INDEX TABLESPACE %[2]q, what text) TABLESPACE %[2]q", "in "+name, name),
		fmt.Sprintf("INSERT INTO %q SELECT g, md5(g::text) FROM generate_series(1, 2000) g", "in "+name))
	s.sums = quietSums(t, s.Server)
}

// quietSums returns the sums of the tables that the load leaves alone.
func quietSums(t testing.TB, s *pgtest.Server) map[string]string {
	t.Helper()
	sums := pgtest.Sums(t, s)
	maps.DeleteFunc(sums, func(table, _ string) bool { return strings.HasPrefix(table, "postgres.public.load_") })
	return sums
}

// arguments returns the command line of a case, for a backup below the folder
// work, and its environment.
func (c matrixCase) arguments(s *matrixSource, work string) (args, env []string) {
	args = []string{"-D", filepath.Join(work, "backup"), "-F", c["format"], "-X", c["wal"], "-c", c["checkpoint"]}
	switch c["connection"] {
	case "socket":
		args = append(args, "-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", "postgres", "-w")
	case "password":
		env = []string{"PGHOST=127.0.0.1", fmt.Sprintf("PGPORT=%d", s.Port), "PGUSER=backup", `PGPASSWORD=it's a \ secret`, "PGSSLMODE=disable"}
	case "TLS":
		// The log receivers of old standbys do not look for an address in a certificate.
		args = append(args, "-d", s.TCPConnString()+" host=localhost hostaddr=127.0.0.1")
	}
	switch method := c["compression"]; method {
	case "none":
	case "client-zstd", "server-zstd":
		args = append(args, "-Z", method+":level=1,workers=2")
	case "client-gzip":
		args = append(args, "-z")
	default:
		args = append(args, "-Z", method+":1")
	}
	switch c["manifest"] {
	case "default":
	case "encoded":
		args = append(args, "--manifest-force-encode")
	case "absent":
		args = append(args, "--no-manifest")
	default:
		args = append(args, "--manifest-checksums", c["manifest"])
	}
	args = append(args, map[string][]string{"temporary": nil, "named": {"-C", "-S", c.slot()}, "no": {"--no-slot"}}[c["slot"]]...)
	args = append(args, map[string][]string{"fsync": nil, "syncfs": {"--sync-method=syncfs"}, "no": {"-N"}}[c["sync"]]...)
	if c["recovery"] == "standby" {
		args = append(args, "-R")
	}
	if c["rate"] == "limited" {
		args = append(args, "--max-rate=200M")
	}
	if c["waldir"] == "apart" {
		args = append(args, "--waldir", filepath.Join(work, "wal"))
	}
	if c["format"] == "plain" {
		for name, dir := range s.tablespaces {
			args = append(args, "-T", dir+"="+filepath.Join(work, "tablespaces", name))
		}
	}
	return args, env
}

// slot returns a name for a slot that no other case has.
func (c matrixCase) slot() string {
	sum := sha256.Sum256([]byte(c.String()))
	return fmt.Sprintf("of_%x", sum[:8])
}

func testMatrixCase(t *testing.T, basin *program, s *matrixSource, c matrixCase) {
	work := pgtest.TempDir(t)
	args, env := c.arguments(s, work)
	load := pgtest.StartLoad(t.Context(), t, s.Server, 1)
	eventually(t, "load", func() bool { return load.Committed() > 0 })
	before, err := strconv.ParseInt(s.Query(t, "SELECT count(*) FROM load_log"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	e := basin.run(t, env, args...)
	load.Stop(t)
	// The server goes on with what a client that went away has begun.
	s.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()", "0")
	if e.status != exitSuccess || e.signal != 0 || !onlyNotices(e.stderr) {
		t.Fatalf("%s", e)
	}
	slot := fmt.Sprintf("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '%s'", c.slot())
	if got := s.Query(t, slot); (got == "1") != (c["slot"] == "named") {
		t.Errorf("%s slots have the name", got)
	}
	s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE temporary", "0")
	b := storedBackup{
		major: s.Major, dir: filepath.Join(work, "backup"), tar: c["format"] == "tar",
		manifest: c["manifest"] != "absent",
	}
	if c["wal"] == "none" {
		b.archive = s.archive
	}
	c.checkManifest(t, b.dir)
	dir := b.restore(t, work)

	conf := map[string]string{"archive_mode": "off"} // the archive is the source's
	if c["wal"] == "none" && c["recovery"] == "no" {
		pgtest.SetRecovery(t, s.Major, dir, pgtest.Recovery{Settings: map[string]string{"restore_command": "cp " + s.archive + "/%f %p"}})
	}
	restored := pgtest.StartDir(t, s.Major, dir, conf)
	want, sums := s.sums, quietSums
	if c["recovery"] == "standby" { // which comes to have all that the server has
		s.WaitReplay(t, restored)
		tool(t, s.Major, "pg_ctl", "promote", "--wait", "--pgdata="+dir)
		want, sums = pgtest.Sums(t, s.Server), pgtest.Sums
	}
	restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if diff := cmp.Diff(want, sums(t, restored)); diff != "" {
		t.Errorf("rows (-server +restored):\n%s", diff)
	}
	checkLoad(t, restored, before)
	checkStructure(t, restored)
	restored.Stop(t, pgtest.Fast)
	if c["slot"] == "named" { // by which a standby followed
		s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
		s.Exec(t, "SELECT pg_drop_replication_slot('"+c.slot()+"')")
	}
}

// onlyNotices tells whether all that was said is what servers tell about the
// archiving that a backup without its log waits for.
func onlyNotices(stderr string) bool {
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "NOTICE:  ") {
			return false
		}
	}
	return true
}

// checkManifest looks whether a manifest is as it was asked for.
func (c matrixCase) checkManifest(t *testing.T, dir string) {
	t.Helper()
	name := filepath.Join(dir, "backup_manifest")
	if c["manifest"] == "absent" {
		absent(t, name)
		return
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	manifest := string(b)
	algorithm := `"Checksum-Algorithm": "` + strings.ToUpper(c["manifest"]) + `"`
	switch c["manifest"] {
	case "default", "encoded":
		algorithm = `"Checksum-Algorithm": "CRC32C"`
	case "none":
		algorithm = ""
	}
	if algorithm != "" && !strings.Contains(manifest, algorithm) || algorithm == "" && strings.Contains(manifest, "Checksum-Algorithm") {
		t.Errorf("manifest without %q", algorithm)
	}
	if strings.Contains(manifest, `"Path":`) == (c["manifest"] == "encoded") {
		t.Error("paths in the manifest are not as asked for")
	}
}

// checkLoad fails the test unless a server has what the load of pgtest leaves
// behind at some moment, with the given number of transactions at least.
func checkLoad(t *testing.T, s *pgtest.Server, least int64) {
	t.Helper()
	answer := s.Query(t, `SELECT count(*), coalesce(max(n), 0), (SELECT total FROM load_totals WHERE client = 0) FROM load_log WHERE client = 0`)
	var count, last, total int64
	if _, err := fmt.Sscan(strings.ReplaceAll(answer, "|", " "), &count, &last, &total); err != nil {
		t.Fatalf("%q: %v", answer, err)
	}
	if count != last || total != 5*count || count < least {
		t.Errorf("%d transactions, the last is %d, their total %d; at least %d were there before", count, last, total, least)
	}
}

// checkStructure reads each table and index, and whether they agree.
func checkStructure(t *testing.T, s *pgtest.Server) {
	t.Helper()
	if s.Major < 14 { // pg_amcheck needs more than their amcheck has
		pgtest.CheckIndexes(t, s)
		return
	}
	tool(t, pgtest.Newest, "pg_amcheck", "--all", "--heapallindexed", "--parent-check",
		"-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", "postgres")
}
