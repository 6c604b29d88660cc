package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"basin/internal/backup"
	"basin/internal/client"
	"basin/internal/connect"
	"basin/internal/conninfo"
	"basin/internal/localfs"
	"basin/internal/plain"
	"basin/internal/protocol"
	"basin/internal/seal"
	"basin/internal/tarball"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// baseBackupRun is one backup on its way.
type baseBackupRun struct {
	report *report
	o      baseBackupOptions

	request  conninfo.Request
	session  *connect.Session // how the server was reached
	conn     *client.Conn     // which has taken the session over
	system   client.System
	segment  int64 // size of the server's WAL segments, in bytes
	dirMode  fs.FileMode
	fileMode fs.FileMode

	dir, walDir *localfs.Claim // nil if there is none
	manifest    *os.File       // of the backup before; nil for a full one
	raw         bool           // archives are not opened
	createdSlot bool           // a permanent one, which outlives a failure
	place       backup.Sink
	plain       *plain.Sink   // the same in plain format; else nil
	local       *localCluster // whose data directory is read here; nil if the server sends it
	counts      backup.Progress
	progress    *progress // nil if none is shown
}

// runBaseBackup takes the backup. If that fails, what was made for it is removed
// unless the user wants to keep it.
//
// Source: main and BaseBackup in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func runBaseBackup(ctx context.Context, r *report, o baseBackupOptions) error {
	b := &baseBackupRun{report: r, o: o}
	err := b.run(ctx)
	b.progress.stop()
	if b.conn != nil {
		_ = b.conn.Close() // all that was wanted has come, or will not
	}
	if err == nil {
		return b.keep()
	}
	r.error(signalFirst(ctx, err))
	if b.place != nil {
		_ = b.place.Close() // what it has is not a backup
	}
	if errors.Is(err, backup.ErrPageChecksums) {
		_ = b.keep() // directories open for reading
	} else {
		b.giveBack()
	}
	return reported{err}
}

func (b *baseBackupRun) run(ctx context.Context) error {
	if err := b.connect(ctx); err != nil {
		return err
	}
	if err := b.claim(); err != nil {
		return err
	}
	source, err := b.source(ctx)
	if b.manifest != nil {
		defer b.manifest.Close() // it was only read
	}
	if b.local != nil {
		defer b.local.close()
	}
	if err != nil {
		return err
	}
	defer source.Close()
	if b.place, err = b.sink(ctx); err != nil {
		return err
	}
	if b.o.Progress {
		b.progress = startProgress(b.report, &b.counts, progressFormFor(b.report, b.o.Verbose, os.Getenv))
	}
	b.verbose("initiating base backup, waiting for checkpoint to complete")
	options := backup.Options{Started: b.started, Ended: b.ended, Workers: b.workers()}
	if b.o.WALMethod == walStream {
		options.Log = b.streamLog
	}
	if err := backup.Copy(ctx, b.place, source, options); err != nil {
		return err
	}
	b.progress.enter(phaseDone)
	b.verbose("base backup completed")
	return nil
}

// connect opens the connection and learns what everything else depends on.
func (b *baseBackupRun) connect(ctx context.Context) error {
	b.request = b.o.connectionRequest(b.report.name)
	params, err := b.request.Params()
	if err != nil {
		return err
	}
	if b.session, err = dialPatiently(ctx, b.report, params, b.o.Password); err != nil {
		return err
	}
	b.conn = converse(b.report, b.session)
	if err := b.checkVersion(); err != nil {
		return err
	}
	group, err := b.conn.GroupAccess(ctx)
	if err != nil {
		return err
	}
	b.dirMode, b.fileMode = setModes(group)
	if b.segment, err = b.conn.SegmentSize(ctx); err != nil {
		return err
	}
	b.system, err = b.conn.IdentifySystem(ctx)
	return err
}

// checkVersion refuses what this server cannot do.
func (b *baseBackupRun) checkVersion() error {
	if err := b.conn.CheckVersion(); err != nil {
		return err
	}
	version := b.conn.Version
	switch {
	case b.o.Incremental != "" && version < protocol.VersionIncremental:
		return errors.New("server does not support incremental backup")
	case b.o.Target != "" && version < protocol.VersionOptionList:
		return errors.New("backup targets are not supported by this server version")
	case b.o.SourceDirectory != "" && (b.o.Target != "" || b.serverCompresses()):
		return usererr.Hinted("Leave out --source-pgdata, and the server does it.",
			"the server neither stores nor compresses a backup that is made of its data directory")
	case b.o.Target != "" && b.o.WriteRecoveryConf:
		return errors.New("recovery configuration cannot be written when a backup target is used")
	case b.serverCompresses() && version < protocol.VersionOptionList:
		return usererr.Hinted("Use client-side compression, which works in tar format.",
			"server does not support server-side compression")
	}
	return nil
}

