package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
)

// parts makes the data of a record in either byte order.
type parts struct {
	order binary.AppendByteOrder
	p     []byte
}

func (p *parts) u8(v ...uint8) *parts { p.p = append(p.p, v...); return p }
func (p *parts) u16(v uint16) *parts  { p.p = p.order.AppendUint16(p.p, v); return p }
func (p *parts) u64(v uint64) *parts  { p.p = p.order.AppendUint64(p.p, v); return p }
func (p *parts) skip(n int) *parts    { p.p = append(p.p, bytes.Repeat([]byte{0xEE}, n)...); return p }
func (p *parts) u32(v ...uint32) *parts {
	for _, v := range v {
		p.p = p.order.AppendUint32(p.p, v)
	}
	return p
}

// main adds main data, with its header before it.
func (p *parts) main(data []byte) *parts {
	if len(data) < 256 {
		p.u8(idMainShort, uint8(len(data)))
	} else {
		p.u8(idMainLong).u32(uint32(len(data)))
	}
	p.p = append(p.p, data...)
	return p
}

func TestTransactionEnd(t *testing.T) {
	at := time.Date(2024, 2, 29, 12, 34, 56, 789012000, time.UTC)
	stamp := uint64(at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds())
	const everything = transactionHasDatabase | transactionHasSubtransactions | transactionHasRelations | transactionHasInvalidations | transactionHasPrepared | 1<<5 | 1<<7
	for _, c := range []struct {
		why           string
		manager, info uint8
		majors        []int // all if empty
		main          func(p *parts)
		want          string
	}{
		{"plain", 1, 0x00, nil, func(p *parts) { p.u64(stamp) }, "commit 7 at 2024-02-29 12:34:56.789012"},
		{"info of the caller", 1, 0x01, nil, func(p *parts) { p.u64(stamp) }, "commit 7 at 2024-02-29 12:34:56.789012"},
		{"with more, which does not matter", 1, 0x80, nil, func(p *parts) { p.u64(stamp).u32(everything).skip(3) }, "commit 7 at 2024-02-29 12:34:56.789012"},
		{"before 2000", 1, 0x00, nil, func(p *parts) { p.u64(uint64(1<<64 - 1)) }, "commit 7 at 1999-12-31 23:59:59.999999"},
		{"the year 2000", 1, 0x00, nil, func(p *parts) { p.u64(0) }, "commit 7 at 2000-01-01 00:00:00.000000"},
		{"the last of PostgreSQL", 1, 0x00, nil, func(p *parts) { p.u64(9223371331200000000 - 1) }, "commit 7 at 294276-12-31 23:59:59.999999"},
		{"infinity", 1, 0x00, nil, func(p *parts) { p.u64(1<<63 - 1) }, "commit 7 at 294277-01-09 04:00:54.775807"},
		{"prepared", 1, 0xB0, nil, func(p *parts) { p.u64(stamp).u32(transactionHasPrepared).u32(99) }, "commit 99 at 2024-02-29 12:34:56.789012"},
		{"prepared, with all else", 1, 0xB0, []int{10, 11, 12, 13, 14}, func(p *parts) {
			p.u64(stamp).u32(everything).skip(8).u32(2).skip(8).u32(3).skip(36).u32(100).skip(1600).u32(99).skip(30)
		}, "commit 99 at 2024-02-29 12:34:56.789012"},
		{"prepared, with statistics", 1, 0xB0, []int{15, 16, 17}, func(p *parts) {
			p.u64(stamp).u32(everything | transactionHasStatistics).skip(8).u32(2).skip(8).u32(3).skip(36).u32(4).skip(48).u32(0).u32(99).skip(30)
		}, "commit 99 at 2024-02-29 12:34:56.789012"},
		{"prepared, with longer statistics", 1, 0xB0, []int{18}, func(p *parts) {
			p.u64(stamp).u32(everything | transactionHasStatistics).skip(8).u32(2).skip(8).u32(3).skip(36).u32(4).skip(64).u32(0).u32(99).skip(30)
		}, "commit 99 at 2024-02-29 12:34:56.789012"},
		{"of another manager", 10, 0x00, nil, func(p *parts) { p.u64(stamp) }, "none"},
		{"prepare", 1, 0x10, nil, func(p *parts) { p.u64(stamp) }, "none"},
		{"abort", 1, 0x20, nil, func(p *parts) { p.u64(stamp) }, "abort 7 at 2024-02-29 12:34:56.789012"},
		{"abort with more", 1, 0xA0, nil, func(p *parts) { p.u64(stamp).u32(transactionHasSubtransactions).u32(1).u32(8) },
			"abort 7 at 2024-02-29 12:34:56.789012"},
		{"abort of a prepared one", 1, 0xC0, nil, func(p *parts) { p.u64(stamp).u32(transactionHasPrepared).u32(99) },
			"abort 99 at 2024-02-29 12:34:56.789012"},
		{"abort of a prepared one, with all else", 1, 0xC0, []int{11, 12, 13, 14}, func(p *parts) {
			p.u64(stamp).u32(everything &^ transactionHasInvalidations).skip(8).u32(2).skip(8).u32(3).skip(36).u32(99).skip(30)
		}, "abort 99 at 2024-02-29 12:34:56.789012"},
		{"abort of a prepared one, with statistics", 1, 0xC0, []int{15, 16, 17}, func(p *parts) {
			p.u64(stamp).u32(transactionHasStatistics | transactionHasPrepared).u32(2).skip(24).u32(99)
		}, "abort 99 at 2024-02-29 12:34:56.789012"},
		{"abort of a prepared one, with longer statistics", 1, 0xC0, []int{18}, func(p *parts) {
			p.u64(stamp).u32(transactionHasStatistics | transactionHasPrepared).u32(2).skip(32).u32(99)
		}, "abort 99 at 2024-02-29 12:34:56.789012"},
		{"abort of a prepared one, but not which", 1, 0x40, nil, func(p *parts) { p.u64(stamp) }, "none"},
		{"abort, too short for a time", 1, 0x20, nil, func(p *parts) { p.u32(0).skip(3) }, "none"},
		{"assignment", 1, 0x50, nil, func(p *parts) { p.u64(stamp) }, "none"},
		{"invalidations", 1, 0x60, nil, func(p *parts) { p.u64(stamp) }, "none"},
		{"too short for a time", 1, 0x00, nil, func(p *parts) { p.u32(0).skip(3) }, "none"},
		{"prepared, but not which", 1, 0xB0, nil, func(p *parts) { p.u64(stamp).u32(transactionHasDatabase).skip(8).u32(99) }, "none"},
		{"prepared, and no more", 1, 0x30, nil, func(p *parts) { p.u64(stamp).u32(99) }, "none"},
		{"prepared, cut off", 1, 0xB0, nil, func(p *parts) { p.u64(stamp).u32(transactionHasPrepared).skip(3) }, "none"},
		{"prepared, more subtransactions than there are", 1, 0xB0, nil, func(p *parts) {
			p.u64(stamp).u32(transactionHasPrepared | transactionHasSubtransactions).u32(1<<32 - 1).u32(99).u32(99)
		}, "none"},
	} {
		t.Run(c.why, func(t *testing.T) {
			eachLayout(t, c.majors, c.manager, c.info, c.main, func(r Record) string {
				const clock = "2006-01-02 15:04:05.000000"
				commit, isCommit := r.Commit()
				abort, isAbort := r.Abort()
				switch {
				case isCommit && !isAbort:
					return fmt.Sprintf("commit %d at %s", commit.XID, commit.Time.Format(clock))
				case isAbort && !isCommit:
					return fmt.Sprintf("abort %d at %s", abort.XID, abort.Time.Format(clock))
				case isAbort:
					return "both"
				}
				return "none"
			}, c.want)
		})
	}
}

