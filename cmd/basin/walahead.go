package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"basin/internal/ahead"
	"basin/internal/repo"
	"basin/internal/wal"
)

const (
	// aheadWord is what wal get calls itself with to get what recovery will ask for next.
	aheadWord = "ahead"
	// aheadBytes is how much is in the spool of a server at most, in bytes.
	aheadBytes = 128 << 20
	// aheadJobs is how many segments are got at once. Each is in memory.
	aheadJobs = 4
	// aheadTime is how long such a process lasts at most.
	aheadTime = 2 * time.Minute
	// comingTime is how long is waited for a file that another process is getting.
	comingTime = time.Minute
)

// take moves a segment out of the spool. If it is being got, it is waited for. It returns its size in bytes, and whether it
// was there.
func (g *logGetter) take(ctx context.Context, s *ahead.Folder, name, path string) (int64, bool) {
	for deadline := time.Now().Add(comingTime); ; {
		isComing := s.IsComing(name) // before it is looked for, so that what has just come is found
		size, err := s.Take(name, path)
		switch {
		case err == nil:
			return size, true
		case !errors.Is(err, fs.ErrNotExist):
			g.report.warning("%v; it is got from the repository", err)
			return 0, false
		case !isComing || time.Now().After(deadline):
			return 0, false
		}
		timer := time.NewTimer(3 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return 0, false
		case <-timer.C:
		}
	}
}

// window returns the segments behind one that are to be in the spool.
func window(name string, size int64) ([]string, error) {
	if !wal.ValidSegmentSize(size) {
		return nil, fmt.Errorf("%s has %d bytes", name, size)
	}
	segment, err := wal.ParseSegment(name, size)
	if err != nil {
		return nil, err
	}
	var names []string
	for range aheadBytes / size {
		segment.Number++
		names = append(names, segment.Name(size))
	}
	return names, nil
}

// missing returns those of a window that are to be got: from the first on that is not in the spool.
func missing(s *ahead.Folder, names []string) ([]string, error) {
	files, err := s.Files()
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool)
	for _, f := range files {
		there[f.Name] = true
	}
	for i, name := range names {
		if !there[name] {
			return names[i:], nil
		}
	}
	return nil, nil
}

// ahead starts a process that gets what recovery will ask for after a segment, if less than half of that is in the spool.
// What goes wrong with it is no concern of who asked for this one.
func (g *logGetter) ahead(p place, s *ahead.Folder, name string, size int64) error {
	names, err := window(name, size)
	if err != nil {
		return nil
	}
	left, err := missing(s, names)
	if err != nil || len(left)*2 < len(names) || len(left) == 0 || s.IsComing(left[0]) {
		return nil
	}
	if err := g.startAhead(p, s, name, size); err != nil {
		g.report.warning("what comes next is not got ahead: %v", err)
	}
	return nil
}

// startAhead starts the process, which is in a session of its own: it ends soon, and is not for the server to wait for.
func (g *logGetter) startAhead(p place, s *ahead.Folder, name string, size int64) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	words, err := g.o.words(repo.ClusterName{Name: p.Cluster, SystemID: g.o.SystemID})
	if err != nil {
		return err
	}
	if all, _, err := g.o.each(); err == nil && len(all) > 1 { // all may be asked
		words = words[1:3:3]
		if config := cmp.Or(g.o.ConfigFile, os.Getenv("BASIN_CONFIG")); config != "" {
			if config, err = filepath.Abs(config); err != nil {
				return err
			}
			words = append(words, "--config="+config)
		}
	}
	data, err := filepath.Abs(g.o.DataDirectory)
	if err != nil {
		return err
	}
	args := []string{"wal", aheadWord, "--pgdata=" + data}
	if g.o.Unchecked {
		args = append(args, "--unchecked")
	}
	for _, w := range words {
		if w != "--cluster=" && w != "--system-id=0" {
			args = append(args, w)
		}
	}
	c := exec.Command(program, append(args, s.Dir(), name, strconv.FormatInt(size, 10))...)
	c.Dir = s.Dir()
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return err
	}
	return c.Process.Release()
}

