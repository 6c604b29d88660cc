package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// VerifyOptions say how much of what is in a repository is read back. The zero value has all be read.
type VerifyOptions struct {
	// Sample is the share of packs, and of files of the log, that are read, those that were not for the longest time
	// before others. That they are there is seen of all. Zero is 1.
	Sample  float64
	Backups []string  // whose objects are read; none is all backups, and the log
	Workers int       // that read packs, of 32 MiB each; zero is one for each processor
	Now     time.Time // zero is now

	Progress *VerifyProgress // may be nil
}

// VerifyProgress counts what was read so far. It may be read at any time from any goroutine.
type VerifyProgress struct {
	Parts atomic.Int64 // of index, which are read first
	Done  atomic.Int64 // bytes of packs
	Total atomic.Int64 // bytes of the packs that are read; zero as long as it is not known which these are
	Log   atomic.Int64 // files, which are read last
}

// maxFiles is how many files are named of each damage.
const maxFiles = 20

// Damage is an object that is missing, or is not what was written.
type Damage struct {
	Object  string // its name in the repository
	Err     error
	Backups []string // that need it
	Files   []string // of those, paths of some that need it
	Ranges  []string // of those, for people, from which file to which one nothing is known, if it is a part of the index
	More    int      // files and ranges that need it too and are not named; each counts for each backup
}

// VerifyReport says what was read.
type VerifyReport struct {
	Backups int
	Parts   int
	Packs   int
	Log     int   // files
	Bytes   int64 // of packs
	Damages int

	// IsComplete is that all was read that was to be: an error is then that it could not be noted.
	IsComplete bool
}

// Verify reads back what is in the repository, and reports each damage once all is known. Of packs, every frame is opened,
// and each block compared with the digest that it had when it was read from the cluster, which is compared with
// that in the index of each backup. The log is opened, and is to have no gap where a backup needs
// it. What lies in a pack that is damaged or missing is stored anew by the next backup. The error says why it could not go on, and is nil if there is only damage.
func (c *Cluster) Verify(ctx context.Context, o VerifyOptions, report func(Damage)) (VerifyReport, error) {
	v := newVerifier(c, o)
	if !c.repo.CanRead() {
		return v.report, errNoKey
	}
	for _, step := range []func(context.Context) error{v.keys, v.commitsOf, v.partsOf, v.packsOf, v.indexes, v.log, v.rest} {
		err := step(ctx)
		if failed := v.store.failed(); failed != nil {
			return v.report, failed // which may be why something seems to be damaged
		}
		if err := cmp.Or(context.Cause(ctx), err); err != nil {
			return v.report, err
		}
	}
	if err := v.forgetRemoved(ctx); err != nil {
		return v.report, err
	}
	for _, name := range slices.Sorted(maps.Keys(v.damages)) {
		report(*v.damages[name])
	}
	v.report.Damages, v.report.IsComplete = len(v.damages), true
	err := v.avoidDamaged(ctx)
	if err == nil {
		err = v.remember(ctx)
	}
	if err != nil {
		err = fmt.Errorf("what was verified is not noted: %w", err)
	}
	return v.report, err
}

// verifier verifies a cluster's part of a repository.
type verifier struct {
	cluster *Cluster // which has read nothing before
	writer  *Cluster
	store   *watched
	o       VerifyOptions
	report  VerifyReport
	commits []Commit
	packs   map[PackID]*packState
	damages map[string]*Damage
	broken  map[string]bool // backups of which a part cannot be read

	mu       sync.Mutex
	verified map[PackID]int64 // when packs were, in seconds since 1970
	trailers map[PackID]*packContent
	order    []PackID          // of trailers
	recalled []string          // damages of former times
	heads    map[string]string // of these, as they were then
}

// packState is what is known of a pack that is there.
type packState struct {
	size    int64
	key     seal.KeyID // of digests
	used    bool       // by a backup, as a part says
	checked bool
	damaged bool
}

