package main

import (
	"errors"
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
	"time"

	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/seal"
)

// baseBackupOptions is what pg_basebackup's command line asks for. It comes from
// parseBaseBackup, which has checked that its parts go together.
type baseBackupOptions struct {
	// Where the backup goes. One of Directory and Target is set.
	Directory         string // a dash in tar format is the standard output
	Target            string // TARGET or TARGET:DETAIL, a place the server writes to
	Format            backupFormat
	TablespaceMapping []tablespaceMapping // canonical, in the order given; the first that fits counts
	WALDirectory      string              // canonical and absolute; empty for a pg_wal within the backup
	Compression       compression

	// What is in it.
	WALMethod           walMethod
	CompressWAL         bool   // pg_wal.tar is compressed as the others are, whatever the method
	Incremental         string // path of the manifest of the backup before; empty for a full backup
	WriteRecoveryConf   bool
	NoManifest          bool
	ManifestForceEncode bool
	ManifestChecksums   string // algorithm; empty for the server's default

	// How it is taken.
	Label             string
	FastCheckpoint    bool
	SourceDirectory   string // the server's data directory, which is read here; empty: the server sends it
	MaxRate           int    // kB/s; zero is no limit
	Slot              string // a permanent slot; empty for a temporary one, unless NoSlot
	CreateSlot        bool
	NoSlot            bool
	NoVerifyChecksums bool
	NoEstimateSize    bool
	StatusInterval    time.Duration // between messages to the server; zero is never

	// What is done with it.
	NoClean    bool
	NoSync     bool
	SyncMethod localfs.SyncMethod
	Progress   bool
	Verbose    bool

	connectionOptions

	given map[string]bool // options whose value can be given and yet be empty, by long name
}

// backupFormat is the form of a backup on disk.
type backupFormat uint8

const (
	formatPlain backupFormat = iota // a data directory
	formatTar                       // tar files
)

// set reads the value of --format.
func (f *backupFormat) set(value string) error {
	switch value {
	case "p", "plain":
		*f = formatPlain
	case "t", "tar":
		*f = formatTar
	default:
		return fmt.Errorf("invalid output format \"%s\", must be \"plain\" or \"tar\"", value)
	}
	return nil
}

// walMethod is how the log that a backup needs gets into it.
type walMethod uint8

const (
	walStream walMethod = iota // over a second connection, while the backup runs
	walFetch                   // by the server, at the end of the backup
	walNone                    // not at all
)

// passwordPrompt says when a password is asked for.
type passwordPrompt uint8

const (
	promptIfNeeded passwordPrompt = iota
	promptNever
	promptAlways
)

// tablespaceMapping says that the tablespace at Old on the server is put at New.
type tablespaceMapping struct {
	Old, New string
}

// compression is what -Z asks for, with the location decided.
type compression struct {
	seal.Request           // in the user's words, which is all that a server needs
	Client       seal.Spec // understood, if the client compresses; else none
}

// baseBackupTable returns the options of pg_basebackup, which write to o.
//
// Source: long_options in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
// The order is kept because the complaint about an ambiguous option lists it.
func baseBackupTable(o *baseBackupOptions, c call) []getopt.Option {
	help := func() error { return c.usage("") } // but for a hint, silent: help is to come first
	set := flagOption
	text := func(long string, short byte, field *string) getopt.Option {
		return textOption(long, short, field, o.given)
	}
	return []getopt.Option{
		{Long: "help", Flag: help},
		{Long: "version", Flag: help},
		text("pgdata", 'D', &o.Directory),
		{Long: "format", Short: 'F', Value: o.setFormat},
		text("incremental", 'i', &o.Incremental),
		{Long: "checkpoint", Short: 'c', Value: o.setCheckpoint},
		set("create-slot", 'C', &o.CreateSlot),
		{Long: "max-rate", Short: 'r', Value: o.setMaxRate},
		set("write-recovery-conf", 'R', &o.WriteRecoveryConf),
		text("slot", 'S', &o.Slot),
		text("target", 't', &o.Target),
		{Long: "tablespace-mapping", Short: 'T', Value: o.addTablespaceMapping},
		{Long: "wal-method", Short: 'X', Value: o.setWALMethod},
		{Long: "gzip", Short: 'z', Flag: func() error { return o.setCompression("gzip") }},
		{Long: "compress", Short: 'Z', Value: o.setCompression},
		text("label", 'l', &o.Label),
		set("no-clean", 'n', &o.NoClean),
		set("no-sync", 'N', &o.NoSync),
		text("dbname", 'd', &o.ConnectionString),
		text("host", 'h', &o.Host),
		text("port", 'p', &o.Port),
		text("username", 'U', &o.User),
		promptOption("no-password", 'w', &o.Password, promptNever),
		promptOption("password", 'W', &o.Password, promptAlways),
		secondsOption("status-interval", 's', &o.StatusInterval),
		set("verbose", 'v', &o.Verbose),
		set("progress", 'P', &o.Progress),
		text("waldir", 0, &o.WALDirectory),
		set("no-slot", 0, &o.NoSlot),
		set("no-verify-checksums", 0, &o.NoVerifyChecksums),
		set("no-estimate-size", 0, &o.NoEstimateSize),
		set("no-manifest", 0, &o.NoManifest),
		set("manifest-force-encode", 0, &o.ManifestForceEncode),
		text("manifest-checksums", 0, &o.ManifestChecksums),
		{Long: "sync-method", Value: o.setSyncMethod},

		// basin's own: whole names only, so that no abbreviation of the above becomes ambiguous.
		{Long: "source-pgdata", Whole: true, Value: func(value string) error {
			if value == "" {
				return errors.New("data directory name \"\" is too short")
			}
			o.SourceDirectory = localfs.Canonical(value)
			return nil
		}},
		{Long: "compress-wal", Whole: true, Flag: func() error { o.CompressWAL = true; return nil }},
		c.logFormat(),
	}
}

