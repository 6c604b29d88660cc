package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"basin/internal/monitor"
)

// perfdataClusters is of how many clusters each has its own values for graphs: more would not fit into what
// monitoring systems take from a plugin.
const perfdataClusters = 10

// lines returns the report in the form of a plugin of Nagios: a line that says all, with values for graphs behind a bar, and
// lines about each cluster.
//
// Source: https://www.monitoring-plugins.org/doc/guidelines.html
func (r statusReport) lines() []byte {
	var b bytes.Buffer
	if r.Problem != "" {
		text := r.Problem
		if len(r.Clusters) > 0 {
			text = r.summary() + "; " + text
		}
		fmt.Fprintf(&b, "BASIN %v - %s\n", r.State, oneLine(text))
		if r.hint != "" {
			fmt.Fprintf(&b, "%s\n", oneLine(r.hint))
		}
		r.rest(&b)
		for _, s := range r.Clusters {
			for _, p := range s.Problems {
				fmt.Fprintf(&b, "%v %s: %s\n", p.State, s.Cluster, oneLine(p.Text))
			}
		}
		return b.Bytes()
	}
	fmt.Fprintf(&b, "BASIN %v - %s | %s\n", r.State, r.summary(), strings.Join(r.perfdata(), " "))
	r.rest(&b)
	sorted := slices.Clone(r.Clusters)
	slices.SortStableFunc(sorted, func(x, y clusterStatus) int { return y.State.weight() - x.State.weight() })
	for _, s := range sorted {
		fmt.Fprintf(&b, "%v %s\n", s.State, oneLine(s.line()))
		for _, p := range s.Problems {
			fmt.Fprintf(&b, "  %v: %s\n", p.State, oneLine(p.Text))
		}
	}
	return b.Bytes()
}

// rest adds what is told of no cluster.
func (r statusReport) rest(b *bytes.Buffer) {
	if r.ServerProblem != "" {
		fmt.Fprintf(b, "%v: %s\n", stateUnknown, oneLine(r.ServerProblem))
	}
	if text := r.Space.problem(); text != "" {
		fmt.Fprintf(b, "%v: %s\n", r.Space.State, oneLine(text))
	}
}

// oneLine returns a text of one or several lines for one, without the bar behind which values for graphs begin.
func oneLine(text string) string {
	var parts []string
	for line := range strings.Lines(text) {
		if words := strings.Fields(line); len(words) > 0 {
			parts = append(parts, strings.Join(words, " "))
		}
	}
	return printable(strings.ReplaceAll(strings.Join(parts, "; "), "|", "/"), false)
}

// summary tells the worst, and how many clusters are how.
func (r statusReport) summary() string {
	counts := r.counts()
	var worst *clusterStatus
	for i := range r.Clusters {
		if s := &r.Clusters[i]; s.State != stateOK && (worst == nil || s.State.weight() > worst.State.weight()) {
			worst = s
		}
	}
	switch {
	case r.Space.problem() != "" && (worst == nil || r.Space.State.weight() > worst.State.weight()):
		return oneLine(r.Space.problem())
	case worst == nil && r.ServerProblem != "":
		return oneLine(r.ServerProblem)
	case worst == nil && len(r.Clusters) == 1:
		return oneLine(r.Clusters[0].line())
	case worst == nil:
		return counted(len(r.Clusters), "cluster")
	}
	text := ""
	for _, p := range worst.Problems {
		if p.State == worst.State {
			text = worst.Cluster + ": " + oneLine(p.Text)
			break
		}
	}
	if len(r.Clusters) > 1 {
		text += fmt.Sprintf("; of %s %d critical, %d warning, %d unknown", counted(len(r.Clusters), "cluster"), counts[stateCritical], counts[stateWarning], counts[stateUnknown])
	}
	return oneLine(text)
}

// counts returns how many clusters are in each state.
func (r statusReport) counts() (counts [4]int) {
	for _, s := range r.Clusters {
		counts[s.State]++
	}
	return counts
}

// perfdata returns the values for graphs.
func (r statusReport) perfdata() []string {
	counts := r.counts()
	values := []string{
		fmt.Sprintf("clusters=%d", len(r.Clusters)), fmt.Sprintf("critical=%d", counts[stateCritical]),
		fmt.Sprintf("warning=%d", counts[stateWarning]), fmt.Sprintf("unknown=%d", counts[stateUnknown]),
	}
	if len(r.Clusters) > perfdataClusters {
		return values
	}
	for _, s := range r.Clusters {
		if s.Backup != nil {
			values = append(values, fmt.Sprintf("'%s backup age'=%ds%s", s.Cluster, s.Backup.AgeSeconds, r.limits.BackupAge.perfdata()))
		}
		if s.RecoveryPoint != nil {
			values = append(values, fmt.Sprintf("'%s log age'=%ds%s", s.Cluster, s.RecoveryPoint.AgeSeconds, r.limits.LogAge.perfdata()))
		}
		if s.Server != nil {
			values = append(values, fmt.Sprintf("'%s behind'=%dB", s.Cluster, s.Server.BehindBytes))
		}
	}
	return values
}

