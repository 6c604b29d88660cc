package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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
	Policy  repo.Policy
	LogFor  time.Duration // that log is kept at least; zero keeps what backups need
	Sample  float64       // share of what is read back; zero is all
	DryRun  bool
	JSON    bool
	Backups []string
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

// forget removes backups.
func forget(ctx context.Context, c call) error {
	var o keepOptions
	err := o.parse(c,
		countOption("keep-last", &o.Policy.Last), countOption("keep-daily", &o.Policy.Daily),
		countOption("keep-weekly", &o.Policy.Weekly), countOption("keep-monthly", &o.Policy.Monthly),
		ageOption("keep-within", &o.Policy.Within), flagOption("dry-run", 'n', &o.DryRun))
	switch {
	case err != nil:
		return err
	case len(o.Backups) > 0 && o.Policy != (repo.Policy{}):
		return c.usage("backups are named, or a rule says which are kept, but not both")
	case len(o.Backups) == 0 && o.Policy == (repo.Policy{}):
		return c.usage("neither a backup nor a rule is named")
	}
	o.MakesRoom = true
	_, cluster, err := openCluster(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	now := time.Now()
	var verdicts []repo.Verdict
	if len(o.Backups) > 0 {
		for _, name := range o.Backups {
			commit, err := findBackup(ctx, cluster, name)
			if err != nil {
				return err
			}
			verdicts = append(verdicts, repo.Verdict{Commit: commit, Reason: "it was named"})
		}
	} else {
		commits, err := cluster.Backups(ctx)
		if err != nil {
			return usererr.Hinted("Nothing is removed as long as it is not known what is there.", "%w", err)
		}
		pins, err := cluster.Pins(ctx)
		if err != nil {
			return err
		}
		cannot, err := cluster.CannotRestore(ctx, commits)
		if err != nil {
			return usererr.Hinted("Nothing is removed as long as it is not known which backups can be restored.", "%w", err)
		}
		verdicts = repo.Plan(commits, o.Policy, pins, cannot, now)
	}
	locked, err := keepLocked(ctx, cluster, verdicts)
	if err != nil {
		return err
	}
	if err := printVerdicts(c.stdout, verdicts); err != nil || o.DryRun {
		return err
	}
	forgotten := 0
	var refused []error // of which none keeps the others
	if len(o.Backups) > 0 {
		refused = locked
	}
	for _, v := range verdicts {
		if v.Keep {
			continue
		}
		if err := cluster.Forget(ctx, v.Commit.ID, now); err != nil {
			refused = append(refused, err)
			continue
		}
		forgotten++
	}
	if forgotten > 0 {
		_, err := fmt.Fprintf(c.stdout, "%s forgotten; basin prune frees what they alone needed\n", counted(forgotten, "backup"))
		refused = append(refused, err)
	}
	return errors.Join(refused...)
}

// printVerdicts tells what is kept and what is not, and why.
func printVerdicts(w io.Writer, verdicts []repo.Verdict) error {
	var b bytes.Buffer
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, v := range verdicts {
		what := "forget"
		if v.Keep {
			what = "keep"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", what, v.Commit.ID, v.Reason)
	}
	_ = table.Flush() // to memory
	_, err := w.Write(b.Bytes())
	return err
}

// prune removes what no backup needs.
func prune(ctx context.Context, c call) error {
	var o keepOptions
	if err := o.parse(c, ageOption("keep-log", &o.LogFor), flagOption("dry-run", 'n', &o.DryRun)); err != nil {
		return err
	}
	if len(o.Backups) > 0 {
		return c.usage("too many command-line arguments (first is \"%s\")", o.Backups[0])
	}
	o.MakesRoom = true
	_, cluster, err := openCluster(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	now := time.Now()
	report, err := cluster.Prune(ctx, repo.PruneOptions{Now: now, DryRun: o.DryRun})
	if err != nil {
		return err
	}
	log, err := cluster.PruneLog(ctx, repo.PruneLogOptions{Now: now, DryRun: o.DryRun, Within: o.LogFor})
	if err != nil {
		return err
	}
	removed := "removed"
	if o.DryRun {
		removed = "would be removed"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "of %s: %s and %s of index, %s, %s\n", counted(report.Backups, "backup"),
		counted(report.Packs, "pack"), counted(report.Parts, "part"), bytesText(report.Removed), removed)
	fmt.Fprintf(&b, "of the log: %s, %s, %s\n", counted(log.Files, "file"), bytesText(log.Removed), removed)
	b.WriteString(keptText("", report.Locked))
	b.WriteString(keptText(" of the log", log.Locked))
	if log.Waits {
		b.WriteString("log is removed once the backup that is being made has ended\n")
	}
	if report.Thin > 0 {
		fmt.Fprintf(&b, "%s, mostly of no use, can be removed after the next backup\n", counted(report.Thin, "pack"))
	}
	for _, id := range report.GivenUp {
		fmt.Fprintf(&b, "backup %s, whose host was not heard of any more, was given up\n", id)
	}
	fmt.Fprintf(&b, "%s are left, log apart\n", bytesText(report.Kept))
	_, err = io.WriteString(c.stdout, b.String())
	return err
}

// verifyRepository reads back what is in a repository.
func verifyRepository(ctx context.Context, c call) error {
	var o keepOptions
	isShown := false
	err := o.parse(c, flagOption("progress", 'P', &isShown), getopt.Option{Long: "sample", Value: func(value string) error {
		share, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		if err != nil || !(share > 0 && share <= 100) || !strings.HasSuffix(value, "%") {
			return usererr.Hinted("Say it as 5%.", "invalid sample \"%s\"", value)
		}
		o.Sample = share / 100
		return nil
	}})
	if err != nil {
		return err
	}
	_, cluster, err := openCluster(ctx, o.repositoryOptions)
	if err != nil {
		return err
	}
	var ids []string
	for _, name := range o.Backups {
		commit, err := findBackup(ctx, cluster, name)
		if err != nil {
			return err
		}
		ids = append(ids, commit.ID)
	}
	var report repo.VerifyReport
	var damages []repo.Damage
	counts := new(repo.VerifyProgress)
	show := periodicProgress{c.report, func() string { return verificationProgress(counts) }}
	err = show.during(isShown, func() (err error) {
		report, err = cluster.Verify(ctx, repo.VerifyOptions{Sample: o.Sample, Backups: ids, Progress: counts}, func(d repo.Damage) {
			damages = append(damages, d) // told below the progress
		})
		return err
	})
	for _, d := range damages {
		c.report.error(damageError(d))
	}
	if !report.IsComplete {
		return err
	}
	_, printed := fmt.Fprintf(c.stdout, "%s: %s of index, %s (%s) and %s of the log were read\n", counted(report.Backups, "backup"),
		counted(report.Parts, "part"), counted(report.Packs, "pack"), bytesText(report.Bytes), counted(report.Log, "file"))
	if err = errors.Join(err, printed); report.Damages > 0 {
		return errors.Join(err, usererr.Hinted("Backups that are not named are sound. The next backup stores anew what it has of what is damaged. Look at the store's disks, and at other copies of it.",
			"%s of the repository damaged or missing", counted(report.Damages, "object")))
	}
	return err
}

// verificationProgress says how far reading back is.
func verificationProgress(p *repo.VerifyProgress) string {
	done, total := p.Done.Load(), p.Total.Load()
	text := counted(int(p.Parts.Load()), "part") + " of index"
	if total > 0 {
		text += fmt.Sprintf(", %s of %s of packs (%d%%)", bytesText(done), bytesText(total), percentOf(done, total))
	}
	if n := p.Log.Load(); n > 0 {
		text += ", " + counted(int(n), "file") + " of the log"
	}
	return text
}

// damageError tells of an object that is damaged, and what needs it.
func damageError(d repo.Damage) error {
	var detail strings.Builder
	if len(d.Backups) > 0 {
		fmt.Fprintf(&detail, "Backups that need it: %s.", strings.Join(d.Backups, ", "))
	}
	if len(d.Files) > 0 {
		fmt.Fprintf(&detail, " Files: %s", strings.Join(d.Files, ", "))
		if d.More > 0 {
			fmt.Fprintf(&detail, ", and %d more", d.More)
		}
		detail.WriteString(".")
	}
	return &usererr.Error{Err: fmt.Errorf("%s: %w", d.Object, d.Err), Detail: strings.TrimSpace(detail.String())}
}

// pin has a backup be kept, whatever rules say.
func pin(ctx context.Context, c call) error {
	var o keepOptions
	var note string
	var until time.Time
	isGone := false
	err := o.parse(c, textOption("note", 0, &note, nil), flagOption("remove", 0, &isGone),
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
	if isGone {
		said = "rules say how long it is kept"
		err = cluster.Unpin(ctx, commit.ID, time.Now())
	} else {
		err = cluster.Pin(ctx, repo.Pin{Backup: commit.ID, Until: until, Note: note, Made: time.Now().UTC()})
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.stdout, "backup %s: %s\n", commit.ID, said)
	return err
}
