package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/wal"
)

const mib = 1 << 20

// shelf is a wal.Keeper in memory that writes down what happens.
type shelf struct {
	events  []string
	content map[string][]byte
	failAt  string        // name of a segment whose Write fails
	slow    time.Duration // that Begin takes
}

func (s *shelf) Begin(name string, size int64) (wal.SegmentWriter, error) {
	time.Sleep(s.slow) // in a bubble of fake time
	s.events = append(s.events, "begin "+name)
	if s.content == nil {
		s.content = make(map[string][]byte)
	}
	s.content[name] = nil
	return &shelved{s, name}, nil
}

func (s *shelf) History(name string, content []byte) error {
	s.events = append(s.events, fmt.Sprintf("history %s %s", name, content))
	return nil
}

type shelved struct {
	shelf *shelf
	name  string
}

func (s *shelved) Write(p []byte) (int, error) {
	if s.name == s.shelf.failAt {
		return 0, errors.New("no space left on device")
	}
	s.shelf.content[s.name] = append(s.shelf.content[s.name], p...)
	return len(p), nil
}

func (s *shelved) Flush() error {
	s.shelf.events = append(s.shelf.events, fmt.Sprintf("flush %s %d", s.name, len(s.shelf.content[s.name])))
	return nil
}

func (s *shelved) Finish() error {
	s.shelf.events = append(s.shelf.events, "finish "+s.name)
	return nil
}

func (s *shelved) Abandon() error {
	s.shelf.events = append(s.shelf.events, fmt.Sprintf("abandon %s %d", s.name, len(s.shelf.content[s.name])))
	return nil
}

// status reads a report of the client and returns its positions.
func (s *server) status() (write, flush wal.LSN, reply bool) {
	s.t.Helper()
	kind, body := s.heard()
	if kind != 'd' || len(body) != 34 || body[0] != 'r' {
		s.t.Errorf("server heard %q %q, want a status", kind, body)
		return
	}
	at := func(i int) (l wal.LSN) {
		for _, b := range []byte(body[i : i+8]) {
			l = l<<8 | wal.LSN(b)
		}
		return l
	}
	return at(1), at(9), body[33] == 1
}

// timelineEnd is the answer behind the COPY of a timeline that ended.
func timelineEnd(next, at string) []byte {
	return joined(answer([]any{next, at}), complete("START_STREAMING"), complete("START_REPLICATION"), ready)
}

var streamEnd = joined(complete("START_STREAMING"), complete("START_REPLICATION"), ready)

// receiving runs ReceiveWAL against a script in a bubble of fake time.
func receiving(t *testing.T, o ReceiveOptions, keeper wal.Keeper, script func(s *server)) (err error) {
	synctest.Test(t, func(t *testing.T) {
		c, s := dialogue(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			script(s)
		}()
		if o.Stop != nil {
			stop := make(chan wal.Position, 1) // one of the bubble's own
			stop <- <-o.Stop
			o.Stop = stop
		}
		err = ReceiveWAL(t.Context(), c, keeper, o)
		_ = s.conn.Close()
		_ = c.close()
		<-done
	})
	return err
}

// logOf returns n bytes of the log from at on, in 1 MiB segments of a cluster
// called 7: page headers, and between them nothing that anyone looks at.
func logOf(t wal.Timeline, at wal.LSN, n int) []byte {
	const page = 8192
	first := at - at%page
	var b []byte
	for p := first; p < at+wal.LSN(n); p += page {
		header := binary.LittleEndian.AppendUint16(nil, 0xD118) // XLOG_PAGE_MAGIC of 18
		long := p%mib == 0
		if long {
			header = binary.LittleEndian.AppendUint16(header, 2) // XLP_LONG_HEADER
		} else {
			header = binary.LittleEndian.AppendUint16(header, 0)
		}
		header = binary.LittleEndian.AppendUint32(header, uint32(t))
		header = binary.LittleEndian.AppendUint64(header, uint64(p))
		header = append(header, make([]byte, 8)...) // xlp_rem_len, and to a multiple of eight bytes
		if long {
			header = binary.LittleEndian.AppendUint64(header, 7)
			header = binary.LittleEndian.AppendUint32(header, mib)
			header = binary.LittleEndian.AppendUint32(header, page)
		}
		b = append(append(b, header...), bytes.Repeat([]byte("a"), page-len(header))...)
	}
	return b[at-first:][:n]
}

