package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/backup"
	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/plain"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// restoreOptions is what the command line of basin restore asks for.
type restoreOptions struct {
	repositoryOptions

	Part              partOptions
	Directory         string
	TablespaceMapping []tablespaceMapping // canonical, in the order given; the first that fits counts
	Backup            string              // empty: the newest that leads to the target
	Target            recoveryTarget
	Standby           bool
	ArchiveMode       bool // is left as the source has it
	Jobs              int
	DryRun            bool
	NoSync            bool
	Progress          bool
}

// restoreTable returns the options of basin restore, which write to o.
func restoreTable(o *restoreOptions) []getopt.Option {
	target := func(name string, set func(t *recoveryTarget, value string) error) getopt.Option {
		return getopt.Option{Long: "target-" + name, Value: func(value string) error {
			if o.Target.kind != "" {
				return fmt.Errorf("--target-%s: a target is named already, --target-%s", name, o.Target.kind)
			}
			o.Target.kind = name
			return set(&o.Target, value)
		}}
	}
	return append(append(o.repositoryOptions.options(), o.Part.options()...),
		textOption("pgdata", 'D', &o.Directory, nil),
		getopt.Option{Long: "tablespace-mapping", Short: 'T', Value: func(value string) error {
			m, err := parseTablespaceMapping(value)
			o.TablespaceMapping = append(o.TablespaceMapping, m)
			return err
		}},
		textOption("backup", 'b', &o.Backup, nil),
		target("time", func(t *recoveryTarget, value string) (err error) {
			t.time, err = parseTargetTime(value, time.Local)
			return err
		}),
		target("lsn", func(t *recoveryTarget, value string) (err error) {
			t.lsn, err = parsePosition(value, "target")
			return err
		}),
		target("xid", func(t *recoveryTarget, value string) (err error) {
			t.xid, err = strconv.ParseUint(value, 10, 64)
			return err
		}),
		target("name", func(t *recoveryTarget, value string) error { t.name = value; return nil }),
		getopt.Option{Long: "target-immediate", Flag: func() error { o.Target.kind = "immediate"; return nil }},
		flagOption("target-exclusive", 0, &o.Target.exclusive),
		getopt.Option{Long: "target-timeline", Value: func(value string) error {
			n, err := strconv.ParseUint(value, 0, 32)
			if err != nil || n == 0 {
				return fmt.Errorf("invalid timeline \"%s\": the number of one is expected", value)
			}
			o.Target.timeline = wal.Timeline(n)
			return nil
		}},
		getopt.Option{Long: "target-action", Value: func(value string) error {
			if value != "pause" && value != "promote" && value != "shutdown" {
				return fmt.Errorf("invalid target action \"%s\", must be \"pause\", \"promote\" or \"shutdown\"", value)
			}
			o.Target.action = value
			return nil
		}},
		flagOption("standby", 0, &o.Standby),
		flagOption("keep-archive-mode", 0, &o.ArchiveMode),
		getopt.Option{Long: "jobs", Short: 'j', Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}},
		flagOption("dry-run", 'n', &o.DryRun),
		flagOption("no-sync", 'N', &o.NoSync),
		flagOption("progress", 'P', &o.Progress),
	)
}

// recoveryTarget is how far a restored cluster is to recover.
type recoveryTarget struct {
	kind      string // time, lsn, xid, name, immediate; empty is all that is there
	time      time.Time
	lsn       wal.LSN
	xid       uint64
	name      string
	exclusive bool
	timeline  wal.Timeline // zero is the newest
	action    string       // empty is that of PostgreSQL, pause
}

