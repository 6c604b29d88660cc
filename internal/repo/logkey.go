package repo

import (
	"context"
	"fmt"

	"basin/internal/seal"
)

// logBegin returns how many bytes are before the first frame: if the repository is encrypted the data key is
// there, sealed, so that a file of the log is one object, and the next one needs no key that was kept.
func (r *Repository) logBegin() int64 {
	if r.info.Encrypted {
		return logHead + seal.SealedKeySize
	}
	return logHead
}

// newLogBox returns what seals a file of the log, and the data key as it is stored with it.
func (r *Repository) newLogBox(at string) (box *seal.Box, sealed []byte, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := r.read[seal.KeyID{}]
	if r.info.Encrypted {
		if err := r.own.draw(r); err != nil {
			return nil, nil, err
		}
		key = r.own.key
	}
	box, err = seal.NewBox(kindLog, at, key)
	return box, r.own.sealed, err
}

// openLog opens a file of the log, which begins with head.
func (r *Repository) openLog(ctx context.Context, at string, head []byte) (*seal.Box, error) {
	box, err := seal.OpenBox(kindLog, at, head, func(id seal.KeyID) (seal.Key, error) {
		if !r.info.Encrypted || r.o.PrivateKey == nil || id == (seal.KeyID{}) {
			return r.readKey(ctx, id)
		}
		key, err := r.o.PrivateKey.OpenDataKey(id, head[logHead:r.logBegin()])
		if err != nil {
			return key, fmt.Errorf("its data key: %w", seal.ErrDamaged)
		}
		return key, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", at, err)
	}
	return box, nil
}
