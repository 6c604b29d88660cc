package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/client"
	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/repo"
	"basin/internal/spool"
	"basin/internal/usererr"
	"basin/internal/waldir"
)

// receiveOptions is what the command line of basin receive asks for. Directory is the spool.
type receiveOptions struct {
	repositoryOptions
	receiveWALOptions

	InRepository bool  // before it is acknowledged
	Limit        int64 // of the spool, in bytes; zero is spool.DefaultLimit
}

// defaultSpool is where the spools of clusters are that are not said to be elsewhere.
const defaultSpool = "/var/lib/basin/receive"

// receiveTable returns the options of basin receive, which write to o.
func receiveTable(o *receiveOptions, c call) []getopt.Option {
	table := append(append(o.repositoryOptions.options(), o.connectionOptions.table()...),
		textOption("slot", 'S', &o.Slot, nil),
		flagOption("create-slot", 0, &o.CreateSlot),
		flagOption("synchronous", 0, &o.Synchronous),
		getopt.Option{Long: "ack", Value: func(value string) error {
			switch value {
			case "spool", "repository":
				o.InRepository = value == "repository"
				return nil
			}
			return fmt.Errorf("invalid --ack argument \"%s\", must be \"spool\" or \"repository\"", value)
		}},
		textOption("spool", 0, &o.Directory, nil),
		getopt.Option{Long: "spool-limit", Value: func(value string) error {
			limit, err := humanize.ParseBytes(value)
			if err != nil || limit == 0 || limit > 1<<50 {
				return fmt.Errorf("invalid size \"%s\" of --spool-limit", value)
			}
			o.Limit = int64(limit)
			return nil
		}},
		secondsOption("status-interval", 's', &o.StatusInterval),
		getopt.Option{Long: "endpos", Short: 'E', Value: func(value string) (err error) {
			o.EndPosition, err = parsePosition(value, "end")
			return err
		}},
		flagOption("no-loop", 'n', &o.NoLoop),
		flagOption("verbose", 'v', &o.Verbose),
		c.logFormat(),
	)
	return append(table, o.monitoringOptions.table()...)
}

// receiveIntoRepository is basin receive.
func receiveIntoRepository(ctx context.Context, c call) error {
	o := receiveOptions{receiveWALOptions: receiveWALOptions{StatusInterval: 10 * time.Second}}
	o.Say = c.report.info
	operands, err := c.parse(receiveTable(&o, c))
	switch {
	case err != nil:
		return err
	case len(operands) > 0:
		return c.usage("too many command-line arguments (first is \"%s\")", operands[0])
	case o.CreateSlot && o.Slot == "":
		return c.usage("--create-slot needs a slot to be specified using --slot")
	}
	if err := o.configure(); err != nil {
		return err
	}
	if err := makeFolder(o.Directory); err != nil {
		return usererr.Hinted("Name a directory with --spool in which this user may write, on a disk that outlives the machine's restart.",
			"the spool: %w", err)
	}
	run := &receiveWALRun{report: c.report, o: o.receiveWALOptions}
	run.o.CreateSlot = false // which would be all that is done
	run.afterGap = "All that was received is in the repository, or in the spool and pushed from there by the next start, but what comes next is gone: " +
		"nothing can be restored through the gap. Take a new backup (basin backup), which begins behind it; then remove \"" + o.Directory + "\" and start the receiver again. " +
		"A slot (--slot, --create-slot) holds the log, up to max_slot_wal_keep_size; one that was invalidated is to be dropped first."
	run.behind = "A standby that lags comes to it: it is tried again. A server that was restored to an earlier state writes another log from there on, under the same names: " +
		"receive it into another --cluster, with a --spool of its own."
	r := &receiver{receiveWALRun: run, o: o}
	run.open, run.prepare, run.reopened = r.openSpool, r.makeSlot, r.reopenSpool
	return run.run(ctx)
}