// parseTargetTime reads a time as a user gives it. Without a zone it is in zone.
func parseTargetTime(value string, zone *time.Location) (time.Time, error) {
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999 Z07:00",
		"2006-01-02 15:04:05.999999999 MST", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999", "2006-01-02 15:04",
	} {
		t, err := time.ParseInLocation(layout, value, zone)
		if err != nil {
			continue
		}
		if strings.HasSuffix(layout, "MST") {
			// Letters name no zone for certain, but for these.
			if name, offset := t.Zone(); name != "UTC" && name != "GMT" && offset == 0 {
				break
			}
		}
		return t, nil
	}
	return time.Time{}, usererr.Hinted("Say it as 2026-11-26 14:30:00+01. Without a zone it is in this host's.", "invalid time \"%s\"", value)
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
	}
	r, err := openRepositoryFor(ctx, c.report, &o)
	if err != nil {
		return err
	}
	if len(o.Part.Files) > 0 {
		return restoreFiles(ctx, c, o, r)
	}
	run := &restoreRun{report: c.report, o: o, cluster: r}
	plan, err := run.plan(ctx)
	if err != nil {
		return err
	}
	if run.part, err = chooseDatabases(ctx, r, plan.commit, o.Part.Databases); err != nil {
		return err
	}
	if err := plan.print(c, run); err != nil || o.DryRun {
		return err
	}
	if err := run.write(ctx, plan); err != nil {
		return err
	}
	return run.next(c, plan)
}

// openRepositoryFor returns the cluster that is restored. Of several repositories it is the first that answers, which o then
// names: that the log is there is proved of it, and recovery depends on no other.
func openRepositoryFor(ctx context.Context, r *report, o *restoreOptions) (*repo.Cluster, error) {
	one, c, err := firstToAnswer(ctx, r, o.repositoryOptions)
	o.repositoryOptions = one
	return c, err
}

// restoreRun is one restore on its way.
type restoreRun struct {
	report   *report
	o        restoreOptions
	cluster  *repo.Cluster
	part     *databasePart
	counts   backup.Progress
	progress *progress
}

// restorePlan is what is restored, and how far.
type restorePlan struct {
	commit repo.Commit
	reach  repo.Reach
	target recoveryTarget // that there is: of a time behind all commits, the end of the log
	why    string         // it is another one than was asked for; empty if it is not
}

