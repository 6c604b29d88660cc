package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"

	"basin/internal/backup"
	"basin/internal/getopt"
	"basin/internal/inplace"
	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// restoreOptions is what the command line of basin restore asks for.
type restoreOptions struct {
	repositoryOptions

	Part              partOptions
	Directory         string // a dash in tar format is the standard output
	Format            backupFormat
	Compression       seal.Spec           // of tar files
	TablespaceMapping []tablespaceMapping // canonical, in the order given; the first that fits counts
	Backup            string              // empty: the newest that leads to the target
	Target            recoveryTarget
	Standby           bool
	Delta             bool   // Directory may be a data directory, which is made the backup
	DiscardLog        bool   // of what is in Directory, that is nowhere else
	OverCluster       uint64 // Directory may be of that cluster
	OverUnknown       bool   // it may be of one that is not known
	NoSpaceCheck      bool
	ArchiveMode       bool // is left as the source has it
	Jobs              int
	DryRun            bool
	JSON              bool
	NoSync            bool
	Progress          bool
}

// restoreTable returns the options of basin restore, which write to o.
func restoreTable(o *restoreOptions) []getopt.Option {
	return append(slices.Concat(o.repositoryOptions.options(), o.Part.options(), o.Target.options()),
		textOption("pgdata", 'D', &o.Directory, nil),
		getopt.Option{Long: "tablespace-mapping", Short: 'T', Value: func(value string) error {
			m, err := parseTablespaceMapping(value)
			o.TablespaceMapping = append(o.TablespaceMapping, m)
			return err
		}},
		textOption("backup", 'b', &o.Backup, nil),
		getopt.Option{Long: "format", Short: 'F', Value: o.Format.set},
		getopt.Option{Long: "compress", Short: 'Z', Value: func(value string) (err error) {
			o.Compression, err = seal.ParseMethod(value).Spec()
			return err
		}},
		flagOption("standby", 0, &o.Standby),
		flagOption("delta", 0, &o.Delta),
		flagOption("discard-wal", 0, &o.DiscardLog),
		getopt.Option{Long: "over-cluster", Value: func(value string) (err error) {
			if o.OverUnknown = value == "unknown"; o.OverUnknown {
				return nil
			}
			if o.OverCluster, err = strconv.ParseUint(value, 10, 64); err != nil || o.OverCluster == 0 {
				return fmt.Errorf("invalid system identifier \"%s\"", value)
			}
			return nil
		}},
		flagOption("no-space-check", 0, &o.NoSpaceCheck),
		flagOption("keep-archive-mode", 0, &o.ArchiveMode),
		getopt.Option{Long: "jobs", Short: 'j', Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}},
		flagOption("dry-run", 'n', &o.DryRun),
		flagOption("json", 0, &o.JSON),
		flagOption("no-sync", 'N', &o.NoSync),
		flagOption("progress", 'P', &o.Progress),
	)
}

// restoreCluster is basin restore.
func restoreCluster(ctx context.Context, c call) error {
	o := restoreOptions{Jobs: runtime.GOMAXPROCS(0)}
	o.Say = c.report.info
	operands, err := c.parse(restoreTable(&o))
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	case o.Directory == "":
		return c.usage("no data directory specified: --pgdata names it")
	case o.Standby && o.Target.kind != "":
		return c.usage("a standby has no target")
	case o.checkPart() != "":
		return c.usage("%s", o.checkPart())
	case len(o.Part.Files) > 0 && (o.Delta || o.Format == formatTar):
		return c.usage("--file writes files anew, below a directory that is absent or empty")
	case o.Format == formatTar && (o.Delta || o.DiscardLog || o.OverCluster != 0 || o.OverUnknown):
		return c.usage("tar files are made anew: --delta, --discard-wal and --over-cluster are for a data directory")
	case o.Format == formatPlain && o.Compression.Algorithm != seal.None:
		return c.usage("only tar files can be compressed: --format=tar makes some")
	case o.Format == formatPlain && o.Directory == "-":
		return c.usage("only tar files can go to the standard output: --format=tar makes some")
	case o.Directory == "-" && o.JSON:
		return c.usage("the standard output takes the backup, and not what --json prints: name a directory")
	}
	r, err := openRepositoryFor(ctx, c.report, &o)
	if err != nil {
		return err
	}
	if len(o.Part.Files) > 0 {
		return restoreFiles(ctx, c, o, r)
	}
	if o.Backup != "" {
		commit, err := findBackup(ctx, r, o.Backup)
		if err != nil {
			return err
		}
		o.Backup = commit.ID
	}
	run := &restoreRun{report: c.report, o: o, cluster: r, without: make(map[string]bool)}
	if err := run.look(ctx); err != nil {
		return err
	}
	plan, err := run.plan(ctx)
	if err != nil {
		return err
	}
	if run.part, err = chooseDatabases(ctx, r, plan.commit, o.Part.Databases); err != nil {
		return err
	}
	if err := run.checkPlaces(plan); err != nil {
		return err
	}
	conf, settings, err := run.adopt(ctx, plan.commit)
	if err != nil {
		return err
	}
	plan.conf = conf
	if plan.raised, err = run.raise(ctx, plan, settings); err != nil {
		return err
	}
	if plan.space, err = run.space(ctx, plan); err != nil {
		return err
	}
	if plan.rate = run.rate(ctx, plan); ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return run.carryOut(ctx, c, plan)
}

// carryOut tells the plan, does what it says unless that is not wanted, and tells what came of it; for programs all at once.
func (r *restoreRun) carryOut(ctx context.Context, c call, p *restorePlan) error {
	if !r.o.JSON {
		if err := r.print(c, p.text(r)); err != nil {
			return err
		}
	}
	err := r.checkSpace(p)
	if err == nil && !r.o.DryRun {
		err = r.restore(ctx, p)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return err
	case r.o.JSON:
		return errors.Join(err, printJSON(c, r.result(p, err)))
	case err != nil || r.o.DryRun:
		return err
	}
	return r.print(c, r.next(p))
}

// restore makes the data directory, or tar files.
func (r *restoreRun) restore(ctx context.Context, p *restorePlan) (err error) {
	if r.o.Format == formatTar {
		err = r.writeTar(ctx, p)
	} else {
		err = r.write(ctx, p)
	}
	if errors.Is(err, seal.ErrDamaged) && usererr.Hint(err) == "" {
		return usererr.Hinted("basin verify names the backups that need what is damaged. Restore one that does not, with --backup, or from another repository; the same command goes on with what is there already.", "%w", err)
	}
	return err
}

// openRepositoryFor returns the cluster that is restored. Of several repositories it is the one that leads furthest, which o then
// names: that the log is there is proved of it, and recovery depends on no other.
func openRepositoryFor(ctx context.Context, r *report, o *restoreOptions) (*repo.Cluster, error) {
	one, c, err := furthest(ctx, r, o.repositoryOptions)
	o.repositoryOptions = one
	return c, err
}

// restoreRun is one restore on its way.
type restoreRun struct {
	report   *report
	o        restoreOptions
	cluster  *repo.Cluster
	part     *databasePart
	line     wal.Timeline       // on which the cluster is now; zero if it does not count, or is not known
	into     *inplace.Directory // what is at the place of the data directory; nil for tar files
	without  map[string]bool    // files of the log in which a transaction that is looked for did not end
	warnings []string           // of the plan
	written  int64              // bytes of files
	counts   backup.Progress
	progress *progress
}

// warn prints a warning, which is of the plan.
func (r *restoreRun) warn(format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf(format, args...))
	r.report.warning(format, args...)
}
