package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/pgtest"
)

// differential is how much TestDifferential tries.
type differential struct {
	seeds    []uint64
	backups  int  // incremental ones in a chain
	changes  int  // before each
	thorough bool // each combined backup is looked at as the last one is
	grow     bool // a relation, over 1 GiB
}

// newDifferential returns a little, which is always the same, or with BASIN_DIFFERENTIAL=full
// what takes some twenty minutes, by chance. BASIN_DIFFERENTIAL_SEED repeats a choice; what a server makes of it may still differ.
func newDifferential(t *testing.T) differential {
	t.Helper()
	d := differential{backups: 3, changes: 9, seeds: []uint64{730121}}
	if os.Getenv("BASIN_DIFFERENTIAL") == "full" {
		d = differential{backups: 6, changes: 12, thorough: true, grow: true}
		for range 3 {
			d.seeds = append(d.seeds, rand.Uint64N(1e6))
		}
	}
	if given := os.Getenv("BASIN_DIFFERENTIAL_SEED"); given != "" {
		seed, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		d.seeds = []uint64{seed}
	}
	return d
}

// TestDifferential compares what combinebackup makes of chains of backups with what
// pg_combinebackup makes of them, and with the server they were taken of.
func TestDifferential(t *testing.T) {
	basin := newProgram(t, "basin")
	d := newDifferential(t)
	for i, seed := range d.seeds {
		for _, major := range soundMajors(t) {
			t.Run(fmt.Sprintf("%s seed %d", pgtest.Version(t, major), seed), func(t *testing.T) {
				t.Parallel()
				d := d
				d.grow = d.grow && i == 0
				c := newBackupChain(t, basin, major, rand.New(rand.NewPCG(seed, uint64(major))))
				c.test(t, d)
			})
		}
	}
}

// backupChain is a full backup of a server that changes, and incremental ones on top.
type backupChain struct {
	basin    *program
	work     string
	workload *workload
	spaces   map[string]string // folders of tablespaces, by name

	backups []string // directories, the oldest first
	sums    map[string]string
	files   int // compared so far
}

func newBackupChain(t *testing.T, basin *program, major int, random *rand.Rand) *backupChain {
	t.Helper()
	s := pgtest.Start(t, pgtest.Config{
		Major: major, Checksums: random.IntN(2) == 0,
		Conf: map[string]string{
			"summarize_wal": "on", "wal_keep_size": "1GB", "allow_in_place_tablespaces": "on",
			"autovacuum":         "off", // which would go on after the rows were counted
			"checkpoint_timeout": "1h",
		},
	})
	c := &backupChain{basin: basin, work: pgtest.TempDir(t), spaces: make(map[string]string)}
	s.Exec(t, "CREATE TABLESPACE inside LOCATION ''")
	for _, name := range []string{"first", "other"} {
		c.spaces[name] = s.Tablespace(t, name)
	}
	c.workload = startWorkload(t, s, random, "first", "other", "inside")
	return c
}

func (c *backupChain) test(t *testing.T, d differential) {
	t.Helper()
	begun := time.Now()
	ways := combineWays(c.workload.Major)
	for i := range d.backups + 1 {
		if i > 0 {
			changed := c.workload.change(t, d.changes)
			t.Logf("before backup %d: %s", i, strings.Join(changed, ", "))
		}
		if d.grow {
			c.workload.grow(t, i)
		}
		c.take(t)
		way := ways[i%len(ways)]
		if i == d.backups {
			way = ways[0]
		}
		own := c.compare(t, way)
		if !way.warns {
			c.start(t, own, d.thorough || i == d.backups)
		}
		c.removeOutput(t, own)
	}
	t.Logf("%d backups, %d files compared in %.0f s", len(c.backups), c.files, time.Since(begun).Seconds())
}

// take takes the next backup, while nobody writes.
func (c *backupChain) take(t *testing.T) {
	t.Helper()
	c.sums = pgtest.Sums(t, c.workload.Server)
	dir := filepath.Join(c.work, fmt.Sprint(len(c.backups)))
	args := []string{"basebackup", "-D", dir, "-d", c.workload.ConnString(), "-c", "fast", "-N"}
	for name, from := range c.spaces {
		args = append(args, "-T", from+"="+dir+"."+name)
	}
	if n := len(c.backups); n > 0 {
		args = append(args, "-i", filepath.Join(c.backups[n-1], "backup_manifest"))
	}
	c.basin.run(t, nil, args...).succeeded(t)
	c.backups = append(c.backups, dir)
}

