package seal

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

// Location says which side compresses.
//
// Source: CompressionLocation in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
type Location int

// The sides a user may ask for. Without a word the client compresses, unless
// the backup goes to a target on the server.
const (
	Unspecified Location = iota
	Client
	Server
)

// Request is what a user asked for, not yet checked: what is located on the
// server is passed on as it came, for the server to judge.
type Request struct {
	Location  Location
	Algorithm string // may be no method at all
	Detail    string
	HasDetail bool // an empty detail is an error, none at all is not
}

// ParseRequest cuts an argument of pg_basebackup's --compress,
// [client-|server-]METHOD[:DETAIL] or an integer. It never fails: what the
// pieces mean is for Spec to say, or for a server.
//
// Source: backup_parse_compress_options in src/bin/pg_basebackup/pg_basebackup.c
// and parse_compress_options in src/common/compression.c, PostgreSQL 18.
func ParseRequest(option string) Request {
	if rest, ok := strings.CutPrefix(option, "server-"); ok {
		return parseMethod(Server, rest)
	}
	if rest, ok := strings.CutPrefix(option, "client-"); ok {
		return parseMethod(Client, rest)
	}
	return parseMethod(Unspecified, option)
}

// ParseMethod cuts an argument that says how this side compresses,
// METHOD[:DETAIL] or an integer, as ParseRequest does.
func ParseMethod(option string) Request { return parseMethod(Client, option) }

func parseMethod(at Location, option string) Request {
	// The empty string is zero to strtol, so it is no compression.
	if level, rest := parseLong(option); rest == "" {
		if level == 0 {
			return Request{Location: at, Algorithm: None.String()}
		}
		return Request{Location: at, Algorithm: Gzip.String(), Detail: option, HasDetail: true}
	}
	algorithm, detail, ok := strings.Cut(option, ":")
	return Request{Location: at, Algorithm: algorithm, Detail: detail, HasDetail: ok}
}

// Spec says how to compress. The zero value is no compression; one that names
// only an Algorithm is that method at its default level.
//
// Source: pg_compress_specification in src/include/common/compression.h, PostgreSQL 18.
type Spec struct {
	Algorithm  Algorithm
	Level      int  // in the method's own count
	LevelSet   bool // if not, Level is not looked at and the default is meant
	Workers    int  // of zstd: the most blocks compressed at once; less than one is one
	WorkersSet bool
	Long       bool // of zstd: look far back for repetitions
	LongSet    bool
}

// Spec returns what r asks for. Its errors are PostgreSQL's, whole, as client
// and server print them after their own "error: ":
//
//	unrecognized compression algorithm: "bogus"
//	invalid compression specification: compression option "level" requires a value
//
// The first mistake in the detail is told before a level out of range, that
// before an option the method does not have.
//
// Source: parse_compress_specification and validate_compress_specification in
// src/common/compression.c, PostgreSQL 18.
func (r Request) Spec() (Spec, error) {
	algorithm, err := ParseAlgorithm(r.Algorithm)
	if err != nil {
		return Spec{}, err
	}
	s := Spec{Algorithm: algorithm, Level: defaultLevel(algorithm)}
	if r.HasDetail {
		err = s.parse(r.Detail)
	}
	if err == nil {
		err = s.validate()
	}
	if err != nil {
		return Spec{}, fmt.Errorf("invalid compression specification: %w", err)
	}
	return s, nil
}

func (s *Spec) parse(detail string) error {
	if level, rest := parseLong(detail); detail != "" && rest == "" {
		s.Level, s.LevelSet = level, true
		return nil
	}
	for item := range strings.SplitSeq(detail, ",") {
		keyword, value, hasValue := strings.Cut(item, "=")
		var err error
		switch keyword {
		case "":
			err = errors.New("found empty string where a compression option was expected")
		case "level":
			s.LevelSet = true
			s.Level, err = parseInteger(keyword, value, hasValue)
		case "workers":
			s.WorkersSet = true
			s.Workers, err = parseInteger(keyword, value, hasValue)
		case "long":
			s.LongSet, s.Long = true, true
			if hasValue {
				s.Long, err = parseBoolean(keyword, value)
			}
		default:
			err = fmt.Errorf("unrecognized compression option: \"%s\"", keyword)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Spec) validate() error {
	lowest, highest := levels(s.Algorithm)
	switch {
	case s.Algorithm == None && s.Level != 0:
		return fmt.Errorf("compression algorithm \"%s\" does not accept a compression level", s.Algorithm)
	case (s.Level < lowest || s.Level > highest) && s.Level != defaultLevel(s.Algorithm):
		return fmt.Errorf("compression algorithm \"%s\" expects a compression level between %d and %d (default at %d)",
			s.Algorithm, lowest, highest, defaultLevel(s.Algorithm))
	case s.WorkersSet && s.Algorithm != Zstd:
		return fmt.Errorf("compression algorithm \"%s\" does not accept a worker count", s.Algorithm)
	case s.LongSet && s.Algorithm != Zstd:
		return fmt.Errorf("compression algorithm \"%s\" does not support long-distance mode", s.Algorithm)
	}
	return nil
}

// levels returns the range of a's levels; the default may lie outside.
func levels(a Algorithm) (lowest, highest int) {
	switch a {
	case Gzip:
		return 1, 9
	case LZ4:
		return 1, 12
	case Zstd:
		return -1 << 17, 22 // ZSTD_minCLevel(), ZSTD_maxCLevel()
	}
	return 0, 0
}

func defaultLevel(a Algorithm) int {
	switch a {
	case Gzip:
		return -1 // Z_DEFAULT_COMPRESSION
	case Zstd:
		return 3 // ZSTD_CLEVEL_DEFAULT
	}
	return 0
}

func parseInteger(keyword, value string, hasValue bool) (int, error) {
	if !hasValue {
		return 0, fmt.Errorf("compression option \"%s\" requires a value", keyword)
	}
	n, rest := parseLong(value)
	if value == "" || rest != "" {
		return 0, fmt.Errorf("value for compression option \"%s\" must be an integer", keyword)
	}
	return n, nil
}

func parseBoolean(keyword, value string) (bool, error) {
	switch strings.ToLower(value) { // no letter beyond ASCII has one of these for its lower case
	case "yes", "on", "1":
		return true, nil
	case "no", "off", "0":
		return false, nil
	}
	return false, fmt.Errorf("value for compression option \"%s\" must be a Boolean value", keyword)
}

// parseLong reads a decimal integer as PostgreSQL does: with strtol, which skips
// leading white space, takes a sign and stops at the range of a C long, and then
// into an int, which keeps the low 32 bits. rest is what follows, and all of s
// if there is no digit.
func parseLong(s string) (n int, rest string) {
	digits := strings.TrimLeft(s, " \t\n\v\f\r")
	negative := strings.HasPrefix(digits, "-")
	if negative || strings.HasPrefix(digits, "+") {
		digits = digits[1:]
	}
	limit := uint64(math.MaxInt64)
	if negative {
		limit++
	}
	magnitude, i := uint64(0), 0
	for ; i < len(digits) && '0' <= digits[i] && digits[i] <= '9'; i++ {
		if magnitude <= limit/10 {
			magnitude = min(magnitude*10+uint64(digits[i]-'0'), limit)
		} else {
			magnitude = limit
		}
	}
	if i == 0 {
		return 0, s
	}
	if negative {
		magnitude = -magnitude
	}
	return int(int32(magnitude)), digits[i:]
}
