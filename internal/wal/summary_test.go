package wal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// end adds the end of a transaction with that many subtransactions, so many microseconds after the year 2000.
func (f *forge) end(info uint8, xid uint32, at uint64, subtransactions int) LSN {
	p := &parts{order: f.appendOrder()}
	p.u64(at)
	if subtransactions > 0 {
		info |= transactionHasMore
		p.u32(transactionHasSubtransactions, uint32(subtransactions)).skip(4 * subtransactions)
	}
	return f.record(transactionManager, info, xid, (&parts{order: f.appendOrder()}).main(p.p).p)
}

// name adds a restore point.
func (f *forge) name(name string) LSN {
	data := restorePoint(&parts{order: f.appendOrder()}, name).p
	return f.record(xlogManager, xlogRestorePoint, 0, (&parts{order: f.appendOrder()}).main(data).p)
}

// tablespace adds a tablespace that is made.
func (f *forge) tablespace(oid uint32, path string) LSN {
	data := append((&parts{order: f.appendOrder()}).u32(oid).p, path+"\x00"...)
	return f.record(tablespaceManager, tablespaceCreate, 0, (&parts{order: f.appendOrder()}).main(data).p)
}

// checkpoint adds an online checkpoint.
func (f *forge) checkpoint() LSN {
	make := checkpoint12
	if f.major < 12 {
		make = checkpoint10
	}
	return f.record(xlogManager, xlogCheckpointOnline, 0, (&parts{order: f.appendOrder()}).main(make(&parts{order: f.appendOrder()}).p).p)
}

// mixed adds records of all kinds that are told of, and others.
func (f *forge) mixed(to LSN, random *rand.Rand) {
	for f.at() < to {
		xid, at := random.Uint32(), random.Uint64N(1<<50)
		switch random.IntN(12) {
		case 0:
			f.end(transactionCommit, xid, at, 0)
		case 1:
			f.end(transactionAbort, xid, at, random.IntN(5))
		case 2:
			f.end(transactionCommit, xid, at, random.IntN(50))
		case 3:
			f.end(transactionCommit, xid, at, random.IntN(500)) // perhaps longer than what is kept
		case 4:
			f.name(fmt.Sprint("point ", xid))
		case 5:
			f.tablespace(xid, "/some/where/"+strings.Repeat("x", random.IntN(200)))
		case 6:
			f.checkpoint()
		default:
			f.record(10, 0, xid, bytes.Repeat([]byte{1, 2, 3}, random.IntN(200)))
		}
	}
}

// summarizeAll returns the summaries of the segments of the log, each after the one before.
func summarizeAll(t testing.TB, log []byte, start LSN, rules PageRules) []Summary {
	t.Helper()
	var all []Summary
	size := int(rules.SegmentSize)
	for at := 0; at < len(log); at += size {
		segment := SegmentAt(Position{LSN: start + LSN(at), Timeline: rules.Timeline}, rules.SegmentSize)
		read := Summarize
		if at+size >= len(log) {
			read = SummarizePart
		}
		s, err := read(bytes.NewReader(log[at:min(at+size, len(log))]), segment, rules)
		if err != nil {
			t.Fatal(err)
		}
		var before *Summary
		if len(all) > 0 {
			before = &all[len(all)-1]
		}
		if s, err = viaJSON(t, s).After(before); err != nil {
			t.Fatal(err)
		}
		all = append(all, viaJSON(t, s))
	}
	return all
}