// newVerifier returns a verifier that has no cache: what was read once may be damaged now.
func newVerifier(c *Cluster, o VerifyOptions) *verifier {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	o.Workers = cmp.Or(o.Workers, runtime.GOMAXPROCS(0))
	if o.Sample <= 0 || o.Sample > 1 {
		o.Sample = 1
	}
	if o.Progress == nil {
		o.Progress = new(VerifyProgress)
	}
	v := &verifier{
		writer: c, store: &watched{Store: c.repo.store}, o: o,
		packs: make(map[PackID]*packState), damages: make(map[string]*Damage), broken: make(map[string]bool),
		trailers: make(map[PackID]*packContent),
	}
	r := &Repository{store: v.store, o: c.repo.o, info: c.repo.info, read: make(map[seal.KeyID]seal.Key)}
	if !r.info.Encrypted {
		r.read[seal.KeyID{}] = seal.Key{Secret: seal.Secret(r.info.Secret)}
	}
	v.cluster = &Cluster{repo: r, name: c.name}
	v.cluster.parts = partCache{cluster: v.cluster, most: c.parts.most}
	return v
}

// damage notes a damage, or what else it affects, which may be a file.
func (v *verifier) damage(name string, err error, backup, file string) {
	d := v.damaged(name, err, backup)
	d.affect(&d.Files, file)
}

// damaged notes a damage, or which backup it affects, and returns it.
func (v *verifier) damaged(name string, err error, backup string) *Damage {
	d, ok := v.damages[name]
	if !ok {
		d = &Damage{Object: name, Err: err}
		v.damages[name] = d
	}
	if backup != "" && !slices.Contains(d.Backups, backup) {
		d.Backups = append(d.Backups, backup)
	}
	return d
}

// affect notes in a list of the damage what else it affects, if that is anything.
func (d *Damage) affect(list *[]string, what string) {
	switch {
	case what == "" || slices.Contains(*list, what):
	case len(*list) < maxFiles:
		*list = append(*list, what)
	default:
		d.More++
	}
}

// keys opens the data keys.
func (v *verifier) keys(ctx context.Context) error {
	if !v.cluster.repo.info.Encrypted {
		return nil
	}
	for info, err := range v.store.List(ctx, "keys/data/", "") {
		if err != nil {
			return err
		}
		id, err := seal.ParseKeyID(strings.TrimPrefix(info.Name, "keys/data/"))
		if err == nil {
			_, err = v.cluster.repo.readKey(ctx, id)
		}
		if err != nil {
			v.damage(info.Name, err, "", "")
		}
	}
	return nil
}

// commitsOf reads the commits.
func (v *verifier) commitsOf(ctx context.Context) error {
	ids, err := v.cluster.backupIDs(ctx)
	if err != nil {
		return err
	}
	for _, id := range v.o.Backups {
		if !slices.Contains(ids, id) {
			return usererr.Hinted("basin list names those that are there.", "there is no backup %s", id)
		}
	}
	for _, id := range ids {
		if len(v.o.Backups) > 0 && !slices.Contains(v.o.Backups, id) {
			continue
		}
		commit, err := v.cluster.Backup(ctx, id)
		switch {
		case errors.Is(err, errTombstone):
		case err != nil:
			v.damage(v.cluster.commitName(id), err, id, "")
		default:
			v.commits = append(v.commits, commit)
		}
	}
	v.report.Backups = len(v.commits)
	return nil
}

// partsOf reads the parts of all indexes, each once, and learns of packs.
func (v *verifier) partsOf(ctx context.Context) error {
	sizes, err := v.cluster.sizes(ctx, "packs/")
	if err != nil {
		return err
	}
	for id, size := range sizes {
		v.packs[id] = &packState{size: size}
	}
	failed := make(map[ID]error)
	for i := range v.commits {
		commit := &v.commits[i]
		for _, level := range commit.levels() {
			for n, ref := range level {
				err, ok := failed[ref.ID]
				if !ok {
					err = v.part(ctx, commit, ref)
					failed[ref.ID] = err
					v.o.Progress.Parts.Add(1)
				}
				if err != nil {
					files := fmt.Sprintf("from %v on", ref.first())
					if n+1 < len(level) {
						files = fmt.Sprintf("from %v to %v", ref.first(), level[n+1].first())
					}
					d := v.damaged(v.cluster.partName(ref.ID), err, commit.ID)
					d.affect(&d.Ranges, files)
					v.broken[commit.ID] = true
				}
			}
		}
	}
	v.report.Parts = len(failed)
	return nil
}

// part reads a part.
func (v *verifier) part(ctx context.Context, commit *Commit, ref PartRef) error {
	p, err := v.cluster.parts.part(ctx, ref)
	if err != nil {
		return err
	}
	for i := range p.groups {
		if _, err := p.group(i); err != nil {
			return err
		}
	}
	for _, id := range p.packs {
		if s := v.packs[id]; s != nil {
			s.used, s.key = true, commit.DigestKey
		}
	}
	return nil
}

