package wal

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
)

// forge makes a log as a server would. Its zero value is not useful: see newForge.
type forge struct {
	major       int
	magic       uint16
	order       byteOrder
	system      uint64
	segmentSize int64
	pageSize    int
	timeline    Timeline
	start       LSN
	prev        LSN
	log         []byte
	flags       uint16 // more of them, for the next page
	ends        []LSN  // of each record
	buffer      []byte // for those who read it
}

// newForge returns an empty log of timeline 1 of a cluster of version 18, in
// segments of one MiB, whose system identifier is 42.
func newForge(start LSN) *forge {
	return &forge{
		major: 18, magic: magicOf(18), system: 42, segmentSize: MinSegmentSize, pageSize: defaultPageSize,
		timeline: 1, start: start,
	}
}

func (f *forge) rules() PageRules {
	return PageRules{SystemID: f.system, SegmentSize: f.segmentSize, Major: f.major, Timeline: f.timeline}
}

func (f *forge) at() LSN { return f.start + LSN(len(f.log)) }

func (f *forge) appendOrder() binary.AppendByteOrder {
	if f.order == bigEndian {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// page begins a page, with that many bytes left of a record.
func (f *forge) page(remaining int) {
	o, at := f.appendOrder(), f.at()
	info := f.flags
	f.flags = 0
	if remaining > 0 {
		info |= pageContinues
	}
	isFirst := uint64(at)%uint64(f.segmentSize) == 0
	if isFirst {
		info |= pageIsFirst
	}
	f.log = o.AppendUint16(f.log, f.magic)
	f.log = o.AppendUint16(f.log, info)
	f.log = o.AppendUint32(f.log, uint32(f.timeline))
	f.log = o.AppendUint64(f.log, uint64(at))
	f.log = o.AppendUint32(f.log, uint32(remaining))
	f.log = append(f.log, 0, 0, 0, 0)
	if isFirst {
		f.log = o.AppendUint64(f.log, f.system)
		f.log = o.AppendUint32(f.log, uint32(f.segmentSize))
		f.log = o.AppendUint32(f.log, uint32(f.pageSize))
	}
}

// left returns how many bytes the page has from here on.
func (f *forge) left() int { return int(-f.at() & LSN(f.pageSize-1)) }

// begin enters the page that a record or anything else begins on.
func (f *forge) begin() {
	if f.left() == 0 {
		f.page(0)
	}
}

// record adds a record, and returns where it begins.
func (f *forge) record(manager, info uint8, xid uint32, data []byte) LSN {
	f.begin()
	o, at := f.appendOrder(), f.at()
	p := o.AppendUint32(nil, uint32(recordHeaderSize+len(data)))
	p = o.AppendUint32(p, xid)
	p = o.AppendUint64(p, uint64(f.prev))
	p = append(p, info, manager, 0, 0)
	sum := crc32.Update(crc32.Checksum(data, castagnoli), castagnoli, p)
	f.write(append(o.AppendUint32(p, sum), data...))
	f.prev = at
	f.ends = append(f.ends, f.at())
	return at
}

// write adds the bytes of a record, over as many pages as they need, and aligns.
func (f *forge) write(p []byte) {
	for len(p) > 0 {
		if f.left() == 0 {
			f.page(len(p))
		}
		n := min(f.left(), len(p))
		f.log = append(f.log, p[:n]...)
		p = p[n:]
	}
	f.log = append(f.log, make([]byte, -len(f.log)&(recordAlignment-1))...)
}

// fill adds records of many lengths up to a position, as exactly as they can.
func (f *forge) fill(to LSN, longest int) {
	random := rand.New(rand.NewPCG(1, uint64(longest)))
	for data := make([]byte, longest); f.at() < to; {
		for i := range data[:min(len(data), 8)] {
			data[i] = byte(random.Uint32())
		}
		f.record(10, 0, random.Uint32(), data[:random.IntN(longest)])
	}
}

// pad adds a record that ends at a position further on in the page.
func (f *forge) pad(to LSN) {
	f.begin()
	f.record(10, 0, 0, make([]byte, int(to-f.at())-recordHeaderSize))
}

// leave adds a switch to the next segment.
func (f *forge) leave() {
	f.record(xlogManager, xlogSwitch, 0, nil)
	rest := make([]byte, -int64(f.at())&(f.segmentSize-1))
	f.log = append(f.log, rest...)
	f.ends[len(f.ends)-1] = f.at()
}
