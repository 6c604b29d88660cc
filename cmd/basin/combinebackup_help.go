package main

import (
	"fmt"
	"io"
)

// helpCombineBackup prints the options of pg_combinebackup.
//
// Source: help in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func helpCombineBackup(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s reconstructs full backups from incrementals.

Usage:
  %[1]s [OPTION]... DIRECTORY...

The directories are the backups of a chain: the full one first, the newest last.

Options:
  -d, --debug               generate lots of debugging output
  -k, --link                link files instead of copying
  -n, --dry-run             do not actually do anything
  -N, --no-sync             do not wait for changes to be written safely to disk
  -o, --output=DIRECTORY    output directory
  -T, --tablespace-mapping=OLDDIR=NEWDIR
                            relocate tablespace in OLDDIR to NEWDIR
      --clone               clone (reflink) files instead of copying
      --copy                copy files (default)
      --copy-file-range     copy using copy_file_range() system call
      --manifest-checksums=SHA{224,256,384,512}|CRC32C|NONE
                            use algorithm for manifest checksums
      --no-manifest         suppress generation of backup manifest
      --sync-method=METHOD  set method for syncing files to disk
  -V, --version             output version information, then exit
  -?, --help                show this help, then exit

Options of basin alone (not to be abbreviated):
      --compress=METHOD[:DETAIL]
                            compress tar files (gzip, lz4, zstd)
      --format=p|t          output format (plain (default), tar); -o - with tar is the
                            standard output
      --jobs=N              files that are made side by side (default: one for each processor)
      --no-verify           do not compare what is read with the manifests of the backups:
                            damage is copied, and may look valid in the new one
  -P, --progress            show progress information
      --temp-dir=DIRECTORY  where compressed tar files are unpacked, and other temporary
                            files go; it needs as much room as they have unpacked

This is basin %[2]s, a stand-in for pg_combinebackup of PostgreSQL %[3]s.
PostgreSQL home page: <https://www.postgresql.org/>
`, called, version, postgresVersion)
	return err
}
