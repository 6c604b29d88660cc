package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/dustin/go-humanize"

	"basin/internal/backup"
	"basin/internal/catalog"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/plain"
	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// wantedFiles are files of a backup that are restored: one, those in a directory, or those of a relation.
type wantedFiles struct {
	wantedListing
	tablespace uint32
	prefix     string            // of their paths
	is         func(string) bool // of which these, by path
}

// restoreFiles is basin restore --file.
func restoreFiles(ctx context.Context, c call, o restoreOptions, cluster *repo.Cluster) (err error) {
	name := o.Backup
	if name == "" {
		name = "latest"
	}
	commit, err := findBackup(ctx, cluster, name)
	if err != nil {
		return err
	}
	files, err := openFiles(ctx, cluster, commit)
	if err != nil {
		return err
	}
	var wanted []wantedFiles
	for _, text := range o.Part.Files {
		found, err := files.want(ctx, text)
		if err != nil {
			return err
		}
		wanted = append(wanted, found...)
	}
	if !o.JSON {
		if err := printWanted(c, o, cluster, commit, wanted); err != nil {
			return err
		}
	}
	source := &filesSource{files: files, wanted: wanted, made: make(map[string]bool), warn: c.report.warning}
	defer source.Close()
	part := partOf(o, cluster.Name(), commit, wanted)
	if !o.DryRun {
		err = writeFiles(ctx, o, source, c.report.warning)
		if err != nil && (!o.JSON || ctx.Err() != nil) {
			return err
		}
		if err == nil {
			part.Restored, part.Files, part.Bytes, part.Wrong = true, source.count, source.size, source.wrong.Load()
			err = part.damage()
		}
	}
	switch {
	case o.JSON:
		part.Problems = problemTexts(err)
		return errors.Join(err, printJSON(c, part))
	case part.Restored:
		return cmp.Or(source.report(c, part), err)
	}
	return err
}

// unfinishedFiles is the folder below the directory in which files are until all are whole.
const unfinishedFiles = "basin_restore.tmp"

// writeFiles writes what a source yields into the directory, in which a file is there once all are whole. After an error
// it is as it was.
func writeFiles(ctx context.Context, o restoreOptions, source backup.Source, warn func(format string, args ...any)) (err error) {
	sync := localfs.Syncer{Off: o.NoSync, Warn: func(err error) { warn("%s", err) }}
	dir, err := localfs.ClaimDir(o.Directory, localfs.DirModeOwner)
	if errors.Is(err, localfs.ErrNotEmpty) {
		if _, statErr := os.Lstat(filepath.Join(o.Directory, unfinishedFiles)); statErr == nil {
			return usererr.Hinted("Its "+unfinishedFiles+" is of a restore of files that was broken off: remove that.", "%w", err)
		}
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.Remove())
			return
		}
		err = dir.Close()
	}()
	below, err := localfs.ClaimBelow(dir.Root(), unfinishedFiles, filepath.Join(o.Directory, unfinishedFiles), localfs.DirModeOwner)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, below.Close()) }()
	sink := plain.NewSink(plain.Options{Dir: below, Sync: sync})
	err = backup.Copy(ctx, sink, source, backup.Options{Workers: o.Jobs})
	if err := errors.Join(err, sink.Close()); err != nil {
		return err
	}
	return sync.MoveUp(dir, unfinishedFiles)
}

// printWanted tells what is restored.
func printWanted(c call, o restoreOptions, cluster *repo.Cluster, commit repo.Commit, wanted []wantedFiles) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Restores files of %s into \"%s\"\n", cluster.Name(), o.Directory)
	fmt.Fprintf(&b, "  backup    %s, ended %s\n", commit.ID, stamp(commit.Ended))
	for _, w := range wanted {
		fmt.Fprintf(&b, "  %s\n", w.wantedListing)
	}
	_, err := io.WriteString(c.stdout, b.String())
	return err
}

