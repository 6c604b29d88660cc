package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"basin/internal/pgtest"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// speaker is a client that says anything, and notes all that it hears.
type speaker struct {
	t     *testing.T
	conn  net.Conn
	heard []string
	sums  uint32  // of the log that came
	from  wal.LSN // where that began
	at    wal.LSN // and where it ends
}

// speak connects to a server.
func speak(t *testing.T, conninfo string) *speaker {
	t.Helper()
	c, err := pgconn.Connect(t.Context(), conninfo)
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.Hijack()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Conn.Close() })
	return &speaker{t: t, conn: h.Conn}
}

// say sends a message.
func (s *speaker) say(kind byte, body string) {
	s.t.Helper()
	m := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body)))
	if _, err := s.conn.Write(append(m, body...)); err != nil {
		s.heard = append(s.heard, "closed")
	}
}

// query says a command and hears what comes of it, until the next may be said or the log
// is to come.
func (s *speaker) query(text string) {
	s.say('Q', text+"\x00")
	s.hear("ZW")
}

// status says how much of the log there is.
func (s *speaker) status(at wal.LSN, reply bool) {
	s.say('d', string(protocol.Status{Write: at, Flush: at, Apply: at, Reply: reply}.Append(nil, time.Now())))
}

// hear notes messages up to one of a kind that is named, or the end.
func (s *speaker) hear(kinds string) {
	s.t.Helper()
	for {
		kind, ok := s.next()
		if !ok || strings.ContainsRune(kinds, rune(kind)) {
			return
		}
	}
}

// log hears the log up to a position.
func (s *speaker) log(end wal.LSN) {
	s.t.Helper()
	for s.at < end {
		if kind, ok := s.next(); !ok || kind == 'Z' {
			return
		}
	}
}

// next notes a message.
func (s *speaker) next() (kind byte, ok bool) {
	s.t.Helper()
	if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	var head [5]byte
	_, err := io.ReadFull(s.conn, head[:])
	var body []byte
	if err == nil {
		body = make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		_, err = io.ReadFull(s.conn, body)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Fatalf("nothing more is heard, after\n%s", strings.Join(s.heard, "\n"))
	}
	if err != nil {
		s.note("closed")
		return 0, false
	}
	s.hears(head[0], body)
	return head[0], true
}

// hears puts a message in words. What of the log comes in a row is one.
func (s *speaker) hears(kind byte, body []byte) {
	switch kind {
	case 'd':
		if body[0] == protocol.StreamData {
			at, _ := protocol.ParseDataHeader(body)
			p := body[protocol.DataHeaderSize:]
			if s.at == 0 {
				s.from = at
			} else if s.at != at {
				s.t.Errorf("the log comes at %v, after %v", at, s.at)
			}
			s.at = at + wal.LSN(len(p))
			s.sums = crc32.Update(s.sums, crc32.IEEETable, p)
			return
		}
		k, err := protocol.ParseKeepalive(body)
		if err != nil || k.Reply {
			return
		}
		s.note("keepalive")
	case 'E', 'N':
		s.note(string(kind) + " " + shownError(body))
	default:
		s.note(fmt.Sprintf("%c %q", kind, body))
	}
}

// note notes what is no log.
func (s *speaker) note(words string) {
	if s.from != s.at {
		s.heard = append(s.heard, fmt.Sprintf("log from %v to %v, %08x", s.from, s.at, s.sums))
		s.from, s.at, s.sums = 0, 0, 0
	}
	s.heard = append(s.heard, words)
}

var processNumber = regexp.MustCompile(`PID \d+`)

// shownError returns the fields of an error that a client may rely on.
func shownError(body []byte) string {
	var fields []string
	for field := range strings.SplitSeq(strings.TrimRight(string(body), "\x00"), "\x00") {
		if field != "" && strings.ContainsRune("SVCMDHP", rune(field[0])) {
			fields = append(fields, processNumber.ReplaceAllString(field, "PID N"))
		}
	}
	return strings.Join(fields, "; ")
}

// words is a cluster that has left a timeline, and has basin serve beside it.
type words struct {
	*pgtest.Server
	served *served
	fork   wal.LSN
	end    wal.LSN // of its log, while nobody writes
}

