package waldir

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"basin/internal/localfs"
	"basin/internal/wal"
)

// Commit is one transaction that was committed.
type Commit struct {
	LSN  wal.LSN   // of its record
	XID  uint32    // of the transaction
	Time time.Time // by the server's clock
}

// firstCommits is how many of the first commits are remembered one by one.
const firstCommits = 20

// Commits is a number of commits in the order of the log.
type Commits struct {
	Count int
	First []Commit // 20 of them at most
	Last  Commit   // the zero value if there are none
}

func (c *Commits) add(commit Commit) {
	c.Count++
	c.Last = commit
	if len(c.First) < firstCommits {
		c.First = append(c.First, commit)
	}
}

// Apart is what there is of a timeline past the position where it was left.
type Apart struct {
	Directory string   // path of where it is now; empty if nothing is in one
	Moved     []string // names of the files that were moved there, those of interrupted calls too
	Commits   Commits  // that are in the log past the position
	List      string   // path of a text file with all of them; empty if there are none
}

// SetApart moves away the segments of a timeline that hold log at or past the
// position where another timeline left it: log that the servers do not have any more,
// as they go on with a standby that had not received it. The directory for it is in
// this one and is called diverged, with timeline and position. A partial segment
// stays if its beginning is before the position, and so of both.
//
// What was committed in that log is lost to the servers, so it is listed, in a file
// there called COMMITS too. No segment may be open. Nothing is overwritten; after a
// crash a second call does the rest.
func (d *Directory) SetApart(timeline wal.Timeline, fork wal.LSN) (Apart, error) {
	switch {
	case d.closed:
		return Apart{}, fs.ErrClosed
	case d.open != nil:
		return Apart{}, fmt.Errorf("segment %s is not finished", d.open.name)
	}
	d.jobs.hold()
	defer d.jobs.release()
	a := &apart{
		dir:      d,
		timeline: timeline,
		fork:     fork,
		name:     fmt.Sprintf("diverged-%08X-%s", uint32(timeline), strings.Replace(fork.String(), "/", "-", 1)),
	}
	if err := a.find(); err != nil {
		return Apart{}, err
	}
	if err := a.list(); err != nil {
		return Apart{}, err
	}
	if err := a.move(); err != nil {
		return Apart{}, err
	}
	if a.made {
		a.result.Directory = d.path(a.name)
	}
	return a.result, nil
}

// apart is one call of SetApart.
type apart struct {
	dir      *Directory
	timeline wal.Timeline
	fork     wal.LSN
	name     string // of the directory
	made     bool   // it is there

	here, there []entry // past the fork, in the one directory and in the other
	result      Apart
}

// find finds what is past the fork, and what was moved before.
func (a *apart) find() error {
	entries, err := a.dir.list(".")
	if err != nil {
		return err
	}
	size := a.dir.o.SegmentSize
	a.here = slices.DeleteFunc(entries, func(e entry) bool {
		return e.segment.Timeline != a.timeline || e.segment.Start(size)+wal.LSN(size) <= a.fork
	})
	info, err := a.dir.disk.stat(a.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return inTheWay("move it away: the log that is set apart is to be in a directory of that name", `"%s" is not a directory`, a.dir.path(a.name))
	}
	a.made = true
	a.there, err = a.dir.list(a.name)
	return err
}

// make makes the directory, if it is not there.
func (a *apart) make() error {
	if a.made {
		return nil
	}
	if err := a.dir.disk.mkdir(a.name); err != nil {
		return err
	}
	a.made = true
	return a.dir.syncNames()
}

// in returns the name that a file has in the directory.
func (a *apart) in(name string) string { return filepath.Join(a.name, name) }

// sync makes the names in the directory durable.
func (a *apart) sync() error {
	if a.dir.o.NoSync {
		return nil
	}
	return a.dir.disk.sync(a.name)
}

// stays says whether a file is not moved.
func (a *apart) stays(e entry) bool {
	own := wal.SegmentAt(wal.Position{LSN: a.fork, Timeline: a.timeline}, a.dir.o.SegmentSize)
	return e.partial && e.segment == own && own.Start(a.dir.o.SegmentSize) < a.fork
}

// move moves the files. Each has its new name for good before it loses the old one.
func (a *apart) move() error {
	d := a.dir
	var moved []string
	for _, e := range a.here {
		if a.stays(e) {
			continue
		}
		if err := a.make(); err != nil {
			return err
		}
		err := d.linkNew(e.name, a.in(e.name))
		if errors.Is(err, fs.ErrExist) {
			err = a.checkMoved(e)
		}
		if err != nil {
			return err
		}
		moved = append(moved, e.name)
	}
	if len(moved) > 0 {
		if err := a.sync(); err != nil {
			return err
		}
		for _, name := range moved {
			if err := d.removeStale(name); err != nil {
				return err
			}
			delete(d.left, name)
		}
		d.jobs.drop(moved)
		if err := d.syncNames(); err != nil {
			return err
		}
	}
	for _, e := range a.there {
		moved = append(moved, filepath.Base(e.name))
	}
	slices.Sort(moved)
	a.result.Moved = slices.Compact(moved)
	return nil
}