func (o *baseBackupOptions) setFormat(value string) error {
	o.given["format"] = true
	return o.Format.set(value)
}

func (o *baseBackupOptions) setCheckpoint(value string) error {
	switch {
	case equalFoldASCII(value, "fast"):
		o.FastCheckpoint = true
	case equalFoldASCII(value, "spread"):
		o.FastCheckpoint = false
	default:
		return fmt.Errorf("invalid checkpoint argument \"%s\", must be \"fast\" or \"spread\"", value)
	}
	return nil
}

func (o *baseBackupOptions) setWALMethod(value string) error {
	switch value {
	case "n", "none":
		o.WALMethod = walNone
	case "f", "fetch":
		o.WALMethod = walFetch
	case "s", "stream":
		o.WALMethod = walStream
	default:
		return fmt.Errorf("invalid wal-method option \"%s\", must be \"fetch\", \"stream\", or \"none\"", value)
	}
	return nil
}

func (o *baseBackupOptions) setSyncMethod(value string) (err error) {
	o.SyncMethod, err = localfs.ParseSyncMethod(value)
	return err
}

func (o *baseBackupOptions) setCompression(value string) error {
	o.Compression.Request = seal.ParseRequest(value)
	return nil
}

func (o *baseBackupOptions) setMaxRate(value string) (err error) {
	o.MaxRate, err = parseMaxRate(value)
	return err
}

func (o *baseBackupOptions) addTablespaceMapping(value string) error {
	m, err := parseTablespaceMapping(value)
	o.TablespaceMapping = append(o.TablespaceMapping, m)
	return err
}

// The limits of MAX_RATE in kB/s.
//
// Source: MAX_RATE_LOWER and MAX_RATE_UPPER in src/include/backup/basebackup.h, PostgreSQL 18.
const (
	minMaxRate = 32
	maxMaxRate = 1 << 20
)

// parseMaxRate reads a transfer rate in kB/s, or in MB/s with the suffix M, and
// returns it in kB/s, rounded down. Of the numbers that C knows, hexadecimal
// ones and infinities are not taken.
//
// Source: parse_max_rate in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func parseMaxRate(s string) (int, error) {
	number := strings.TrimLeft(s, cSpaces)
	number = number[:len(number)-len(afterDecimal(number))]
	rate, err := strconv.ParseFloat(number, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("invalid transfer rate \"%s\": Numerical result out of range", s)
	case err != nil:
		return 0, fmt.Errorf("transfer rate \"%s\" is not a valid value", s)
	case rate <= 0:
		return 0, errors.New("transfer rate must be greater than zero")
	}
	suffix := strings.TrimLeft(afterDecimal(strings.TrimLeft(s, cSpaces)), cSpaces)
	rest, isMega := strings.CutPrefix(suffix, "M")
	if isMega {
		rate *= 1024
	} else {
		rest = strings.TrimPrefix(suffix, "k")
	}
	switch {
	case strings.Trim(rest, cSpaces) != "":
		return 0, fmt.Errorf("invalid --max-rate unit: \"%s\"", suffix)
	case rate >= math.MaxUint32+1:
		return 0, fmt.Errorf("transfer rate \"%s\" exceeds integer range", s)
	case rate < minMaxRate || rate > maxMaxRate:
		return 0, fmt.Errorf("transfer rate \"%s\" is out of range", s)
	}
	return int(rate), nil
}