// logData is the message that carries n bytes of the log of timeline 1.
func logData(at wal.LSN, n int) []byte { return walData(at, logOf(1, at, n)) }

// from is a stream of 1 MiB segments that begins in the third of timeline 1.
func from(stop ...wal.Position) ReceiveOptions {
	o := ReceiveOptions{Start: wal.Position{LSN: 2*mib + 100, Timeline: 1}, Segment: mib, Slot: "s", StatusInterval: 10 * time.Second}
	if len(stop) > 0 {
		ch := make(chan wal.Position, 1)
		ch <- stop[0]
		o.Stop = ch
	}
	return o
}

const third, fourth = "000000010000000000000002", "000000010000000000000003"

// A server that has log beyond where the stream begins is told of nothing that it is flushed before it has sent some: its slot would be
// moved to log that it may have no more, and stay there. To one that has none beyond it is told at once, as commits may wait.
func TestReceiveLeavesSlotUntilServed(t *testing.T) {
	for _, test := range []struct {
		reason, position string
		first            wal.LSN // that is flushed, as the first status says
	}{
		{"log is to come", "0/300000", 0},
		{"nothing is to come", "0/200000", 2 * mib},
	} {
		o := from()
		o.SystemID, o.Synchronous = "7", true
		err := receiving(t, o, new(shelf), func(s *server) {
			s.expectQuery("IDENTIFY_SYSTEM")
			s.say(answer([]any{"7", "1", test.position, nil}), ready)
			s.expectQuery(`START_REPLICATION SLOT "s" 0/200000 TIMELINE 1`)
			s.say(copyBoth)
			if w, f, _ := s.status(); w != 2*mib || f != test.first {
				t.Errorf("%s: first status %v %v", test.reason, w, f)
			}
			s.say(keepalive(1))
			if w, f, _ := s.status(); w != 2*mib || f != test.first {
				t.Errorf("%s: status asked for: %v %v", test.reason, w, f)
			}
			s.say(walData(2*mib, logOf(1, 2*mib, 1000)))
			if w, f, _ := s.status(); w != 2*mib+1000 || f != 2*mib+1000 {
				t.Errorf("%s: status behind log: %v %v", test.reason, w, f)
			}
			s.say(errorSaid("57P01", "enough"))
		})
		if err == nil {
			t.Errorf("%s: no error", test.reason)
		}
	}
}

