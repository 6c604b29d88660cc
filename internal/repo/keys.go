package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"basin/internal/object"
	"basin/internal/usererr"
)

// maxWrapped is how many bytes a wrapped key has at most.
const maxWrapped = 64 << 10

// WrappedKey is the private key of a repository, for one who may read.
type WrappedKey struct {
	ID      ID
	Created time.Time // as the store tells it; zero if it does not
	Content []byte    // an age file
}

// keyName returns the name of a wrapped key.
func keyName(id ID) string { return "keys/" + id.String() }

// AddKey keeps the private key, wrapped for another, and returns the name by which it is removed.
func (r *Repository) AddKey(ctx context.Context, wrapped []byte) (ID, error) {
	if !r.info.Encrypted {
		return ID{}, errNotEncrypted
	}
	return addKey(ctx, r.store, wrapped)
}

var errNotEncrypted = usererr.Hinted("basin init --encrypt makes one that is.", "the repository is not encrypted, and has no keys")

func addKey(ctx context.Context, store object.Store, wrapped []byte) (ID, error) {
	if len(wrapped) > maxWrapped {
		return ID{}, errors.New("the wrapped key is too long")
	}
	id := NewID()
	return id, store.Create(ctx, keyName(id), wrapped)
}

// Keys returns the wrapped keys, sorted by ID.
func (r *Repository) Keys(ctx context.Context) ([]WrappedKey, error) {
	if !r.info.Encrypted {
		return nil, errNotEncrypted
	}
	var all []WrappedKey
	for after := ""; ; {
		data := ""
		for info, err := range r.store.List(ctx, "keys/", after) {
			if err != nil {
				return nil, err
			}
			text := strings.TrimPrefix(info.Name, "keys/")
			if strings.HasPrefix(text, "data/") {
				data = info.Name
				break
			}
			key := WrappedKey{Created: info.Time}
			if key.ID.UnmarshalText([]byte(text)) != nil {
				continue // it is none of ours
			}
			if key.Content, err = r.store.Get(ctx, info.Name, 0, -1); errors.Is(err, fs.ErrNotExist) {
				continue // it was just removed
			} else if err != nil {
				return nil, err
			}
			all = append(all, key)
		}
		if data == "" {
			return all, nil
		}
		after = "keys/data0" // which follows all data keys, of which there are many
	}
}

// RemoveKey removes a wrapped key. The last one is not removed. Who has unlocked the private key
// before has it still.
func (r *Repository) RemoveKey(ctx context.Context, id ID) error {
	keys, err := r.Keys(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(keys, func(k WrappedKey) bool { return k.ID == id })
	switch {
	case at < 0:
		return fmt.Errorf("key %v: %w", id, fs.ErrNotExist)
	case len(keys) == 1:
		return usererr.Hinted("Add another first; without any, nothing in the repository can be read.",
			"key %v is the last of the repository", id)
	}
	if err := r.store.Delete(ctx, keyName(id)); err != nil {
		return err
	}
	if left, err := r.Keys(ctx); err != nil || len(left) > 0 {
		return err
	}
	again, err := addKey(ctx, r.store, keys[at].Content)
	if err != nil {
		return fmt.Errorf("all other keys were removed at the same time, and this one could not be kept: %w", err)
	}
	return fmt.Errorf("all other keys were removed at the same time: this one was kept, as %v", again)
}