// configure takes what the command line does not say of the cluster from the configuration.
func (o *receiveOptions) configure() error {
	o.WritesLog = true
	p, err := o.place()
	if err != nil {
		return err
	}
	if o.ConnectionString == "" && o.Host == "" && o.Port == "" && o.User == "" {
		o.ConnectionString = p.Connection
	}
	o.Directory = localfs.Canonical(cmp.Or(o.Directory, filepath.Join(defaultSpool, cmp.Or(p.Cluster, "main"))))
	return nil
}

// receiver is a receiver into a repository.
type receiver struct {
	*receiveWALRun
	o      receiveOptions
	hasHad bool // log of the cluster in the spool
}

// openSpool opens the spool, and the repository, for the log of a cluster.
func (r *receiver) openSpool(ctx context.Context, o waldir.Options) (logPlace, error) {
	if r.o.SystemID != 0 && r.o.SystemID != o.SystemID {
		return nil, usererr.Hinted("Is it the server that was meant?", "the server is of cluster %d, and --system-id is %d", o.SystemID, r.o.SystemID)
	}
	s, err := spool.Open(ctx, spool.Options{
		Directory: o, Limit: r.o.Limit, InRepository: r.o.InRepository,
		Repository: func(ctx context.Context) (*repo.Cluster, error) { return r.openCluster(ctx, o.SystemID) },
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// openCluster opens the part of the repository that is of the server's cluster. If there is another of that
// name already it is to be said that this one is meant.
func (r *receiver) openCluster(ctx context.Context, systemID uint64) (*repo.Cluster, error) {
	repository, c, err := openClusterToKeep(ctx, r.o.repositoryOptions, systemID)
	if err != nil || r.o.SystemID != 0 || r.hasHad {
		return c, err
	}
	all, err := repository.Clusters(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(n repo.ClusterName) bool { return n.Name == c.Name().Name })
	if i >= 0 && !slices.Contains(all, c.Name()) {
		return nil, usererr.Hinted(fmt.Sprintf("Is it the server that was meant? If it is a new cluster in place of that one, as after initdb or pg_upgrade, say --system-id=%d; else name it with --cluster.", systemID),
			"the server is of cluster %d, and what the repository has under the name %s is of cluster %d", systemID, c.Name().Name, all[i].SystemID)
	}
	return c, nil
}

// reopenSpool opens the spool if there is log in it, which goes up whether there is a server or not.
func (r *receiver) reopenSpool(ctx context.Context) error {
	systemID, size, ok, err := spool.Holds(r.o.Directory)
	if err != nil || !ok {
		return err
	}
	r.hasHad = true
	r.system.ID, r.segment = strconv.FormatUint(systemID, 10), size
	r.dir, err = r.openSpool(ctx, r.directoryOptions(systemID))
	return err
}

// makeSlot makes the slot if that is wanted and it is not there: after a failover, on the new primary. Where the log
// is not held that comes next, the server says so.
func (r *receiver) makeSlot(ctx context.Context) error {
	if !r.o.CreateSlot {
		return nil
	}
	if r.conn.CanReadSlots() {
		if _, err := r.conn.ReadSlot(ctx, r.o.Slot); !errors.Is(err, client.ErrGap) {
			return err
		}
	}
	err := r.conn.CreatePhysicalSlot(ctx, r.o.Slot, false, true)
	switch {
	case client.SlotExists(err):
		return nil
	case err == nil:
		r.report.info("made replication slot \"%s\"", r.o.Slot)
	}
	return err
}

// earlyTimeout is how long the repository may take for what is in the spool if there is no server.
const earlyTimeout = 10 * time.Minute

// endEarly ends a receiver that has not come to its server, by err. What is in the spool goes up all the same.
func (r *receiveWALRun) endEarly(ctx context.Context, err error) error {
	if r.dir == nil {
		return err
	}
	if s, ok := r.dir.(*spool.Spool); ok && s.Backlog() > 0 {
		r.report.info("%v", err)
		r.report.info("the log in the spool is pushed before the receiver ends")
		ctx, cancel := context.WithTimeout(ctx, earlyTimeout)
		defer cancel()
		_ = s.Drain(ctx) // Close tells what is left
	}
	return errors.Join(err, r.dir.Close())
}
