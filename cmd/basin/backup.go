package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/backup"
	"basin/internal/client"
	"basin/internal/cluster"
	"basin/internal/connect"
	"basin/internal/getopt"
	"basin/internal/live"
	"basin/internal/protocol"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// backupOptions is what the command line of basin backup asks for.
type backupOptions struct {
	repositoryOptions
	connectionOptions

	DataDirectory     string // that is read here; empty: the server sends it
	Label             string
	Full              bool // without a parent
	FullScan          bool // every page is read
	FullScanEvery     time.Duration
	FastCheckpoint    bool
	MaxRate           int // kB a second; zero is no limit
	NoVerifyChecksums bool
	NoSlot            bool
	Jobs              int // that compress; zero is one for each processor
	Progress          bool
	Verbose           bool
	JSON              bool
}

// backupTable returns the options of basin backup, which write to o.
func backupTable(o *backupOptions) []getopt.Option {
	return append(append(o.repositoryOptions.options(), o.connectionOptions.table()...),
		textOption("pgdata", 'D', &o.DataDirectory, nil),
		textOption("label", 'l', &o.Label, nil),
		flagOption("full", 0, &o.Full),
		flagOption("full-scan", 0, &o.FullScan),
		ageOption("full-scan-every", &o.FullScanEvery),
		getopt.Option{Long: "checkpoint", Short: 'c', Value: func(value string) error {
			switch value {
			case "fast":
				o.FastCheckpoint = true
			case "spread":
				o.FastCheckpoint = false
			default:
				return fmt.Errorf("invalid checkpoint argument \"%s\", must be \"fast\" or \"spread\"", value)
			}
			return nil
		}},
		getopt.Option{Long: "max-rate", Short: 'r', Value: func(value string) (err error) {
			o.MaxRate, err = parseMaxRate(value)
			return err
		}},
		getopt.Option{Long: "jobs", Short: 'j', Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}},
		flagOption("no-verify-checksums", 0, &o.NoVerifyChecksums),
		flagOption("no-slot", 0, &o.NoSlot),
		flagOption("progress", 'P', &o.Progress),
		flagOption("verbose", 'v', &o.Verbose),
		flagOption("json", 0, &o.JSON),
	)
}

// backupIntoRepository is basin backup.
func backupIntoRepository(ctx context.Context, c call) error {
	o := backupOptions{Label: "basin backup", FullScanEvery: fullScanEvery}
	o.Say = c.report.info
	operands, err := c.parse(backupTable(&o))
	if err != nil {
		return err
	}
	if len(operands) > 0 {
		return c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	}
	if err := o.configure(); err != nil {
		return err
	}
	debug.SetMemoryLimit(backupMemory)
	return inEach(ctx, c.report, o.repositoryOptions, func(one repositoryOptions) error {
		o := o
		o.repositoryOptions = one
		return backupInto(ctx, c, o)
	})
}

// backupInto takes a backup into one repository, and tells it.
func backupInto(ctx context.Context, c call, o backupOptions) error {
	b := &repositoryBackup{report: c.report, o: o}
	defer b.close()
	commit, err := b.run(ctx)
	b.progress.stop()
	if commit == nil {
		return err
	}
	if printed := b.print(c, commit); err == nil {
		err = printed
	}
	return err
}

// backupMemory is how much memory a backup takes, about, in bytes: what is not needed is collected
// before it is more. Less than that is in use, whatever the size of the cluster.
const backupMemory = 240 << 20

// configure takes what the command line does not say of the cluster from the configuration.
func (o *backupOptions) configure() error {
	p, err := o.place()
	if err != nil {
		return err
	}
	if o.ConnectionString == "" && o.Host == "" && o.Port == "" && o.User == "" {
		o.ConnectionString = p.Connection
		o.DataDirectory = cmp.Or(o.DataDirectory, p.DataDirectory)
	}
	return nil
}

// repositoryBackup is one backup on its way.
type repositoryBackup struct {
	report     *report
	o          backupOptions
	repository *repo.Repository
	cluster    *repo.Cluster

	session  *connect.Session
	conn     *client.Conn
	local    *localCluster // whose data directory is read here; nil if the server sends it
	system   client.System
	segment  int64
	counts   backup.Progress
	progress *progress
	logLost  error // why the log could not be streamed to its end
}

func (b *repositoryBackup) close() {
	if b.conn != nil {
		_ = b.conn.Close() // all that was wanted has come, or will not
	}
	if b.local != nil {
		b.local.close()
	}
}

// run takes the backup, and returns it once it is there: with an error if it is damaged.
func (b *repositoryBackup) run(ctx context.Context) (*repo.Commit, error) {
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	parent, err := b.parent(ctx)
	if err != nil {
		return nil, err
	}
	source, err := b.choose(ctx, parent)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	conf := b.configuration(ctx)
	sink := b.cluster.NewSink(repo.SinkOptions{
		Label: b.o.Label, Parent: parent, Since: source.since, Configuration: conf.told, Adopt: !b.o.Full, Workers: b.o.Jobs, Progress: &b.counts,
	})
	defer func() {
		if err := sink.Close(); err != nil {
			b.report.warning("after the backup: %s", err)
		}
	}()
	if b.o.Progress {
		b.progress = startProgress(b.report, &b.counts, progressFormFor(b.report, b.o.Verbose, os.Getenv))
	}
	b.verbose("waiting for a checkpoint of the server")
	err = backup.Copy(ctx, sink, &confSaver{Source: source, conf: conf, report: b.report}, backup.Options{Started: b.started, Ended: b.ended, Log: b.streamLog})
	if err == nil {
		b.progress.enter(phaseDone)
	}
	if errors.Is(err, backup.ErrPageChecksums) {
		err = usererr.Hinted("The server's log names the files; the backup is kept, marked as damaged, and counts as none. Look at the server's disks.",
			"the server has pages with wrong checksums")
	}
	written := sink.Written()
	if err == nil {
		err = b.checkLog(ctx, written)
	}
	return written, err
}

