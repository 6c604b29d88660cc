// Package seal knows how a stream of bytes is made smaller and brought back: the
// compression methods of PostgreSQL's backup programs, gzip, lz4 and zstd, and
// the way a user asks for one of them.
//
// What it writes, the C tools and PostgreSQL's own programs read, and the other
// way round; the bytes are not those that zlib, liblz4 or libzstd would write.
// Blocks of a stream are compressed side by side, in memory that does not grow
// with the number of processors.
//
// It does not know what the bytes are: tar, and names of files but for their
// suffix, are the business of others. It opens no file.
package seal

import (
	"fmt"
	"strings"
)

// Algorithm is a compression method. The zero value is None.
//
// Source: pg_compress_algorithm in src/include/common/compression.h, PostgreSQL 18.
type Algorithm int

// The methods PostgreSQL knows.
const (
	None Algorithm = iota
	Gzip
	LZ4
	Zstd
)

// String returns PostgreSQL's name of a: none, gzip, lz4 or zstd.
//
// Source: get_compress_algorithm_name in src/common/compression.c, PostgreSQL 18.
func (a Algorithm) String() string {
	switch a {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("algorithm %d", int(a))
}

// ParseAlgorithm returns the method of that name, which is compared exactly. The
// error is PostgreSQL's.
//
// Source: parse_compress_algorithm in src/common/compression.c, PostgreSQL 18.
func ParseAlgorithm(name string) (Algorithm, error) {
	for a := None; a <= Zstd; a++ {
		if name == a.String() {
			return a, nil
		}
	}
	return None, fmt.Errorf("unrecognized compression algorithm: \"%s\"", name)
}

// Suffix returns what PostgreSQL appends to the name of a file compressed with
// a: ".gz", ".lz4", ".zst", and nothing for None.
func Suffix(a Algorithm) string {
	switch a {
	case Gzip:
		return ".gz"
	case LZ4:
		return ".lz4"
	case Zstd:
		return ".zst"
	}
	return ""
}

// BySuffix returns the method a file of that name is compressed with, and None
// for a name with no suffix of a method.
func BySuffix(name string) Algorithm {
	for a := Gzip; a <= Zstd; a++ {
		if strings.HasSuffix(name, Suffix(a)) {
			return a
		}
	}
	return None
}