// combineWay is a choice of options.
type combineWay struct {
	both       []string // options
	own        []string // of basin alone
	noManifest bool
	warns      bool // that what comes out must not be changed: no server can be started there
}

// combineWays returns what is tried, one with each backup, the first also with the last.
func combineWays(major int) []combineWay {
	ways := []combineWay{
		{},
		{both: []string{"--link"}, warns: true},
		{both: []string{"--copy-file-range"}, own: []string{"--jobs=4"}},
		{both: []string{"--manifest-checksums=SHA256"}, own: []string{"--jobs=1"}},
		{both: []string{"--no-manifest"}, noManifest: true},
		{both: []string{"--manifest-checksums=NONE"}},
	}
	if major < 18 { // whose pg_combinebackup has no --link
		ways = slices.Delete(ways, 1, 2)
	}
	return ways
}

// compare combines the backups taken so far with both programs, and returns where what came
// out of ours is.
func (c *backupChain) compare(t *testing.T, way combineWay) (own string) {
	t.Helper()
	s := c.workload.Server
	stock := filepath.Join(c.work, "stock")
	own = filepath.Join(c.work, "own")
	tool(t, s.Major, "pg_combinebackup", c.arguments(stock, way.both)...)
	e := c.basin.run(t, nil, append([]string{"combinebackup"}, c.arguments(own, slices.Concat(way.both, way.own))...)...)
	if way.warns {
		e.said(t, "--link mode was used")
	} else if e.stderr != "" {
		t.Error(e)
	}
	if e.status != exitSuccess {
		t.Fatal(e)
	}
	c.files += sameTree(t, stock, own)
	for name := range c.spaces {
		c.files += sameTree(t, stock+"."+name, own+"."+name)
	}
	if !way.noManifest {
		sameManifest(t, stock, own)
		tool(t, s.Major, "pg_verifybackup", own)
		c.basin.run(t, nil, "verifybackup", own).succeeded(t)
	}
	c.removeOutput(t, stock)
	return own
}

// arguments returns the command line that combines all backups.
func (c *backupChain) arguments(output string, options []string) []string {
	newest := c.backups[len(c.backups)-1]
	args := append([]string{"-N", "-o", output}, options...)
	for name := range c.spaces {
		args = append(args, "-T", newest+"."+name+"="+output+"."+name)
	}
	return append(args, c.backups...)
}

func (c *backupChain) removeOutput(t *testing.T, dir string) {
	t.Helper()
	for _, path := range append(c.outside(dir), dir) {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// outside returns the folders of a backup's tablespaces.
func (c *backupChain) outside(dir string) (all []string) {
	for name := range c.spaces {
		all = append(all, dir+"."+name)
	}
	return all
}

// start starts a server on a combined backup and compares it with the source. If it is to be
// thorough it has all relations read as well, which takes longer than all the rest.
func (c *backupChain) start(t *testing.T, dir string, thorough bool) {
	t.Helper()
	restored := pgtest.StartDir(t, c.workload.Major, dir, nil)
	restored.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	if diff := cmp.Diff(c.sums, pgtest.Sums(t, restored)); diff != "" {
		t.Errorf("rows after %d backups (-server +restored):\n%s", len(c.backups), diff)
	}
	if got := restored.Query(t, "SELECT (SELECT count(*) FROM tokens) + (SELECT count(*) FROM flighty)"); got != "0" {
		t.Errorf("%s unlogged rows", got)
	}
	if thorough {
		amcheck(t, restored)
	}
	restored.Stop(t, pgtest.Immediate)
}

// amcheck reads all relations of all databases with the program of the server's own major.
func amcheck(t *testing.T, s *pgtest.Server) {
	t.Helper()
	tool(t, s.Major, "pg_amcheck", "--all", "--install-missing", "--heapallindexed", "--parent-check",
		"-h", s.SocketDir, "-p", strconv.Itoa(s.Port), "-U", "postgres")
}
