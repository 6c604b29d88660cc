package pgdata

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"basin/internal/wal"
)

// SummaryFile is a file of pg_wal/summaries: which blocks a range of the log changes.
type SummaryFile struct {
	Timeline   wal.Timeline
	Start, End wal.LSN
}

// ParseSummaryName returns what a file of pg_wal/summaries is about.
//
// Source: IsWalSummaryFilename in src/backend/backup/walsummary.c, PostgreSQL 18.
func ParseSummaryName(name string) (f SummaryFile, ok bool) {
	digits, ok := strings.CutSuffix(name, ".summary")
	if !ok || len(digits) != 40 || strings.Trim(digits, "0123456789ABCDEF") != "" {
		return f, false
	}
	part := func(from, to int) uint64 {
		n, _ := strconv.ParseUint(digits[from:to], 16, 64) // as many digits always fit
		return n
	}
	return SummaryFile{wal.Timeline(part(0, 8)), wal.LSN(part(8, 24)), wal.LSN(part(24, 40))}, true
}

// Name returns the name of the file.
func (f SummaryFile) Name() string {
	return fmt.Sprintf("%08X%016X%016X.summary", uint32(f.Timeline), uint64(f.Start), uint64(f.End))
}

// summaryMagic begins a WAL summary.
//
// Source: BLOCKREFTABLE_MAGIC in src/include/common/blkreftable.h, PostgreSQL 18.
const summaryMagic = 0x652b137b

// ReadSummary adds what a WAL summary says to c, which is of no use after an error. name is
// what errors call the file.
//
// Source: BlockRefTableReaderNextRelation in src/common/blkreftable.c, PostgreSQL 18.
func (c *BlockChanges) ReadSummary(r io.Reader, name string) error {
	in := &summaryReader{r: bufio.NewReaderSize(r, 64<<10)}
	switch magic := in.uint32(); {
	case in.err != nil:
		return in.fail(name)
	case magic != summaryMagic:
		return fmt.Errorf("file \"%s\" has wrong magic number: expected %d, found %d", name, uint32(summaryMagic), magic)
	}
	for {
		relation := RelationFork{Tablespace: in.uint32(), Database: in.uint32(), Relation: in.uint32(), Fork: Fork(in.uint32())}
		limit, chunks := in.uint32(), in.uint32()
		switch {
		case in.err != nil:
			return in.fail(name)
		case relation == RelationFork{} && limit == 0 && chunks == 0:
			return in.end(name)
		case relation.Fork > InitFork:
			return fmt.Errorf("file \"%s\" has an invalid fork number %d", name, relation.Fork)
		case chunks > chunkBlocks: // which are all blocks that have a number
			return fmt.Errorf("file \"%s\" has %d chunks of blocks of one relation", name, chunks)
		}
		c.SetLimit(relation, limit)
		if err := in.chunks(chunks, func(b uint32) { c.Mark(relation, b) }); err != nil {
			return fmt.Errorf("file \"%s\" %w", name, err)
		}
		if in.err != nil {
			return in.fail(name)
		}
	}
}

// summaryReader reads a file and computes its checksum.
type summaryReader struct {
	r   *bufio.Reader
	sum uint32
	err error
	buf [2 * chunkEntries]byte
}

// read returns the next bytes, at most as many as the buffer has, or zeros after an error.
func (s *summaryReader) read(n int) []byte {
	p := s.buf[:n]
	if s.err == nil {
		_, s.err = io.ReadFull(s.r, p)
	}
	if s.err != nil {
		clear(p)
		return p
	}
	s.sum = crc32.Update(s.sum, castagnoli, p)
	return p
}

func (s *summaryReader) uint32() uint32 { return binary.LittleEndian.Uint32(s.read(4)) }

// chunks reads the blocks of one relation.
func (s *summaryReader) chunks(n uint32, mark func(block uint32)) error {
	var sizes []uint16
	for left := n; left > 0 && s.err == nil; {
		part := min(left, chunkEntries)
		p := s.read(2 * int(part))
		for i := range int(part) {
			sizes = append(sizes, binary.LittleEndian.Uint16(p[2*i:]))
		}
		left -= part
	}
	for i, size := range sizes {
		if size > chunkEntries {
			return fmt.Errorf("has a chunk of %d entries", size)
		}
		p := s.read(2 * int(size))
		if s.err != nil {
			return nil // is told by the caller
		}
		first := uint32(i) * chunkBlocks
		for e := range int(size) {
			entry := binary.LittleEndian.Uint16(p[2*e:])
			if size < chunkEntries {
				mark(first + uint32(entry))
				continue
			}
			for bit := range 16 {
				if entry&(1<<bit) != 0 {
					mark(first + uint32(16*e+bit))
				}
			}
		}
	}
	return nil
}

// end compares the checksum, which is the last thing in the file.
func (s *summaryReader) end(name string) error {
	want := s.sum
	got := s.uint32()
	if s.err != nil {
		return s.fail(name)
	}
	if got != want {
		return fmt.Errorf("file \"%s\" has wrong checksum: expected %08X, found %08X", name, want, got)
	}
	if _, err := s.r.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("file \"%s\" goes on after its end", name)
	}
	return nil
}

func (s *summaryReader) fail(name string) error {
	if errors.Is(s.err, io.EOF) || errors.Is(s.err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("file \"%s\" ends unexpectedly", name)
	}
	return fmt.Errorf("could not read file \"%s\": %w", name, s.err)
}
