package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"basin/internal/repo"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// each returns the repositories that are meant where there may be several, as options that name one each, and how many
// of them are to have what is written: the one that is named, or else all of the cluster's.
func (o repositoryOptions) each() (all []repositoryOptions, need int, err error) {
	if cmp.Or(o.Location, os.Getenv("BASIN_REPOSITORY")) != "" {
		return []repositoryOptions{o}, 1, nil
	}
	p, err := o.place()
	if err != nil {
		return nil, 0, err
	}
	if len(p.Repositories) < 2 {
		return []repositoryOptions{o}, 1, nil
	}
	for _, s := range p.settings() {
		said := "--" + s.name
		if _, ok := o.Settings[s.name]; !ok {
			said = s.variable()
			if _, ok = os.LookupEnv(said); !ok {
				continue
			}
		}
		return nil, 0, usererr.Hinted("Put it into the configuration, or name one of them with --repository.",
			"cluster %s has several repositories, and it is not said of which %s is", p.Cluster, said)
	}
	for _, name := range p.Repositories {
		one := o
		one.Location = name
		all = append(all, one)
	}
	need, err = p.needed()
	return all, need, err
}

// needed returns in how many of its repositories something of the cluster is to be before it counts as kept.
func (s clusterSettings) needed() (int, error) {
	n := len(s.Repositories)
	switch v := s.Success.(type) {
	case nil:
		return n, nil
	case string:
		switch v {
		case "all":
			return n, nil
		case "any":
			return min(n, 1), nil
		}
	case int64:
		if v >= 1 && v <= int64(n) {
			return int(v), nil
		}
	}
	return 0, usererr.Hinted("It is \"all\", which it is without it, \"any\", or how many of the repositories are to have something before it counts as kept.",
		"success must not be %v with %s", s.Success, counted(n, "repository"))
}

const (
	// lateTime is how long is waited for the other repositories once as many have what was written as are to.
	lateTime = 10 * time.Second
	// nextTime is how long one repository has to answer before the next is asked, too.
	nextTime = 2 * time.Second
)

// outcome is what became of something in a repository.
type outcome struct {
	repository string
	err        error
}

// errLate is a repository that is not waited for any more.
var errLate = fmt.Errorf("it had not answered %v after the others", lateTime)

// doInAll does something in all repositories at once. Once it is done in as many as needed, the others are waited for
// a little while only.
func doInAll(ctx context.Context, all []repositoryOptions, need int, do func(ctx context.Context, one repositoryOptions) error) []outcome {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		number int
		err    error
	}
	results := make(chan result, len(all))
	outcomes := make([]outcome, len(all))
	for i, one := range all {
		outcomes[i] = outcome{one.Location, errLate}
		go func() { results <- result{i, do(ctx, one)} }()
	}
	var late <-chan time.Time
	for succeeded, ended := 0, 0; ended < len(all); {
		select {
		case r := <-results:
			ended++
			outcomes[r.number].err = r.err
			if r.err != nil {
				continue
			}
			if succeeded++; succeeded == need {
				late = time.After(lateTime)
			}
		case <-late:
			return outcomes
		case <-ctx.Done():
			for i := range outcomes {
				if errors.Is(outcomes[i].err, errLate) {
					outcomes[i].err = context.Cause(ctx)
				}
			}
			return outcomes
		}
	}
	return outcomes
}

// settle says whether something is in as many repositories as needed. Those that it is not in are told. That a file of
// the log is there with another content is an error whatever is needed.
func settle(r *report, need int, outcomes []outcome) error {
	var failed []error
	conflict := false
	for _, o := range outcomes {
		if o.err != nil {
			err := o.err
			if len(outcomes) > 1 {
				err = fmt.Errorf("repository %s: %w", o.repository, err)
			}
			failed = append(failed, err)
			conflict = conflict || errors.As(err, new(*repo.OtherLogError))
		}
	}
	there := len(outcomes) - len(failed)
	switch {
	case there < need && len(outcomes) > 1:
		return fmt.Errorf("it is in %d of %d repositories, and is to be in %d: %w", there, len(outcomes), need, errors.Join(failed...))
	case there < need || conflict:
		return errors.Join(failed...)
	}
	for _, err := range failed {
		r.warn(err)
	}
	return nil
}

// inEach does something in the repositories that are meant, one after the other. Of one it is as if there were no others.
func inEach(ctx context.Context, r *report, o repositoryOptions, do func(one repositoryOptions) error) error {
	all, need, err := o.each()
	if err != nil {
		return err
	}
	if len(all) == 1 {
		return do(all[0])
	}
	var outcomes []outcome
	for _, one := range all {
		err := do(one)
		if ctx.Err() != nil {
			return err
		}
		outcomes = append(outcomes, outcome{one.Location, err})
	}
	return settle(r, need, outcomes)
}

// openToRead opens the part of a repository that is of a cluster, and is read. Of several repositories one may have nothing
// of it yet, which is an error that wraps fs.ErrNotExist; no other does.
func openToRead(ctx context.Context, one repositoryOptions, isOfSeveral bool) (*repo.Cluster, error) {
	_, c, err := openCluster(ctx, one)
	return c, ofSeveral(err, isOfSeveral)
}

