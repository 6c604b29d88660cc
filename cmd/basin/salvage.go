package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// salvageResult is what salvage --json prints. Its shape is documented in docs/repository.md: fields are added, and
// none is changed or removed.
type salvageResult struct {
	Cluster         string       `json:"cluster"`
	SystemID        string       `json:"systemID"`
	Pushed          int          `json:"pushed"` // files
	Bytes           int64        `json:"bytes"`
	There           int          `json:"there"` // files that were in the repository already
	Timeline        wal.Timeline `json:"timeline"`
	End             wal.LSN      `json:"end"`              // behind what is valid in the directory
	LastTransaction *time.Time   `json:"lastTransaction"`  // null if it is not known
	Unused          int          `json:"unused"`           // segments that hold nothing yet
	Behind          []string     `json:"behind"`           // segments behind the end that do not follow
	Backup          string       `json:"backup,omitempty"` // that leads there
	Reaches         *wal.LSN     `json:"reaches"`          // from that backup on; null if it is not known
	Missing         bool         `json:"missing"`          // no backup leads to the end
	why             string       // it ends there
}

// salvageLog is basin salvage.
func salvageLog(ctx context.Context, c call) error {
	var o repositoryOptions
	o.Say = c.report.info
	json := false
	operands, err := c.parse(append(o.options(), flagOption("json", 0, &json)))
	switch {
	case err != nil:
		return err
	case len(operands) == 0:
		return c.usage("no data directory specified")
	case len(operands) > 1:
		return c.usage("too many command-line arguments (first is \"%s\")", operands[1])
	}
	dir, err := findLog(operands[0])
	if err != nil {
		return err
	}
	id, err := dir.systemID()
	if err != nil {
		return err
	}
	return inEach(ctx, c.report, o, func(one repositoryOptions) error { return salvageInto(ctx, c, one, dir, salvageForm{id, json}) })
}

// salvageForm says of which cluster log is, and how what becomes of it is told.
type salvageForm struct {
	systemID uint64
	isJSON   bool
}

// salvageInto keeps the log of a directory in a repository, and tells what came of it.
func salvageInto(ctx context.Context, c call, o repositoryOptions, dir logDirectory, form salvageForm) error {
	r, cluster, err := openClusterWithID(ctx, o, form.systemID)
	if err != nil {
		return err
	}
	report, err := cluster.SalvageLog(ctx, repo.SalvageOptions{Names: dir.names, Read: dir.read})
	if other := (*repo.OtherLogError)(nil); errors.As(err, &other) {
		return usererr.Hinted("Two servers wrote to one archive, or this directory was recovered beside another server. Nothing was overwritten; what was pushed before stays.", "%w", err)
	}
	if err != nil {
		return err
	}
	name := cluster.Name()
	result := salvageResult{
		Cluster: name.Name, SystemID: strconv.FormatUint(name.SystemID, 10), Pushed: report.Pushed, Bytes: report.Bytes, There: report.There,
		Timeline: report.End.Timeline, End: report.End.LSN, Unused: report.Unused, Behind: report.Behind, why: report.Why,
	}
	if !report.Last.IsZero() {
		result.LastTransaction = &report.Last
	}
	result.Behind = append([]string{}, result.Behind...)
	if report.End.LSN == 0 {
		return usererr.Hinted("Is it the right directory? pg_wal may have been a link to another file system.", "there is no valid log in \"%s\"", dir.path)
	}
	if r.CanRead() {
		if err := result.follow(ctx, cluster, report.End); err != nil {
			return err
		}
	}
	tell := func() error {
		_, err := c.stdout.Write([]byte(result.text(r.CanRead())))
		return err
	}
	if form.isJSON {
		tell = func() error { return printJSON(c, result) }
	}
	if err := tell(); err != nil || !result.Missing {
		return err
	}
	return exitStatus{usererr.Hinted("If the files between are elsewhere, push them: basin wal push FILE. basin list shows the backups.",
		"the log was kept, but no backup leads to it"), exitGap}
}

// follow finds the newest backup from which the log leads to an end.
func (r *salvageResult) follow(ctx context.Context, c *repo.Cluster, end wal.Position) error {
	commits, err := c.Backups(ctx)
	if err != nil && len(commits) == 0 {
		return err
	}
	r.Missing = true
	for _, commit := range slices.Backward(commits) {
		if commit.Damaged {
			continue
		}
		reach, err := c.Reach(ctx, commit, end.Timeline)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			continue // it is on another line, or lacks log itself
		}
		if r.Reaches == nil || reach.End > *r.Reaches {
			r.Backup, r.Reaches = commit.ID, &reach.End
		}
		if reach.End >= end.LSN {
			r.Missing = false
			return nil
		}
	}
	return nil
}

