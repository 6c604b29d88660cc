package main

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"basin/internal/checkup"
	"basin/internal/connect"
	"basin/internal/repo"
	"basin/internal/usererr"
)

// errorTexts returns an error and what to do about it.
func errorTexts(err error) (text, advice string) {
	advice = usererr.Hint(err)
	if server := (*connect.ServerError)(nil); errors.As(err, &server) && advice == "" {
		advice = server.Hint
	}
	return strings.TrimSpace(err.Error()), advice
}

// checkRepository looks at the repository, and what it has of the cluster.
func (r *checkRun) checkRepository(ctx context.Context, p place) {
	const item = "repository"
	repository, err := p.open(ctx)
	if err != nil {
		r.fail(ctx, item, err)
		return
	}
	r.add(checkup.OK, item, "", "%s, id %v", p.Location, repository.Info().ID)
	r.checkKey(repository, p)
	r.checkStore(ctx, repository, p)
	r.checkLock(ctx, repository, p)
	if repository.CanRead() {
		if err := r.checkCluster(ctx, repository, p); err != nil {
			r.fail(ctx, "cluster", err)
		}
	}
}

// checkQueue looks at the log that waits on this host, if the data directory is known, and at what was given up, if the spool is.
func (r *checkRun) checkQueue(p place) {
	const item = "queue"
	limits, err := p.queueLimits()
	if err != nil {
		r.fail(context.Background(), item, err)
		return
	}
	if r.o.DataDirectory != "" {
		q, err := readQueue(filepath.Join(r.o.DataDirectory, "pg_wal"))
		is, text := limits.judge(q)
		switch {
		case err != nil:
			r.fail(context.Background(), item, err)
		case is == stateOK:
			r.add(checkup.OK, item, "", "%v wait to be archived", q)
		default:
			r.add(levelOf(is), item, "See why the archive_command fails, or is too slow: the server's log has what it prints.", "%s", text)
		}
	}
	s := newStatus(repo.ClusterName{Name: cmp.Or(p.Cluster, "main"), SystemID: r.o.SystemID})
	s.readDropped(p)
	for _, problem := range s.Problems {
		r.add(levelOf(problem.State), item, "Once the repository takes log again: basin backup.", "%s", problem.Text)
	}
}

// levelOf returns the level of an item that basin status has a state for.
func levelOf(s state) checkup.Level {
	if s == stateWarning {
		return checkup.Warning
	}
	return checkup.Error
}

// checkKey says whether this host can read, or only write.
func (r *checkRun) checkKey(repository *repo.Repository, p place) {
	const item = "encryption"
	switch {
	case !repository.Info().Encrypted:
		r.add(checkup.OK, item, "", "none: who can read the store can read the data")
	case repository.CanRead() && p.KeyFile == "":
		r.add(checkup.OK, item, "", "the key command unwraps the key, each time; this host reads and writes. basin key unlock, and --key-file, spare that")
	case repository.CanRead():
		r.add(checkup.OK, item, "", "this host has the key, \"%s\", and reads and writes", p.KeyFile)
	default:
		r.add(checkup.OK, item, "", "this host has no key: it writes and cannot read; basin key unlock, and --key-file, let it restore")
	}
}

// checkStore sees that the store can be written to, refuses to overwrite, has space and the right time.
func (r *checkRun) checkStore(ctx context.Context, repository *repo.Repository, p place) {
	const item = "store"
	report, err := repository.Probe(ctx)
	if err != nil {
		r.fail(ctx, item, err)
	} else {
		removed := ""
		if report.IsLeft {
			removed = "; this host may not delete, so probe/ keeps an object"
		}
		r.add(checkup.OK, item, "", "can be written to, and refuses to overwrite%s", removed)
		if report.IsTimed {
			r.items = append(r.items, checkup.ClockItem("store's clock", report.Clock))
		}
	}
	if !p.isFolder() {
		return
	}
	space, err := readSpace(p.Location)
	switch {
	case err != nil:
		r.fail(ctx, "free space", err)
	case minFree.judge(space) != stateOK:
		r.add(checkup.Warning, "free space", "basin forget and basin prune free what is not needed; or give the file system more.", "%s", space)
	default:
		r.add(checkup.OK, "free space", "", "%s", space)
	}
}

// checkCluster looks at what the repository has of the cluster.
func (r *checkRun) checkCluster(ctx context.Context, repository *repo.Repository, p place) error {
	o := defaultStatus()
	o.server, o.isLocalTold = r.server, true
	all, err := repository.Clusters(ctx)
	if err != nil {
		return err
	}
	var names []repo.ClusterName
	for _, name := range all {
		isNamed := p.Cluster == "" || name.Name == p.Cluster
		if isNamed && (r.server == nil || r.server.SystemID == name.SystemID) && (r.o.SystemID == 0 || r.o.SystemID == name.SystemID) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		r.add(checkup.Warning, "cluster "+cmp.Or(p.Cluster, "main"), "Take a backup: basin backup.", "nothing of it is in the repository yet")
		return nil
	}
	for _, name := range names {
		if others := otherNames(all, name); p.Cluster != "" && len(others) > 0 {
			r.add(checkup.Warning, "cluster "+name.Name, "Name the same --cluster everywhere, in archive_command too. What the other name has does not count for this one.",
				"the repository has the same one, system identifier %d, as %s too", name.SystemID, strings.Join(others, ", "))
		}
	}
	found := statusReport{Time: time.Now().UTC()}
	if err := found.readClusters(ctx, repository, names, &o); err != nil {
		return err
	}
	for _, s := range found.Clusters {
		if len(s.Problems) == 0 {
			r.add(checkup.OK, "cluster "+s.Cluster, "", "%s", strings.TrimPrefix(s.line(), s.Cluster+": "))
		}
		for _, problem := range s.Problems {
			if strings.HasPrefix(problem.Text, "archiver: ") || strings.HasPrefix(problem.Text, "slot ") || strings.HasPrefix(problem.Text, "max_") {
				continue // that was told of the server
			}
			r.add(levelOf(problem.State), "cluster "+s.Cluster, "", "%s", problem.Text)
		}
	}
	return nil
}
