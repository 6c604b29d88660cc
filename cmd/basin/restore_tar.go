package main

import (
	"context"
	"errors"
	"io"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/repo"
	"basin/internal/tarball"
)

// writeTar makes tar files, as pg_basebackup does.
func (r *restoreRun) writeTar(ctx context.Context, p *restorePlan) (err error) {
	settings, err := r.settings(p)
	if err != nil {
		return err
	}
	o := tarball.Options{Sync: r.syncer(), Progress: &r.counts}
	o.Compress, o.Suffix = compressor(r.o.Compression)
	if r.o.Directory == "-" {
		if o.Output, err = openOutput(ctx); err != nil {
			return err
		}
	} else {
		if o.Dir, err = localfs.ClaimDir(r.o.Directory, localfs.DirModeOwner); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, o.Dir.Remove())
			} else {
				err = o.Dir.Close()
			}
		}()
	}
	source := r.cluster.NewSource(p.commit, repo.SourceOptions{Progress: &r.counts})
	defer source.Close()
	sink := tarball.NewSink(o)
	defer func() { err = errors.Join(err, sink.Close()) }()
	return r.copy(ctx, sink, r.recovering(&mappedSource{Source: source, run: r}, p, settings))
}

// mappedSource yields a backup whose links to tablespaces are in a tablespace_map, as in tar files: the
// server makes them.
//
// Source: perform_base_backup in src/backend/backup/basebackup.c, PostgreSQL 18.
type mappedSource struct {
	backup.Source
	run   *restoreRun
	links map[string]bool // paths of those that are left out
	lines []byte          // of the map; nil once it was yielded
	held  backup.Member   // that comes after it
	from  io.Reader
}

// Begin learns where tablespaces go.
func (s *mappedSource) Begin(ctx context.Context) (backup.Start, error) {
	start, err := s.Source.Begin(ctx)
	s.links = make(map[string]bool)
	for _, t := range start.Tablespaces {
		if filepath.IsAbs(t.Location) {
			s.links["pg_tblspc/"+strconv.FormatUint(uint64(t.OID), 10)] = true
			s.lines = pgdata.AppendTablespaceLink(s.lines, pgdata.TablespaceLink{OID: t.OID, Target: s.run.mapped(t)})
		}
	}
	return start, err
}

// Next returns the next member.
func (s *mappedSource) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	if s.held.Path != "" {
		m, r := s.held, s.from
		s.held, s.from = backup.Member{}, nil
		return m, r, nil
	}
	for {
		m, r, err := s.Source.Next(ctx)
		name := path.Clean(m.Path)
		switch {
		case err != nil:
			return m, r, err
		case m.Tablespace == 0 && (s.links[name] && m.Kind == backup.Symlink || name == pgdata.TablespaceMapPath):
			continue
		case m.Tablespace == 0 && name == pgdata.ControlPath && s.lines != nil:
			text := string(s.lines)
			s.lines, s.held, s.from = nil, m, r
			return backup.Member{
				Path: pgdata.TablespaceMapPath, Kind: backup.File, Size: int64(len(text)), Mode: localfs.FileModeOwner,
				UID: backup.InjectedUID, GID: backup.InjectedGID, ModTime: time.Now(),
			}, strings.NewReader(text), nil
		}
		return m, r, nil
	}
}
