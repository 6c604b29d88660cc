package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"basin/internal/backup"
	"basin/internal/connect"
	"basin/internal/protocol"
	"basin/internal/seal"
	"basin/internal/wal"
)

// taken is what the client made of a scene.
type taken struct {
	version  int
	system   System
	segment  int64
	group    bool
	start    backup.Start
	end      wal.Position
	members  []string // as in a listing, in the order they came
	sums     map[string]uint32
	manifest []byte
	log      shelf
	notices  []string
	progress backup.Progress
}

// Begin makes taken a backup.Sink.
func (k *taken) Begin(_ context.Context, start backup.Start) error {
	k.start = start
	return nil
}

// Put takes down what a member is, and keeps none of its bytes but a manifest's.
func (k *taken) Put(_ context.Context, m backup.Member, r io.Reader) error {
	if m.Kind == backup.Manifest {
		var err error
		k.manifest, err = io.ReadAll(r)
		return err
	}
	name := path.Clean(m.Path)
	if m.Tablespace != 0 {
		name = fmt.Sprintf("pg_tblspc/%d/%s", m.Tablespace, name)
	}
	sum := crc32.New(castagnoli)
	if m.Kind == backup.File {
		if n, err := io.Copy(sum, r); err != nil {
			return err
		} else if n != m.Size {
			return fmt.Errorf("%s: %d bytes, not %d", name, n, m.Size)
		}
		if k.sums == nil {
			k.sums = make(map[string]uint32)
		}
		k.sums[name] = sum.Sum32()
	}
	k.members = append(k.members, memberLine(name, m.Kind, m.Mode, m.Size, sum.Sum32(), m.Target))
	return nil
}

// Commit takes down where the backup ends.
func (k *taken) Commit(_ context.Context, end wal.Position) error {
	k.end = end
	return nil
}

// Close has nothing to do.
func (k *taken) Close() error { return nil }

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// play has the client ask what the scene is about. beside is a second connection.
func (s scene) play(ctx context.Context, k *session, main, beside *Conn, earlier []byte) (got *taken, err error) {
	got = &taken{version: main.Version}
	main.Notice = func(n *pgconn.Notice) {
		got.notices = append(got.notices, connect.NoticeText(n.Severity, n.Message, n.Detail, n.Hint))
	}
	if got.system, err = main.IdentifySystem(ctx); err != nil {
		return got, err
	}
	if got.segment, err = main.SegmentSize(ctx); err != nil {
		return got, err
	}
	if got.group, err = main.GroupAccess(ctx); err != nil {
		return got, err
	}
	log := ReceiveOptions{SystemID: got.system.ID, Segment: got.segment, StatusInterval: 10 * time.Second}
	if s.command == (protocol.BaseBackup{}) {
		stop := make(chan wal.Position, 1)
		stop <- k.Stop
		log.Start, log.Stop = k.Start, stop
		return got, ReceiveWAL(ctx, main, &got.log, log)
	}
	o := BaseBackupOptions{
		Command: s.command, Segment: got.segment,
		Decompress: unpackArchive, Progress: &got.progress,
	}
	if s.earlier != nil {
		earlier = s.earlier
	}
	if len(earlier) > 0 {
		o.Manifest = bytes.NewReader(earlier)
	}
	var task backup.Options
	if s.beside {
		log.Slot = "recorded"
		if err := beside.CreatePhysicalSlot(ctx, log.Slot, true, true); err != nil {
			return got, err
		}
		task.Log = func(ctx context.Context, start backup.Start, stop <-chan wal.Position) error {
			log.Start, log.Stop = start.Position, stop
			return ReceiveWAL(ctx, beside, &got.log, log)
		}
	}
	source := NewBaseBackup(main, o)
	err = backup.Copy(ctx, got, source, task)
	return got, errors.Join(err, source.Close())
}

func unpackArchive(r io.Reader, suffix string) (io.ReadCloser, error) {
	switch suffix {
	case ".lz4":
		return seal.NewReader(r, seal.LZ4)
	case ".zst":
		return seal.NewReader(r, seal.Zstd)
	}
	return nil, fmt.Errorf("unknown suffix %q", suffix)
}