// plan chooses the backup and sees that the log leads to the target.
func (r *restoreRun) plan(ctx context.Context) (*restorePlan, error) {
	commits, err := r.cluster.Backups(ctx)
	if err != nil && r.o.Backup == "" {
		r.report.warning("some backups cannot be read: %s", err)
	}
	var refused []error
	for i := len(commits) - 1; i >= 0; i-- {
		commit := commits[i]
		if r.o.Backup != "" && commit.ID != r.o.Backup || r.o.Backup == "" && commit.Damaged {
			continue
		}
		plan, err := r.planFrom(ctx, commit)
		if err == nil {
			return plan, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		refused = append(refused, err)
	}
	if len(refused) > 0 {
		return nil, refused[0] // the newest is what was meant
	}
	if r.o.Backup != "" {
		return nil, usererr.Hinted("basin list shows the backups.", "there is no backup %s of %s", r.o.Backup, r.cluster.Name())
	}
	return nil, usererr.Hinted("basin backup takes one.", "there is no backup of %s", r.cluster.Name())
}

// planFrom sees that a backup and the log lead to the target.
func (r *restoreRun) planFrom(ctx context.Context, commit repo.Commit) (*restorePlan, error) {
	t := r.o.Target
	if t.kind == "time" && !t.time.After(commit.Ended) {
		return nil, usererr.Hinted("basin list shows when each backup ended: a target lies behind the end of one.",
			"backup %s ended at %s, and the target is %s", commit.ID, stamp(commit.Ended), stamp(t.time))
	}
	if t.kind == "lsn" && t.lsn < commit.Stop.LSN {
		return nil, usererr.Hinted("basin list shows where each backup ends.", "backup %s ends at %v, and the target is %v", commit.ID, commit.Stop.LSN, t.lsn)
	}
	timeline := t.timeline
	if timeline == 0 {
		var err error
		if timeline, err = r.cluster.NewestTimeline(ctx, commit); err != nil {
			return nil, err
		}
	}
	reach, err := r.cluster.Reach(ctx, commit, timeline)
	if err != nil {
		return nil, err
	}
	if t.kind == "lsn" && t.lsn > reach.End {
		return nil, usererr.Hinted("A target up to there can be reached.", "the log is there up to %v on timeline %d, and the target is %v", reach.End, timeline, t.lsn)
	}
	if err := r.checkTablespaces(ctx, commit, reach); err != nil {
		return nil, err
	}
	plan := &restorePlan{commit: commit, reach: reach, target: t}
	if r.o.Standby {
		return plan, nil
	}
	switch t.kind {
	case "", "time", "immediate":
		return plan, r.proveEnd(ctx, plan)
	case "name":
		return plan, r.proveName(ctx, plan)
	}
	return plan, nil
}

// checkTablespaces refuses to have recovery make a tablespace where there is something: it would
// write into it, be it the source's own.
func (r *restoreRun) checkTablespaces(ctx context.Context, commit repo.Commit, reach repo.Reach) error {
	for facts, err := range r.cluster.Facts(ctx, reach) {
		if err != nil {
			return err
		}
		if facts.Summary == nil {
			continue
		}
		for _, t := range facts.Summary.Tablespaces {
			if t.LSN < commit.Start.LSN || t.Path == "" || r.o.Target.isBefore(t.LSN, facts.Summary.Transactions) {
				continue
			}
			if _, err := os.Lstat(t.Path); err == nil {
				return usererr.Hinted("Restore on another host, or move that directory away if nobody needs it.",
					"tablespace %d was made after backup %s, at %v, in \"%s\", which is there on this host: recovery would write into it", t.OID, commit.ID, t.LSN, t.Path)
			}
		}
	}
	return nil
}

// isBefore says whether recovery does not come to a position, in a segment with such transactions.
func (t recoveryTarget) isBefore(at wal.LSN, transactions wal.Transactions) bool {
	switch t.kind {
	case "lsn":
		return t.lsn < at
	case "time":
		return transactions.Count > 0 && transactions.Earliest.After(t.time)
	case "immediate":
		return true
	}
	return false
}

// proveEnd makes a target of the end of the log, so that recovery fails if it does not come to it. A time
// behind all commits is that, too: PostgreSQL would look for a commit behind it, and find none.
func (r *restoreRun) proveEnd(ctx context.Context, p *restorePlan) error {
	last := wal.LSN(0)
	for facts, err := range r.cluster.Facts(ctx, p.reach) {
		if err != nil {
			return err
		}
		s := facts.Summary
		if s == nil {
			if facts.Problem != "" {
				r.report.warning("%s is damaged, and recovery may end there: %s", facts.Name, facts.Problem)
			}
			return nil // PostgreSQL finds the end by itself
		}
		if last == 0 {
			last = s.Last
		}
		if last == 0 || p.target.kind == "time" && s.Transactions.Count == 0 && !s.IsIncomplete {
			continue
		}
		if p.target.kind == "time" && (s.IsIncomplete || s.Transactions.Latest.After(p.target.time)) {
			return nil
		}
		break
	}
	if p.target.kind == "time" && p.reach.Resumes != "" { // what is missing may have what was wanted
		return usererr.Hinted("If the missing log is elsewhere, push it: basin wal push FILE. A target before the gap can be reached.",
			"log is missing behind %v, where no transaction has ended yet after %s; it goes on at %s", p.reach.End, stamp(p.target.time), p.reach.Resumes)
	}
	if last < p.commit.Stop.LSN { // nothing happened since the backup, and PostgreSQL would not come to any target
		switch p.target.kind {
		case "time":
			p.why = "no transaction has ended after " + stamp(p.target.time)
		case "immediate":
			p.why = "nothing was written since the backup"
		}
		p.target = recoveryTarget{timeline: p.target.timeline}
		return nil
	}
	if p.target.kind == "immediate" {
		return nil
	}
	if p.target.kind == "time" {
		p.why = "no transaction has ended after " + stamp(p.target.time)
	}
	p.target = recoveryTarget{kind: "lsn", lsn: last, timeline: p.target.timeline, action: p.target.action}
	if p.why == "" && p.target.action == "" {
		p.target.action = "promote"
	}
	return nil
}

// proveName sees that a restore point is there, behind the backup.
func (r *restoreRun) proveName(ctx context.Context, p *restorePlan) error {
	var places []string
	for facts, err := range r.cluster.Facts(ctx, p.reach) {
		if err != nil {
			return err
		}
		if facts.Summary == nil {
			return nil // it may be there
		}
		for _, point := range facts.Summary.RestorePoints {
			if point.Name == p.target.name && point.LSN >= p.commit.Stop.LSN {
				places = append(places, point.End.String())
			}
		}
	}
	switch {
	case len(places) == 0 && p.reach.Resumes != "":
		return usererr.Hinted("If the missing log is elsewhere, push it: basin wal push FILE.",
			"there is no restore point \"%s\" between backup %s and %v, where log is missing; it goes on at %s", p.target.name, p.commit.ID, p.reach.End, p.reach.Resumes)
	case len(places) == 0:
		return usererr.Hinted("Is the name right? Recovery can only stop at one behind the end of a backup.",
			"there is no restore point \"%s\" behind backup %s, which ends at %v", p.target.name, p.commit.ID, p.commit.Stop.LSN)
	case len(places) == 1:
		return nil
	}
	return usererr.Hinted("Choose one with --target-lsn.", "there are several restore points \"%s\", the newest first: %s", p.target.name, strings.Join(places, ", "))
}

// stamp returns a time for messages, in UTC, to the microsecond as PostgreSQL has it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.999999 UTC") }

// print tells the plan.
func (p *restorePlan) print(c call, r *restoreRun) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Restores %s into \"%s\"\n", r.cluster.Name(), r.o.Directory)
	fmt.Fprintf(&b, "  backup    %s, %s in %s files, ended %s\n", p.commit.ID, humanize.IBytes(uint64(p.commit.Size)), humanize.Comma(p.commit.Files), stamp(p.commit.Ended))
	fmt.Fprintf(&b, "  log       from %v to %v, timeline %d\n", p.commit.Start.LSN, p.reach.End, p.reach.Timeline)
	if p.reach.Resumes != "" {
		fmt.Fprintf(&b, "            files are missing behind that; it goes on at %s, which cannot be reached\n", p.reach.Resumes)
	}
	fmt.Fprintf(&b, "  target    %s\n", r.o.Target)
	if p.why != "" {
		fmt.Fprintf(&b, "            %s: recovers to %v, which is all that is there\n", p.why, p.target)
	}
	for _, t := range p.commit.Tablespaces {
		fmt.Fprintf(&b, "  tablespace %d into \"%s\"\n", t.OID, r.mapped(t.Location))
	}
	b.WriteString(r.part.plan())
	_, err := c.stdout.Write([]byte(b.String()))
	return err
}