// packsOf reads the packs that are used, or a sample of those.
func (v *verifier) packsOf(ctx context.Context) error {
	if err := v.recall(ctx); err != nil {
		return err
	}
	var ids []PackID
	for id, s := range v.packs {
		if s.used {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b PackID) int {
		return cmp.Or(cmp.Compare(v.verified[a], v.verified[b]), a.compare(b))
	})
	ids = ids[:int(math.Ceil(v.o.Sample*float64(len(ids))))]
	total := int64(0)
	for _, id := range ids {
		total += v.packs[id].size
	}
	v.o.Progress.Total.Store(total)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(v.o.Workers)
	for _, id := range ids {
		group.Go(func() error {
			if err := cmp.Or(context.Cause(ctx), v.store.failed()); err != nil {
				return err
			}
			s := v.packs[id]
			err := v.cluster.checkPack(ctx, id, s.key)
			v.mu.Lock()
			defer v.mu.Unlock()
			v.report.Packs++
			v.report.Bytes += s.size
			v.o.Progress.Done.Add(s.size)
			if s.checked, s.damaged = true, err != nil; err != nil {
				v.damage(v.cluster.packName(id), err, "", "")
				delete(v.verified, id)
				return nil
			}
			v.verified[id] = v.o.Now.Unix()
			return nil
		})
	}
	return group.Wait()
}

// indexes goes over all indexes, and compares what they say with what packs say.
func (v *verifier) indexes(ctx context.Context) error {
	for i := range v.commits {
		commit := &v.commits[i]
		err := v.cluster.eachExtent(ctx, commit, func(k key, x extent) error {
			name := v.cluster.packName(x.at.pack)
			switch s := v.packs[x.at.pack]; {
			case s == nil:
				v.damage(name, fmt.Errorf("%s: %w", name, fs.ErrNotExist), commit.ID, k.whole())
			case s.damaged:
				v.damage(name, nil, commit.ID, k.whole())
			case s.checked:
				content, err := v.trailer(ctx, x.at.pack, s.size)
				if err == nil {
					err = content.compare(x)
				}
				if err != nil {
					v.damage(name, err, commit.ID, k.whole())
				}
			}
			return v.store.failed()
		})
		if err != nil && !v.broken[commit.ID] {
			v.damage(v.cluster.commitName(commit.ID), err, commit.ID, "")
		}
	}
	return nil
}

// rest reads facts and leases.
func (v *verifier) rest(ctx context.Context) error {
	for folder, kind := range map[string]seal.Kind{"facts/": kindFact, "leases/": kindLease} {
		for info, err := range v.store.List(ctx, v.cluster.below(folder), "") {
			if err != nil {
				return err
			}
			_, err := v.cluster.repo.get(ctx, kind, info.Name, maxFact)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				v.damage(info.Name, err, "", "")
			}
		}
	}
	return nil
}

// forgetRemoved forgets damages of backups that were removed meanwhile.
func (v *verifier) forgetRemoved(ctx context.Context) error {
	if len(v.damages) == 0 {
		return nil
	}
	ids, err := v.cluster.backupIDs(ctx)
	if err != nil {
		return err
	}
	for name, d := range v.damages {
		had := len(d.Backups)
		d.Backups = slices.DeleteFunc(d.Backups, func(id string) bool { return !slices.Contains(ids, id) })
		if errors.Is(d.Err, fs.ErrNotExist) && had > 0 && len(d.Backups) == 0 {
			delete(v.damages, name)
		}
	}
	return nil
}

// watched is a store that knows whether it was out of reach.
type watched struct {
	object.Store

	mu  sync.Mutex
	err error
}

func (s *watched) note(err error) {
	if err == nil || object.IsAnswer(err) && !errors.Is(err, object.ErrRefused) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = cmp.Or(s.err, err)
}

// failed returns the first error that was no answer.
func (s *watched) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *watched) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	data, err := s.Store.Get(ctx, name, off, n)
	s.note(err)
	return data, err
}

func (s *watched) List(ctx context.Context, prefix, after string) iter.Seq2[object.Info, error] {
	return func(yield func(object.Info, error) bool) {
		for info, err := range s.Store.List(ctx, prefix, after) {
			s.note(err)
			if !yield(info, err) {
				return
			}
		}
	}
}
