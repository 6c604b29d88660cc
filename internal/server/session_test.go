package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// phases are what a client may be in the middle of.
var phases = []struct {
	name    string
	cluster func(c *fakeCluster)
	enter   func(t *testing.T, g *guest) // it is in the middle of it at the end
	drains  bool                         // the end of the server is in good order
}{
	{"idle", nil, func(*testing.T, *guest) {}, false},
	{"in the middle of a message", nil, func(t *testing.T, g *guest) { g.say(t, query("IDENTIFY_SYSTEM")[:9]) }, false},
	{
		"waiting for a checkpoint",
		func(c *fakeCluster) {
			c.begin = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
		},
		func(t *testing.T, g *guest) { g.say(t, query("BASE_BACKUP")) }, false,
	},
	{
		"in the middle of a backup", func(c *fakeCluster) { c.size = -1 },
		func(t *testing.T, g *guest) {
			g.say(t, query("BASE_BACKUP"))
			if _, err := io.CopyN(io.Discard, g, 10<<20); err != nil {
				t.Fatal(err)
			}
		}, false,
	},
	{
		"in the middle of a compressed backup", func(c *fakeCluster) { c.size = -1 },
		func(t *testing.T, g *guest) {
			g.say(t, query("BASE_BACKUP (COMPRESSION 'gzip', COMPRESSION_DETAIL 'level=1')"))
			if _, err := io.CopyN(io.Discard, g, 10<<10); err != nil {
				t.Fatal(err)
			}
		}, false,
	},
	{
		"in the middle of a backup that goes nowhere", func(c *fakeCluster) { c.size = -1 },
		func(t *testing.T, g *guest) {
			g.say(t, query("BASE_BACKUP (TARGET 'blackhole', MAX_RATE 32)"))
			if _, err := io.CopyN(io.Discard, g, 10); err != nil {
				t.Fatal(err)
			}
		}, false,
	},
	{
		"in a stream", nil,
		func(t *testing.T, g *guest) {
			g.listen()
			g.say(t, query("START_REPLICATION 0/1000000 TIMELINE 1"))
			waitFor[*pgproto3.CopyBothResponse](t, g)
		}, true,
	},
	{
		"in a stream of the cluster's", nil,
		func(t *testing.T, g *guest) {
			g.listen()
			g.say(t, query("START_REPLICATION SLOT s 0/1000000"))
			waitFor[*pgproto3.CopyBothResponse](t, g)
		}, false,
	},
	{
		"waiting for the cluster", func(c *fakeCluster) { c.hangs = true },
		func(t *testing.T, g *guest) { g.say(t, query("READ_REPLICATION_SLOT s")) }, false,
	},
	{
		"sending a manifest", nil,
		func(t *testing.T, g *guest) {
			g.listen()
			g.say(t, query("UPLOAD_MANIFEST"))
			waitFor[*pgproto3.CopyInResponse](t, g)
			g.say(t, copyMessage('d', make([]byte, 64<<10)))
		}, false,
	},
	{
		"asking without reading answers", nil,
		func(t *testing.T, g *guest) {
			go func() { _, _ = g.Write(bytes.Repeat(query("IDENTIFY_SYSTEM"), 10_000)) }()
		}, false,
	},
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestNothingIsLeftOfAClientThatGoes(t *testing.T) {
	for _, phase := range phases {
		t.Run(phase.name, func(t *testing.T) {
			o := trusting(t, nil)
			before := openFiles(t)
			synctest.Test(t, func(t *testing.T) {
				cluster := newFakeCluster()
				if phase.cluster != nil {
					phase.cluster(cluster)
				}
				o := o
				o.Cluster = cluster
				r := run(t, o)
				for range 3 {
					g := enter(t, r.dial())
					phase.enter(t, g)
					synctest.Wait()
					if n := r.Status().Sessions; n != 1 {
						t.Errorf("%d sessions", n)
					}
					g.Close()
					synctest.Wait()
					if n, s := cluster.left(), r.Status(); n != 0 || s.Sessions != 0 || s.Backups != 0 || s.Streams != 0 {
						t.Errorf("%d things of the cluster's are left, and %+v", n, s)
					}
				}
				r.end() // that no goroutine is left, synctest sees
			})
			if after := openFiles(t); after > before {
				t.Errorf("%d files are open, %d were", after, before)
			}
		})
	}
}

func TestClientsAreToldOfTheEnd(t *testing.T) {
	for _, phase := range phases {
		for _, reads := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, reading %t", phase.name, reads), func(t *testing.T) {
				o := trusting(t, nil)
				synctest.Test(t, func(t *testing.T) {
					cluster := newFakeCluster()
					if phase.cluster != nil {
						phase.cluster(cluster)
					}
					o := o
					o.Cluster = cluster
					r := run(t, o)
					g := enter(t, r.dial())
					defer g.Close()
					phase.enter(t, g)
					synctest.Wait()
					reads := reads && phase.name != "asking without reading answers"
					read := make(chan []byte)
					if reads && !g.listens {
						go func() { all, _ := io.ReadAll(g); read <- all }()
					} else {
						go func() { read <- nil }()
					}
					began := time.Now()
					r.end()
					if took := time.Since(began); took > drainTime+2*goodbye || !phase.drains && reads && took > 2*goodbye {
						t.Errorf("took %v", took)
					}
					g.Close()
					all := <-read
					synctest.Wait() // until all that was heard is noted
					told := bytes.Contains(all, []byte("C57P01\x00"))
					if g.listens {
						told = len(g.heard) > 0
					}
					if reads && !told {
						t.Errorf("the client was not told why: %q", all)
					}
					if n := cluster.left(); n != 0 {
						t.Errorf("%d things of the cluster's are left", n)
					}
				})
			})
		}
	}
}

