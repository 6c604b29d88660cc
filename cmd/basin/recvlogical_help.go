package main

import (
	"fmt"
	"io"
)

// helpRecvLogical prints the options of pg_recvlogical, and apart from them our own.
//
// Source: usage in src/bin/pg_basebackup/pg_recvlogical.c, PostgreSQL 18; programs read it.
func helpRecvLogical(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s controls PostgreSQL logical decoding streams.

Usage:
  %[1]s [OPTION]...

Action to be performed:
      --create-slot      create a new replication slot (for the slot's name see --slot)
      --drop-slot        drop the replication slot (for the slot's name see --slot)
      --start            start streaming in a replication slot (for the slot's name see --slot)

Options:
      --enable-failover  enable replication slot synchronization to standby servers when
                         creating a replication slot
  -E, --endpos=LSN       exit after receiving the specified LSN
  -f, --file=FILE        receive log into this file, - for stdout
  -F  --fsync-interval=SECS
                         time between fsyncs to the output file (default: 10)
      --if-not-exists    do not error if slot already exists when creating a slot
  -I, --startpos=LSN     where in an existing slot should the streaming start
  -n, --no-loop          do not loop on connection lost
  -o, --option=NAME[=VALUE]
                         pass option NAME with optional value VALUE to the
                         output plugin
  -P, --plugin=PLUGIN    use output plugin PLUGIN (default: test_decoding)
  -s, --status-interval=SECS
                         time between status packets sent to server (default: 10)
  -S, --slot=SLOTNAME    name of the logical replication slot
  -t, --enable-two-phase enable decoding of prepared transactions when creating a slot
      --two-phase        (same as --enable-two-phase, deprecated)
  -v, --verbose          output verbose messages
  -V, --version          output version information, then exit
  -?, --help             show this help, then exit

Connection options:
  -d, --dbname=DBNAME    database to connect to
  -h, --host=HOSTNAME    database server host or socket directory
  -p, --port=PORT        database server port number
  -U, --username=NAME    connect as specified database user
  -w, --no-password      never prompt for password
  -W, --password         force password prompt (should happen automatically)

Options of basin alone (not to be abbreviated):
      --log-format=text|json
                         set form of messages (default: text)
      --receiver-timeout=SECS
                         give a server up that says nothing for so long, although asked
                         (default: %[4]d; 0 waits for ever)

This is basin %[2]s, a stand-in for pg_recvlogical of PostgreSQL %[3]s.
PostgreSQL home page: <https://www.postgresql.org/>
`, called, version, postgresVersion, int(defaultReceiverTimeout.Seconds()))
	return err
}
