package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"basin/internal/repo"
	"basin/internal/wal"
)

// restoreResult is what restore --json prints. Its shape is documented in docs/repository.md: fields are added, and none
// is changed or removed.
type restoreResult struct {
	Cluster   string        `json:"cluster"`
	SystemID  string        `json:"systemID"`
	Location  string        `json:"location"` // of the repository
	Directory string        `json:"directory"`
	Format    string        `json:"format"` // plain or tar
	Into      string        `json:"into"`   // new, in place, unfinished
	DryRun    bool          `json:"dryRun"`
	Restored  bool          `json:"restored"`
	Written   *int64        `json:"written"` // bytes; null if that is not known
	Backup    backupListing `json:"backup"`
	Log       logListing    `json:"log"`

	Target     targetListing  `json:"target"` // that was asked for
	Standby    bool           `json:"standby"`
	RecoversTo *targetListing `json:"recoversTo"` // null for a standby
	Why        string         `json:"why"`        // that is another one; empty if it is not
	Note       string         `json:"note"`       // about the target; empty if there is nothing to say

	Tablespaces   []tablespacePlace   `json:"tablespaces"`
	Made          []tablespaceListing `json:"made"`          // tablespaces that recovery makes
	Emptied       []tablespaceListing `json:"emptied"`       // those of them that are there
	Configuration *confListing        `json:"configuration"` // null if that which is in the backup does
	Raised        []raisedSetting     `json:"raised"`        // settings, since recovery needs it
	Databases     *databasesListing   `json:"databases"`     // null if all are restored
	Space         []spaceListing      `json:"space"`
	Seconds       *int64              `json:"seconds"` // that the backup takes to come, before the log is replayed; null if that is not known

	Next     []string `json:"next"` // commands
	Warnings []string `json:"warnings"`
	Problems []string `json:"problems"`
}

// logListing is the log that a restore needs, or may.
type logListing struct {
	Timeline wal.Timeline `json:"timeline"`
	From     wal.LSN      `json:"fromLSN"`
	To       wal.LSN      `json:"toLSN"`
	Resumes  string       `json:"gap,omitempty"` // the first file behind a gap, which cannot be reached
}

// targetListing is how far a restored cluster recovers.
type targetListing struct {
	Kind      string       `json:"kind"` // time, lsn, xid, name, immediate or end
	Time      *time.Time   `json:"time,omitempty"`
	LSN       *wal.LSN     `json:"lsn,omitempty"`
	XID       string       `json:"xid,omitempty"` // decimal, as it has 64 bits
	Name      string       `json:"name,omitempty"`
	Exclusive bool         `json:"exclusive"`
	Timeline  wal.Timeline `json:"timeline,omitempty"`
	Action    string       `json:"action,omitempty"`
}

// tablespacePlace is where a tablespace goes.
type tablespacePlace struct {
	tablespaceListing
	Directory string `json:"directory"`
}

// confListing is the configuration that a restored data directory gets.
type confListing struct {
	Made     []string `json:"made"`             // names of files
	From     []string `json:"from"`             // paths of what postgresql.conf is made of
	Missing  []string `json:"missing"`          // that it lacks
	Without  []string `json:"without"`          // settings, which lead elsewhere
	Unusable []string `json:"unusable"`         // settings, each with what this host lacks
	Closed   string   `json:"closed,omitempty"` // why nobody is let in but over the socket
	Saved    string   `json:"saved,omitempty"`  // below the data directory, the server's own files
}

// databasesListing is which databases have content.
type databasesListing struct {
	Whole []string `json:"whole"`
	Empty []string `json:"empty"`
	Left  int64    `json:"zeros"` // bytes, in place of what is left out
}

// spaceListing is how much of a file system a restore takes, in bytes.
type spaceListing struct {
	Directory string `json:"directory"`
	Needed    int64  `json:"needed"`
	There     int64  `json:"there"` // of files that make room or stay
	Free      int64  `json:"free"`
	Fits      bool   `json:"fits"`
}

// restoredPart is what restore --file --json prints. Its shape is documented as that of a restoreResult is.
type restoredPart struct {
	Cluster   string          `json:"cluster"`
	SystemID  string          `json:"systemID"`
	Location  string          `json:"location"`
	Directory string          `json:"directory"`
	DryRun    bool            `json:"dryRun"`
	Restored  bool            `json:"restored"`
	Backup    backupListing   `json:"backup"`
	Wanted    []wantedListing `json:"wanted"`
	Files     int             `json:"files"` // that were restored
	Bytes     int64           `json:"bytes"`
	Wrong     int64           `json:"wrongPages"` // whose checksums are wrong
	Problems  []string        `json:"problems"`
}

// wantedListing is a file, a directory or a relation that is restored.
type wantedListing struct {
	Kind string `json:"kind"` // file, directory, relation
	Path string `json:"path"`
	Name string `json:"name,omitempty"` // of a relation
}

