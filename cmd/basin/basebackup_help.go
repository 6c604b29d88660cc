package main

import (
	"fmt"
	"io"
)

// helpBaseBackup prints the options of pg_basebackup, and apart from them our own.
//
// Source: usage in src/bin/pg_basebackup/pg_basebackup.c, PostgreSQL 18; programs read it.
func helpBaseBackup(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s takes a base backup of a running PostgreSQL server.

Usage:
  %[1]s [OPTION]...

Options controlling the output:
  -D, --pgdata=DIRECTORY receive base backup into directory
  -F, --format=p|t       output format (plain (default), tar)
  -i, --incremental=OLDMANIFEST
                         take incremental backup
  -r, --max-rate=RATE    maximum transfer rate to transfer data directory
                         (in kB/s, or use suffix "k" or "M")
  -R, --write-recovery-conf
                         write configuration for replication
  -t, --target=TARGET[:DETAIL]
                         backup target (if other than client)
  -T, --tablespace-mapping=OLDDIR=NEWDIR
                         relocate tablespace in OLDDIR to NEWDIR
      --waldir=WALDIR    location for the write-ahead log directory
  -X, --wal-method=none|fetch|stream
                         include required WAL files with specified method
  -z, --gzip             compress tar output
  -Z, --compress=[{client|server}-]METHOD[:DETAIL]
                         compress on client or server as specified
  -Z, --compress=none    do not compress tar output

General options:
  -c, --checkpoint=fast|spread
                         set fast or spread (default) checkpointing
  -C, --create-slot      create replication slot
  -l, --label=LABEL      set backup label
  -n, --no-clean         do not clean up after errors
  -N, --no-sync          do not wait for changes to be written safely to disk
  -P, --progress         show progress information
  -S, --slot=SLOTNAME    replication slot to use
  -v, --verbose          output verbose messages
  -V, --version          output version information, then exit
      --manifest-checksums=SHA{224,256,384,512}|CRC32C|NONE
                         use algorithm for manifest checksums
      --manifest-force-encode
                         hex encode all file names in manifest
      --no-estimate-size do not estimate backup size in server side
      --no-manifest      suppress generation of backup manifest
      --no-slot          prevent creation of temporary replication slot
      --no-verify-checksums
                         do not verify checksums
      --sync-method=METHOD
                         set method for syncing files to disk
  -?, --help             show this help, then exit

Connection options:
  -d, --dbname=CONNSTR   connection string
  -h, --host=HOSTNAME    database server host or socket directory
  -p, --port=PORT        database server port number
  -s, --status-interval=INTERVAL
                         time between status packets sent to server (in seconds)
  -U, --username=NAME    connect as specified database user
  -w, --no-password      never prompt for password
  -W, --password         force password prompt (should happen automatically)

Options of basin alone (not to be abbreviated):
      --source-pgdata=DIR
                         read the server's data directory, DIR on this host, instead of
                         having the server send it
      --compress-wal     compress pg_wal.tar too if the client compresses with lz4 or zstd,
                         as with gzip it always does
      --log-format=text|json
                         set form of messages (default: text)

This is basin %[2]s, a stand-in for pg_basebackup of PostgreSQL %[3]s.
PostgreSQL home page: <https://www.postgresql.org/>
`, called, version, postgresVersion)
	return err
}
