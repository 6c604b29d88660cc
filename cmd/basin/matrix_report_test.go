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
	kind map[[4]string]*tally // by server, format, way to get the log, compression
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
	return &matrixResults{kind: make(map[[4]string]*tally)}
}

func (r *matrixResults) add(c matrixCase, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := [4]string{c["server"], c["format"], c["wal"], c["compression"]}
	if r.kind[key] == nil {
		r.kind[key] = &tally{}
	}
	r.kind[key].add(ok)
	r.sum.add(ok)
}

// write logs how many backups were taken, and after a full run puts a page of
// them where the documentation is.
func (r *matrixResults) write(t *testing.T) {
	t.Helper()
	t.Logf("%d of %d backups are good", r.sum.good, r.sum.tried)
	if !isFull() {
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

Written by `+"`make matrix`"+`. The numbers count backups that were taken of a server while it
was written to, that pg_verifybackup accepted if they have a manifest, and that were
started: as a server, or with -R as a standby, then promoted. They hold the same rows as
the server does, and their tables and indexes agree (by pg_amcheck; before 14, by
bt_index_check). %d of %d did.

What else can be chosen differs among them: checkpoint, manifest, -R, tablespaces, rate,
slot, --waldir, sync and connection. From 13 on every two choices that go together occur
together. 10, 11 and 12 have four backups each.

`, r.sum.good, r.sum.tried)
	axes := matrixAxes()
	compressions := axes[slices.IndexFunc(axes, func(a axis) bool { return a.name == "compression" })].values
	fmt.Fprintf(&b, "| PostgreSQL | format | WAL | %s |\n", strings.Join(compressions, " | "))
	fmt.Fprintf(&b, "|---|---|---|%s\n", strings.Repeat("---|", len(compressions)))
	for _, major := range slices.Backward(pgtest.Majors()) {
		for _, format := range []string{"plain", "tar"} {
			for _, wal := range []string{"stream", "fetch", "none"} {
				row := fmt.Sprintf("| %s | %s | %s |", pgtest.Version(t, major), format, wal)
				tried := false
				for _, compression := range compressions {
					n := r.kind[[4]string{fmt.Sprint(major), format, wal, compression}]
					switch {
					case n == nil:
						row += " |"
						continue
					case n.good == n.tried:
						row += fmt.Sprintf(" %d |", n.good)
					default:
						row += fmt.Sprintf(" **%d of %d** |", n.good, n.tried)
					}
					tried = true
				}
				if tried {
					b.WriteString(row + "\n")
				}
			}
		}
	}
	return b.String()
}
