package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"basin/internal/protocol"
	"basin/internal/wal"
)

// sheet is a LogicalSink in memory that writes down what happens.
type sheet struct {
	events  []string
	isOpen  bool
	written string
	synced  int           // bytes of written
	failing string        // the method that fails: once, if failOnce
	once    bool          // it fails only the first time
	slow    time.Duration // that Write takes
}

func (s *sheet) note(what string) error {
	s.events = append(s.events, what)
	if s.failing != "" && strings.HasPrefix(what, s.failing) {
		if s.once {
			s.failing = ""
		}
		return errors.New(what + " failed")
	}
	return nil
}

func (s *sheet) Open() error {
	if s.isOpen {
		return nil
	}
	err := s.note("open")
	s.isOpen = err == nil
	return err
}

func (s *sheet) Write(records []byte) error {
	time.Sleep(s.slow) // in a bubble of fake time
	if err := s.note("write"); err != nil {
		return err
	}
	if !s.isOpen {
		return errors.New("written to while closed")
	}
	s.written += string(records)
	return nil
}

func (s *sheet) Sync() error {
	s.synced = len(s.written)
	return s.note("sync")
}

func (s *sheet) Close() error {
	if !s.isOpen {
		return nil
	}
	s.isOpen = false
	return s.note("close")
}

// keepaliveAt is a sign of life of a server that has come to a position.
func keepaliveAt(end wal.LSN, reply byte) []byte {
	body := binary.BigEndian.AppendUint64([]byte{'k'}, uint64(end))
	return message('d', append(append(body, make([]byte, 8)...), reply)...)
}

// record is one record of a logical slot.
func record(at wal.LSN, text string) []byte { return walData(at, []byte(text)) }

var logicalEnd = joined(copyDone, complete("COPY 0"), complete("START_REPLICATION"), ready)

// logical is the usual case.
func logical() LogicalOptions {
	return LogicalOptions{Slot: "s", StatusInterval: 10 * time.Second, SyncInterval: 10 * time.Second, Timeout: 10 * time.Minute}
}

// receivingLogical runs one Receive against a script in a bubble of fake time.
func receivingLogical(t *testing.T, r *LogicalReceiver, script func(s *server)) (done bool, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		done, err = r.session(t, t.Context(), script)
	})
	return done, err
}

// session runs one Receive against a script.
func (r *LogicalReceiver) session(t *testing.T, ctx context.Context, script func(s *server)) (done bool, err error) {
	c, s := dialogue(t)
	over := make(chan struct{})
	go func() {
		defer close(over)
		script(s)
		_ = s.conn.Close()
	}()
	done, err = r.Receive(ctx, c)
	_ = c.close()
	<-over
	return done, err
}

// expectStatus reads a report and compares its positions.
func (s *server) expectStatus(write, flush wal.LSN) {
	s.t.Helper()
	if w, f, reply := s.status(); w != write || f != flush || reply {
		s.t.Errorf("server was told write %v, flush %v, reply %t; want %v, %v", w, f, reply, write, flush)
	}
}

// begins answers the command that starts the stream.
func (s *server) begins(command string) {
	s.t.Helper()
	s.expectQuery(command)
	s.say(copyBoth)
	s.status()
}

const fromTheSlot = `START_REPLICATION SLOT "s" LOGICAL 0/0`

// swallow reads until the client has gone.
func (s *server) swallow() { _, _ = io.Copy(io.Discard, s.conn) }

