package main

import (
	"fmt"
	"io"
)

// helpReceiveWAL prints the options of pg_receivewal.
//
// Source: usage in src/bin/pg_basebackup/pg_receivewal.c, PostgreSQL 18.
func helpReceiveWAL(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s receives PostgreSQL streaming write-ahead logs.

Usage:
  %[1]s [OPTION]...

Options:
  -D, --directory=DIR    receive write-ahead log files into this directory
  -E, --endpos=LSN       exit after receiving the specified LSN
      --if-not-exists    do not error if slot already exists when creating a slot
  -n, --no-loop          do not loop on connection lost
      --no-sync          do not wait for changes to be written safely to disk
  -s, --status-interval=SECS
                         time between status packets sent to server (default: 10)
  -S, --slot=SLOTNAME    replication slot to use
      --synchronous      flush write-ahead log immediately after writing
  -v, --verbose          output verbose messages
  -V, --version          output version information, then exit
  -Z, --compress=METHOD[:DETAIL]
                         compress complete segments with gzip, lz4 or zstd
  -?, --help             show this help, then exit

Connection options:
  -d, --dbname=CONNSTR   connection string
  -h, --host=HOSTNAME    database server host or socket directory; several, apart by
                         commas, are the servers of a cluster, of which one is the primary
  -p, --port=PORT        database server port number
  -U, --username=NAME    connect as specified database user
  -w, --no-password      never prompt for password
  -W, --password         force password prompt (should happen automatically)

Optional actions, on each server that is named:
      --create-slot      create a new replication slot (for the slot's name see --slot)
      --drop-slot        drop the replication slot (for the slot's name see --slot)

Options of basin alone (not to be abbreviated):
      --log-format=text|json
                         set form of messages (default: text)
      --metrics-listen=[HOST:]PORT
                         answer Prometheus at /metrics and health checks at /healthz;
                         without HOST to this machine only, with * to all
      --status-file=FILE keep FILE up to date with what is received, as JSON

Examples:
  %[1]s -h db1 -S archive --create-slot --if-not-exists
  %[1]s -h db1 -S archive -D /srv/wal -Z zstd
                         keep all of the log; the slot holds what is not here yet
  %[1]s -d 'host=db1,db2 target_session_attrs=primary' -S archive -D /srv/wal
                         follow the primary of a cluster through its failovers

Exit status: 0 if it was told to end or the end position was reached; 3 if log is missing
that no server and no slot held; 1 for any other failure.

This is basin %[2]s, a stand-in for pg_receivewal of PostgreSQL %[3]s.
PostgreSQL home page: <https://www.postgresql.org/>
`, called, version, postgresVersion)
	return err
}
