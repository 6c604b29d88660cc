package feed_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/feed"
	"basin/internal/pgtest"
	"basin/internal/wal"
)

const mib = 1 << 20

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// small has a server use its segments again as soon as it can.
func small(archive string) map[string]string {
	conf := map[string]string{"min_wal_size": "2MB", "max_wal_size": "2MB", "wal_keep_size": "0", "checkpoint_timeout": "30s"}
	maps.Copy(conf, pgtest.Archiving(archive))
	return conf
}

// follow has the feed of a server's log be driven by the server until the test ends.
func follow(t *testing.T, s *pgtest.Server, archive string) (*feed.Feed, wal.Position) {
	t.Helper()
	params, err := conninfo.Parse(s.ConnString())
	must(t, err)
	must(t, params.Set("replication", "true"))
	session, err := connect.Connect(t.Context(), connect.Options{Params: params, System: conninfo.ThisSystem()})
	must(t, err)
	c := client.NewConn(session)
	system, err := c.IdentifySystem(t.Context())
	must(t, err)
	id, err := strconv.ParseUint(system.ID, 10, 64)
	must(t, err)
	must(t, c.CreatePhysicalSlot(t.Context(), "feed", true, true))
	f := feed.New(feed.Options{
		Dir: filepath.Join(s.DataDir, "pg_wal"), ArchiveDir: archive, SegmentSize: mib, SystemID: id, Major: s.Major,
	})
	f.Advance(system.Position)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- client.ReceiveWAL(ctx, c, f, client.ReceiveOptions{
			SystemID: system.ID, Start: system.Position, Segment: mib, Slot: "feed", Synchronous: true,
			StatusInterval: time.Second,
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		_ = c.Close()
	})
	return f, system.Position
}

// read reads the log of a timeline as it comes, up to a position.
func read(ctx context.Context, f *feed.Feed, t wal.Timeline, from, to wal.LSN) ([]byte, error) {
	r := f.Reader(t)
	defer r.Close()
	var log []byte
	p := make([]byte, 128<<10)
	for at := from; at < to; {
		flushed, changed := f.Flushed()
		end := min(to, flushed.LSN)
		if flushed.Timeline > t {
			end = to
		}
		if at >= end {
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			continue
		}
		n, err := r.ReadAt(ctx, p[:min(int64(len(p)), int64(end-at))], at)
		if err != nil {
			return nil, err
		}
		log = append(log, p[:n]...)
		at += wal.LSN(n)
	}
	return log, nil
}

// archived returns the archived segments of a timeline from a position to another,
// where segments begin. It waits for them.
func archived(t *testing.T, dir string, timeline wal.Timeline, from, to wal.LSN) (log []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for at := from; at < to; at += mib {
		name := filepath.Join(dir, wal.SegmentAt(wal.Position{LSN: at, Timeline: timeline}, mib).Name(mib))
		content, err := os.ReadFile(name)
		for ; err != nil && ctx.Err() == nil; content, err = os.ReadFile(name) {
			<-time.After(50 * time.Millisecond)
		}
		must(t, err)
		log = append(log, content...)
	}
	return log
}

func lsn(t *testing.T, s *pgtest.Server, query string) wal.LSN {
	t.Helper()
	l, err := wal.ParseLSN(s.Query(t, query))
	must(t, err)
	return l
}

// sameLog checks that a log is the beginning of another one.
func sameLog(t *testing.T, got, want []byte, from wal.LSN) {
	t.Helper()
	if len(got) == 0 || !bytes.Equal(got, want[:min(len(got), len(want))]) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		t.Errorf("%d bytes of the log from %v, which differ at %v from the archive's %d", len(got), from, from+wal.LSN(at), len(want))
	}
}

