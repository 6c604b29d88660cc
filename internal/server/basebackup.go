package server

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"

	"github.com/jackc/pgx/v5/pgproto3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"basin/internal/backup"
	"basin/internal/protocol"
	"basin/internal/seal"
)

// workerMemory is what each worker that compresses may hold, in bytes.
const workerMemory = 8 << 20

// baseBackup sends a base backup.
//
// Source: SendBaseBackup in src/backend/backup/basebackup.c, PostgreSQL 18.
func (s *session) baseBackup(ctx context.Context, command protocol.BaseBackup) error {
	spec, err := compression(command)
	if err != nil {
		return err
	}
	if command.Incremental && s.parent == nil {
		return &Error{Code: codeNotInState, Message: "must UPLOAD_MANIFEST before performing an incremental BASE_BACKUP"}
	}
	s.releaseUpstream()
	done, err := s.server.place()
	if err != nil {
		return err
	}
	defer done()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a := &archives{
		version: s.cluster.Version, sizes: command.Progress,
		out: &copyOut{ctx: ctx, conn: s.conn, single: s.cluster.Version >= protocol.VersionOptionList, pace: s.server.paces(command.MaxRate), sent: &s.server.counts.sent},
	}
	if spec.Algorithm != seal.None {
		workers, free := s.server.takeWorkers(spec)
		defer free()
		if spec.Algorithm == seal.Zstd { // of the others memory alone says how many there are
			spec.Workers, spec.WorkersSet = workers, true
		}
		a.suffix = seal.Suffix(spec.Algorithm)
		a.compress = func(w io.Writer) (io.WriteCloser, error) {
			return seal.NewWriterWithin(w, spec, workers*workerMemory)
		}
	}
	if a.target, err = s.server.target(command, a); err != nil {
		return err
	}
	request := BackupRequest{Command: command, Notice: s.notice}
	if command.Incremental {
		request.Parent = s.parent.catalog
	}
	src, err := s.server.o.Cluster.Backup(ctx, request)
	if err != nil {
		return errors.Join(err, a.Close())
	}
	if err := s.copyBackup(ctx, a, src); err != nil {
		s.server.counts.backupsFailed.Add(1)
		return errors.Join(err, a.Close(), ignoreCanceled(src.Close()))
	}
	s.server.counts.backupsDone.Add(1)
	// The client need not wait for connections to be ended.
	err = s.conn.Queue(&pgproto3.CommandComplete{CommandTag: []byte("BASE_BACKUP")})
	err = errors.Join(err, s.conn.Flush())
	if closed := errors.Join(a.Close(), ignoreCanceled(src.Close())); closed != nil { // the backup is whole all the same
		s.log.Warn("after the backup", "error", closed)
	}
	return err
}

// copyBackup brings the backup to the client, unless that goes away first.
func (s *session) copyBackup(ctx context.Context, a *archives, src backup.Source) error {
	return s.unlessGone(ctx, func(ctx context.Context) error {
		a.out.ctx = ctx
		err := backup.Copy(ctx, a, src, backup.Options{})
		if errors.Is(err, backup.ErrPageChecksums) && a.salvaged {
			return s.damaged(ctx, a, src)
		}
		return err
	})
}

