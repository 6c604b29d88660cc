package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"basin/internal/pgtest"
)

// badWire cuts a connection at any byte, after having passed on what came before
// in one of several ways.
func badWire(number int32) wire {
	limit := rand.Int64N(3 << 20)
	if number%4 == 0 {
		limit = rand.Int64N(2000) // in the greeting, or what follows it
	}
	return func(to io.Writer, from io.Reader) error {
		cut := io.LimitReader(from, limit)
		switch number % 3 {
		case 0:
			return whole(to, cut)
		case 1:
			return drip(to, cut)
		}
		for { // in pieces, with pauses
			if n, err := io.CopyN(to, cut, 1+rand.Int64N(100_000)); err != nil || n == 0 {
				return err
			}
			pause(rand.N(10 * time.Millisecond))
		}
	}
}

// TestReceiverOnBadNetwork has connections that break at any byte.
func TestReceiverOnBadNetwork(t *testing.T) { // not beside others: it has a load
	const broken = 12 // connections, before they get better
	basin := newProgram(t, "pg_receivewal")
	archive := pgtest.TempDir(t)
	s := pgtest.Start(t, archivingConfig(archive))
	pgtest.StartLoad(t.Context(), t, s, 2)
	for _, args := range [][]string{{"-Z", "none", "--synchronous"}, {"-Z", "zstd"}} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			t.Parallel()
			r := newLogReceiver(t, basin, s, newReceivedLog(t, s, archive), "network_"+args[1], args...)
			better := make(chan struct{})
			server := proxy(t, s, func(number int32) wire {
				switch {
				case number <= broken:
					return badWire(number)
				case number == broken+1:
					close(better)
				}
				return whole
			})
			r.args = append(r.args, "-d", server)
			p := r.start(t)
			select {
			case <-better:
			case <-p.done:
				t.Fatalf("%s", p.wait(t))
			case <-time.After(patience):
				t.Fatalf("fewer than %d connections within %v", broken, patience)
			}
			end := lsn(t, s, "SELECT pg_switch_wal()")
			r.log.arrives(t, p, 1, end)
			p.ends(t, syscall.SIGTERM)
			r.log.checkComplete(t)
			if n := r.log.isWhole(t, r.log.first, end); n < 3 {
				t.Errorf("only %d segments", n)
			}
		})
	}
}

// TestReceiverOfSilentServer has a server whose process does nothing any more,
// although the connection stands.
func TestReceiverOfSilentServer(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	archive := pgtest.TempDir(t)
	s := pgtest.Start(t, archivingConfig(archive))
	r := newLogReceiver(t, basin, s, newReceivedLog(t, s, archive), "silent")
	p := r.start(t)
	const sender = "SELECT pid FROM pg_stat_replication WHERE application_name = 'silent'"
	eventually(t, "stream", func() bool { return s.Query(t, sender) != "" })
	var pid int
	if _, err := fmt.Sscan(s.Query(t, sender), &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	eventually(t, "given up", func() bool { return strings.Contains(p.stderr.String(), "nothing came from the server for") })
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	end := lsn(t, s, "SELECT pg_switch_wal()")
	r.log.arrives(t, p, 1, end)
	p.ends(t, syscall.SIGTERM)
	r.log.isWhole(t, r.log.first, end)
}

// TestReceiverOnFullDisk has a disk that runs full, stays so for a while, and has
// room again.
func TestReceiverOnFullDisk(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "pg_receivewal")
	archive := pgtest.TempDir(t)
	s := pgtest.Start(t, archivingConfig(archive))
	for _, test := range []struct {
		reason string
		args   []string
		killed bool // while there is no room
	}{
		{"full_none", []string{"--synchronous"}, false},
		{"full_gzip", []string{"-Z", "gzip"}, false},
		{"full_lz4", []string{"-Z", "lz4", "--synchronous"}, true},
		{"full_zstd", []string{"-Z", "zstd"}, true},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			full, ok := smallDisk(t, 32)
			if !ok {
				return
			}
			log := newReceivedLog(t, s, archive)
			log.path = filepath.Join(full, "log")
			if err := os.Mkdir(log.path, 0o700); err != nil {
				t.Fatal(err)
			}
			ballast := filepath.Join(full, "ballast")
			if err := os.WriteFile(ballast, make([]byte, 27<<20+300_000), 0o600); err != nil {
				t.Fatal(err)
			}
			pgtest.Own(t, full)
			r := newLogReceiver(t, basin, s, log, test.reason, test.args...)
			p := r.start(t)
			writeNoise(t, s, 8)
			p.says(t, "No space left on device", "hint: ", "bytes free")
			if err := os.WriteFile(filepath.Join(full, "rest"), make([]byte, 8<<20), 0o600); err == nil {
				t.Error("the disk is not full")
			}
			if test.killed {
				p.kill(t)
				log.checkComplete(t)
				p = r.start(t)
				p.says(t, "No space left on device")
			}
			p.signal(t, syscall.SIGSTOP) // so that nothing changes while it is looked at
			log.checkComplete(t)
			p.signal(t, syscall.SIGCONT)

			for _, file := range []string{ballast, filepath.Join(full, "rest")} {
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			end := lsn(t, s, "SELECT pg_switch_wal()")
			log.arrives(t, p, 1, end)
			p.ends(t, syscall.SIGTERM)
			log.checkComplete(t)
			if n := log.isWhole(t, log.first, end); n < 7 {
				t.Errorf("only %d segments", n)
			}
		})
	}
	t.Run("files limited", func(t *testing.T) {
		t.Parallel()
		r := newLogReceiver(t, basin, s, newReceivedLog(t, s, archive), "limited", "-Z", "lz4")
		c := basin.command(t.Context(), nil, r.args...)
		c.Args = append([]string{"sh", "-c", `ulimit -S -f 1000 && exec "$@"`, "sh", c.Path}, r.args...)
		c.Path = "/bin/sh"
		p := startCommand(t, c)
		p.says(t, "File too large", "hint: ", "ulimit -f")
		r.log.checkComplete(t)
		if out, err := runShell(r.log.path, fmt.Sprintf("prlimit --pid %d --fsize=unlimited", p.cmd.Process.Pid)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		writeNoise(t, s, 2)
		end := lsn(t, s, "SELECT pg_switch_wal()")
		r.log.arrives(t, p, 1, end)
		p.ends(t, syscall.SIGTERM)
		r.log.isWhole(t, r.log.first, end)
	})
}

// says waits until a program that goes on has said each of the texts.
func (p *process) says(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		eventually(t, "the program says: "+text, func() bool {
			select {
			case <-p.done:
				t.Fatalf("%s", p.wait(t))
			default:
			}
			return strings.Contains(p.stderr.String(), text)
		})
	}
}

// writeNoise writes that many segments of log which no method compresses.
func writeNoise(t *testing.T, s *pgtest.Server, segments int) {
	t.Helper()
	for range segments {
		noise := make([]byte, 700_000)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		s.Exec(t, fmt.Sprintf(`SELECT pg_logical_emit_message(false, 'noise', '\x%x'::bytea)`, noise), "SELECT pg_switch_wal()")
	}
}