// want returns what is meant by the value of --file: a path in the backup if there is one, or else a relation.
func (f *restoredFiles) want(ctx context.Context, text string) ([]wantedFiles, error) {
	whole := strings.TrimPrefix(path.Clean("/"+text), "/")
	tablespace, within := f.commit.CutPath(whole)
	_, err := f.Open(ctx, tablespace, within)
	switch {
	case err == nil:
		return []wantedFiles{{wantedListing{Kind: "file", Path: whole}, tablespace, within, func(path string) bool { return path == within }}}, nil
	case errors.Is(err, fs.ErrInvalid):
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	prefix := within + "/"
	for _, t := range f.commit.Tablespaces {
		if backup.ManifestPath(t.OID, "") == whole+"/" {
			tablespace, prefix = t.OID, ""
		}
	}
	for _, err := range f.Members(ctx, tablespace, prefix) {
		if err != nil {
			return nil, err
		}
		wanted := []wantedFiles{{wantedListing{Kind: "directory", Path: whole}, tablespace, prefix, func(string) bool { return true }}}
		if whole == "pg_tblspc" { // in which there are only links
			for _, t := range f.commit.Tablespaces {
				wanted = append(wanted, wantedFiles{wantedListing{Kind: "directory", Path: backup.ManifestPath(t.OID, "")}, t.OID, "", func(string) bool { return true }})
			}
		}
		return wanted, nil
	}
	parts, err := catalog.ParseName(text)
	if err != nil || len(parts) != 3 {
		return nil, usererr.Hinted("A relation is named as database.schema.relation, where a name with capitals or a dot is in double quotes, as in 'shop.public.\"Odd.Name\"', and \"basin show --files "+f.commit.ID+"\" lists the paths.",
			"backup %s has no file \"%s\"", f.commit.ID, printable(text, false))
	}
	return f.relation(ctx, parts[0], parts[1], parts[2])
}

// relation returns the files of a relation and its TOAST table.
func (f *restoredFiles) relation(ctx context.Context, database, schema, name string) ([]wantedFiles, error) {
	catalogs, err := f.catalogs(ctx)
	if err != nil {
		return nil, err
	}
	relations, err := catalogs.Relations(database, schema, name)
	if err != nil {
		return nil, err
	}
	var wanted []wantedFiles
	for _, r := range relations {
		tablespace, within := f.commit.CutPath(r.Path)
		wanted = append(wanted, wantedFiles{
			wantedListing: wantedListing{Kind: "relation", Path: r.Path, Name: r.String()}, tablespace: tablespace, prefix: within,
			is: func(path string) bool { return isOfRelation(path, within) },
		})
	}
	return wanted, nil
}

// isOfRelation says whether a path is that of a fork or segment of the relation whose first file is there.
func isOfRelation(path, first string) bool {
	rest, ok := strings.CutPrefix(path, first)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '_')
}

// filesSource yields files of a backup, each where it is below the data directory. It is a backup.Source.
type filesSource struct {
	files  *restoredFiles
	wanted []wantedFiles
	warn   func(format string, args ...any)

	next  func() (backup.Member, error, bool)
	stop  func()
	held  *backup.Member  // comes behind the directories that it is in
	made  map[string]bool // directories
	count int
	size  int64
	wrong atomic.Int64 // pages
}

// Begin tells what the backup is.
func (s *filesSource) Begin(context.Context) (backup.Start, error) {
	k := s.files.commit
	return backup.Start{Position: k.Start, ServerVersion: k.ServerVersion, SegmentSize: k.SegmentSize}, nil
}

