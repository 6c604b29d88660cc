package repo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"
)

// Kinds of facts: what was learnt or said after a backup was made.
const (
	factPin       = "pin"
	factThin      = "thin"
	factDamaged   = "damaged"
	factVerified  = "verified"
	factForgotten = "forgotten"
	factThinned   = "thinned"
)

// maxFact is how many bytes a fact has at most.
const maxFact = 64 << 20

// putFact keeps a fact, and returns the name of its object.
func (c *Cluster) putFact(ctx context.Context, kind string, fact any) (string, error) {
	content, err := json.Marshal(fact)
	if err != nil {
		return "", err
	}
	name := c.below("facts/" + kind + "/" + NewID().String())
	_, err = c.repo.put(ctx, kindFact, name, content)
	return name, err
}

// fact is a fact as it is kept.
type fact struct {
	name        string
	content     []byte
	isEncrypted bool
}

// facts yields the facts of a kind, in no order that means anything. One that is removed
// meanwhile is left out. Behind one that cannot be read the others follow.
func (c *Cluster) facts(ctx context.Context, kind string) iter.Seq2[fact, error] {
	return func(yield func(fact, error) bool) {
		for info, err := range c.repo.store.List(ctx, c.below("facts/"+kind+"/"), "") {
			if err != nil {
				yield(fact{}, err)
				return
			}
			f := fact{name: info.Name}
			f.content, f.isEncrypted, err = c.repo.getSealed(ctx, kindFact, info.Name, maxFact)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if !yield(f, err) {
				return
			}
		}
	}
}

// read reads what a fact says.
func (f fact) read(into any) error {
	if err := json.Unmarshal(f.content, into); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	return nil
}

// Pin says that a backup is kept, whatever the policy.
type Pin struct {
	Backup string    `json:"backup"`
	Until  time.Time `json:"until,omitzero"` // zero is for ever
	Note   string    `json:"note,omitempty"`
	Made   time.Time `json:"made"`
	Gone   bool      `json:"gone,omitempty"` // the backup is not pinned any more
}

// Holds says whether the pin keeps its backup at a time.
func (p Pin) Holds(now time.Time) bool { return !p.Gone && (p.Until.IsZero() || now.Before(p.Until)) }

// Pin has a backup be kept. Of several pins of a backup the one that was made last counts.
func (c *Cluster) Pin(ctx context.Context, pin Pin) error {
	if _, err := c.Backup(ctx, pin.Backup); err != nil {
		return fmt.Errorf("backup %s: %w", pin.Backup, err)
	}
	_, err := c.putFact(ctx, factPin, pin)
	return err
}

// Unpin has a backup be kept as long as the policy says, from now on.
func (c *Cluster) Unpin(ctx context.Context, backup string, now time.Time) error {
	_, err := c.putFact(ctx, factPin, Pin{Backup: backup, Made: now.UTC(), Gone: true})
	return err
}

// Pins returns the pins that count, by backup.
func (c *Cluster) Pins(ctx context.Context) (map[string]Pin, error) {
	pins := make(map[string]Pin)
	for f, err := range c.facts(ctx, factPin) {
		if err != nil {
			return nil, fmt.Errorf("pins: %w", err)
		}
		var pin Pin
		if err := f.read(&pin); err != nil {
			return nil, err
		}
		had, ok := pins[pin.Backup]
		// Of two of one time, the one that keeps counts.
		if !ok || cmp.Or(pin.Made.Compare(had.Made), cmp.Compare(keeping(pin), keeping(had))) > 0 {
			pins[pin.Backup] = pin
		}
	}
	return pins, nil
}

func keeping(p Pin) int {
	if p.Gone {
		return 0
	}
	return 1
}