// startWords starts them. The log begins with the second segment.
func startWords(t *testing.T, major int) *words {
	t.Helper()
	s := pgtest.Start(t, pgtest.Config{Major: major, WALSegmentSizeMB: 1, Conf: map[string]string{
		"wal_level": "logical", "autovacuum": "off", "checkpoint_timeout": "1h", "min_wal_size": "2MB", "max_wal_size": "1GB",
	}})
	s.Exec(t, "CREATE TABLE rows AS SELECT g, repeat('x', 500) FROM generate_series(1, 4000) g",
		"SELECT pg_create_physical_replication_slot('physical')", "SELECT pg_create_logical_replication_slot('logical', 'test_decoding')")
	s.Stop(t, pgtest.Fast)
	pgtest.SetRecovery(t, major, s.DataDir, pgtest.Recovery{Settings: map[string]string{"restore_command": "false"}})
	s.Start(t)
	s.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
	s.Exec(t, "INSERT INTO rows SELECT g, repeat('y', 500) FROM generate_series(1, 4000) g", "CHECKPOINT")
	w := &words{Server: s, served: startServe(t, newProgram(t, "basin"), s)}
	content, err := os.ReadFile(s.DataDir + "/pg_wal/00000002.history")
	if err != nil {
		t.Fatal(err)
	}
	history, err := wal.ParseHistory(2, content)
	if err != nil {
		t.Fatal(err)
	}
	w.fork, _ = history.End(1)
	w.end = lsn(t, s, "SELECT pg_current_wal_flush_lsn()")
	return w
}

// dialog is something that a client may say.
type dialog struct {
	reason    string
	from      int  // the first major that it is for; zero is all
	database  bool // the client names one
	slots     bool // it uses some
	positions bool // positions that are heard are not the same twice
	brief     bool // of errors, only the message is the same: basin says more
	told      bool // basin says why it ends, the cluster only to its own log
	cut       bool // how much of the log comes is not the same twice
	script    func(s *speaker, w *words)
}

// said is a dialog of commands.
func said(texts ...string) func(*speaker, *words) {
	return func(s *speaker, _ *words) {
		for _, text := range texts {
			s.query(text)
		}
	}
}

// stream is one that starts somewhere.
func stream(at func(w *words) wal.LSN, timeline int, then func(s *speaker, w *words)) func(*speaker, *words) {
	return func(s *speaker, w *words) {
		text := "START_REPLICATION " + at(w).String()
		if timeline != 0 {
			text += " TIMELINE " + strconv.Itoa(timeline)
		}
		s.query(text)
		if then != nil {
			then(s, w)
		}
	}
}

func atFork(w *words) wal.LSN     { return w.fork }
func behindFork(w *words) wal.LSN { return w.fork + 0x100000 }
func pastFork(w *words) wal.LSN   { return w.fork + 1 }
func beforeFork(w *words) wal.LSN { return (w.fork - 1) &^ 0xFFFFF }
func atEnd(w *words) wal.LSN      { return w.end }
func pastEnd(w *words) wal.LSN    { return w.end + 0x10000000 } // whatever is written meanwhile
func removed(*words) wal.LSN      { return 0x100000 }