// Next returns the next file, or a directory above it.
func (s *filesSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	for s.held == nil {
		if s.next == nil {
			if len(s.wanted) == 0 {
				return backup.Member{}, nil, io.EOF
			}
			s.next, s.stop = iter.Pull2(s.files.Members(ctx, s.wanted[0].tablespace, s.wanted[0].prefix))
		}
		m, err, ok := s.next()
		if err != nil {
			return m, nil, err
		}
		if !ok {
			s.stop()
			s.next, s.wanted = nil, s.wanted[1:]
			continue
		}
		// A link to a tablespace would lead to the source's own.
		isLink := m.Kind == backup.Symlink && strings.HasPrefix(m.Path, "pg_tblspc/")
		if s.wanted[0].is(m.Path) && !isLink {
			s.held = &m
		}
	}
	whole := backup.ManifestPath(s.held.Tablespace, s.held.Path)
	for i := range whole {
		if dir := whole[:i]; whole[i] == '/' && !s.made[dir] {
			s.made[dir] = true
			return backup.Member{Path: dir, Kind: backup.Dir, Mode: localfs.DirModeOwner}, nil, nil
		}
	}
	m := *s.held
	s.held = nil
	if m.Kind == backup.Dir && s.made[whole] {
		return s.Next(ctx)
	}
	s.made[whole] = m.Kind == backup.Dir || s.made[whole]
	tablespace, within := m.Tablespace, m.Path
	m.Tablespace, m.Path = 0, whole
	if m.Kind != backup.File {
		return m, nil, nil
	}
	file, err := s.files.Open(ctx, tablespace, within)
	if err != nil {
		return m, nil, err
	}
	s.count++
	s.size += m.Size
	m.Apart = true
	if segment, ok := pgdata.RelationSegment(whole); ok && s.files.checksums {
		return m, &pageReader{r: file, block: segment * pgdata.SegmentPages, start: s.files.commit.Start.LSN, wrong: func(block uint32) {
			if s.wrong.Add(1) <= mostPages {
				s.warn("the checksum of block %d in \"%s\" is wrong", block, whole)
			}
		}}, nil
	}
	return m, file, nil
}

// mostPages is how many pages whose checksums are wrong are named.
const mostPages = 5

// End returns where the backup ends.
func (s *filesSource) End(context.Context) (wal.Position, error) { return s.files.commit.Stop, nil }

// Close lets go of what is held.
func (s *filesSource) Close() error {
	if s.stop != nil {
		s.stop()
	}
	return nil
}

// report tells what was restored, and what it is worth.
func (s *filesSource) report(c call, part restoredPart) error {
	k := s.files.commit
	_, err := fmt.Fprintf(c.stdout, `Restored %s, %s, into "%s".
They are as they were read while the backup was made, between %v and %v, without the log: files
of relations may have pages, and rows, of different moments. What was in a database at one
moment, basin restore --database gets.
`, counted(part.Files, "file"), humanize.IBytes(uint64(part.Bytes)), part.Directory, k.Start.LSN, k.Stop.LSN)
	return err
}

// damage returns an error if pages had wrong checksums.
func (r restoredPart) damage() error {
	if r.Wrong == 0 {
		return nil
	}
	return usererr.Hinted("The files are as the cluster had them: another backup may have them whole.", "%s: %w", counted(int(r.Wrong), "page"), errPages)
}

// pageReader verifies the checksums of pages that are read through it, by the rules of the server: not of what was
// changed since the backup began, and may have been read while it was written.
type pageReader struct {
	r     io.Reader
	block uint32
	start wal.LSN
	wrong func(block uint32)
	part  []byte // of a page
}

// Read reads what follows.
func (r *pageReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		took := min(len(rest), pgdata.PageSize-len(r.part))
		r.part = append(r.part, rest[:took]...)
		rest = rest[took:]
		if len(r.part) < pgdata.PageSize {
			break
		}
		page := pgdata.Page(r.part)
		if !page.IsNew() && page.LSN() < r.start && page.ComputeChecksum(r.block) != page.Checksum() {
			r.wrong(r.block)
		}
		r.block++
		r.part = r.part[:0]
	}
	return n, err
}