// getAhead gets into the spool what recovery will ask for after a segment. Another process that does is left to it.
func getAhead(ctx context.Context, g logGetter, dir, name, size string) error {
	ctx, cancel := context.WithTimeout(ctx, aheadTime)
	defer cancel()
	s, err := ahead.At(dir)
	if err != nil {
		return err
	}
	bytes, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	names, err := window(name, bytes)
	if err != nil || len(names) == 0 {
		return err
	}
	lock, err := s.Lock(names[0], names[len(names)-1])
	if err != nil || lock == nil {
		return err
	}
	defer lock.Close() // which lets go of it
	wanted := make(map[string]bool)
	for _, n := range names {
		wanted[n] = true
	}
	if err := s.Keep(func(file string) bool { return wanted[file] }); err != nil {
		return err
	}
	if names, err = missing(s, names); err != nil {
		return err
	}
	if len(names) == 0 {
		return nil
	}
	all, _, err := g.o.each()
	if err == nil && len(all) > 1 {
		g.o.repositoryOptions, err = g.which(ctx, all, names[0])
	}
	if errors.Is(err, fs.ErrNotExist) { // the end of the log
		return nil
	}
	if err != nil {
		return err
	}
	p, err := g.o.place()
	if err != nil {
		return err
	}
	r, c, err := g.open(ctx, p)
	if err != nil {
		return err
	}
	err = g.fill(ctx, s, c, names, bytes)
	if errors.Is(err, fs.ErrNotExist) && p.Cluster == "" { // it need not be "main"
		other, notThere := p.chooseCluster(ctx, r, g.o.repositoryOptions)
		if notThere != nil {
			return notThere
		}
		if other.Name() != c.Name() {
			err = g.fill(ctx, s, other, names, bytes)
		}
	}
	if errors.Is(err, fs.ErrNotExist) { // the end of the log
		return nil
	}
	return err
}

// which returns that of several repositories that is the first to have a segment.
func (g logGetter) which(ctx context.Context, all []repositoryOptions, name string) (repositoryOptions, error) {
	location, err := askEach(ctx, g.report, all, func(ctx context.Context, one repositoryOptions) ([]byte, error) {
		h := g // as several may be asked at once
		h.o.repositoryOptions = one
		p, err := one.place()
		if err != nil {
			return nil, hideAbsence(err)
		}
		_, c, err := h.open(ctx, p)
		if err != nil {
			return nil, ofSeveral(err, true)
		}
		_, err = c.LogFacts(ctx, name)
		return []byte(one.Location), err
	})
	one := g.o.repositoryOptions
	one.Location = string(location)
	return one, err
}

// fill gets segments that follow each other, several at once, and puts them into the spool one after another, as far as
// recovery can go on in them.
func (g *logGetter) fill(ctx context.Context, s *ahead.Folder, c *repo.Cluster, names []string, size int64) error {
	if len(names) == 0 {
		return nil
	}
	type spot struct {
		facts *repo.LogFacts // of the segment before
		isEnd bool           // recovery does not come here
	}
	spots := make([]spot, len(names)+1)
	reached := make([]chan struct{}, len(names)+1) // closed once the place is known
	for i := range reached {
		reached[i] = make(chan struct{})
	}
	var group errgroup.Group // that one is not there ends none before it
	group.SetLimit(aheadJobs + 1)
	group.Go(func() (err error) {
		defer close(reached[0])
		if !g.o.Unchecked {
			spots[0].facts, err = c.Before(ctx, names[0], size)
		}
		spots[0].isEnd = err != nil
		return err
	})
	for i, name := range names {
		group.Go(func() error {
			defer close(reached[i+1])
			content, facts, err := c.LogWithFacts(ctx, name)
			<-reached[i]
			spots[i+1] = spot{&facts, true}
			if err != nil || spots[i].isEnd {
				return err
			}
			if !g.o.Unchecked {
				if err := c.CheckOrder(ctx, spots[i].facts, facts); err != nil {
					return err
				}
			}
			spots[i+1].isEnd = false
			return s.Put(name, content)
		})
	}
	return group.Wait()
}
