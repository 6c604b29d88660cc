package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"basin/internal/wal"
)

func TestStreamBegins(t *testing.T) {
	third := func() *shelf {
		s := newShelf(0x500000, 3)
		s.histories[3] = "1\t0/380000\t\n2\t0/480000\tno reason\n"
		return s
	}
	for _, c := range []struct {
		reason string
		log    func() *shelf
		o      streamOptions
		want   string // messages
		err    string // how it ends then; empty goes on
	}{
		{"the newest timeline by default", third, from(0x4FFF00, 0), copyBoth + "|w 0/4FFF00+256 of 0/500000, timeline 3", ""},
		{"the newest by number", third, from(0x4FFF00, 3), copyBoth + "|w 0/4FFF00+256 of 0/500000, timeline 3", ""},
		{"at the end", third, from(0x500000, 3), copyBoth, ""},
		{"past the end", third, from(0x500001, 3), copyBoth, ": requested starting point 0/500001 is ahead of the WAL flush position of this server 0/500000"},
		{"before the timeline began", third, from(0x400000, 3), copyBoth + "|w 0/400000+131072 of 0/500000, timeline 3", ""},
		{"an older one", third, from(0x37FF00, 1), copyBoth + "|w 0/37FF00+256 of 0/380000, timeline 1|c", ""},
		{"an older one at its end", third, from(0x380000, 1), nextIs + "2 0/380000|" + completes, "<nil>"},
		{"an older one at its end, the last but one", third, from(0x480000, 2), nextIs + "3 0/480000|" + completes, "<nil>"},
		{"an older one past its end", third, from(0x380001, 1), "", ": requested starting point 0/380001 on timeline 1 is not in this server's history (This server's history forked from timeline 1 at 0/380000.)"},
		{"a timeline to come", third, from(0x400000, 4), "", ": requested timeline 4 is not in this server's history"},
		{"no ancestor", func() *shelf {
			s := newShelf(0x500000, 3)
			s.histories[3] = "1\t0/380000\t\n"
			return s
		}, from(0x300000, 2), "", ": requested timeline 2 is not in this server's history"},
		{"no history", func() *shelf { return newShelf(0x500000, 3) }, from(0x300000, 2), "", ": requested timeline 2 is not in this server's history"},
		{"a damaged history", func() *shelf {
			s := newShelf(0x500000, 3)
			s.histories[3] = "x"
			return s
		}, from(0x300000, 2), "", "history of timeline 3, line 1: \"x\" is no timeline"},
		{"removed", func() *shelf {
			s := newShelf(0x500000, 1)
			s.gone = 0x400000
			return s
		}, from(0x300000, 1), copyBoth, "58P01: requested WAL segment 000000010000000000000003 has already been removed"},
		{"another file under its name", func() *shelf {
			s := newShelf(0x500000, 1)
			s.err = fmt.Errorf("%w: %w", fs.ErrNotExist, &wal.PageError{LSN: 0x300000, Reason: "it is empty"})
			return s
		}, from(0x300000, 1), copyBoth, "58P01: requested WAL segment 000000010000000000000003 has already been removed (invalid write-ahead log page at 0/300000: it is empty)"},
		{"cannot be read", func() *shelf {
			s := newShelf(0x500000, 1)
			s.err = errors.New("input/output error")
			return s
		}, from(0x300000, 1), copyBoth, "input/output error"},
		{"no log is known", func() *shelf { return newShelf(0, 0) }, from(0x300000, 1), "", ": requested timeline 1 is not in this server's history"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			streaming(t, c.log, c.o, func(x *walreceiver) {
				if c.want != "" {
					x.expect(split(c.want)...)
				}
				if c.err != "" {
					x.ends(c.err)
					return
				}
				x.quit(errors.New("over"))
				<-x.err
			})
		})
	}
}