// eachLayout forges a record of transaction 7, for all majors unless some are given and in
// either byte order, and looks at what is read of it.
func eachLayout(t *testing.T, majors []int, manager, info uint8, main func(*parts), read func(Record) string, want string) {
	t.Helper()
	if len(majors) == 0 {
		majors = []int{10, 11, 12, 13, 14, 15, 16, 17, 18}
	}
	for _, major := range majors {
		for _, order := range []byteOrder{littleEndian, bigEndian} {
			f := newForge(0x300000)
			f.major, f.magic, f.order = major, magicOf(major), order
			p := &parts{order: f.appendOrder()}
			main(p)
			f.record(manager, info, 7, (&parts{order: f.appendOrder()}).main(p.p).p)
			r, err := NewRecordReader(bytes.NewReader(f.log), f.start, f.segmentSize).Next()
			if err != nil {
				t.Fatal(err)
			}
			if got := read(r); got != want {
				t.Errorf("version %d, big-endian %t: is %s, want %s", major, order, got, want)
			}
		}
	}
}

func TestFragments(t *testing.T) {
	rel := func(p *parts) *parts { return p.u32(1663, 5, 16384) }
	for _, c := range []struct {
		why   string
		major int
		data  func(p *parts)
		want  string // the error, after "error: ", or what there is
	}{
		{"nothing", 18, func(p *parts) {}, `main ""`},
		{"main data", 18, func(p *parts) { p.main([]byte("abc")) }, `main "abc"`},
		{"none of it", 18, func(p *parts) { p.main(nil) }, `main ""`},
		{"main data of 255 bytes", 18, func(p *parts) { p.main(make([]byte, 255)) }, fmt.Sprintf("main %q", make([]byte, 255))},
		{"main data of 256 bytes", 18, func(p *parts) { p.main(make([]byte, 256)) }, fmt.Sprintf("main %q", make([]byte, 256))},
		{"origin and transaction", 18, func(p *parts) { p.u8(idOrigin).u16(3).u8(idToplevelXID).u32(70000).main([]byte("a")) }, `origin 3 transaction 70000 main "a"`},
		{"a block alone", 18, func(p *parts) { rel(p.u8(0, 0x01).u16(0)).u32(9) }, `[0 of 1663/5/16384 fork 1 at 9 image "" data ""] main ""`},
		{"a block with data", 18, func(p *parts) { rel(p.u8(0, 0x20).u16(2)).u32(9).u8(idMainShort, 1, 'd', 'e', 'm') },
			`[0 of 1663/5/16384 fork 0 at 9 image "" data "de"] main "m"`},
		{"blocks in order", 18, func(p *parts) {
			rel(p.u8(0, 0x30).u16(1).u16(3).u16(100).u8(0x03)).u32(9)
			p.u8(32, 0xA2).u16(1).u32(10).u8(idMainShort, 2)
			p.u8('i', 'm', 'g', 'd', 'e', 'm', 'n')
		}, `[0 of 1663/5/16384 fork 0 at 9 image "img" data "d"] [32 of 1663/5/16384 fork 2 at 10 image "" data "e"] main "mn"`},
		{"compressed, with a hole", 18, func(p *parts) { rel(p.u8(0, 0x10).u16(0).u16(1).u16(100).u8(0x01 | 0x10).u16(50)).u32(9).u8('i') },
			`[0 of 1663/5/16384 fork 0 at 9 image "i" data ""] main ""`},
		{"compressed, without a hole", 15, func(p *parts) { rel(p.u8(0, 0x10).u16(0).u16(1).u16(0).u8(0x04)).u32(9).u8('i') },
			`[0 of 1663/5/16384 fork 0 at 9 image "i" data ""] main ""`},
		{"applied, with a hole, not compressed since 15", 15, func(p *parts) { rel(p.u8(0, 0x10).u16(0).u16(1).u16(100).u8(0x03)).u32(9).u8('i') },
			`[0 of 1663/5/16384 fork 0 at 9 image "i" data ""] main ""`},
		{"compressed, with a hole, before 15", 14, func(p *parts) { rel(p.u8(0, 0x10).u16(0).u16(1).u16(100).u8(0x03).u16(50)).u32(9).u8('i') },
			`[0 of 1663/5/16384 fork 0 at 9 image "i" data ""] main ""`},
		{"applied, with a hole, not compressed before 15", 14, func(p *parts) { rel(p.u8(0, 0x10).u16(0).u16(1).u16(100).u8(0x05)).u32(9).u8('i') },
			`[0 of 1663/5/16384 fork 0 at 9 image "i" data ""] main ""`},

		{"unknown part", 18, func(p *parts) { p.u8(33) }, "error: it has no part of the kind 33"},
		{"unknown part, high", 18, func(p *parts) { p.u8(251) }, "error: it has no part of the kind 251"},
		{"block twice", 18, func(p *parts) { rel(p.u8(1, 0x00).u16(0)).u32(9).u8(1, 0x80).u16(0).u32(10) }, "error: block 1: it comes after 1"},
		{"relation of none before", 18, func(p *parts) { p.u8(0, 0x80).u16(0).u32(9) }, "error: block 0: it is of the same relation as none before"},
		{"data without flag", 18, func(p *parts) { p.u8(0, 0x00).u16(2).skip(20) }, "error: block 0: its flags are 00, with 2 bytes of data"},
		{"flag without data", 18, func(p *parts) { p.u8(0, 0x20).u16(0).skip(20) }, "error: block 0: its flags are 20, with 0 bytes of data"},
		{"main data cut off", 18, func(p *parts) { p.u8(idMainShort, 3, 'a', 'b') }, "error: " + errFragments.Error()},
		{"main data of 4 GiB", 18, func(p *parts) { p.u8(idMainLong).u32(1<<32 - 1).skip(9) }, "error: " + errFragments.Error()},
		{"more after the main data", 18, func(p *parts) { p.u8(idMainShort, 1, 'a', 'b') }, "error: " + errFragments.Error()},
		{"length cut off", 18, func(p *parts) { p.u8(idMainLong).u16(3) }, "error: " + errFragments.Error()},
		{"block cut off", 18, func(p *parts) { rel(p.u8(0, 0x00).u16(0)) }, "error: " + errFragments.Error()},
		{"image cut off", 18, func(p *parts) { rel(p.u8(0, 0x10).u16(0).u16(9).u16(0).u8(0)).u32(9).u8('i') }, "error: " + errFragments.Error()},
	} {
		t.Run(c.why, func(t *testing.T) {
			for _, order := range []byteOrder{littleEndian, bigEndian} {
				p := &parts{order: (&forge{order: order}).appendOrder()}
				c.data(p)
				r := Record{Data: p.p, order: order, major: c.major}
				f, err := r.fragments()
				got := describe(f)
				if err != nil {
					got = "error: " + err.Error()
				}
				if got != c.want {
					t.Errorf("big-endian %t: is %s, want %s", order, got, c.want)
				}
			}
		})
	}
}

