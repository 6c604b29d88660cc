// Package repo knows the repository: backups of clusters and their log as objects of a store,
// as FORMAT.md says.
//
// Every backup is a full one, although of what did not change since another one nothing is
// stored again: its index says of each block in which pack it is. A backup exists when its
// commit does, which is written last, and any can be removed without touching another.
//
// It does not know where backups come from or go to: it is a backup.Sink and a backup.Source.
// It opens no connection and, but for temporary files, no file.
package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"basin/internal/object"
	"basin/internal/seal"
	"basin/internal/usererr"
)

// Format is the version of the format that is written.
const Format = 1

// infoName is the object that says what a repository is.
const infoName = "repository.json"

// maxInfo is how many bytes repository.json has at most.
const maxInfo = 64 << 10

// ID names an object or a repository. It is drawn by lot.
type ID [16]byte

// NewID draws an identifier by lot.
func NewID() (id ID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// String returns the 32 hexadecimal digits of the identifier.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

func (id ID) compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText returns the identifier's digits.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *ID) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("%q is no identifier", text)
	}
	_, err := hex.Decode(id[:], text)
	return err
}

// Kinds of sealed objects.
const (
	kindCommit seal.Kind = iota + 1
	kindPart
	kindPack
	kindLog
	kindFact
	kindLease
)

// Info is what repository.json says.
type Info struct {
	Format    int       `json:"format"`
	ID        ID        `json:"id"`
	Created   time.Time `json:"created"`
	Encrypted bool      `json:"encrypted"`
	PublicKey []byte    `json:"publicKey,omitempty"`
	Secret    []byte    `json:"secret,omitempty"`
}

// InitOptions say what repository is made.
type InitOptions struct {
	// PublicKey is what data keys are sealed to; the zero value makes a repository that is
	// not encrypted.
	PublicKey *seal.PublicKey
	Keys      [][]byte  // the private key, wrapped for each who may read; none if it is kept elsewhere
	Now       time.Time // zero is now
}

// Init makes a repository in a store, which it tries first. One that is there already is an error
// that wraps fs.ErrExist. The wrapped keys are there before the repository is.
func Init(ctx context.Context, store object.Store, o InitOptions) (Info, error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	info := Info{Format: Format, ID: NewID(), Created: o.Now.UTC().Truncate(time.Second)}
	if o.PublicKey != nil {
		info.Encrypted, info.PublicKey = true, o.PublicKey.Bytes()
	} else {
		secret := seal.NewSecret()
		info.Secret = secret[:]
	}
	if _, err := store.Get(ctx, infoName, 0, -1); err == nil {
		return info, fmt.Errorf("a repository is there already: %w", fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return info, err
	}
	if err := checkEmpty(ctx, store); err != nil {
		return info, err
	}
	if err := probe(ctx, store); err != nil {
		return info, err
	}
	content, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return info, err
	}
	var made []ID
	for _, wrapped := range o.Keys {
		id, err := addKey(ctx, store, wrapped)
		if err != nil {
			return info, err
		}
		made = append(made, id)
	}
	if err = store.Create(ctx, infoName, append(content, '\n')); errors.Is(err, fs.ErrExist) {
		for _, id := range made { // another was faster, and has keys of its own
			err = errors.Join(err, store.Delete(ctx, keyName(id)))
		}
	}
	return info, err
}

// checkEmpty sees that a store has nothing but what Probe may leave. Of a place that has keys alone, of an Init that came to no
// end, it tells what to remove: another Init at the same time would lose its keys if that were done here.
func checkEmpty(ctx context.Context, store object.Store) error {
	var keys []string
	for existing, err := range store.List(ctx, "", "") {
		if err != nil {
			return err
		}
		if strings.HasPrefix(existing.Name, "probe/") {
			continue
		}
		text, isKey := strings.CutPrefix(existing.Name, "keys/")
		if !isKey || new(ID).UnmarshalText([]byte(text)) != nil {
			return usererr.Hinted("Name a place that is empty.", "the place is not empty: there is %q", existing.Name)
		}
		keys = append(keys, existing.Name)
	}
	if len(keys) > 0 {
		return usererr.Hinted("If no other basin init is at work there, nobody needs them: remove "+strings.Join(keys, ", ")+", and do it again.",
			"there are keys of a repository that was not made to its end, and no %s", infoName)
	}
	return nil
}

// probe sees that a store refuses to create an object twice, one after the other and at once.
func probe(ctx context.Context, store object.Store) (err error) {
	name := "probe/" + NewID().String()
	unfit := usererr.Hinted("Use a store with conditional writes, such as a local disk, or S3 with If-None-Match.",
		"the store lets an object be overwritten, and is not safe for backups")
	made := make(chan error, 8)
	for i := range cap(made) {
		go func() { made <- store.Create(ctx, name, []byte(strconv.Itoa(i))) }()
	}
	winners := 0
	for range cap(made) {
		switch one := <-made; {
		case one == nil:
			winners++
		case !errors.Is(one, fs.ErrExist):
			err = errors.Join(err, one)
		}
	}
	defer func() {
		if removed := store.Delete(ctx, name); !errors.Is(removed, object.ErrRefused) { // which leaves it, and does no harm
			err = errors.Join(err, removed)
		}
	}()
	if err != nil {
		return err
	}
	if winners != 1 || !errors.Is(store.Create(ctx, name, nil), fs.ErrExist) {
		return unfit
	}
	return nil
}

