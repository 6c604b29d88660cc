package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"basin/internal/repo"
	"basin/internal/seal"
)

// keysListing is what key list --json prints of all keys, and key add --json of those that were added. Its shape is
// documented in docs/repository.md, as are those below: fields are added, and none is changed or removed.
type keysListing struct {
	Repository  repo.ID      `json:"repository"`
	Fingerprint string       `json:"fingerprint"` // of the public key
	Keys        []keyListing `json:"keys"`
	Problems    []string     `json:"problems"`
}

// keyListing is one of the keys that unlock the private key.
type keyListing struct {
	ID    repo.ID    `json:"id"`
	Added *time.Time `json:"added"` // null if the store does not tell
	For   *string    `json:"for"`   // null if the key is damaged
}

// removedKey is what key remove --json prints.
type removedKey struct {
	Repository repo.ID `json:"repository"`
	Removed    repo.ID `json:"removed"`
}

// unlockedKey is what key unlock --json prints.
type unlockedKey struct {
	Repository  repo.ID `json:"repository"`
	Fingerprint string  `json:"fingerprint"`
	KeyFile     string  `json:"keyFile"`
}

// listingOfKeys returns what is told of keys of a repository.
func listingOfKeys(info repo.Info, keys []repo.WrappedKey) keysListing {
	l := keysListing{Repository: info.ID, Fingerprint: info.Fingerprint(), Keys: []keyListing{}, Problems: []string{}}
	for _, k := range keys {
		one := keyListing{ID: k.ID, Added: timeIfAny(k.Created)}
		if whom, err := seal.WrappedFor(k.Content); err != nil {
			l.Problems = append(l.Problems, fmt.Sprintf("key %v: %v", k.ID, err))
		} else {
			one.For = &whom
		}
		l.Keys = append(l.Keys, one)
	}
	return l
}

// table prints the keys for people.
func (l keysListing) table(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tADDED (UTC)\tFOR")
	for _, k := range l.Keys {
		added, whom := "-", "damaged"
		if k.Added != nil {
			added = k.Added.Format(time.DateTime)
		}
		if k.For != nil {
			whom = *k.For
		}
		fmt.Fprintf(table, "%v\t%s\t%s\n", k.ID, added, printable(whom, false))
	}
	return table.Flush()
}
