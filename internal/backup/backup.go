// Package backup knows what a base backup is: a sequence of members
// (directories, files, links, last the manifest) between two positions in the log.
//
// A Source yields a backup, a Sink takes one, and Copy is the only loop between
// them. What a backup is read from and written to is the business of other
// packages; here are the interfaces they meet at, and the tar form of a member.
package backup

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"time"

	"basin/internal/wal"
)

// Source yields one backup, once.
//
// Members come in this order: the tablespaces, the main directory with
// global/pg_control as the last of its own files, the manifest. A directory comes before what is in it.
type Source interface {
	// Begin starts the backup. It may take as long as a checkpoint.
	Begin(ctx context.Context) (Start, error)
	// Next returns the next member and its bytes, and io.EOF itself after the last,
	// once. The reader is valid until the next call; what was left unread is skipped. That
	// of a member that is Apart is valid until it is closed, if it is an io.Closer.
	Next(ctx context.Context) (Member, io.Reader, error)
	// End returns where the backup ends. It may be called only after io.EOF,
	// and reports rather than does. With ErrPageChecksums the position is valid.
	End(ctx context.Context) (wal.Position, error)
	// Close ends the source; before io.EOF it abandons the backup.
	Close() error
}

// Sink takes one backup, once.
type Sink interface {
	// Begin says what will come, before the first Put.
	Begin(ctx context.Context, start Start) error
	// Put takes a member and reads r, which is nil unless the member has bytes, to its end.
	Put(ctx context.Context, m Member, r io.Reader) error
	// Commit makes everything durable. Until it returns nil there is no backup.
	Commit(ctx context.Context, end wal.Position) error
	// Close lets go of what is held. Before Commit, it leaves no backup that
	// could be mistaken for a finished one.
	Close() error
}

// Salvager is a sink that can end in good order what came to it, without making
// it a backup: for a source that ends with ErrPageChecksums. What a dying disk
// gave may be the last there is of it.
type Salvager interface {
	Salvage(ctx context.Context, end wal.Position) error
}

// ErrPageChecksums is what a source ends with when all members came, but the
// server found pages among them whose checksums are wrong.
var ErrPageChecksums = errors.New("checksum error occurred")

// Start tells what a backup is of, known before its first member.
type Start struct {
	Position      wal.Position
	ServerVersion int          // as server_version_num: 180006 is 18.6
	SegmentSize   int64        // of the log, in bytes
	Tablespaces   []Tablespace // all but the main directory, in the order they come
	Size          int64        // estimate of all members' bytes; zero if not asked for
}

// Tablespace is a place outside the main data directory, or, if its location is
// relative, inside it (allow_in_place_tablespaces).
type Tablespace struct {
	OID      uint32
	Location string
	Size     int64 // estimate of its members' bytes, which are a part of Start.Size; zero if not asked for
}

// Kind is what a member is.
type Kind uint8

// The kinds of members.
const (
	File     Kind = iota + 1
	Dir           // has no bytes
	Symlink       // has no bytes, but a target
	Manifest      // backup_manifest, the last member
	Archive       // a whole tablespace as one archive, compressed by the server; only for a sink that stores it as it is
)

// Member is one thing in a backup.
type Member struct {
	Tablespace uint32 // OID; zero is the main data directory
	Path       string // bytes, slash-separated, relative to the tablespace; not always UTF-8 nor clean: servers send ./pg_wal
	Kind       Kind
	Size       int64       // in bytes; less than zero for what is not known before its end: Manifest, Archive
	Mode       fs.FileMode // permission bits, ModeSetuid, ModeSetgid and ModeSticky
	UID, GID   int
	ModTime    time.Time
	Target     string // of a Symlink
	Apart      bool   // a file whose reader stays valid after the next Next, and may be read in another goroutine
}
