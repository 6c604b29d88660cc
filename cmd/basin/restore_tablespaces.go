package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/shell"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// mapped returns where a tablespace goes: as it was told, where it is in place, or where it was.
func (r *restoreRun) mapped(t backup.Tablespace) string {
	for _, m := range r.o.TablespaceMapping {
		if m.Old == localfs.Canonical(t.Location) {
			return m.New
		}
	}
	if r.into != nil {
		if location, ok := r.into.Location(t.OID); ok {
			return location
		}
	}
	return t.Location
}

// checkPlaces refuses to put a tablespace of the backup where there is something that is not this cluster's, or where there is room
// for one archive alone.
func (r *restoreRun) checkPlaces(p *restorePlan) error {
	if n := len(p.commit.Tablespaces); n > 0 && r.o.Directory == "-" {
		return usererr.Hinted("Name a directory: each tablespace has an archive of its own.", "can only write single tablespace to stdout, database has %d", n+1)
	}
	for _, t := range p.commit.Tablespaces {
		to := r.mapped(t)
		if r.into == nil || !filepath.IsAbs(t.Location) || r.into.Holds(t.OID, to) {
			continue
		}
		if there, err := os.ReadDir(to); err == nil && len(there) > 0 {
			return usererr.Hinted(fmt.Sprintf("Have it be made elsewhere, with --tablespace-mapping=%s, or move away what is there if nobody needs it.", shell.Quote(tablespaceMapping{t.Location, "DIRECTORY"}.String())),
				"tablespace %d belongs into \"%s\", which exists but is not empty", t.OID, to)
		}
	}
	return nil
}

// checkTablespaces finds the tablespaces that recovery makes, each in the directory that it had, and refuses to have it
// do so where there is something: it would write into it, be it the source's own. If it is of the cluster that is restored in place, it is emptied.
//
// Source: create_tablespace_directories in src/backend/commands/tablespace.c, PostgreSQL 10 to 18.
func (r *restoreRun) checkTablespaces(ctx context.Context, p *restorePlan) error {
	for facts, err := range r.cluster.Facts(ctx, p.reach) {
		if err != nil {
			return err
		}
		if facts.Summary == nil {
			continue
		}
		for _, t := range facts.Summary.Tablespaces {
			if t.LSN >= p.commit.Start.LSN && t.Path != "" && !p.isBefore(t.LSN, facts.Summary.Transactions) {
				p.made = append(p.made, t)
			}
		}
	}
	seen := make(map[string]bool)
	for _, t := range p.commit.Tablespaces {
		seen[localfs.Canonical(r.mapped(t))] = true // checkPlaces looks there, and the backup comes first
	}
	for _, t := range p.made {
		if at := localfs.Canonical(t.Path); seen[at] {
			continue // it was dropped, and made again as another one
		} else {
			seen[at] = true
		}
		names, err := os.ReadDir(t.Path)
		place := backup.Tablespace{OID: t.OID, Location: t.Path}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			p.make = append(p.make, place)
		case r.into != nil && r.into.HoldsAny(t.Path):
			p.clear = append(p.clear, place)
		case err == nil && len(names) == 0:
			p.make = append(p.make, place)
		default:
			return usererr.Hinted("Restore on another host, or move away what is in it if nobody needs it: recovery makes the tablespace in that directory and no other.",
				"tablespace %d was made after backup %s, at %v, in \"%s\", which is there on this host: recovery would write into it", t.OID, p.commit.ID, t.LSN, t.Path)
		}
	}
	return nil
}

// tablespaces tells for the plan where tablespaces go.
func (p *restorePlan) tablespaces(r *restoreRun) string {
	var b strings.Builder
	for _, t := range p.commit.Tablespaces {
		if r.o.Format == formatPlain && filepath.IsAbs(t.Location) {
			fmt.Fprintf(&b, "  tablespace %d into \"%s\"\n", t.OID, r.mapped(t))
		}
	}
	for _, t := range p.made {
		isAt := func(c backup.Tablespace) bool { return localfs.Canonical(c.Location) == localfs.Canonical(t.Path) }
		what := "is made by recovery, from the log"
		if slices.ContainsFunc(p.clear, isAt) {
			what = "is emptied: recovery makes it, from the log"
		}
		fmt.Fprintf(&b, "  tablespace %d in \"%s\" %s\n", t.OID, t.Path, what)
	}
	switch {
	case len(p.made) == 0:
	case r.o.Format == formatTar:
		b.WriteString("            an empty directory must be there for each that the log makes when the server starts\n")
	default:
		b.WriteString("            --tablespace-mapping cannot move what the log makes\n")
	}
	return b.String()
}

// madeListing returns what is told of tablespaces that recovery makes.
func madeListing(made []wal.TablespacePlace) []tablespaceListing {
	listed := []tablespaceListing{}
	for _, t := range made {
		listed = append(listed, tablespaceListing{t.OID, t.Path})
	}
	return listed
}