// viaJSON returns what is stored of a summary.
func viaJSON(t testing.TB, s Summary) Summary {
	t.Helper()
	p, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var got Summary
	if err := json.Unmarshal(p, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

// checkSummaries compares summaries with what the records of the log tell, one after the
// other. It returns how many segments have more than their summaries tell.
func checkSummaries(t testing.TB, log []byte, start LSN, rules PageRules, all []Summary) (incomplete int) {
	t.Helper()
	want := make([]Summary, len(all))
	readAll(t, bytes.NewReader(log), start, rules.SegmentSize, func(r Record) {
		w := &want[(r.End-1-start)/LSN(rules.SegmentSize)]
		if begin := (r.LSN - start) / LSN(rules.SegmentSize); w.First == 0 && begin == (r.End-1-start)/LSN(rules.SegmentSize) {
			w.First, w.FirstPrev = r.LSN, r.Prev
		}
		w.count(r)
	})
	for i, got := range all {
		w := want[i]
		if i > 0 && w.Last == 0 {
			w.Last, w.End = want[i-1].Last, want[i-1].End
			want[i].Last, want[i].End = w.Last, w.End
		}
		if got.First != w.First || got.FirstPrev != w.FirstPrev || got.Last != w.Last || got.End != w.End {
			t.Errorf("%s: first %s, after %s, last %s, to %s; want %s, %s, %s, %s", got.name(),
				got.First, got.FirstPrev, got.Last, got.End, w.First, w.FirstPrev, w.Last, w.End)
		}
		if got.IsIncomplete {
			incomplete++
			continue
		}
		told := Summary{Transactions: got.Transactions, RestorePoints: got.RestorePoints, Tablespaces: got.Tablespaces, Timelines: got.Timelines,
			Checkpoint: got.Checkpoint, Parameters: got.Parameters, Minimal: got.Minimal}
		holds := Summary{Transactions: w.Transactions, RestorePoints: w.RestorePoints, Tablespaces: w.Tablespaces, Timelines: w.Timelines,
			Checkpoint: w.Checkpoint, Parameters: w.Parameters, Minimal: w.Minimal}
		if !reflect.DeepEqual(told, viaJSON(t, holds)) {
			t.Errorf("%s: is told to have\n%+v\nhas\n%+v", got.name(), told, holds)
		}
	}
	return incomplete
}

// come adds small records up to a position, which is close to the end of a page.
func (f *forge) come(to LSN) {
	f.fill((to-1)&^LSN(f.pageSize-1), 100)
	f.pad(to)
}

// TestSummaries reads logs of many segments, and moves what they have so that all
// kinds of records come over the border of two in all ways.
func TestSummaries(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	for _, c := range []struct {
		major    int
		order    byteOrder
		pageSize int
	}{
		{10, littleEndian, defaultPageSize}, {13, bigEndian, minPageSize}, {17, littleEndian, maxPageSize}, {18, littleEndian, defaultPageSize},
	} {
		f := newForge(0x300000)
		f.major, f.magic, f.order, f.pageSize = c.major, magicOf(c.major), c.order, c.pageSize
		for i := range 24 {
			border := f.start + LSN(i+1)*MinSegmentSize
			f.fill(border-200000, 5000)
			f.mixed(border-12000, random)
			f.come(border - LSN(8*(i+1)))
			switch i % 4 {
			case 0:
				f.end(transactionCommit, uint32(i), 1<<49, 20)
			case 1:
				f.name("over the border")
			case 2:
				f.tablespace(5, "/over/the/border")
			default:
				f.checkpoint()
			}
		}
		all := summarizeAll(t, f.log, f.start, f.rules())
		if incomplete := checkSummaries(t, f.log, f.start, f.rules(), all); incomplete > 0 {
			t.Errorf("%d of %d segments are incomplete", incomplete, len(all))
		}
		if t.Failed() {
			t.Fatalf("version %d", c.major)
		}
	}
}

// TestSummariesOfLongRecords has records over several segments, of which too little is kept
// to know what they tell.
func TestSummariesOfLongRecords(t *testing.T) {
	f := newForge(0x300000)
	f.name("before")
	f.record(10, 0, 7, make([]byte, 3*MinSegmentSize))
	f.name("between")
	f.end(transactionCommit, 7, 1, 3*MinSegmentSize/4)
	f.name("after")
	f.fill(f.at()+MinSegmentSize, 500)
	all := summarizeAll(t, f.log, f.start, f.rules())
	if incomplete := checkSummaries(t, f.log, f.start, f.rules(), all); incomplete != 1 || !all[6].IsIncomplete || len(all[6].RestorePoints) != 1 {
		t.Errorf("%d of %d segments are incomplete, want the seventh alone", incomplete, len(all))
	}
	for i, isOpen := range []bool{true, true, true, true, true, true, true, false} {
		if (all[i].Open != nil) != isOpen {
			t.Errorf("segment %d goes on with %v", i, all[i].Open)
		}
	}
}

// TestSummariesOfSwitches has switches in the middle of segments, and such as go over
// the border and leave the segment after.
func TestSummariesOfSwitches(t *testing.T) {
	for _, major := range []int{10, 11, 18} {
		for _, before := range []LSN{0, 8, 16, 24, 32, 8192, 100000} {
			f := newForge(0x300000)
			f.major, f.magic = major, magicOf(major)
			if before > 0 {
				f.fill(0x400000-before-20000, 3000)
				f.come(0x400000 - before)
			} else {
				f.name("one before")
			}
			f.switchAway()
			f.name("after")
			all := summarizeAll(t, f.log, f.start, f.rules())
			checkSummaries(t, f.log, f.start, f.rules(), all)
			i := 0
			if before == 8 || before == 16 {
				i = 1
			}
			if !all[i].IsSwitched || len(all) != i+2 || len(all[i+1].RestorePoints) != 1 {
				t.Errorf("version %d, %d bytes before: no switch ends segment %d of %d: %+v", major, before, i, len(all), all[i])
			}
			// Something that is no zero after the switch.
			for _, at := range []int{1, 9000} {
				log := bytes.Clone(f.log[i*MinSegmentSize : (i+1)*MinSegmentSize])
				if before < 9000 && i == 0 && before > 0 {
					continue
				}
				log[len(log)-at] ^= 1
				_, err := Summarize(bytes.NewReader(log), Segment{1, 3 + uint64(i)}, f.rules())
				if _, ok := errors.AsType[*PageError](err); !ok {
					t.Errorf("version %d: after a switch there is something, and it is %v", major, err)
				}
			}
		}
	}
}

// switchAway adds a switch as the server's version does, with pages after it in 10.
func (f *forge) switchAway() {
	f.record(xlogManager, xlogSwitch, 0, nil)
	for end := (f.at() + LSN(f.segmentSize) - 1) &^ LSN(f.segmentSize-1); f.at() < end; {
		if f.major == 10 {
			f.begin()
		}
		left := f.left()
		if left == 0 {
			left = f.pageSize
		}
		f.log = append(f.log, make([]byte, left)...)
	}
}

// TestSummarizeRefuses damages a segment in many ways; the intact one is among them.
func TestSummarizeRefuses(t *testing.T) {
	f := newForge(0x300000)
	f.fill(0x480000, 500)
	middle := f.name("middle")
	f.fill(0x510000, 500)
	second := f.log[MinSegmentSize : 2*MinSegmentSize]
	for _, c := range []struct {
		why    string
		number uint64
		change func(log []byte, rules *PageRules) []byte
		want   string // part of the error, empty for none
	}{
		{"intact", 4, nil, ""},
		{"under another's name", 5, nil, "page at 0/500000: its header says 0/400000"},
		{"of another cluster", 4, func(log []byte, r *PageRules) []byte { r.SystemID = 43; return log }, "system identifier is 42, not 43"},
		{"of another version", 4, func(log []byte, r *PageRules) []byte { r.Major = 17; return log }, "is of PostgreSQL 18"},
		{"of a later timeline", 4, func(log []byte, r *PageRules) []byte { log[4] = 2; return log }, "it is of timeline 2, not 1"},
		{"no log", 4, func(log []byte, r *PageRules) []byte { return make([]byte, len(log)) }, "zeros from here on, at 0/400000"},
		{"nothing", 4, func(log []byte, r *PageRules) []byte { return nil }, "it has 0 bytes, not 1048576"},
		{"a byte short", 4, func(log []byte, r *PageRules) []byte { return log[:len(log)-1] }, "it has 1048575 bytes, not 1048576"},
		{"a page short", 4, func(log []byte, r *PageRules) []byte { return log[:len(log)-8192] }, "it has 1040384 bytes, not 1048576"},
		{"a byte longer", 4, func(log []byte, r *PageRules) []byte { return append(log, 0) }, "more than 1048576 bytes"},
		{"a page longer", 4, func(log []byte, r *PageRules) []byte { return append(log, f.log[2*MinSegmentSize:]...) }, "more than 1048576 bytes"},
		{"a bit in the middle", 4, func(log []byte, r *PageRules) []byte { log[middle-0x400000+40] ^= 1; return log }, "record at " + middle.String() + ": "},
		{"zeros in the middle", 4, func(log []byte, r *PageRules) []byte { clear(log[0x90000:0xA0000]); return log }, "zeros from here on, at 0/48F"},
		{"zeros to the end", 4, func(log []byte, r *PageRules) []byte { clear(log[0x90000:]); return log }, "zeros from here on, at 0/48F"},
		{"a page of another place", 4, func(log []byte, r *PageRules) []byte { copy(log[0x90000:], log[0x80000:0x82000]); return log }, "page at 0/490000: its header says 0/480000"},
	} {
		t.Run(c.why, func(t *testing.T) {
			log, rules := bytes.Clone(second), f.rules()
			if c.change != nil {
				log = c.change(log, &rules)
			}
			_, err := Summarize(bytes.NewReader(log), Segment{1, c.number}, rules)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("is %v, want %q", err, c.want)
			}
		})
	}
	for _, c := range []struct {
		why   string
		input io.Reader
	}{
		{"at once", iotest.ErrReader(iotest.ErrTimeout)},
		{"in the middle", io.MultiReader(bytes.NewReader(second[:0x1234]), iotest.ErrReader(iotest.ErrTimeout))},
		{"after the end", io.MultiReader(bytes.NewReader(second), iotest.ErrReader(iotest.ErrTimeout))},
	} {
		if _, err := Summarize(c.input, Segment{1, 4}, f.rules()); !errors.Is(err, iotest.ErrTimeout) {
			t.Errorf("an input that fails %s is %v", c.why, err)
		}
	}
}

// TestSummarizePart cuts a log off at each place, with what a file may have held before behind it.
func TestSummarizePart(t *testing.T) {
	f := small()
	garbage := newForge(0x100000)
	garbage.pageSize = minPageSize
	garbage.fill(0x110000, 300)
	for cut := 0; cut <= len(f.log); cut += 8 {
		at := f.start + LSN(cut)
		n, _ := slices.BinarySearch(f.ends, at+1)
		want := LSN(0)
		if n > 0 {
			want = f.ends[n-1]
		}
		for what, log := range map[string][]byte{
			"nothing": f.log[:cut],
			"zeros":   append(bytes.Clone(f.log[:cut]), make([]byte, 50000)...),
			"garbage": append(bytes.Clone(f.log[:cut]), garbage.log[cut:]...),
		} {
			s, err := SummarizePart(bytes.NewReader(log), Segment{1, 3}, f.rules())
			if cut <= longHeaderSize && what == "garbage" { // which may have a header, and a record that says nothing of the one before
				if err == nil && cut < 16 {
					t.Errorf("%d bytes of log before garbage are some", cut)
				}
				continue
			}
			if err != nil && cut >= longHeaderSize || s.End != want || s.Length != int64(max(want, f.start)-f.start) && n > 0 || s.Ended == "" && err == nil {
				t.Fatalf("%d bytes before %s: %d bytes to %s, since %q; want %s: %v", cut, what, s.Length, s.End, s.Ended, want, err)
			}
		}
	}
}

// TestSummaryAfter joins what does not belong together.
func TestSummaryAfter(t *testing.T) {
	log := func(change func(f *forge)) []Summary {
		f := newForge(0x300000)
		f.come(0x3FFF00)
		if change != nil {
			change(f)
		} else {
			f.end(transactionCommit, 7, 1<<49, 100)
		}
		f.fill(0x610000, 500)
		var all []Summary
		for i := range 3 {
			s, err := Summarize(bytes.NewReader(f.log[i*MinSegmentSize:(i+1)*MinSegmentSize]), Segment{f.timeline, 3 + uint64(i)}, f.rules())
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
		return all
	}
	own := log(nil)
	for _, c := range []struct {
		why   string
		other []Summary
		want  string // part of the error, empty for none
	}{
		{"its own", own, ""},
		{"the same again", log(nil), ""},
		{"of another cluster", log(func(f *forge) { f.log[24] = 43; f.system = 43; f.end(0, 7, 1<<49, 100) }), "another cluster"},
		{"with another end of the record between", log(func(f *forge) {
			p := (&parts{order: f.appendOrder()}).u64(1<<49).u32(transactionHasSubtransactions, 100).skip(399).u8(1)
			f.record(transactionManager, transactionHasMore, 7, (&parts{order: f.appendOrder()}).main(p.p).p)
		}), "record at 0/3FFF00: its checksum is wrong"},
		{"with a longer record", log(func(f *forge) { f.end(0, 7, 1<<49, 102) }), "bytes of a record of which"},
		{"with two short records", log(func(f *forge) {
			f.record(10, 0, 7, make([]byte, 40))
			f.record(10, 0, 7, make([]byte, 400-40-8))
		}), "bytes of a record of which"},
		{"with none between", log(func(f *forge) { f.pad(0x400000) }), "begins with 0 bytes of a record"},
		{"of a later timeline", func() []Summary {
			s := log(nil)
			s[1].Timeline, s[1].FirstTimeline = 2, 2
			return s
		}(), ""},
		{"of an older timeline", func() []Summary {
			s := log(nil)
			s[1].Timeline, s[1].FirstTimeline = 0, 0
			return s
		}(), "timeline 0 does not follow 1"},
	} {
		s, err := c.other[1].After(&own[0])
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: is %v, want %q", c.why, err, c.want)
		}
		if err == nil && s.Transactions != (Transactions{1, timeOf(1 << 49), timeOf(1 << 49), 7, 7}) && !s.IsIncomplete {
			t.Errorf("%s: the commit is %v", c.why, s.Transactions)
		}
	}
	if _, err := own[2].After(&own[0]); err == nil || !strings.Contains(err.Error(), "it begins at 0/500000, not at 0/400000") {
		t.Errorf("one that is missing: %v", err)
	}
	if s, err := own[1].After(nil); err != nil || !s.IsIncomplete {
		t.Errorf("after nothing that is known it is %v, %v", s.IsIncomplete, err)
	}
	if s, err := own[0].After(nil); err != nil || s.IsIncomplete {
		t.Errorf("after nothing that goes on it is %v, %v", s.IsIncomplete, err)
	}
	one, two := log(func(f *forge) { f.pad(0x400000) }), log(func(f *forge) { f.pad(0x3FFF80); f.pad(0x400000) })
	if _, err := two[1].After(&one[0]); err == nil || !strings.Contains(err.Error(), "comes after one at 0/3FFF80, the last before it is at 0/3FFF00") {
		t.Errorf("after other records: %v", err)
	}
	part := own[0]
	part.Ended = ErrUnwritten.Error()
	if _, err := own[1].After(&part); err == nil || !strings.Contains(err.Error(), "zeros") {
		t.Errorf("after a part: %v", err)
	}
	if want := time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC); toCalendar(timeOf(1<<63-1)) != want {
		t.Errorf("the last time is not %v", want)
	}
}

