package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// KeyID names a data key. Zero is the secret of a repository that is not encrypted.
type KeyID [16]byte

// String returns the 32 hexadecimal digits of the identifier.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// ParseKeyID is the inverse of String.
func ParseKeyID(s string) (id KeyID, err error) {
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("%q is not the identifier of a key", s)
	}
	_, err = hex.Decode(id[:], []byte(s))
	return id, err
}

// Secret is what keys are derived from.
type Secret [secretSize]byte

// NewSecret draws a secret by lot.
func NewSecret() (s Secret) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// Key is what objects are sealed with: a data key of one writer, or the secret of a repository
// that is not encrypted.
type Key struct {
	ID       KeyID
	Secret   Secret
	Encrypts bool // else objects are authenticated alone
}

// SealedKeySize is how many bytes a sealed data key has: an encapsulated key, a secret and a tag.
const SealedKeySize = 1120 + secretSize + tagSize

// dataKeyInfo is said to HPKE of a data key, before its identifier.
const dataKeyInfo = "basin data key"

// PublicKey is the half of a repository's key with which is written.
type PublicKey struct{ key hpke.PublicKey }

// PrivateKey is the half of a repository's key with which is read.
type PrivateKey struct{ key hpke.PrivateKey }

// kem is how a data key is sealed to the repository's key.
func kem() hpke.KEM { return hpke.MLKEM768X25519() }

// NewPrivateKey draws a repository's key by lot.
func NewPrivateKey() (PrivateKey, error) {
	key, err := kem().GenerateKey()
	return PrivateKey{key}, err
}

// ParsePrivateKey is the inverse of Bytes.
func ParsePrivateKey(b []byte) (PrivateKey, error) {
	key, err := kem().NewPrivateKey(b)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("private key: %w", err)
	}
	return PrivateKey{key}, nil
}

// Bytes returns the key as it is kept.
func (k PrivateKey) Bytes() ([]byte, error) { return k.key.Bytes() }

// Public returns the other half.
func (k PrivateKey) Public() PublicKey { return PublicKey{k.key.PublicKey()} }

// ParsePublicKey is the inverse of Bytes.
func ParsePublicKey(b []byte) (PublicKey, error) {
	key, err := kem().NewPublicKey(b)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return PublicKey{key}, nil
}

// Bytes returns the key as it is kept.
func (k PublicKey) Bytes() []byte { return k.key.Bytes() }

// NewDataKey draws a data key by lot, and seals it so that the private key opens it.
func (k PublicKey) NewDataKey() (key Key, sealed []byte, err error) {
	key = Key{Secret: NewSecret(), Encrypts: true}
	_, _ = rand.Read(key.ID[:]) // never fails
	sealed, err = hpke.Seal(k.key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(dataKeyInfo+key.ID.String()), key.Secret[:])
	return key, sealed, err
}

// OpenDataKey returns a data key. One that was not sealed to this private key, or under another identifier, is ErrDamaged.
func (k PrivateKey) OpenDataKey(id KeyID, sealed []byte) (Key, error) {
	secret, err := hpke.Open(k.key, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(dataKeyInfo+id.String()), sealed)
	if err != nil || len(secret) != secretSize {
		return Key{}, ErrDamaged
	}
	return Key{ID: id, Secret: Secret(secret), Encrypts: true}, nil
}

// Digest is what a block is known by. It is keyed: who does not have the key can make no
// two blocks of one digest. Zero is that of a block of zeros.
type Digest [8]byte

// Digester makes digests. It may be used from several goroutines.
type Digester struct{ mac cipher.AEAD }

// NewDigester returns what makes the digests that go with a key.
func NewDigester(key Key) (*Digester, error) {
	derived, err := hkdf.Key(sha256.New, key.Secret[:], nil, "basin digest", secretSize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	mac, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Digester{mac: mac}, nil
}

// Sum returns the digest of a block that has a byte other than zero.
func (d *Digester) Sum(block []byte) Digest {
	var nonce [12]byte
	var tag [tagSize]byte
	return Digest(d.mac.Seal(tag[:0], nonce[:], nil, block)[:8])
}