func TestLogicalEnds(t *testing.T) {
	for _, test := range []struct {
		reason string
		say    [][]byte
		wrote  string
		at     wal.LSN // that the server is told at the end
		step   string
	}{
		{"before a record behind it", [][]byte{record(90, "BEGIN"), record(95, "COMMIT"), record(101, "BEGIN")},
			"BEGIN\nCOMMIT\n", 95, "end position 0/64 reached by WAL record at 0/65"},
		{"after the record at it", [][]byte{record(90, "BEGIN"), record(100, "COMMIT"), record(100, "BEGIN")},
			"BEGIN\nCOMMIT\n", 100, "end position 0/64 reached by WAL record at 0/64"},
		{"at a keepalive", [][]byte{record(90, "COMMIT"), keepaliveAt(100, 0)},
			"COMMIT\n", 100, "end position 0/64 reached by keepalive"},
		{"at a keepalive behind it", [][]byte{keepaliveAt(99, 0), record(90, "COMMIT"), keepaliveAt(200, 0)},
			"COMMIT\n", 200, "end position 0/64 reached by keepalive"},
		{"a record without a position is before it", [][]byte{record(0, "BEGIN"), keepaliveAt(100, 1)},
			"BEGIN\n", 100, "end position 0/64 reached by keepalive"},
		{"records are not in order of their positions", [][]byte{record(90, "a"), record(50, "b"), keepaliveAt(60, 0), record(101, "c")},
			"a\nb\n", 90, "end position 0/64 reached by WAL record at 0/65"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			var last string
			o := logical()
			o.End, o.Step = 100, func(text string) { last = text }
			sink := new(sheet)
			done, err := receivingLogical(t, NewLogicalReceiver(sink, o), func(s *server) {
				s.expectQuery(fromTheSlot)
				s.say(copyBoth)
				s.expectStatus(0, 0)
				s.say(test.say...)
				s.expectStatus(test.at, test.at)
				s.expect('c', "")
				s.say(record(200, "late"), keepaliveAt(300, 1), logicalEnd)
			})
			if !done || err != nil {
				t.Errorf("done %t, %v", done, err)
			}
			if sink.written != test.wrote || sink.synced != len(test.wrote) {
				t.Errorf("wrote %q, of which %d bytes are synced; want %q", sink.written, sink.synced, test.wrote)
			}
			if last != test.step {
				t.Errorf("last step %q, want %q", last, test.step)
			}
		})
	}
}

func TestLogicalEndsInTrouble(t *testing.T) {
	for _, test := range []struct {
		reason string
		then   func(s *server) // after the client's CopyDone
		done   bool
		err    string
	}{
		{"without a word", func(s *server) { _ = s.conn.Close() }, false, "could not read COPY data: server closed the connection unexpectedly"},
		{"with the completion alone", func(s *server) { s.say(complete("COPY 0")) }, true, ""},
		{"with an error", func(s *server) { s.say(record(60, "late"), errorSaid("57P01", "enough")) }, true, "unexpected termination of replication stream: ERROR:  enough"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			o := logical()
			o.End = 50
			done, err := receivingLogical(t, NewLogicalReceiver(new(sheet), o), func(s *server) {
				s.begins(fromTheSlot)
				s.say(keepaliveAt(50, 0))
				s.expectStatus(50, 50)
				s.expect('c', "")
				test.then(s)
			})
			if done != test.done || errorText(err) != test.err {
				t.Errorf("done %t, %v", done, err)
			}
		})
	}
}

func TestLogicalBreaks(t *testing.T) {
	const begin = "BEGIN\n"
	for _, test := range []struct {
		reason string
		sink   sheet
		script func(s *server) // after a record at 10
		err    string
		wrote  string
	}{
		{"server shut down", sheet{}, func(s *server) { s.say(complete("COPY 0")) }, "", begin},
		{"server gone", sheet{}, func(s *server) { _ = s.conn.Close() },
			"could not receive data from WAL stream: server closed the connection unexpectedly", begin},
		{"server gone within a record", sheet{}, func(s *server) {
			s.say(record(20, "whole"), record(30, "half")[:30])
			_ = s.conn.Close()
		}, "could not receive data from WAL stream: server closed the connection unexpectedly", begin + "whole\n"},
		{"server process killed", sheet{}, func(s *server) { s.say(errorSaid("57P01", "enough")) },
			"unexpected termination of replication stream: ERROR:  enough", begin},
		{"end that nobody wanted", sheet{}, func(s *server) { s.say(copyDone) },
			`unexpected termination of replication stream: unexpected message of type "c" from server`, begin},
		{"empty message", sheet{}, func(s *server) { s.say(message('d')) }, "streaming header too small: 0", begin},
		{"header too small", sheet{}, func(s *server) { s.say(message('d', 'w', 0)) }, "streaming header too small: 2", begin},
		{"header of an empty record", sheet{}, func(s *server) { s.say(record(20, "")) }, "streaming header too small: 25", begin},
		{"keepalive too small", sheet{}, func(s *server) { s.say(message('d', 'k', 0)) }, "streaming header too small: 2", begin},
		{"unknown kind, after a good one", sheet{}, func(s *server) { s.say(record(20, "good"), message('d', 'q', 0)) },
			`unrecognized streaming header: "q"`, begin + "good\n"},
		{"more than a record can hold", sheet{}, func(s *server) {
			head := record(20, "")
			binary.BigEndian.PutUint32(head[1:], 1<<30+100)
			s.say(head)
		}, "unexpected length of a record: 1073741895 bytes", begin},
		{"sink full", sheet{failing: "write"}, func(s *server) { s.swallow() }, "write failed", ""},
		{"disk broken", sheet{failing: "sync"}, func(s *server) { s.say(keepaliveAt(20, 1)); s.swallow() }, "sync failed", begin},
		{"silence", sheet{}, func(s *server) {
			for { // reports come on time, the last of them asks for an answer
				if kind, _ := s.heard(); kind == 0 {
					return
				}
			}
		}, "terminating WAL stream: nothing came from the server for 10m0s", begin},
	} {
		t.Run(test.reason, func(t *testing.T) {
			done, err := receivingLogical(t, NewLogicalReceiver(&test.sink, logical()), func(s *server) {
				s.begins(fromTheSlot)
				s.say(record(10, "BEGIN"))
				test.script(s)
			})
			if done || errorText(err) != test.err || test.sink.written != test.wrote {
				t.Errorf("done %t, wrote %q, %v", done, test.sink.written, err)
			}
		})
	}
}

