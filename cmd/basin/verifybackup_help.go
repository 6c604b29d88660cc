package main

import (
	"fmt"
	"io"
)

// helpVerifyBackup prints the options of pg_verifybackup.
//
// Source: usage in src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18.
func helpVerifyBackup(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s verifies a backup against the backup manifest.

Usage:
  %[1]s [OPTION]... BACKUPDIR
  %[1]s [OPTION]... FULLBACKUPDIR INCREMENTALBACKUPDIR...

Several directories are a chain of backups, the full one first: each is verified,
and that together they make one.

Options:
  -e, --exit-on-error         exit immediately on error
  -F, --format=p|t            backup format (plain, tar)
  -i, --ignore=RELATIVE_PATH  ignore indicated path
  -m, --manifest-path=PATH    use specified path for manifest
  -n, --no-parse-wal          do not try to parse WAL files
  -P, --progress              show progress information
  -q, --quiet                 do not print any output, except for errors
  -s, --skip-checksums        skip checksum verification
  -w, --wal-directory=PATH    use specified path for WAL files
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

Options of basin alone (not to be abbreviated):
      --json                  print the result as JSON: verified, files, bytes, problems
      --page-checksums        verify the checksum of every page of relations too, which finds
                              what was damaged before the backup; the cluster must have them
      --temp-dir=DIRECTORY    where compressed tar files of a chain are unpacked

The log of any server that writes manifests, from PostgreSQL 13 on, is read
without pg_waldump.

This is basin %[2]s, a stand-in for pg_verifybackup of PostgreSQL %[3]s.
PostgreSQL home page: <https://www.postgresql.org/>
`, called, version, postgresVersion)
	return err
}