// describe returns what there is.
func describe(f fragments) string {
	var s []string
	if f.origin != 0 {
		s = append(s, fmt.Sprintf("origin %d", f.origin))
	}
	if f.toplevelXID != 0 {
		s = append(s, fmt.Sprintf("transaction %d", f.toplevelXID))
	}
	for _, b := range f.blocks {
		s = append(s, fmt.Sprintf("[%d of %d/%d/%d fork %d at %d image %q data %q]",
			b.id, b.relation.tablespace, b.relation.database, b.relation.number, b.fork, b.number, b.image, b.data))
	}
	return strings.Join(append(s, fmt.Sprintf("main %q", f.main)), " ")
}

func FuzzFragments(f *testing.F) {
	for _, order := range []byteOrder{littleEndian, bigEndian} {
		begin := func() *parts { return &parts{order: (&forge{order: order}).appendOrder()} }
		p := begin()
		p.u8(0, 0x30).u16(1).u16(3).u16(100).u8(0x01|0x10).u16(5).u32(1663, 5, 16384, 9)
		p.u8(1, 0xA0).u16(1).u32(10).u8(idOrigin).u16(1).u8(idMainShort, 12)
		p.u8('i', 'm', 'g', 'd', 'e').u64(1).u32(7)
		f.Add(p.p, uint8(18), bool(order), uint8(transactionManager), uint8(transactionCommitPrepared|transactionHasMore))
		end := begin().u64(1).u32(0x1FF).skip(8).u32(1).skip(4).u32(1).skip(12).u32(1).skip(16).u32(0).u32(99)
		f.Add(begin().main(end.p).p, uint8(18), bool(order), uint8(transactionManager), uint8(transactionAbortPrepared|transactionHasMore))
		f.Add(begin().main(checkpoint10(begin()).p).p, uint8(10), bool(order), uint8(xlogManager), uint8(xlogCheckpointOnline))
		f.Add(begin().main(checkpoint12(begin()).p).p, uint8(12), bool(order), uint8(xlogManager), uint8(xlogCheckpointShutdown))
		f.Add(begin().main(begin().u64(1).u32(2, 1).p).p, uint8(18), bool(order), uint8(xlogManager), uint8(xlogEndOfRecovery))
		f.Add(begin().main(restorePoint(begin(), "here").p).p, uint8(18), bool(order), uint8(xlogManager), uint8(xlogRestorePoint))
	}
	f.Fuzz(func(t *testing.T, data []byte, major uint8, order bool, manager, info uint8) {
		r := Record{Data: data, order: byteOrder(order), major: int(major), ResourceManager: manager, Info: info}
		got, err := r.fragments()
		if n := kinds(t, r); n > 1 || n > 0 && err != nil {
			t.Errorf("the record is of %d kinds, %v", n, err)
		}
		if err != nil {
			return
		}
		var all []byte
		for _, b := range got.blocks {
			all = append(append(all, b.image...), b.data...)
		}
		if all = append(all, got.main...); !bytes.HasSuffix(data, all) {
			t.Errorf("%q ends in %q", data, all)
		}
	})
}

// kinds returns how many of the kinds that we decode a record is of.
func kinds(t *testing.T, r Record) (n int) {
	t.Helper()
	_, isCommit := r.Commit()
	_, isAbort := r.Abort()
	_, isCheckpoint := r.Checkpoint()
	_, isEndOfRecovery := r.EndOfRecovery()
	p, isRestorePoint := r.RestorePoint()
	if len(p.Name) >= restorePointName {
		t.Errorf("a restore point has a name of %d bytes", len(p.Name))
	}
	for _, is := range []bool{isCommit, isAbort, isCheckpoint, isEndOfRecovery, isRestorePoint} {
		if is {
			n++
		}
	}
	return n
}