// player is a connection to a server that says again what was recorded.
type player struct {
	net.Conn // nil: nothing else is asked of it
	mu       sync.Mutex
	changed  *sync.Cond
	ear
	said    []byte // and not yet read
	single  int    // so many bytes are read one by one
	allowed int    // bytes of said that answer to what was asked so far; less than zero for all
	steps   []step // that are to come
	wrong   string // the first thing the client did that it did not do then
	query   string
	upload  []byte
	closed  bool
	late    bool // the deadline of reads is past
}

// newPlayer returns the player of a talk. With strict it says nothing that it
// was not asked for.
func newPlayer(said []byte, steps []step, strict bool) *player {
	p := &player{said: said, steps: steps}
	p.changed = sync.NewCond(&p.mu)
	if !strict {
		p.allowed = -1
	}
	return p
}

func (p *player) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.allowed == 0 && len(p.said) > 0 && !p.closed && !p.late {
		p.changed.Wait()
	}
	switch {
	case p.closed:
		return 0, net.ErrClosed
	case p.late:
		return 0, os.ErrDeadlineExceeded
	case len(p.said) == 0:
		return 0, io.EOF
	case p.single > 0:
		b = b[:1]
		p.single--
	}
	available := p.said
	if p.allowed >= 0 {
		available = p.said[:min(len(p.said), p.allowed)]
	}
	n := copy(b, available)
	p.said = p.said[n:]
	if p.allowed >= 0 {
		p.allowed -= n
	}
	return n, nil
}

func (p *player) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.allowed < 0 {
		return len(b), nil
	}
	p.hear(b, func(kind byte, body []byte) {
		switch kind {
		case 'Q':
			p.query = strings.TrimSuffix(string(body), "\x00")
			p.step(p.query)
		case 'c':
			p.step(copyEnd)
		case 'd':
			if p.query == "UPLOAD_MANIFEST" {
				p.upload = append(p.upload, body...)
			} else if len(body) != 34 || body[0] != protocol.StreamStatus {
				p.complain(fmt.Sprintf("CopyData %q", body))
			}
		case 'X':
		default:
			p.complain(fmt.Sprintf("message of type %c", kind))
		}
	})
	return len(b), nil
}

// step lets the server answer, if it was asked what it was asked then.
func (p *player) step(sent string) {
	if len(p.steps) == 0 || p.steps[0].Sent != sent {
		p.complain(sent)
		return
	}
	p.allowed += p.steps[0].Answer
	p.steps = p.steps[1:]
	p.changed.Broadcast()
}

// complain ends the conversation.
func (p *player) complain(sent string) {
	if p.wrong == "" {
		p.wrong = fmt.Sprintf("the client sent %s; then it was %+v", sent, p.steps)
	}
	p.said = nil
	p.changed.Broadcast()
}

func (p *player) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.changed.Broadcast()
	return nil
}

// SetReadDeadline notices deadlines that interrupt a read; no others are waited for.
func (p *player) SetReadDeadline(at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = !at.IsZero() && at.Before(time.Now())
	p.changed.Broadcast()
	return nil
}

func (p *player) SetDeadline(at time.Time) error   { return p.SetReadDeadline(at) }
func (p *player) SetWriteDeadline(time.Time) error { return nil }

// playback plays the scene with the given players at the far end. It returns
// when nothing is under way any more.
func (s scene) playback(ctx context.Context, k *session, players ...*player) (*taken, error) {
	conns := make([]*Conn, 2)
	for i := range conns {
		p := newPlayer(nil, nil, false)
		if i < len(players) {
			p = players[i]
		}
		conns[i] = newConn(p)
		conns[i].Version, conns[i].ServerVersion = k.Version, k.Server
		defer conns[i].Close()
	}
	return s.play(ctx, k, conns[0], conns[1], k.Talks[0].uploaded)
}

// players returns one for each talk.
func (k *session) players(strict bool) (players []*player) {
	for _, talk := range k.Talks {
		players = append(players, newPlayer(talk.said, talk.Steps, strict))
	}
	return players
}

