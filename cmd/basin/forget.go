package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/usererr"
)

// keepOptions is what the command lines of forget, prune and verify ask for.
type keepOptions struct {
	repositoryOptions
	Policy     repo.Policy
	LogFor     time.Duration // that log is kept at least; zero keeps what backups need
	Superseded time.Duration // that a superseded cluster is kept; zero is for ever
	Sample     float64       // share of what is read back; zero is all
	Discard    bool          // what failed backups stored, too
	DryRun     bool
	JSON       bool
	Backups    []string
}

// parse reads a command line with the options that a command has beside those of all.
func (o *keepOptions) parse(c call, own ...getopt.Option) (err error) {
	o.Say = c.report.info
	o.Backups, err = c.parse(append(o.options(), own...))
	return err
}

// countOption takes a number of backups.
func countOption(long string, field *int) getopt.Option {
	return getopt.Option{Long: long, Value: func(value string) (err error) {
		*field, err = parseInt(value, "--"+long, 1, math.MaxInt32)
		return err
	}}
}

// ageOption takes a time that has passed.
func ageOption(long string, field *time.Duration) getopt.Option {
	return getopt.Option{Long: long, Value: func(value string) (err error) {
		*field, err = parseAge(value)
		return err
	}}
}

// parseAge reads a number of hours, days or weeks, such as 36h, 14d or 4w.
func parseAge(value string) (time.Duration, error) {
	units := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	if value != "" {
		unit := units[value[len(value)-1]]
		n, err := strconv.ParseInt(value[:len(value)-1], 10, 32)
		if unit > 0 && err == nil && n > 0 && n < int64(math.MaxInt64/unit) {
			return time.Duration(n) * unit, nil
		}
	}
	return 0, usererr.Hinted("Say it in hours, days or weeks: 36h, 14d, 4w.", "invalid time \"%s\"", value)
}

// forgetting is what forget does to the backups of one cluster.
type forgetting struct {
	cluster    *repo.Cluster
	superseded time.Time // since when the cluster is, whose backups go for that; else zero
	verdicts   []repo.Verdict
	forgotten  map[string]bool // by the identifiers of backups
}

