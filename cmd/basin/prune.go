package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"basin/internal/repo"
)

// pruning is what was removed of a cluster, or would be.
type pruning struct {
	name   repo.ClusterName
	report repo.PruneReport
	log    repo.PruneLogReport
	isDone bool // but perhaps for the log
}

// prune removes what no backup needs, of all clusters of the name.
func prune(ctx context.Context, c call) error {
	var o keepOptions
	err := o.parse(c, ageOption("keep-log", &o.LogFor), ageOption("keep-superseded", &o.Superseded), flagOption("discard-failed", 0, &o.Discard),
		flagOption("dry-run", 'n', &o.DryRun), flagOption("json", 0, &o.JSON))
	if err != nil {
		return err
	}
	if len(o.Backups) > 0 {
		return c.usage("too many command-line arguments (first is \"%s\")", o.Backups[0])
	}
	o.MakesRoom = true
	clusters, err := openSameName(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	var all []pruning
	var failed []error // of which none keeps the others
	for _, cluster := range clusters {
		p, err := o.prune(ctx, cluster, time.Now())
		if err != nil && len(clusters) > 1 {
			err = fmt.Errorf("cluster %v: %w", cluster.Name(), err)
		}
		if err != nil {
			failed = append(failed, err)
		}
		if p.isDone {
			all = append(all, p)
		}
	}
	if o.JSON {
		return errors.Join(append(failed, printJSON(c, listPruning(all, o.DryRun, errors.Join(failed...))))...)
	}
	var b strings.Builder
	for _, p := range all {
		if len(clusters) > 1 {
			fmt.Fprintf(&b, "cluster %s, system identifier %d\n", p.name.Name, p.name.SystemID)
		}
		p.tell(&b, o.DryRun)
	}
	_, err = io.WriteString(c.stdout, b.String())
	return errors.Join(append(failed, err)...)
}

// openSameName opens the repository and the parts of it that are of clusters of a name, oldest first: there are several after initdb and pg_upgrade.
func openSameName(ctx context.Context, o repositoryOptions) ([]*repo.Cluster, error) {
	p, err := o.place()
	if err != nil {
		return nil, err
	}
	o.sayWhich(p)
	r, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := mustRead(r); err != nil {
		return nil, err
	}
	clusters, err := sameName(ctx, r, p.Cluster, o.SystemID)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", p.Location, err)
	}
	return clusters, nil
}

// sameName returns the clusters of a name, and of a system identifier if one is given.
func sameName(ctx context.Context, r *repo.Repository, name string, systemID uint64) ([]*repo.Cluster, error) {
	all, err := r.Clusters(ctx)
	if err != nil {
		return nil, err
	}
	matching, err := matchClusters(all, name, systemID)
	if err != nil {
		return nil, err
	}
	var clusters []*repo.Cluster
	for _, m := range matching {
		c, err := r.Cluster(m.Name, m.SystemID)
		if err != nil {
			return nil, err
		}
		clusters = append(clusters, c)
	}
	return clusters, nil
}

// prune removes what no backup of a cluster needs.
func (o *keepOptions) prune(ctx context.Context, cluster *repo.Cluster, now time.Time) (p pruning, err error) {
	p.name = cluster.Name()
	if p.report, err = cluster.Prune(ctx, repo.PruneOptions{Now: now, DryRun: o.DryRun, DiscardFailed: o.Discard}); err != nil {
		return p, err
	}
	p.isDone = true
	p.log, err = cluster.PruneLog(ctx, repo.PruneLogOptions{Now: now, DryRun: o.DryRun, Within: o.LogFor, Superseded: o.Superseded})
	return p, err
}

