package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// runMillion makes a backup of a million files in a folder that it makes: of no byte each,
// so that what takes memory is that there are so many of them. Half are of databases, with
// paths of 24 and 28 bytes, half in a tablespace, with paths of 46 and 50.
func runMillion(args []string) (err error) {
	if len(args) != 1 {
		return errors.New("million: which folder?")
	}
	const databases, relations = 20, 50_000
	if err := os.Mkdir(args[0], 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(args[0], "backup_manifest"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	manifest := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	file := func(path, end string) {
		fmt.Fprintf(manifest, "{ \"Path\": \"%s\", \"Size\": 0, \"Last-Modified\": \"2026-11-26 10:00:00 GMT\", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"00000000\" }%s\n", path, end)
	}
	fmt.Fprint(manifest, "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n")
	for d := range databases {
		within := fmt.Sprintf("base/%d", 4_200_000_000+d)
		if d%2 == 1 {
			within = fmt.Sprintf("pg_tblspc/16400/PG_18_202506291/%d", 16_384+d)
		}
		if err := os.MkdirAll(filepath.Join(args[0], within), 0o755); err != nil {
			return err
		}
		for r := range relations {
			path := fmt.Sprintf("%s/%d%s", within, 10_000_000+r/2, []string{"", "_fsm"}[r%2])
			if err := os.WriteFile(filepath.Join(args[0], path), nil, 0o644); err != nil {
				return err
			}
			file(path, ",")
		}
	}
	if err := os.WriteFile(filepath.Join(args[0], "PG_VERSION"), nil, 0o644); err != nil {
		return err
	}
	file("PG_VERSION", "")
	fmt.Fprint(manifest, "],\n\"WAL-Ranges\": [\n],\n")
	if err := manifest.Flush(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "\"Manifest-Checksum\": \"%x\"}\n", sum.Sum(nil))
	return err
}