// ofSeveral returns an error that wraps fs.ErrNotExist if one of several repositories has nothing of a cluster yet, and
// of any other makes one that does not.
func ofSeveral(err error, isOfSeveral bool) error {
	if isOfSeveral && errors.Is(err, errNoCluster) {
		return fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return hideAbsence(err)
}

// askEach asks repositories for something, each if the ones before have not got it, or do not answer for a while. That
// it is in none is an error that wraps fs.ErrNotExist, and only known if all have said so. If none knows the cluster that is
// an error of another kind.
func askEach[T any](ctx context.Context, r *report, all []repositoryOptions, ask func(ctx context.Context, one repositoryOptions) (T, error)) (T, error) {
	if len(all) == 1 {
		return ask(ctx, all[0])
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		number int
		got    T
		err    error
	}
	answers := make(chan answer, len(all))
	asked := 0
	askNext := func() {
		if asked < len(all) {
			number := asked
			asked++
			go func() {
				got, err := ask(ctx, all[number])
				answers <- answer{number, got, err}
			}()
		}
	}
	askNext()
	var none T
	var absent, unknown []error
	knownTo := 0
	for len(absent)+len(unknown) < len(all) {
		next := time.NewTimer(nextTime)
		select {
		case a := <-answers:
			where := all[a.number].Location
			switch {
			case a.err == nil:
				for _, err := range unknown {
					r.warn(fmt.Errorf("%w; repository %s has it", err, where))
				}
				next.Stop()
				return a.got, nil
			case errors.Is(a.err, fs.ErrNotExist):
				absent = append(absent, fmt.Errorf("repository %s: %w", where, a.err))
				if !errors.Is(a.err, errNoCluster) {
					knownTo++
				}
			default:
				unknown = append(unknown, fmt.Errorf("repository %s: %w", where, a.err))
			}
			askNext()
		case <-next.C:
			askNext()
		case <-ctx.Done():
			next.Stop()
			return none, context.Cause(ctx)
		}
		next.Stop()
	}
	switch {
	case len(unknown) > 0:
		return none, errors.Join(unknown...)
	case knownTo == 0:
		return none, hideAbsence(errors.Join(absent...))
	}
	return none, errors.Join(absent...)
}

// furthest returns options that name, of the repositories that are meant that have the cluster and can be read, the one whose log leads
// furthest, and of equal ones the first. All are asked at once, and once one has answered the others are waited for a little while only.
// Those that cannot be read, and that it is not the first, are told.
func furthest(ctx context.Context, r *report, o repositoryOptions) (best repositoryOptions, cluster *repo.Cluster, err error) {
	all, _, err := o.each()
	if err != nil {
		return o, nil, err
	}
	if len(all) == 1 {
		_, cluster, err = openCluster(ctx, o)
		return o, cluster, err
	}
	var mu sync.Mutex
	leads := make(map[string]wal.Position) // by location
	outcomes := doInAll(ctx, all, 1, func(ctx context.Context, one repositoryOptions) error {
		_, c, err := openCluster(ctx, one)
		if err != nil {
			return err
		}
		at, err := leadsTo(ctx, c)
		mu.Lock()
		defer mu.Unlock()
		leads[one.Location] = at
		return err
	})
	if ctx.Err() != nil {
		return o, nil, context.Cause(ctx)
	}
	var failed []error
	chosen, first := -1, ""
	mu.Lock()
	defer mu.Unlock()
	for i, outcome := range outcomes {
		if outcome.err != nil {
			failed = append(failed, fmt.Errorf("repository %s: %w", outcome.repository, outcome.err))
			continue
		}
		first = cmp.Or(first, outcome.repository)
		at := leads[outcome.repository]
		if chosen < 0 || cmp.Or(cmp.Compare(at.Timeline, leads[all[chosen].Location].Timeline), cmp.Compare(at.LSN, leads[all[chosen].Location].LSN)) > 0 {
			chosen = i
		}
	}
	if chosen < 0 {
		return o, nil, errors.Join(failed...)
	}
	best = all[chosen]
	for _, err := range failed {
		r.warn(fmt.Errorf("%w; repository %s is read", err, best.Location))
	}
	if best.Location != first {
		r.info("repository %s is read: its log leads further than that of %s", best.Location, first)
	}
	_, cluster, err = openCluster(ctx, best) // again, as what asked all of them has ended
	return best, cluster, err
}

// leadsTo returns where the log ends that follows from the newest backup of a cluster; nothing if there is no such backup, or not the log
// that it needs.
func leadsTo(ctx context.Context, c *repo.Cluster) (at wal.Position, err error) {
	if _, err := c.Places(ctx); err != nil {
		return at, err
	}
	newest, err := c.Newest(ctx)
	if err != nil || newest.Backup == nil {
		return at, err
	}
	timeline, err := c.NewestTimeline(ctx, *newest.Backup)
	if err != nil {
		return at, err
	}
	reach, err := c.Reach(ctx, *newest.Backup, timeline)
	if errors.Is(err, repo.ErrUnreachable) {
		return at, nil
	}
	return wal.Position{LSN: reach.End, Timeline: reach.Timeline}, err
}
