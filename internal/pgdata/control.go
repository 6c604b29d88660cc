// Package pgdata knows what files of a data directory say: now the control file.
//
// It opens no file.
package pgdata

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
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
	if len(content) < controlUsed || !hasChecksum(content[:controlUsed]) {
		return Control{}, ErrControlChecksum
	}
	c := Control{SystemID: binary.LittleEndian.Uint64(content), Version: binary.LittleEndian.Uint32(content[8:])}
	for _, known := range controlVersions {
		if c.Version == known {
			return c, nil
		}
	}
	return c, ErrControlVersion
}

// hasChecksum says whether the last number that is not zero is the checksum of all
// before it. Where it is differs from version to version, and even with how the server
// was built.
func hasChecksum(p []byte) bool {
	last := len(p) - 4
	for last > 12 && binary.LittleEndian.Uint32(p[last:]) == 0 {
		last -= 4
	}
	// A checksum may end in zeros, but not all of it can be.
	for at := last; at > 12 && at > last-8; at -= 4 {
		if crc32.Checksum(p[:at], castagnoli) == binary.LittleEndian.Uint32(p[at:]) {
			return true
		}
	}
	return false
}
