package checkup

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"basin/internal/shell"
)

// Wanted is what is to be done with the cluster. The zero value is a backup over the wire into a
// repository of which nothing is known.
type Wanted struct {
	// Repository are the names of the repository that --repository may have in an archive_command: its location, and what
	// the configuration calls it.
	Repository []string
	Cluster    string    // the name of the cluster in it; empty is not known
	Unsaid     string    // the name that it has where --cluster does not say one; empty is not known
	IsLocal    bool      // the data directory is read on its host
	Now        time.Time // zero is now
}

// fault is a fault of PostgreSQL that matters to who keeps copies of its data.
type fault struct {
	from, before int               // server_version_num of the first that has it, and of the first that has not
	applies      func(Server) bool // nil is always
	level        Level
	text, advice string
}

// faults are the known ones. What is said of WAL summaries is the rule by which backups rely on them.
//
// Source: release notes of PostgreSQL 14.4.
var faults = []fault{
	{0, 130000, nil, Warning, "restores of this version are not tested by basin", "Upgrade to a newer major."},
	{140000, 140004, nil, Warning, "CREATE INDEX CONCURRENTLY and REINDEX CONCURRENTLY could leave rows out of an index, before 14.4; copies have the same indexes",
		"Update to the newest minor of 14, and look with pg_amcheck --heapallindexed for indexes to rebuild."},
	{170000, 170012, summarizes, Warning, "WAL summaries are not relied on before 17.12: each backup reads every page", "Update to 17.12 or newer."},
	{180000, 180006, summarizes, Warning, "WAL summaries are not relied on before 18.6: each backup reads every page", "Update to 18.6 or newer."},
}

func summarizes(s Server) bool { return s.Settings["summarize_wal"] == "on" }

// Items says what is right about a server and what is not.
func (s Server) Items(w Wanted) []Item {
	if w.Now.IsZero() {
		w.Now = time.Now()
	}
	var items []Item
	for _, rule := range []func(Server, Wanted) []Item{
		Server.version, Server.privileges, Server.levels, Server.archiving, Server.archiver, Server.senders, Server.slots, Server.summaries, Server.safety, Server.configuration, Server.clock,
	} {
		items = append(items, rule(s, w)...)
	}
	return items
}

func ok(name, format string, args ...any) Item {
	return Item{Name: name, Text: fmt.Sprintf(format, args...)}
}

func (s Server) version(Wanted) []Item {
	var items []Item
	for _, f := range faults {
		if f.from <= s.Version && s.Version < f.before && (f.applies == nil || f.applies(s)) {
			items = append(items, Item{"server version", f.level, s.ServerVersion + ": " + f.text, f.advice})
		}
	}
	if items == nil {
		role := "a primary"
		if s.InRecovery {
			role = "a standby"
		}
		items = append(items, ok("server version", "%s, %s", s.ServerVersion, role))
	}
	return items
}

func (s Server) privileges(w Wanted) []Item {
	var missing []string
	if !s.IsSuperuser && !s.IsReplication {
		missing = append(missing, "REPLICATION")
	}
	if !s.IsSuperuser && w.IsLocal && !s.BacksUp {
		missing = append(missing, "EXECUTE of the functions that start and stop a backup")
	}
	if !s.IsSuperuser && w.IsLocal && !s.ReadsSettings {
		missing = append(missing, "membership in pg_read_all_settings")
	}
	switch {
	case len(missing) > 0:
		return []Item{{"privileges", Error, fmt.Sprintf("role %s lacks %s", s.User, strings.Join(missing, ", ")), "Run as a superuser, in the database that is connected to:\n" + s.Grants(w)}}
	case s.IsSuperuser:
		return []Item{ok("privileges", "role %s is a superuser; REPLICATION would be enough", s.User)}
	}
	return []Item{ok("privileges", "role %s has what it needs", s.User)}
}

// Grants returns the statements that give the role what it needs and no more.
func (s Server) Grants(w Wanted) string {
	role := quotedRole(s.User)
	script := "  ALTER ROLE " + role + " REPLICATION;\n"
	if w.IsLocal {
		functions := []string{"pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"}
		if s.Version < 150000 {
			functions = []string{"pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"}
		}
		for _, f := range functions {
			script += "  GRANT EXECUTE ON FUNCTION pg_catalog." + f + " TO " + role + ";\n"
		}
		script += "  GRANT pg_read_all_settings TO " + role + ";\n"
	}
	return strings.TrimSuffix(script, "\n")
}

func (s Server) levels(Wanted) []Item {
	level := s.Settings["wal_level"]
	if level == "minimal" {
		return []Item{{"wal_level", Error, "minimal: no backup can be taken of a running server", "Set wal_level = replica, and restart the server."}}
	}
	return []Item{ok("wal_level", "%s", level)}
}