func FuzzSummarize(f *testing.F) {
	g := small()
	f.Add(g.log, []byte{}, true)
	g = newForge(0x300000)
	g.name("here")
	g.end(transactionCommit, 7, 1<<63, 100)
	g.tablespace(7, "/there")
	g.checkpoint()
	f.Add(g.log, g.log, false)
	g.leave()
	f.Add(g.log[:300], g.log[:300], true)
	g.name("after")
	f.Add(g.log[MinSegmentSize:], []byte{1}, false)
	f.Fuzz(func(t *testing.T, log, next []byte, isPart bool) {
		rules := PageRules{SegmentSize: MinSegmentSize}
		read := Summarize
		if isPart {
			read = SummarizePart
		} else if len(log) > 0 { // of a whole segment
			log = append(log, make([]byte, max(0, MinSegmentSize-len(log)))...)
		}
		s, err := read(bytes.NewReader(log), Segment{1, 3}, rules)
		if err != nil {
			return
		}
		if s.Length < 0 || s.Length > MinSegmentSize || s.First != 0 && (s.First < s.Start || s.Last < s.First || s.End <= s.Last) {
			t.Errorf("%+v", s)
		}
		s = viaJSON(t, s)
		if n, err := SummarizePart(bytes.NewReader(next), Segment{1, 4}, rules); err == nil {
			if _, err := viaJSON(t, n).After(&s); err != nil && err.Error() == "" {
				t.Error("an error says nothing")
			}
		}
		if _, err := s.After(nil); err != nil {
			t.Error(err)
		}
	})
}
