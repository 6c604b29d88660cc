package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"basin/internal/pgtest"
	"basin/internal/wal"
)

// TestServeReceiveWAL has the stock pg_receivewal receive from basin serve, through ends of
// it, of the cluster and of itself, and compares what it has with the cluster's own.
func TestServeReceiveWAL(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, test := range []struct {
		server, client int
		args           []string
	}{
		{13, 15, nil},
		{13, 18, []string{"-S", "receiver"}},
		{15, 15, []string{"-S", "receiver", "--synchronous"}},
		{16, 18, []string{"-Z", "gzip"}},
		{18, 18, nil},
		{18, 18, []string{"-S", "receiver", "--synchronous", "-Z", "lz4"}},
	} {
		t.Run(fmt.Sprint(test.server, " ", test.client, test.args), func(t *testing.T) {
			t.Parallel()
			archive := pgtest.TempDir(t)
			c := archivingConfig(archive)
			c.Major, c.Conf["wal_keep_size"] = test.server, "1GB"
			s := pgtest.Start(t, c)
			v := startServe(t, basin, s)
			log := newReceivedLog(t, s, archive)
			connection := []string{"-d", v.conninfo() + " application_name=receiver"}
			slot, synchronous := slices.Contains(test.args, "-S"), slices.Contains(test.args, "--synchronous")
			if slot {
				for range 2 {
					if e := stock(t, test.client, "pg_receivewal", append(connection, "-S", "receiver", "--create-slot", "--if-not-exists")...); e.status != exitSuccess {
						t.Fatalf("%s", e)
					}
				}
			}
			if synchronous {
				s.Set(t, "synchronous_standby_names", "receiver")
			}
			start := func() *process {
				return startCommand(t, pgtest.Command(t, test.client, "pg_receivewal", append(append(connection, "-D", log.path, "-v"), test.args...)...))
			}
			receiver := start()
			eventually(t, "start", func() bool { return strings.Contains(receiver.stderr.String(), "starting log streaming at") })
			load := pgtest.StartLoad(t.Context(), t, s, 2)
			write := func() (end wal.LSN) {
				s.Exec(t, "CREATE TABLE IF NOT EXISTS bulk (n int, payload text)", "INSERT INTO bulk SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 4000) g")
				return lsn(t, s, "SELECT pg_switch_wal()")
			}
			log.arrives(t, receiver, 1, write())

			v.process.kill(t)
			v.start(t)
			log.arrives(t, receiver, 1, write())

			receiver.kill(t)
			log.removeUnfilled(t)
			if !synchronous { // for commits wait
				write()
			}
			receiver = start()
			log.arrives(t, receiver, 1, write())

			load.Stop(t)
			s.Restart(t)
			log.arrives(t, receiver, 1, write())
			if slot {
				s.WaitFor(t, fmt.Sprintf("SELECT active AND restart_lsn >= '%v' FROM pg_replication_slots", lsn(t, s, "SELECT pg_current_wal_lsn()")), "t")
			}
			v.ends(t)
			e := receiver.ends(t, syscall.SIGINT)
			log.checkComplete(t)
			end := lsn(t, s, "SELECT pg_current_wal_lsn()")
			if n := log.isWhole(t, log.first, end-end%segmentSize); n < 8 {
				t.Errorf("only %d segments; it said\n%s", n, e.stderr)
			}
			if slot {
				v.start(t)
				if e := stock(t, test.client, "pg_receivewal", append(connection, "-S", "receiver", "--drop-slot")...); e.status != exitSuccess {
					t.Errorf("%s", e)
				}
				if got := s.Query(t, "SELECT count(*) FROM pg_replication_slots"); got != "0" {
					t.Errorf("%s slots are left", got)
				}
			}
		})
	}
}

