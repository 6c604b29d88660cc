package protocol

import (
	"slices"
	"strconv"
	"strings"
)

// optionKind is what an option's value is.
type optionKind byte

const (
	optionBare optionKind = iota // there is none
	optionText
	optionNumber
)

// option is one option of a command, before it is known what it means.
type option struct {
	name   string
	kind   optionKind
	text   string
	number int32 // negative from 2^31 on, as in the server
}

// str returns the value as a string.
//
// Source: defGetString in src/backend/commands/define.c, PostgreSQL 18.
func (o option) str() (string, error) {
	switch o.kind {
	case optionText:
		return o.text, nil
	case optionNumber:
		return strconv.Itoa(int(o.number)), nil
	}
	return "", optionError(stateSyntax, "%s requires a parameter", o.name)
}

// boolean returns the value as a boolean, which is true if there is none.
//
// Source: defGetBoolean in src/backend/commands/define.c, PostgreSQL 18.
func (o option) boolean() (bool, error) {
	switch o.kind {
	case optionBare:
		return true, nil
	case optionNumber:
		if o.number == 0 || o.number == 1 {
			return o.number == 1, nil
		}
	default:
		switch foldCase(o.text) {
		case "true", "on":
			return true, nil
		case "false", "off":
			return false, nil
		}
	}
	return false, optionError(stateSyntax, "%s requires a Boolean value", o.name)
}

// integer returns the value as a number.
//
// Source: defGetInt64 in src/backend/commands/define.c, PostgreSQL 18.
func (o option) integer() (int, error) {
	if o.kind != optionNumber {
		return 0, optionError(stateSyntax, "%s requires a numeric value", o.name)
	}
	return int(o.number), nil
}

// seen remembers options, to tell of the second one of a name.
type seen []string

// again adds a name and tells whether it was there before.
func (s *seen) again(name string) bool {
	if slices.Contains(*s, name) {
		return true
	}
	*s = append(*s, name)
	return false
}

// backupWords are the options of BASE_BACKUP before 15, and what follows them.
// Whether a version knows a word is in keywords.
var backupWords = map[string]optionKind{
	"FAST":               optionBare,
	"LABEL":              optionText,
	"MANIFEST":           optionText,
	"MANIFEST_CHECKSUMS": optionText,
	"MAX_RATE":           optionNumber,
	"NOVERIFY_CHECKSUMS": optionBare,
	"NOWAIT":             optionBare,
	"PROGRESS":           optionBare,
	"TABLESPACE_MAP":     optionBare,
	"WAL":                optionBare,
}

// Limits of MAX_RATE, in kB/s.
//
// Source: src/include/backup/basebackup.h, PostgreSQL 18.
const (
	minRate = 32
	maxRate = 1048576
)

// defaultLabel is what a backup without a label is called.
const defaultLabel = "base backup"

// backupOptions is a BASE_BACKUP command in the making.
type backupOptions struct {
	BaseBackup
	major int
	seen  seen
	label *string

	target        *string
	hasAlgorithms bool // MANIFEST_CHECKSUMS was there
}

// parseBaseBackup makes the command of its options.
//
// Source: parse_basebackup_options in src/backend/backup/basebackup.c, PostgreSQL 18.
func parseBaseBackup(list []option, major int) (Command, error) {
	b := backupOptions{major: major}
	for _, o := range list {
		if err := b.set(o); err != nil {
			return nil, err
		}
	}
	b.Label = defaultLabel
	if b.label != nil {
		b.Label = *b.label
	}
	if b.Manifest == "" && b.hasAlgorithms {
		return nil, optionError(stateSyntax, "manifest checksums require a backup manifest")
	}
	if err := b.finishTarget(); err != nil {
		return nil, err
	}
	if b.CompressionDetail != nil && b.Compression == "" {
		return nil, optionError(stateSyntax, "compression detail cannot be specified unless compression is enabled")
	}
	return b.BaseBackup, nil
}

// finishTarget checks where the backup is to go, once all options are known.
//
// Source: BaseBackupGetTargetHandle in src/backend/backup/basebackup_target.c, PostgreSQL 18.
func (b *backupOptions) finishTarget() error {
	if b.target == nil {
		if b.TargetDetail != nil {
			return optionError(stateSyntax, "target detail cannot be used without target")
		}
		return nil
	}
	target := *b.target
	switch {
	case target != "client" && target != "blackhole" && target != "server":
		return optionError(stateFeatureUnsupported, `unrecognized target: "%s"`, target)
	case target == "server" && b.TargetDetail == nil:
		return optionError(stateSyntax, `target "%s" requires a target detail`, target)
	case target != "server" && b.TargetDetail != nil:
		return optionError(stateSyntax, `target "%s" does not accept a target detail`, target)
	}
	if target != "client" {
		b.Target = target
		b.TablespaceMap = true
	}
	return nil
}

