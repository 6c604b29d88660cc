package monitor

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMetricsFile(t *testing.T) {
	m := NewMetrics("basin_")
	m.Gauge("age_seconds", "How old.").Set(1.5, "cluster", `a"\`)
	m.Counter("tries_total", "How often.").Set(3)
	m.Gauge("age_seconds", "How old.").Set(2e10, "cluster", "b", "slot", "c\nd")
	name := filepath.Join(t.TempDir(), "basin.prom")
	for range 2 { // the second replaces the first
		if err := m.WriteFile(name); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := `# HELP basin_age_seconds How old.
# TYPE basin_age_seconds gauge
basin_age_seconds{cluster="a\"\\"} 1.5
basin_age_seconds{cluster="b",slot="c\nd"} 20000000000
# HELP basin_tries_total How often.
# TYPE basin_tries_total counter
basin_tries_total 3
`
	if string(got) != want {
		t.Errorf("got\n%s", got)
	}
	entries, err := os.ReadDir(filepath.Dir(name))
	if info, statErr := os.Stat(name); err != nil || statErr != nil || len(entries) != 1 || info.Mode().Perm() != 0o644 {
		t.Errorf("beside it are %v, its mode is %v", entries, info.Mode())
	}
	if err := m.WriteFile(filepath.Join(name, "x")); err == nil {
		t.Error("below a file")
	}
}