func (b *baseBackupRun) serverCompresses() bool {
	return b.o.Compression.Location == seal.Server && b.o.Compression.Algorithm != "none"
}

func (b *baseBackupRun) toOutput() bool {
	return b.o.Format == formatTar && b.o.Directory == "-"
}

// claim takes the directories the backup goes to.
func (b *baseBackupRun) claim() (err error) {
	if b.o.Target != "" || b.toOutput() {
		return nil
	}
	if b.dir, err = localfs.ClaimDir(b.o.Directory, b.dirMode); err != nil {
		return err
	}
	if b.o.WALDirectory != "" {
		b.walDir, err = localfs.ClaimDir(b.o.WALDirectory, b.dirMode)
	}
	return err
}

// source returns the backup that the server is to send, or that is to be made of its data
// directory.
func (b *baseBackupRun) source(ctx context.Context) (backup.Source, error) {
	command := b.command()
	if b.o.Incremental != "" {
		var err error
		if b.manifest, err = os.Open(b.o.Incremental); err != nil {
			return nil, localfs.Errorf(err, b.o.Incremental, "could not open file \"%s\"", b.o.Incremental)
		}
	}
	source, err := b.sourceOf(ctx, command)
	if err == nil && b.o.WriteRecoveryConf {
		return b.withRecovery(source)
	}
	return source, err
}

// sourceOf returns the source of what a command asks for.
func (b *baseBackupRun) sourceOf(ctx context.Context, command protocol.BaseBackup) (backup.Source, error) {
	if b.o.SourceDirectory != "" {
		return b.localSource(ctx, command)
	}
	b.raw = b.o.Target != "" || b.storesArchives(command.Manifest != "")
	options := client.BaseBackupOptions{
		Command: command, Segment: b.segment, Progress: &b.counts,
		Raw: b.raw,
		Decompress: func(r io.Reader, suffix string) (io.ReadCloser, error) {
			return seal.NewReader(r, seal.BySuffix(suffix))
		},
	}
	if b.manifest != nil {
		options.Manifest = b.manifest
	}
	return client.NewBaseBackup(b.conn, options), nil
}

// command returns what the backup is to be.
func (b *baseBackupRun) command() protocol.BaseBackup {
	command := protocol.BaseBackup{
		Label:             b.o.Label,
		Incremental:       b.o.Incremental != "",
		Progress:          !b.o.NoEstimateSize,
		WAL:               b.o.WALMethod == walFetch,
		FastCheckpoint:    b.o.FastCheckpoint,
		NoWait:            b.o.WALMethod != walNone,
		MaxRate:           b.o.MaxRate,
		TablespaceMap:     b.o.Format == formatTar && b.o.Target == "",
		NoVerifyChecksums: b.o.NoVerifyChecksums,
		ManifestChecksums: b.o.ManifestChecksums,
	}
	target, detail, hasDetail := strings.Cut(b.o.Target, ":")
	command.Target = target
	if hasDetail {
		command.TargetDetail = &detail
	}
	switch {
	case b.o.NoManifest || b.conn.Version < protocol.VersionManifest:
	case b.o.ManifestForceEncode:
		command.Manifest = "force-encode"
	default:
		command.Manifest = "yes"
	}
	if b.serverCompresses() {
		command.Compression = b.o.Compression.Algorithm
		if b.o.Compression.HasDetail {
			command.CompressionDetail = &b.o.Compression.Detail
		}
	}
	return command
}

// storesArchives says whether archives that the server compressed go to their
// files as they are. They have to be opened to add something.
func (b *baseBackupRun) storesArchives(manifest bool) bool {
	return b.o.Format == formatTar && b.serverCompresses() && !b.o.WriteRecoveryConf && !(b.toOutput() && manifest)
}

func (b *baseBackupRun) withRecovery(source backup.Source) (backup.Source, error) {
	database, err := b.request.StandbyDatabase(conninfo.ThisSystem())
	if err != nil {
		return nil, err
	}
	text, omitted := conninfo.RecoveryConf(b.session.Params, conninfo.Recovery{
		Slot: b.o.Slot, Database: database, ServerVersion: b.conn.Version,
	})
	for _, keyword := range omitted {
		b.report.warning("connection option \"%s\" is left out of primary_conninfo: a standby of version %s does not know it",
			keyword, b.conn.ServerVersion)
	}
	return backup.WithRecovery(source, backup.RecoveryOptions{
		Settings: text, Mode: b.fileMode, Signal: b.conn.Version >= protocol.VersionStandbySignal,
	}), nil
}

