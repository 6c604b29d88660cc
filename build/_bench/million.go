package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"basin/internal/manifest"
	"basin/internal/pgdata"
)

// millionSystem is the cluster that a backup of a million files is of.
const millionSystem = 7561234567890123456

// runMillion makes a full backup of a million files in a folder that it makes: of no byte
// each, so that what takes memory is that there are so many of them. Half are of databases,
// with paths of 24 and 28 bytes, half in a tablespace in the folder, with paths of 46 and 50.
func runMillion(args []string) (err error) {
	if len(args) != 1 {
		return errors.New("million: which folder?")
	}
	dir := args[0]
	const databases, relations = 20, 50_000
	if err := os.MkdirAll(filepath.Join(dir, "global"), 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, manifest.Name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	list := manifest.NewWriter(f, millionSystem)
	file := func(path string, content []byte) error {
		sum := manifest.CRC32C.New()
		_, _ = sum.Write(content)
		if err := os.WriteFile(filepath.Join(dir, path), content, 0o644); err != nil {
			return err
		}
		return list.Add(manifest.File{Path: path, Size: int64(len(content)), Algorithm: manifest.CRC32C, Checksum: sum.Sum(nil)}, time.Now())
	}
	for d := range databases {
		within := fmt.Sprintf("base/%d", 4_200_000_000+d)
		if d%2 == 1 {
			within = fmt.Sprintf("pg_tblspc/16400/PG_18_202506291/%d", 16_384+d)
		}
		if err := os.MkdirAll(filepath.Join(dir, within), 0o755); err != nil {
			return err
		}
		for r := range relations {
			path := fmt.Sprintf("%s/%d%s", within, 10_000_000+r/2, []string{"", "_fsm"}[r%2])
			if err := file(path, nil); err != nil {
				return err
			}
		}
	}
	for path, content := range map[string][]byte{
		"PG_VERSION": []byte("18\n"), pgdata.ControlPath: millionControl(),
		pgdata.LabelPath: []byte("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nSTART TIMELINE: 1\n"),
	} {
		if err := file(path, content); err != nil {
			return err
		}
	}
	return list.Finish([]manifest.Range{{Timeline: 1, Start: 0x2000028, End: 0x2000120}})
}

// millionControl returns a control file with nothing in it but which cluster it is of.
func millionControl() []byte {
	const version, end = 1800, 292 // of 18, and where the checksum is
	content := make([]byte, pgdata.ControlSize)
	binary.LittleEndian.PutUint64(content, millionSystem)
	binary.LittleEndian.PutUint32(content[8:], version)
	binary.LittleEndian.PutUint32(content[end:], crc32.Checksum(content[:end], crc32.MakeTable(crc32.Castagnoli)))
	return content
}