// set takes over one option. Whether a second one of its name or its value is
// complained of first differs from option to option, as in the server.
func (b *backupOptions) set(o option) (err error) {
	var text string
	switch o.name {
	case "checkpoint", "manifest", "manifest_checksums", "target_detail", "compression":
		if text, err = o.str(); err != nil {
			return err
		}
	}
	if !b.knows(o.name) {
		return optionError(stateSyntax, `unrecognized base backup option: "%s"`, o.name)
	}
	if b.seen.again(o.name) {
		return optionError(stateSyntax, `duplicate option "%s"`, o.name)
	}
	switch o.name {
	case "label":
		text, err = o.str()
		b.label = &text
	case "progress":
		b.Progress, err = o.boolean()
	case "checkpoint":
		switch foldCase(text) {
		case "fast":
			b.FastCheckpoint = true
		case "spread":
		default:
			return optionError(stateSyntax, `unrecognized checkpoint type: "%s"`, text)
		}
	case "fast":
		b.FastCheckpoint = true
	case "wait":
		b.NoWait, err = o.negated()
	case "nowait":
		b.NoWait = true
	case "wal":
		b.WAL, err = o.boolean()
	case "incremental":
		b.Incremental, err = o.boolean()
	case "max_rate":
		b.MaxRate, err = o.integer()
		if err == nil && (b.MaxRate < minRate || b.MaxRate > maxRate) {
			err = optionError(stateOutOfRange, `%d is outside the valid range for parameter "MAX_RATE" (%d .. %d)`, b.MaxRate, minRate, maxRate)
		}
	case "tablespace_map":
		b.TablespaceMap, err = o.boolean()
	case "verify_checksums":
		b.NoVerifyChecksums, err = o.negated()
	case "noverify_checksums":
		b.NoVerifyChecksums = true
	case "manifest":
		b.Manifest, err = manifestOption(text)
	case "manifest_checksums":
		b.hasAlgorithms = true
		b.ManifestChecksums, err = checksumAlgorithm(text)
	case "target":
		text, err = o.str()
		b.target = &text
	case "target_detail":
		b.TargetDetail = &text
	case "compression":
		if !slices.Contains(compressionAlgorithms, text) {
			return optionError(stateSyntax, `unrecognized compression algorithm: "%s"`, text)
		}
		b.Compression = text
	case "compression_detail":
		text, err = o.str()
		b.CompressionDetail = &text
	}
	return err
}

// negated returns the opposite of the value as a boolean, and false with an error.
func (o option) negated() (bool, error) {
	yes, err := o.boolean()
	return err == nil && !yes, err
}

// knows tells whether the server's version has an option, in the one form or the other.
func (b *backupOptions) knows(name string) bool {
	if b.major < 15 {
		return true // the grammar lets no others through
	}
	return slices.Contains(listOptions, name) || name == "incremental" && b.major >= 17
}

// listOptions are the options of BASE_BACKUP in parentheses, as 15 knows them.
var listOptions = []string{
	"checkpoint", "compression", "compression_detail", "label", "manifest", "manifest_checksums", "max_rate",
	"progress", "tablespace_map", "target", "target_detail", "verify_checksums", "wait", "wal",
}

// compressionAlgorithms are those of which a server knows the name, which is not
// to say that it was built with them.
//
// Source: parse_compress_algorithm in src/common/compression.c, PostgreSQL 18.
var compressionAlgorithms = []string{"none", "gzip", "lz4", "zstd"}

// checksumAlgorithms are those of a manifest.
//
// Source: pg_checksum_parse_type in src/common/checksum_helper.c, PostgreSQL 18.
var checksumAlgorithms = []string{"NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"}

// checksumAlgorithm returns an algorithm's name in the case of a manifest.
func checksumAlgorithm(name string) (string, error) {
	for _, a := range checksumAlgorithms {
		if foldCase(a) == foldCase(name) {
			return a, nil
		}
	}
	return "", optionError(stateSyntax, `unrecognized checksum algorithm: "%s"`, name)
}

// manifestOption returns whether and how a manifest is wanted, as Manifest of BaseBackup has it.
func manifestOption(text string) (string, error) {
	if yes, ok := parseBool(text); ok {
		if yes {
			return "yes", nil
		}
		return "", nil
	}
	if foldCase(text) == "force-encode" {
		return "force-encode", nil
	}
	return "", optionError(stateSyntax, `unrecognized manifest option: "%s"`, text)
}

// parseBool reads a boolean, of which a beginning that is like no other will do.
//
// Source: parse_bool_with_len in src/backend/utils/adt/bool.c, PostgreSQL 18.
func parseBool(text string) (value, ok bool) {
	folded := foldCase(text)
	for _, w := range []struct {
		word  string
		least int // bytes
		value bool
	}{
		{"true", 1, true}, {"yes", 1, true}, {"on", 2, true}, {"1", 1, true},
		{"false", 1, false}, {"no", 1, false}, {"off", 2, false}, {"0", 1, false},
	} {
		if len(folded) >= w.least && strings.HasPrefix(w.word, folded) {
			return w.value, true
		}
	}
	return false, false
}
