package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"basin/internal/backup"
	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// copyOptions is what the command line of basin copy asks for.
type copyOptions struct {
	repositoryOptions

	To         string            // location or name of the repository that is copied to
	ToSettings map[string]string // others of it, by the names of options
	All        bool              // also backups that are older than the newest there
	Log        bool              // all of the log, although backups are named
	LogOnly    bool
	DryRun     bool
	Jobs       int // that compress; zero is one for each processor
	JSON       bool
	Progress   bool
	Verbose    bool
	Backups    []string // empty: all that are new
}

// copyTable returns the options of basin copy, which write to o.
func copyTable(o *copyOptions) []getopt.Option {
	table := append(o.repositoryOptions.options(),
		getopt.Option{Long: "to", Whole: true, Value: func(value string) error { o.To = value; return nil }})
	o.ToSettings = make(map[string]string)
	for _, s := range new(repositorySettings).settings() {
		option := getopt.Option{Long: "to-" + s.name, Whole: true}
		if s.flag != nil {
			option.Flag = func() error { o.ToSettings[s.name] = "true"; return nil }
		} else {
			option.Value = func(value string) error { o.ToSettings[s.name] = value; return nil }
		}
		table = append(table, option)
	}
	return append(table,
		flagOption("all", 0, &o.All),
		flagOption("log", 0, &o.Log),
		flagOption("log-only", 0, &o.LogOnly),
		flagOption("dry-run", 'n', &o.DryRun),
		getopt.Option{Long: "jobs", Short: 'j', Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}},
		flagOption("json", 0, &o.JSON),
		flagOption("progress", 'P', &o.Progress),
		flagOption("verbose", 'v', &o.Verbose),
	)
}

// target returns the repository that is copied to. The environment says nothing of it: what it says is meant for
// the one that is read.
func (o *copyOptions) target() (p place, err error) {
	c, err := readConfig(cmp.Or(o.ConfigFile, os.Getenv("BASIN_CONFIG")))
	if err != nil {
		return p, err
	}
	if p.repositorySettings, err = c.find(o.To, nil); err != nil {
		return p, err
	}
	for _, s := range p.settings() {
		if value, ok := o.ToSettings[s.name]; ok {
			if err := s.set(value); err != nil {
				return p, err
			}
		}
	}
	p.say = o.Say
	return p, nil
}

// copyRepository is basin copy.
func copyRepository(ctx context.Context, c call) error {
	var o copyOptions
	o.Say = c.report.info
	var err error
	if o.Backups, err = c.parse(copyTable(&o)); err != nil {
		return err
	}
	switch {
	case o.To == "":
		return c.usage("it is not said where to: --to names a repository")
	case o.LogOnly && (len(o.Backups) > 0 || o.All || o.Log):
		return c.usage("with --log-only no backups are copied")
	case o.All && len(o.Backups) > 0:
		return c.usage("backups are named, or --all are copied, but not both")
	}
	debug.SetMemoryLimit(backupMemory)
	run := &copyRun{report: c.report, o: o}
	if err := run.open(ctx); err != nil {
		return err
	}
	result, err := run.run(ctx)
	if ctx.Err() != nil {
		return err
	}
	if o.JSON {
		if err != nil {
			result.Problems = append(result.Problems, err.Error())
		}
		return errors.Join(err, printJSON(c, result))
	}
	_, printed := c.stdout.Write([]byte(result.text(o)))
	return errors.Join(err, printed)
}

// copyRun is a copy on its way.
type copyRun struct {
	report   *report
	o        copyOptions
	to       *repo.Repository
	source   *repo.Cluster
	target   *repo.Cluster
	parent   *repo.Commit // in the target, that the next backup is compared with; nil if it was not looked for
	isChosen bool         // it was
}

// copyResult is what copy --json prints. Its shape is documented in docs/repository.md: fields are added, and none
// is changed or removed.
type copyResult struct {
	Cluster  string          `json:"cluster"`
	SystemID string          `json:"systemID"`
	DryRun   bool            `json:"dryRun"`
	Backups  []backupListing `json:"backups"` // that were copied, as they are there; with DryRun as they are here
	Older    int             `json:"older"`   // backups that are not there, and older than one that is
	LogFiles int             `json:"logFiles"`
	LogBytes int64           `json:"logBytes"`
	Problems []string        `json:"problems"`
}

