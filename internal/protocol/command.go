// Package protocol knows PostgreSQL's replication protocol: how its commands
// are spelled for each major version, and what lies inside COPY messages.
//
// It turns values into bytes and bytes into values; it holds no connection.
package protocol

import (
	"fmt"
	"strings"

	"basin/internal/wal"
)

// First server versions, as server_version_num, that know a feature.
const (
	VersionManifest      = 130000 // MANIFEST
	VersionOptionList    = 150000 // options in parentheses, one COPY for everything, compression by the server, targets
	VersionIncremental   = 170000 // UPLOAD_MANIFEST, INCREMENTAL, pg_wal/summaries
	VersionStandbySignal = 120000 // recovery settings in postgresql.auto.conf
	VersionDirectoryMode = 110000 // SHOW data_directory_mode
)

// quoteString returns s as a string literal of the replication grammar, in
// which a quote is doubled and nothing else is special.
func quoteString(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// quoteIdentifier returns s as a quoted identifier of the replication grammar.
func quoteIdentifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// quoteName returns s as identifiers with points between them, which is what its
// own points become.
func quoteName(s string) string {
	parts := strings.Split(s, ".")
	for i, part := range parts {
		parts[i] = quoteIdentifier(part)
	}
	return strings.Join(parts, ".")
}

// Command is a command of the replication protocol: one of the types of this
// package that have a method of this name. Types are compared by their fields.
type Command interface {
	// Command returns the text for a server of the given server_version_num. It
	// is made from the fields alone, and so holds nothing else that a client sent.
	Command(version int) string

	isCommand()
}

func (IdentifySystem) isCommand()           {}
func (Show) isCommand()                     {}
func (TimelineHistory) isCommand()          {}
func (ReadReplicationSlot) isCommand()      {}
func (CreatePhysicalSlot) isCommand()       {}
func (CreateLogicalSlot) isCommand()        {}
func (DropReplicationSlot) isCommand()      {}
func (AlterReplicationSlot) isCommand()     {}
func (StartPhysicalReplication) isCommand() {}
func (StartLogicalReplication) isCommand()  {}
func (BaseBackup) isCommand()               {}
func (UploadManifest) isCommand()           {}
func (SQL) isCommand()                      {}

// IdentifySystem is the command IDENTIFY_SYSTEM.
type IdentifySystem struct{}

// Command returns the text.
func (IdentifySystem) Command(int) string { return "IDENTIFY_SYSTEM" }

// UploadManifest is the command UPLOAD_MANIFEST, from 17 on.
type UploadManifest struct{}

// Command returns the text.
func (UploadManifest) Command(int) string { return "UPLOAD_MANIFEST" }

// Show is the command SHOW.
type Show struct {
	Name string // of the parameter; that of an extension has a point
}

// Command returns the text. A name of lower-case letters, which is no keyword,
// goes without quotes.
func (c Show) Command(int) string {
	for i := range len(c.Name) {
		if b := c.Name[i]; !isIdentifierPart(b) && b != '.' || 'A' <= b && b <= 'Z' || b >= 0x80 {
			return "SHOW " + quoteName(c.Name)
		}
	}
	for part := range strings.SplitSeq(c.Name, ".") {
		if part == "" || !isIdentifierStart(part[0]) {
			return "SHOW " + quoteName(c.Name)
		}
	}
	return "SHOW " + c.Name
}

// TimelineHistory is the command TIMELINE_HISTORY, which fetches the history file
// of a timeline.
type TimelineHistory struct {
	Timeline wal.Timeline
}

// Command returns the text.
func (c TimelineHistory) Command(int) string { return fmt.Sprintf("TIMELINE_HISTORY %d", c.Timeline) }

// StartPhysicalReplication is the command START_REPLICATION that streams the log
// of a timeline.
type StartPhysicalReplication struct {
	Slot string       // empty for none
	From wal.Position // timeline zero is the server's own
}

// Command returns the text.
func (c StartPhysicalReplication) Command(int) string {
	s := "START_REPLICATION"
	if c.Slot != "" {
		s += " SLOT " + quoteIdentifier(c.Slot)
	}
	s += " " + c.From.LSN.String()
	if c.From.Timeline != 0 {
		s += fmt.Sprintf(" TIMELINE %d", c.From.Timeline)
	}
	return s
}

// SQL is a text that is no replication command.
type SQL struct {
	Text string
}

// Command returns the text as it was.
func (c SQL) Command(int) string { return c.Text }

// BaseBackup is the BASE_BACKUP command. The zero value asks for a full backup
// without manifest and log, with a spread checkpoint, and waits for archiving.
type BaseBackup struct {
	Label             string
	Incremental       bool // changed blocks alone, against the manifest uploaded before
	Progress          bool // sizes of the tablespaces, which the server adds up first
	WAL               bool // send the log that is needed, in the main archive
	FastCheckpoint    bool
	NoWait            bool // do not wait until the log is archived
	MaxRate           int  // kB/s, 32 to 1048576; zero is no limit
	TablespaceMap     bool // send tablespace_map instead of symbolic links; always so with a Target
	NoVerifyChecksums bool
	Manifest          string  // empty for none, yes or force-encode
	ManifestChecksums string  // algorithm; empty for the server's default
	Target            string  // where the server puts it, as tar archives; empty is the client
	TargetDetail      *string // nil for none, which is not the same as an empty one
	Compression       string  // algorithm the server compresses with; empty for none, and so is none
	CompressionDetail *string // nil for none
}

// Command returns the command's text for a server of the given
// server_version_num, to the byte what pg_basebackup 18 sends. From 15 on,
// options stand in parentheses; before, they are words in a fixed order.
//
// Source: BaseBackup in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func (b BaseBackup) Command(version int) string {
	o := options{list: version >= VersionOptionList}
	if b.Incremental {
		o.plain("INCREMENTAL")
	}
	o.text("LABEL", b.Label)
	if b.Progress {
		o.plain("PROGRESS")
	}
	if b.WAL {
		o.plain("WAL")
	}
	if b.FastCheckpoint {
		o.either(func() { o.text("CHECKPOINT", "fast") }, "FAST")
	}
	if b.NoWait {
		o.either(func() { o.number("WAIT", 0) }, "NOWAIT")
	}
	if b.MaxRate > 0 {
		o.number("MAX_RATE", b.MaxRate)
	}
	if b.TablespaceMap && b.Target == "" {
		o.plain("TABLESPACE_MAP")
	}
	if b.NoVerifyChecksums {
		o.either(func() { o.number("VERIFY_CHECKSUMS", 0) }, "NOVERIFY_CHECKSUMS")
	}
	if b.Manifest != "" {
		o.text("MANIFEST", b.Manifest)
		if b.ManifestChecksums != "" {
			o.text("MANIFEST_CHECKSUMS", b.ManifestChecksums)
		}
	}
	switch {
	case b.Target != "":
		o.plain("TABLESPACE_MAP") // what a server keeps are tar files
		o.text("TARGET", b.Target)
		if b.TargetDetail != nil {
			o.text("TARGET_DETAIL", *b.TargetDetail)
		}
	case o.list:
		o.text("TARGET", "client")
	}
	if b.Compression != "" {
		o.text("COMPRESSION", b.Compression)
		if b.CompressionDetail != nil {
			o.text("COMPRESSION_DETAIL", *b.CompressionDetail)
		}
	}
	if o.list {
		return "BASE_BACKUP (" + o.String() + ")"
	}
	return "BASE_BACKUP " + o.String()
}

// options gathers a command's options with the blanks that the original leaves.
//
// Source: AppendPlainCommandOption in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
type options struct {
	strings.Builder
	list bool
}

func (o *options) plain(name string) {
	if o.Len() > 0 {
		o.WriteString(o.separator())
	}
	o.WriteString(" " + name)
}

func (o *options) separator() string {
	if o.list {
		return ", "
	}
	return " "
}

func (o *options) text(name, value string)       { o.plain(name + " " + quoteString(value)) }
func (o *options) number(name string, value int) { o.plain(fmt.Sprintf("%s %d", name, value)) }

// either writes an option in the form of the list, or as an old word.
func (o *options) either(list func(), word string) {
	if o.list {
		list()
	} else {
		o.plain(word)
	}
}
