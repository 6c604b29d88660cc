package main

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"basin/internal/object/s3/s3test"
	"basin/internal/pgdata"
	"basin/internal/pgtest"
	"basin/internal/wal"
)

// store is a repository, and how basin comes to it.
type store struct {
	basin    *program
	location string
	options  []string // of basin, to write to it
	keyFile  string   // with which is read besides; empty if it is not encrypted
	env      []string // of basin, and of what runs it
}

// newStore makes a repository in a folder, or in a bucket of a server.
func newStore(t *testing.T, basin *program, bucket *s3test.Server, encrypted bool) *store {
	t.Helper()
	dir := pgtest.TempDir(t)
	r := &store{basin: basin, location: filepath.Join(dir, "repository")}
	if bucket != nil {
		r.location = "s3://" + bucket.Bucket(t) + "/below"
		r.options = []string{"--s3-endpoint=" + bucket.Endpoint, "--s3-path-style"}
		r.env = []string{"AWS_ACCESS_KEY_ID=" + s3test.AccessKey, "AWS_SECRET_ACCESS_KEY=" + s3test.SecretKey, "AWS_EC2_METADATA_DISABLED=true"}
	}
	args := append([]string{"init", r.location}, r.options...)
	r.options = append([]string{"--repository=" + r.location}, r.options...)
	if !encrypted {
		basin.run(t, r.env, args...).succeeded(t)
		return r
	}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "identity")
	if err := os.WriteFile(path, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, dir)
	r.keyFile = filepath.Join(dir, "key")
	if e := basin.run(t, r.env, append(args, "--recipient="+identity.Recipient().String())...); e.status != exitSuccess {
		t.Fatal(e)
	}
	if e := basin.run(t, r.env, append([]string{"key", "unlock", "--identity=" + path, "--key-file=" + r.keyFile}, r.options...)...); e.status != exitSuccess {
		t.Fatal(e)
	}
	return r
}

// words returns a command line of basin with options that lead to the repository, and let it be read.
func (r *store) words(command string, args ...string) []string {
	words := append(strings.Fields(command), r.options...)
	if r.keyFile != "" {
		words = append(words, "--key-file="+r.keyFile)
	}
	return append(words, args...)
}

// run runs basin on the repository.
func (r *store) run(t *testing.T, command string, args ...string) ending {
	t.Helper()
	return r.basin.run(t, r.env, r.words(command, args...)...)
}

// archiveCommand returns what a server is to archive its log with. It cannot read what is encrypted.
func (r *store) archiveCommand() string {
	words := append(append(slices.Clone(r.env), r.basin.path, "wal", "push"), r.options...)
	return strings.Join(words, " ") + " %p"
}

// restoreCommand returns what a server is to get its log with.
func (r *store) restoreCommand() string {
	return strings.Join(append(append(slices.Clone(r.env), r.basin.path), r.words("wal get", `%f "%p"`)...), " ")
}

// conf returns the settings of a server that archives its log into the repository.
func (r *store) conf() map[string]string {
	return map[string]string{"archive_mode": "on", "archive_command": r.archiveCommand(), "wal_level": "replica", "max_wal_senders": "10"}
}

// kept is a cluster whose backups and log are kept in a repository.
type kept struct {
	*pgtest.Server
	*store
	tablespaces []string // where they are
	marks       []mark
}

// mark is a moment of a cluster, and what was in it then.
type mark struct {
	name, time, lsn, xid string // of what is behind it
	sums                 map[string]string
}

// keep starts a server that archives its log into a new repository.
func keep(t *testing.T, basin *program, major int, conf map[string]string) *kept {
	t.Helper()
	return keepIn(t, newStore(t, basin, nil, false), pgtest.Config{Major: major, Checksums: major != 14, Conf: conf})
}

// keepIn starts a server that archives its log into a repository. In each of its databases is amcheck.
func keepIn(t *testing.T, r *store, c pgtest.Config) *kept {
	t.Helper()
	settings := r.conf()
	maps.Copy(settings, c.Conf)
	c.Conf = settings
	k := &kept{store: r, Server: pgtest.Start(t, c)}
	for _, database := range []string{"template1", "postgres"} {
		k.ExecIn(t, database, "CREATE EXTENSION amcheck")
	}
	return k
}

// backUp takes a backup over the wire, or of the data directory.
func (k *kept) backUp(t *testing.T, isLocal bool) {
	t.Helper()
	args := []string{"-d", k.ConnString(), "-c", "fast"}
	if isLocal {
		args = append(args, "--pgdata", k.DataDir)
	}
	k.run(t, "backup", args...).succeeded(t)
}

// mark notes what is in the cluster now. Something is written before and after, so that times and
// positions lie between two commits.
func (k *kept) mark(t *testing.T) mark {
	t.Helper()
	m := mark{name: fmt.Sprintf("mark %d", len(k.marks)), sums: pgtest.Sums(t, k.Server)}
	k.Exec(t, "SELECT pg_create_restore_point('"+m.name+"')")
	m.lsn = k.Query(t, "SELECT pg_current_wal_insert_lsn()")
	m.time = k.Query(t, "SELECT clock_timestamp()")
	k.WaitFor(t, "SELECT clock_timestamp() > '"+m.time+"'", "t")
	k.Exec(t, "CREATE TABLE IF NOT EXISTS marks (n int)")
	m.xid = k.Query(t, "INSERT INTO marks VALUES (1) RETURNING pg_current_xact_id()")
	k.marks = append(k.marks, m)
	return m
}