// forget removes backups.
func forget(ctx context.Context, c call) error {
	var o keepOptions
	err := o.parse(c,
		countOption("keep-last", &o.Policy.Last), countOption("keep-daily", &o.Policy.Daily),
		countOption("keep-weekly", &o.Policy.Weekly), countOption("keep-monthly", &o.Policy.Monthly),
		ageOption("keep-within", &o.Policy.Within), ageOption("keep-superseded", &o.Superseded),
		flagOption("dry-run", 'n', &o.DryRun), flagOption("json", 0, &o.JSON))
	isByRule := o.Policy != (repo.Policy{}) || o.Superseded > 0
	switch {
	case err != nil:
		return err
	case len(o.Backups) > 0 && isByRule:
		return c.usage("backups are named, or a rule says which are kept, but not both")
	case len(o.Backups) == 0 && !isByRule:
		return c.usage("neither a backup nor a rule is named")
	}
	o.MakesRoom = true
	r, cluster, err := openCluster(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	now := time.Now()
	all, err := o.judge(ctx, r, cluster, now)
	if err != nil {
		return err
	}
	var refused []error // of which none keeps the others
	for _, f := range all {
		locked, err := keepLocked(ctx, f.cluster, f.verdicts)
		if err != nil {
			return err
		}
		if !isByRule {
			refused = append(refused, locked...)
		}
	}
	if o.DryRun {
		refused = nil
	}
	if !o.JSON {
		if err := printVerdicts(c.stdout, all); err != nil {
			return err
		}
	}
	forgotten := 0
	for _, f := range all {
		if !o.DryRun {
			refused = append(refused, f.run(ctx, o, now)...)
		}
		forgotten += len(f.forgotten)
	}
	if o.JSON {
		refused = append(refused, printJSON(c, listForgetting(all, o.DryRun, errors.Join(refused...))))
	} else if forgotten > 0 {
		_, err := fmt.Fprintf(c.stdout, "%s forgotten; basin prune frees what they alone needed\n", counted(forgotten, "backup"))
		refused = append(refused, err)
	}
	return errors.Join(refused...)
}

// judge says what becomes of the backups that are named, or of all of a cluster, and of those of the same name that are superseded.
func (o *keepOptions) judge(ctx context.Context, r *repo.Repository, cluster *repo.Cluster, now time.Time) ([]*forgetting, error) {
	if len(o.Backups) > 0 {
		f := &forgetting{cluster: cluster}
		for _, name := range o.Backups {
			commit, err := findBackup(ctx, cluster, name)
			if err != nil {
				return nil, err
			}
			f.verdicts = append(f.verdicts, repo.Verdict{Commit: commit, Reason: "it was named"})
		}
		return []*forgetting{f}, nil
	}
	clusters := []*repo.Cluster{cluster}
	if o.Superseded > 0 && o.SystemID == 0 {
		var err error
		if clusters, err = sameName(ctx, r, cluster.Name().Name, 0); err != nil {
			return nil, err
		}
	}
	var all []*forgetting
	for _, one := range clusters {
		f, err := o.judgeAll(ctx, one, one.Name() == cluster.Name(), now)
		if err != nil {
			return nil, err
		}
		if f != nil {
			all = append(all, f)
		}
	}
	return all, nil
}

// judgeAll says what becomes of the backups of a cluster. If it is not the one that is meant, it is nil unless that is superseded.
func (o *keepOptions) judgeAll(ctx context.Context, cluster *repo.Cluster, isMeant bool, now time.Time) (*forgetting, error) {
	f := &forgetting{cluster: cluster}
	if o.Superseded > 0 {
		since, err := cluster.Superseded(ctx, now)
		if err != nil {
			return nil, usererr.Hinted("Nothing is removed as long as it is not known what is there.", "%w", err)
		}
		if !since.IsZero() && now.Sub(since) >= o.Superseded {
			f.superseded = since
		} else if !isMeant {
			return nil, nil
		}
	}
	commits, err := cluster.Backups(ctx)
	if err != nil {
		return nil, usererr.Hinted("Nothing is removed as long as it is not known what is there.", "%w", err)
	}
	pins, err := cluster.Pins(ctx)
	if err != nil {
		return nil, err
	}
	if !f.superseded.IsZero() {
		f.verdicts = repo.PlanSuperseded(commits, f.superseded, pins, now)
		return f, nil
	}
	cannot, err := cluster.CannotRestore(ctx, commits)
	if err != nil {
		return nil, usererr.Hinted("Nothing is removed as long as it is not known which backups can be restored.", "%w", err)
	}
	f.verdicts = repo.Plan(commits, o.Policy, pins, cannot, now)
	if slices.ContainsFunc(f.verdicts, func(v repo.Verdict) bool { return !v.Keep }) { // else it is not worth reading all of the index
		notWhole, err := cluster.NotWhole(ctx, commits)
		if err != nil {
			return nil, usererr.Hinted("Nothing is removed as long as it is not known which backups are whole.", "%w", err)
		}
		maps.Copy(cannot, notWhole)
		f.verdicts = repo.Plan(commits, o.Policy, pins, cannot, now)
	}
	if err := cluster.KeepLeading(ctx, f.verdicts, cannot); err != nil {
		return nil, usererr.Hinted("Nothing is removed as long as it is not known what leads to where.", "%w", err)
	}
	return f, nil
}

// run removes what is not kept. It returns of what it could not be done, and why.
func (f *forgetting) run(ctx context.Context, o keepOptions, now time.Time) (refused []error) {
	f.forgotten = make(map[string]bool)
	for _, v := range f.verdicts {
		if v.Keep {
			continue
		}
		var err error
		if f.superseded.IsZero() {
			err = f.cluster.Forget(ctx, v.Commit.ID, now)
		} else {
			err = f.cluster.ForgetSuperseded(ctx, v.Commit.ID, now, o.Superseded)
		}
		if err != nil {
			refused = append(refused, err)
			continue
		}
		f.forgotten[v.Commit.ID] = true
	}
	return refused
}

// printVerdicts tells what is kept and what is not, and why.
func printVerdicts(w io.Writer, all []*forgetting) error {
	var b bytes.Buffer
	for _, f := range all {
		if len(all) > 1 {
			name := f.cluster.Name()
			fmt.Fprintf(&b, "cluster %s, system identifier %d\n", name.Name, name.SystemID)
		}
		table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, v := range f.verdicts {
			what := "forget"
			if v.Keep {
				what = "keep"
			}
			fmt.Fprintf(table, "%s\t%s\t%s\n", what, v.Commit.ID, v.Reason)
		}
		_ = table.Flush() // to memory
	}
	_, err := w.Write(b.Bytes())
	return err
}

// forgetListing is what basin forget does, for programs. Its shape is documented in docs/repository.md.
type forgetListing struct {
	DryRun   bool               `json:"dryRun"`
	Clusters []forgottenListing `json:"clusters"`
	Problems []string           `json:"problems"`
}

// forgottenListing is what basin forget does to a cluster.
type forgottenListing struct {
	Cluster    string           `json:"cluster"`
	SystemID   string           `json:"systemID"`
	Superseded *time.Time       `json:"superseded"`
	Backups    []verdictListing `json:"backups"`
}

// verdictListing is what becomes of a backup.
type verdictListing struct {
	ID        string `json:"id"`
	Keep      bool   `json:"keep"`
	Reason    string `json:"reason"`
	Forgotten bool   `json:"forgotten"`
}

// listForgetting returns for programs what forget does.
func listForgetting(all []*forgetting, isDry bool, refused error) forgetListing {
	l := forgetListing{DryRun: isDry, Problems: problemTexts(refused)}
	for _, f := range all {
		name := f.cluster.Name()
		one := forgottenListing{Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Superseded: timeIfAny(f.superseded), Backups: []verdictListing{}}
		for _, v := range f.verdicts {
			one.Backups = append(one.Backups, verdictListing{v.Commit.ID, v.Keep, v.Reason, f.forgotten[v.Commit.ID]})
		}
		l.Clusters = append(l.Clusters, one)
	}
	return l
}

// pinResult is what pin --json prints. Its shape is documented in docs/repository.md: fields are added, and none is
// changed or removed.
type pinResult struct {
	Cluster  string     `json:"cluster"`
	SystemID string     `json:"systemID"`
	Backup   string     `json:"backup"`
	Pinned   bool       `json:"pinned"`
	Until    *time.Time `json:"until"` // null for ever, and if it is not pinned
	Note     string     `json:"note"`
}

// pin has a backup be kept, whatever rules say.
func pin(ctx context.Context, c call) error {
	var o keepOptions
	var note string
	var until time.Time
	isGone := false
	err := o.parse(c, textOption("note", 0, &note, nil), flagOption("remove", 0, &isGone), flagOption("json", 0, &o.JSON),
		getopt.Option{Long: "until", Value: func(value string) (err error) {
			if _, err := time.Parse(time.DateOnly, strings.TrimSpace(value)); err == nil {
				value += " 23:59:59" // until the day is over
			}
			until, err = parseTargetTime(value)
			return err
		}})
	switch {
	case err != nil:
		return err
	case len(o.Backups) != 1:
		return c.usage("one backup is to be named")
	case !isGone && !until.IsZero() && !until.After(time.Now()):
		return usererr.Hinted("Without --until the pin holds until basin pin --remove takes it away.", "%s has passed: such a pin keeps nothing", stamp(until))
	}
	_, cluster, err := openCluster(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	commit, err := findBackup(ctx, cluster, o.Backups[0])
	if err != nil {
		return err
	}
	said := "it is kept until basin pin --remove"
	if !until.IsZero() {
		said = "it is kept until " + stamp(until)
	}
	name := cluster.Name()
	result := pinResult{Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Backup: commit.ID}
	if isGone {
		said = "rules say how long it is kept"
		err = cluster.Unpin(ctx, commit.ID, time.Now())
	} else {
		result.Pinned, result.Until, result.Note = true, timeIfAny(until), note
		err = cluster.Pin(ctx, repo.Pin{Backup: commit.ID, Until: until, Note: note, Made: time.Now().UTC()})
	}
	if err != nil {
		return err
	}
	if o.JSON {
		return printJSON(c, result)
	}
	_, err = fmt.Fprintf(c.stdout, "backup %s: %s\n", commit.ID, said)
	return err
}
