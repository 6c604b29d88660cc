package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"basin/internal/seal"
)

const (
	// defaultShare is the part of a pack that is to be in use.
	defaultShare = 0.5
	// spareShare is how much larger than what is in use packs may be, all together, before some are thinned that
	// have more than their share in use.
	spareShare = 1.4
	// thinAtOnce is which part of what is in use is stored anew for that, at most, by one backup.
	thinAtOnce = 1.0 / 32
	// trailersAtOnce is how many trailers are read at the same time.
	trailersAtOnce = 16
	// trailerRead is how many bytes of a pack's end are read at first.
	trailerRead = 64 << 10
)

// packsFact names packs.
type packsFact struct {
	Packs []PackID `json:"packs"`
}

// packsOf returns the packs that facts of a kind name, and the names of those facts; of these, encrypted are which an older program
// wrote, that hosts without the private key cannot read. A fact that is damaged is left out: it only says what would better be stored anew,
// and verify tells of it.
func (c *Cluster) packsOf(ctx context.Context, kind string) (packs map[PackID]bool, names, encrypted []string, err error) {
	packs = make(map[PackID]bool)
	for f, err := range c.facts(ctx, kind) {
		if errors.Is(err, seal.ErrDamaged) {
			continue
		}
		if err != nil {
			return nil, nil, nil, fmt.Errorf("facts of %s packs: %w", kind, err)
		}
		var fact packsFact
		if f.read(&fact) != nil {
			continue
		}
		for _, id := range fact.Packs {
			packs[id] = true
		}
		names = append(names, f.name)
		if f.isEncrypted {
			encrypted = append(encrypted, f.name)
		}
	}
	return packs, names, encrypted, nil
}

// decryptFacts writes facts of packs that an older program encrypted so that each writer can read them.
func (c *Cluster) decryptFacts(ctx context.Context, kind string) error {
	packs, names, encrypted, err := c.packsOf(ctx, kind)
	if err != nil || len(encrypted) == 0 {
		return err
	}
	if err := c.putPacks(ctx, kind, packs); err != nil {
		return err
	}
	_, err = c.remove(ctx, names)
	return err
}

// putPacks keeps a fact of packs.
func (c *Cluster) putPacks(ctx context.Context, kind string, packs map[PackID]bool) error {
	_, err := c.putFact(ctx, kind, packsFact{Packs: slices.SortedFunc(maps.Keys(packs), ID.compare)})
	return err
}

// avoided returns the packs in which a backup leaves nothing. What it finds in them it stores anew: of those of
// which little is in use, so that they are needed no more when the older backups are forgotten, and of
// those that were found to be damaged or missing, so that what is there still is not lost.
func (c *Cluster) avoided(ctx context.Context) (map[PackID]bool, error) {
	thin, _, _, err := c.packsOf(ctx, factThin)
	if err != nil {
		return nil, err
	}
	damaged, _, _, err := c.packsOf(ctx, factDamaged)
	if err != nil {
		return nil, err
	}
	maps.Copy(thin, damaged)
	return thin, nil
}

// thinning is a pack of which a share is in use.
type thinning struct {
	pack  PackID
	size  float64 // in bytes
	share float64
}

// thin tells the next backup from which packs it is to take nothing, and returns how many. used are the blocks of
// each pack that its parent needs, sizes those of all packs in bytes.
func (c *Cluster) thin(ctx context.Context, o PruneOptions, used, sizes map[PackID]int64) (int, error) {
	if o.Share < 0 {
		return 0, nil
	}
	all, err := c.shares(ctx, used, sizes)
	if err != nil {
		return 0, err
	}
	thin := chooseThin(all, cmp.Or(o.Share, defaultShare))
	before, names, encrypted, err := c.packsOf(ctx, factThin)
	if err != nil || o.DryRun || maps.Equal(thin, before) && len(encrypted) == 0 {
		return len(thin), err
	}
	if len(thin) > 0 {
		if err := c.putPacks(ctx, factThin, thin); err != nil {
			return 0, err
		}
	}
	_, err = c.remove(ctx, names)
	return len(thin), err
}

// chooseThin returns the packs that have less than their share in use, and, if packs are much larger than what
// is in use in all, more of those with the least. Those are few each time, lest one backup stores
// everything anew because everything has aged at the same time.
func chooseThin(all []thinning, share float64) map[PackID]bool {
	slices.SortFunc(all, func(a, b thinning) int { return cmp.Or(cmp.Compare(a.share, b.share), a.pack.compare(b.pack)) })
	var size, live float64
	for _, t := range all {
		size += t.size
		live += t.size * t.share
	}
	thin := make(map[PackID]bool)
	again := 0.0
	for _, t := range all {
		if t.share >= share {
			again += t.size * t.share
			if size <= spareShare*live || again > thinAtOnce*live && t.share*t.size < again {
				break
			}
		}
		thin[t.pack] = true
		size -= t.size * (1 - t.share)
	}
	return thin
}

// shares returns which share of each pack is in use.
func (c *Cluster) shares(ctx context.Context, used, sizes map[PackID]int64) ([]thinning, error) {
	var all []thinning
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(trailersAtOnce)
	for id, blocks := range used {
		size, ok := sizes[id]
		if !ok {
			continue // it was made meanwhile
		}
		group.Go(func() error {
			p, err := c.packTrailer(ctx, id, size)
			if err != nil {
				return err
			}
			total := int64(0)
			for i := range p.groups {
				g, err := p.group(i)
				if err != nil {
					return fmt.Errorf("%s: %w", c.packName(id), err)
				}
				for _, x := range g.extents {
					total += int64(len(x.blocks))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, thinning{id, float64(size), math.Min(1, float64(blocks)/float64(max(total, 1)))})
			return nil
		})
	}
	err := group.Wait()
	return all, err
}

// packTrailer reads what a pack of so many bytes says of itself.
func (c *Cluster) packTrailer(ctx context.Context, id PackID, size int64) (*part, error) {
	name := c.packName(id)
	if size < seal.HeadSize+footerSize {
		return nil, fmt.Errorf("%s: %w", name, errTrailer)
	}
	head, err := c.repo.store.Get(ctx, name, 0, seal.HeadSize)
	if err != nil {
		return nil, err
	}
	box, err := c.repo.open(ctx, kindPack, name, head)
	if err != nil {
		return nil, err
	}
	from := max(seal.HeadSize, size-trailerRead)
	tail, err := c.repo.store.Get(ctx, name, from, size-from)
	if err != nil {
		return nil, err
	}
	length, err := trailerLength(tail[max(0, len(tail)-footerSize):])
	if err == nil && length+footerSize > int64(len(tail)) && length+footerSize <= size-seal.HeadSize {
		from = size - length - footerSize
		tail, err = c.repo.store.Get(ctx, name, from, size-from)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	content, err := openTrailer(box, tail, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p, err := parsePart(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}