// checkMoved returns an error if the file of that name in the other directory is
// not the same.
func (a *apart) checkMoved(e entry) error {
	other := e
	other.name = a.in(e.name)
	same, err := a.dir.same(e, other)
	if err == nil && !same {
		err = inTheWay("keep the one that is of the server that was left, and move the other away",
			`"%s" and "%s" are not the same`, a.dir.path(e.name), a.dir.path(other.name))
	}
	return err
}

// list finds the commits past the fork and writes them to a file.
func (a *apart) list() error {
	l := &commitList{apart: a}
	err := a.eachCommit(l.add)
	if err := errors.Join(err, l.close()); err != nil {
		return err
	}
	a.result.Commits = l.commits
	return nil
}

// eachCommit calls a function for each commit past the fork. A segment that is
// missing or damaged is passed over.
func (a *apart) eachCommit(f func(Commit) error) error {
	d := a.dir
	sources := a.sources()
	for len(sources) > 0 {
		// As many as there are without a gap.
		n := 1
		for n < len(sources) && sources[n].segment.Number == sources[n-1].segment.Number+1 {
			n++
		}
		start := sources[0].segment.Start(d.o.SegmentSize)
		r := &sequence{dir: d, files: slices.Clone(sources[:n])}
		m := &measured{r: r}
		end, err := lastRecord(m, start, d.o.SegmentSize, func(record wal.Record) error {
			commit, ok := record.Commit()
			if !ok || record.LSN < a.fork {
				return nil
			}
			return f(Commit{LSN: record.LSN, XID: commit.XID, Time: commit.Time})
		})
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		if m.damage != nil && !errors.Is(m.damage, io.ErrUnexpectedEOF) {
			d.warn(fmt.Errorf("write-ahead log of timeline %d after %s could not be read for commits: %w", a.timeline, end, m.damage))
		}
		// What follows damage begins with the next segment.
		damaged := wal.SegmentAt(wal.Position{LSN: end, Timeline: a.timeline}, d.o.SegmentSize)
		sources = slices.DeleteFunc(sources, func(e entry) bool { return e.segment.Number <= damaged.Number })
	}
	return nil
}

// sources returns the files to read, one of each segment: a complete one if there is one.
func (a *apart) sources() []entry {
	all := slices.Concat(a.here, a.there)
	slices.SortStableFunc(all, func(x, y entry) int {
		if x.segment.Number != y.segment.Number {
			return int(x.segment.Number) - int(y.segment.Number)
		}
		if x.partial != y.partial {
			if y.partial {
				return -1
			}
			return 1
		}
		return 0
	})
	return slices.CompactFunc(all, func(x, y entry) bool { return x.segment == y.segment })
}

// commitList writes commits to a file, which it makes for the first of them.
type commitList struct {
	apart   *apart
	commits Commits
	f       file
	w       *bufio.Writer
}

// listName is what the file is called.
const listName = "COMMITS"

func (l *commitList) add(c Commit) error {
	if l.f == nil {
		if err := l.begin(); err != nil {
			return err
		}
	}
	l.commits.add(c)
	_, err := fmt.Fprintf(l.w, "%s\t%d\t%s\n", c.LSN, c.XID, c.Time.UTC().Format("2006-01-02 15:04:05.000000"))
	return err
}

func (l *commitList) begin() error {
	a := l.apart
	if err := a.make(); err != nil {
		return err
	}
	temporary := a.in(localfs.Temporary(listName))
	if err := a.dir.removeStale(temporary); err != nil {
		return err
	}
	f, err := a.dir.disk.create(temporary)
	if err != nil {
		return err
	}
	l.f, l.w = f, bufio.NewWriter(io.NewOffsetWriter(f, 0))
	_, err = fmt.Fprintf(l.w, "Transactions that were committed on timeline %d at or after %s, where the servers have left it.\n"+
		"Only the log here has them.\n\nLSN\tXID\ttime (UTC)\n", a.timeline, a.fork)
	return err
}

// close makes the file durable and gives it its name. One that is there keeps it.
func (l *commitList) close() error {
	if l.f == nil {
		return nil
	}
	a := l.apart
	err := l.w.Flush()
	if err == nil {
		err = a.dir.syncFile(l.f)
	}
	if err := errors.Join(err, l.f.Close()); err != nil {
		return err
	}
	temporary := a.in(localfs.Temporary(listName))
	for n := 1; ; n++ {
		name := a.in(listName)
		if n > 1 {
			name = fmt.Sprintf("%s.%d", name, n)
		}
		a.result.List = a.dir.path(name)
		err := a.dir.linkNew(temporary, name)
		if errors.Is(err, fs.ErrExist) {
			same, err := a.dir.same(entry{name: temporary}, entry{name: name})
			if err != nil {
				return err
			}
			if !same {
				continue
			}
		} else if err != nil {
			return err
		}
		if err := a.sync(); err != nil {
			return err
		}
		return a.dir.removeStale(temporary)
	}
}