// removeUnfilled removes the segment that a pg_receivewal which was killed was about to fill with zeros: none can go on
// from it, whatever it receives from, and it has nothing of the log yet.
//
// Source: open_walfile in src/bin/pg_basebackup/receivelog.c, PostgreSQL 18, which ends with "should be 0 or".
func (l *receivedLog) removeUnfilled(t *testing.T) {
	t.Helper()
	for _, name := range entries(t, l.path) {
		path := filepath.Join(l.path, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		segment, isPartial := strings.CutSuffix(name, ".partial")
		if _, err := wal.ParseSegment(segment, segmentSize); !isPartial || err != nil || info.Size() == 0 || info.Size() == segmentSize {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil || len(bytes.Trim(content, "\x00")) > 0 {
			t.Fatalf("%s has %d bytes, and not zeros alone: %v", name, info.Size(), err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestServeReceiveWALThroughPromotion has pg_receivewal go on with the next timeline, and
// end where it is told to.
func TestServeReceiveWALThroughPromotion(t *testing.T) {
	t.Parallel()
	for _, major := range []int{15, 18} {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			archive := pgtest.TempDir(t)
			c := archivingConfig(archive)
			c.Major, c.Conf["archive_mode"] = major, "always"
			primary := pgtest.Start(t, pgtest.Config{Major: major, WALSegmentSizeMB: 1, Conf: map[string]string{"wal_keep_size": "64MB"}})
			standby := primary.Standby(t, c.Conf)
			v := startServe(t, newProgram(t, "basin"), standby)
			log := newReceivedLog(t, standby, archive)
			primary.Exec(t, "SELECT pg_switch_wal()", "CREATE TABLE bulk (payload text)")
			primary.WaitReplay(t, standby)
			receiver := startCommand(t, pgtest.Command(t, major, "pg_receivewal", "-d", v.conninfo(), "-D", log.path, "-v"))
			eventually(t, "start", func() bool { return strings.Contains(receiver.stderr.String(), "starting log streaming at") })
			for range 3 {
				primary.Exec(t, "INSERT INTO bulk SELECT repeat(md5(g::text), 20) FROM generate_series(1, 1500) g")
			}
			log.arrives(t, receiver, 1, lsn(t, primary, "SELECT pg_switch_wal()"))
			primary.Exec(t, "INSERT INTO bulk SELECT repeat(md5(g::text), 20) FROM generate_series(1, 500) g")
			primary.WaitReplay(t, standby)
			primary.Stop(t, pgtest.Immediate)
			standby.Promote(t)
			standby.Exec(t, "INSERT INTO bulk SELECT repeat(md5(g::text), 20) FROM generate_series(1, 5000) g")
			end := lsn(t, standby, "SELECT pg_switch_wal()")
			log.arrives(t, receiver, 2, end)
			receiver.ends(t, syscall.SIGINT).said(t, "switched to timeline 2 at")
			present(t, filepath.Join(log.path, "00000002.history"))
			log.checkComplete(t)

			// From there on, up to a position that is there.
			e := stock(t, major, "pg_receivewal", "-d", v.conninfo(), "-D", log.path, "-n", "-v", "--endpos", fmt.Sprint(end))
			if e.status != exitSuccess {
				t.Errorf("%s", e)
			}
			v.ends(t)
		})
	}
}

// TestServeRemovedLog is about log that the cluster has removed: it is read where it was
// archived, and if it is nowhere the client hears what it would hear of the cluster.
func TestServeRemovedLog(t *testing.T) {
	t.Parallel()
	basin := newProgram(t, "basin")
	archive := pgtest.TempDir(t)
	s := pgtest.Start(t, archivingConfig(archive))
	log := newReceivedLog(t, s, archive)
	begin := lsn(t, s, "SELECT pg_current_wal_lsn()")
	begin -= begin % segmentSize
	s.Exec(t, "CREATE TABLE bulk AS SELECT repeat(md5(g::text), 20) FROM generate_series(1, 10000) g")
	removeLog(t, s)
	end := lsn(t, s, "SELECT pg_switch_wal()")
	s.Exec(t, "CREATE TABLE more AS SELECT 1")
	first := wal.SegmentAt(wal.Position{LSN: begin, Timeline: 1}, segmentSize)
	absent(t, filepath.Join(s.DataDir, "pg_wal", first.Name(segmentSize)))

	v := startServe(t, basin, s)
	without := speak(t, v.conninfo()+" replication=true")
	without.query(fmt.Sprintf("START_REPLICATION %v TIMELINE 1", begin))
	without.hear("Z")
	want := "E SERROR; VERROR; C58P01; Mrequested WAL segment " + first.Name(segmentSize) + " has already been removed"
	if !slices.Contains(without.heard, want) {
		t.Errorf("heard %q, not %q", without.heard, want)
	}
	v.ends(t)

	if out, err := runShell(archive, "gzip -k "+first.Name(segmentSize)+" && mv "+first.Name(segmentSize)+" ..").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	v = startServe(t, basin, s, "--wal-archive", archive)
	e := stock(t, pgtest.Newest, "pg_receivewal", "-d", v.conninfo(), "-D", log.path, "-n", "-v", "--endpos", fmt.Sprint(end))
	if e.status != exitSuccess {
		t.Errorf("%s", e)
	}
	v.ends(t)
}

// TestServeRecvLogical has the stock pg_recvlogical decode through basin serve what it
// decodes of the cluster itself.
func TestServeRecvLogical(t *testing.T) {
	basin := newProgram(t, "basin")
	for _, test := range []struct{ server, client int }{{13, 18}, {15, 15}, {17, 17}, {18, 18}} {
		t.Run(fmt.Sprint(test.server, " ", test.client), func(t *testing.T) {
			t.Parallel()
			s := decodingServer(t, pgtest.Config{Major: test.server})
			v := startServe(t, basin, s)
			dir := pgtest.TempDir(t)
			run := func(name string, args ...string) ending {
				conninfo := s.ConnString()
				if name == "served" {
					conninfo = v.conninfo() + " dbname=postgres"
				}
				return stock(t, test.client, "pg_recvlogical", append([]string{"-d", conninfo, "-S", name}, args...)...)
			}
			names := []string{"served", "own"}
			for _, name := range names {
				run(name, "--create-slot").succeeded(t)
			}
			run("served", "--create-slot").failed(t, `ERROR:  replication slot "served" already exists`)
			changes(t, s)
			end := s.Query(t, "SELECT pg_current_wal_insert_lsn()")
			for _, name := range names {
				run(name, "--start", "-n", "-E", end, "-f", filepath.Join(dir, name), "-o", "include-xids=0").succeeded(t)
			}
			got, want := readFile(t, filepath.Join(dir, "served")), readFile(t, filepath.Join(dir, "own"))
			if got != want || len(want) < 1000000 {
				t.Errorf("%d bytes, and %d of the cluster", len(got), len(want))
			}
			if got := s.Query(t, "SELECT count(DISTINCT confirmed_flush_lsn), count(*) FROM pg_replication_slots"); got != "1|2" {
				t.Errorf("slots that are left at the same point, and all: %s", got)
			}

			// On and on, while basin serve ends in one way and in the other.
			path := filepath.Join(dir, "load")
			receiver := startCommand(t, pgtest.Command(t, test.client, "pg_recvlogical", "-d", v.conninfo()+" dbname=postgres", "-S", "served", "--start", "-f", path, "-o", "include-xids=0", "-F", "0", "-s", "1"))
			load := pgtest.StartLoad(t.Context(), t, s, 2)
			receivedUpTo(t, s, path, "begun")
			v.process.kill(t)
			v.start(t)
			receivedUpTo(t, s, path, "after kill")
			v.ends(t)
			v.start(t)
			receivedUpTo(t, s, path, "after end")
			load.Stop(t)
			receivedUpTo(t, s, path, "all")
			receiver.ends(t, syscall.SIGINT)
			checkReceivedLoad(t, s, readFile(t, path), false)
			s.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
			run("served", "--drop-slot").succeeded(t)
			v.ends(t)
		})
	}
}

// TestServeDecodesAsAsked is about what a client wants of its session, which is the
// cluster's: how dates look. basin's own environment is not the client's.
func TestServeDecodesAsAsked(t *testing.T) {
	t.Parallel()
	s := pgtest.Start(t, pgtest.Config{Conf: map[string]string{"wal_level": "logical", "datestyle": "German, DMY"}})
	s.Exec(t, "CREATE TABLE days (day date PRIMARY KEY)", "SELECT pg_create_logical_replication_slot('days', 'test_decoding')",
		"INSERT INTO days VALUES ('2026-11-26')")
	v := startServe(t, newProgram(t, "basin"), s)
	for _, test := range []struct{ reason, dateStyle, decoded string }{
		{"the cluster's way", "", "26.11.2026"},
		{"the client's", "ISO, MDY", "2026-11-26"},
		{"one with what is special in options", `SQL,\ DMY`, ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			settings := "replication=database dbname=postgres"
			if test.dateStyle != "" {
				settings += " datestyle='" + strings.ReplaceAll(test.dateStyle, `\`, `\\`) + "'"
			}
			conn, err := pgconn.Connect(t.Context(), v.conninfo()+" "+settings)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.WithoutCancel(t.Context()))
			if want := test.dateStyle; want != "" && conn.ParameterStatus("DateStyle") != want {
				t.Errorf("the client is told of %q", conn.ParameterStatus("DateStyle"))
			}
			results, err := conn.Exec(t.Context(), "CREATE_REPLICATION_SLOT probe TEMPORARY LOGICAL test_decoding NOEXPORT_SNAPSHOT").ReadAll()
			if test.decoded == "" {
				if err == nil || !strings.Contains(err.Error(), "DateStyle") {
					t.Errorf("%v, %v", results, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			s.Exec(t, "DELETE FROM days", "INSERT INTO days VALUES ('2026-11-26')")
			if got := decodeUntil(t, conn, "START_REPLICATION SLOT probe LOGICAL 0/0", "INSERT: day"); !strings.Contains(got, test.decoded) {
				t.Errorf("%q without %s", got, test.decoded)
			}
		})
	}
}

// decodeUntil returns the first record of a stream that has a text.
func decodeUntil(t *testing.T, conn *pgconn.PgConn, command, text string) string {
	t.Helper()
	conn.Frontend().Send(&pgproto3.Query{String: command})
	if err := conn.Frontend().Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		m, err := conn.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := m.(*pgproto3.CopyData); ok && bytes.Contains(d.Data, []byte(text)) {
			return string(d.Data)
		}
	}
}