// message returns a message.
func message(kind byte, body string) []byte { return copyMessage(kind, []byte(body)) }

func TestWhatClientsMaySay(t *testing.T) {
	const ready = "-" // no error
	huge := binary.BigEndian.AppendUint32([]byte{'Q'}, 1<<30)
	for _, c := range []struct {
		name string
		said []byte
		want []string // SQLSTATEs, one for each ReadyForQuery; the last may be of the end
	}{
		{"a command", query("IDENTIFY_SYSTEM"), []string{ready}},
		{"nothing", query(""), []string{"0A000"}},
		{"a message of a gigabyte", huge, []string{"08P01"}},
		{"a message shorter than its length", []byte{'Q', 0, 0, 0, 3}, []string{"08P01"}},
		{"of no type", message(0, ""), []string{"08P01"}},
		{"another startup packet", []byte{0, 0, 0, 9, 0, 3, 0, 0, 0}, []string{"08P01"}},
		{"a query without an end", message('Q', "IDENTIFY_SYSTEM"), []string{"08P01"}},
		{"something behind a query", message('Q', "IDENTIFY_SYSTEM\x00SELECT\x00"), []string{"08P01"}},
		{"thousands of commands at once", bytes.Repeat(query("IDENTIFY_SYSTEM"), 3000), slicesRepeat(ready, 3000)},
		{"a flood of CopyData", append(bytes.Repeat(message('d', strings.Repeat("x", 8000)), 500), query("IDENTIFY_SYSTEM")...), []string{ready}},
		{"the end of a COPY that is none", append(message('c', ""), query("IDENTIFY_SYSTEM")...), []string{ready}},
		{"an extended query", append(message('P', "\x00SELECT 1\x00\x00\x00"), message('S', "")...), []string{"08P01"}},
		{"extended queries are skipped to Sync", append(append(message('P', "x"), message('B', "x")...), append(query("IDENTIFY_SYSTEM"), message('S', "")...)...), []string{"08P01"}},
		{"a function call", message('F', "\x00\x00\x00\x01"), []string{"08P01"}},
		{"a query in the middle of a COPY in", append(query("UPLOAD_MANIFEST"), query("IDENTIFY_SYSTEM")...), []string{"08P01"}},
		{"the end in the middle of a COPY in", append(query("UPLOAD_MANIFEST"), message('X', "")...), []string{"08P01"}},
		{"a COPY in that fails", append(append(query("UPLOAD_MANIFEST"), message('f', "reason\x00")...), query("IDENTIFY_SYSTEM")...), []string{"57014", ready}},
		{"a COPY in that fails without a reason", append(query("UPLOAD_MANIFEST"), message('f', "")...), []string{"57014"}},
		{"a manifest of garbage", append(append(query("UPLOAD_MANIFEST"), message('d', "garbage")...), append(message('c', ""), query("IDENTIFY_SYSTEM")...)...), []string{"XX000", ready}},
		{"a command behind a backup", append(query("BASE_BACKUP"), query("IDENTIFY_SYSTEM")...), []string{ready, ready}},
		{"an incremental backup of nothing", query("BASE_BACKUP (INCREMENTAL)"), []string{"55000"}},
		{"commands in a stream", append(query("START_REPLICATION 0/1000000"), query("IDENTIFY_SYSTEM")...), []string{"08P01"}},
		{"commands in a stream of the cluster's", append(query("START_REPLICATION SLOT s 0/1000000"), query("IDENTIFY_SYSTEM")...), []string{"08P01"}},
		{"a stream of the cluster's that ends, and a command", append(append(query("START_REPLICATION SLOT s 0/1000000"), message('c', "")...), query("IDENTIFY_SYSTEM")...), []string{ready, ready}},
		{"SQL on a physical connection", query("SELECT 1"), []string{"0A000"}},
		{"a file outside", query("BASE_BACKUP (TARGET 'server', TARGET_DETAIL '/etc')"), []string{"42501"}},
		{"a target that there is not", query("BASE_BACKUP (TARGET 'shell')"), []string{"0A000"}},
		{"a target of nowhere", query("BASE_BACKUP (TARGET 'server')"), []string{"42601"}},
		{"a setting that tells of files", query("SHOW config_file"), []string{"42501"}},
		{"in other letters", query("SHOW Primary_CONNINFO"), []string{"42501"}},
		{"in quotes", query(`SHOW "ssl_passphrase_command"`), []string{"42501"}},
		{"all settings", query("SHOW ALL"), []string{"42501"}},
		{"a setting of an extension", query("SHOW plugin.secret"), []string{"42501"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := trusting(t, nil)
			synctest.Test(t, func(t *testing.T) {
				cluster := newFakeCluster()
				o := o
				o.Cluster = cluster
				r := run(t, o)
				g := enter(t, r.dial())
				g.listen()
				said := make(chan struct{})
				go func() { defer close(said); _, _ = g.Write(c.said) }() // the server may close before all is said
				for i, want := range c.want {
					code, more := g.answer()
					if code == "" {
						code = ready
					}
					if code != want || !more && i < len(c.want)-1 {
						t.Fatalf("answer %d of %d: %s, and more: %t; want %s", i, len(c.want), code, more, want)
					}
				}
				g.Close()
				<-said
				synctest.Wait()
				if n := cluster.left(); n != 0 {
					t.Errorf("%d things of the cluster's are left", n)
				}
				r.end()
			})
		})
	}
}

