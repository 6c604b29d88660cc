package wal

import (
	"hash/crc32"
	"slices"
)

// keptOfPiece is how many bytes a Piece has at most: enough for all records that a Summary
// tells of, but for those with long lists or paths.
const keptOfPiece = 256

// Piece is what one segment has of a record that other segments have, too.
type Piece struct {
	Length int64  `json:"length"` // bytes
	Sum    uint32 `json:"sum"`    // CRC-32C of them
	Bytes  []byte `json:"bytes"`  // the first of them
}

// add takes the next bytes of the record.
func (p *Piece) add(b []byte) {
	if p.isWhole() {
		p.Bytes = append(p.Bytes, b[:min(len(b), keptOfPiece-len(p.Bytes))]...)
	}
	p.Length += int64(len(b))
	p.Sum = crc32.Update(p.Sum, castagnoli, b)
}

// isWhole says whether Bytes has all bytes, so that more can be added.
func (p *Piece) isWhole() bool { return int64(len(p.Bytes)) == p.Length }

// joined returns p and what follows it as one.
func (p Piece) joined(next Piece) Piece {
	result := Piece{
		Length: p.Length + next.Length,
		Sum:    shiftSum(p.Sum, next.Length) ^ next.Sum,
		Bytes:  slices.Clip(p.Bytes),
	}
	if p.isWhole() {
		result.Bytes = append(result.Bytes, next.Bytes[:min(len(next.Bytes), max(0, keptOfPiece-len(p.Bytes)))]...)
	}
	return result
}

// withoutFirst returns the checksum of p without its first n bytes, which Bytes has.
func (p Piece) withoutFirst(n int) uint32 {
	return p.Sum ^ shiftSum(crc32.Checksum(p.Bytes[:n], castagnoli), p.Length-int64(n))
}

// shiftSum returns what the CRC-32C of some bytes adds to that of them and n more bytes: the
// sum of all is this and, exclusively or, that of the n bytes.
//
// A checksum is a polynomial over two elements, its highest bit the coefficient of 1, modulo
// that of CRC-32C. It is multiplied by x to the power of 8n.
func shiftSum(sum uint32, n int64) uint32 {
	power := uint32(1) << (31 - 8) // x to the power of 8, then of 16, 32 and so on
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			sum = multiplySums(sum, power)
		}
		power = multiplySums(power, power)
	}
	return sum
}

// multiplySums returns the product of two polynomials.
func multiplySums(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		if b&1 != 0 {
			b = b>>1 ^ crc32.Castagnoli
		} else {
			b >>= 1
		}
	}
	return product
}
