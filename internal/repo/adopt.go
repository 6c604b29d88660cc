package repo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"basin/internal/seal"
)

const (
	// adoptTime is how long a lease is to last at least for what was made under it to be adopted. It is more than
	// clocks differ by.
	adoptTime = time.Hour
	// adoptSize is how large a file is at least, in bytes, of which it is looked up what was stored.
	adoptSize = 16 * BlockSize
)

// parsePrefix reads the digits of a lease.
func parsePrefix(digits string) (prefix [leaseSize]byte, err error) {
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != leaseSize {
		return prefix, fmt.Errorf("%q are not the digits of a lease", digits)
	}
	return [leaseSize]byte(b), nil
}

// adoptsAtMost is of how many failed backups one takes what they stored.
const adoptsAtMost = 256

// takeLease takes the lease of the backup, and adopts the packs of others that have the same key of
// digests. key is that of the parent, or else a new one, in place of which that of others is taken.
//
// What is adopted cannot be removed meanwhile: a prune that did not see the new lease has read leases
// before that was made, and saw the other one, which was there before and is there after, and is not over. Nobody but
// prune, once it is over, removes a lease under which packs were made for no commit.
func (s *Sink) takeLease(ctx context.Context, key seal.Key) error {
	c := s.cluster
	says := Lease{Backup: s.commit.ID, Parent: s.commit.Parent}
	found, err := s.adoptable(ctx, key)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		theirs, err := s.digestKey(ctx, found[0])
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			found = nil // without it nothing in the packs is known
		} else {
			key = theirs
		}
	}
	for _, l := range found[max(0, len(found)-adoptsAtMost):] {
		says.Adopts = append(says.Adopts, hex.EncodeToString(l.prefix[:]))
	}
	s.commit.DigestKey, says.Digests = key.ID, key.ID.String()
	if s.digests, err = seal.NewDigester(key); err != nil {
		return err
	}
	if s.lease, err = c.takeLeaseSaying(ctx, says, s.o.Now); err != nil || len(found) == 0 {
		return err
	}
	still, err := s.adoptable(ctx, key)
	if err != nil {
		return err
	}
	for _, l := range still {
		if slices.Contains(says.Adopts, hex.EncodeToString(l.prefix[:])) {
			if err := s.adopt(ctx, l.prefix); err != nil {
				return err
			}
		}
	}
	return nil
}

// digestKey returns the key of the digests in the packs of a lease.
func (s *Sink) digestKey(ctx context.Context, l *heldLease) (seal.Key, error) {
	id, err := seal.ParseKeyID(l.lease.Digests)
	if err != nil {
		return seal.Key{}, err
	}
	return s.cluster.repo.readKey(ctx, id)
}

// adoptable returns the leases whose packs may be adopted, all of one key of digests.
func (s *Sink) adoptable(ctx context.Context, key seal.Key) ([]*heldLease, error) {
	if !s.o.Adopt || !s.cluster.repo.CanRead() {
		return nil, nil
	}
	leases, err := s.cluster.leases(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, nil // prune tells of it
	}
	digests := key.ID.String()
	if s.parent == nil && s.lease == nil && !slices.ContainsFunc(leases, func(l *heldLease) bool { return l.lease.Digests == digests }) {
		for _, l := range leases {
			if l.lease.Digests != "" {
				digests = l.lease.Digests
			}
		}
	}
	return slices.DeleteFunc(leases, func(l *heldLease) bool {
		return l.lease.Digests != digests || l.lease.Until.Sub(s.o.Now()) < adoptTime || s.lease != nil && l.prefix == s.lease.prefix
	}), nil
}

// adopt reads what is in the packs that were made under a lease. One that cannot be read is left.
func (s *Sink) adopt(ctx context.Context, prefix [leaseSize]byte) error {
	if s.adopted == nil {
		s.adopted = new(adopted)
	}
	s.adopted.begin(s.cluster.repo.tempDir())
	packs := s.cluster.below("packs/")
	trailers := make(chan *part)
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(trailersAtOnce + 1)
	group.Go(func() error {
		defer close(trailers)
		var reading errgroup.Group
		reading.SetLimit(trailersAtOnce)
		defer func() { _ = reading.Wait() }() // they return nil
		for info, err := range s.cluster.repo.store.List(working, packs+hex.EncodeToString(prefix[:]), "") {
			if err != nil {
				return err
			}
			var id PackID
			if id.UnmarshalText([]byte(strings.TrimPrefix(info.Name, packs))) != nil || s.thin[id] {
				continue
			}
			reading.Go(func() error {
				if p, err := s.cluster.packTrailer(working, id, info.Size); err == nil {
					select {
					case trailers <- p:
					case <-working.Done():
					}
				}
				return nil
			})
		}
		return nil
	})
	group.Go(func() error {
		for p := range trailers {
			if err := s.adopted.add(p); err != nil {
				return err
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return err
	}
	return s.adopted.end()
}

// adopted is what was stored under leases of others.
type adopted struct {
	stored []*runs // for each lease, as two may have stored the same block
}

// begin begins with what was stored under another lease.
func (a *adopted) begin(dir string) { a.stored = append(a.stored, &runs{dir: dir}) }

// add adds what a pack has.
func (a *adopted) add(p *part) error {
	for i := range p.groups {
		g, err := p.group(i)
		if err != nil {
			return nil // the rest of it is not used
		}
		g.fresh, g.member = false, nil
		if err := a.stored[len(a.stored)-1].add(g); err != nil {
			return err
		}
	}
	return nil
}

// end makes what was added be found.
func (a *adopted) end() error { return a.stored[len(a.stored)-1].spill() }

// close lets go of what is held.
func (a *adopted) close() error {
	var errs []error
	for _, r := range a.stored {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

// file returns what was stored of a file of so many bytes.
func (a *adopted) file(ctx context.Context, k key, size int64) (of adoptedBlocks, err error) {
	if a == nil || size < adoptSize {
		return nil, nil
	}
	for _, r := range a.stored {
		for _, s := range r.spills {
			f, err := (&index{parts: s, blocks: []Level{s.level}}).file(ctx, k, size)
			if err != nil {
				return nil, err
			}
			if f.gaps = true; len(f.runs) > 0 {
				of = append(of, &adoptedFile{blocks: f})
			}
		}
	}
	return of, nil
}

// adoptedBlocks is what was stored of a file.
type adoptedBlocks []*adoptedFile

// adoptedFile is what was stored of a file under one lease.
type adoptedFile struct {
	blocks *fileBlocks
	extent extent
	done   bool
}

// find says where a block is, if it was stored at its place in the file. Blocks are asked for in their order.
func (a adoptedBlocks) find(ctx context.Context, at int64, k block) (where location, ok bool, err error) {
	for _, f := range a {
		if where, ok, err = f.find(ctx, at, k); ok || err != nil {
			break
		}
	}
	return where, ok, err
}

func (f *adoptedFile) find(ctx context.Context, at int64, k block) (where location, ok bool, err error) {
	for !f.done && f.extent.end() <= at {
		f.extent, err = f.blocks.next(ctx)
		if errors.Is(err, io.EOF) {
			f.done = true
		} else if err != nil {
			return where, false, err
		}
	}
	i := at - f.extent.first
	if f.done || i < 0 || f.extent.isZeros() || f.extent.blocks[i] != k {
		return where, false, nil
	}
	where = f.extent.at
	where.within += uint32(i * BlockSize)
	return where, true, nil
}