// eachSession runs a test for each scene and looks for what it left running.
func eachSession(t *testing.T, test func(t *testing.T, s scene, k *session)) {
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			k, err := loadSession(s.name)
			if err != nil {
				t.Fatal(err)
			}
			before := goleak.IgnoreCurrent()
			test(t, s, k)
			goleak.VerifyNone(t, before)
		})
	}
}

func TestSessionsGiveWhatTheServerHad(t *testing.T) {
	eachSession(t, func(t *testing.T, s scene, k *session) {
		for _, single := range []int{0, 100_000} {
			players := k.players(true)
			for _, p := range players {
				p.single = single
			}
			got, err := s.playback(t.Context(), k, players...)
			if text := errorText(err); text != s.want {
				t.Errorf("got  %s\nwant %s", text, s.want)
			}
			for i, p := range players {
				if p.wrong != "" {
					t.Errorf("connection %d: %s", i, p.wrong)
				}
				if len(p.steps) > 0 && p.wrong == "" {
					t.Errorf("connection %d: the client did not send %+v", i, p.steps)
				}
				if !bytes.Equal(p.upload, k.Talks[i].uploaded) {
					t.Errorf("connection %d: another manifest was uploaded", i)
				}
			}
			if noticed := strings.Join(got.notices, "\n"); (s.noticed == "") != (noticed == "") || !strings.Contains(noticed, s.noticed) {
				t.Errorf("server said %q", noticed)
			}
			if s.setting == newTimeline {
				checkTimelines(t, k, got)
			}
			if got.manifest != nil {
				checkTaken(t, s, got)
			}
			if (got.manifest != nil) != exists(listingFile(s.name)) {
				t.Errorf("manifest of %d bytes, but is there a listing?", len(got.manifest))
			}
		}
	})
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkTaken compares a backup with the listing made when it was recorded, and
// with its own manifest.
func checkTaken(t *testing.T, s scene, got *taken) {
	t.Helper()
	text, err := os.ReadFile(listingFile(s.name))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(got.members))); diff != "" {
		t.Errorf("members: %s", diff)
	}
	manifest := parseManifest(t, got.manifest)
	for _, f := range manifest.Files {
		if sum, ok := got.sums[f.Path]; !ok || manifestSum(sum) != f.Checksum {
			t.Errorf("%s: came %t, checksum %s, but %s in the manifest", f.Path, ok, manifestSum(sum), f.Checksum)
		}
		delete(got.sums, f.Path)
	}
	for name := range got.sums {
		if path.Dir(name) != "pg_wal" {
			t.Errorf("%s is not in the manifest", name)
		}
	}
	if len(manifest.Ranges) != 1 || manifest.Ranges[0].Start != got.start.Position.LSN.String() ||
		manifest.Ranges[0].Timeline != got.start.Position.Timeline || got.end.LSN != 0 && manifest.Ranges[0].End != got.end.LSN.String() {
		t.Errorf("backup from %v to %v, but %v in the manifest", got.start.Position, got.end, manifest.Ranges)
	}
	if len(got.start.Tablespaces) != 1 || got.progress.Tablespace.Load() != 2 || got.start.Size == 0 || got.group {
		t.Errorf("%+v", got.start)
	}
	if s.beside {
		checkLog(t, got, got.start.Position, got.end.LSN)
	}
}

// checkLog reads the log record by record: pages that say where they are, and
// records that follow one another and are what their checksums are of, from the
// first to the one that ends at stop.
func checkLog(t *testing.T, got *taken, start wal.Position, stop wal.LSN) {
	t.Helper()
	l := logText{got: got, at: start.LSN, timeline: start.Timeline}
	var previous wal.LSN
	for l.at < stop {
		if l.at%logPage == 0 {
			l.take(0)
		}
		first := l.at
		head := l.take(recordHead)
		if l.err != nil || binary.LittleEndian.Uint32(head) < recordHead {
			t.Fatalf("no record at %v: % x, %v", first, head, l.err)
		}
		rest := l.take(int(binary.LittleEndian.Uint32(head)) - recordHead)
		sum := crc32.Update(crc32.Checksum(rest, castagnoli), castagnoli, head[:20])
		before := wal.LSN(binary.LittleEndian.Uint64(head[8:]))
		if l.err != nil || sum != binary.LittleEndian.Uint32(head[20:]) || previous != 0 && before != previous {
			t.Fatalf("record at %v: checksum %x, previous at %v, not %v, %v", first, sum, before, previous, l.err)
		}
		previous = first
		l.at = (l.at + 7) &^ 7                                                        // MAXALIGN
		if head[17] == 0 && head[16]&0xf0 == 0x40 && l.at%wal.LSN(got.segment) != 0 { // XLOG_SWITCH of RM_XLOG_ID
			l.at += wal.LSN(got.segment) - l.at%wal.LSN(got.segment)
		}
	}
	if l.at != stop {
		t.Errorf("the last record ends at %v, not %v", l.at, stop)
	}
}

