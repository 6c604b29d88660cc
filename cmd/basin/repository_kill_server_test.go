package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/object/s3/s3test"
	"basin/internal/pgtest"
	"basin/internal/repo"
)

// killing is a cluster whose backups are killed.
type killing struct {
	*kept
	random   *rand.Rand
	takes    map[string]time.Duration     // that commands take
	sums     map[string]map[string]string // what was in the cluster, by labels of backups
	waiting  []string                     // segments that were not pushed yet
	pushed   map[string]string            // digests of segments that were
	killed   int
	finished int
}

// TestRepositoryKilled has basin backup, wal push, forget and prune be killed at random moments: each backup that is listed
// restores, each segment that was acknowledged is there, and what was killed can be done again.
func TestRepositoryKilled(t *testing.T) {
	basin := newProgram(t, "basin")
	r := newStore(t, basin, s3test.Start(t), true)
	rounds := 10
	if isFull() {
		rounds = 50
	}
	k := &killing{
		kept:   &kept{store: r, Server: pgtest.Start(t, pgtest.Config{Checksums: true, Conf: map[string]string{"wal_keep_size": "1GB", "autovacuum": "off"}})},
		random: rand.New(rand.NewPCG(9, 9)), takes: make(map[string]time.Duration), sums: make(map[string]map[string]string), pushed: make(map[string]string),
	}
	k.Exec(t, "CREATE EXTENSION amcheck", "CREATE TABLE rows_of (id int PRIMARY KEY, b text)")
	for round := range rounds + 2 {
		k.change(t, round)
		if round < 2 { // to know how long each takes
			k.whole(t, "backup", k.backupArgs(round)...)
			k.push(t, false)
			k.whole(t, "forget", "--keep-last=2")
			k.whole(t, "prune")
			continue
		}
		switch k.random.IntN(5) {
		case 0, 1:
			k.kill(t, "backup", k.backupArgs(round)...)
		case 2:
			k.push(t, true)
		case 3:
			k.kill(t, "forget", "--keep-last=2")
		case 4:
			k.kill(t, "prune")
		}
		if ids := k.listed(t); len(ids) == 0 {
			t.Fatal("no backup is left")
		}
		if e := k.run(t, "verify"); e.status != exitSuccess {
			t.Fatal(e)
		}
	}
	t.Logf("%d were killed, and %d were done before", k.killed, k.finished)
	k.push(t, false)
	k.refuse(t)
	k.check(t)
}

// change changes the cluster, and ends a segment.
func (k *killing) change(t *testing.T, round int) {
	t.Helper()
	k.Exec(t, fmt.Sprintf("INSERT INTO rows_of SELECT %d + g, repeat(md5(g::text), 10) FROM generate_series(1, 3000) g", round*3000),
		fmt.Sprintf("UPDATE rows_of SET b = 'round %d' WHERE id %% 50 = 0", round))
	k.sums[fmt.Sprint("round ", round)] = pgtest.Sums(t, k.Server)
	k.waiting = append(k.waiting, k.Query(t, "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"))
	k.Exec(t, "SELECT pg_switch_wal()")
}

func (k *killing) backupArgs(round int) []string {
	return []string{"-d", k.ConnString(), "-c", "fast", "--label", fmt.Sprint("round ", round)}
}

// whole does something to its end, and remembers how long it took.
func (k *killing) whole(t *testing.T, command string, args ...string) {
	t.Helper()
	began := time.Now()
	if e := k.run(t, command, args...); e.status != exitSuccess {
		t.Fatal(e)
	}
	k.takes[command] = time.Since(began)
}

// kill does something, and kills it at some moment of that. It says whether it was done before.
func (k *killing) kill(t *testing.T, command string, args ...string) bool {
	t.Helper()
	p := k.basin.start(t, k.env, k.words(command, args...)...)
	select {
	case <-p.done:
	case <-time.After(time.Duration(k.random.Float64() * 1.2 * float64(k.takes[command]))):
		_ = p.cmd.Process.Kill() // it may have ended
	}
	e := p.wait(t)
	if e.signal == syscall.SIGKILL {
		k.killed++
		return false
	}
	if e.status != exitSuccess {
		t.Fatal(e)
	}
	k.finished++
	return true
}

// push pushes the segments that wait, each of which may be killed.
func (k *killing) push(t *testing.T, kills bool) {
	t.Helper()
	for len(k.waiting) > 0 {
		path := filepath.Join(k.DataDir, "pg_wal", k.waiting[0])
		if kills {
			if !k.kill(t, "wal push", "--pgdata", k.DataDir, path) {
				return
			}
		} else {
			k.whole(t, "wal push", "--pgdata", k.DataDir, path)
		}
		k.pushed[k.waiting[0]] = digestOf(t, path)
		k.waiting = k.waiting[1:]
	}
}

// listed returns the labels of the backups that there are, by their names.
func (k *kept) listed(t *testing.T) map[string]string {
	t.Helper()
	e := k.run(t, "list", "--json")
	if e.status != exitSuccess {
		t.Fatal(e)
	}
	var l listing
	if err := json.Unmarshal([]byte(e.stdout), &l); err != nil {
		t.Fatal(err)
	}
	labels := make(map[string]string)
	for _, c := range l.Clusters {
		for _, b := range c.Backups {
			labels[b.ID] = b.Label
		}
	}
	return labels
}