// dialogs are what clients may say, the good and the bad.
func dialogs() []dialog {
	toEnd := func(s *speaker, w *words) { s.log(w.end) }
	end := func(s *speaker, _ *words) { s.say('c', ""); s.hear("Z") }
	then := func(steps ...func(*speaker, *words)) func(*speaker, *words) {
		return func(s *speaker, w *words) {
			for _, step := range steps {
				step(s, w)
			}
		}
	}
	message := func(kind byte, body string) func(*speaker, *words) {
		return func(s *speaker, _ *words) { s.say(kind, body); s.hear("Z") }
	}
	return []dialog{
		{reason: "what it is", script: said("IDENTIFY_SYSTEM")},
		{reason: "what it is, to one that names a database", database: true, script: said("IDENTIFY_SYSTEM")},
		{reason: "settings", script: said("SHOW wal_segment_size", "SHOW data_directory_mode", "SHOW server_version_num", "SHOW WAL_level", "SHOW nothing")},
		{reason: "histories", script: said("TIMELINE_HISTORY 2", "TIMELINE_HISTORY 1", "TIMELINE_HISTORY 9")},
		{reason: "no commands", brief: true, script: said("IDENTIFY", "START_REPLICATION", "CREATE_REPLICATION_SLOT x", "BASE_BACKUP LABEL", "TIMELINE_HISTORY 0", `START_REPLICATION "physical" 0/0`)},
		{reason: "SQL", script: said("SELECT 1")},
		{reason: "slots", slots: true, script: said(
			`CREATE_REPLICATION_SLOT "a" PHYSICAL`, `CREATE_REPLICATION_SLOT "a" PHYSICAL`, `DROP_REPLICATION_SLOT "a"`, `DROP_REPLICATION_SLOT "a"`,
			`CREATE_REPLICATION_SLOT "Bad" PHYSICAL`, `CREATE_REPLICATION_SLOT "" PHYSICAL`, `CREATE_REPLICATION_SLOT plain PHYSICAL`, `DROP_REPLICATION_SLOT plain WAIT`)},
		{reason: "a temporary slot", slots: true, positions: true, script: said(`CREATE_REPLICATION_SLOT "t" TEMPORARY PHYSICAL RESERVE_WAL`, `DROP_REPLICATION_SLOT "t"`)},
		{reason: "slots are read", slots: true, from: 15, script: said(`READ_REPLICATION_SLOT "physical"`, `READ_REPLICATION_SLOT "logical"`, `READ_REPLICATION_SLOT "nothing"`)},
		{reason: "a logical slot without a database", slots: true, script: said(`CREATE_REPLICATION_SLOT "l" LOGICAL "test_decoding"`)},
		{reason: "a logical slot", slots: true, database: true, positions: true, script: said(
			`CREATE_REPLICATION_SLOT "l" LOGICAL "test_decoding"`, `CREATE_REPLICATION_SLOT "l" LOGICAL "test_decoding"`,
			`CREATE_REPLICATION_SLOT "m" LOGICAL "nothing"`, `DROP_REPLICATION_SLOT "l"`)},
		{reason: "streams of slots that cannot be", slots: true, script: said(
			`START_REPLICATION SLOT "nothing" PHYSICAL 0/100000`, `START_REPLICATION SLOT "logical" PHYSICAL 0/100000`,
			`START_REPLICATION SLOT "physical" LOGICAL 0/100000`, `START_REPLICATION SLOT "Bad" PHYSICAL 0/100000`)},
		{reason: "streams of logical slots that cannot be", slots: true, database: true, script: said(
			`START_REPLICATION SLOT "nothing" LOGICAL 0/100000`, `START_REPLICATION SLOT "physical" LOGICAL 0/100000`,
			`START_REPLICATION SLOT "logical" PHYSICAL 0/100000`, `START_REPLICATION SLOT "logical" LOGICAL 0/0 ("nothing" '1')`)},

		{reason: "the log", script: stream(behindFork, 2, then(toEnd, end))},
		{reason: "the log, of no timeline that is named", script: stream(behindFork, 0, then(toEnd, end))},
		{reason: "the log, from its end on", script: stream(atEnd, 2, end)},
		{reason: "the log, and a reply is wanted", script: stream(atEnd, 2, then(func(s *speaker, w *words) {
			s.status(w.end, true)
			s.hear("d")
		}, end))},
		{reason: "the log twice", script: then(stream(behindFork, 2, then(toEnd, end)), stream(atEnd, 2, end), said("IDENTIFY_SYSTEM"))},
		{reason: "the log of a slot", slots: true, script: func(s *speaker, w *words) {
			s.query(fmt.Sprintf(`START_REPLICATION SLOT "physical" %v TIMELINE 2`, w.fork+0x100000))
			s.log(w.end)
			s.say('c', "")
			s.hear("Z")
			s.query("IDENTIFY_SYSTEM")
		}},
		{reason: "an older timeline", script: stream(beforeFork, 1, then(func(s *speaker, _ *words) { s.hear("c") }, end, said("TIMELINE_HISTORY 2")))},
		{reason: "an older timeline, ended by the client", cut: true, script: stream(beforeFork, 1, end)},
		{reason: "an older timeline, of a slot", slots: true, script: func(s *speaker, w *words) {
			s.query(fmt.Sprintf(`START_REPLICATION SLOT "physical" %v TIMELINE 1`, (w.fork-1)&^0xFFFFF))
			s.hear("c")
			s.say('c', "")
			s.hear("Z")
		}},
		{reason: "an older timeline at its end", script: stream(atFork, 1, nil)},
		{reason: "an older timeline past its end", script: stream(pastFork, 1, nil)},
		{reason: "a timeline to come", script: stream(atEnd, 3, nil)},
		{reason: "past the end of the log", script: stream(pastEnd, 2, func(s *speaker, _ *words) { s.hear("Z") })},
		{reason: "log that is removed", script: stream(removed, 1, then(func(s *speaker, _ *words) { s.hear("Z") }, said("IDENTIFY_SYSTEM")))},
		{reason: "log of the first segment of all", script: stream(func(*words) wal.LSN { return 0 }, 1, func(s *speaker, _ *words) { s.hear("Z") })},

		{reason: "a command while the log comes", script: stream(atEnd, 2, message('Q', "IDENTIFY_SYSTEM\x00"))},
		{reason: "CopyFail while the log comes", script: stream(atEnd, 2, message('f', "no\x00"))},
		{reason: "Sync while the log comes", script: stream(atEnd, 2, message('S', ""))},
		{reason: "a status of no kind", told: true, script: stream(atEnd, 2, message('d', "z"))},
		{reason: "an empty status", script: stream(atEnd, 2, message('d', ""))},
		{reason: "a status that is cut", script: stream(atEnd, 2, message('d', "r\x00\x00"))},
		{reason: "goodbye while the log comes", script: stream(atEnd, 2, message('X', ""))},

		{reason: "nothing", script: said("")},
		{reason: "only blanks", script: said("  ")},
		{reason: "Sync", script: then(message('S', ""), said("IDENTIFY_SYSTEM"))},
		{reason: "the extended protocol", script: func(s *speaker, _ *words) {
			s.say('P', "\x00IDENTIFY_SYSTEM\x00\x00\x00")
			s.say('S', "")
			s.hear("Z")
			s.query("IDENTIFY_SYSTEM")
		}},
		{reason: "a call of a function", script: then(message('F', "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00"), said("IDENTIFY_SYSTEM"))},
		{reason: "what is left of a COPY", script: func(s *speaker, _ *words) {
			s.say('d', "x")
			s.say('c', "")
			s.say('f', "x\x00")
			s.query("IDENTIFY_SYSTEM")
		}},
		{reason: "a message of no kind", script: message('~', "")},
		{reason: "a message that is too short", told: true, script: func(s *speaker, _ *words) {
			if _, err := s.conn.Write([]byte{'Q', 0, 0, 0, 3}); err != nil {
				s.t.Error(err)
			}
			s.hear("Z")
		}},
		{reason: "a command that does not end", script: message('Q', "IDENTIFY_SYSTEM")},
	}
}