// String tells the target.
func (t recoveryTarget) String() string {
	how := ""
	if t.exclusive {
		how = ", which is left out"
	}
	switch t.kind {
	case "time":
		return stamp(t.time) + " (" + t.time.Format("2006-01-02 15:04:05.999999-07:00") + ")" + how
	case "lsn":
		return t.lsn.String() + how
	case "xid":
		return "transaction " + strconv.FormatUint(t.xid, 10) + how
	case "name":
		return "restore point \"" + t.name + "\""
	case "immediate":
		return "as soon as the cluster is consistent"
	}
	return "the end of the log"
}

// mapped returns where a tablespace goes.
func (r *restoreRun) mapped(location string) string {
	for _, m := range r.o.TablespaceMapping {
		if m.Old == localfs.Canonical(location) {
			return m.New
		}
	}
	return location
}

// write makes the data directory.
func (r *restoreRun) write(ctx context.Context, p *restorePlan) (err error) {
	dir, err := localfs.ClaimDir(r.o.Directory, localfs.DirModeOwner)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	settings, err := r.settings(p)
	if err != nil {
		return err
	}
	source := r.cluster.NewSource(p.commit, repo.SourceOptions{Progress: &r.counts})
	defer source.Close()
	mapping := make(map[string]string)
	for _, m := range r.o.TablespaceMapping {
		if _, ok := mapping[m.Old]; !ok {
			mapping[m.Old] = m.New
		}
	}
	sink := plain.NewSink(plain.Options{
		Dir: dir, TablespaceMap: mapping, Progress: &r.counts,
		Sync: localfs.Syncer{Off: r.o.NoSync, Warn: func(err error) { r.report.warning("%s", err) }},
	})
	defer func() {
		err = errors.Join(err, sink.Close())
		for _, c := range sink.Claims() {
			err = errors.Join(err, c.Close())
		}
	}()
	if r.o.Progress {
		r.progress = startProgress(r.report, &r.counts, progressFormFor(r.report, false, os.Getenv))
		defer r.progress.stop()
		r.progress.enter(phaseReceive)
	}
	err = backup.Copy(ctx, sink, backup.WithRecovery(r.part.source(source, &r.counts), backup.RecoveryOptions{
		Settings: settings + r.part.settings(), Mode: localfs.FileModeOwner, Signal: p.commit.ServerVersion >= 120000, Ends: !r.o.Standby,
	}), backup.Options{Workers: r.o.Jobs})
	if err == nil {
		r.progress.enter(phaseDone)
	}
	return err
}