// archiving judges how the log gets into the repository.
func (s Server) archiving(w Wanted) []Item {
	const item = "archive_command"
	mode, command, library := s.Settings["archive_mode"], s.Settings["archive_command"], s.Settings["archive_library"]
	options := shell.Quote("--repository=" + strings.ReplaceAll(first(w.Repository, "LOCATION"), "%", "%%"))
	if w.Cluster != "" && w.Cluster != w.Unsaid {
		options += " --cluster=" + w.Cluster
	}
	advice := "Set archive_command = 'basin wal push " + configQuotes.Replace(options) + " %p'"
	switch {
	case mode == "off":
		return []Item{{"archive_mode", Warning, "off: only the ends of backups can be restored, unless the log is received",
			"Set archive_mode = on (that needs a restart).\n" + advice + "."}}
	case mode == "on" && s.InRecovery:
		return []Item{ok("archive_mode", "on: a standby archives nothing, its primary does")}
	case library != "":
		return []Item{ok("archive_mode", "%s", mode), {item, Warning, fmt.Sprintf("archive_library is %q: the log goes elsewhere than to basin", library),
			"If it is to come into the repository, reset archive_library.\n" + advice + "."}}
	case command == "" || command == "(disabled)":
		return []Item{ok("archive_mode", "%s", mode), {item, Error, "empty: the server keeps all of its log, until the disk is full", advice + ", and reload."}}
	}
	return []Item{ok("archive_mode", "%s", mode), s.command(item, command, advice, w)}
}

