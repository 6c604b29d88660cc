package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/wal"
)

// listOptions is what the command lines of list and show ask for.
type listOptions struct {
	repositoryOptions
	JSON     bool
	Files    bool // of the backup, those whose paths are like the second operand, if there is one
	Operands []string
}

// parseList reads a command line with so many operands.
func parseList(c call, operands int) (o listOptions, err error) {
	table := []getopt.Option{flagOption("json", 0, &o.JSON)}
	if operands > 0 {
		table = append(table, flagOption("files", 0, &o.Files))
	}
	for i := range table {
		table[i].Whole = true
	}
	o.Say = c.report.info
	if o.Operands, err = c.parse(append(append(o.options(), table...), c.logFormat())); err != nil {
		return o, err
	}
	most := operands
	if o.Files {
		most++
	}
	switch {
	case len(o.Operands) > most:
		return o, c.usage("too many command-line arguments (first is \"%s\")", o.Operands[most])
	case len(o.Operands) < operands:
		return o, c.usage("no backup is named")
	}
	return o, nil
}

// listing is what list --json prints. Its shape is documented in docs/repository.md: fields are added, and none
// is changed or removed.
type listing struct {
	Repository repo.ID          `json:"repository"`
	Clusters   []clusterListing `json:"clusters"`
	Problems   []string         `json:"problems"` // what could not be read
}

// clusterListing is a cluster's part of a listing.
type clusterListing struct {
	Cluster  string          `json:"cluster"`
	SystemID string          `json:"systemID"` // decimal; too large for the numbers of many readers
	Backups  []backupListing `json:"backups"`  // oldest first

	Restorable  []timelineListing `json:"restorable"`  // by number
	Unreachable []string          `json:"unreachable"` // why some of it cannot be restored
}

// backupListing is what list --json and show --json print of a backup.
type backupListing struct {
	ID            string              `json:"id"`
	Cluster       string              `json:"cluster"`
	SystemID      string              `json:"systemID"`
	Label         string              `json:"label"`
	Kind          string              `json:"kind"` // full or incremental
	Parent        string              `json:"parent,omitempty"`
	Damaged       bool                `json:"damaged"`
	Began         time.Time           `json:"began"`
	Ended         time.Time           `json:"ended"`
	FullScan      time.Time           `json:"fullScan"`
	ServerVersion int                 `json:"serverVersion"`
	SegmentSize   int64               `json:"segmentSize"`
	Timeline      wal.Timeline        `json:"timeline"`
	Start         wal.LSN             `json:"start"`
	Stop          *wal.LSN            `json:"stop"` // null if damaged
	Files         int64               `json:"files"`
	Size          int64               `json:"size"`
	Stored        int64               `json:"stored"`
	Tablespaces   []tablespaceListing `json:"tablespaces"`
	Configuration *repo.Configuration `json:"configuration,omitempty"` // that was outside of the data directory

	Leads   []leadListing `json:"restorable,omitempty"` // of show alone: to where log leads from it
	Problem string        `json:"problem,omitempty"`    // of show alone: why it cannot be restored
}

// tablespaceListing is a tablespace of a backup.
type tablespaceListing struct {
	OID      uint32 `json:"oid"`
	Location string `json:"location"`
}

// listBackup returns what is told of a backup.
func listBackup(name repo.ClusterName, k repo.Commit) backupListing {
	b := backupListing{
		ID: k.ID, Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Label: k.Label,
		Kind: "full", Parent: k.Parent, Damaged: k.Damaged,
		Began: k.Began, Ended: k.Ended, FullScan: k.FullScan, ServerVersion: k.ServerVersion, SegmentSize: k.SegmentSize,
		Timeline: cmp.Or(k.Stop.Timeline, k.Start.Timeline), Start: k.Start.LSN,
		Files: k.Files, Size: k.Size, Stored: k.Stored, Tablespaces: []tablespaceListing{}, Configuration: k.Configuration,
	}
	if k.Parent != "" {
		b.Kind = "incremental"
	}
	if k.Stop != (wal.Position{}) {
		b.Stop = &k.Stop.LSN
	}
	for _, t := range k.Tablespaces {
		b.Tablespaces = append(b.Tablespaces, tablespaceListing{t.OID, t.Location})
	}
	return b
}