// Options of a repository that is opened. The zero value reads and writes one that is not encrypted,
// and writes to one that is.
type Options struct {
	PrivateKey *seal.PrivateKey // reads what is encrypted
	TempDir    string           // for what is too much for memory; empty is the system's
	Cache      int64            // bytes of index that are kept in memory; zero is 32 MiB

	// Lock is how long each backup is kept from being removed, with all that it needs. The store is an
	// object.Locker then, that locks what it creates as LockTime says. Zero is not at all.
	Lock time.Duration
}

// Repository is a repository that was opened. It may be used from several goroutines.
type Repository struct {
	store object.Store
	o     Options
	info  Info

	mu    sync.Mutex
	own   ownKey // what packs and log are sealed with, and the rest too if it can be read here; not without encryption
	index ownKey // what the rest is sealed with on a host without the private key
	read  map[seal.KeyID]seal.Key
	keep  func(seal.Key) // is given index once it is there; nil for nobody
}

// Open opens a repository.
func Open(ctx context.Context, store object.Store, o Options) (*Repository, error) {
	content, err := store.Get(ctx, infoName, 0, -1)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usererr.Hinted("Is the name right, and the file system mounted that it is in? Only where there was none: basin init makes a repository.", "there is no repository: %w", err)
	}
	if err != nil {
		return nil, err
	}
	r := &Repository{store: store, o: o, read: make(map[seal.KeyID]seal.Key)}
	if err := r.parse(content); err != nil {
		return nil, fmt.Errorf("%s: %w", infoName, err)
	}
	return r, nil
}

// parse reads repository.json.
func (r *Repository) parse(content []byte) error {
	var head struct {
		Format int `json:"format"`
	}
	if len(content) > maxInfo {
		return errors.New("it is too long")
	}
	if err := json.Unmarshal(content, &head); err != nil {
		return err
	}
	if head.Format != Format {
		return usererr.Hinted("Use a newer basin.", "the repository is of format %d, and this program knows format %d", head.Format, Format)
	}
	if err := json.Unmarshal(content, &r.info); err != nil {
		return err
	}
	if !r.info.Encrypted {
		if len(r.info.Secret) != len(seal.Secret{}) {
			return errors.New("its secret is not one")
		}
		r.read[seal.KeyID{}] = seal.Key{Secret: seal.Secret(r.info.Secret)}
		return nil
	}
	public, err := seal.ParsePublicKey(r.info.PublicKey)
	if err != nil {
		return err
	}
	if k := r.o.PrivateKey; k != nil && string(k.Public().Bytes()) != string(public.Bytes()) {
		return usererr.Hinted("Each repository has a key of its own.", "the key is not that of this repository")
	}
	return nil
}

// Info returns what the repository is.
func (r *Repository) Info() Info { return r.info }

// tempDir returns where temporary files go.
func (r *Repository) tempDir() string { return cmp.Or(r.o.TempDir, os.TempDir()) }

// CanRead says whether what is in the repository can be read.
func (r *Repository) CanRead() bool { return !r.info.Encrypted || r.o.PrivateKey != nil }

// dataKeyName returns the name of a data key.
func dataKeyName(id seal.KeyID) string { return "keys/data/" + id.String() }

// ownKey is a data key that was drawn by lot here.
type ownKey struct {
	key     seal.Key
	sealed  []byte // to the repository's public key; nil as long as none is drawn
	isThere bool   // in the repository
}

// draw draws the key, unless that was done. It need not be in the repository. It is called with mu held.
func (k *ownKey) draw(r *Repository) error {
	if k.sealed != nil {
		return nil
	}
	public, err := seal.ParsePublicKey(r.info.PublicKey)
	if err == nil {
		k.key, k.sealed, err = public.NewDataKey()
	}
	return err
}

// packKey returns what packs are sealed with.
func (r *Repository) packKey(ctx context.Context) (seal.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.storedKey(ctx, &r.own)
}

