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
	"slices"
	"strconv"
	"sync"
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
	// aheadJobs is how many segments are got at once, or one more.
	aheadJobs = 4
	// aheadTime is how long it takes at most to get one, or to find out where it is.
	aheadTime = 2 * time.Minute
	// idleTime is how long such a process waits for a segment to be taken, until it ends.
	idleTime = 10 * time.Second
	// comingTime is how long is waited for a file that another process is getting.
	comingTime = time.Minute
	// graceTime is how long is waited for another process to say that it gets the file, as it may be about to.
	graceTime = 25 * time.Millisecond
)

// take moves a segment out of the spool. If it is being got, it is waited for. It returns its size in bytes, and whether it
// was there.
func (g *logGetter) take(ctx context.Context, s *ahead.Folder, name, path string) (int64, bool) {
	begun := time.Now()
	for {
		isTurn, isComing := s.IsAtWork(name) // before it is looked for, so that what has just come is found
		size, err := s.Take(name, path)
		switch {
		case err == nil:
			return size, true
		case !errors.Is(err, fs.ErrNotExist):
			g.report.warning("%v; it is got from the repository", err)
			return 0, false
		case !isTurn, !isComing && time.Since(begun) > graceTime, time.Since(begun) > comingTime:
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

// ahead starts a process that gets what recovery will ask for after a segment, if less than half of that is in the spool, and
// none is at work. What goes wrong with it is no concern of who asked for this one.
func (g *logGetter) ahead(p place, s *ahead.Folder, name string, size int64) {
	names, err := window(name, size)
	if err != nil {
		return
	}
	left, err := missing(s, names)
	if err != nil || len(left)*2 < len(names) || len(left) == 0 {
		return
	}
	if isTurn, _ := s.IsAtWork(name); isTurn {
		return
	}
	if err := g.startAhead(p, s, name, size); err != nil {
		g.report.warning("what comes next is not got ahead: %v", err)
	}
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
	if config := os.Getenv("BASIN_CONFIG"); config != "" && !filepath.IsAbs(config) { // which is from where this one is
		if config, err = filepath.Abs(config); err != nil {
			return err
		}
		c.Env = append(os.Environ(), "BASIN_CONFIG="+config)
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return err
	}
	return c.Process.Release()
}

// filler gets files of the log into the spool.
type filler struct {
	logGetter
	spool   *ahead.Folder
	turn    *ahead.Turn
	size    int64 // of a segment, in bytes
	cluster *repo.Cluster

	mu     sync.Mutex
	ahead  []string        // what was begun with, in order, and has not been seen to be taken
	put    map[string]bool // of that, what came
	gotAny bool
}

// getAhead gets into the spool what recovery will ask for after a segment, and what comes behind that, as long as it is asked for: who
// stays need not begin with a process and a connection again. It leaves that to another process if one does it.
func getAhead(ctx context.Context, g logGetter, dir, name, size string) (err error) {
	f := filler{logGetter: g}
	if f.spool, err = ahead.At(dir); err != nil {
		return err
	}
	if f.size, err = strconv.ParseInt(size, 10, 64); err != nil {
		return err
	}
	names, err := window(name, f.size)
	if err != nil || len(names) == 0 {
		return err
	}
	if f.turn, err = f.spool.Begin(); err != nil || f.turn == nil {
		return err
	}
	defer f.turn.End() // which closes what was only read by others
	p, r, err := f.find(ctx, names[0])
	if errors.Is(err, fs.ErrNotExist) { // the end of the log
		return nil
	}
	if err != nil {
		return err
	}
	err = f.fill(ctx, name)
	if errors.Is(err, fs.ErrNotExist) && !f.gotAny && p.Cluster == "" { // it need not be "main"
		chosen, notThere := f.choose(ctx, p, r)
		if notThere != nil {
			return notThere
		}
		if chosen.Name() != f.cluster.Name() {
			f.cluster = chosen
			err = f.fill(ctx, name)
		}
	}
	if errors.Is(err, fs.ErrNotExist) { // the end of the log
		return nil
	}
	return err
}

// find opens the repository that has a segment, and the part of it that is meant. It takes no longer than to get one may.
func (f *filler) find(ctx context.Context, name string) (p place, r *repo.Repository, err error) {
	ctx, cancel := context.WithTimeout(ctx, aheadTime)
	defer cancel()
	all, _, err := f.o.each()
	if err == nil && len(all) > 1 {
		f.o.repositoryOptions, err = f.which(ctx, all, name)
	}
	if err != nil {
		return p, nil, err
	}
	if p, err = f.o.place(); err != nil {
		return p, nil, err
	}
	r, f.cluster, err = f.open(ctx, p)
	return p, r, err
}

// choose looks for the cluster that is meant. It takes no longer than to get a segment may.
func (f *filler) choose(ctx context.Context, p place, r *repo.Repository) (*repo.Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, aheadTime)
	defer cancel()
	return p.chooseCluster(ctx, r, f.o.repositoryOptions)
}

// which returns that of several repositories that is the first to have a segment.
func (g logGetter) which(ctx context.Context, all []repositoryOptions, name string) (repositoryOptions, error) {
	location, err := askEach(ctx, g.report, all, func(ctx context.Context, one repositoryOptions) (string, error) {
		h := g // as several may be asked at once
		h.o.repositoryOptions = one
		p, err := one.place()
		if err != nil {
			return "", hideAbsence(err)
		}
		_, c, err := h.open(ctx, p)
		if err != nil {
			return "", ofSeveral(err, true)
		}
		_, err = c.LogFacts(ctx, name)
		return one.Location, err
	})
	one := g.o.repositoryOptions
	one.Location = location
	return one, err
}

// spot is what is known where a segment ends.
type spot struct {
	facts *repo.LogFacts // of the segment; nil if nothing follows from it
	isEnd bool           // recovery does not come further
}

// fill gets segments from behind one on, several at once, and puts them into the spool one after another, as far as recovery can
// go on in them, and not more than belong there. It ends if none is taken for some time, or at the end of the log.
func (f *filler) fill(ctx context.Context, name string) error {
	names, err := window(name, f.size)
	if err != nil {
		return err
	}
	if err := f.spool.Keep(func(file string) bool { return slices.Contains(names, file) }); err != nil {
		return err
	}
	left, err := missing(f.spool, names)
	if err != nil {
		return err
	}
	f.ahead, f.put = names[:len(names)-len(left)], make(map[string]bool)
	for _, n := range f.ahead {
		f.put[n], name = true, n
	}
	working, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(aheadJobs + 1)
	var before chan spot
	for {
		next, err := f.next(working, name)
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		if next == "" {
			return group.Wait()
		}
		if before == nil {
			first := make(chan spot, 1)
			group.Go(func() error { return f.before(ctx, next, first) })
			before = first
		}
		from, to := before, make(chan spot, 1)
		group.Go(func() error {
			isThere, err := f.get(ctx, next, from, to)
			if !isThere {
				cancel() // nothing is begun with any more; what comes before it is put
			}
			return errors.Join(err, f.came(next, isThere))
		})
		before, name = to, next
	}
}

// next waits until there is room for another segment, and returns that one; none if it has to wait for long, or ctx has ended.
func (f *filler) next(ctx context.Context, last string) (string, error) {
	names, err := window(last, f.size)
	if err != nil {
		return "", err
	}
	idle := time.NewTimer(idleTime)
	defer idle.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for ctx.Err() == nil { // also where there is room, as always at the end of the log
		isBegun, err := f.begin(names[0], len(names))
		if err != nil {
			return "", err
		}
		if isBegun {
			return names[0], f.tell()
		}
		select {
		case <-ctx.Done():
		case <-idle.C:
			return "", nil
		case <-look.C:
		}
	}
	return "", nil
}

// begin begins with a segment if there is room for it, and removes what recovery has passed without taking it, as it got that itself.
func (f *filler) begin(name string, most int) (isBegun bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	files, err := f.spool.Files() // what came by now is among them unless it was taken
	if err != nil {
		return false, err
	}
	there := make(map[string]ahead.File)
	for _, file := range files {
		there[file.Name] = file
	}
	for i, n := range slices.Backward(f.ahead) {
		if _, isThere := there[n]; isThere || !f.put[n] {
			continue
		}
		for _, gone := range f.ahead[:i+1] {
			delete(f.put, gone)
			if file, isThere := there[gone]; isThere {
				err = errors.Join(err, f.spool.Remove(file))
			}
		}
		f.ahead = f.ahead[i+1:]
		break
	}
	if err != nil || len(f.ahead) >= most {
		return false, err
	}
	f.ahead = append(f.ahead, name)
	return true, nil
}

// came notes that a segment came, or did not.
func (f *filler) came(name string, isThere bool) error {
	f.mu.Lock()
	f.put[name], f.gotAny = isThere, f.gotAny || isThere
	if !isThere {
		f.ahead = slices.DeleteFunc(f.ahead, func(n string) bool { return n == name })
	}
	f.mu.Unlock()
	return f.tell()
}

// tell tells others which segments are on their way.
func (f *filler) tell() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	coming := slices.DeleteFunc(slices.Clone(f.ahead), func(name string) bool { return f.put[name] })
	if len(coming) == 0 {
		return f.turn.Tell("", "")
	}
	return f.turn.Tell(coming[0], coming[len(coming)-1])
}

// before finds out what is known before a segment.
func (f *filler) before(ctx context.Context, name string, to chan<- spot) error {
	if f.o.Unchecked {
		to <- spot{}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, aheadTime)
	defer cancel()
	facts, err := f.cluster.Before(ctx, name, f.size)
	to <- spot{facts, err != nil}
	return err
}

// get gets a segment, and puts it into the spool once it is known that recovery comes to it. It returns whether it is there.
func (f *filler) get(ctx context.Context, name string, from <-chan spot, to chan<- spot) (isThere bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, aheadTime)
	defer cancel()
	file, draft, err := f.draft(ctx, name)
	before := <-from
	if err == nil && !before.isEnd && !f.o.Unchecked {
		err = f.cluster.CheckOrder(ctx, before.facts, file.Facts)
	}
	if err == nil && !before.isEnd {
		err = draft.Keep()
		isThere = err == nil
	} else if draft != nil {
		err = errors.Join(err, draft.Drop())
	}
	now := spot{isEnd: !isThere}
	if file != nil {
		now.facts = &file.Facts
	}
	to <- now
	return isThere, err
}

// draft writes a segment beside what is in the spool.
func (f *filler) draft(ctx context.Context, name string) (*repo.LogFile, *ahead.Draft, error) {
	file, err := f.cluster.OpenLog(ctx, name, f.size)
	if err != nil {
		return nil, nil, err
	}
	draft, err := f.spool.Draft(name)
	if err != nil {
		return file, nil, err
	}
	if err := file.CopyTo(ctx, draft); err != nil {
		return file, nil, errors.Join(err, draft.Drop())
	}
	return file, draft, nil
}
