package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"basin/internal/inplace"
	"basin/internal/repo"
	"basin/internal/shell"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// look sees what is where the data directory is to be, and refuses to touch what is not to be touched.
func (r *restoreRun) look(ctx context.Context) (err error) {
	if r.o.Format == formatTar {
		return nil
	}
	if r.into, err = inplace.Look(r.o.Directory); err != nil || !r.into.Exists {
		return err
	}
	if err := r.into.CheckStopped(); err != nil {
		return err
	}
	d, name := r.into, r.cluster.Name()
	if d.IsUnfinished() {
		if id := d.Marker.SystemID; id != 0 && id != name.SystemID && r.o.OverCluster != id {
			return otherCluster(d, id, name)
		}
		return nil // what was of worth in it was spoken of when that began
	}
	switch {
	case !r.o.Delta && d.Marker != nil:
		return usererr.Hinted("Start it, or with --delta restore again.", "a restore into \"%s\" has come to its end but for the last step, and the server may have run since", d.Path)
	case !r.o.Delta:
		return usererr.Hinted("Name a directory that is absent or empty. With --delta a data directory is made the backup: what is equal in it stays, and the rest is overwritten or removed.",
			"directory \"%s\" exists but is not empty", d.Path)
	case !d.Version:
		return usererr.Hinted("Is it the right directory? Nothing in it was touched.", "directory \"%s\" is no data directory: it has no PG_VERSION", d.Path)
	case d.SystemID == 0 && !r.o.OverUnknown:
		return usererr.Hinted("Is it the right directory? --over-cluster=unknown overwrites it all the same.",
			"it is not known of which cluster the data directory \"%s\" is: its global/pg_control is missing or damaged", d.Path)
	case d.SystemID != 0 && d.SystemID != name.SystemID && r.o.OverCluster != d.SystemID:
		return otherCluster(d, d.SystemID, name)
	}
	return r.checkLog(ctx)
}

// otherCluster returns the error of a data directory that is of another cluster than is restored.
func otherCluster(d *inplace.Directory, id uint64, name repo.ClusterName) error {
	return usererr.Hinted(fmt.Sprintf("Is it the right directory? --over-cluster=%d overwrites it all the same.", id),
		"the data directory \"%s\" is of another cluster: its system identifier is %d, and that of %s is %d", d.Path, id, name.Name, name.SystemID)
}

// checkLog refuses to remove log that is nowhere else, and in which something was committed.
func (r *restoreRun) checkLog(ctx context.Context) error {
	if r.o.DiscardLog {
		return nil
	}
	lost, err := r.unkept(ctx)
	if err != nil || len(lost) == 0 {
		return err
	}
	until := ""
	for i, name := range slices.Backward(lost) {
		if strings.HasSuffix(name, ".history") {
			continue
		}
		s, err := r.into.Summary(name)
		if err == nil {
			var before *wal.Summary
			if i > 0 {
				if b, err := r.into.Summary(lost[i-1]); err == nil {
					before = &b
				}
			}
			joined, fits := s.After(before)
			if fits != nil {
				joined, _ = s.After(nil) // which is never an error
			}
			s = joined
		}
		if err == nil && s.Transactions.Count == 0 && !s.IsIncomplete {
			continue // as after a shutdown
		}
		if err == nil && s.Transactions.Count > 0 {
			until = ", up to what was committed at " + stamp(s.Transactions.Latest)
		}
		return usererr.Hinted(r.salvageHint(),
			"%d files in pg_wal of \"%s\" are not in the repository, from %s to %s: they would be lost%s", len(lost), r.into.Path, lost[0], lost[len(lost)-1], until)
	}
	return nil
}

// salvageHint says what becomes of log that is nowhere but in the data directory.
func (r *restoreRun) salvageHint() string {
	words := []string{"basin", "salvage"}
	if options, err := r.o.repositoryOptions.words(r.cluster.Name()); err == nil { // else they are to be given as they were here
		words = append(words, options...)
	}
	words = append(words, r.into.Path)
	for i, w := range words {
		words[i] = shell.Quote(w)
	}
	return strings.Join(words, " ") + " pushes them, if it is the cluster itself. Of a copy of it, which was started to look at something, nobody needs them, " +
		"and in the repository they would be in the cluster's way: --discard-wal gives them up."
}

// unkept returns the files of the log in the data directory that the repository does not have.
func (r *restoreRun) unkept(ctx context.Context) (lost []string, err error) {
	files, err := r.into.Log()
	if err != nil {
		return nil, err
	}
	oldest := make(map[wal.Timeline]string) // in the repository; empty if there is none
	for _, file := range files {
		isKept, err := r.keeps(ctx, file, oldest)
		if err != nil {
			return nil, err
		}
		if !isKept {
			lost = append(lost, file.Name)
		}
	}
	return lost, nil
}

// isAllOf says whether a file of the repository, of which this is known, has all that is in a file of the log in the data
// directory. That it has the name is not enough: where a cluster was set back in time the same timeline was written twice.
func (r *restoreRun) isAllOf(ctx context.Context, name string, facts repo.LogFacts) (bool, error) {
	here, err := r.into.ReadLog(name)
	if err != nil {
		return false, err
	}
	if sum := sha256.Sum256(here); bytes.Equal(sum[:], facts.SHA256) {
		return true, nil
	}
	s, err := r.into.Summary(name)
	if err != nil || facts.Summary == nil || facts.Summary.Length < s.Length {
		return false, nil
	}
	there, err := r.cluster.Log(ctx, facts.Name)
	if err != nil {
		return false, err
	}
	n := min(s.Length, int64(len(here)), int64(len(there))) // behind a switch there is nothing
	return bytes.Equal(here[:n], there[:n]), nil
}

// keeps says whether the repository has a file of the log, or all that is in it, or had it: what was
// archived and comes before all that is there was removed because no backup needs it.
func (r *restoreRun) keeps(ctx context.Context, file inplace.LogFile, oldest map[wal.Timeline]string) (bool, error) {
	if r.into.SystemID != r.cluster.Name().SystemID {
		return false, nil
	}
	facts, err := r.cluster.LogFacts(ctx, file.Name)
	if err == nil {
		return r.isAllOf(ctx, file.Name, facts)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if !repo.IsSegment(file.Name) {
		return false, nil
	}
	if file.Archived {
		var t wal.Timeline
		if _, err := fmt.Sscanf(file.Name[:8], "%X", &t); err != nil {
			return false, err
		}
		first, ok := oldest[t]
		if !ok {
			for name, err := range r.cluster.LogNames(ctx, t, "") {
				if err != nil {
					return false, err
				}
				if repo.IsSegment(name) {
					first = name
					break
				}
			}
			oldest[t] = first
		}
		if first != "" && file.Name < first {
			return true, nil
		}
	}
	part, err := r.cluster.LongestPartial(ctx, file.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if facts, err = r.cluster.LogFacts(ctx, part); err != nil {
		return false, err
	}
	return r.isAllOf(ctx, file.Name, facts)
}