// indexKey returns what is sealed that does not have the content of files, but for the log: what is told of a backup, and in which packs it is.
// A host without the private key may keep it, to know what its own backups have, and cannot read those.
func (r *Repository) indexKey(ctx context.Context) (seal.Key, error) {
	if r.CanRead() {
		return r.packKey(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	isNew := !r.index.isThere
	key, err := r.storedKey(ctx, &r.index)
	if err == nil && isNew && r.keep != nil {
		r.keep(key)
	}
	return key, err
}

// storedKey returns a key, once it is in the repository. Without encryption there is but one. It is called with mu held.
func (r *Repository) storedKey(ctx context.Context, k *ownKey) (seal.Key, error) {
	if !r.info.Encrypted {
		return r.read[seal.KeyID{}], nil
	}
	if k.isThere {
		return k.key, nil
	}
	if err := k.draw(r); err != nil {
		return seal.Key{}, err
	}
	if err := r.store.Create(ctx, dataKeyName(k.key.ID), k.sealed); err != nil {
		return seal.Key{}, fmt.Errorf("keep a new data key: %w", err)
	}
	k.isThere = true
	r.read[k.key.ID] = k.key
	return k.key, nil
}

// KeepIndex has a host without the private key know what its own backups have, so that the next need not store that again: keys are those
// that it was given before, and keep is given each new one. It is called before anything is written. Where it is not called, or what was
// kept is lost, the next backup is a full one.
func (r *Repository) KeepIndex(keys []seal.Key, keep func(seal.Key)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		r.read[key.ID] = key
	}
	r.keep = keep
}

// openKey returns what facts are sealed with that each host may read, which name packs alone.
func (r *Repository) openKey() seal.Key {
	if !r.info.Encrypted {
		return r.read[seal.KeyID{}]
	}
	return seal.Key{Secret: sha256.Sum256(slices.Concat([]byte("basin open"), r.info.ID[:], r.info.PublicKey))}
}

// isOpenFact says whether a name is that of such a fact.
func isOpenFact(name string) bool {
	elements := strings.Split(name, "/")
	return len(elements) == 5 && elements[2] == "facts" && (elements[3] == factThin || elements[3] == factDamaged)
}

// ErrNoKey is wrapped by errors that tell of what cannot be read for want of a key.
var ErrNoKey = errors.New("its private key is not here")

// errNoKey is what cannot be read for want of a key.
var errNoKey = usererr.Hinted("basin key unlock makes the key usable on this host.", "the repository is encrypted, and %w", ErrNoKey)

// readKey returns the key of an identifier.
func (r *Repository) readKey(ctx context.Context, id seal.KeyID) (seal.Key, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if key, ok := r.read[id]; ok {
		return key, nil
	}
	switch {
	case !r.info.Encrypted || id == seal.KeyID{}:
		return seal.Key{}, fmt.Errorf("it is encrypted otherwise than the repository: %w", seal.ErrDamaged)
	case r.o.PrivateKey == nil:
		return seal.Key{}, errNoKey
	}
	sealed, err := r.store.Get(ctx, dataKeyName(id), 0, -1)
	if errors.Is(err, fs.ErrNotExist) { // not to be taken for the absence of what is read
		err = seal.ErrDamaged
	}
	if err != nil {
		return seal.Key{}, fmt.Errorf("data key %v: %w", id, err)
	}
	key, err := r.o.PrivateKey.OpenDataKey(id, sealed)
	if err != nil {
		return key, fmt.Errorf("data key %v: %w", id, err)
	}
	r.read[id] = key
	return key, nil
}

// put makes an object of one frame.
func (r *Repository) put(ctx context.Context, kind seal.Kind, name string, content []byte) (size int64, err error) {
	key, err := r.openKey(), error(nil)
	if !isOpenFact(name) {
		key, err = r.indexKey(ctx)
	}
	if err != nil {
		return 0, err
	}
	box, err := seal.NewBox(kind, name, key)
	if err != nil {
		return 0, err
	}
	packer, err := smallPacker()
	if err != nil {
		return 0, err
	}
	data := box.Seal(append([]byte(nil), box.Head()...), packer.Pack(nil, content), seal.HeadSize)
	return int64(len(data)), r.store.Create(ctx, name, data)
}

// smallPacker packs what is not of packs.
var smallPacker = sync.OnceValues(func() (*seal.Packer, error) { return seal.NewPacker(1) })

// get reads an object of one frame, whose content has at most so many bytes.
func (r *Repository) get(ctx context.Context, kind seal.Kind, name string, most int) ([]byte, error) {
	content, _, err := r.getSealed(ctx, kind, name, most)
	return content, err
}

// getSealed is get, and says whether the object is encrypted.
func (r *Repository) getSealed(ctx context.Context, kind seal.Kind, name string, most int) (content []byte, isEncrypted bool, err error) {
	data, err := r.store.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, false, err
	}
	box, err := r.open(ctx, kind, name, data)
	if err != nil {
		return nil, false, err
	}
	if content, err = box.Open(nil, data[seal.HeadSize:], seal.HeadSize, most); err != nil {
		return nil, false, fmt.Errorf("%s: %w", name, err)
	}
	return content, box.IsEncrypted(), nil
}

// open opens an object that begins with head.
func (r *Repository) open(ctx context.Context, kind seal.Kind, name string, head []byte) (*seal.Box, error) {
	box, err := seal.OpenBox(kind, name, head, func(id seal.KeyID) (seal.Key, error) {
		if id == (seal.KeyID{}) && isOpenFact(name) {
			return r.openKey(), nil
		}
		return r.readKey(ctx, id)
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return box, nil
}

// checksum returns the CRC-32C of bytes.
func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Fingerprint returns 32 hexadecimal digits that only a repository with the same public key has;
// without one it is empty. A host that only writes knows by it that nobody has put a key
// of his own in the place of the repository's.
func (i Info) Fingerprint() string {
	if !i.Encrypted {
		return ""
	}
	sum := sha256.Sum256(i.PublicKey)
	return hex.EncodeToString(sum[:16])
}