func TestLogicalRefusals(t *testing.T) {
	for _, test := range []struct {
		reason string
		sink   sheet
		script func(s *server)
		err    string
	}{
		{"slot in use", sheet{}, func(s *server) {
			s.heard()
			s.say(errorSaid("55006", `replication slot "s" is active for PID 7`), ready)
		}, `could not send replication command "START_REPLICATION SLOT "s" LOGICAL 0/10 ("a" '1', "b")": ERROR:  replication slot "s" is active for PID 7`},
		{"server gone", sheet{}, func(s *server) { s.heard() },
			`could not send replication command "START_REPLICATION SLOT "s" LOGICAL 0/10 ("a" '1', "b")": server closed the connection unexpectedly`},
		{"no file", sheet{failing: "open"}, func(s *server) { s.heard(); s.say(copyBoth); s.status() }, "open failed"},
		{"silence before the stream", sheet{}, func(s *server) { s.heard(); s.swallow() },
			`could not send replication command "START_REPLICATION SLOT "s" LOGICAL 0/10 ("a" '1', "b")": terminating WAL stream: nothing came from the server for 10m0s`},
	} {
		t.Run(test.reason, func(t *testing.T) {
			o := logical()
			o.Start = 16
			o.Plugin = []protocol.PluginOption{{Name: "a", Value: new("1")}, {Name: "b"}}
			done, err := receivingLogical(t, NewLogicalReceiver(&test.sink, o), test.script)
			if done || errorText(err) != test.err {
				t.Errorf("done %t, %v", done, err)
			}
		})
	}
}

// Only what was synced is acknowledged as flushed, and only whole records as written.
func TestLogicalAcknowledges(t *testing.T) {
	sink := new(sheet)
	o := logical()
	o.SyncInterval = 25 * time.Second
	_, _ = receivingLogical(t, NewLogicalReceiver(sink, o), func(s *server) {
		s.expectQuery(fromTheSlot)
		s.say(copyBoth)
		s.expectStatus(0, 0)
		s.say(keepaliveAt(5, 0))
		s.expectStatus(5, 5) // after 10 seconds; nothing there is to be synced
		half := record(20, "half of it")
		s.say(record(10, "BEGIN"), half[:35])
		s.expectStatus(10, 5) // after 20
		s.say(half[35:])
		s.expectStatus(20, 20) // after 30
		s.say(record(30, "COMMIT"), keepaliveAt(35, 1))
		s.expectStatus(35, 35) // at once
		s.say(record(40, "BEGIN"))
		s.expectStatus(40, 35)
		s.say(record(15, "of a transaction that began before"))
		s.expectStatus(40, 35)
		s.expectStatus(40, 40)
	})
	if want := "BEGIN\nhalf of it\nCOMMIT\nBEGIN\nof a transaction that began before\n"; sink.written != want {
		t.Errorf("wrote %q", sink.written)
	}
}

func TestLogicalNeverSyncs(t *testing.T) {
	sink := new(sheet)
	o := logical()
	o.SyncInterval = 0
	r := NewLogicalReceiver(sink, o)
	_, _ = receivingLogical(t, r, func(s *server) {
		s.begins(fromTheSlot)
		s.say(record(10, "BEGIN"), keepaliveAt(20, 1))
		s.expectStatus(20, 20)
	})
	if err := r.Close(); err != nil || strings.Contains(strings.Join(sink.events, " "), "sync") {
		t.Errorf("%v, %q", err, sink.events)
	}
}

