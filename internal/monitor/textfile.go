package monitor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"basin/internal/localfs"
)

// Metrics are metrics of several things, each told apart by labels, for a file that the node exporter of
// Prometheus reads (its textfile collector).
//
// Source: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
type Metrics struct {
	prefix string
	names  []string // in the order in which they came
	all    map[string]*Metric
}

// NewMetrics returns metrics whose names begin with a prefix.
func NewMetrics(prefix string) *Metrics {
	return &Metrics{prefix: prefix, all: make(map[string]*Metric)}
}

// Metric is one of them.
type Metric struct {
	name, kind, help string
	samples          strings.Builder
}

// Gauge returns the metric of a name, which may go up and down.
func (m *Metrics) Gauge(name, help string) *Metric { return m.metric("gauge", name, help) }

// Counter returns the metric of a name, which goes up.
func (m *Metrics) Counter(name, help string) *Metric { return m.metric("counter", name, help) }

func (m *Metrics) metric(kind, name, help string) *Metric {
	if have := m.all[name]; have != nil {
		return have
	}
	made := &Metric{name: m.prefix + name, kind: kind, help: help}
	m.names = append(m.names, name)
	m.all[name] = made
	return made
}

// Set adds a value. labels are names and values in turn.
func (m *Metric) Set(value float64, labels ...string) {
	m.samples.WriteString(m.name + labelText(labels) + " " + strconv.FormatFloat(value, 'f', -1, 64) + "\n")
}

// labelText returns names and values of labels as they follow the name of a metric.
func labelText(labels []string) string {
	var b strings.Builder
	for i := 0; i < len(labels); i += 2 {
		open := ","
		if i == 0 {
			open = "{"
		}
		b.WriteString(open + labels[i] + `="` + escapes.Replace(strings.ToValidUTF8(labels[i+1], "\uFFFD")) + `"`)
	}
	if len(labels) > 0 {
		b.WriteString("}")
	}
	return b.String()
}

// Text returns the metrics as Prometheus reads them.
func (m *Metrics) Text() string {
	var b strings.Builder
	for _, name := range m.names {
		metric := m.all[name]
		b.WriteString("# HELP " + metric.name + " " + metric.help + "\n# TYPE " + metric.name + " " + metric.kind + "\n" + metric.samples.String())
	}
	return b.String()
}

// WriteFile replaces the file by one that holds the metrics. Who reads it sees the one or the other. Others
// than its owner may read it. It is not made durable: after a crash of the system there is nothing that it could tell.
func (m *Metrics) WriteFile(name string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".") // the exporter reads what ends in .prom
	if err != nil {
		return localfs.Errorf(err, name, "could not create a file beside \"%s\"", name)
	}
	_, err = bytes.NewBufferString(m.Text()).WriteTo(f)
	err = errors.Join(err, f.Chmod(statusFileMode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(localfs.Errorf(err, name, "could not write file \"%s\"", name), os.Remove(f.Name()))
	}
	return nil
}
