package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"basin/internal/ahead"
	"basin/internal/pgdata"
	"basin/internal/repo"
	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// logGetter gets files of the log.
type logGetter struct {
	o      walOptions
	report *report
	asked  bool // the store was asked: before that, nothing is to be had by waiting
}

// The shortest and the longest that a standby waits before it asks again.
const (
	firstWait = time.Second
	mostWait  = 30 * time.Second
)

// untilKnown is get. On a standby it asks again as long as it is not known whether there is such a file: a server that gave
// up for that would have to be started by somebody once the store answers again.
func (g *logGetter) untilKnown(ctx context.Context, name, path string) error {
	for wait := firstWait; ; wait = min(2*wait, mostWait) {
		err := g.get(ctx, name, path)
		if err == nil || !g.asked || errors.Is(err, fs.ErrNotExist) || errors.Is(err, seal.ErrDamaged) || errors.Is(err, repo.ErrUnfit) || !g.isStandby() {
			return err
		}
		g.report.warning("%v; this is a standby, which asks again in %v", err, wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// isStandby says whether the server that asks is a standby.
//
// Source: STANDBY_SIGNAL_FILE in src/include/access/xlog.h, PostgreSQL 18.
func (g *logGetter) isStandby() bool {
	_, err := os.Stat(filepath.Join(g.o.DataDirectory, "standby.signal"))
	return err == nil
}

// get writes a file of the log that is in the repository to a path. That there is none is an error
// that wraps fs.ErrNotExist; no other does.
func (g *logGetter) get(ctx context.Context, name, path string) error {
	p, err := g.o.place()
	if err != nil {
		return hideAbsence(err)
	}
	g.o.identify()
	s := g.spool(p)
	if s != nil && repo.IsSegment(name) {
		if size, ok := g.take(ctx, s, name, path); ok {
			g.ahead(p, s, name, size)
			return nil
		}
	}
	got, err := g.fetch(ctx, name, &logDrafts{path: path})
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not in the repository: %w", name, fs.ErrNotExist)
	case errors.Is(err, seal.ErrDamaged):
		return usererr.Hinted("If another copy of the file is to be had, put it in place by hand. To end recovery before it, restore to a target that comes earlier.", "%w", err)
	case errors.Is(err, repo.ErrUnfit):
		return usererr.Hinted("A copy of the cluster may have written into the repository, or the file was damaged before it was pushed. To end recovery before it, restore to a target that comes earlier; --unchecked gets the file as it is.", "%w", err)
	case err != nil:
		return hideAbsence(err)
	}
	if s != nil && repo.IsSegment(name) {
		g.ahead(p, s, name, got.size)
	}
	return nil
}

// fetch gets a file of the log, or of a segment the part that is there, from the repositories that are meant, and puts it in its place. That
// there is none in any of them, each of which has answered, is an error that wraps fs.ErrNotExist; no other does.
func (g *logGetter) fetch(ctx context.Context, name string, drafts *logDrafts) (got logDraft, err error) {
	defer func() { err = drafts.place(got, err) }()
	all, _, err := g.o.each()
	if err != nil {
		return got, hideAbsence(err)
	}
	g.asked = true
	got, err = askEach(ctx, g.report, all, func(ctx context.Context, one repositoryOptions) (logDraft, error) {
		h := *g // as several may be asked at once
		h.o.repositoryOptions = one
		if err := drafts.writable(); err != nil {
			return logDraft{}, err
		}
		f, err := h.whole(ctx, len(all) > 1, name)
		if err != nil {
			return logDraft{}, err
		}
		return drafts.write(func(w io.Writer) error { return f.CopyTo(ctx, w) })
	})
	if !errors.Is(err, fs.ErrNotExist) || !repo.IsSegment(name) {
		return got, err
	}
	// The longest part counts, so all are asked.
	longest, where := "", (*repo.Cluster)(nil)
	for _, one := range all {
		c, err := openToRead(ctx, one, len(all) > 1)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return got, err
		}
		part, err := c.LongestPartial(ctx, name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return got, err
		case where == nil || len(part) >= len(longest) && part > longest:
			longest, where = part, c
		}
	}
	if where == nil {
		return got, err
	}
	content, err := g.part(ctx, where, name, longest)
	if err != nil {
		return got, err
	}
	return drafts.write(func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// whole opens a file of the log in the repository.
func (g *logGetter) whole(ctx context.Context, isOfSeveral bool, name string) (*repo.LogFile, error) {
	p, err := g.o.place()
	if err != nil {
		return nil, hideAbsence(err)
	}
	r, c, err := g.open(ctx, p)
	if err != nil {
		return nil, ofSeveral(err, isOfSeveral)
	}
	f, err := g.inOrder(ctx, c, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	chosen, other := p.chooseCluster(ctx, r, g.o.repositoryOptions) // it is there, or nothing is known
	if other != nil {
		return nil, ofSeveral(other, isOfSeveral)
	}
	if chosen.Name() == c.Name() {
		return nil, err
	}
	return g.inOrder(ctx, chosen, name)
}

// open opens the repository and the part of it that is meant, if that can be known without looking for it: it may not be
// there. Which cluster it is the data directory says.
func (g *logGetter) open(ctx context.Context, p place) (*repo.Repository, *repo.Cluster, error) {
	r, err := p.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := mustRead(r); err != nil {
		return nil, nil, err
	}
	if g.o.identify(); g.o.SystemID == 0 { // it is not run by a server
		c, err := p.chooseCluster(ctx, r, g.o.repositoryOptions)
		return r, c, err
	}
	c, err := r.Cluster(cmp.Or(p.Cluster, "main"), g.o.SystemID)
	return r, c, err
}

// inOrder opens a file of the log, which recovery is to go on into.
func (g *logGetter) inOrder(ctx context.Context, c *repo.Cluster, name string) (*repo.LogFile, error) {
	if g.o.Unchecked {
		return c.OpenLog(ctx, name, g.o.segmentSize())
	}
	return c.OpenLogInOrder(ctx, name, g.o.segmentSize())
}

// part returns a segment of which the first part is there, by a name, as long as a segment is. It is what recovery
// reads last.
func (g *logGetter) part(ctx context.Context, c *repo.Cluster, segment, name string) ([]byte, error) {
	f, err := g.inOrder(ctx, c, name)
	if err != nil {
		return nil, err
	}
	content, err := f.Content(ctx)
	if err != nil {
		return nil, err
	}
	size, ok := wal.SegmentSize(content)
	if !ok || int64(len(content)) > size {
		return nil, fmt.Errorf("%s: %w", name, seal.ErrDamaged)
	}
	if g.hasAsMuch(c.Name(), segment, content) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	g.report.info("of %s the first %d bytes are in the repository", segment, len(content))
	return append(content, make([]byte, size-int64(len(content)))...), nil
}

// hasAsMuch says whether the server's own file of a segment begins with the part that the repository has. PostgreSQL would
// put the part in its place, and what a standby had received and replayed behind that would be lost, with the standby.
func (g *logGetter) hasAsMuch(cluster repo.ClusterName, segment string, part []byte) bool {
	if id, err := systemIDOf(g.o.DataDirectory, nil); err != nil || id != cluster.SystemID {
		return false
	}
	f, err := os.Open(filepath.Join(g.o.DataDirectory, "pg_wal", segment))
	if err != nil {
		return false
	}
	defer f.Close() // it was only read
	own := make([]byte, len(part))
	_, err = io.ReadFull(f, own)
	return err == nil && bytes.Equal(own, part)
}

// identify notes which cluster the server is of, unless that was said, or it is not run by one. Parts of segments, and what is in the
// spool, are of this one, and of no other of the name or that was in the data directory before.
func (o *walOptions) identify() {
	if o.SystemID == 0 {
		if id, err := systemIDOf(o.DataDirectory, nil); err == nil {
			o.SystemID = id
		}
	}
}

// segmentSize returns how long a segment is of the server that asks, in bytes, or zero if that is not known.
func (o *walOptions) segmentSize() int64 {
	_, control, err := readControlFile(filepath.Join(cmp.Or(o.DataDirectory, "."), filepath.FromSlash(pgdata.ControlPath)))
	if err != nil {
		return 0
	}
	return int64(control.LogSegment)
}

// spool returns the folder of what was got ahead, or nil if there is none.
func (g *logGetter) spool(p place) *ahead.Folder {
	s, err := g.o.openSpool(p)
	if err != nil {
		g.report.warning("%v; it is gone on without a spool", err)
		return nil
	}
	return s
}

// spoolFolder returns the spool, or nothing if none is configured.
func (o *walOptions) spoolFolder(p place) string {
	return cmp.Or(o.Spool, os.Getenv("BASIN_SPOOL"), p.Spool)
}

// openSpool opens the folder that a server has in the spool, or returns nil if none is configured. It has another one for what is got
// unchecked, which was not looked at before it was put there.
func (o *walOptions) openSpool(p place) (*ahead.Folder, error) {
	dir := o.spoolFolder(p)
	if dir == "" {
		return nil, nil
	}
	data, err := filepath.Abs(o.DataDirectory)
	if err != nil {
		return nil, err
	}
	return ahead.Open(dir, strings.Join([]string{p.Location, p.Cluster, fmt.Sprint(o.SystemID), data, strconv.FormatBool(o.Unchecked)}, "\x00"))
}

// hideAbsence returns an error that is no fs.ErrNotExist: what is missing is not the file of the log.
func hideAbsence(err error) error {
	if err != nil && errors.Is(err, fs.ErrNotExist) {
		return usererr.Hinted(usererr.Hint(err), "%s", strings.TrimSpace(err.Error()))
	}
	return err
}