// open opens both repositories.
func (r *copyRun) open(ctx context.Context) (err error) {
	var from *repo.Repository
	if from, r.source, err = openCluster(ctx, r.o.repositoryOptions); err != nil {
		return err
	}
	p, err := r.o.target()
	if err != nil {
		return err
	}
	if r.to, err = p.open(ctx); err != nil {
		return err
	}
	if from.Info().ID == r.to.Info().ID {
		return usererr.Hinted("--repository names the one that is read, and --to the other.", "both are one repository, %v", from.Info().ID)
	}
	name := r.source.Name()
	r.target, err = r.to.Cluster(name.Name, name.SystemID)
	return err
}

// run copies backups, oldest first, each with the log that it needs, and then the log that follows.
func (r *copyRun) run(ctx context.Context) (copyResult, error) {
	name := r.source.Name()
	result := copyResult{
		Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), DryRun: r.o.DryRun,
		Backups: []backupListing{}, Problems: []string{},
	}
	commits, unreadable := r.source.Backups(ctx)
	if unreadable != nil && ctx.Err() != nil {
		return result, unreadable
	}
	if len(r.o.Backups) > 0 {
		unreadable = nil // the others are not asked for
	}
	places, err := r.target.Places(ctx)
	if err != nil {
		return result, err
	}
	wanted, older, err := r.wanted(ctx, commits, places)
	if err != nil {
		return result, err
	}
	result.Older = older
	problems := []error{unreadable}
	begin := logBegin(commits, places)
	for i := range wanted {
		k := &wanted[i]
		written, err := r.backup(ctx, k, &result)
		if err != nil {
			if ctx.Err() != nil {
				return result, err
			}
			problems = append(problems, fmt.Errorf("backup %s: %w", k.ID, err))
			continue
		}
		result.Backups = append(result.Backups, listBackup(name, *written))
		if begin == nil || k.Start.LSN < begin.Start.LSN {
			begin = k
		}
	}
	if len(r.o.Backups) == 0 || r.o.Log {
		o := repo.CopyLogOptions{DryRun: r.o.DryRun, Copied: r.copied}
		if begin != nil {
			o.From, o.SegmentSize = begin.Start.LSN, begin.SegmentSize
			thinned, err := r.target.ThinnedTo(ctx)
			if err != nil && !errors.Is(err, repo.ErrNoKey) {
				problems = append(problems, err)
			}
			o.From = max(o.From, thinned) // what prune has removed there does not come back
		}
		report, err := r.target.CopyLog(ctx, r.source, o)
		result.LogFiles += report.Files
		result.LogBytes += report.Bytes
		if err != nil {
			problems = append(problems, fmt.Errorf("the log: %w", err))
		}
	}
	return result, errors.Join(problems...)
}

// logBegin returns which of the backups begins first of those that are there, nil if none is.
func logBegin(commits []repo.Commit, places repo.Places) (first *repo.Commit) {
	for i, k := range commits {
		if _, isThere := places.Of(k.ID); isThere && (first == nil || k.Start.LSN < first.Start.LSN) {
			first = &commits[i]
		}
	}
	return first
}

// wanted returns the backups that are to be copied, oldest first, and how many others are not there.
func (r *copyRun) wanted(ctx context.Context, commits []repo.Commit, places repo.Places) (wanted []repo.Commit, older int, err error) {
	if r.o.LogOnly {
		return nil, 0, nil
	}
	if len(r.o.Backups) > 0 {
		commits = nil
		for _, name := range r.o.Backups {
			k, err := findBackup(ctx, r.source, name)
			if err != nil {
				return nil, 0, err
			}
			if !slices.ContainsFunc(commits, func(other repo.Commit) bool { return other.ID == k.ID }) {
				commits = append(commits, k)
			}
		}
		slices.SortFunc(commits, func(a, b repo.Commit) int { return strings.Compare(a.ID, b.ID) })
	}
	newest := ""
	if n := len(places.There); n > 0 {
		newest, _, _ = strings.Cut(places.There[n-1], "-")
	}
	for _, k := range commits {
		as, isThere := places.Of(k.ID)
		switch {
		case isThere && len(r.o.Backups) > 0:
			r.report.info("backup %s is there already", as)
		case isThere:
		case len(r.o.Backups) == 0 && !r.o.All && k.ID < newest:
			older++
		default:
			if k.ID != as {
				r.report.info("backup %s was begun there once and given up; now it is %s", k.ID, as)
			}
			k.ID = as
			wanted = append(wanted, k)
		}
	}
	return wanted, older, nil
}

