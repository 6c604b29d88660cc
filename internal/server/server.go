// Package server answers PostgreSQL's replication clients: pg_basebackup,
// pg_receivewal, pg_recvlogical and the walreceivers of standbys.
//
// It is a walsender without a cluster of its own. What it answers from is a
// Cluster: base backups come from it as a backup.Source, the log as a Log, and
// what only the cluster can do, such as making a slot, is said again on an
// Upstream, a connection to it. On an ordinary connection it answers the few
// statements that pg_rewind sends, if the cluster is a FileSource. Who is let in
// package accept decides; how a backup is made is not known here.
package server

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"basin/internal/accept"
	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/protocol"
	"basin/internal/wal"
)

// Cluster is what a Server answers from. Its methods are called from many goroutines.
type Cluster interface {
	// Describe tells what the cluster is now.
	Describe(ctx context.Context) (Description, error)
	// Upstream connects to the cluster for one client.
	Upstream(ctx context.Context, client Client) (Upstream, error)
	// Backup prepares a base backup, of which nothing begins before its Begin.
	Backup(ctx context.Context, request BackupRequest) (backup.Source, error)
	// Log is the cluster's log, as far as it is flushed.
	Log() Log
}

// Description is what a cluster is.
type Description struct {
	ServerVersion string // as the cluster gives it: 18.6, 15.20 (Debian …)
	Version       int    // as server_version_num: 180006
	SystemID      uint64
	SegmentSize   int64             // of the log, in bytes
	Standby       bool              // it is one itself
	Settings      map[string]string // of what clients are told, by name, such as TimeZone
	Synchronous   string            // synchronous_standby_names
	Flushed       wal.LSN           // of the log, at least
}

// Major returns the major version: 18.
func (d Description) Major() int { return d.Version / 10000 }

// Client is who an Upstream is for.
type Client struct {
	User            string
	ApplicationName string
	Database        string // to connect to; empty for physical replication
	// Settings are what the client wants of its session, by name: how what is decoded looks.
	Settings map[string]string
}

// Upstream is a connection to the cluster on which what a client says is said again. One
// goroutine sends and one receives at a time.
type Upstream interface {
	// Send writes whole messages.
	Send(p []byte) error
	// Next returns the type of the cluster's next message.
	Next(ctx context.Context) (kind byte, err error)
	// Pass writes that message to w as it came.
	Pass(ctx context.Context, w io.Writer) error
	// Waiting says whether the beginning of another message has come.
	Waiting() bool
	// Close ends the connection, and what it was doing.
	Close() error
}

// BackupRequest is a base backup that a client asks for.
type BackupRequest struct {
	Command protocol.BaseBackup
	Parent  *manifest.Catalog // of the backup that an incremental one is made against; else nil
	Notice  func(Error)       // takes what the client is to be told while the backup is made
}

// TargetBackup says how a backup is stored that does not go to the client.
type TargetBackup struct {
	Compress func(io.Writer) (io.WriteCloser, error) // nil: not compressed
	Suffix   string                                  // of what Compress makes, after .tar
}

// Options of a Server. Cluster and Accept are required; the zero value of the rest is useful.
type Options struct {
	Cluster Cluster
	Accept  accept.Options // how clients are let in; its Admit and Cancel are the server's own
	// Admit, if not nil, says whether a user who was authenticated may replicate.
	Admit func(ctx context.Context, client *accept.Session) error

	// MaxConnections is how many clients there are at a time; zero is DefaultMaxConnections. As
	// many again may be about to say who they are: of those the oldest makes way for a new one,
	// so that nobody who only connects keeps others out.
	MaxConnections int
	MaxBackups     int // base backups at a time; zero is DefaultMaxBackups
	// CompressionWorkers is how many of them all backups have together; zero is one for
	// each processor. A backup has one at least, however many there are.
	CompressionWorkers int
	MaxRate            int64         // of all backups together, in bytes a second; zero is no limit
	Timeout            time.Duration // of streams, as wal_sender_timeout; zero is DefaultTimeout, less is none

	// Target opens a place on this host for a backup. Nil: there is none.
	Target func(detail string, t TargetBackup) (backup.Sink, error)
	// TempDir is where manifests are kept that clients send; empty is the system's.
	TempDir string

	Log *slog.Logger // nil logs nothing
}

// Defaults of Options.
const (
	DefaultMaxConnections = 100
	DefaultMaxBackups     = 10
	DefaultTimeout        = 60 * time.Second // wal_sender_timeout
)

// Server answers clients.
type Server struct {
	o       Options
	log     *slog.Logger
	backups chan struct{}       // has one for each that runs
	workers *semaphore.Weighted // that compress
	pace    *rate.Limiter       // nil is no limit
	counts  counts

	standbys standbys

	stopping chan struct{} // closed once nothing more is to begin

	mu       sync.Mutex
	guests   map[uint32]net.Conn // by process number, those that are not authenticated yet
	sessions map[uint32]*session // by process number; nil is one that is just being let in
	last     uint32              // process number that was given out
}