// unlessGone does something during which the client says nothing, and ends it if the client
// goes.
func (s *session) unlessGone(ctx context.Context, do func(ctx context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	watching, stopWatching := context.WithCancel(ctx)
	group.Go(func() error {
		err := s.conn.gone(watching)
		if watching.Err() != nil && ctx.Err() == nil {
			return nil // it is done
		}
		if err != nil && isGone(err) {
			_ = s.conn.SetWriteDeadline(longAgo) // nor does it read any more
		}
		return err
	})
	group.Go(func() error {
		defer stopWatching()
		return do(ctx)
	})
	return group.Wait()
}

// damaged ends a backup all of which was sent, but with pages that are wrong.
//
// Source: perform_base_backup in src/backend/backup/basebackup.c, PostgreSQL 18.
func (s *session) damaged(ctx context.Context, a *archives, src backup.Source) error {
	end, err := src.End(ctx)
	if err != nil && !errors.Is(err, backup.ErrPageChecksums) {
		return err
	}
	if err := a.position(end); err != nil {
		return err
	}
	return &Error{Code: codeDataCorrupted, Message: "checksum verification failure during base backup"}
}

// notice tells the client of what ends nothing.
func (s *session) notice(e Error) {
	s.log.Warn("notice to client", "severity", e.Severity, "message", e.Message)
	_ = s.conn.Queue(e.message())
	_ = s.conn.Flush() // what follows may take long; it has the error again
}

// compression returns how the client wants archives compressed.
func compression(command protocol.BaseBackup) (seal.Spec, error) {
	if command.Compression == "" {
		return seal.Spec{}, nil
	}
	request := seal.Request{Location: seal.Server, Algorithm: command.Compression}
	if command.CompressionDetail != nil {
		request.Detail, request.HasDetail = *command.CompressionDetail, true
	}
	spec, err := request.Spec()
	if err != nil {
		return spec, &Error{Code: codeSyntaxError, Message: err.Error()}
	}
	return spec, nil
}

// target returns where a backup goes if not to the client, who is nil.
func (s *Server) target(command protocol.BaseBackup, a *archives) (backup.Sink, error) {
	switch command.Target {
	case "", "client":
		return nil, nil
	case "blackhole":
		return backup.Nowhere{}, nil
	}
	if s.o.Target == nil {
		return nil, &Error{Code: codePrivilege, Message: "permission denied to create backup stored on server",
			Detail: "This server was not given a directory for such backups.", Hint: "Start it with --target-directory."}
	}
	detail := *command.TargetDetail
	if !filepath.IsAbs(detail) {
		return nil, &Error{Code: "42602", Message: "relative path not allowed for backup stored on server"}
	}
	sink, err := s.o.Target(detail, TargetBackup{Compress: a.compress, Suffix: a.suffix})
	if errors.Is(err, fs.ErrPermission) {
		return nil, &Error{Code: codePrivilege, Message: err.Error()}
	}
	return sink, err
}

// place takes one of the places for backups, or says that there is none.
func (s *Server) place() (done func(), err error) {
	select {
	case s.backups <- struct{}{}:
		s.counts.backups.Add(1)
		return func() { <-s.backups; s.counts.backups.Add(-1) }, nil
	default:
		return nil, &Error{Code: codeTooManyConnections, Message: "too many base backups are running",
			Hint: "Try again when one of them has ended, or start the server with a higher --max-backups."}
	}
}

// takeWorkers takes as many workers as a backup wants and there are, but one at least.
func (s *Server) takeWorkers(spec seal.Spec) (n int, free func()) {
	wanted := runtime.GOMAXPROCS(0)
	if spec.WorkersSet && spec.Workers > 0 {
		wanted = min(wanted, spec.Workers)
	}
	for n < wanted && s.workers.TryAcquire(1) {
		n++
	}
	held := int64(n)
	return max(n, 1), func() { s.workers.Release(held) }
}

// paces returns what a backup's bytes wait for. rate is in kB a second; zero is no limit.
func (s *Server) paces(perSecond int) []*rate.Limiter {
	var paces []*rate.Limiter
	if perSecond > 0 {
		paces = append(paces, backup.NewLimiter(int64(perSecond)*1024))
	}
	if s.pace != nil {
		paces = append(paces, s.pace)
	}
	return paces
}

// ignoreCanceled drops an error that only says that somebody gave up.
func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// isGone says whether err is that of a client that is not there to be told.
func isGone(err error) bool {
	return errors.Is(err, errClientGone) || errors.As(err, new(*sendFailure))
}