func TestReceiveStopsInASegment(t *testing.T) {
	keeper := new(shelf)
	first, second := logOf(1, 2*mib, mib), logOf(1, 3*mib, 500)
	err := receiving(t, from(wal.Position{LSN: 3*mib + 400, Timeline: 1}), keeper, func(s *server) {
		s.expectQuery(`START_REPLICATION SLOT "s" 0/200000 TIMELINE 1`)
		s.say(copyBoth)
		if w, f, _ := s.status(); w != 2*mib || f != 2*mib {
			t.Errorf("first status %v %v", w, f)
		}
		s.say(walData(2*mib, first[:1000]), walData(2*mib+1000, first[1000:]), keepalive(1))
		if w, f, _ := s.status(); w != 3*mib || f != 3*mib {
			t.Errorf("status asked for: %v %v", w, f)
		}
		s.say(walData(3*mib, second))
		if w, f, _ := s.status(); w != 3*mib+500 || f != 3*mib+500 {
			t.Errorf("last status %v %v", w, f)
		}
		s.expect('c', "")
		s.say(walData(3*mib+500, second), copyDone, streamEnd) // what was under way is ignored
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"begin " + third, "finish " + third, "begin " + fourth, "abandon " + fourth + " 500"}
	if diff := cmp.Diff(want, keeper.events); diff != "" {
		t.Error(diff)
	}
	if !slices.Equal(keeper.content[third], first) || !slices.Equal(keeper.content[fourth], second) {
		t.Error("content differs")
	}
}

func TestReceiveFollowsTimelines(t *testing.T) {
	keeper := new(shelf)
	err := receiving(t, from(wal.Position{LSN: 2*mib + 600, Timeline: 2}), keeper, func(s *server) {
		s.expectQuery(`START_REPLICATION SLOT "s" 0/200000 TIMELINE 1`)
		s.say(copyBoth)
		s.status()
		s.say(logData(2*mib, 500), copyDone)
		s.expect('c', "")
		s.say(timelineEnd("2", "0/2001F4"))
		s.expectQuery("TIMELINE_HISTORY 2")
		s.say(answer([]any{"00000002.history", "1\t0/2001F4\tno recovery target specified\n"}), ready)
		s.expectQuery(`START_REPLICATION SLOT "s" 0/200000 TIMELINE 2`)
		s.say(copyBoth)
		s.status()
		s.say(walData(2*mib, logOf(1, 2*mib, 600)))
		s.status()
		s.expect('c', "")
		s.say(copyDone, streamEnd)
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"begin " + third, "abandon " + third + " 500",
		"history 00000002.history 1\t0/2001F4\tno recovery target specified\n",
		"begin 000000020000000000000002", "abandon 000000020000000000000002 600",
	}
	if diff := cmp.Diff(want, keeper.events); diff != "" {
		t.Error(diff)
	}
}

// started answers up to the first status.
func (s *server) started() {
	s.heard()
	s.say(copyBoth)
	s.status()
}

func TestReceiveRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		o      ReceiveOptions
		keeper shelf
		script func(s *server)
		want   string
	}{
		{"gap", from(), shelf{}, func(s *server) {
			s.started()
			s.say(logData(2*mib, 1), logData(2*mib+2, 1))
		}, "got WAL data at 0/200002, expected 0/200001"},
		{"begins inside a segment", from(), shelf{}, func(s *server) { s.started(); s.say(logData(2*mib+1, 1)) },
			"got WAL data at 0/200001, expected 0/200000"},
		{"header too small", from(), shelf{}, func(s *server) { s.started(); s.say(message('d', 'w', 0)) }, "streaming header too small: 2"},
		{"keepalive too small", from(), shelf{}, func(s *server) { s.started(); s.say(message('d', 'k', 0)) }, "streaming header too small: 2"},
		{"unknown kind", from(), shelf{}, func(s *server) { s.started(); s.say(message('d', 'q', 0)) }, `unrecognized streaming header: "q"`},
		{"slot in use", from(), shelf{}, func(s *server) {
			s.heard()
			s.say(errorSaid("55006", `replication slot "s" is active for PID 7`), ready)
		}, `could not send replication command "START_REPLICATION": ERROR:  replication slot "s" is active for PID 7`},
		{"server process killed", from(), shelf{}, func(s *server) {
			s.started()
			s.say(errorSaid("57P01", "terminating connection due to administrator command"))
		}, "unexpected termination of replication stream: ERROR:  terminating connection due to administrator command"},
		{"server shut down", from(), shelf{}, func(s *server) { s.started(); s.say(complete("COPY 0")) },
			"replication stream was terminated before stop point"},
		{"server gone", from(), shelf{}, func(s *server) { s.started(); _ = s.conn.Close() }, "server closed the connection unexpectedly"},
		{"timeline that is not next", from(), shelf{}, func(s *server) {
			s.started()
			s.say(copyDone)
			s.expect('c', "")
			s.say(timelineEnd("1", "0/200000"))
		}, "server reported unexpected next timeline 1, following timeline 1"},
		{"timeline that begins later", from(), shelf{}, func(s *server) {
			s.started()
			s.say(copyDone)
			s.expect('c', "")
			s.say(timelineEnd("2", "0/200001"))
		}, "server stopped streaming timeline 1 at 0/200000, but reported next timeline 2 to begin at 0/200001"},
		{"history of another timeline", func() ReceiveOptions { o := from(); o.Start.Timeline = 3; return o }(), shelf{}, func(s *server) {
			s.heard()
			s.say(answer([]any{"00000002.history", ""}), ready)
		}, "server reported unexpected history file name for timeline 3: 00000002.history"},
		{"another cluster", func() ReceiveOptions { o := from(); o.SystemID = "7"; return o }(), shelf{}, func(s *server) {
			s.expectQuery("IDENTIFY_SYSTEM")
			s.say(answer([]any{"8", "1", "0/200000", nil}), ready)
		}, "system identifier does not match between base backup and streaming connection"},
		{"silence", from(), shelf{}, func(s *server) {
			s.started()
			for { // reports come on time, the last of them asks for an answer
				if kind, _ := s.heard(); kind == 0 {
					return
				}
			}
		}, "terminating WAL stream: nothing came from the server for 1m0s"},
		{"page of another place", from(), shelf{}, func(s *server) { s.started(); s.say(walData(2*mib, logOf(1, 3*mib, 100))) },
			"invalid write-ahead log page at 0/200000: its header says 0/300000"},
		{"page of a later timeline", from(), shelf{}, func(s *server) { s.started(); s.say(walData(2*mib, logOf(2, 2*mib, 100))) },
			"invalid write-ahead log page at 0/200000: it is of timeline 2, not 1"},
		{"slot missing", from(), shelf{}, func(s *server) {
			s.heard()
			s.say(errorSaid("42704", `replication slot "s" does not exist`), ready)
		}, `could not send replication command "START_REPLICATION": ERROR:  replication slot "s" does not exist`},
		{"keeper full", from(), shelf{failAt: third}, func(s *server) { s.started(); s.say(logData(2*mib, 1)) }, "no space left on device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := receiving(t, c.o, &c.keeper, c.script)
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			begun, left := 0, 0
			for _, e := range c.keeper.events {
				switch {
				case strings.HasPrefix(e, "begin"):
					begun++
				case strings.HasPrefix(e, "finish"), strings.HasPrefix(e, "abandon"):
					left++
				}
			}
			if begun != left {
				t.Errorf("segments left open: %v", c.keeper.events)
			}
		})
	}
}