func slicesRepeat(s string, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = s
	}
	return all
}

// What is said again to the cluster is one command, whatever is in its words.
func TestRelayedCommandsStayWhole(t *testing.T) {
	for _, c := range []struct{ said, want string }{
		{`READ_REPLICATION_SLOT "a""b'; DROP TABLE x; --"`, `READ_REPLICATION_SLOT "a""b'; DROP TABLE x; --"`},
		{`SHOW "a"";b"`, `SHOW "a"";b"`},
		{`DROP_REPLICATION_SLOT "a;""b"`, `DROP_REPLICATION_SLOT "a;""b"`},
		{`START_REPLICATION SLOT s LOGICAL 0/0 ("a""b" 'c''); DROP x; \')`, `START_REPLICATION SLOT s LOGICAL 0/0 ("a""b" 'c''); DROP x; \')`},
	} {
		t.Run(c.said, func(t *testing.T) {
			o := trusting(t, nil)
			synctest.Test(t, func(t *testing.T) {
				cluster := newFakeCluster()
				o := o
				o.Cluster = cluster
				r := run(t, o)
				g := enter(t, r.dial(), "replication", "database")
				g.listen()
				g.say(t, query(c.said))
				synctest.Wait()
				if got := strings.Join(cluster.relayed, "\n"); strings.ReplaceAll(got, `"s"`, "s") != c.want {
					t.Errorf("got  %s\nwant %s", got, c.want)
				}
				g.Close()
				r.end()
			})
		})
	}
}

