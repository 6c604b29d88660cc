package catalog

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// relationMap says in which files the relations are whose pg_class row does not say it: file numbers by OID.
type relationMap map[uint32]uint32

// errMap is a pg_filenode.map that is not as it should be.
var errMap = errors.New("it is not a relation mapping file, or is damaged")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parseRelationMap reads a pg_filenode.map. Up to PostgreSQL 15 it has room for 62 relations, and ends in four bytes
// that mean nothing; from 16 on for 64.
//
// Source: RelMapFile in src/backend/utils/cache/relmapper.c, PostgreSQL 13 to 18.
func parseRelationMap(content []byte) (relationMap, error) {
	var room int
	switch len(content) {
	case 512:
		room = 62
	case 524:
		room = 64
	default:
		return nil, errMap
	}
	const magic = 0x592717 // RELMAPPER_FILEMAGIC
	end := 8 + 8*room
	count := binary.LittleEndian.Uint32(content[4:])
	if binary.LittleEndian.Uint32(content) != magic || count > uint32(room) ||
		crc32.Checksum(content[:end], castagnoli) != binary.LittleEndian.Uint32(content[end:]) {
		return nil, errMap
	}
	m := make(relationMap)
	for at := 8; at < 8+8*int(count); at += 8 {
		m[binary.LittleEndian.Uint32(content[at:])] = binary.LittleEndian.Uint32(content[at+4:])
	}
	return m, nil
}
