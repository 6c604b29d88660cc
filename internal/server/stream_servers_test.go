package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/feed"
	"basin/internal/pgtest"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// fed is a Feed as a Log.
type fed struct{ *feed.Feed }

func (f fed) Reader(t wal.Timeline) LogReader { return f.Feed.Reader(t) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// small has a server use its segments again as soon as it can, and archive them.
func small(archive string) map[string]string {
	conf := map[string]string{"min_wal_size": "2MB", "max_wal_size": "2MB", "wal_keep_size": "0", "checkpoint_timeout": "30s"}
	maps.Copy(conf, pgtest.Archiving(archive))
	return conf
}

// follow has the feed of a server's log be driven by the server until the test ends.
func follow(t *testing.T, s *pgtest.Server, archive string) (fed, wal.Position) {
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
	return fed{f}, system.Position
}

// taker is a client that takes down the log it is sent, up to a position.
type taker struct {
	from, to wal.LSN
	log      []byte
	cuts     []wal.LSN // where messages ended
	after    []string  // what the server said behind the COPY, in words
	pause    func()    // before each message; may be nil
	up       chan []byte
	done     bool
}

func newTaker(from, to wal.LSN) *taker { return &taker{from: from, to: to, up: make(chan []byte, 8)} }

func (k *taker) SetWriteDeadline(time.Time) error { return nil }

func (k *taker) Receive(ctx context.Context) (byte, []byte, error) {
	select {
	case m := <-k.up:
		return m[0], m[1:], nil
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

func (k *taker) end() {
	if !k.done {
		k.done = true
		k.up <- []byte{'c'}
	}
}

func (k *taker) Send(pieces ...[]byte) error {
	for p := slices.Concat(pieces...); len(p) > 0; {
		n := 1 + int(binary.BigEndian.Uint32(p[1:]))
		if err := k.take(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (k *taker) take(m []byte) error {
	switch {
	case m[0] == 'W':
	case m[0] == 'c':
		k.end()
	case m[0] != 'd':
		k.after = append(k.after, show(m))
	case m[5] == protocol.StreamData:
		if k.pause != nil {
			k.pause()
		}
		at, end := protocol.ParseDataHeader(m[5:])
		p := m[5+protocol.DataHeaderSize:]
		if want := k.from + wal.LSN(len(k.log)); at != want || at+wal.LSN(len(p)) > end {
			return fmt.Errorf("%d bytes at %v of %v, want them at %v", len(p), at, end, want)
		}
		k.log = append(k.log, p...)
		at += wal.LSN(len(p))
		k.cuts = append(k.cuts, at)
		if at >= k.to {
			k.end()
			return nil
		}
		select {
		case k.up <- append([]byte{'d'}, protocol.Status{Write: at, Flush: at}.Append(nil, time.Now())...):
		default:
		}
	}
	return nil
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

// check compares what was taken with the log, and where messages ended with the
// records that are in it.
func (k *taker) check(t *testing.T, log []byte) {
	t.Helper()
	if len(k.log) == 0 || len(k.log) > len(log) || !bytes.Equal(k.log, log[:len(k.log)]) {
		t.Errorf("%d bytes from %v on are not those of the archive's %d", len(k.log), k.from, len(log))
	}
	records := wal.NewRecordReader(bytes.NewReader(log), k.from, mib)
	var ends []wal.LSN
	for {
		record, err := records.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		ends = append(ends, record.End)
	}
	for _, cut := range k.cuts {
		_, found := slices.BinarySearch(ends, cut)
		if !found && cut%pageSize != 0 {
			t.Errorf("a message ends within a record, at %v", cut)
		}
	}
}

// TestStreamUnderLoad streams from a server that writes, and uses its segments again
// at once: to a client that keeps up, one that is slow, and one that comes late.
func TestStreamUnderLoad(t *testing.T) {
	t.Parallel()
	archive := pgtest.TempDir(t)
	s := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1, Conf: small(archive)})
	f, start := follow(t, s, archive)
	from := start.LSN &^ (mib - 1)
	to := from + 24*mib
	load := pgtest.StartLoad(t.Context(), t, s, 3)

	o := streamOptions{From: wal.Position{LSN: from, Timeline: 1}, Timeout: time.Minute, SegmentSize: mib}
	prompt, slow, late := newTaker(from, to), newTaker(from, to), newTaker(from, to)
	var group errgroup.Group
	slow.pause = func() { // until the log is far ahead
		for at := slow.from + wal.LSN(len(slow.log)); ; {
			flushed, changed := f.Flushed()
			if flushed.LSN >= min(to, at+4*mib) {
				return
			}
			select {
			case <-changed:
			case <-t.Context().Done():
				return
			}
		}
	}
	for _, k := range []*taker{prompt, slow} {
		group.Go(func() error { return stream(t.Context(), k, f, o) })
	}
	for {
		s.Exec(t, "INSERT INTO load_rows (client, payload) SELECT 0, repeat(md5(n::text), 20) FROM generate_series(1, 2000) n", "CHECKPOINT")
		if flushed, _ := f.Flushed(); flushed.LSN >= to {
			break
		}
	}
	load.Stop(t)
	must(t, group.Wait())
	must(t, stream(t.Context(), late, f, o))
	end, err := wal.ParseLSN(s.Query(t, "SELECT pg_switch_wal()"))
	must(t, err)
	log := archived(t, archive, 1, from, end)
	for _, k := range []*taker{prompt, slow, late} {
		k.check(t, log)
	}

	// Without the archive, the first segment is gone.
	gone := feed.New(feed.Options{Dir: filepath.Join(s.DataDir, "pg_wal"), SegmentSize: mib})
	flushed, _ := f.Flushed()
	gone.Advance(flushed)
	want := fmt.Sprintf("58P01: requested WAL segment %s has already been removed", wal.SegmentAt(o.From, mib).Name(mib))
	if err := stream(t.Context(), newTaker(from, to), fed{gone}, o); showError(err) != want {
		t.Errorf("ended with %s, want %s", showError(err), want)
	}
}

// TestStreamFollowsPromotion streams from a standby that is promoted meanwhile: the
// old timeline to its end, and then the new one.
func TestStreamFollowsPromotion(t *testing.T) {
	t.Parallel()
	archive := pgtest.TempDir(t)
	primary := pgtest.Start(t, pgtest.Config{WALSegmentSizeMB: 1})
	load := pgtest.StartLoad(t.Context(), t, primary, 2)
	conf := small(archive)
	conf["archive_mode"] = "always"
	standby := primary.Standby(t, conf)
	f, start := follow(t, standby, archive)
	from := start.LSN &^ (mib - 1)
	o := streamOptions{From: wal.Position{LSN: from, Timeline: 1}, Timeout: time.Minute, SegmentSize: mib}
	old := newTaker(from, 1<<62)
	ended := make(chan error, 1)
	go func() { ended <- stream(t.Context(), old, f, o) }()
	primary.Exec(t, "INSERT INTO load_rows (client, payload) SELECT 0, repeat(md5(n::text), 20) FROM generate_series(1, 5000) n")
	load.Stop(t)
	primary.WaitReplay(t, standby)
	primary.Stop(t, pgtest.Immediate)
	standby.Promote(t)
	standby.Exec(t, "CREATE TABLE after AS SELECT repeat(md5(n::text), 20) FROM generate_series(1, 5000) n")
	must(t, <-ended)

	content, err := f.HistoryFile(t.Context(), 2)
	must(t, err)
	history, err := wal.ParseHistory(2, content)
	must(t, err)
	switchpoint, _ := history.End(1)
	want := split(nextIs + "2 " + switchpoint.String() + "|" + completes)
	if !slices.Equal(old.after, want) {
		t.Errorf("server said %q, want %q", old.after, want)
	}
	if end := old.from + wal.LSN(len(old.log)); end != switchpoint {
		t.Errorf("timeline 1 was sent up to %v, not %v", end, switchpoint)
	}
	end, err := wal.ParseLSN(standby.Query(t, "SELECT pg_current_wal_flush_lsn()"))
	must(t, err)
	begins := switchpoint &^ (mib - 1)
	recent, again := newTaker(begins, end), newTaker(from, 1<<62)
	must(t, stream(t.Context(), recent, f, streamOptions{From: wal.Position{LSN: begins, Timeline: 2}, SegmentSize: mib}))
	must(t, stream(t.Context(), again, f, o))
	if !bytes.Equal(again.log, old.log) || !slices.Equal(again.after, old.after) {
		t.Error("the old timeline, once it is left, differs from what it was")
	}
	standby.Exec(t, "SELECT pg_switch_wal()")
	log := append(archived(t, archive, 1, from, begins), archived(t, archive, 2, begins, end)...)
	old.check(t, log)
	recent.check(t, log[begins-from:])
}