// Sizes in the log, in bytes.
const (
	logPage    = 8192 // XLOG_BLCKSZ
	recordHead = 24   // SizeOfXLogRecord
	pageHead   = 24   // SizeOfXLogShortPHD
	firstHead  = 40   // SizeOfXLogLongPHD, in the first page of a segment
)

// pageMagic is XLOG_PAGE_MAGIC of each major.
//
// Source: src/include/access/xlog_internal.h of each.
var pageMagic = map[int]uint16{13: 0xd106, 15: 0xd110, 17: 0xd116, 18: 0xd118}

// logText hands out the log without the heads of its pages, which it checks.
type logText struct {
	got      *taken
	timeline wal.Timeline
	at       wal.LSN
	err      error
}

// take returns the next n bytes. With zero it only goes past the head of a page.
func (l *logText) take(n int) (out []byte) {
	for l.err == nil {
		if l.at%logPage == 0 && (n > 0 || len(out) == 0) {
			l.at += l.page()
		}
		if n == 0 {
			break
		}
		piece := l.raw(min(n, int(logPage-l.at%logPage)))
		out = append(out, piece...)
		n -= len(piece)
		l.at += wal.LSN(len(piece))
		if n == 0 {
			break
		}
	}
	return out
}

// raw returns the bytes at a position as they came.
func (l *logText) raw(n int) []byte {
	segment := wal.SegmentAt(wal.Position{LSN: l.at, Timeline: l.timeline}, l.got.segment)
	content, off := l.got.log.content[segment.Name(l.got.segment)], int(l.at-segment.Start(l.got.segment))
	if len(content) < off+n {
		l.err = fmt.Errorf("the log has no %d bytes at %v", n, l.at)
		return make([]byte, n)
	}
	return content[off : off+n]
}

// page checks the head of a page and returns how long it is.
func (l *logText) page() wal.LSN {
	head := l.raw(pageHead)
	magic, flags := binary.LittleEndian.Uint16(head), binary.LittleEndian.Uint16(head[2:])
	timeline, at := binary.LittleEndian.Uint32(head[4:]), wal.LSN(binary.LittleEndian.Uint64(head[8:]))
	isFirst := l.at%wal.LSN(l.got.segment) == 0
	if magic != pageMagic[l.got.version/10000] || at != l.at || timeline > uint32(l.timeline) || isFirst != (flags&2 != 0) {
		l.err = errors.Join(l.err, fmt.Errorf("page at %v: % x", l.at, head))
	}
	if !isFirst {
		return pageHead
	}
	head = l.raw(firstHead)
	id, size := binary.LittleEndian.Uint64(head[24:]), binary.LittleEndian.Uint32(head[32:])
	if fmt.Sprint(id) != l.got.system.ID || int64(size) != l.got.segment {
		l.err = errors.Join(l.err, fmt.Errorf("segment at %v: system %d, size %d", l.at, id, size))
	}
	return firstHead
}

// checkTimelines reads the log of both timelines: the first up to where its
// successor's history says that it ends.
func checkTimelines(t *testing.T, k *session, got *taken) {
	t.Helper()
	var end string
	for _, e := range got.log.events {
		if text, ok := strings.CutPrefix(e, "history 00000002.history 1\t"); ok {
			end, _, _ = strings.Cut(text, "\t")
		}
	}
	last, err := wal.ParseLSN(end)
	if err != nil {
		t.Fatalf("%v in %q", err, got.log.events)
	}
	checkLog(t, got, k.Start, last)
	// The second begins with a copy of the segment that the first ended in. Its
	// first record begins where the first timeline's would have.
	checkLog(t, got, wal.Position{LSN: last, Timeline: 2}, k.Stop.LSN)
}

