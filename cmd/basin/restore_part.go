package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"basin/internal/backup"
	"basin/internal/catalog"
	"basin/internal/getopt"
	"basin/internal/pgdata"
	"basin/internal/repo"
)

// partOptions say which part of a backup is restored; nothing is all of it.
type partOptions struct {
	Files     []string // paths and relations
	Databases []string // names
}

// options returns the options that write to o.
func (o *partOptions) options() []getopt.Option {
	add := func(to *[]string) func(string) error {
		return func(value string) error { *to = append(*to, value); return nil }
	}
	return []getopt.Option{
		{Long: "file", Value: add(&o.Files)},
		{Long: "database", Value: add(&o.Databases)},
	}
}

// check returns what is wrong about them beside other options of a restore.
func (o *restoreOptions) checkPart() string {
	switch {
	case len(o.Part.Files) > 0 && len(o.Part.Databases) > 0:
		return "--file gets files alone, and --database a cluster: not both at once"
	case len(o.Part.Files) > 0 && (o.Target.kind != "" || o.Target.timeline != 0 || o.Standby):
		return "--file gets files as they are in a backup, with no log: --backup names another one, and there is no target"
	case len(o.Part.Files) > 0 && len(o.TablespaceMapping) > 0:
		return "--file leaves files of tablespaces below pg_tblspc: there is nothing to map"
	}
	return ""
}

// restoredFiles are the files of a backup that parts are taken of.
type restoredFiles struct {
	*repo.Files
	commit    repo.Commit
	checksums bool // its pages have checksums
	fullPages bool // the log had each page whole before it changed it, when the backup began
}

// fullPageWritesAt is where a control file has the full_page_writes of its checkpoint: checkPointCopy.fullPageWrites.
//
// Source: ControlFileData in src/include/catalog/pg_control.h, PostgreSQL 13 to 18.
const fullPageWritesAt = 56

// openFiles opens the files of a backup.
func openFiles(ctx context.Context, cluster *repo.Cluster, commit repo.Commit) (*restoredFiles, error) {
	files, err := cluster.Files(ctx, commit)
	if err != nil {
		return nil, err
	}
	f := &restoredFiles{Files: files, commit: commit}
	file, err := files.Open(ctx, 0, pgdata.ControlPath)
	if err != nil {
		return nil, err
	}
	content := make([]byte, pgdata.ControlSize)
	n, err := file.ReadAt(content, 0)
	if n < len(content) {
		return nil, fmt.Errorf("read \"%s\" in backup %s: %w", pgdata.ControlPath, commit.ID, err)
	}
	control, err := pgdata.ParseControl(content)
	if err != nil {
		return nil, fmt.Errorf("\"%s\" in backup %s: %w", pgdata.ControlPath, commit.ID, err)
	}
	f.checksums, f.fullPages = control.DataChecksums, content[fullPageWritesAt] != 0
	return f, nil
}

// catalogs returns the catalogs that are in the files.
func (f *restoredFiles) catalogs(ctx context.Context) (*catalog.Catalogs, error) {
	return catalog.Open(catalog.Options{
		Major: f.commit.ServerVersion / 10000, Checksums: f.checksums, Start: f.commit.Start.LSN,
		Open: func(path string) (catalog.File, int64, error) {
			tablespace, within := f.commit.CutPath(path)
			file, err := f.Open(ctx, tablespace, within)
			if err != nil {
				return nil, 0, err
			}
			return file, file.Size, nil
		},
		Tablespace: func(oid uint32) (string, error) {
			tablespace, versions := f.commit.CutPath(backup.ManifestPath(oid, "PG_"))
			for m, err := range f.Members(ctx, tablespace, versions) {
				if err != nil {
					return "", err
				}
				version, _, _ := strings.Cut(strings.TrimPrefix(m.Path, strings.TrimSuffix(versions, "PG_")), "/")
				return backup.ManifestPath(oid, version), nil
			}
			return "", fmt.Errorf("tablespace %d is not in backup %s", oid, f.commit.ID)
		},
	})
}

// errPages is what was read with pages whose checksums are wrong.
var errPages = errors.New("pages have wrong checksums")