func TestLogicalReportsOnlyWhenAsked(t *testing.T) {
	o := logical()
	o.StatusInterval, o.Timeout = 0, 0
	_, _ = receivingLogical(t, NewLogicalReceiver(new(sheet), o), func(s *server) {
		s.begins(fromTheSlot)
		begun := time.Now()
		time.Sleep(time.Hour) // of fake time
		s.say(keepaliveAt(20, 1))
		s.expectStatus(20, 20)
		if took := time.Since(begun); took != time.Hour {
			t.Errorf("reported after %v", took)
		}
	})
}

// A stream goes on where the last one broke, with what was not written and
// nothing of what was.
func TestLogicalResumes(t *testing.T) {
	for _, test := range []struct {
		reason string
		sink   sheet
		first  func(s *server)
		again  string // the second command
		wrote  string
	}{
		{"after a whole record", sheet{}, func(s *server) { s.say(record(20, "a"), record(30, "b")) }, "0/1E", "a\nb\n"},
		{"within a record", sheet{}, func(s *server) { s.say(record(20, "a"), record(30, "b")[:30]) }, "0/14", "a\n"},
		{"after a keepalive", sheet{}, func(s *server) { s.say(record(20, "a"), keepaliveAt(50, 0)) }, "0/32", "a\n"},
		{"nothing came", sheet{}, func(s *server) {}, "0/10", ""},
		{"less than was asked for", sheet{}, func(s *server) { s.say(keepaliveAt(5, 0)) }, "0/10", ""},
		{"what could not be written", sheet{failing: "write", once: true}, func(s *server) { s.say(record(20, "a")); s.swallow() }, "0/10", ""},
		{"the disk was full at a keepalive", sheet{failing: "write", once: true}, func(s *server) {
			s.say(joined(record(20, "a"), keepaliveAt(50, 1)))
			s.swallow()
		}, "0/10", ""},
	} {
		t.Run(test.reason, func(t *testing.T) {
			o := logical()
			o.Start = 16
			synctest.Test(t, func(t *testing.T) {
				r := NewLogicalReceiver(&test.sink, o)
				if done, _ := r.session(t, t.Context(), func(s *server) {
					s.begins(`START_REPLICATION SLOT "s" LOGICAL 0/10`)
					test.first(s)
					_ = s.conn.Close()
				}); done {
					t.Error("done")
				}
				if test.sink.written != test.wrote {
					t.Errorf("wrote %q", test.sink.written)
				}
				_, err := r.session(t, t.Context(), func(s *server) {
					s.begins(`START_REPLICATION SLOT "s" LOGICAL ` + test.again)
					s.say(record(60, "c"), keepaliveAt(60, 1))
					s.expectStatus(60, 60)
				})
				if got, want := test.sink.written, test.wrote+"c\n"; got != want {
					t.Errorf("wrote %q, want %q: %v", got, want, err)
				}
			})
		})
	}
}

func TestLogicalStops(t *testing.T) {
	half := record(30, "half of it")
	for _, test := range []struct {
		reason        string
		before, after []byte // what the server says
	}{
		{"idle", record(20, "a"), record(50, "late")},
		{"within a record", joined(record(20, "a"), half[:35]), joined(half[35:], record(50, "late"))},
		{"within a header", joined(record(20, "a"), half[:10]), joined(half[10:], record(50, "late"))},
		{"within the head of a message", joined(record(20, "a"), half[:3]), joined(half[3:], keepaliveAt(50, 1))},
	} {
		t.Run(test.reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := make(chan struct{})
				o := logical()
				o.Stop = stop
				sink := new(sheet)
				done, err := NewLogicalReceiver(sink, o).session(t, t.Context(), func(s *server) {
					s.begins(fromTheSlot)
					s.say(test.before)
					synctest.Wait()
					close(stop)
					s.expectStatus(20, 20)
					s.expect('c', "")
					s.say(test.after, logicalEnd)
				})
				if !done || err != nil || sink.written != "a\n" || sink.synced != 2 {
					t.Errorf("done %t, wrote %q, synced %d, %v", done, sink.written, sink.synced, err)
				}
			})
		})
	}
}

func TestLogicalStopsBeforeItBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		o := logical()
		o.Stop = stop
		sink := new(sheet)
		done, err := NewLogicalReceiver(sink, o).session(t, t.Context(), func(s *server) {
			s.expectQuery(fromTheSlot)
			close(stop)
			synctest.Wait()
			s.say(copyBoth)
			s.expectStatus(0, 0)
			s.expectStatus(0, 0)
			s.expect('c', "")
			s.say(logicalEnd)
		})
		if !done || err != nil || len(sink.events) > 0 {
			t.Errorf("done %t, %v, %q", done, err, sink.events)
		}
	})
}

// A server that does not take leave is not waited for longer than the caller does.
func TestLogicalStopGoesUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		o := logical()
		o.Stop = stop
		cause := errors.New("grace is over")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Second, cause)
		defer cancel()
		done, err := NewLogicalReceiver(new(sheet), o).session(t, ctx, func(s *server) {
			s.begins(fromTheSlot)
			close(stop)
			s.swallow()
		})
		if !done || !errors.Is(err, cause) {
			t.Errorf("done %t, %v", done, err)
		}
	})
}

// What was asked before the stream had a context of its own, whose end is no
// matter of the stream.
func TestLogicalOutlivesWhatWasAskedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := dialogue(t)
		go func() {
			s.expectQuery("SHOW x")
			s.say(answer([]any{"y"}), ready)
			s.begins(fromTheSlot)
			s.say(keepaliveAt(20, 1))
			s.expectStatus(20, 20)
			s.expect('c', "")
			s.say(logicalEnd)
		}()
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := c.Show(ctx, "x"); err != nil {
			t.Error(err)
		}
		cancel()
		o := logical()
		o.End = 20
		if done, err := NewLogicalReceiver(new(sheet), o).Receive(t.Context(), c); !done || err != nil {
			t.Errorf("done %t, %v", done, err)
		}
		_ = c.close()
	})
}

func TestLogicalReopens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reopen := make(chan struct{}, 1)
		o := logical()
		o.Reopen = reopen
		sink := new(sheet)
		r := NewLogicalReceiver(sink, o)
		_, _ = r.session(t, t.Context(), func(s *server) {
			s.begins(fromTheSlot)
			half := record(30, "half of it")
			s.say(record(20, "a"), half[:35])
			synctest.Wait()
			reopen <- struct{}{}
			synctest.Wait()
			s.say(half[35:])
			synctest.Wait()
			reopen <- struct{}{}
			synctest.Wait()
		})
		const want = "open write sync close open write sync close open"
		if got := strings.Join(sink.events, " "); got != want {
			t.Errorf("it did %q, want %q", got, want)
		}
		if want := "a\nhalf of it\n"; sink.written != want {
			t.Errorf("wrote %q", sink.written)
		}
		if err := errors.Join(r.Close(), r.Close()); err != nil || sink.isOpen {
			t.Errorf("closed twice: %v", err)
		}
	})
}

func TestLogicalTellsASlowSinkFromASilentServer(t *testing.T) {
	o := logical()
	o.End = 30
	sink := &sheet{slow: time.Hour}
	done, err := receivingLogical(t, NewLogicalReceiver(sink, o), func(s *server) {
		s.begins(fromTheSlot)
		go func() {
			s.say(record(10, "a"))
			s.say(record(20, "b"))
			s.say(record(30, "c"))
		}()
		for kind := byte('d'); kind == 'd'; {
			kind, _ = s.heard()
		}
		s.say(logicalEnd)
	})
	if !done || err != nil || sink.written != "a\nb\nc\n" {
		t.Errorf("done %t, wrote %q, %v", done, sink.written, err)
	}
}

// Records that come in one go are written in one go, but not without limit.
func TestLogicalGathersRecords(t *testing.T) {
	sink := new(sheet)
	o := logical()
	o.End = 1000
	large := strings.Repeat("x", 3*writeSize)
	_, err := receivingLogical(t, NewLogicalReceiver(sink, o), func(s *server) {
		s.begins(fromTheSlot)
		s.say(record(1, "a"), record(2, "b"), record(3, "c"))
		synctest.Wait()
		s.say(record(4, large), record(5, "d"), keepaliveAt(1000, 0))
		s.status()
		s.expect('c', "")
		s.say(logicalEnd)
	})
	if err != nil || sink.written != "a\nb\nc\n"+large+"\nd\n" {
		t.Errorf("wrote %d bytes, %v", len(sink.written), err)
	}
	if got := strings.Join(sink.events, " "); got != "open write write write sync" {
		t.Errorf("it did %q", got)
	}
}