// settings returns the configuration with which the restored cluster recovers. What the source's
// has of the kind is overridden: two targets would be an error, and a clone that archives
// would take the source's next timeline.
func (r *restoreRun) settings(p *restorePlan) (string, error) {
	command, err := r.restoreCommand()
	if err != nil {
		return "", err
	}
	version := p.commit.ServerVersion
	var b strings.Builder
	set := func(name, value string) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.NewReplacer("'", "''", `\`, `\\`).Replace(value))
	}
	b.WriteString("# by basin restore\n")
	set("restore_command", command)
	if version < 120000 {
		if r.o.Standby {
			set("standby_mode", "on")
		}
	} else {
		for _, name := range []string{"recovery_end_command", "archive_cleanup_command", "primary_conninfo", "primary_slot_name"} {
			if !r.o.Standby || name == "recovery_end_command" {
				set(name, "")
			}
		}
		for _, name := range []string{"recovery_target", "recovery_target_name", "recovery_target_time", "recovery_target_xid", "recovery_target_lsn"} {
			set(name, "")
		}
		set("recovery_min_apply_delay", "0")
		if !r.o.ArchiveMode && !r.o.Standby {
			set("archive_mode", "off")
		}
	}
	set("recovery_target_timeline", strconv.FormatUint(uint64(p.reach.Timeline), 10))
	if r.o.Standby {
		return strings.Replace(b.String(), fmt.Sprintf("recovery_target_timeline = '%d'", p.reach.Timeline), "recovery_target_timeline = 'latest'", 1), nil
	}
	t := p.target
	switch t.kind {
	case "time":
		set("recovery_target_time", t.time.UTC().Format("2006-01-02 15:04:05.999999")+"+00")
	case "lsn":
		set("recovery_target_lsn", t.lsn.String())
	case "xid":
		set("recovery_target_xid", strconv.FormatUint(t.xid, 10))
	case "name":
		set("recovery_target_name", t.name)
	case "immediate":
		set("recovery_target", "immediate")
	}
	if t.kind != "" {
		if t.exclusive {
			set("recovery_target_inclusive", "off")
		} else {
			set("recovery_target_inclusive", "on")
		}
		action := t.action
		if action == "" {
			action = "pause"
		}
		set("recovery_target_action", action)
	}
	return b.String(), nil
}

// restoreCommand returns the command that gets the log from the repository.
func (r *restoreRun) restoreCommand() (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", err
	}
	words := []string{program, "wal", "get"}
	options, err := r.o.repositoryOptions.words(r.cluster.Name())
	if err != nil {
		return "", err
	}
	words = append(words, options...)
	for i, w := range words {
		words[i] = strings.ReplaceAll(shellWord(w), "%", "%%")
	}
	return guarded(strings.Join(words, " ") + ` %f "%p"`), nil
}

// next tells what to do now.
func (r *restoreRun) next(c call, p *restorePlan) error {
	dir, err := filepath.Abs(r.o.Directory)
	if err != nil {
		dir = r.o.Directory
	}
	_, err = fmt.Fprintf(c.stdout, "Restored. Start it, and see that it comes to its target, with\n  pg_ctl start -D %[1]s\n  basin restored --wait=3600 %[1]s\n", shellWord(dir))
	if err == nil && p.target.kind != "" && (p.target.action == "" || p.target.action == "pause") {
		_, err = fmt.Fprint(c.stdout, "At the target it pauses, and can be read. If that is what was wanted,\n  SELECT pg_wal_replay_resume();\nends recovery; if not, restore again to another target.\n")
	}
	if err == nil {
		_, err = fmt.Fprint(c.stdout, r.part.next())
	}
	return err
}
