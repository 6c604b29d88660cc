package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"basin/internal/backup"
	"basin/internal/manifest"
	"basin/internal/seal"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// ClusterName names a cluster in a repository.
type ClusterName struct {
	Name     string
	SystemID uint64
}

// String returns the name and the number.
func (n ClusterName) String() string { return n.Name + "/" + strconv.FormatUint(n.SystemID, 10) }

// CheckName says whether a cluster can have a name.
func CheckName(name string) error {
	isAllowed := len(name) > 0 && len(name) <= 64 && 'a' <= name[0] && name[0] <= 'z' && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
	if !isAllowed || name == "keys" || name == "probe" {
		return usererr.Hinted("Letters from a to z, digits, - and _ are allowed, a letter first, 64 at most.", "%q cannot be the name of a cluster", name)
	}
	return nil
}

// Cluster is the part of a repository that is of one cluster. It may be used from several goroutines.
type Cluster struct {
	repo  *Repository
	name  ClusterName
	parts partCache

	mu      sync.Mutex
	known   map[string]LogFacts // of files of the log, that were read before
	minimal []wal.Position      // where the server went on with wal_level=minimal; nil if that was not read yet
}

// Cluster returns the part that is of a cluster, whether or not there is something of it.
func (r *Repository) Cluster(name string, systemID uint64) (*Cluster, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	c := &Cluster{repo: r, name: ClusterName{name, systemID}}
	c.parts = partCache{cluster: c, most: 32 << 20}
	if r.o.Cache > 0 {
		c.parts.most = r.o.Cache
	}
	return c, nil
}

// Clusters returns the clusters that the repository has something of, sorted.
func (r *Repository) Clusters(ctx context.Context) ([]ClusterName, error) {
	var found []ClusterName
	for after := ""; ; {
		next := ""
		for info, err := range r.store.List(ctx, "", after) {
			if err != nil {
				return nil, err
			}
			next = info.Name
			break
		}
		if next == "" {
			return found, nil
		}
		name, rest, _ := strings.Cut(next, "/")
		number, _, deeper := strings.Cut(rest, "/")
		id, err := strconv.ParseUint(number, 10, 64)
		if !deeper || err != nil || CheckName(name) != nil {
			after = name + "0" // which follows all that is below name/
			if rest == "" {
				after = next
			}
			continue
		}
		found = append(found, ClusterName{name, id})
		after = name + "/" + number + "0"
	}
}

// Name returns which cluster it is.
func (c *Cluster) Name() ClusterName { return c.name }

func (c *Cluster) below(rest string) string { return c.name.String() + "/" + rest }

func (c *Cluster) packName(id ID) string { return c.below("packs/" + id.String()) }
func (c *Cluster) partName(id ID) string { return c.below("parts/" + id.String()) }

// commitName returns the name of the object that a backup is there by.
func (c *Cluster) commitName(id string) string { return c.below("backups/" + id + "/commit") }

// Commit is what a backup is there by.
type Commit struct {
	Format        int                 `json:"format"`
	ID            string              `json:"id"`
	Label         string              `json:"label,omitempty"`
	Began         time.Time           `json:"began"`
	Ended         time.Time           `json:"ended"`
	ServerVersion int                 `json:"serverVersion"` // as server_version_num
	SegmentSize   int64               `json:"segmentSize"`   // of the log, in bytes
	Start         wal.Position        `json:"start"`
	Stop          wal.Position        `json:"stop"`
	Ranges        []manifest.Range    `json:"ranges,omitempty"` // of the log, that a restore needs
	Tablespaces   []backup.Tablespace `json:"tablespaces,omitempty"`
	Files         int64               `json:"files"`
	Size          int64               `json:"size"`   // of all files, in bytes
	Stored        int64               `json:"stored"` // bytes of objects that were made for it
	Parent        string              `json:"parent,omitempty"`
	FullScan      time.Time           `json:"fullScan"` // when every page was last read
	// Damaged is that the source found pages whose checksums are wrong. It is restored when
	// it is named, and never counts as a good one.
	Damaged bool `json:"damaged,omitempty"`
	// Locked is until when all that it needs is kept from being removed at least; zero for not at all. It
	// itself is for less.
	Locked time.Time `json:"locked,omitzero"`

	// Configuration is nil if all of it was in the data directory, as far as that is known.
	Configuration *Configuration `json:"configuration,omitempty"`

	DigestKey seal.KeyID `json:"-"`
	Digests   string     `json:"digestKey"`
	Members   []Level    `json:"members"`
	Blocks    []Level    `json:"blocks"`
}

// CutPath returns where a path of the backup's manifest is. PostgreSQL 15 takes a tablespace that is itself a directory in
// pg_tblspc, as of allow_in_place_tablespaces, for a part of the data directory.
//
// Source: do_pg_backup_start in src/backend/access/transam/xlog.c, PostgreSQL 15.
func (c *Commit) CutPath(path string) (tablespace uint32, within string) {
	tablespace, within = backup.CutManifestPath(path)
	if slices.ContainsFunc(c.Tablespaces, func(t backup.Tablespace) bool { return t.OID == tablespace }) {
		return tablespace, within
	}
	return 0, path
}

// maxCommit is how many bytes a commit has at most.
const maxCommit = 64 << 20

