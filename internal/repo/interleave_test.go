package repo

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"

	"basin/internal/backup"
	"basin/internal/object"
)

// actor is a process that works on a repository beside others.
type actor struct {
	name string
	do   func(ctx context.Context, c *Cluster) error
	// lead, if not nil, says of a call whether the others begin before it: what it does up to there comes first.
	lead func(method, name string) bool
}

// interleaving runs actors on copies of a store, one call of the store after the other, in every order that
// makes a difference.
//
// One run follows a schedule: it says whose call is the next one. Where a schedule ends the actor goes on that was at
// work, and all others that could have been chosen are noted as schedules to be run. A state is what is in the store, and what each
// actor has seen so far. Where one was before, from there on everything was tried, so the run is broken off.
//
// A call that no other actor's call ever collides with is made at once, and nothing is tried around it: the order of two calls makes
// no difference unless one of them writes what the other reads or writes. Which calls collide is learnt from the runs. When
// one is met that was taken for one that does not, all begins again.
//
// What an actor has learnt from names that are drawn by lot, it is to have learnt whatever they are: they are known by who made
// them, and when. The calls that one actor makes side by side are made in the order of those. A list is seen
// as it is at one moment.
type interleaving struct {
	base   *object.Memory
	actors func() []actor
	open   func(store object.Store) (*Cluster, error)
	// together, if not nil, says of a call that it is made at once too, although others may collide with it: what is
	// tried around it is tried elsewhere.
	together func(c call) bool
	// switches, if not zero, is how often an actor stops at most that could go on.
	switches int
	// check is called when all have ended, with what they said.
	check func(t *testing.T, store *object.Memory, ended []error) error

	seed      maphash.Seed
	seen      map[uint64]bool
	schedules []schedule
	runs      int // that came to an end
	begun     int
	rounds    int

	calls   map[call]bool // that were ever made; true of those that collide with another actor's
	hurried map[call]bool // that were made at once in this round
	again   bool          // one of these does collide
}

// call is a call of an actor.
type call struct {
	actor        int
	method, name string
}

// absent is the name of commits that are not there yet, by whatever name.
const absent = "/backups/absent/commit"

// collides says whether the order of two calls may make a difference.
func (c call) collides(other call) bool {
	reads := func(c call) bool { return c.method == object.CallGet || c.method == object.CallList }
	switch {
	case c.actor == other.actor || reads(c) && reads(other):
		return false
	case c.method == object.CallList:
		return strings.HasPrefix(other.name, c.name)
	case other.method == object.CallList:
		return strings.HasPrefix(c.name, other.name)
	}
	makes := func(c call) bool { return c.method == object.CallCreate && strings.HasSuffix(c.name, "/commit") }
	// One that is not there yet may be any that is made.
	return c.name == other.name || makes(c) && (makes(other) || other.name == absent) || makes(other) && c.name == absent
}

// isAlone says whether a call has collided with none so far, and remembers it.
func (x *interleaving) isAlone(c call) bool {
	if x.together != nil && x.together(c) {
		return true
	}
	collides, known := x.calls[c]
	if !known {
		for other := range x.calls {
			if c.collides(other) {
				x.calls[other], collides = true, true
				x.again = x.again || x.hurried[other]
			}
		}
		x.calls[c] = collides
	}
	if !collides {
		x.hurried[c] = true
	}
	return !collides
}

// all runs all schedules. It returns the first error, and what was done until then.
func (x *interleaving) all(t *testing.T) error {
	x.seed, x.calls = maphash.MakeSeed(), make(map[call]bool)
	for x.again = true; x.again; {
		x.again, x.rounds = false, x.rounds+1
		x.seen, x.hurried, x.schedules = make(map[uint64]bool), make(map[call]bool), []schedule{{}}
		for len(x.schedules) > 0 && !x.again {
			last := len(x.schedules) - 1
			next := x.schedules[last]
			x.schedules = x.schedules[:last]
			var err error
			synctest.Test(t, func(t *testing.T) { err = x.run(t, next) })
			if err != nil || t.Failed() {
				return err
			}
		}
	}
	return nil
}

// schedule says which actors make the next calls, and how often one has to stop for that.
type schedule struct {
	actors   []int
	switches int
}

// then returns the schedule that goes on with an actor, be it that another has to stop or not.
func (s schedule) then(actor, stops int) schedule {
	return schedule{append(slices.Clone(s.actors), actor), s.switches + stops}
}