// check gets each segment, and restores each backup; the newest is started.
func (k *killing) check(t *testing.T) {
	t.Helper()
	first := ""
	newest, labels := "", k.listed(t)
	for id := range labels {
		newest = max(newest, id)
		dir := k.place(t, "--backup", id, "--target-immediate", "--target-action", "promote")
		start, err := os.ReadFile(filepath.Join(dir, "backup_label"))
		if err != nil {
			t.Fatal(err)
		}
		_, file, _ := strings.Cut(string(start), "(file ")
		if name, _, _ := strings.Cut(file, ")"); first == "" || name < first {
			first = name
		}
		if id == newest {
			s := k.open(t, dir, nil)
			s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
			if diff := cmp.Diff(k.sums[labels[id]], pgtest.Sums(t, s)); diff != "" {
				t.Errorf("backup %s, %s:\n%s", id, labels[id], diff)
			}
			checkStructure(t, s)
			s.Stop(t, pgtest.Immediate)
		}
	}
	there := 0
	for name, digest := range k.pushed {
		if name < first { // prune may have removed it
			continue
		}
		path := filepath.Join(pgtest.TempDir(t), name)
		if e := k.run(t, "wal get", name, path); e.status != exitSuccess {
			t.Errorf("%s was acknowledged: %s", name, e)
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(content); hex.EncodeToString(sum[:]) != digest {
			t.Errorf("%s is another one", name)
		}
		there++
	}
	if there == 0 {
		t.Error("no segment was looked at")
	}
}

// refuse pushes a segment again with other bytes, as a copy of the cluster would.
func (k *killing) refuse(t *testing.T) {
	t.Helper()
	name := slices.Max(slices.Collect(maps.Keys(k.pushed)))
	content, err := os.ReadFile(filepath.Join(k.DataDir, "pg_wal", name))
	if err != nil {
		t.Fatal(err)
	}
	content[4000] ^= 1 // behind the header of its page
	path := filepath.Join(pgtest.TempDir(t), name)
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	k.run(t, "wal push", "--pgdata", k.DataDir, path).failed(t, name, "Nothing was overwritten")
}

// TestRepositoryBesideSleeper has a host that makes a backup sleep longer than its lease while another prunes: its backup is not
// there, and it says why. Then two hosts make backups while a third prunes all the time.
func TestRepositoryBesideSleeper(t *testing.T) {
	bucket := s3test.Start(t)
	clearEnvironment(t)
	t.Setenv("BASIN_CONFIG", os.DevNull)
	t.Setenv("AWS_ACCESS_KEY_ID", s3test.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3test.SecretKey)
	r := newStore(t, newProgram(t, "basin"), bucket, false)
	k := &kept{store: r, Server: pgtest.Start(t, pgtest.Config{Major: 17, Conf: map[string]string{"wal_keep_size": "1GB"}})}
	args := func(label string) []string {
		return []string{"-d", k.ConnString(), "-c", "fast", "--label", label}
	}
	k.run(t, "backup", args("first")...).succeeded(t)
	k.Exec(t, "CREATE TABLE rows_of AS SELECT g, md5(g::text) AS b FROM generate_series(1, 20000) g")

	o := repositoryOptions{Location: r.location, Settings: map[string]string{"s3-endpoint": bucket.Endpoint, "s3-path-style": "true"}}
	_, cluster, err := openCluster(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.place()
	if err != nil {
		t.Fatal(err)
	}
	objects, err := p.store(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asleep := r.basin.start(t, r.env, r.words("backup", append(args("asleep"), "--max-rate=4M")...)...)
	eventually(t, "a lease", func() bool {
		for _, err := range objects.List(t.Context(), cluster.Name().String()+"/leases/", "") {
			return err == nil
		}
		return false
	})
	asleep.signal(t, syscall.SIGSTOP)
	report, err := cluster.Prune(t.Context(), repo.PruneOptions{Now: time.Now().Add(7 * time.Hour)})
	if err != nil || len(report.GivenUp) != 1 {
		t.Errorf("prune: %+v, %v", report, err)
	}
	asleep.signal(t, syscall.SIGCONT)
	asleep.wait(t).failed(t, "longer than its lease")

	done := make(chan struct{})
	var hosts []*process
	for _, label := range []string{"one", "two"} {
		hosts = append(hosts, r.basin.start(t, r.env, r.words("backup", args(label)...)...))
	}
	go func() {
		defer close(done)
		for _, host := range hosts {
			<-host.done
		}
	}()
	pruned := 0
	for isDone := false; !isDone; pruned++ {
		if e := k.run(t, "prune"); e.status != exitSuccess {
			t.Fatal(e)
		}
		select {
		case <-done:
			isDone = true
		default:
		}
	}
	for _, host := range hosts {
		host.wait(t).succeeded(t)
	}
	labels := k.listed(t)
	if len(labels) != 3 {
		t.Errorf("backups: %v", labels)
	}
	if e := k.run(t, "verify"); e.status != exitSuccess {
		t.Error(e)
	}
	for id := range labels {
		k.place(t, "--backup", id)
	}
	t.Logf("pruned %d times", pruned)
}
