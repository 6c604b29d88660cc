package pgdata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// IncrementalPrefix begins the name of a file that stands for what changed of the file
// whose name follows.
//
// Source: INCREMENTAL_PREFIX in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
const IncrementalPrefix = "INCREMENTAL."

// incrementalMagic begins an incremental file.
//
// Source: INCREMENTAL_MAGIC in src/include/backup/basebackup_incremental.h, PostgreSQL 18.
const incrementalMagic = 0xd3ae1f0d

// Incremental is the header of an incremental file. The pages follow it, one for each
// block, in the order of Blocks.
//
// Source: sendFile in src/backend/backup/basebackup.c, PostgreSQL 18.
type Incremental struct {
	// Truncation is how many blocks of the file before are still its own: what lies
	// behind was cut off at some time since, and is only what the blocks here say.
	Truncation uint32
	Blocks     []uint32 // within the segment, ascending
}

// Length returns how many blocks the file has once it is whole again.
//
// Source: find_reconstructed_block_length in src/bin/pg_combinebackup/reconstruct.c, PostgreSQL 18.
func (i Incremental) Length() uint32 {
	if n := len(i.Blocks); n > 0 {
		return max(i.Truncation, i.Blocks[n-1]+1)
	}
	return i.Truncation
}

// HeaderSize returns where the first page lies, in bytes: pages are aligned in the file.
func (i Incremental) HeaderSize() int64 {
	if len(i.Blocks) == 0 {
		return incrementalFixed
	}
	size := incrementalFixed + 4*int64(len(i.Blocks))
	return (size + PageSize - 1) / PageSize * PageSize
}

// Size returns how many bytes the incremental file has.
func (i Incremental) Size() int64 { return i.HeaderSize() + PageSize*int64(len(i.Blocks)) }

// AppendTo appends the header as it is in the file, HeaderSize bytes.
//
// Source: sendFile in src/backend/backup/basebackup.c, PostgreSQL 18.
func (i Incremental) AppendTo(dst []byte) []byte {
	begin := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, incrementalMagic)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(i.Blocks)))
	dst = binary.LittleEndian.AppendUint32(dst, i.Truncation)
	for _, b := range i.Blocks {
		dst = binary.LittleEndian.AppendUint32(dst, b)
	}
	return append(dst, make([]byte, i.HeaderSize()-int64(len(dst)-begin))...)
}

// incrementalFixed is the size of the header without blocks: three numbers of four bytes.
const incrementalFixed = 12

// MaxIncrementalHeader is how many bytes a header has at most.
const MaxIncrementalHeader = (incrementalFixed + 4*SegmentPages + PageSize - 1) / PageSize * PageSize

// ReadIncremental reads the header of an incremental file of size bytes, of which name is
// what errors call it.
//
// Source: make_incremental_rfile in src/bin/pg_combinebackup/reconstruct.c, PostgreSQL 18,
// which does not look at the order of the blocks nor at the size.
func ReadIncremental(r io.ReaderAt, size int64, name string) (Incremental, error) {
	var fixed [incrementalFixed]byte
	if err := readFull(r, fixed[:], 0, name); err != nil {
		return Incremental{}, err
	}
	magic := binary.LittleEndian.Uint32(fixed[:])
	count := binary.LittleEndian.Uint32(fixed[4:])
	header := Incremental{Truncation: binary.LittleEndian.Uint32(fixed[8:])}
	switch {
	case magic != incrementalMagic:
		return header, fmt.Errorf("file \"%s\" has bad incremental magic number (0x%x, expected 0x%x)", name, magic, uint32(incrementalMagic))
	case count > SegmentPages:
		return header, fmt.Errorf("file \"%s\" has block count %d in excess of segment size %d", name, count, SegmentPages)
	case header.Truncation > SegmentPages:
		return header, fmt.Errorf("file \"%s\" has truncation block length %d in excess of segment size %d", name, header.Truncation, SegmentPages)
	}
	numbers := make([]byte, 4*count)
	if err := readFull(r, numbers, incrementalFixed, name); err != nil {
		return header, err
	}
	header.Blocks = make([]uint32, count)
	for i := range header.Blocks {
		block := binary.LittleEndian.Uint32(numbers[4*i:])
		switch {
		case block >= SegmentPages:
			return header, fmt.Errorf("file \"%s\" has block number %d in excess of segment size %d", name, block, SegmentPages)
		case i > 0 && block <= header.Blocks[i-1]:
			return header, fmt.Errorf("file \"%s\" has block number %d after %d", name, block, header.Blocks[i-1])
		}
		header.Blocks[i] = block
	}
	if want := header.Size(); size != want {
		return header, fmt.Errorf("file \"%s\" has %d bytes, but %d blocks and their header have %d", name, size, count, want)
	}
	return header, nil
}

func readFull(r io.ReaderAt, p []byte, off int64, name string) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, io.EOF):
		return fmt.Errorf("could not read file \"%s\": read %d of %d", name, n, len(p))
	}
	return err
}

// CutIncremental returns the path of the file that the file at path stands for, if that
// is an incremental one. There are none but in the directories of relations: elsewhere it
// is a user's file that happens to be called so.
//
// Source: process_directory_recursively in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func CutIncremental(path string) (whole string, isIncremental bool) {
	dir, name := cutLast(path)
	rest, ok := strings.CutPrefix(name, IncrementalPrefix)
	if !ok || dir != "global" && !strings.HasPrefix(dir, "base/") && !strings.HasPrefix(dir, "pg_tblspc/") {
		return path, false
	}
	return dir + "/" + rest, true
}

// IncrementalPath returns the path of the incremental file that stands for a file.
func IncrementalPath(path string) string {
	dir, name := cutLast(path)
	return dir + "/" + IncrementalPrefix + name
}

// cutLast cuts a path before its last element.
func cutLast(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}
