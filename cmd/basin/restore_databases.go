package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"basin/internal/backup"
	"basin/internal/catalog"
	"basin/internal/repo"
)

// databasePart is which databases of a backup are restored. The others have files of the same sizes that are zeros,
// which recovery can go over: the log has each page whole before it changes it. A nil one is all of them.
type databasePart struct {
	names   []string           // of those that are whole
	others  []catalog.Database // sorted by name
	empty   map[uint32]bool    // their OIDs
	left    int64              // bytes that are zeros instead
	lenient bool               // pages that are not there are to be no error to recovery
}

// alwaysWhole are databases that are whole in each restore: a server cannot do without them, or hardly.
var alwaysWhole = []string{"postgres", "template0", "template1"}

// chooseDatabases finds databases in a backup. Without a name it returns nil.
func chooseDatabases(ctx context.Context, cluster *repo.Cluster, commit repo.Commit, names []string) (*databasePart, error) {
	if len(names) == 0 {
		return nil, nil
	}
	files, err := openFiles(ctx, cluster, commit)
	if err != nil {
		return nil, err
	}
	catalogs, err := files.catalogs(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, err := catalogs.Database(name); err != nil {
			return nil, err
		}
	}
	all, err := catalogs.Databases()
	if err != nil {
		return nil, err
	}
	p := &databasePart{empty: make(map[uint32]bool), lenient: !files.checksums || !files.fullPages}
	for _, d := range all {
		if slices.Contains(names, d.Name) || slices.Contains(alwaysWhole, d.Name) {
			p.names = append(p.names, d.Name)
			continue
		}
		p.others = append(p.others, d)
		p.empty[d.OID] = true
	}
	slices.Sort(p.names)
	slices.SortFunc(p.others, func(a, b catalog.Database) int { return cmp.Compare(a.Name, b.Name) })
	return p, p.measure(ctx, files)
}

// measure finds out how much is left out.
func (p *databasePart) measure(ctx context.Context, files *restoredFiles) error {
	for _, tablespace := range append([]backup.Tablespace{{}}, files.commit.Tablespaces...) {
		for m, err := range files.Members(ctx, tablespace.OID, "") {
			if err != nil {
				return err
			}
			if p.isEmpty(m) {
				p.left += m.Size
			}
		}
	}
	return nil
}

// isEmpty says whether a member is a file of a database that is not whole. PG_VERSION and pg_filenode.map are too: with
// these zeros the server refuses connections; with the real ones it reads catalogs that are zeros, and crashes.
//
// Source: ValidatePgVersion in src/backend/utils/init/miscinit.c, PostgreSQL 18.
func (p *databasePart) isEmpty(m backup.Member) bool {
	rest, ok := strings.CutPrefix(m.Path, "base/")
	if m.Tablespace != 0 {
		_, rest, ok = strings.Cut(m.Path, "/") // behind PG_18_202506291
	}
	database, _, isBelow := strings.Cut(rest, "/")
	oid, err := strconv.ParseUint(database, 10, 32)
	return m.Kind == backup.File && ok && isBelow && err == nil && p.empty[uint32(oid)]
}

// source returns a source of the part of a backup that src yields. There is no manifest: it would tell of files
// that are not what it says. Bytes that are left out count as done.
func (p *databasePart) source(src backup.Source, progress *backup.Progress) backup.Source {
	if p == nil {
		return src
	}
	return &databaseSource{Source: src, part: p, progress: progress}
}

type databaseSource struct {
	backup.Source
	part     *databasePart
	progress *backup.Progress
}

// Next returns the next member.
func (s *databaseSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	m, r, err := s.Source.Next(ctx)
	for err == nil && m.Kind == backup.Manifest {
		if closer, ok := r.(io.Closer); ok {
			err = closer.Close()
		}
		if err == nil {
			m, r, err = s.Source.Next(ctx)
		}
	}
	if err == nil && s.part.isEmpty(m) {
		s.progress.Done.Add(m.Size)
		r = &backup.Zeros{Left: m.Size}
	}
	return m, r, err
}

// settings returns lines of configuration that recovery needs beside others.
//
// Without checksums and wal_log_hints VACUUM marks pages as all-visible with a record that does not have the
// page, and without full_page_writes so does everybody. PostgreSQL would end with "WAL contains references to invalid
// pages" where the page is zeros.
//
// Source: log_heap_visible in src/backend/access/heap/heapam.c and XLogReadBufferExtended in
// src/backend/access/transam/xlogutils.c, PostgreSQL 18.
func (p *databasePart) settings() string {
	if p == nil || !p.lenient || len(p.others) == 0 {
		return ""
	}
	return "ignore_invalid_pages = on\n"
}

// plan tells for the plan what is restored.
func (p *databasePart) plan() string {
	if p == nil {
		return ""
	}
	var others []string
	for _, d := range p.others {
		others = append(others, d.Name)
	}
	text := "  databases " + printable(strings.Join(p.names, ", "), false) + "\n"
	if len(others) > 0 {
		text += fmt.Sprintf("  empty     %s: zeros instead of %s, good for nothing but DROP DATABASE\n", printable(strings.Join(others, ", "), false), humanize.IBytes(uint64(p.left)))
	}
	return text
}

// next tells what to do once the server has recovered.
func (p *databasePart) next() string {
	if p == nil || len(p.others) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("Other databases are empty, and nobody can connect to them. Once recovery has ended, remove them:\n")
	for _, d := range p.others {
		fmt.Fprintf(&b, "  DROP DATABASE \"%s\";\n", printable(strings.ReplaceAll(d.Name, `"`, `""`), false))
	}
	if p.lenient {
		b.WriteString("Recovery goes on over pages that are not there, since theirs are not; what the server's log tells\nof \"base/OID\" of another database than those is damage. Then have it be strict again:\n  ALTER SYSTEM RESET ignore_invalid_pages;\n")
	}
	return b.String()
}
