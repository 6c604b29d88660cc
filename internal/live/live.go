// Package live knows how a running cluster's data directory is read as a backup: through
// pg_backup_start and pg_backup_stop, beside the server that writes to it.
//
// What it yields is what the server's own BASE_BACKUP would send, in an order that a copy
// which is cut short can never be started from. It opens no connection: it is handed a
// session of the server and something that keeps the log, and it has to be able to read the
// data directory. It does not know where the backup goes.
package live

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/wal"
)

// Session is an ordinary session of the cluster. It is used from one goroutine at a time.
type Session interface {
	// Query runs one statement and returns its rows and columns as text; nil is NULL.
	Query(ctx context.Context, sql string) ([][][]byte, error)
	// Close ends the session, and with it a backup that runs.
	Close() error
}

// Pin keeps the log that a backup needs on the server.
type Pin interface {
	// Slot returns the name of the replication slot that keeps the log, or nothing.
	Slot() string
	// Done is closed when the log is kept no longer.
	Done() <-chan struct{}
	// Err returns why, once Done is closed.
	Err() error
	// Close lets go of the log.
	Close() error
}

// ManifestKind says what manifest a backup has.
type ManifestKind uint8

// The kinds of manifests.
const (
	NoManifest    ManifestKind = iota
	WithManifest               // as usual
	ForceEncoding              // with all names of files in hexadecimal digits
)

// Notice tells of something that is no error: severity is WARNING or NOTICE, code an
// SQLSTATE.
type Notice struct {
	Severity, Code, Message, Detail, Hint string
}

// Options say what backup is taken of what. DataDir and Session are required; the rest may be
// zero.
type Options struct {
	DataDir string  // of the cluster, as it is found here
	Session Session // is the source's, and closed by it

	// Pin keeps the log from now on; it is called before the backup begins. Nil means that
	// somebody else does.
	Pin func(ctx context.Context) (Pin, error)

	Label          string // at most 1024 bytes
	FastCheckpoint bool   // else it is spread over time
	NoWait         bool   // for the log to be archived, at the end
	WAL            bool   // the log that the backup needs is a part of it
	TablespaceMap  bool   // instead of links in pg_tblspc
	EstimateSize   bool   // of all files, before the first

	NoVerifyChecksums bool // of pages

	Manifest  ManifestKind
	Algorithm manifest.Algorithm // of checksums in it

	// Parent is the manifest of the backup that this one is to be laid over: the backup is
	// an incremental one, of a server from 17 on. It is not the source's to close.
	Parent *manifest.Catalog

	// Apart says that files are read by whoever takes them, several at a time. Otherwise they are
	// read ahead, by Workers (zero is two) into Ahead bytes of memory (zero is 8 MiB).
	Apart   bool
	Ahead   int
	Workers int

	TempDir  string           // for what is too much for memory; empty is the system's
	Notice   func(Notice)     // is told of warnings, in the order of the files; may be nil
	Progress *backup.Progress // counts as tar archives do; may be nil
}

// Source is a backup of a running cluster. It is a backup.Source.
type Source struct {
	o Options

	cluster cluster // as it was before the backup began
	pin     Pin
	looked  time.Time // at the slot

	start  backup.Start
	sizes  map[uint32]int64
	end    wal.Position
	damage error // of pages

	mu       sync.Mutex // what follows is used by the readers too
	failures int64      // of page checksums
	book     *book      // nil if there is to be no manifest
	ended    bool
}

// New returns a source that has done nothing yet.
func New(o Options) *Source { return &Source{o: o} }

// Begin keeps the log and begins the backup, which takes as long as a checkpoint.
func (s *Source) Begin(ctx context.Context) (backup.Start, error) {
	return backup.Start{}, errors.ErrUnsupported
}

// Size returns the estimate of what a tablespace has in bytes of a tar archive, if that was
// asked for; zero is the main directory.
func (s *Source) Size(tablespace uint32) int64 { return s.sizes[tablespace] }

// Next returns the next member. Before backup_label it ends the backup on the server.
func (s *Source) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	return backup.Member{}, nil, errors.ErrUnsupported
}

// End returns where the backup ends, and backup.ErrPageChecksums if pages are damaged.
func (s *Source) End(context.Context) (wal.Position, error) { return s.end, s.damage }

// Close ends the session and lets go of the log. A backup that has not ended is given up.
func (s *Source) Close() error { return s.o.Session.Close() }