// text returns what was salvaged, for people.
func (r salvageResult) text(canRead bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s of the log pushed, %s; %s there already\n", counted(r.Pushed, "file"), bytesText(r.Bytes), counted(r.There, "file"))
	fmt.Fprintf(&b, "the log of the directory ends at %v on timeline %d", r.End, r.Timeline)
	if r.why != "" {
		fmt.Fprintf(&b, ": %s", r.why)
	}
	b.WriteString("\n")
	if r.LastTransaction != nil {
		fmt.Fprintf(&b, "the last transaction in it ended at %s\n", stamp(*r.LastTransaction))
	}
	if n := len(r.Behind); n > 0 {
		fmt.Fprintf(&b, "%s behind that, from %s on, which does not follow it: what is between is damaged or was never written\n", counted(n, "segment"), r.Behind[0])
	}
	switch {
	case !canRead:
		b.WriteString("whether a backup leads there is not known here, without the private key\n")
	case r.Reaches == nil:
		b.WriteString("no backup of this line is in the repository\n")
	case r.Missing:
		fmt.Fprintf(&b, "backup %s and the log lead only to %v: files are missing behind that\n", r.Backup, *r.Reaches)
	default:
		fmt.Fprintf(&b, "backup %s and the log lead to all of it: basin restore -D DIR\n", r.Backup)
	}
	return b.String()
}

// logDirectory is a directory that has log, and maybe the data directory that it is of.
type logDirectory struct {
	data  string // empty if it is not known
	path  string
	names []string
}

// findLog finds the log of a data directory in which no server runs. What has no control file is a directory of
// log itself.
func findLog(path string) (logDirectory, error) {
	d := logDirectory{data: path, path: filepath.Join(path, "pg_wal")}
	if pid, isAlive := postmasterOf(path); isAlive {
		return d, usererr.Hinted("Stop it, and it archives all it has. If it is none of this directory, remove postmaster.pid.",
			"a server runs in \"%s\", process %d", path, pid)
	}
	control := filepath.Join(path, filepath.FromSlash(pgdata.ControlPath))
	if _, err := os.Stat(control); errors.Is(err, fs.ErrNotExist) {
		d.data, d.path = "", path
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return d, localfs.Errorf(err, d.path, "could not open directory \"%s\"", d.path)
	}
	for _, e := range entries {
		if !e.IsDir() {
			d.names = append(d.names, e.Name())
		}
	}
	return d, nil
}

// read reads a file of the log.
func (d logDirectory) read(name string) ([]byte, error) {
	path := filepath.Join(d.path, name)
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	return content, nil
}

// systemID returns which cluster the log is of: what the control file says, or, without one, most of the segments.
func (d logDirectory) systemID() (uint64, error) {
	if d.data != "" {
		return systemIDOf(d.data, nil)
	}
	votes := make(map[uint64]int)
	most := uint64(0)
	for _, name := range d.names {
		if !repo.IsSegment(name) {
			continue
		}
		path := filepath.Join(d.path, name)
		f, err := os.Open(path)
		if err != nil {
			return 0, localfs.Errorf(err, path, "could not open file \"%s\"", path)
		}
		var head [pgdata.PageSize]byte
		n, err := io.ReadFull(f, head[:])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return 0, localfs.Errorf(err, path, "could not read file \"%s\"", path)
		}
		if id, ok := wal.SystemID(head[:n]); ok {
			if votes[id]++; votes[id] > votes[most] {
				most = id
			}
		}
	}
	if most == 0 {
		return 0, usererr.Hinted("Name the data directory of the lost server, or its pg_wal.",
			"\"%s\" has neither %s nor a segment of the log", d.path, pgdata.ControlPath)
	}
	return most, nil
}

// postmasterOf returns which process serves a data directory, if one on this host does.
//
// Source: CreateLockFile in src/backend/utils/init/miscinit.c, PostgreSQL 18.
func postmasterOf(dir string) (pid int, isAlive bool) {
	content, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	line, _, _ := bytes.Cut(content, []byte("\n"))
	pid, err = strconv.Atoi(strings.TrimSpace(string(line)))
	if err != nil || pid == 0 {
		return 0, false
	}
	pid = max(pid, -pid) // that of a single-user server is negative
	if err := syscall.Kill(pid, 0); err != nil && !errors.Is(err, syscall.EPERM) {
		return pid, false
	}
	// After the host was started again the number may be another process's.
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	ours, ourErr := os.Stat(dir)
	return pid, err != nil || ourErr != nil || os.SameFile(theirs, ours)
}

// openClusterWithID opens the repository and the part of it that is of the cluster with a number. If the
// cluster's name is not said it is the one that the repository knows it by. One of which there is nothing is an error.
func openClusterWithID(ctx context.Context, o repositoryOptions, id uint64) (*repo.Repository, *repo.Cluster, error) {
	if o.SystemID != 0 && o.SystemID != id {
		return nil, nil, fmt.Errorf("the log is of the cluster with system identifier %d, and not %d", id, o.SystemID)
	}
	p, err := o.place()
	if err != nil {
		return nil, nil, err
	}
	r, err := p.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	all, err := r.Clusters(ctx)
	if err != nil {
		return nil, nil, err
	}
	var known []string
	for _, c := range all {
		if c.SystemID == id {
			known = append(known, c.Name)
		}
	}
	name := p.Cluster
	switch {
	case name == "" && len(known) == 1:
		name = known[0]
	case slices.Contains(known, cmp.Or(name, "main")):
		name = cmp.Or(name, "main")
	case len(known) == 0:
		return nil, nil, usererr.Hinted("Is it the right repository? What is pushed there would lead nowhere.",
			"repository %s has nothing of the cluster with system identifier %d", p.Location, id)
	default:
		return nil, nil, usererr.Hinted("Name it with --cluster.", "repository %s knows the cluster with system identifier %d as %s", p.Location, id, strings.Join(known, ", "))
	}
	c, err := r.Cluster(name, id)
	return r, c, err
}
