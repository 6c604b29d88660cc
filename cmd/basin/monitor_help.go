package main

import (
	"fmt"
	"io"
)

// helpConnectionOptions are the lines of help of the options that say which server is meant.
const helpConnectionOptions = `Options that say which server:
  -d, --dbname=CONNSTR        connection string, or URI
  -h, --host=HOSTNAME         database server host or socket directory
  -p, --port=PORT             database server port number
  -U, --username=NAME         connect as specified database user
  -w, --no-password           never prompt for password
  -W, --password              force password prompt (should happen automatically)
`

// helpStatus prints what status does.
func helpStatus(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s tells a monitoring system how the clusters of a repository are.

Usage:
  %[1]s [OPTION]...

Of each cluster, or of the one that --cluster names: how old the last good backup is; what
the newest state is that can be restored, which is the end of the log that leads there from
that backup without a gap; when it was verified and what was found damaged; pins; backups that
were broken off. No connection is made to any server, unless one is named: then also how far
it is ahead of the repository, and how its archive_command and slots do.

The first line is that of a plugin of Nagios, and so is the exit status:
  0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN

Limits are AGE, past which there is a warning, and past twice of which it is critical, or
AGE:AGE, or off. An AGE is 90m, 26h, 7d or 4w.

Options:
      --max-backup-age=LIMIT  of the last good backup (default: 26h:52h)
      --max-log-age=LIMIT     of the newest state that can be restored (default: 1h:2h). Of a
                              cluster to which nothing is written it is the last transaction
                              that counts, unless a server is named that has no more
      --max-verify-age=LIMIT  of the last verification (default: 35d:70d)
      --min-free=NUM%%[:NUM%%]  what is to be free where a repository on disk is (default: 5%%:1%%)
  -j, --jobs=NUM              so many clusters at the same time (default: 16)
      --timeout=SECONDS       for everything (default: 60); what is not known then is UNKNOWN
      --prometheus=FILE       also write metrics to FILE, in one step, for the textfile
                              collector of Prometheus' node exporter: let it end in .prom
      --json                  print it as JSON, in the shape that docs/repository.md has
      --log-format=text|json  print messages as text, or as lines of JSON
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[3]s
%[2]s
Examples:
  %[1]s --repository=/srv/backups
                 all clusters
  %[1]s --repository=/srv/backups --cluster=shop --max-log-age=10m -d "host=db1"
                 one, and what its server says
  %[1]s --repository=s3://backups/prod --prometheus=/var/lib/node_exporter/basin.prom
                 from a timer, every five minutes
`, called, helpRepositoryOptions, helpConnectionOptions)
	return err
}

// helpCheck prints what check does.
func helpCheck(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s tells, item by item, whether all is as it must be for backups, and what to do.

Usage:
  %[1]s [OPTION]...

Of the server: connection, privileges, with the statements that grant what is missing, version,
wal_level, archive_mode, whether archive_command leads to this repository and how it does,
connections and slots that a backup needs, slots that nobody reads, checksums, clock. Of the
repository: whether it can be reached and written to, refuses to overwrite (an object is made
and removed), this host has the key, free space, clock, and how backups and log of the cluster
are, by the limits of basin status. Nothing is changed.

  ✓ is as it should be    ! is a warning    ✗ is an error

The exit status is 1 if there is an error, else 0.

Options:
  -D, --pgdata=DIR            data directory of the server on this host, for backups that read
                              it here
      --repository-only       ask no server
      --timeout=SECONDS       for the server, and again for each repository (default: 60)
      --json                  print it as JSON, in the shape that docs/repository.md has
      --log-format=text|json  print messages as text, or as lines of JSON
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[3]s
%[2]s
Examples:
  %[1]s --repository=/srv/backups -d "host=db1 user=basin"
  %[1]s --repository=s3://backups/prod --repository-only
`, called, helpRepositoryOptions, helpConnectionOptions)
	return err
}

// helpRestored prints what restored does.
func helpRestored(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s tells whether a restored cluster has come to its target.

Usage:
  %[1]s [OPTION]... DIRECTORY

DIRECTORY is the data directory that basin restore made. Where the target was is in its
postgresql.auto.conf. If a server runs there it is asked, by the socket that postmaster.pid
names unless a connection is given: whether it recovers, pauses or was promoted, up to which
position and which transaction, and what is left to look after: prepared transactions, indexes
that are not valid, collations that sort otherwise on this host. If none runs, the control file
and the timeline's history tell.

The exit status is 0 only if the target was reached.

Options:
      --wait=SECONDS          look until it is reached, or cannot be any more, so long at most
      --timeout=SECONDS       for the answers of the server (default: 60)
      --json                  print it as JSON, in the shape that docs/repository.md has
      --log-format=text|json  print messages as text, or as lines of JSON
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[2]s
Examples:
  %[1]s /srv/restored
  %[1]s --wait=3600 -U postgres /srv/restored && psql -c 'SELECT pg_promote()'
                 after a start: goes on once the target is reached
`, called, helpConnectionOptions)
	return err
}