func TestReceiveTellsASlowDiskFromASilentServer(t *testing.T) {
	err := receiving(t, from(wal.Position{LSN: 2*mib + 10, Timeline: 1}), &shelf{slow: 10 * time.Minute}, func(s *server) {
		s.started()
		s.say(logData(2*mib, 5), logData(2*mib+5, 5))
		for {
			if kind, _ := s.heard(); kind == 'c' {
				break
			}
		}
		s.say(copyDone, streamEnd)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReceiveNoticesSilenceOutsideTheStream(t *testing.T) {
	o := from()
	o.SystemID = "7"
	const want = "terminating WAL stream: nothing came from the server for 1m0s"
	err := receiving(t, o, new(shelf), func(s *server) {
		s.expectQuery("IDENTIFY_SYSTEM")
		s.heard()
	})
	if err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestReceiveHasAllWhenTheServerShutsDown(t *testing.T) {
	err := receiving(t, from(wal.Position{LSN: 2*mib + 10, Timeline: 1}), new(shelf), func(s *server) {
		s.started()
		s.say(logData(2*mib, 10))
		s.status()
		s.expect('c', "")
		s.say(complete("COPY 0"))
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReceiveFlushesWhenAskedToReply(t *testing.T) {
	o := from(wal.Position{LSN: 2*mib + 10, Timeline: 1})
	o.Durable = true
	keeper := new(shelf)
	err := receiving(t, o, keeper, func(s *server) {
		s.started()
		s.say(logData(2*mib, 5), keepalive(1))
		if _, flush, _ := s.status(); flush != 2*mib+5 {
			t.Errorf("flushed up to %v", flush)
		}
		s.say(logData(2*mib+5, 5))
		s.status()
		s.expect('c', "")
		s.say(copyDone, streamEnd)
	})
	if err != nil {
		t.Error(err)
	}
	want := []string{"begin " + third, "flush " + third + " 5", "flush " + third + " 10", "abandon " + third + " 10"}
	if diff := cmp.Diff(want, keeper.events); diff != "" {
		t.Error(diff)
	}
}

// A synchronous stream flushes once for all that came together, and says so.
func TestReceiveIsSynchronous(t *testing.T) {
	o := from(wal.Position{LSN: 2*mib + 30, Timeline: 1})
	o.Slot, o.Durable, o.Synchronous = "", true, true
	keeper := new(shelf)
	err := receiving(t, o, keeper, func(s *server) {
		s.started()
		s.say(joined(logData(2*mib, 5), logData(2*mib+5, 5)))
		if write, flush, _ := s.status(); write != 2*mib+10 || flush != 2*mib+10 {
			t.Errorf("written %v, flushed %v", write, flush)
		}
		s.say(logData(2*mib+10, 20))
		if write, flush, _ := s.status(); write != 2*mib+30 || flush != 2*mib+30 {
			t.Errorf("at the end written %v, flushed %v", write, flush)
		}
		s.expect('c', "")
		s.say(copyDone, streamEnd)
	})
	if err != nil {
		t.Error(err)
	}
	want := []string{"begin " + third, "flush " + third + " 10", "flush " + third + " 30", "abandon " + third + " 30"}
	if diff := cmp.Diff(want, keeper.events); diff != "" {
		t.Error(diff)
	}
}

func TestReceiveProgress(t *testing.T) {
	o := from(wal.Position{LSN: 3*mib + 5, Timeline: 1})
	o.Progress = new(ReceiveProgress)
	var finished []wal.Position
	o.Finished = func(p wal.Position) { finished = append(finished, p) }
	err := receiving(t, o, new(shelf), func(s *server) {
		s.started()
		s.say(logData(2*mib, mib), logData(3*mib, 5))
		s.status()
		s.expect('c', "")
		s.say(copyDone, streamEnd)
	})
	if err != nil {
		t.Error(err)
	}
	got := o.Progress.Status()
	if got.Timeline != 1 || got.Received != 3*mib+5 || got.Flushed != 3*mib+5 || got.Bytes != mib+5 || got.Segments != 1 || got.LastHeard.IsZero() {
		t.Errorf("progress %+v", got)
	}
	if diff := cmp.Diff([]wal.Position{{LSN: 3 * mib, Timeline: 1}}, finished); diff != "" {
		t.Error(diff)
	}
}

func TestReceiveReportsInTime(t *testing.T) {
	var at []time.Duration
	err := receiving(t, from(), new(shelf), func(s *server) {
		begun := time.Now()
		s.started()
		for range 7 {
			_, _, reply := s.status()
			at = append(at, time.Since(begun))
			if reply {
				s.say(keepalive(0)) // alive after all
			}
		}
		s.say(errorSaid("57P01", "enough"))
	})
	if err == nil {
		t.Error("no error")
	}
	for i, d := range at {
		if d > time.Duration(i+1)*10*time.Second {
			t.Errorf("report %d came after %v", i, d)
		}
	}
}

func TestReceiveIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := dialogue(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("interrupted")
		go func() {
			s.started()
			cancel(cause)
			_, _ = io.Copy(io.Discard, s.conn)
		}()
		if err := ReceiveWAL(ctx, c, new(shelf), from()); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
		_ = c.close()
	})
}

func FuzzReceiveWAL(f *testing.F) {
	f.Add(joined(copyBoth, logData(2*mib, 100), keepalive(1), copyDone, streamEnd))
	f.Add(joined(copyBoth, copyDone, timelineEnd("2", "0/200000"), answer([]any{"00000002.history", "x"}), ready, copyBoth))
	f.Fuzz(func(t *testing.T, said []byte) {
		keeper := new(shelf)
		o := from(wal.Position{LSN: 2*mib + 2, Timeline: 1})
		_ = ReceiveWAL(t.Context(), replay(t, 180006, bytes.NewReader(said)), keeper, o)
		for name, content := range keeper.content {
			if len(content) > mib {
				t.Errorf("segment %s has %d bytes", name, len(content))
			}
		}
	})
}

func TestServerThatReadsNothingIsGivenUp(t *testing.T) {
	err := receiving(t, from(), new(shelf), func(s *server) {
		s.expectQuery(`START_REPLICATION SLOT "s" 0/200000 TIMELINE 1`)
		s.say(copyBoth) // and then reads no more, with the connection open
	})
	if err == nil || !strings.Contains(err.Error(), "could not send data to server") {
		t.Error(err)
	}
}

func TestInvalidatedSlotIsAGapInAnyLanguage(t *testing.T) {
	for _, c := range []struct {
		text, routine string
		want          bool
	}{
		{`can no longer get changes from replication slot "s"`, "StartReplication", true},
		{"auf Replikations-Slot »s« kann nicht mehr zugegriffen werden", "ReplicationSlotAcquire", true},
		{"cannot use a logical replication slot for physical replication", "StartReplication", false},
		{"logischer Slot", "StartReplication", false},
	} {
		err := receiving(t, from(), new(shelf), func(s *server) {
			s.expectQuery(`START_REPLICATION SLOT "s" 0/200000 TIMELINE 1`)
			s.say(message('E', []byte("SERROR\x00VERROR\x00C55000\x00M"+c.text+"\x00R"+c.routine+"\x00\x00")...), ready)
		})
		if errors.Is(err, ErrGap) != c.want {
			t.Errorf("%s: %v", c.text, err)
		}
	}
}

// library is a shelf with the history of timeline 2.
type library struct{ shelf }

func (*library) KeptHistory(t wal.Timeline) (wal.History, bool) {
	history, err := wal.ParseHistory(2, []byte("1\t0/2001F4\tno recovery target specified\n"))
	return history, t == 2 && err == nil
}

func TestHistoryThatTheServerHasRemoved(t *testing.T) {
	o := from()
	o.Start.Timeline = 2
	for _, keeper := range []wal.Keeper{new(library), new(shelf)} {
		begun := false
		err := receiving(t, o, keeper, func(s *server) {
			s.expectQuery("TIMELINE_HISTORY 2")
			s.say(errorSaid("58P01", `could not open file "pg_wal/00000002.history"`), ready)
			if kind, body := s.heard(); kind == 'Q' && strings.HasPrefix(body, "START_REPLICATION") {
				begun = true
			}
		})
		if _, knows := keeper.(*library); begun != knows || err == nil {
			t.Errorf("%T: begun is %v, %v", keeper, begun, err)
		}
	}
}

func TestEndOfContextInterruptsWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := dialogue(t)
		wanted := errors.New("enough")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, wanted)
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.expectQuery(`START_REPLICATION SLOT "s" 0/200000 TIMELINE 1`)
			s.say(copyBoth)
			<-ctx.Done() // and does not read the status
		}()
		if err := ReceiveWAL(ctx, c, new(shelf), from()); !errors.Is(err, wanted) {
			t.Error(err)
		}
		_ = s.conn.Close()
		_ = c.close()
		<-done
	})
}