// run follows a schedule, and goes on to the end.
func (x *interleaving) run(t *testing.T, schedule schedule) error {
	x.begun++
	cryptotest.SetGlobalRandom(t, 1) // the same schedule is the same run
	turns := &turns{store: x.base.Clone(), names: make(map[string]string)}
	actors := x.actors()
	ended := make([]error, len(actors))
	turns.learnt = make([]maphash.Hash, len(actors))
	for i := range actors {
		turns.learnt[i].SetSeed(x.seed)
		turns.made = append(turns.made, 0)
	}
	for i, a := range actors {
		go func() {
			c, err := x.open(&turnStore{turns, i})
			if err == nil {
				err = a.do(t.Context(), c)
			}
			ended[i] = err
		}()
		synctest.Wait()
		for p := turns.next(i); a.lead != nil && p != nil && !a.lead(p.method, p.name); p = turns.next(i) {
			turns.pass(p)
		}
	}
	var made []string
	at := -1
	for n := 0; ; {
		able := turns.able(len(actors))
		if len(able) == 0 {
			break
		}
		alone := slices.IndexFunc(able, func(actor int) bool { return x.isAlone(turns.next(actor).call(turns)) })
		switch {
		case x.again:
			turns.abandon()
			return nil
		case alone >= 0:
			p := turns.next(able[alone])
			made = append(made, fmt.Sprintf("%-8s %-6s %s", actors[able[alone]].name, p.method, turns.known(p.name)))
			turns.pass(p)
			continue
		case n < len(schedule.actors):
			at = schedule.actors[n]
		default:
			state := turns.state(x.seed)
			if x.switches > 0 { // it matters how many are left
				state = turns.state(x.seed, schedule.switches, at)
			}
			if x.seen[state] {
				turns.abandon()
				return nil
			}
			x.seen[state] = true
			stops := 1
			if !slices.Contains(able, at) {
				at, stops = able[0], 0
			}
			for _, other := range able {
				if other != at && (x.switches == 0 || schedule.switches+stops <= x.switches) {
					x.schedules = append(x.schedules, schedule.then(other, stops))
				}
			}
			schedule = schedule.then(at, 0)
		}
		n++
		p := turns.next(at)
		if p == nil {
			turns.abandon()
			return fmt.Errorf("the same schedule went otherwise the second time, after\n%s", strings.Join(made, "\n"))
		}
		made = append(made, fmt.Sprintf("%-8s %-6s %s", actors[at].name, p.method, turns.known(p.name)))
		turns.pass(p)
	}
	x.runs++
	if err := x.check(t, turns.store, ended); err != nil {
		return fmt.Errorf("%w\nthey ended with %v, after\n%s", err, ended, strings.Join(made, "\n"))
	}
	return nil
}

// turns has actors wait for their turn at a store.
type turns struct {
	store *object.Memory

	mu      sync.Mutex
	waiting []*turn
	names   map[string]string // of objects that were made, in words that are the same in every run
	made    []int             // objects, by actor
	learnt  []maphash.Hash    // by each actor
	over    bool              // nothing is done any more
}

// turn is a call that waits.
type turn struct {
	actor        int
	method, name string
	pass         chan struct{}
}

// errAbandoned is what calls return when a run is broken off.
var errAbandoned = errors.New("the run is broken off")

// take makes a call when it is its turn. do returns what the actor learns.
func (s *turns) take(actor int, method, name string, do func() (learnt string, err error)) error {
	p := &turn{actor, method, name, make(chan struct{})}
	s.mu.Lock()
	s.waiting = append(s.waiting, p)
	s.mu.Unlock()
	<-p.pass
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errAbandoned
	}
	learnt, err := do()
	if method == object.CallCreate && err == nil {
		s.names[name] = s.newName(actor, name)
		s.made[actor]++
	}
	fmt.Fprintf(&s.learnt[actor], "%s %s %s %t\n", method, s.known(name), learnt, err == nil)
	return err
}

// known returns a name that is the same in every run. It is called with mu held, or when all wait.
func (s *turns) known(name string) string {
	if known, ok := s.names[name]; ok {
		return known
	}
	return name
}

// newName returns what an object is known by that an actor makes next.
func (s *turns) newName(actor int, name string) string {
	if folder, isCommit := strings.CutSuffix(name, "/commit"); isCommit {
		return fmt.Sprintf("%s/%d-%d/commit", path.Dir(folder), actor, s.made[actor])
	}
	return fmt.Sprintf("%s/%d-%d", path.Dir(name), actor, s.made[actor])
}