// list lists the backups of a repository.
func list(ctx context.Context, c call) error {
	o, err := parseList(c, 0)
	if err != nil {
		return err
	}
	r, err := openRepository(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	if err := mustRead(r); err != nil {
		return err
	}
	all, err := r.Clusters(ctx)
	if err != nil {
		return err
	}
	l := listing{Repository: r.Info().ID, Clusters: []clusterListing{}, Problems: []string{}}
	var problems []error
	// A cluster that the configuration alone names hides no others.
	wanted := cmp.Or(o.Cluster, os.Getenv("BASIN_CLUSTER"))
	if wanted != "" {
		if all, err = matchClusters(all, wanted, o.SystemID); err != nil {
			return err
		}
	}
	for _, name := range all {
		if o.SystemID != 0 && name.SystemID != o.SystemID {
			continue
		}
		cluster, err := r.Cluster(name.Name, name.SystemID)
		if err != nil {
			return err
		}
		unread := func(err error) {
			if err != nil {
				problems = append(problems, fmt.Errorf("cluster %v: %w", name, err))
				l.Problems = append(l.Problems, err.Error())
			}
		}
		commits, err := cluster.Backups(ctx)
		unread(err)
		found := clusterListing{Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Backups: []backupListing{}}
		for _, k := range commits {
			found.Backups = append(found.Backups, listBackup(name, k))
		}
		unread(found.addRestorable(ctx, cluster, commits))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.Clusters = append(l.Clusters, found)
	}
	if o.JSON {
		problems = append(problems, printJSON(c, l))
	} else {
		_, err := c.stdout.Write(l.table())
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// table returns the listing for people.
func (l listing) table() []byte {
	var b bytes.Buffer
	for i, c := range l.Clusters {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "cluster %s, system identifier %s\n", c.Cluster, c.SystemID)
		if len(c.Backups) == 0 {
			b.WriteString("no backups\n")
			c.restorableLines(&b)
			continue
		}
		table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "ID\tBEGAN (UTC)\tKIND\tSIZE\tSTORED\tTIMELINE\tSTART\tSTOP\tLABEL")
		stored := int64(0)
		for _, k := range c.Backups {
			stored += k.Stored
			kind, stop := k.Kind, "-"
			if k.Damaged {
				kind += ", damaged"
			}
			if k.Stop != nil {
				stop = k.Stop.String()
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%v\t%s\t%s\n", k.ID, k.Began.UTC().Format(time.DateTime), kind,
				bytesText(k.Size), bytesText(k.Stored), k.Timeline, k.Start, stop, printable(k.Label, false))
		}
		_ = table.Flush() // to memory
		fmt.Fprintf(&b, "%s, for which %s were stored\n", counted(len(c.Backups), "backup"), bytesText(stored))
		c.restorableLines(&b)
	}
	if len(l.Clusters) == 0 {
		b.WriteString("no backups\n")
	}
	return b.Bytes()
}

// show tells all about a backup.
func show(ctx context.Context, c call) error {
	o, err := parseList(c, 1)
	if err != nil {
		return err
	}
	_, cluster, err := openCluster(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	commit, err := findBackup(ctx, cluster, o.Operands[0])
	if err != nil {
		return err
	}
	if o.Files {
		return showFiles(ctx, c, o, cluster, commit)
	}
	b := listBackup(cluster.Name(), commit)
	unread := b.showRestorable(ctx, cluster, commit)
	if o.JSON {
		return errors.Join(unread, printJSON(c, b))
	}
	_, err = c.stdout.Write(b.lines())
	return errors.Join(unread, err)
}

// lines returns a backup for people, one fact a line.
func (b backupListing) lines() []byte {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("backup", "%s", b.ID)
	line("cluster", "%s, system identifier %s", b.Cluster, b.SystemID)
	if b.Label != "" {
		line("label", "%s", printable(b.Label, false))
	}
	if b.Damaged {
		line("DAMAGED", "the cluster had pages with wrong checksums; it never counts as a good backup")
	}
	line("kind", "%s", b.Kind)
	if b.Parent != "" {
		line("parent", "%s, which is not needed to restore it", b.Parent)
	}
	line("server", "PostgreSQL %s", serverVersion(b.ServerVersion))
	line("began", "%s UTC", b.Began.UTC().Format(time.DateTime))
	line("ended", "%s UTC, after %v", b.Ended.UTC().Format(time.DateTime), b.Ended.Sub(b.Began).Round(time.Second))
	line("all pages read", "%s UTC", b.FullScan.UTC().Format(time.DateTime))
	line("timeline", "%d", b.Timeline)
	line("start", "%v", b.Start)
	if b.Stop != nil {
		line("stop", "%v", *b.Stop)
	}
	line("files", "%s", humanize.Comma(b.Files))
	line("size", "%s (%s bytes)", bytesText(b.Size), humanize.Comma(b.Size))
	line("stored", "%s (%s bytes)", bytesText(b.Stored), humanize.Comma(b.Stored))
	for _, t := range b.Tablespaces {
		line("tablespace", "%d, at %s", t.OID, printable(t.Location, false))
	}
	if c := b.Configuration; c != nil {
		for _, f := range c.Files {
			line("configuration", "%s, %s", printable(f.Path, false), bytesText(f.Size))
		}
		for _, f := range c.Missing {
			line("not saved", "%s: %s", printable(f.Path, false), printable(f.Reason, false))
		}
	}
	b.leadLines(line)
	_ = table.Flush() // to memory
	return text.Bytes()
}

// printJSON prints a value for programs.
func printJSON(c call, value any) error {
	content, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	_, err = c.stdout.Write(append(content, '\n'))
	return err
}

// bytesText returns a number of bytes for people.
func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// counted returns a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return humanize.Comma(int64(n)) + " " + thing + "s"
}

// serverVersion returns a server_version_num as people write it.
func serverVersion(n int) string {
	if n < 100000 {
		return fmt.Sprintf("%d.%d.%d", n/10000, n/100%100, n%100)
	}
	return fmt.Sprintf("%d.%d", n/10000, n%10000)
}
