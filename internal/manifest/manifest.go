// Package manifest knows backup_manifest: what it says of a backup, and how it is
// read so that it can be believed.
//
// It reads what any server from 13 on and pg_combinebackup write, as a stream, with
// the original's complaints. It knows neither where a manifest is kept nor the files
// that it names.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"strings"

	"basin/internal/wal"
)

// Name is what the file is called.
const Name = "backup_manifest"

// DefaultIgnore returns what is not compared with a manifest, with what is below it: what
// no manifest has, and what is made or changed after the backup, as with -R.
//
// Source: main in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func DefaultIgnore() []string {
	return []string{Name, "pg_wal", "postgresql.auto.conf", "recovery.signal", "standby.signal"}
}

// Ignores says whether a path is one of those that are ignored, or below one.
func Ignores(ignored []string, path string) bool {
	for _, i := range ignored {
		if rest, ok := strings.CutPrefix(path, i); ok && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// Algorithm is how the checksum of a file is computed.
//
// Source: pg_checksum_type in src/include/common/checksum_helper.h, PostgreSQL 18.
type Algorithm uint8

// The algorithms.
const (
	NoChecksum Algorithm = iota
	CRC32C
	SHA224
	SHA256
	SHA384
	SHA512
)

var algorithms = [...]string{"NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"}

// String returns the name that manifests have for it.
func (a Algorithm) String() string { return algorithms[a] }

// ParseAlgorithm returns the algorithm of a name, in any case.
func ParseAlgorithm(name string) (Algorithm, error) {
	for a, known := range algorithms {
		if strings.EqualFold(known, name) {
			return Algorithm(a), nil
		}
	}
	return 0, fmt.Errorf("unrecognized checksum algorithm: \"%s\"", name)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// New returns what computes a checksum, nil for none. Its sum is what manifests hold:
// of CRC-32C the bytes that a little-endian machine keeps it in.
func (a Algorithm) New() hash.Hash {
	switch a {
	case CRC32C:
		return &crc{Hash32: crc32.New(castagnoli)}
	case SHA224:
		return sha256.New224()
	case SHA256:
		return sha256.New()
	case SHA384:
		return sha512.New384()
	case SHA512:
		return sha512.New()
	}
	return nil
}

// crc is CRC-32C in the order of manifests.
type crc struct{ hash.Hash32 }

func (c *crc) Sum(b []byte) []byte {
	sum := c.Sum32()
	return append(b, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
}

// File is what a manifest says of one file.
type File struct {
	Path      string // below the data directory, as it was given; a tablespace's begins with pg_tblspc/OID/
	Size      int64  // in bytes
	Algorithm Algorithm
	Checksum  []byte // as long as it was given; may be nil
}

// Range is log that is needed to restore a backup: of one timeline, from a start up to
// an end.
type Range struct {
	Timeline   wal.Timeline
	Start, End wal.LSN
}

// Manifest is what a manifest says of the whole.
type Manifest struct {
	Version  int    // 1, or 2 with servers from 17 on
	SystemID uint64 // of the cluster; zero if it is not told, as in version 1
	Ranges   []Range
}

// parseError is a complaint about what a manifest is made of.
func parseError(format string, args ...any) error {
	return fmt.Errorf("could not parse backup manifest: "+format, args...)
}

// sumOfManifest gathers the checksum of a manifest, which is of all its lines but the last.
type sumOfManifest struct {
	hash    hash.Hash
	pending []byte // the last line that is complete, and what follows it
	lines   int
}

// maxLastLine bounds, in bytes, what is kept of a manifest to find its last line.
const maxLastLine = 1 << 20

var errLongLine = parseError("a line is longer than %d bytes", maxLastLine)

func (s *sumOfManifest) Write(p []byte) (int, error) {
	s.lines += bytes.Count(p, []byte("\n"))
	s.pending = append(s.pending, p...)
	end := bytes.LastIndexByte(s.pending, '\n')
	if end < 0 {
		end = 0
	}
	if before := bytes.LastIndexByte(s.pending[:end], '\n'); before >= 0 {
		s.hash.Write(s.pending[:before+1])
		s.pending = append(s.pending[:0], s.pending[before+1:]...)
	}
	if len(s.pending) > maxLastLine {
		return 0, errLongLine
	}
	return len(p), nil
}

// check compares the checksum with the one that the manifest has of itself.
//
// Source: verify_manifest_checksum in src/common/parse_manifest.c, PostgreSQL 18.
func (s *sumOfManifest) check(given string, isGiven bool) error {
	switch {
	case s.lines < 2:
		return parseError("expected at least 2 lines")
	case s.pending[len(s.pending)-1] != '\n':
		return parseError("last line not newline-terminated")
	case !isGiven:
		return errors.New("manifest has no checksum")
	}
	sum, err := hex.DecodeString(given)
	if err != nil || len(sum) != sha256.Size {
		return fmt.Errorf("invalid manifest checksum: \"%s\"", given)
	}
	if string(s.hash.Sum(nil)) != string(sum) {
		return errors.New("manifest checksum mismatch")
	}
	return nil
}