// result returns what came of a restore that ended with an error or nil.
func (r *restoreRun) result(p *restorePlan, err error) restoreResult {
	name := r.cluster.Name()
	result := restoreResult{
		Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Location: r.o.location(),
		Directory: absolute(r.o.Directory), Format: "plain", Into: "new",
		DryRun: r.o.DryRun, Restored: err == nil && !r.o.DryRun, Backup: listBackup(name, p.commit),
		Log:    logListing{p.reach.Timeline, p.commit.Start.LSN, p.reach.End, p.reach.Resumes},
		Target: listTarget(r.o.Target), Standby: r.o.Standby, Why: p.why, Note: p.note,
		Tablespaces: []tablespacePlace{}, Made: madeListing(p.made), Emptied: []tablespaceListing{}, Configuration: p.conf.listing(), Raised: append([]raisedSetting{}, p.raised...), Databases: r.part.listing(),
		Space: []spaceListing{}, Next: []string{}, Warnings: append([]string{}, r.warnings...), Problems: problemTexts(err),
	}
	if p.rate > 0 {
		seconds := int64(p.duration().Seconds())
		result.Seconds = &seconds
	}
	switch {
	case r.o.Format == formatTar:
		result.Format = "tar"
	case r.into.IsUnfinished():
		result.Into = "unfinished"
	case r.into.Exists:
		result.Into = "in place"
	}
	if !r.o.Standby {
		to := p.target
		to.action, to.timeline = to.does(), p.ends
		listed := listTarget(to)
		result.RecoversTo = &listed
	}
	for _, t := range p.commit.Tablespaces {
		if filepath.IsAbs(t.Location) {
			result.Tablespaces = append(result.Tablespaces, tablespacePlace{tablespaceListing{t.OID, t.Location}, r.mapped(t)})
		}
	}
	for _, t := range p.clear {
		result.Emptied = append(result.Emptied, tablespaceListing{t.OID, t.Location})
	}
	for _, n := range p.space {
		result.Space = append(result.Space, spaceListing{n.dir, n.need, n.there, n.free, n.fits()})
	}
	if result.Restored && r.o.Format == formatPlain {
		result.Written, result.Next = &r.written, startCommands(result.Directory)
	}
	return result
}

// location returns where the repository is; nothing if that is not known.
func (o repositoryOptions) location() string {
	p, err := o.place()
	if err != nil {
		return ""
	}
	return p.Location
}

// absolute returns an absolute path, if it can be told.
func absolute(path string) string {
	if whole, err := filepath.Abs(path); err == nil {
		return whole
	}
	return path
}

// problemTexts returns an error as reports for programs have it.
func problemTexts(err error) []string {
	if err == nil {
		return []string{}
	}
	return []string{err.Error()}
}

// listTarget returns what is told of a target.
func listTarget(t recoveryTarget) targetListing {
	l := targetListing{Kind: t.kind, Time: timeIfAny(t.time), Name: t.name, Exclusive: t.exclusive, Timeline: t.timeline, Action: t.action}
	switch t.kind {
	case "":
		l.Kind = "end"
	case "lsn":
		l.LSN = &t.lsn
	case "xid":
		l.XID = strconv.FormatUint(t.xid, 10)
	}
	return l
}

// listing returns what is told of the configuration; nil if that which is in the backup does.
func (c *restoredConf) listing() *confListing {
	if c == nil {
		return nil
	}
	l := &confListing{
		Made: slices.AppendSeq([]string{}, maps.Keys(c.files)), From: append([]string{}, c.from...), Missing: append([]string{}, c.missing...),
		Without: append([]string{}, c.left...), Unusable: append([]string{}, c.unusable...), Closed: c.closed,
	}
	if c.lacks && !slices.Contains(l.Made, confFile) {
		l.Made = append(l.Made, confFile)
	}
	slices.Sort(l.Made)
	if files, _ := c.saved(); len(files) > 0 {
		l.Saved = repo.ConfigurationDir
	}
	return l
}

// listing returns which databases are restored; nil if all are.
func (p *databasePart) listing() *databasesListing {
	if p == nil {
		return nil
	}
	l := &databasesListing{Whole: append([]string{}, p.names...), Empty: []string{}, Left: p.left}
	for _, d := range p.others {
		l.Empty = append(l.Empty, d.Name)
	}
	return l
}

// partOf returns what is told of files before they are restored.
func partOf(o restoreOptions, name repo.ClusterName, commit repo.Commit, wanted []wantedFiles) restoredPart {
	part := restoredPart{
		Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Location: o.location(),
		Directory: absolute(o.Directory), DryRun: o.DryRun, Backup: listBackup(name, commit), Wanted: []wantedListing{},
	}
	for _, w := range wanted {
		part.Wanted = append(part.Wanted, w.wantedListing)
	}
	return part
}

// String tells people what is restored.
func (w wantedListing) String() string {
	text := fmt.Sprintf("%-9s %s", w.Kind, printable(w.Path, false))
	if w.Name != "" {
		text += ": " + printable(w.Name, false)
	}
	return text
}