// configQuotes writes what is between the quotes of a setting in postgresql.conf.
var configQuotes = strings.NewReplacer("'", "''", `\`, `\\`)

// command judges an archive_command.
func (s Server) command(item, command, advice string, w Wanted) Item {
	words := shell.Split(command)
	at := slices.IndexFunc(words, func(word string) bool { return filepath.Base(word) == "basin" })
	switch {
	case at < 0 || at+2 >= len(words) || words[at+1] != "wal" || words[at+2] != "push":
		return Item{item, Warning, fmt.Sprintf("%q is not basin wal push: the log does not come into the repository that way", command), advice + ", and reload; or receive the log otherwise."}
	case !strings.Contains(command, "%p"):
		return Item{item, Error, fmt.Sprintf("%q does not say which file: %%p is missing", command), advice + ", and reload."}
	case strings.ContainsAny(command, "|;&"):
		return Item{item, Warning, fmt.Sprintf("%q is more than one command: if the shell ends with success though basin does not, log is lost", command), advice + " alone, and reload."}
	}
	named := optionOf(words, "--repository")
	if named != "" && len(w.Repository) > 0 && !slices.Contains(w.Repository, named) {
		return Item{item, Warning, fmt.Sprintf("%q pushes to %s, and this is about %s", command, named, w.Repository[0]), advice + ", and reload, if that is not on purpose."}
	}
	if cluster := cmp.Or(optionOf(words, "--cluster"), optionOf(words, "BASIN_CLUSTER"), w.Unsaid); cluster != "" && w.Cluster != "" && cluster != w.Cluster {
		return Item{item, Warning, fmt.Sprintf("%q pushes log of cluster %s, and this is about %s", command, cluster, w.Cluster),
			advice + ", and reload, if neither BASIN_CLUSTER nor the configuration says it where the server runs."}
	}
	return ok(item, "%s", command)
}

// optionOf returns what an option, or a variable before the command, says in a command line; nothing if it does not say it in a plain way.
func optionOf(words []string, option string) string {
	for i, word := range words {
		if value, isOption := strings.CutPrefix(word, option+"="); isOption {
			return strings.ReplaceAll(value, "%%", "%")
		}
		if word == option && i+1 < len(words) {
			return strings.ReplaceAll(words[i+1], "%%", "%")
		}
	}
	return ""
}

func first(texts []string, otherwise string) string {
	if len(texts) > 0 {
		return texts[0]
	}
	return otherwise
}

// archiver judges what became of the archive_command.
func (s Server) archiver(w Wanted) []Item {
	const item = "archiver"
	a := s.Archiver
	if mode := s.Settings["archive_mode"]; mode == "off" || mode == "on" && s.InRecovery {
		return nil
	}
	switch {
	case a.IsFailing():
		return []Item{{item, Error, fmt.Sprintf("fails: %s was tried last at %s, and %s", a.LastFailed, stamp(a.FailedAt), lastArchived(a)),
			"The server's log has what the command printed. Meanwhile the log stays in pg_wal and fills its disk."}}
	case a.ArchivedAt.IsZero():
		return []Item{{item, Warning, "nothing was archived yet", "SELECT pg_switch_wal(); has it begin."}}
	}
	items := []Item{ok(item, "%s at %s; it failed %d times since the statistics were reset", a.LastArchived, stamp(a.ArchivedAt), a.Failed)}
	if s.Settings["archive_timeout"] == "0" {
		items = append(items, ok("archive_timeout", "0: what is in a segment that is not full is not in the repository, for however long"))
	}
	return items
}

func lastArchived(a Archiver) string {
	if a.ArchivedAt.IsZero() {
		return "nothing was archived before"
	}
	return a.LastArchived + " was the last to be archived, at " + stamp(a.ArchivedAt)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// senders judges whether a backup's two connections and its slot can be had.
func (s Server) senders(Wanted) []Item {
	var items []Item
	most, _ := strconv.Atoi(s.Settings["max_wal_senders"])
	const wanted = 2 // of a backup over the wire: its files, and its log
	if free := most - s.Senders; free < wanted {
		items = append(items, Item{"max_wal_senders", Error, fmt.Sprintf("%d, of which %d are in use: a backup needs %d", most, s.Senders, wanted),
			fmt.Sprintf("Set max_wal_senders = %d or more, and restart the server.", s.Senders+wanted+2)})
	} else {
		items = append(items, ok("max_wal_senders", "%d, of which %d are free", most, free))
	}
	slots, _ := strconv.Atoi(s.Settings["max_replication_slots"])
	if len(s.Slots) >= slots {
		items = append(items, Item{"max_replication_slots", Error, fmt.Sprintf("%d, and all are in use: a backup keeps its log by a temporary one", slots),
			"Raise max_replication_slots and restart, drop a slot that nobody uses, or take backups with --no-slot."})
	} else {
		items = append(items, ok("max_replication_slots", "%d, of which %d are free", slots, slots-len(s.Slots)))
	}
	return items
}

// largeRetention is how much log a slot may keep that nobody reads, in bytes.
const largeRetention = 1 << 30

func (s Server) slots(Wanted) []Item {
	var items []Item
	for _, slot := range s.Slots {
		name := "slot " + slot.Name
		switch kept := humanize.IBytes(uint64(slot.Retained)); {
		case slot.WALStatus == "lost" || slot.WALStatus == "unreserved":
			items = append(items, Item{name, Warning, "it has lost log, or is about to: " + slot.WALStatus, "Who reads it needs a new copy. Drop it with SELECT pg_drop_replication_slot, or raise max_slot_wal_keep_size."})
		case !slot.Active && slot.Retained >= largeRetention:
			items = append(items, Item{name, Warning, "nobody reads it, and " + kept + " of log are kept for it",
				"Start who is to read it, or drop it: SELECT pg_drop_replication_slot('" + strings.ReplaceAll(slot.Name, "'", "''") + "');"})
		case !slot.Active:
			items = append(items, ok(name, "nobody reads it; %s of log are kept for it", kept))
		default:
			items = append(items, ok(name, "is read; %s of log are kept for it", kept))
		}
	}
	if s.Version < 130000 {
		return items
	}
	limit, _ := strconv.ParseInt(s.Settings["max_slot_wal_keep_size"], 10, 64)
	switch {
	case limit < 0 && len(s.Slots) > 0:
		items = append(items, Item{"max_slot_wal_keep_size", Warning, "-1: a slot that nobody reads any more fills the disk, and the server stops",
			"Set max_slot_wal_keep_size to less than what is free in pg_wal, and reload."})
	case limit < 0:
		items = append(items, ok("max_slot_wal_keep_size", "no limit, and no slots"))
	default:
		items = append(items, ok("max_slot_wal_keep_size", "%s; a backup that takes longer than that much log ends with an error", humanize.IBytes(uint64(limit)<<20)))
	}
	return items
}

func (s Server) summaries(Wanted) []Item {
	if s.Version < 170000 {
		return nil
	}
	if summarizes(s) {
		return []Item{ok("summarize_wal", "on")}
	}
	return []Item{ok("summarize_wal", "off: each backup reads every page to see what has changed")}
}

// safety judges settings without which data may be damaged unseen.
func (s Server) safety(Wanted) []Item {
	var items []Item
	if s.Settings["data_checksums"] == "on" {
		items = append(items, ok("data_checksums", "on"))
	} else {
		items = append(items, Item{"data_checksums", Warning, "off: pages that the disk has damaged are backed up as they are, and nobody sees it",
			"Stop the server cleanly, run pg_checksums --enable, and take a backup."})
	}
	for _, name := range []string{"full_page_writes", "fsync"} {
		if s.Settings[name] == "off" {
			items = append(items, Item{name, Warning, "off: after a crash of the system the cluster, and what is copied of it, may be damaged", "Set " + name + " = on, and reload."})
		}
	}
	return items
}

// clockWarning is how far clocks may be apart.
const clockWarning = 5 * time.Second

func (s Server) clock(Wanted) []Item { return []Item{ClockItem("server's clock", s.Clock)} }

// ClockItem judges how far another clock is ahead of this host's.
func ClockItem(name string, ahead time.Duration) Item {
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	if apart := ahead.Abs().Round(100 * time.Millisecond); apart > clockWarning {
		return Item{name, Warning, fmt.Sprintf("%v %s this host's: times of backups, leases and targets mislead", apart, way), "Have both kept by NTP."}
	}
	return ok(name, "as this host's")
}