// TestStreamMessages is about how the log is cut into messages.
func TestStreamMessages(t *testing.T) {
	for _, c := range []struct {
		reason    string
		from, end wal.LSN
		want      string
	}{
		{"up to the end", 0x300000, 0x300123, "0/300000+291"},
		{"as much as one has", 0x300000, 0x320000, "0/300000+131072"},
		{"one more", 0x300000, 0x320001, "0/300000+131072|0/320000+1"},
		{"cut at a page", 0x300123, 0x320500, "0/300123+130781|0/320000+1280"},
		{"not cut at the end", 0x300123, 0x320122, "0/300123+131071"},
		{"a new segment", 0x3FFF00, 0x400010, "0/3FFF00+256|0/400000+16"},
		{"to the end of a segment", 0x3FFF00, 0x400000, "0/3FFF00+256"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			streaming(t, func() *shelf { return newShelf(c.end, 1) }, from(c.from, 1), func(x *walreceiver) {
				x.expect(copyBoth)
				for _, w := range split(c.want) {
					x.expect(fmt.Sprintf("w %s of %v, timeline 1", w, c.end))
				}
				x.quiet(time.Hour) // there is no timeout
				if got := x.p.state().Sent; got != (wal.Position{LSN: c.end, Timeline: 1}) {
					t.Errorf("sent to %v", got)
				}
				x.say('c', "")
				x.expect("c")
				x.expect(split(completes)...)
				x.ends("<nil>")
			})
		})
	}
}