// TestFeedUnderLoad reads along while a server writes, and uses its segments again
// at once: one reader keeps up, one comes late and needs the archive.
func TestFeedUnderLoad(t *testing.T) {
	t.Parallel()
	archive := pgtest.TempDir(t)
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1, Conf: small(archive)})
	f, start := follow(t, s, archive)
	from := start.LSN &^ (mib - 1)

	load := pgtest.StartLoad(t.Context(), t, s, 3)
	to := from + 24*mib
	along := make(chan []byte, 1)
	failed := make(chan error, 2)
	go func() {
		log, err := read(t.Context(), f, 1, from, to)
		along <- log
		failed <- err
	}()
	// Each cut that the feed offers has to be one between records or pages.
	cuts := make(map[wal.LSN]bool)
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		for {
			flushed, changed := f.Flushed()
			cuts[flushed.LSN] = true
			if flushed.LSN >= to {
				return
			}
			select {
			case <-changed:
			case <-t.Context().Done():
				return
			}
		}
	}()
	for {
		s.Exec(t, "INSERT INTO load_rows (client, payload) SELECT 0, repeat(md5(n::text), 20) FROM generate_series(1, 2000) n", "CHECKPOINT")
		if flushed, _ := f.Flushed(); flushed.LSN >= to {
			break
		}
	}
	<-seen
	load.Stop(t)
	s.Exec(t, "SELECT pg_switch_wal()")
	want := archived(t, archive, 1, from, to)
	sameLog(t, <-along, want, from)
	must(t, <-failed)

	late, err := read(t.Context(), f, 1, from, to)
	must(t, err)
	sameLog(t, late, want, from)
	if _, err := os.Stat(filepath.Join(s.DataDir, "pg_wal", wal.SegmentAt(wal.Position{LSN: from, Timeline: 1}, mib).Name(mib))); err == nil {
		t.Error("the first segment is still there; nothing was used again")
	}

	ends := map[wal.LSN]bool{start.LSN: true}
	records := wal.NewRecordReader(bytes.NewReader(want), from, mib)
	for {
		record, err := records.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		ends[record.End] = true
	}
	bad, good := 0, 0
	for cut := range cuts {
		switch {
		case cut > to:
		case ends[cut]:
			good++
		case cut%8192 != 0:
			bad++
		}
	}
	if bad > 0 || good == 0 {
		t.Errorf("%d positions within records, %d at their ends", bad, good)
	}
}

// TestFeedFollowsPromotion reads along from a standby that is promoted, the old
// timeline to its end, and the new one.
func TestFeedFollowsPromotion(t *testing.T) {
	t.Parallel()
	archive := pgtest.TempDir(t)
	primary := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1})
	load := pgtest.StartLoad(t.Context(), t, primary, 2)
	conf := small(archive)
	conf["archive_mode"] = "always"
	standby := primary.Standby(t, conf)
	f, start := follow(t, standby, archive)
	from := start.LSN &^ (mib - 1)
	primary.Exec(t, "INSERT INTO load_rows (client, payload) SELECT 0, repeat(md5(n::text), 20) FROM generate_series(1, 5000) n")
	load.Stop(t)
	primary.WaitReplay(t, standby)
	primary.Stop(t, pgtest.Immediate)
	standby.Promote(t)
	standby.Exec(t, "CREATE TABLE after AS SELECT repeat(md5(n::text), 20) FROM generate_series(1, 5000) n")
	end := lsn(t, standby, "SELECT pg_current_wal_flush_lsn()")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		flushed, changed := f.Flushed()
		if flushed.Timeline == 2 && flushed.LSN >= end {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("at %v, not at %v of timeline 2", flushed, end)
		}
	}
	content, err := f.HistoryFile(t.Context(), 2)
	must(t, err)
	history, err := wal.ParseHistory(2, content)
	must(t, err)
	switchpoint, ok := history.End(1)
	if !ok || switchpoint < start.LSN {
		t.Fatalf("history %q", content)
	}
	old, err := read(t.Context(), f, 1, from, switchpoint)
	must(t, err)
	begins := switchpoint &^ (mib - 1)
	recent, err := read(t.Context(), f, 2, begins, end)
	must(t, err)
	standby.Exec(t, "SELECT pg_switch_wal()")
	whole := append(archived(t, archive, 1, from, begins), archived(t, archive, 2, begins, end)...)
	sameLog(t, old, whole, from)
	sameLog(t, recent, whole[begins-from:], begins)
}
