package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"basin/internal/monitor"
	"basin/internal/repo"
)

// queueStatus is the log that waits on this host to be archived.
type queueStatus struct {
	Segments int   `json:"segments"`
	Bytes    int64 `json:"bytes"`
}

// holeStatus is log that was given up, behind which no backup begins.
type holeStatus struct {
	First      string    `json:"first"`
	Last       string    `json:"last"`
	Segments   int       `json:"segments"`
	Since      time.Time `json:"since"`
	Until      time.Time `json:"until"`
	Repository string    `json:"repository,omitempty"` // which has not been told yet
}

// readHoles judges log that was given up, as the repository was told.
func (s *clusterStatus) readHoles(ctx context.Context, c *repo.Cluster) error {
	holes, err := c.Holes(ctx)
	if err != nil {
		return err
	}
	for _, h := range holes {
		s.hole(h, "", "")
	}
	return nil
}

// hole judges log that was given up: it is critical until a backup begins behind it. A repository that has not been told yet
// is named, and where that is noted.
func (s *clusterStatus) hole(h repo.Hole, repository, path string) {
	if k := s.newest.Backup; h.Files == 0 || k != nil && h.IsBehind(*k) {
		return
	}
	s.Holes = append(s.Holes, holeStatus{h.First, h.Last, h.Files, h.Since.UTC(), h.Until.UTC(), repository})
	if repository == "" {
		s.problem(stateCritical, "%s", holeText(h))
		return
	}
	s.problem(stateCritical, "%s (repository %s is yet to be told, \"%s\" does)", holeText(h), repository, path)
}

// readLocal judges what is on this host of the cluster: log that waits, if its data directory is known, and log that was
// given up, if its spool is.
func (s *clusterStatus) readLocal(o repositoryOptions) error {
	o.Cluster = s.Cluster
	p, err := o.place()
	if err != nil {
		return err
	}
	limits, err := p.queueLimits()
	if err != nil {
		return err
	}
	if p.DataDirectory != "" && limits.Warn > 0 {
		q, err := readQueue(filepath.Join(p.DataDirectory, "pg_wal"))
		is, text := limits.judge(q)
		switch {
		case errors.Is(err, fs.ErrNotExist): // the configuration is another host's, too
		case err != nil:
			s.problem(stateWarning, "it is not known how much log waits: %s", err)
		default:
			s.Queue = &queueStatus{q.Files, q.Bytes}
			s.problem(is, "%s", text)
		}
	}
	s.readDropped(p)
	return nil
}

// readDropped judges what was given up of the cluster, of which a repository has not been told yet.
func (s *clusterStatus) readDropped(p place) {
	dropped, err := droppedOf(cmp.Or(os.Getenv("BASIN_SPOOL"), p.Spool), s.Cluster, s.name.SystemID)
	if err != nil {
		s.problem(stateWarning, "%s", err)
	}
	for _, d := range dropped {
		s.SystemID = d.SystemID
		for _, location := range slices.Sorted(maps.Keys(d.Repositories)) {
			here := *s
			if location != p.Location {
				here.newest = repo.Newest{} // which is of another repository
			}
			here.hole(d.Repositories[location].Hole, location, d.path)
			s.Holes, s.Problems, s.State = here.Holes, here.Problems, here.State
		}
	}
}

// metricsOfQueue adds to what Prometheus is told what waits, and what was given up.
func (s clusterStatus) metricsOfQueue(m *monitor.Metrics) {
	labels := []string{"cluster", s.Cluster, "system_identifier", s.SystemID}
	if s.Queue != nil {
		m.Gauge("queue_bytes", "Log that waits on this host to be archived.").Set(float64(s.Queue.Bytes), labels...)
	}
	files := 0
	for _, h := range s.Holes {
		files += h.Segments
	}
	m.Gauge("log_given_up_segments", "Segments that were given up, behind which no backup begins.").Set(float64(files), labels...)
}

// readAlone judges what is on this host if the repository cannot be read. Only clusters with problems are told of.
func (r *statusReport) readAlone(o repositoryOptions) {
	c, err := readConfig(cmp.Or(o.ConfigFile, os.Getenv("BASIN_CONFIG")))
	if err != nil {
		return // which was told
	}
	names := slices.Sorted(maps.Keys(c.Cluster))
	if name := cmp.Or(o.Cluster, os.Getenv("BASIN_CLUSTER")); name != "" || len(names) == 0 {
		names = []string{cmp.Or(name, "main")}
	}
	for _, name := range names {
		s := newStatus(repo.ClusterName{Name: name, SystemID: o.SystemID})
		if err := s.readLocal(o); err == nil && len(s.Problems) > 0 {
			r.Clusters = append(r.Clusters, s)
			r.State = r.State.worse(s.State)
		}
	}
}