// tell tells people what was removed.
func (p *pruning) tell(b *strings.Builder, isDry bool) {
	removed := "removed"
	if isDry {
		removed = "would be removed"
	}
	fmt.Fprintf(b, "of %s: %s and %s of index, %s, %s\n", counted(p.report.Backups, "backup"),
		counted(p.report.Packs, "pack"), counted(p.report.Parts, "part"), bytesText(p.report.Removed), removed)
	fmt.Fprintf(b, "of the log: %s, %s, %s\n", counted(p.log.Files, "file"), bytesText(p.log.Removed), removed)
	b.WriteString(keptText("", p.report.Locked))
	b.WriteString(keptText(" of the log", p.log.Locked))
	if p.log.Waits {
		b.WriteString("log is removed once the backup that is being made has ended\n")
	}
	if p.log.Lacks != "" {
		fmt.Fprintf(b, "not each moment of the time for which log is kept can be restored: %s\n", p.log.Lacks)
	}
	if p.report.Thin > 0 {
		fmt.Fprintf(b, "%s, mostly of no use, can be removed after the next backup\n", counted(p.report.Thin, "pack"))
	}
	for _, id := range p.report.GivenUp {
		fmt.Fprintf(b, "backup %s, whose host was not heard of any more, was given up\n", id)
	}
	fmt.Fprintf(b, "%s are left, log apart\n", bytesText(p.report.Kept))
	if f := p.report.Failed; f.Objects > 0 {
		fmt.Fprintf(b, "%s of that are of failed backups, for the next one to take over until %s; --discard-failed removes them now\n", bytesText(f.Bytes), stamp(f.Until))
	}
}

// pruneListing is what basin prune has removed, for programs. Its shape is documented in docs/repository.md.
type pruneListing struct {
	DryRun   bool            `json:"dryRun"`
	Clusters []prunedListing `json:"clusters"`
	Problems []string        `json:"problems"`
}

// prunedListing is what basin prune has removed of a cluster.
type prunedListing struct {
	Cluster  string           `json:"cluster"`
	SystemID string           `json:"systemID"`
	Backups  int              `json:"backups"` // that are there
	Packs    int              `json:"packs"`   // that were removed, as all that follows up to left
	Parts    int              `json:"parts"`
	Bytes    int64            `json:"bytes"`
	Left     int64            `json:"left"`   // bytes
	Failed   keptListing      `json:"failed"` // what of that failed backups have stored, for the next one to take over
	Locked   keptListing      `json:"locked"` // what would have been removed, too
	Thin     int              `json:"thin"`
	GivenUp  []string         `json:"givenUp"`
	Log      prunedLogListing `json:"log"`
}

// prunedLogListing is what was removed of the log.
type prunedLogListing struct {
	Files  int         `json:"files"`
	Bytes  int64       `json:"bytes"`
	Left   int         `json:"left"` // files
	Locked keptListing `json:"locked"`
	Waits  bool        `json:"waits"`
	Lacks  string      `json:"lacks,omitempty"`
}

// keptListing is what could not be removed, since it is locked, or kept for a time.
type keptListing struct {
	Objects int        `json:"objects"`
	Bytes   int64      `json:"bytes"`
	Until   *time.Time `json:"until"` // null if it is not known
}

// listPruning returns for programs what was removed.
func listPruning(all []pruning, isDry bool, failed error) pruneListing {
	kept := func(k repo.Kept) keptListing { return keptListing{k.Objects, k.Bytes, timeIfAny(k.Until)} }
	l := pruneListing{DryRun: isDry, Clusters: []prunedListing{}, Problems: problemTexts(failed)}
	for _, p := range all {
		r := &p.report
		l.Clusters = append(l.Clusters, prunedListing{
			Cluster: p.name.Name, SystemID: strconv.FormatUint(p.name.SystemID, 10),
			Backups: r.Backups, Packs: r.Packs, Parts: r.Parts, Bytes: r.Removed, Left: r.Kept,
			Failed: kept(r.Failed), Locked: kept(r.Locked), Thin: r.Thin, GivenUp: append([]string{}, r.GivenUp...),
			Log: prunedLogListing{p.log.Files, p.log.Removed, p.log.Kept, kept(p.log.Locked), p.log.Waits, p.log.Lacks},
		})
	}
	return l
}