// spoken is how one dialog went.
func (w *words) spoken(t *testing.T, d dialog, conninfo string) string {
	t.Helper()
	if conninfo += " replication=true"; d.database {
		conninfo = strings.Replace(conninfo, "replication=true", "replication=database dbname=postgres", 1)
	}
	s := speak(t, conninfo)
	d.script(s, w)
	text := strings.Join(s.heard, "\n")
	if d.brief {
		text = regexp.MustCompile(`(; M[^;\n]*);.*`).ReplaceAllString(text, "$1")
	}
	if d.told {
		text = regexp.MustCompile(`E SFATAL.*\nclosed$`).ReplaceAllString(text, "closed")
	}
	if d.cut {
		text = regexp.MustCompile(`log .*\n`).ReplaceAllString(text, "")
	}
	// A cluster says what there will be before it finds that there is nothing.
	text = regexp.MustCompile(`T .*\nE `).ReplaceAllString(text, "E ")
	if d.positions {
		text = regexp.MustCompile(`0/[0-9A-F]+`).ReplaceAllString(text, "0/N")
		text = regexp.MustCompile(`[0-9A-F]{8}-[0-9A-F]{8}-1`).ReplaceAllString(text, "SNAPSHOT")
	}
	s.conn.Close()
	if d.slots {
		w.WaitFor(t, "SELECT count(*) FROM pg_replication_slots WHERE active", "0")
	}
	return text
}

// TestServeSaysTheSame has clients say the same to a cluster and to basin serve
// beside it, and compares what they hear.
func TestServeSaysTheSame(t *testing.T) {
	for _, major := range []int{13, 15, 18} {
		t.Run(strconv.Itoa(major), func(t *testing.T) {
			t.Parallel()
			w := startWords(t, major)
			for _, d := range dialogs() {
				if major < d.from {
					continue
				}
				t.Run(d.reason, func(t *testing.T) {
					cluster := fmt.Sprintf("host=127.0.0.1 port=%d user=postgres", w.Port)
					for range 5 {
						want, got := w.spoken(t, d, cluster), w.spoken(t, d, w.served.conninfo())
						if want == got {
							return
						}
						// A cluster writes a little log now and then even if nobody does.
						was := w.end
						if w.end = lsn(t, w.Server, "SELECT pg_current_wal_flush_lsn()"); was == w.end {
							t.Errorf("(-cluster +basin serve):\n%s", cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
							return
						}
					}
					t.Error("the cluster writes all the time")
				})
			}
			w.served.ends(t)
		})
	}
}
