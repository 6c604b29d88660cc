// Package pgdata knows what files of a data directory say: the control file, and the
// pages of relations.
//
// It opens no file.
package pgdata

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
)

// ControlPath is where the control file is, below the data directory.
const ControlPath = "global/pg_control"

// ControlSize is how long it is, in bytes.
//
// Source: PG_CONTROL_FILE_SIZE in src/include/catalog/pg_control.h, PostgreSQL 10 to 18.
const ControlSize = 8192

// Control is what a control file says.
type Control struct {
	SystemID uint64 // of the cluster
	Version  uint32 // of the file's form

	// PageSize and SegmentPages are what the server was built with; zero if it is not
	// found.
	PageSize, SegmentPages uint32
	LogSegment             uint32 // how long a segment of the log is, in bytes; zero if it is not found
	DataChecksums          bool   // its pages have checksums

	// Nonce is what the cluster makes up salts from for those who are no users: as many
	// bytes, which never change and nobody else knows.
	Nonce [nonceSize]byte
}

// What a control file may be wrong about.
var (
	ErrControlChecksum = errors.New("CRC is incorrect")
	ErrControlVersion  = errors.New("unexpected control file version")
)

// controlVersions are the forms of the file, PG_CONTROL_VERSION of PostgreSQL 10, 11,
// 12, 13 to 16, 17, and 18.
var controlVersions = [...]uint32{1002, 1100, 1201, 1300, 1700, 1800}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// controlUsed bounds, in bytes, what of the file is used: it is to fit into one sector.
//
// Source: PG_CONTROL_MAX_SAFE_SIZE in src/include/catalog/pg_control.h, PostgreSQL 18.
const controlUsed = 512

// ParseControl reads a control file, of which at least the first 512 bytes are given.
//
// Source: get_controlfile in src/common/controldata_utils.c, PostgreSQL 18.
func ParseControl(content []byte) (Control, error) {
	if len(content) < controlUsed {
		return Control{}, ErrControlChecksum
	}
	end := findChecksum(content[:controlUsed])
	if end < 0 {
		return Control{}, ErrControlChecksum
	}
	c := Control{SystemID: binary.LittleEndian.Uint64(content), Version: binary.LittleEndian.Uint32(content[8:])}
	c.readSizes(content[:end])
	// data_checksum_version is before the nonce, which is before the checksum. From 18 on
	// default_char_signedness is between them.
	at := end - nonceSize - 4
	nonce := at + 4
	if c.Version >= 1800 {
		at -= 4
		nonce = at + 4 + 1 // a byte before it, and three behind
	}
	copy(c.Nonce[:], content[max(nonce, 0):])
	c.DataChecksums = at > 0 && binary.LittleEndian.Uint32(content[at:]) != 0
	for _, known := range controlVersions {
		if c.Version == known {
			return c, nil
		}
	}
	return c, ErrControlVersion
}

// nonceSize is of mock_authentication_nonce, in bytes: MOCK_AUTH_NONCE_LEN.
const nonceSize = 32

// floatFormat is a number that the file has to tell how the machine writes such: what
// follows it are the sizes that the server was built with.
//
// Source: FLOATFORMAT_VALUE in src/include/catalog/pg_control.h, PostgreSQL 10 to 18.
var floatFormat = binary.LittleEndian.AppendUint64(nil, math.Float64bits(1234567.0))

func (c *Control) readSizes(p []byte) {
	if at := bytes.Index(p, floatFormat); at > 0 && at+16 <= len(p) {
		c.PageSize = binary.LittleEndian.Uint32(p[at+8:])
		c.SegmentPages = binary.LittleEndian.Uint32(p[at+12:])
		if at+24 <= len(p) {
			c.LogSegment = binary.LittleEndian.Uint32(p[at+20:]) // behind the size of the log's pages
		}
	}
}

// findChecksum returns where the checksum of all before it is, less than zero if there is
// none: it is the last number that is not zero. Where that is differs from version to
// version.
func findChecksum(p []byte) int {
	last := len(p) - 4
	for last > 12 && binary.LittleEndian.Uint32(p[last:]) == 0 {
		last -= 4
	}
	// A checksum may end in zeros, but not all of it can be.
	for at := last; at > 12 && at > last-8; at -= 4 {
		if crc32.Checksum(p[:at], castagnoli) == binary.LittleEndian.Uint32(p[at:]) {
			return at
		}
	}
	return -1
}