// call returns the call that waits, by names that are the same in every run.
func (p *turn) call(s *turns) call {
	if p.method == object.CallCreate {
		return call{p.actor, p.method, s.newName(p.actor, p.name)}
	}
	if _, err := s.store.Get(context.Background(), p.name, 0, 0); err != nil && strings.HasSuffix(p.name, "/commit") && s.names[p.name] == "" {
		return call{p.actor, p.method, absent}
	}
	return call{p.actor, p.method, s.known(p.name)}
}

// able returns the actors that wait for their turn.
func (s *turns) able(actors int) (able []int) {
	for i := range actors {
		if s.next(i) != nil {
			able = append(able, i)
		}
	}
	return able
}

// next returns the call that an actor makes next, nil if it has ended.
func (s *turns) next(actor int) *turn {
	var first *turn
	for _, p := range s.waiting {
		if p.actor == actor && (first == nil || p.method+s.known(p.name) < first.method+s.known(first.name)) {
			first = p
		}
	}
	return first
}

// pass has a call be made, and waits until all wait again.
func (s *turns) pass(p *turn) {
	s.waiting = slices.DeleteFunc(s.waiting, func(other *turn) bool { return other == p })
	close(p.pass)
	synctest.Wait()
}

// abandon lets all end.
func (s *turns) abandon() {
	s.over = true
	for len(s.waiting) > 0 {
		s.pass(s.waiting[0])
	}
}

// state returns a number for what is in the store and what was learnt, and for other numbers that count.
func (s *turns) state(seed maphash.Seed, numbers ...int) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	var there []string
	for info := range s.store.List(context.Background(), "", "") {
		there = append(there, s.known(info.Name))
	}
	slices.Sort(there)
	fmt.Fprintln(&h, there, numbers)
	for i := range s.learnt {
		fmt.Fprintln(&h, s.learnt[i].Sum64())
	}
	return h.Sum64()
}

// turnStore is the store as an actor has it.
type turnStore struct {
	turns *turns
	actor int
}

func (s *turnStore) Create(ctx context.Context, name string, data []byte) error {
	return s.turns.take(s.actor, object.CallCreate, name, func() (string, error) { return "", s.turns.store.Create(ctx, name, data) })
}

func (s *turnStore) Delete(ctx context.Context, name string) error {
	return s.turns.take(s.actor, object.CallDelete, name, func() (string, error) { return "", s.turns.store.Delete(ctx, name) })
}

func (s *turnStore) Get(ctx context.Context, name string, off, n int64) (data []byte, err error) {
	if name == infoName { // which never changes
		return s.turns.store.Get(ctx, name, off, n)
	}
	err = s.turns.take(s.actor, object.CallGet, name, func() (string, error) {
		data, err = s.turns.store.Get(ctx, name, off, n)
		return "", err
	})
	return data, err
}

func (s *turnStore) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		var infos []object.Info
		err := s.turns.take(s.actor, object.CallList, prefix, func() (string, error) {
			var names []string
			for info, err := range s.turns.store.List(ctx, prefix, after) {
				if err != nil {
					return "", err
				}
				infos, names = append(infos, info), append(names, s.turns.known(info.Name))
			}
			slices.Sort(names)
			return strings.Join(names, " "), nil
		})
		if err != nil {
			yield(object.Info{}, err)
			return
		}
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// isWhole returns an error if a backup that is listed cannot be restored, or is another tree.
func isWhole(ctx context.Context, c *Cluster, commit Commit, want tree) error {
	src := c.NewSource(commit, SourceOptions{})
	defer src.Close()
	if _, err := src.Begin(ctx); err != nil {
		return fmt.Errorf("backup %s: %w", commit.ID, err)
	}
	files := 0
	for {
		m, r, err := src.Next(ctx)
		switch {
		case errors.Is(err, io.EOF) && files == len(want):
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("backup %s has %d files, want %d", commit.ID, files, len(want))
		case err != nil:
			return fmt.Errorf("backup %s: %w", commit.ID, err)
		case r == nil:
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("backup %s: %q: %w", commit.ID, m.Path, err)
		}
		if k := (key{m.Tablespace, m.Path}); m.Kind == backup.File {
			files++
			if expected, ok := want[k]; !ok || string(expected) != string(content) {
				return fmt.Errorf("backup %s: %q has other bytes", commit.ID, m.Path)
			}
		}
	}
}

// sizesOf words what was tried.
func (x *interleaving) sizesOf() string {
	return fmt.Sprintf("%d states in the last of %d rounds, %d schedules begun, %d to their end", len(x.seen), x.rounds, x.begun, x.runs)
}
