package repo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"basin/internal/object"
	"basin/internal/usererr"
)

const (
	// leaseTime is how long a lease lasts if it is not renewed.
	leaseTime = 6 * time.Hour
	// leaseEnding is how much of that is left when it is renewed.
	leaseEnding = 4 * time.Hour
	// givenUpTime is how long what a failed backup stored is kept.
	givenUpTime = 48 * time.Hour
	// maxLease is how many bytes a lease has at most.
	maxLease = 64 << 10
)

// Lease is what a writer tells others by: what it makes, and what it relies on, is not removed
// before the lease is over. The names of packs and parts begin with the lease's digits, so it is
// known without a clock which are whose.
type Lease struct {
	Backup string    `json:"backup"`           // that is being made
	Parent string    `json:"parent,omitempty"` // on which it relies
	Host   string    `json:"host"`
	Until  time.Time `json:"until"`

	// Digests is the key of the digests in the packs.
	Digests string `json:"digestKey,omitempty"`
	// Adopts are digits of other leases, whose packs this one keeps too.
	Adopts []string `json:"adopts,omitempty"`
	// GivenUp is that the backup failed, and that nobody makes it any more. What was stored is kept, for another to adopt.
	GivenUp bool `json:"givenUp,omitempty"`
}

// leaseSize is how many bytes of an identifier are the lease's.
const leaseSize = 8

// lease is a lease that is held.
type lease struct {
	cluster *Cluster
	now     func() time.Time
	prefix  [leaseSize]byte
	lease   Lease
	names   []string // of its objects
}

// takeLease tells others of a backup, and sees that its parent is there still.
func (c *Cluster) takeLease(ctx context.Context, backup, parent string, now func() time.Time) (*lease, error) {
	return c.takeLeaseSaying(ctx, Lease{Backup: backup, Parent: parent}, now)
}

// takeLeaseSaying takes a lease that says something. The host and the time are filled in.
func (c *Cluster) takeLeaseSaying(ctx context.Context, says Lease, now func() time.Time) (*lease, error) {
	var err error
	if says.Host, err = os.Hostname(); err != nil {
		says.Host = "unknown"
	}
	parent := says.Parent
	l := &lease{cluster: c, now: now, lease: says}
	_, _ = rand.Read(l.prefix[:]) // never fails
	if err := l.write(ctx); err != nil {
		return nil, err
	}
	if parent == "" {
		return l, nil
	}
	if _, err := c.Backup(ctx, parent); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = usererr.Hinted("Take the backup again.", "backup %s, on which this one was to rely, was removed meanwhile", parent)
		}
		return nil, errors.Join(err, l.end())
	}
	return l, nil
}

// leaseName returns the name of a lease's object.
func (c *Cluster) leaseName(prefix [leaseSize]byte, number int) string {
	return c.below(fmt.Sprintf("leases/%s-%04d", hex.EncodeToString(prefix[:]), number))
}

// write makes the next object of the lease.
func (l *lease) write(ctx context.Context) error {
	l.lease.Until = l.now().UTC().Add(leaseTime)
	if l.lease.GivenUp {
		l.lease.Until = l.now().UTC().Add(givenUpTime)
	}
	content, err := json.Marshal(l.lease)
	if err != nil {
		return err
	}
	name := l.cluster.leaseName(l.prefix, len(l.names))
	if _, err := l.cluster.repo.put(ctx, kindLease, name, content); err != nil {
		return fmt.Errorf("take a lease: %w", err)
	}
	l.names = append(l.names, name)
	return nil
}

// renew has the lease last longer, if it is time.
func (l *lease) renew(ctx context.Context) error {
	if l.lease.Until.Sub(l.now()) > leaseEnding {
		return nil
	}
	return l.write(ctx)
}

// newID returns an identifier for an object that is made under the lease.
func (l *lease) newID() ID {
	id := NewID()
	copy(id[:], l.prefix[:])
	return id
}

// endTime is how long it may take to end a lease, which is removed later otherwise.
const endTime = 30 * time.Second

// end gives the lease up. Who may not remove it leaves it, until it is over.
func (l *lease) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	var errs []error
	for _, name := range l.names {
		if err := l.cluster.repo.store.Delete(ctx, name); !errors.Is(err, object.ErrRefused) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// giveUp says that the backup will not be there, and keeps what was stored for another one.
func (l *lease) giveUp() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	l.lease.GivenUp, l.lease.Parent = true, ""
	return l.write(ctx)
}

// heldLease is a lease of any writer, as it was found.
type heldLease struct {
	prefix [leaseSize]byte
	lease  Lease    // as its last object says
	names  []string // of its objects
}

// isOver says whether the writer has lost the lease.
func (l *heldLease) isOver(now time.Time) bool { return !now.Before(l.lease.Until) }

// leases returns all leases.
func (c *Cluster) leases(ctx context.Context) ([]*heldLease, error) {
	below := c.below("leases/")
	var found []*heldLease
	for info, err := range c.repo.store.List(ctx, below, "") {
		if err != nil {
			return nil, err
		}
		digits, _, _ := strings.Cut(info.Name[len(below):], "-")
		prefix, err := hex.DecodeString(digits)
		if err != nil || len(prefix) != leaseSize {
			return nil, fmt.Errorf("%q is not the name of a lease", info.Name)
		}
		content, err := c.repo.get(ctx, kindLease, info.Name, maxLease)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was given up meanwhile
		}
		if err != nil {
			return nil, err
		}
		var l Lease
		if err := json.Unmarshal(content, &l); err != nil {
			return nil, fmt.Errorf("%s: %w", info.Name, err)
		}
		if n := len(found); n == 0 || found[n-1].prefix != [leaseSize]byte(prefix) {
			found = append(found, &heldLease{prefix: [leaseSize]byte(prefix)})
		}
		last := found[len(found)-1]
		last.lease = l
		last.names = append(last.names, info.Name)
	}
	return found, nil
}
