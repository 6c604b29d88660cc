package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/backup"
	"basin/internal/inplace"
	"basin/internal/localfs"
	"basin/internal/repo"
	"basin/internal/shell"
)

// write makes the data directory.
func (r *restoreRun) write(ctx context.Context, p *restorePlan) (err error) {
	settings, err := r.settings(p)
	if err != nil {
		return err
	}
	source := r.cluster.NewSource(p.commit, repo.SourceOptions{Progress: &r.counts})
	defer source.Close()
	mapping := make(map[string]string)
	for _, t := range p.commit.Tablespaces {
		mapping[localfs.Canonical(t.Location)] = r.mapped(t)
	}
	name := r.cluster.Name()
	sink := inplace.NewSink(inplace.Options{
		Directory: r.into, TablespaceMap: mapping, Clear: p.clear, Make: p.make, Major: majorOf(p.commit.ServerVersion), Has: source.Lookup,
		Marker: inplace.Marker{Cluster: name.Name, SystemID: name.SystemID, Backup: p.commit.ID, Began: time.Now().UTC()},
		Sync:   r.syncer(), Warn: r.report.warning, Progress: &r.counts,
	})
	defer func() { err = errors.Join(err, sink.Close()) }()
	if err := r.copy(ctx, sink, r.recovering(source, p, settings)); err != nil {
		return err
	}
	r.written = sink.Written()
	return nil
}

// recovering returns a source with what has a server recover.
func (r *restoreRun) recovering(source backup.Source, p *restorePlan, settings string) backup.Source {
	source = r.part.source(source, &r.counts)
	if p.conf != nil {
		source = &confSource{Source: source, conf: p.conf}
	}
	return backup.WithRecovery(source, backup.RecoveryOptions{
		Settings: settings + r.part.settings(), Mode: localfs.FileModeOwner, Signal: p.commit.ServerVersion >= 120000, Ends: !r.o.Standby,
	})
}

// copy copies the backup, and shows how far it is.
func (r *restoreRun) copy(ctx context.Context, sink backup.Sink, source backup.Source) error {
	if r.o.Progress {
		r.progress = startProgress(r.report, &r.counts, progressFormFor(r.report, false, os.Getenv))
		defer r.progress.stop()
		r.progress.enter(phaseReceive)
	}
	err := backup.Copy(ctx, sink, source, backup.Options{Workers: r.o.Jobs})
	if err == nil {
		r.progress.enter(phaseDone)
	}
	return err
}

// syncer returns how the result is made durable.
func (r *restoreRun) syncer() localfs.Syncer {
	return localfs.Syncer{Off: r.o.NoSync, Warn: func(err error) { r.report.warning("%s", err) }}
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
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.NewReplacer("'", "''", `\`, `\\`, "\n", `\n`).Replace(value))
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
	if p.isRaising() {
		for _, s := range p.raised {
			set(s.Name, strconv.Itoa(int(s.To)))
		}
	}
	if r.o.Standby && p.isFixed {
		set("recovery_target_timeline", strconv.FormatUint(uint64(p.reach.Timeline), 10))
		return b.String(), nil
	}
	if r.o.Standby {
		set("recovery_target_timeline", "latest")
		return b.String(), nil
	}
	set("recovery_target_timeline", strconv.FormatUint(uint64(p.ends), 10))
	t := p.target
	switch t.kind {
	case "time":
		set("recovery_target_time", t.time.UTC().Format("2006-01-02 15:04:05.999999")+"+00")
	case "lsn":
		set("recovery_target_lsn", t.lsn.String())
	case "xid":
		set("recovery_target_xid", strconv.FormatUint(uint64(uint32(t.xid)), 10))
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
		set("recovery_target_action", t.does())
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
		words[i] = strings.ReplaceAll(shell.Quote(w), "%", "%%")
	}
	return guarded(strings.Join(words, " ") + ` %f "%p"`), nil
}

// print tells something on the standard output, or if that takes the backup, as messages.
func (r *restoreRun) print(c call, text string) error {
	if r.o.Format == formatTar && r.o.Directory == "-" {
		for line := range strings.Lines(text) {
			r.report.info("%s", strings.TrimRight(line, "\n"))
		}
		return nil
	}
	_, err := io.WriteString(c.stdout, text)
	return err
}

// startCommands returns the commands that start what was restored, and confirm that it comes to its target.
func startCommands(dir string) []string {
	return []string{"pg_ctl start -D " + shell.Quote(dir), "basin restored --wait=3600 " + shell.Quote(dir)}
}

// next tells what to do now.
func (r *restoreRun) next(p *restorePlan) string {
	dir := absolute(r.o.Directory)
	var b strings.Builder
	switch {
	case r.o.Format == formatTar:
		fmt.Fprintf(&b, "Restored as tar files. Unpack base.tar as the data directory, and each other archive where tablespace_map in it says.\n")
	case r.into.Exists:
		fmt.Fprintf(&b, "Restored; %s of %s were written. ", humanize.IBytes(uint64(r.written)), humanize.IBytes(uint64(p.commit.Size)))
	default:
		b.WriteString("Restored. ")
	}
	if r.o.Format == formatPlain {
		fmt.Fprintf(&b, "Start it, and see that it comes to its target, with\n  %s\n", strings.Join(startCommands(dir), "\n  "))
	}
	if p.target.does() == "pause" {
		b.WriteString("At the target it pauses, and can be read, but for tables that a transaction had locked which was not over, as one that dropped\nthem: queries of these wait until recovery has ended. If that is what was wanted,\n  SELECT pg_wal_replay_resume();\nends recovery; if not, restore again to another target.\n")
	}
	if r.o.Format == formatTar {
		dir = ""
	}
	b.WriteString(p.conf.next(dir))
	return b.String() + r.part.next()
}