// connect reaches the server and learns which cluster it is.
func (b *repositoryBackup) connect(ctx context.Context) error {
	params, err := b.o.connectionRequest(b.report.name).Params()
	if err != nil {
		return err
	}
	if b.session, err = dial(ctx, b.report, params, b.o.Password); err != nil {
		return err
	}
	b.conn = converse(b.report, b.session)
	if err := b.conn.CheckVersion(); err != nil {
		return err
	}
	if b.segment, err = b.conn.SegmentSize(ctx); err != nil {
		return err
	}
	if b.system, err = b.conn.IdentifySystem(ctx); err != nil {
		return err
	}
	id, err := strconv.ParseUint(b.system.ID, 10, 64)
	if err != nil {
		return fmt.Errorf("system identifier %q: %w", b.system.ID, err)
	}
	if b.repository, b.cluster, err = openClusterToKeep(ctx, b.o.repositoryOptions, id); err != nil {
		return err
	}
	keepIndex(b.report, b.repository)
	return nil
}

// parent chooses the backup of which the blocks need not be stored again: the newest. That it is
// one of the same line of the log need not be: each block is compared.
func (b *repositoryBackup) parent(ctx context.Context) (*repo.Commit, error) {
	if b.o.Full {
		return nil, nil
	}
	commits, err := b.cluster.Backups(ctx)
	if err != nil && b.repository.CanRead() { // else those of others are meant
		b.report.warning("some backups cannot be read, and are not relied on: %s", err)
	}
	for i := len(commits) - 1; i >= 0; i-- {
		err := b.cluster.CheckParent(ctx, commits[i])
		switch {
		case err == nil:
			b.verbose("what did not change since backup %s is not stored again", commits[i].ID)
			return &commits[i], nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, repo.ErrNoKey):
			b.verbose("backup %s is not relied on: %s", commits[i].ID, err)
		default:
			b.report.warning("backup %s is damaged, and not relied on: %s", commits[i].ID, err)
		}
	}
	if !b.repository.CanRead() {
		b.report.info("the repository's private key is not here, and this host does not know what older backups have: all is stored")
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, nil
}

// source returns the backup that the server sends, or that is made of its data directory; with a
// manifest an incremental one.
func (b *repositoryBackup) source(ctx context.Context, parent *parentManifest) (backup.Source, error) {
	command := protocol.BaseBackup{
		Label: b.o.Label, Progress: true, FastCheckpoint: b.o.FastCheckpoint, NoWait: true,
		MaxRate: b.o.MaxRate, NoVerifyChecksums: b.o.NoVerifyChecksums, ManifestChecksums: "CRC32C",
	}
	if b.conn.Version >= protocol.VersionManifest {
		command.Manifest = "yes"
	} else {
		command.ManifestChecksums = ""
	}
	if b.o.DataDirectory == "" {
		o := client.BaseBackupOptions{Command: command, Segment: b.segment, Progress: &b.counts}
		if parent != nil {
			o.Command.Incremental, o.Manifest = true, parent.reader()
		}
		return client.NewBaseBackup(b.conn, o), nil
	}
	if b.local == nil {
		var err error
		if b.local, err = openLocal(ctx, b.o.connectionRequest(b.report.name), b.session, b.o.DataDirectory); err != nil {
			return nil, err
		}
	}
	o, err := cluster.BackupOptions(command)
	if err != nil {
		return nil, err
	}
	if parent != nil {
		if o.Parent, err = parent.catalog(); err != nil {
			return nil, err
		}
	}
	o.Progress = &b.counts
	o.Notice = func(n live.Notice) { b.report.notice(connect.NoticeText(n.Severity, n.Message, n.Detail, n.Hint)) }
	source, err := b.local.Source(ctx, o)
	if err != nil || b.o.MaxRate == 0 {
		return source, err
	}
	return backup.WithRate(source, int64(b.o.MaxRate)*1024), nil
}

// started is told that the checkpoint is done.
func (b *repositoryBackup) started(start backup.Start) {
	b.verbose("the backup begins at %v on timeline %d", start.Position.LSN, start.Position.Timeline)
	b.progress.enter(phaseReceive)
}

// ended is told that all members came.
func (b *repositoryBackup) ended(end wal.Position) {
	b.progress.enter(phaseLog)
	b.verbose("the backup ends at %v on timeline %d", end.LSN, end.Timeline)
}

func (b *repositoryBackup) verbose(format string, args ...any) {
	if b.o.Verbose {
		b.report.info(format, args...)
	}
}

// print tells what was made.
func (b *repositoryBackup) print(c call, commit *repo.Commit) error {
	if b.o.JSON {
		return printJSON(c, listBackup(b.cluster.Name(), *commit))
	}
	kind := "full"
	if commit.Parent != "" {
		kind = "on " + commit.Parent
	}
	_, err := fmt.Fprintf(c.stdout, "backup %s of %s (%s): %s in %s files, %s stored, in %v\n", commit.ID, b.cluster.Name().Name, kind,
		humanize.IBytes(uint64(commit.Size)), humanize.Comma(commit.Files), humanize.IBytes(uint64(commit.Stored)),
		commit.Ended.Sub(commit.Began).Round(100*time.Millisecond))
	return err
}