func TestCancel(t *testing.T) {
	o := trusting(t, nil)
	synctest.Test(t, func(t *testing.T) {
		cluster := newFakeCluster()
		cluster.begin = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
		o := o
		o.Cluster = cluster
		r := run(t, o)
		g := enter(t, r.dial())
		g.listen()
		cancel := func(pid uint32, key []byte) {
			p, err := (&pgproto3.CancelRequest{ProcessID: pid, SecretKey: key}).Encode(nil)
			if err != nil {
				t.Fatal(err)
			}
			conn := r.dial()
			defer conn.Close()
			if _, err := conn.Write(p); err != nil {
				t.Fatal(err)
			}
			if all, _ := io.ReadAll(conn); len(all) > 0 {
				t.Errorf("a request to cancel was answered: %q", all)
			}
			synctest.Wait()
		}
		cancel(g.key.ProcessID, g.key.SecretKey) // between two commands it does nothing
		for range 2 {
			g.say(t, query("BASE_BACKUP"))
			synctest.Wait()
			wrong := bytes.Clone(g.key.SecretKey)
			wrong[0]++
			cancel(g.key.ProcessID, wrong)
			cancel(g.key.ProcessID+1, g.key.SecretKey)
			cancel(g.key.ProcessID, append(bytes.Clone(g.key.SecretKey), 0))
			if len(g.heard) > 0 {
				t.Fatal("canceled by a wrong key")
			}
			cancel(g.key.ProcessID, g.key.SecretKey)
			if code, more := g.answer(); code != codeCanceled || !more {
				t.Fatalf("canceled: %q, %t", code, more)
			}
		}
		if n := cluster.left(); n != 0 {
			t.Errorf("%d things of the cluster's are left", n)
		}
		g.Close()
		r.end()
	})
}

func TestThoseWhoOnlyConnectKeepNobodyOut(t *testing.T) {
	o := trusting(t, nil)
	synctest.Test(t, func(t *testing.T) {
		o := o
		o.Cluster, o.MaxConnections = newFakeCluster(), 5
		r := run(t, o)
		ended := make(chan time.Duration, 100)
		began := time.Now()
		for i := range 100 {
			conn := r.dial()
			go func() {
				if i%2 == 0 {
					_, _ = conn.Write([]byte{0, 0}) // the beginning of a packet
				}
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
				ended <- time.Since(began)
			}()
		}
		synctest.Wait()
		if n := len(ended); n != 95 {
			t.Errorf("%d connections have made way, want 95", n)
		}
		var in []*guest
		for range 5 {
			in = append(in, enter(t, r.dial()))
		}
		conn := r.dial()
		if _, err := conn.Write(startup(t, "replication", "true")); err != nil {
			t.Fatal(err)
		}
		if all, _ := io.ReadAll(conn); !bytes.Contains(all, []byte("C53300\x00Msorry, too many clients already\x00")) {
			t.Errorf("one too many is told %q", all)
		}
		for range 100 {
			<-ended
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("the last one that only connected was there for %v", took)
		}
		if s := r.Status(); s.Sessions != 5 {
			t.Errorf("%+v", s)
		}
		for _, g := range in {
			g.Close()
		}
		synctest.Wait()
		enter(t, r.dial()).Close()
		r.end()
	})
}