// sink returns the place the backup goes to.
func (b *baseBackupRun) sink(ctx context.Context) (backup.Sink, error) {
	switch {
	case b.o.Target != "":
		return backup.Nowhere{}, nil
	case b.o.Format == formatPlain:
		b.plain = plain.NewSink(plain.Options{
			Dir: b.dir, TablespaceMap: b.tablespaceMap(), WALDir: b.walDir,
			DirMode: b.dirMode, FileMode: b.fileMode, Sync: b.syncer(), Progress: &b.counts,
		})
		return b.plain, nil
	}
	o := tarball.Options{Dir: b.dir, FileMode: b.fileMode, Sync: b.syncer(), Progress: &b.counts}
	if b.toOutput() {
		var err error
		if o.Output, err = openOutput(ctx); err != nil {
			return nil, err
		}
	}
	spec, err := b.tarCompression()
	if err != nil {
		return nil, err
	}
	o.Compress, o.Suffix = compressor(spec)
	return tarball.NewSink(o), nil
}

// syncer returns how the backup is made durable.
func (b *baseBackupRun) syncer() localfs.Syncer {
	return localfs.Syncer{
		Method: b.o.SyncMethod, Off: b.o.NoSync, Step: b.step,
		Warn: func(err error) { b.report.warning("%s", err) },
	}
}

// tarCompression returns how archives that are written here are compressed: as
// the client was asked to, or, where an archive of the server had to be opened,
// again as the server did.
func (b *baseBackupRun) tarCompression() (seal.Spec, error) {
	if b.serverCompresses() && !b.raw {
		return b.o.Compression.Spec()
	}
	return b.o.Compression.Client, nil
}

// compressor returns what a tar place needs to compress as spec says.
func compressor(spec seal.Spec) (compress func(io.Writer) (io.WriteCloser, error), suffix string) {
	if spec.Algorithm == seal.None {
		return nil, ""
	}
	return func(w io.Writer) (io.WriteCloser, error) { return seal.NewWriter(w, spec) }, seal.Suffix(spec.Algorithm)
}

func (b *baseBackupRun) tablespaceMap() map[string]string {
	m := make(map[string]string)
	for _, t := range b.o.TablespaceMapping {
		if _, ok := m[t.Old]; !ok {
			m[t.Old] = t.New
		}
	}
	return m
}

// started is told that the checkpoint is done.
func (b *baseBackupRun) started(start backup.Start) {
	b.verbose("checkpoint completed")
	if b.o.WALMethod != walNone {
		b.verbose("write-ahead log start point: %v on timeline %d", start.Position.LSN, start.Position.Timeline)
	}
	b.progress.enter(phaseReceive)
}

// ended is told that all members came.
func (b *baseBackupRun) ended(end wal.Position) {
	b.progress.enter(phaseLog)
	if b.o.WALMethod != walNone {
		b.verbose("write-ahead log end point: %v", end.LSN)
	}
	if b.o.WALMethod == walStream {
		b.verbose("waiting for background process to finish streaming ...")
	}
}

// step is told what a sink does to finish.
func (b *baseBackupRun) step(text string) {
	b.progress.enter(phaseSync)
	b.verbose("%s", text)
}

func (b *baseBackupRun) verbose(format string, args ...any) {
	if b.o.Verbose {
		b.report.info(format, args...)
	}
}

// taken is a directory that was claimed, and what messages call it.
type taken struct {
	claim *localfs.Claim
	what  string
}

// claims returns all directories that were claimed, in the order they were.
func (b *baseBackupRun) claims() (all []taken) {
	if b.dir != nil {
		all = append(all, taken{b.dir, "data directory"})
	}
	if b.walDir != nil {
		all = append(all, taken{b.walDir, "WAL directory"})
	}
	if b.plain != nil {
		for _, c := range b.plain.Claims() {
			all = append(all, taken{c, "tablespace directory"})
		}
	}
	return all
}

// keep ends the claims of a backup that is wanted.
func (b *baseBackupRun) keep() error {
	var errs []error
	for _, t := range b.claims() {
		errs = append(errs, t.claim.Close())
	}
	return errors.Join(errs...)
}

// giveBack removes what a failed backup left, unless it is wanted all the same.
// What was claimed last goes first: it may be inside what was claimed before it.
//
// Source: cleanup_directories_atexit in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18.
func (b *baseBackupRun) giveBack() {
	if b.createdSlot {
		b.report.info("replication slot \"%s\" was created and holds back write-ahead log; use it without --create-slot, or drop it with pg_drop_replication_slot()", b.o.Slot)
	}
	for _, t := range slices.Backward(b.claims()) {
		if b.o.NoClean {
			b.report.info("%s \"%s\" not removed at user's request", t.what, t.claim.Path())
			_ = t.claim.Close() // a directory open for reading
			continue
		}
		if t.claim.Created() {
			b.report.info("removing %s \"%s\"", t.what, t.claim.Path())
		} else {
			b.report.info("removing contents of %s \"%s\"", t.what, t.claim.Path())
		}
		if err := t.claim.Remove(); err != nil {
			b.report.error(err)
		}
	}
}