// heads returns where the messages begin.
func heads(said []byte) (at []int) {
	for off := 0; off < len(said); off += 1 + int(binary.BigEndian.Uint32(said[off+1:])) {
		at = append(at, off)
	}
	return at
}

// TestSessionsCutShort ends the connection at many places, half of them where a
// message has just begun.
func TestSessionsCutShort(t *testing.T) {
	eachSession(t, func(t *testing.T, s scene, k *session) {
		random := rand.New(rand.NewPCG(1, uint64(k.Version)))
		for i, talk := range k.Talks {
			at := heads(talk.said)
			last := len(talk.said) - 1 // the last byte is of ReadyForQuery, of which the type is enough
			for n := range cuts {
				cut := random.IntN(last)
				if n%2 == 0 {
					cut = min(at[random.IntN(len(at))]+random.IntN(8), last-1)
				}
				players := k.players(true)
				players[i].said = talk.said[:cut]
				_, err := s.playback(patient(t), k, players...)
				if errorText(err) == "" || errors.Is(err, errHangs) {
					t.Fatalf("connection %d was cut after %d bytes of %d: %v", i, cut, len(talk.said), err)
				}
			}
		}
	})
}

// How many places of each connection are tried.
const (
	cuts  = 300
	flips = 200
)

// errHangs is what ends a scene that comes to no end.
var errHangs = errors.New("nothing happens any more")

// patient returns a context that gives a scene far more time than it needs.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errHangs)
	t.Cleanup(cancel)
	return ctx
}

// TestSessionsDamaged flips single bits of the heads of messages. Whatever comes
// of it, it is an end, and never a backup that is not what its manifest says.
func TestSessionsDamaged(t *testing.T) {
	eachSession(t, func(t *testing.T, s scene, k *session) {
		random := rand.New(rand.NewPCG(2, uint64(k.Version)))
		head := 5
		if k.Version >= protocol.VersionOptionList {
			head = 6 // the first byte of CopyData says what it is
		}
		for i, talk := range k.Talks {
			at := heads(talk.said)
			said := bytes.Clone(talk.said)
			for range flips {
				off, bit := min(at[random.IntN(len(at))]+random.IntN(head), len(said)-1), byte(1)<<random.IntN(8)
				said[off] ^= bit
				players := k.players(false)
				players[i].said = said
				got, err := s.playback(patient(t), k, players...)
				if errors.Is(err, errHangs) {
					t.Error("hangs")
				}
				if err == nil && got.manifest != nil {
					checkTaken(t, s, got)
				}
				if t.Failed() {
					t.Fatalf("connection %d, byte %d, bit %#x: %v", i, off, bit, err)
				}
				said[off] ^= bit
			}
		}
	})
}

// FuzzSessions begins with the first bytes of what servers said.
func FuzzSessions(f *testing.F) {
	for i, s := range scenes {
		k, err := loadSession(s.name)
		if err != nil {
			f.Fatal(err)
		}
		said := make([][]byte, 2)
		for i, talk := range k.Talks {
			said[i] = talk.said[:min(len(talk.said), 2000)]
		}
		f.Add(uint8(i), said[0], said[1])
	}
	f.Fuzz(func(t *testing.T, n uint8, main, beside []byte) {
		s := scenes[int(n)%len(scenes)]
		k := &session{
			Version: s.major * 10000, Server: fmt.Sprint(s.major), Talks: []*talk{{}},
			Start: wal.Position{LSN: 3 << 20, Timeline: 1}, Stop: wal.Position{LSN: 5 << 20, Timeline: 2},
		}
		got, err := s.playback(t.Context(), k, newPlayer(main, nil, false), newPlayer(beside, nil, false))
		if err != nil && err.Error() == "" {
			t.Error("an error without words")
		}
		for name := range got.sums {
			if !backup.LocalPath(name) {
				t.Errorf("path %q leads out", name)
			}
		}
	})
}