// perfdata returns the limits as they follow a value.
func (l limit) perfdata() string {
	if l == (limit{}) {
		return ""
	}
	return fmt.Sprintf(";%d;%d;0", int64(l.Warning.Seconds()), int64(l.Critical.Seconds()))
}

// writeMetrics writes the report for Prometheus: a file that its node exporter reads.
func (r statusReport) writeMetrics(name string) error {
	m := monitor.NewMetrics("basin_")
	reached := 1.0
	if r.Problem != "" {
		reached = 0
	}
	m.Gauge("status_timestamp_seconds", "When basin status looked, in seconds of the Unix time.").Set(seconds(r.Time))
	m.Gauge("repository_readable", "1 if the repository could be read, else 0, and nothing else is known.").Set(reached)
	r.Space.metrics(m)
	for _, s := range r.Clusters {
		if r.Problem == "" {
			s.metrics(m)
		}
		s.metricsOfQueue(m)
	}
	return m.WriteFile(name)
}

// seconds returns a time as Prometheus has it.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// metrics adds a cluster to what Prometheus is told.
func (s clusterStatus) metrics(m *monitor.Metrics) {
	labels := []string{"cluster", s.Cluster, "system_identifier", s.SystemID}
	gauge := func(name, help string, value float64) { m.Gauge(name, help).Set(value, labels...) }
	moment := func(name, help string, t *time.Time) {
		if t != nil {
			gauge(name, help, seconds(*t))
		}
	}
	truth := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	gauge("cluster_state", "0 if all is well, 1 for a warning, 2 if critical, 3 if unknown, by the limits of basin status.", float64(s.State))
	if k := s.Backup; k != nil {
		gauge("backup_last_end_timestamp_seconds", "When the last good backup ended.", seconds(k.Ended))
		gauge("backup_last_duration_seconds", "How long it took.", k.Ended.Sub(k.Began).Seconds())
		gauge("backup_last_size_bytes", "Size of the files in it.", float64(k.Size))
		gauge("backup_last_stored_bytes", "What was added to the repository for it.", float64(k.Stored))
	}
	gauge("backup_newer_bad", "Backups after the last good one that are damaged or cannot be read.", float64(s.NewerBad))
	if p := s.RecoveryPoint; p != nil {
		gauge("recovery_point_timestamp_seconds", "Time of the newest state that can be restored.", seconds(p.Time))
		gauge("recovery_point_lsn_bytes", "Position up to which can be restored, as a number of bytes.", float64(p.LSN))
		gauge("recovery_point_timeline", "Timeline of that position.", float64(p.Timeline))
		moment("log_last_arrival_timestamp_seconds", "When the last file of the log came that leads there.", p.Arrived)
		gauge("log_gap", "1 if log is missing behind the recovery point, and goes on later.", truth(p.Resumes != ""))
	}
	moment("verify_newest_timestamp_seconds", "When anything was last read back by basin verify.", s.Verified.Newest)
	moment("verify_oldest_timestamp_seconds", "When the pack was last read back that was not for the longest time.", s.Verified.Oldest)
	gauge("verify_damaged_objects", "Objects that basin verify found damaged or missing, and that are there still or are needed.", float64(len(s.Verified.Damages)))
	gauge("backup_pins", "Backups that are pinned.", float64(s.Pins))
	gauge("backup_leases_active", "Backups that are being made.", float64(s.LeasesActive))
	gauge("backup_leases_over", "Backups that were broken off, and are not settled by basin prune yet.", float64(s.LeasesOver))
	if v := s.Server; v != nil {
		gauge("server_log_behind_bytes", "Log that the server has and the repository has not.", float64(v.BehindBytes))
		gauge("server_archiver_failing", "1 if the archive_command failed the last time.", truth(v.ArchiverFails))
		m.Counter("server_archiver_failures_total", "How often the archive_command failed.").Set(float64(v.ArchiverFailed), labels...)
		for _, slot := range v.Slots {
			of := append(slices.Clone(labels), "slot", slot.Name)
			m.Gauge("server_slot_retained_bytes", "Log that the server keeps for a slot.").Set(float64(slot.RetainedBytes), of...)
			m.Gauge("server_slot_active", "1 if somebody reads from the slot.").Set(truth(slot.Active), of...)
		}
	}
}