func TestSlots(t *testing.T) {
	made := answer([]any{"s", "0/16B3748", nil, "test_decoding"})
	for _, test := range []struct {
		reason string
		said   []byte
		do     func(c *Conn) error
		err    string
		exists bool
	}{
		{"made", made, func(c *Conn) error {
			return c.CreateLogicalSlot(t.Context(), protocol.CreateLogicalSlot{Slot: "s", Plugin: "p"})
		}, "", false},
		{"there already", errorSaid("42710", `replication slot "s" already exists`),
			func(c *Conn) error {
				return c.CreateLogicalSlot(t.Context(), protocol.CreateLogicalSlot{Slot: "s", Plugin: "p"})
			},
			`could not send replication command "CREATE_REPLICATION_SLOT "s" LOGICAL "p" ( SNAPSHOT 'nothing')": ERROR:  replication slot "s" already exists`, true},
		{"no such plugin", errorSaid("58P01", `could not access file "p"`),
			func(c *Conn) error {
				return c.CreateLogicalSlot(t.Context(), protocol.CreateLogicalSlot{Slot: "s", Plugin: "p"})
			},
			`could not send replication command "CREATE_REPLICATION_SLOT "s" LOGICAL "p" ( SNAPSHOT 'nothing')": ERROR:  could not access file "p"`, false},
		{"strange answer", answer([]any{"s"}),
			func(c *Conn) error {
				return c.CreateLogicalSlot(t.Context(), protocol.CreateLogicalSlot{Slot: "s", Plugin: "p"})
			},
			`could not create replication slot "s": got 1 rows and 1 fields, expected 1 rows and 4 fields`, false},
		{"dropped", complete("DROP_REPLICATION_SLOT"), func(c *Conn) error { return c.DropSlot(t.Context(), "s") }, "", false},
		{"not there", errorSaid("42704", `replication slot "s" does not exist`), func(c *Conn) error { return c.DropSlot(t.Context(), "s") },
			`could not send replication command "DROP_REPLICATION_SLOT "s"": ERROR:  replication slot "s" does not exist`, false},
		{"drop with rows", answer([]any{"s", "t"}), func(c *Conn) error { return c.DropSlot(t.Context(), "s") },
			`could not drop replication slot "s": got 1 rows and 2 fields, expected 0 rows and 0 fields`, false},
		{"search path cleared", answer([]any{""}), func(c *Conn) error { return c.ClearSearchPath(t.Context()) }, "", false},
		{"search path not cleared", errorSaid("0A000", "no SQL here"), func(c *Conn) error { return c.ClearSearchPath(t.Context()) },
			`could not clear "search_path": ERROR:  no SQL here`, false},
	} {
		err := test.do(replay(t, 180006, bytes.NewReader(joined(test.said, ready))))
		if errorText(err) != test.err || SlotExists(err) != test.exists {
			t.Errorf("%s: %v, exists %t", test.reason, err, SlotExists(err))
		}
	}
	for version, want := range map[int]string{90624: "incompatible server version test", 100000: "", 190000: ""} {
		if err := replay(t, version, bytes.NewReader(nil)).CheckLogical(); errorText(err) != want {
			t.Errorf("%d: %v", version, err)
		}
	}
}

func FuzzLogical(f *testing.F) {
	f.Add(joined(copyBoth, record(10, "BEGIN"), keepaliveAt(20, 1), record(30, "COMMIT"), keepaliveAt(40, 0), logicalEnd))
	f.Add(joined(copyBoth, record(20, "at the end"), logicalEnd))
	f.Fuzz(func(t *testing.T, said []byte) {
		sink := new(sheet)
		o := logical()
		o.End = 20
		done, err := NewLogicalReceiver(sink, o).Receive(t.Context(), replay(t, 180006, bytes.NewReader(said)))
		if done && sink.synced != len(sink.written) {
			t.Errorf("done with %d bytes written and %d synced, %v", len(sink.written), sink.synced, err)
		}
		if sink.written != "" && !strings.HasSuffix(sink.written, "\n") {
			t.Errorf("wrote half a record: %q", sink.written)
		}
		if len(sink.written) > len(said) {
			t.Errorf("%d bytes of %d", len(sink.written), len(said))
		}
	})
}