// newBackupID returns a name for a backup that begins now. It is sorted behind those of backups that began before, also within the
// second: behind the second come its 65,536th parts, and then what is random.
func newBackupID(now time.Time) string {
	id := NewID()
	return fmt.Sprintf("%s-%04x%x", now.UTC().Format("20060102T150405Z"), now.Nanosecond()*65536/int(time.Second), id[:2])
}

// Backups returns the backups that are there, that which began first being the first. Those that cannot be read are told in
// the error, beside the others.
func (c *Cluster) Backups(ctx context.Context) ([]Commit, error) {
	prefix := c.below("backups/")
	var ids []string
	for info, err := range c.repo.store.List(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		if id, ok := strings.CutSuffix(strings.TrimPrefix(info.Name, prefix), "/commit"); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	read, problems := make([]*Commit, len(ids)), make([]error, len(ids))
	var group errgroup.Group
	group.SetLimit(commitsAtOnce)
	for i, id := range ids {
		group.Go(func() error {
			commit, err := c.Backup(ctx, id)
			switch {
			case errors.Is(err, errTombstone):
			case err != nil:
				problems[i] = fmt.Errorf("backup %s: %w", id, err)
			default:
				read[i] = &commit
			}
			return nil
		})
	}
	_ = group.Wait() // each has its own
	var commits []Commit
	for _, commit := range read {
		if commit != nil {
			commits = append(commits, *commit)
		}
	}
	slices.SortStableFunc(commits, func(a, b Commit) int { return a.Began.Compare(b.Began) })
	return commits, errors.Join(problems...)
}

// commitsAtOnce is how many commits are read at once.
const commitsAtOnce = 8

// errTombstone is a commit that says that there never will be such a backup.
var errTombstone = errors.New("the backup was given up")

// Backup returns a backup. One that is not there is fs.ErrNotExist.
func (c *Cluster) Backup(ctx context.Context, id string) (Commit, error) {
	content, err := c.repo.get(ctx, kindCommit, c.commitName(id), maxCommit)
	if err != nil {
		return Commit{}, err
	}
	var commit Commit
	if len(content) == 0 {
		return commit, errTombstone
	}
	if err := json.Unmarshal(content, &commit); err != nil {
		return commit, fmt.Errorf("%s: %w", c.commitName(id), err)
	}
	if commit.Format != Format {
		return commit, usererr.Hinted("Use a newer basin.", "it is of format %d, and this program knows format %d", commit.Format, Format)
	}
	commit.DigestKey, err = seal.ParseKeyID(commit.Digests)
	return commit, err
}

// putCommit makes a backup be there.
func (c *Cluster) putCommit(ctx context.Context, commit *Commit) error {
	commit.Format, commit.Digests = Format, commit.DigestKey.String()
	content, err := json.Marshal(commit)
	if err != nil {
		return err
	}
	_, err = c.repo.put(ctx, kindCommit, c.commitName(commit.ID), content)
	return err
}

// index returns the index of a backup.
func (c *Cluster) index(commit *Commit) *index {
	return &index{parts: &c.parts, members: commit.Members, blocks: commit.Blocks}
}

// maxPart is how many bytes the content of a part has at most.
const maxPart = 64 << 20

// partCache gets parts from the store, and keeps those that were used last.
type partCache struct {
	cluster *Cluster
	most    int64 // bytes that are kept

	mu   sync.Mutex
	have map[ID]*cachedPart
	size int64
	use  int64
}

type cachedPart struct {
	part *part
	size int64
	used int64
}

// part gets a part.
func (p *partCache) part(ctx context.Context, ref PartRef) (*part, error) {
	p.mu.Lock()
	if cached, ok := p.have[ref.ID]; ok {
		p.use++
		cached.used = p.use
		p.mu.Unlock()
		return cached.part, nil
	}
	p.mu.Unlock()
	content, err := p.cluster.repo.get(ctx, kindPart, p.cluster.partName(ref.ID), maxPart)
	if err != nil {
		return nil, err
	}
	read, err := parsePart(content)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.have == nil {
		p.have = make(map[ID]*cachedPart)
	}
	size := int64(len(content) + 4*len(read.groups) + 16*len(read.packs))
	if _, ok := p.have[ref.ID]; !ok {
		p.use++
		p.have[ref.ID] = &cachedPart{part: read, size: size, used: p.use}
		p.size += size
	}
	for p.size > p.most && len(p.have) > 1 {
		var oldest ID
		least := int64(-1)
		for id, cached := range p.have {
			if least < 0 || cached.used < least {
				oldest, least = id, cached.used
			}
		}
		p.size -= p.have[oldest].size
		delete(p.have, oldest)
	}
	return read, nil
}

// putLevel makes a level of groups that each yields in order. newID names its parts.
func (c *Cluster) putLevel(ctx context.Context, newID func() ID, each func(yield func(group) error) error) (Level, error) {
	var level Level
	w := levelWriter{put: func(content []byte, first key) error {
		id := newID()
		size, err := c.repo.put(ctx, kindPart, c.partName(id), content)
		if err != nil {
			return err
		}
		level = append(level, PartRef{ID: id, Tablespace: first.tablespace, Path: []byte(first.path), Size: size})
		return nil
	}}
	if err := each(w.add); err != nil {
		return nil, err
	}
	if err := w.finish(); err != nil {
		return nil, err
	}
	return level, nil
}