// archived waits until all that was written by now is in the repository.
func (k *kept) archived(t *testing.T) {
	t.Helper()
	k.Exec(t, "INSERT INTO marks VALUES (2)")
	name := k.Query(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
	k.Exec(t, "SELECT pg_switch_wal()")
	k.WaitFor(t, "SELECT last_archived_wal >= '"+name+"' FROM pg_stat_archiver", "t")
}

// pushRest pushes the segment that a server which is stopped has not archived, as a part.
func (k *kept) pushRest(t *testing.T, end string) {
	t.Helper()
	at, err := wal.ParseLSN(end)
	if err != nil {
		t.Fatal(err)
	}
	name := wal.SegmentAt(wal.Position{LSN: at, Timeline: timelineOf(t, k.Server)}, wal.DefaultSegmentSize).Name(wal.DefaultSegmentSize)
	content, err := os.ReadFile(filepath.Join(k.DataDir, "pg_wal", name))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pgtest.TempDir(t), name+".partial")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	k.run(t, "wal push", "--pgdata", k.DataDir, path).succeeded(t)
}

// timelineOf returns the timeline of the last checkpoint of a server that is stopped.
func timelineOf(t *testing.T, s *pgtest.Server) wal.Timeline {
	t.Helper()
	control, err := os.ReadFile(filepath.Join(s.DataDir, filepath.FromSlash(pgdata.ControlPath)))
	if err != nil {
		t.Fatal(err)
	}
	return wal.Timeline(binary.LittleEndian.Uint32(control[48:])) // checkPointCopy.ThisTimeLineID in ControlFileData
}

// place restores the cluster to a folder, and returns that.
func (k *kept) place(t *testing.T, args ...string) string {
	t.Helper()
	dir := pgtest.TempDir(t)
	args = append([]string{"-D", filepath.Join(dir, "data"), "--no-sync"}, args...)
	for i, from := range k.tablespaces {
		args = append(args, "-T", from+"="+filepath.Join(dir, "tablespace"+strconv.Itoa(i)))
	}
	if e := k.run(t, "restore", args...); e.status != exitSuccess {
		t.Fatal(e)
	}
	return filepath.Join(dir, "data")
}

// open starts a server on what was restored. settings win over what is there.
func (k *kept) open(t *testing.T, dir string, settings map[string]string) *pgtest.Server {
	t.Helper()
	conf := make(map[string]string)
	if len(k.env) > 0 { // which a server of the tests has nothing of
		conf["restore_command"] = strings.Join(k.env, " ") + " " + settingOf(t, dir, "restore_command")
	}
	maps.Copy(conf, settings)
	return pgtest.StartDir(t, k.Major, dir, conf)
}

// settingOf returns what postgresql.auto.conf says last of a setting.
func settingOf(t *testing.T, dir, name string) (value string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "postgresql.auto.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, name+" = '"); ok {
			value = strings.NewReplacer("''", "'", `\\`, `\`).Replace(strings.TrimSuffix(rest, "'\n"))
		}
	}
	return value
}

// restore restores the cluster, and starts it.
func (k *kept) restore(t *testing.T, args ...string) *pgtest.Server {
	t.Helper()
	return k.open(t, k.place(t, args...), nil)
}

// recovered waits until a restored server can be written to, and compares it with a mark.
func (m mark) recovered(t *testing.T, s *pgtest.Server) {
	t.Helper()
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if diff := cmp.Diff(m.sums, pgtest.Sums(t, s)); diff != "" {
		t.Errorf("%s: the source had, and the copy has:\n%s", m.name, diff)
	}
	checkStructure(t, s)
	checkCounts(t, s)
}

// checkCounts counts the rows of every table that has a B-tree, by that alone and by all pages: a visibility map that
// says too much of a page has the index count what was deleted.
func checkCounts(t *testing.T, s *pgtest.Server) {
	t.Helper()
	for database := range strings.SplitSeq(s.Query(t, "SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template1'"), "\n") {
		s.ExecIn(t, database, `
			DO $$
			DECLARE
				tab regclass;
				byindex bigint;
				bypages bigint;
			BEGIN
				FOR tab IN SELECT DISTINCT i.indrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
					JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am a ON a.oid = x.relam
					WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND a.amname = 'btree' AND i.indisvalid AND i.indpred IS NULL
				LOOP
					PERFORM set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
						set_config('enable_indexscan', 'on', true), set_config('enable_indexonlyscan', 'on', true);
					EXECUTE format('SELECT count(*) FROM %s', tab) INTO byindex;
					PERFORM set_config('enable_seqscan', 'on', true), set_config('enable_indexscan', 'off', true),
						set_config('enable_indexonlyscan', 'off', true);
					EXECUTE format('SELECT count(*) FROM %s', tab) INTO bypages;
					IF byindex <> bypages THEN
						RAISE EXCEPTION '% has % rows by an index, and % by its pages', tab, byindex, bypages;
					END IF;
				END LOOP;
			END $$`)
	}
}