// counts are what Status tells.
type counts struct {
	connections, refused, failed     atomic.Int64
	backups, streams                 atomic.Int64 // that run
	backupsDone, backupsFailed, sent atomic.Int64
}

// Status is how a server is doing.
type Status struct {
	Sessions    int   // clients that were let in, and are there
	Backups     int64 // that run
	Streams     int64 // that run
	Connections int64 // that were made since the start
	Refused     int64 // of them, for there were too many
	Failed      int64 // of them, that were not let in or were lost

	BackupsDone, BackupsFailed int64 // since the start
	BytesSent                  int64 // of backups, since the start
}

// New returns a server that nobody has reached yet.
func New(o Options) *Server {
	o.MaxConnections = cmp.Or(o.MaxConnections, DefaultMaxConnections)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	s := &Server{
		o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)),
		backups:  make(chan struct{}, cmp.Or(o.MaxBackups, DefaultMaxBackups)),
		workers:  semaphore.NewWeighted(int64(cmp.Or(o.CompressionWorkers, runtime.GOMAXPROCS(0)))),
		stopping: make(chan struct{}), guests: make(map[uint32]net.Conn), sessions: make(map[uint32]*session),
		// Clients name temporary slots for it, which another server beside the cluster may have too.
		last: rand.Uint32N(1 << 30),
	}
	if o.MaxRate > 0 {
		s.pace = backup.NewLimiter(o.MaxRate)
	}
	return s
}

// Status returns how the server is doing.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{
		Sessions: len(s.sessions), Backups: s.counts.backups.Load(), Streams: s.counts.streams.Load(),
		Connections: s.counts.connections.Load(), Refused: s.counts.refused.Load(), Failed: s.counts.failed.Load(),
		BackupsDone: s.counts.backupsDone.Load(), BackupsFailed: s.counts.backupsFailed.Load(), BytesSent: s.counts.sent.Load(),
	}
}

// drainTime is how long streams have at the end to bring clients what is left.
const drainTime = 60 * time.Second

// Serve answers the clients that come, until ctx ends. Then it takes no more, ends what runs,
// and lets streams bring to an end what they have; after a minute it closes what is left.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	hard, abort := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abort(nil)
	stopAccepting := context.AfterFunc(ctx, func() {
		close(s.stopping)
		_ = listener.Close() // which ends Accept, and that is all there is to it
	})
	defer stopAccepting()
	var clients sync.WaitGroup
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	clients.Go(func() { s.watchStandbys(watching) })
	var err error
	for {
		var c net.Conn
		c, err = listener.Accept()
		if ctx.Err() != nil {
			err = nil
			break
		}
		if isTemporary(err) { // such as too many open files
			s.log.Error("could not accept a connection", "error", err)
			if !pause(ctx, time.Second) {
				err = nil
				break
			}
			continue
		}
		if err != nil {
			break
		}
		clients.Go(func() { s.answer(hard, c) })
	}
	if err != nil && stopAccepting() {
		close(s.stopping)
	}
	stopWatching()
	timer := time.AfterFunc(drainTime, func() { abort(errShutdown) })
	defer timer.Stop()
	clients.Wait()
	return err
}

// pause waits, and says whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// isTemporary says whether another connection may be accepted all the same.
func isTemporary(err error) bool {
	var e interface{ Temporary() bool }
	return errors.As(err, &e) && e.Temporary()
}

// enter gives a client that has just connected a process number. If there are too many
// like it, the one that has waited longest is sent away.
func (s *Server) enter(c net.Conn) (pid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.guests) >= s.o.MaxConnections {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(s.guests)), func(a, b uint32) int { return cmp.Compare(s.last-b, s.last-a) })
		s.log.Warn("too many clients have not said who they are", "client", s.guests[oldest].RemoteAddr().String())
		_ = s.guests[oldest].Close() // which ends its attempt
		delete(s.guests, oldest)
		s.counts.refused.Add(1)
	}
	for {
		s.last = s.last%(1<<30) + 1
		_, guest := s.guests[s.last]
		_, taken := s.sessions[s.last]
		if !guest && !taken {
			s.guests[s.last] = c
			return s.last
		}
	}
}

// admit says whether there is room for a client that is authenticated, and takes it.
func (s *Server) admit(pid uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sessions) >= s.o.MaxConnections {
		return false
	}
	delete(s.guests, pid)
	s.sessions[pid] = nil
	return true
}

// leave takes a client's number back.
func (s *Server) leave(pid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.guests, pid)
	delete(s.sessions, pid)
}