// copyAhead is how many files are read ahead of what is copied, since the store may be far away.
const copyAhead = 8

// backup copies a backup, which is to be known as its ID says, and the log that it needs.
func (r *copyRun) backup(ctx context.Context, k *repo.Commit, result *copyResult) (*repo.Commit, error) {
	countLog := func(ctx context.Context) error {
		if k.Stop == (wal.Position{}) { // it is damaged
			return nil
		}
		report, err := r.target.CopyLog(ctx, r.source, repo.CopyLogOptions{For: k, DryRun: r.o.DryRun, Copied: r.copied})
		if !r.o.DryRun || len(r.o.Backups) > 0 && !r.o.Log { // else it is counted with the rest of the log
			result.LogFiles += report.Files
			result.LogBytes += report.Bytes
		}
		return err
	}
	if r.o.DryRun {
		return k, countLog(ctx)
	}
	if err := r.chooseParent(ctx); err != nil {
		return nil, err
	}
	var counts backup.Progress
	source := backup.WithReadAhead(r.source.NewSource(*k, repo.SourceOptions{Progress: &counts}), copyAhead)
	defer source.Close() // it was only read
	sink := r.target.NewSink(repo.SinkOptions{As: k, Parent: r.parent, Workers: r.o.Jobs, Progress: &counts})
	defer func() {
		if err := sink.Close(); err != nil {
			r.report.warning("after the copy: %s", err)
		}
	}()
	var shown *progress
	if r.o.Progress {
		shown = startProgress(r.report, &counts, progressFormFor(r.report, r.o.Verbose, os.Getenv))
		shown.enter(phaseReceive)
	}
	defer shown.stop()
	err := backup.Copy(ctx, sink, source, backup.Options{
		Log: func(ctx context.Context, _ backup.Start, stop <-chan wal.Position) error { return countLog(ctx) },
	})
	if err != nil {
		return nil, err
	}
	shown.enter(phaseDone)
	written := sink.Written()
	if r.to.CanRead() && written.Stop != (wal.Position{}) {
		r.parent = written
		_, err = r.target.Reach(ctx, *written, written.Stop.Timeline)
	}
	return written, err
}

// chooseParent chooses which backup the first one is compared with. The others are with the one before.
func (r *copyRun) chooseParent(ctx context.Context) (err error) {
	if r.isChosen {
		return nil
	}
	b := repositoryBackup{report: r.report, repository: r.to, cluster: r.target}
	r.parent, err = b.parent(ctx)
	r.isChosen = err == nil
	return err
}

// copied is told each file of the log.
func (r *copyRun) copied(name string, size int64) {
	switch {
	case r.o.Verbose && r.o.DryRun:
		r.report.info("would copy %s", name)
	case r.o.Verbose:
		r.report.info("copied %s, %s", name, bytesText(size))
	}
}

// text returns what was copied, for people.
func (r copyResult) text(o copyOptions) string {
	var b strings.Builder
	copied := "copied"
	if r.DryRun {
		copied = "would be copied"
	}
	for _, k := range r.Backups {
		fmt.Fprintf(&b, "backup %s %s: %s in %s", k.ID, copied, bytesText(k.Size), counted(int(k.Files), "file"))
		if !r.DryRun {
			fmt.Fprintf(&b, ", %s stored", bytesText(k.Stored))
		}
		b.WriteString("\n")
	}
	if len(r.Backups) == 0 && !o.LogOnly {
		b.WriteString("no new backups\n")
	}
	fmt.Fprintf(&b, "of the log: %s", counted(r.LogFiles, "file"))
	if !r.DryRun {
		fmt.Fprintf(&b, ", %s", bytesText(r.LogBytes))
	}
	fmt.Fprintf(&b, ", %s\n", copied)
	if r.Older > 0 {
		fmt.Fprintf(&b, "%s that are older than the newest there are not there; --all copies them too\n", counted(r.Older, "backup"))
	}
	return b.String()
}
