package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// Kind is what a sealed object holds: an object of one kind is never taken for one of another.
type Kind uint8

// Sizes in bytes of a box, as FORMAT.md has them.
const (
	HeadSize = 64
	// Overhead is how much larger than its content a frame is at most.
	Overhead   = 1 + tagSize
	tagSize    = 16
	saltSize   = 32
	secretSize = 32
)

// Ways in which a frame's content is packed.
const (
	packedAsIs byte = 0
	packedZstd byte = 1
)

var (
	boxMagic   = [4]byte{'B', 'S', 'N', '1'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// ErrDamaged is an object, or a part of one, that is not what was written under its name.
var ErrDamaged = errors.New("it is damaged, or not what was written under this name")

// Box seals the frames of one object, and opens them. It may be used from several goroutines.
type Box struct {
	head      [HeadSize]byte
	aead      cipher.AEAD
	encrypted bool
}

// NewBox returns what seals the frames of a new object. name is that in the repository.
func NewBox(kind Kind, name string, key Key) (*Box, error) {
	b := &Box{encrypted: key.Encrypts}
	copy(b.head[:], boxMagic[:])
	b.head[4] = byte(kind)
	if key.Encrypts {
		b.head[5] = 1
		copy(b.head[8:], key.ID[:])
	}
	_, _ = rand.Read(b.head[24 : 24+saltSize]) // never fails
	binary.LittleEndian.PutUint32(b.head[60:], crc32.Checksum(b.head[:60], castagnoli))
	return b, b.derive(name, key.Secret)
}

// IsHead says whether a sealed object of whatever kind can begin so.
func IsHead(head []byte) bool {
	return len(head) >= HeadSize && [4]byte(head[:4]) == boxMagic && crc32.Checksum(head[:60], castagnoli) == binary.LittleEndian.Uint32(head[60:]) && head[5] <= 1
}

// OpenBox returns what opens the frames of an object that begins with head. find returns
// the key of an identifier, which is zero for an object that is not encrypted.
func OpenBox(kind Kind, name string, head []byte, find func(id KeyID) (Key, error)) (*Box, error) {
	b := new(Box)
	if !IsHead(head) || head[4] != byte(kind) {
		return nil, fmt.Errorf("its head: %w", ErrDamaged)
	}
	copy(b.head[:], head)
	b.encrypted = b.head[5] == 1
	key, err := find(KeyID(b.head[8:24]))
	if err != nil {
		return nil, err
	}
	if key.Encrypts != b.encrypted {
		return nil, fmt.Errorf("its head: %w", ErrDamaged)
	}
	return b, b.derive(name, key.Secret)
}

// derive makes the key of the object.
func (b *Box) derive(name string, secret Secret) error {
	info := append([]byte("basin object\x00"), b.head[4])
	key, err := hkdf.Key(sha256.New, secret[:], b.head[24:24+saltSize], string(append(info, name...)), secretSize)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	b.aead, err = cipher.NewGCM(block)
	return err
}

// IsEncrypted says whether the object is encrypted, and not authenticated alone.
func (b *Box) IsEncrypted() bool { return b.encrypted }

// Head returns what the object begins with, HeadSize bytes.
func (b *Box) Head() []byte { return b.head[:] }

// Seal appends the frame of a content that Pack has packed. offset is where the frame
// begins in the object, in bytes; there is one frame at an offset.
func (b *Box) Seal(dst, packed []byte, offset int64) []byte {
	nonce := frameNonce(offset)
	if b.encrypted {
		return b.aead.Seal(dst, nonce[:], packed, nil)
	}
	return b.aead.Seal(append(dst, packed...), nonce[:], nil, packed)
}

// Open appends the content of a frame to dst, which is at most size bytes. The frame is used
// as scratch.
func (b *Box) Open(dst, frame []byte, offset int64, size int) ([]byte, error) {
	if len(frame) < Overhead {
		return dst, fmt.Errorf("at byte %d: %w", offset, ErrDamaged)
	}
	nonce := frameNonce(offset)
	packed := frame[:len(frame)-tagSize]
	var err error
	if b.encrypted {
		packed, err = b.aead.Open(frame[:0], nonce[:], frame, nil)
	} else {
		_, err = b.aead.Open(nil, nonce[:], frame[len(packed):], packed)
	}
	if err != nil {
		return dst, fmt.Errorf("at byte %d: %w", offset, ErrDamaged)
	}
	content, err := Unpack(dst, packed, size)
	if err != nil {
		return dst, fmt.Errorf("at byte %d: %w", offset, err)
	}
	return content, nil
}

// frameNonce returns the nonce of the frame at an offset.
func frameNonce(offset int64) (nonce [12]byte) {
	binary.BigEndian.PutUint64(nonce[4:], uint64(offset))
	return nonce
}

// Packer packs the contents of frames. It may be used from several goroutines.
type Packer struct{ encoder *zstd.Encoder }

// NewPacker returns a packer that compresses as the zstd level says, 1 to 22.
func NewPacker(level int) (*Packer, error) {
	// With a window set, a block has 128 KiB at the fastest level too: what fits into one is packed without its history.
	e, err := zstd.NewWriter(nil, zstd.WithWindowSize(4<<20), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, err
	}
	return &Packer{encoder: e}, nil
}

// Pack appends a content in packed form, which is one byte larger at most.
func (p *Packer) Pack(dst, content []byte) []byte {
	begun := len(dst)
	dst = p.encoder.EncodeAll(content, append(dst, packedZstd))
	if len(dst)-begun-1 < len(content) {
		return dst
	}
	return append(append(dst[:begun], packedAsIs), content...)
}

// unpacker decompresses frames; it has no goroutine, and nothing to be closed for.
var unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderMaxMemory(zstdMaxWindow))

// Unpack appends what Pack made its argument of, which is at most size bytes.
func Unpack(dst, packed []byte, size int) ([]byte, error) {
	if len(packed) == 0 {
		return dst, ErrDamaged
	}
	switch rest := packed[1:]; packed[0] {
	case packedAsIs:
		if len(rest) > size {
			return dst, ErrDamaged
		}
		return append(dst, rest...), nil
	case packedZstd:
		var head zstd.Header
		if err := head.Decode(rest); err != nil || !head.HasFCS || head.FrameContentSize > uint64(size) {
			return dst, ErrDamaged
		}
		content, err := unpacker.DecodeAll(rest, dst)
		if err != nil || len(content)-len(dst) > size {
			return dst, ErrDamaged
		}
		return content, nil
	}
	return dst, ErrDamaged
}