// TestStreamTalks is about all that can happen while a stream runs, in the order of time.
func TestStreamTalks(t *testing.T) {
	const start = wal.LSN(0x300000)
	at := func() *shelf { return newShelf(start, 1) }
	forked := func(s *shelf) { s.histories[2] = "1\t0/300200\tno reason\n" }
	minute := func() streamOptions {
		o := from(start, 1)
		o.Timeout = time.Minute
		return o
	}
	feedback := func(xmin, catalog uint32) string {
		b := []byte{'h', 1, 2, 3, 4, 5, 6, 7, 8}
		b = binary.BigEndian.AppendUint32(b, xmin)
		b = binary.BigEndian.AppendUint32(b, 1)
		b = binary.BigEndian.AppendUint32(b, catalog)
		return string(binary.BigEndian.AppendUint32(b, 1))
	}
	for _, c := range []struct {
		reason string
		o      streamOptions
		script func(c *walreceiver)
	}{
		{"log comes", minute(), func(c *walreceiver) {
			for i := range wal.LSN(5) {
				c.log.advance(start+(i+1)*100, 1)
				c.expect(fmt.Sprintf("w %v+100 of %v, timeline 1", start+i*100, start+(i+1)*100))
				c.quiet(time.Second)
			}
		}},
		{"a reply is wanted", minute(), func(c *walreceiver) {
			c.quiet(10 * time.Second)
			begun := time.Now()
			c.status(1, 2, true)
			c.expect("k 0/300000 false")
			if waited := time.Since(begun); waited != 0 {
				c.t.Errorf("answered after %v", waited)
			}
			c.quiet(20 * time.Second)
		}},
		{"what it says is kept", minute(), func(c *walreceiver) {
			c.status(0x2FFFFF, 0x200000, false)
			synctest.Wait()
			want := streamState{Sent: wal.Position{LSN: start, Timeline: 1}, Write: 0x2FFFFF, Flush: 0x200000, Apply: 0x100000, Heard: time.Now()}
			if diff := cmp.Diff(want, c.p.state()); diff != "" {
				c.t.Error(diff)
			}
		}},
		{"silence", minute(), func(c *walreceiver) {
			c.quiet(29999 * time.Millisecond)
			c.expect("k 0/300000 true")
			c.quiet(29 * time.Second)
			c.ends("end: terminating walsender process due to replication timeout")
		}},
		{"a sign of life in time", minute(), func(c *walreceiver) {
			for range 5 {
				c.quiet(29 * time.Second)
				c.expect("k 0/300000 true")
				c.quiet(29 * time.Second)
				c.status(1, 1, false)
			}
		}},
		{"an unasked one", minute(), func(c *walreceiver) {
			for range 10 {
				c.quiet(29 * time.Second)
				c.say('d', feedback(0, 0))
			}
		}},
		{"silence while log comes", minute(), func(c *walreceiver) {
			for i := range wal.LSN(59) {
				c.log.advance(start+(i+1)*100, 1)
				c.expect(fmt.Sprintf("w %v+100 of %v, timeline 1", start+i*100, start+(i+1)*100))
				if i == 29 {
					c.quiet(900 * time.Millisecond)
					c.expect("k 0/300BB8 true")
				} else {
					c.quiet(time.Second)
				}
			}
			c.ends("end: terminating walsender process due to replication timeout")
		}},
		{"a client that does not read", minute(), func(c *walreceiver) {
			c.log.advance(start+100, 1)
			<-time.After(time.Minute)
			synctest.Wait()
			c.ends("end: terminating walsender process due to replication timeout")
		}},
		{"a client that reads slowly, and says that it lives", minute(), func(c *walreceiver) {
			c.log.advance(start+0xA0000, 1)
			for range 10 {
				<-time.After(50 * time.Second)
				c.status(1, 1, true)
			}
			synctest.Wait()
			for at := start; at < start+0x80000; at += 0x20000 {
				c.expect(fmt.Sprintf("w %v+131072 of 0/3A0000, timeline 1", at))
			}
			c.expect("k 0/380000 false", "w 0/380000+131072 of 0/3A0000, timeline 1")
		}},
		{"the client ends it", minute(), func(c *walreceiver) {
			c.status(1, 1, true)
			c.expect("k 0/300000 false")
			c.say('c', "")
			c.say('Q', "what follows is not the stream's\x00")
			c.expect(append([]string{"c"}, split(completes)...)...)
			c.ends("<nil>")
			if len(c.up) != 1 {
				c.t.Error("the command that follows was taken")
			}
		}},
		{"the client goes", minute(), func(c *walreceiver) {
			close(c.gone)
			c.ends("end: EOF")
		}},
		{"the client goes while it is sent log", minute(), func(c *walreceiver) {
			c.log.advance(start+100, 1)
			synctest.Wait()
			close(c.gone)
			c.ends("end: io: read/write on closed pipe")
		}},
		{"Terminate", minute(), func(c *walreceiver) {
			c.say('X', "")
			c.ends("end: the client has ended the connection")
		}},
		{"another message", minute(), func(c *walreceiver) {
			c.say('Q', "SELECT 1\x00")
			c.ends(`FATAL 08P01: invalid standby message type "Q"`)
		}},
		{"another message, of no letter", minute(), func(c *walreceiver) {
			c.say(3, "")
			c.ends(`FATAL 08P01: invalid standby message type "\x03"`)
		}},
		{"CopyFail", minute(), func(c *walreceiver) {
			c.say('f', "no\x00")
			c.ends(`FATAL 08P01: invalid standby message type "f"`)
		}},
		{"another subtype", minute(), func(c *walreceiver) {
			c.say('d', "z")
			c.ends(`FATAL 08P01: unexpected message type "z"`)
		}},
		{"an empty message", minute(), func(c *walreceiver) {
			c.say('d', "")
			c.ends(`08P01: no data left in message`)
		}},
		{"a short status", minute(), func(c *walreceiver) {
			c.say('d', "r"+strings.Repeat("\x00", 32))
			c.ends(`08P01: insufficient data left in message`)
		}},
		{"short feedback", minute(), func(c *walreceiver) {
			c.say('d', feedback(0, 0)[:24])
			c.ends(`08P01: insufficient data left in message`)
		}},
		{"feedback that wants rows", minute(), func(c *walreceiver) {
			c.log.advance(start+100, 1)
			c.expect("w 0/300000+100 of 0/300064, timeline 1")
			c.say('d', feedback(700, 0))
			c.say('c', "")
			err := <-c.err
			var f *handover
			want := wal.Position{LSN: start + 100, Timeline: 1}
			if !errors.As(err, &f) || errors.As(err, new(ending)) || f.Sent != want || string(f.Message) != feedback(700, 0) {
				c.t.Errorf("ended with %v %+v", err, f)
			}
			if len(c.up) != 1 {
				c.t.Error("what follows was taken")
			}
		}},
		{"feedback that wants rows of the catalog", minute(), func(c *walreceiver) {
			c.say('d', feedback(0, 700))
			c.ends("the cluster has to go on with the stream, at 0/300000")
		}},
		{"commits wait for it", minute(), func(c *walreceiver) {
			c.log.advance(start+100, 1)
			c.expect("w 0/300000+100 of 0/300064, timeline 1")
			c.standbys.set("standby")
			c.ends("the cluster has to go on with the stream, at 0/300064")
		}},
		{"commits wait for another", minute(), func(c *walreceiver) {
			c.standbys.set("another")
			c.quiet(time.Second)
		}},
		{"commits wait for it, which has said something", minute(), func(c *walreceiver) {
			c.log.advance(start+100, 1)
			synctest.Wait() // it is being sent the log
			c.standbys.set("standby")
			c.status(start, start, true)
			c.say('d', feedback(700, 0))
			synctest.Wait()
			c.expect("w 0/300000+100 of 0/300064, timeline 1", "k 0/300064 false")
			err := <-c.err
			var h *handover
			if !errors.As(err, &h) || h.Sent.LSN != start+100 || string(h.Message) != feedback(700, 0) {
				c.t.Errorf("ended with %v %+v", err, h)
			}
		}},
		{"commits wait for it, which ends", minute(), func(c *walreceiver) {
			c.log.advance(start+100, 1)
			synctest.Wait()
			c.standbys.set("standby")
			c.say('c', "")
			synctest.Wait()
			c.expect(append([]string{"w 0/300000+100 of 0/300064, timeline 1", "c"}, split(completes)...)...)
			c.ends("<nil>")
		}},
		{"commits wait for it after its end", minute(), func(c *walreceiver) {
			forked(c.log)
			c.log.advance(start+0x200, 2)
			c.expect("w 0/300000+512 of 0/300200, timeline 1", "c")
			c.standbys.set("standby")
			c.quiet(time.Second)
			c.say('c', "")
			c.expect(split(nextIs + "2 0/300200|" + completes)...)
			c.ends("<nil>")
		}},

		{"the timeline ends", minute(), func(c *walreceiver) {
			forked(c.log)
			c.log.advance(start+0x200, 2)
			c.expect("w 0/300000+512 of 0/300200, timeline 1", "c")
			c.status(start+0x200, 0, false)
			c.quiet(time.Second)
			c.status(start+0x200, 0, true)
			c.expect("k 0/300200 false")
			c.say('c', "")
			c.expect(split(nextIs + "2 0/300200|" + completes)...)
			c.ends("<nil>")
		}},
		{"the timeline ends, and the client wants rows", minute(), func(c *walreceiver) {
			forked(c.log)
			c.log.advance(start+0x200, 2)
			c.expect("w 0/300000+512 of 0/300200, timeline 1", "c")
			c.say('d', feedback(700, 0))
			c.say('d', feedback(700, 700))
			c.quiet(time.Second)
			c.status(start+0x200, 0, true)
			c.expect("k 0/300200 false")
			c.say('c', "")
			c.expect(split(nextIs + "2 0/300200|" + completes)...)
			c.ends("<nil>")
		}},
		{"the timeline ends, and the next goes on far", minute(), func(c *walreceiver) {
			forked(c.log)
			c.log.advance(start+0x90000, 2)
			c.expect("w 0/300000+512 of 0/300200, timeline 1", "c")
			c.log.advance(start+0x91000, 2)
			c.quiet(time.Second)
			c.say('c', "")
			c.expect(split(nextIs + "2 0/300200|" + completes)...)
			c.ends("<nil>")
		}},
		{"the timeline ended before what was sent", minute(), func(c *walreceiver) {
			forked(c.log)
			c.log.advance(start+0x300, 1)
			c.expect("w 0/300000+768 of 0/300300, timeline 1")
			c.log.advance(start+0x280, 2)
			c.expect("c")
			c.say('c', "")
			c.expect(split(nextIs + "2 0/300200|" + completes)...)
			c.ends("<nil>")
		}},
		{"the timeline ends, and the client has nothing to say", minute(), func(c *walreceiver) {
			forked(c.log)
			c.log.advance(start+0x200, 2)
			c.expect("w 0/300000+512 of 0/300200, timeline 1", "c")
			c.quiet(29 * time.Second)
			c.expect("k 0/300200 true")
			c.quiet(29 * time.Second)
			c.ends("end: terminating walsender process due to replication timeout")
		}},
		{"the client ends it before the timeline does", minute(), func(c *walreceiver) {
			forked(c.log)
			c.log.advance(start+0x200, 2)
			synctest.Wait() // it is being sent the log
			c.say('c', "")
			synctest.Wait()
			c.expect("w 0/300000+512 of 0/300200, timeline 1", "c")
			c.expect(split(nextIs + "2 0/300200|" + completes)...)
			c.ends("<nil>")
		}},
		{"two timelines end at once", minute(), func(c *walreceiver) {
			c.log.histories[3] = "1\t0/300200\t\n2\t0/300300\t\n"
			c.log.advance(start+0x400, 3)
			c.expect("w 0/300000+512 of 0/300200, timeline 1", "c")
			c.say('c', "")
			c.expect(split(nextIs + "2 0/300200|" + completes)...)
			c.ends("<nil>")
		}},
		{"another cluster's timeline", minute(), func(c *walreceiver) {
			c.log.advance(start+0x400, 3)
			c.ends(": requested timeline 1 is not in this server's history")
		}},

		{"shutdown, all was flushed", minute(), func(c *walreceiver) {
			c.log.advance(start+100, 1)
			c.expect("w 0/300000+100 of 0/300064, timeline 1")
			c.status(start+100, start+100, false)
			synctest.Wait()
			close(c.stop)
			c.expect("C COPY 0")
			c.ends("end: the stream has ended, as the server shuts down")
		}},
		{"shutdown, there is more", minute(), func(c *walreceiver) {
			c.log.advance(start+0x20001, 1)
			synctest.Wait() // the first message waits to be read
			close(c.stop)
			c.expect("w 0/300000+131072 of 0/320001, timeline 1", "w 0/320000+1 of 0/320001, timeline 1", "k 0/320001 true")
			c.log.advance(start+0x30000, 1) // too late
			c.status(start+0x20001, start+1, false)
			c.quiet(99 * time.Millisecond)
			c.expect("k 0/320001 true")
			c.status(start+0x20001, start+0x20001, false)
			c.expect("C COPY 0")
			c.ends("end: the stream has ended, as the server shuts down")
		}},
		{"shutdown, the client flushes nothing", minute(), func(c *walreceiver) {
			close(c.stop)
			c.expect("k 0/300000 true")
			c.status(start-1, 0, false)
			c.quiet(99 * time.Millisecond)
			c.expect("k 0/300000 true")
			c.status(start, 0, false)
			c.expect("C COPY 0")
			c.ends("end: the stream has ended, as the server shuts down")
		}},
		{"shutdown, the client is silent", minute(), func(c *walreceiver) {
			close(c.stop)
			c.expect("k 0/300000 true")
			c.quiet(59 * time.Second)
			c.ends("end: terminating walsender process due to replication timeout")
		}},
		{"shutdown, the client ends it", minute(), func(c *walreceiver) {
			close(c.stop)
			c.expect("k 0/300000 true")
			c.say('c', "")
			c.expect(append([]string{"c"}, split(completes)...)...)
			c.ends("<nil>")
		}},

		{"canceled", minute(), func(c *walreceiver) {
			c.quit(&Error{Code: "57014", Message: "canceled"})
			c.ends("57014: canceled")
			select {
			case <-c.cut:
				c.t.Error("nothing more can be sent")
			default:
			}
		}},
		{"canceled while a message is sent", minute(), func(c *walreceiver) {
			c.log.advance(start+100, 1)
			synctest.Wait()
			c.quit(&Error{Code: "57014", Message: "canceled"})
			synctest.Wait()
			select {
			case <-c.cut:
			default:
				c.t.Error("more can be sent behind half a message")
			}
			c.ends("57014: canceled")
		}},
	} {
		t.Run(c.reason, func(t *testing.T) {
			streaming(t, at, c.o, func(x *walreceiver) {
				x.expect(copyBoth)
				c.script(x)
				x.quit(nil)
			})
		})
	}
}
