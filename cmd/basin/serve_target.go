package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/server"
	"basin/internal/tarball"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// targets is the directory that clients may have backups stored below. Nothing that a client
// says leads out of it.
type targets struct {
	root  *os.Root
	paths []string // by which it may be called
	warn  func(error)

	dirMode, fileMode fs.FileMode

	mu    sync.Mutex
	taken []*localfs.Claim // that backups are being written to
}

// openTargets opens the directory at path for the backups of the cluster whose data
// directory is dataDir. They are to be readable by its group if that one is.
func openTargets(path, dataDir string, warn func(error)) (*targets, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, usererr.Hinted("Make the directory first; it has to be writable for who runs this server.",
			"the directory for backups: %w", localfs.Errorf(err, path, "could not open directory \"%s\"", path))
	}
	t := &targets{root: root, paths: []string{path}, warn: warn}
	if resolved, err := filepath.EvalSymlinks(path); err == nil && resolved != path {
		t.paths = append(t.paths, resolved)
	}
	info, err := os.Stat(dataDir)
	if err != nil {
		return nil, errors.Join(localfs.Errorf(err, dataDir, "could not access directory \"%s\"", dataDir), root.Close())
	}
	t.dirMode, t.fileMode = setModes(info.Mode()&0o050 == 0o050) // pg_dir_create_mode
	return t, nil
}

// Close lets go of the directory. Backups that are being written fail.
func (t *targets) Close() error { return t.root.Close() }

// open opens a place for a backup. It is a directory that is empty, or that is not there:
// then it is made, and the one above has to be there.
//
// Source: bbsink_server_new in src/backend/backup/basebackup_server.c, PostgreSQL 18.
func (t *targets) open(detail string, b server.TargetBackup) (backup.Sink, error) {
	name, ok := t.below(detail)
	if !ok {
		return nil, &server.Error{Code: "42501", Message: fmt.Sprintf("permission denied to create backup in directory \"%s\"", detail),
			Detail: "Backups can be stored below one directory only, which this server was given with --target-directory."}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := localfs.ClaimBelow(t.root, name, filepath.Join(t.paths[0], name), t.dirMode)
	if errors.Is(err, localfs.ErrNotEmpty) {
		return nil, notEmpty(detail)
	}
	if err != nil {
		return nil, err
	}
	for _, other := range t.taken { // one that another backup has not written to yet
		same, err := c.Same(other)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		if same {
			return nil, errors.Join(notEmpty(detail), c.Close())
		}
	}
	t.taken = append(t.taken, c)
	return &targetSink{
		Sink: tarball.NewSink(tarball.Options{
			Dir: c, Compress: b.Compress, Suffix: b.Suffix, FileMode: t.fileMode, Sync: localfs.Syncer{Warn: t.warn},
		}),
		targets: t, claim: c,
	}, nil
}

// below returns what a path is called in the directory, and says whether it is strictly in it.
func (t *targets) below(path string) (name string, ok bool) {
	for _, dir := range t.paths {
		name, err := filepath.Rel(dir, path)
		if err == nil && name != "." && filepath.IsLocal(name) {
			return name, true
		}
	}
	return "", false
}

// notEmpty is the error of a directory that something is in.
func notEmpty(path string) *server.Error {
	return &server.Error{Code: "42710", Message: fmt.Sprintf("directory \"%s\" exists but is not empty", path)}
}

// release ends a claim in one way or the other.
func (t *targets) release(c *localfs.Claim, end func() error) error {
	t.mu.Lock() // so that nobody compares with a claim that ends
	defer t.mu.Unlock()
	err := end()
	t.taken = slices.DeleteFunc(t.taken, func(other *localfs.Claim) bool { return other == c })
	return err
}

// targetSink is a backup in its directory, which is given back as it was if that fails.
type targetSink struct {
	*tarball.Sink
	targets *targets
	claim   *localfs.Claim // nil once it has ended
	kept    bool
}

// Commit ends the backup.
func (s *targetSink) Commit(ctx context.Context, end wal.Position) error {
	err := s.Sink.Commit(ctx, end)
	s.kept = err == nil
	return err
}

// Salvage keeps a backup that has wrong pages, without the manifest's name.
func (s *targetSink) Salvage(ctx context.Context, end wal.Position) error {
	err := s.Sink.Salvage(ctx, end)
	s.kept = err == nil
	return err
}

// Close ends the claim, and removes what was written if that is no backup.
func (s *targetSink) Close() error {
	err := s.Sink.Close()
	if s.claim == nil {
		return err
	}
	end := s.claim.Remove
	if s.kept {
		end = s.claim.Close
	}
	err = errors.Join(err, s.targets.release(s.claim, end))
	s.claim = nil
	return err
}