// afterDecimal returns what follows the longest decimal number that s begins
// with, as C's strtod leaves it. If there is no number, all of s follows.
func afterDecimal(s string) string {
	digits := func(s string) string { return strings.TrimLeft(s, "0123456789") }
	mantissa := s
	if s != "" && strings.Contains("+-", s[:1]) {
		mantissa = s[1:]
	}
	rest := digits(mantissa)
	if fraction, ok := strings.CutPrefix(rest, "."); ok {
		rest = digits(fraction)
	}
	if strings.Trim(mantissa[:len(mantissa)-len(rest)], ".") == "" {
		return s
	}
	if rest != "" && strings.Contains("eE", rest[:1]) {
		exponent := rest[1:]
		if exponent != "" && strings.Contains("+-", exponent[:1]) {
			exponent = exponent[1:]
		}
		if after := digits(exponent); len(after) < len(exponent) {
			return after
		}
	}
	return rest
}

// parseInt reads a decimal number from least to most. option is how the
// messages name the option it belongs to. No digits at all are zero, as C has it.
//
// Source: option_parse_int in src/fe_utils/option_utils.c, PostgreSQL 18.
func parseInt(s, option string, least, most int) (int, error) {
	number := strings.Trim(s, cSpaces)
	if number == "" {
		number = "0"
	}
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax):
		return 0, fmt.Errorf("invalid value \"%s\" for option %s", s, option)
	case err != nil || n < int64(least) || n > int64(most):
		return 0, fmt.Errorf("%s must be in range %d..%d", option, least, most)
	}
	return int(n), nil
}

// maxPath is the room for a path and the byte that ends it.
const maxPath = 1024 // MAXPGPATH

// String returns what parseTablespaceMapping reads.
func (m tablespaceMapping) String() string {
	escaped := strings.NewReplacer("=", `\=`)
	return escaped.Replace(m.Old) + "=" + escaped.Replace(m.New)
}

// parseTablespaceMapping reads OLDDIR=NEWDIR, where \= stands for an equals sign
// that belongs to a name.
//
// Source: tablespace_list_append in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func parseTablespaceMapping(s string) (tablespaceMapping, error) {
	var part [2]strings.Builder // old, new
	at := 0
	for i := range len(s) {
		switch {
		case part[at].Len() >= maxPath:
			return tablespaceMapping{}, errors.New("directory name too long")
		case s[i] == '\\' && strings.HasPrefix(s[i+1:], "="):
		case s[i] != '=' || i > 0 && s[i-1] == '\\':
			part[at].WriteByte(s[i])
		case part[1].Len() > 0:
			return tablespaceMapping{}, errors.New("multiple \"=\" signs in tablespace mapping")
		default:
			at = 1
		}
	}
	m := tablespaceMapping{Old: part[0].String(), New: part[1].String()}
	switch {
	case m.Old == "" || m.New == "":
		return tablespaceMapping{}, fmt.Errorf("invalid tablespace mapping format \"%s\", must be \"OLDDIR=NEWDIR\"", s)
	case !path.IsAbs(m.Old) && !isWindowsAbsolute(m.Old):
		return tablespaceMapping{}, fmt.Errorf("old directory is not an absolute path in tablespace mapping: %s", m.Old)
	case !path.IsAbs(m.New):
		return tablespaceMapping{}, fmt.Errorf("new directory is not an absolute path in tablespace mapping: %s", m.New)
	}
	return tablespaceMapping{Old: localfs.Canonical(m.Old), New: localfs.Canonical(m.New)}, nil
}

// isWindowsAbsolute says whether a server on Windows may mean an absolute path.
//
// Source: is_windows_absolute_path in src/include/port.h, PostgreSQL 18.
func isWindowsAbsolute(s string) bool {
	isSeparator := func(i int) bool { return len(s) > i && (s[i] == '/' || s[i] == '\\') }
	isLetter := s != "" && (s[0]|0x20) >= 'a' && (s[0]|0x20) <= 'z'
	return isSeparator(0) || isLetter && len(s) > 1 && s[1] == ':' && isSeparator(2)
}

// cSpaces are the bytes C's isspace knows.
const cSpaces = " \t\n\v\f\r"

// equalFoldASCII compares s with a word in lower case as pg_strcasecmp does.
func equalFoldASCII(s, lower string) bool {
	return len(s) == len(lower) && strings.EqualFold(s, lower)
}
