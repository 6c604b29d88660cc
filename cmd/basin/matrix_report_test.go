package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"basin/internal/pgtest"
)

// matrixResults collects what came out of TestMatrix.
type matrixResults struct {
	mu   sync.Mutex
	tals map[[4]string]*tally // by server, format, way to get the log, compression
	sum  tally
}

// tally counts backups that were taken, and those that were good.
type tally struct{ tried, good int }

func (n *tally) add(ok bool) {
	n.tried++
	if ok {
		n.good++
	}
}

func newMatrixResults() *matrixResults {
	return &matrixResults{tals: make(map[[4]string]*tally)}
}

func (r *matrixResults) add(c matrixCase, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := [4]string{c["server"], c["format"], c["wal"], c["compression"]}
	if r.tals[key] == nil {
		r.tals[key] = &tally{}
	}
	r.tals[key].add(ok)
	r.sum.add(ok)
}

// write logs how many backups were taken, and after a full run puts a page of
// them where the documentation is.
func (r *matrixResults) write(t *testing.T) {
	t.Helper()
	t.Logf("%d of %d backups are good", r.sum.good, r.sum.tried)
	if os.Getenv("BASIN_MATRIX") != "full" {
		return
	}
	docs := filepath.Join("..", "..", "docs")
	if err := os.MkdirAll(docs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(docs, "matrix.md"), []byte(r.page(t)), 0o644); err != nil {
		t.Error(err)
	}
}

// page returns the page.
func (r *matrixResults) page(t *testing.T) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Backups of every kind

Written by `+"`make matrix`"+`. A number is of backups that were taken of a server while it
was written to, accepted by pg_verifybackup, started as a server (or a standby, then
promoted), and found to hold the same rows, with indexes that pg_amcheck agrees with:
%d of %d. What else can be chosen (checkpoint, manifest, -R, tablespaces, rate, slot,
--waldir, sync, connection) differs among them, and between them every pair of choices occurs.

`, r.sum.good, r.sum.tried)
	axes := matrixAxes()
	compressions := axes[slices.IndexFunc(axes, func(a axis) bool { return a.name == "compression" })].values
	fmt.Fprintf(&b, "| PostgreSQL | format | WAL | %s |\n", strings.Join(compressions, " | "))
	fmt.Fprintf(&b, "|---|---|---|%s\n", strings.Repeat("---|", len(compressions)))
	for _, major := range slices.Backward(pgtest.Majors()) {
		for _, format := range []string{"plain", "tar"} {
			for _, wal := range []string{"stream", "fetch", "none"} {
				row := fmt.Sprintf("| %s | %s | %s |", pgtest.Version(t, major), format, wal)
				any := false
				for _, compression := range compressions {
					n := r.tals[[4]string{fmt.Sprint(major), format, wal, compression}]
					switch {
					case n == nil:
						row += " |"
						continue
					case n.good == n.tried:
						row += fmt.Sprintf(" %d |", n.good)
					default:
						row += fmt.Sprintf(" **%d of %d** |", n.good, n.tried)
					}
					any = true
				}
				if any {
					b.WriteString(row + "\n")
				}
			}
		}
	}
	return b.String()
}
