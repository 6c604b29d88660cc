package main

import (
	"fmt"
	"io"

	"basin/internal/server"
)

// helpServe prints the options of serve.
func helpServe(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s answers replication clients beside a running PostgreSQL cluster:
pg_basebackup, pg_receivewal, pg_recvlogical, barman, and standbys.

Usage:
  %[1]s --pgdata=DIR [OPTION]...
  %[1]s --users=FILE --add-user=NAME

It runs on the cluster's host, as a user who may read the data directory, and connects as a
role that may replicate and begin backups; docs/serve.md has the grants. Clients see the
cluster itself: its version, its system identifier, its slots.

SIGHUP has rules, users and certificates read again. SIGTERM ends it: backups that run are
given up, streams have a minute to bring clients what is left.

Options:
  -D, --pgdata=DIR       data directory of the cluster
  -l, --listen=[HOST:]PORT
                         where to listen (default: %[2]s); without HOST this machine
                         only, with * all addresses
  -r, --max-rate=RATE    maximum rate of all base backups together (in kB/s, or use
                         suffix "k" or "M")
      --compression-workers=N
                         workers that compress for all base backups together; each has
                         one at least (default: one for each processor)
      --max-backups=N    base backups at a time, further ones are refused (default: %[3]d)
      --max-connections=N
                         clients at a time (default: %[4]d)
      --target-directory=DIR
                         clients may store base backups below this directory, with
                         pg_basebackup --target=server:DIR/NAME
      --temp-dir=DIR     keep manifests that clients send here, and those that are made
                         (default: TMPDIR, or /tmp)
      --timeout=SECS     give up clients of the log that are silent for so long
                         (default: 60; 0 is never)
      --wal-archive=DIR  read log here that the cluster has removed: complete segments,
                         plain or compressed
  -v, --verbose          output verbose messages
  -V, --version          output version information, then exit
  -?, --help             show this help, then exit

Options of who is let in (the files are read again at SIGHUP):
      --hba=FILE         rules in the form of pg_hba.conf; without, everyone who has a
                         password, over TLS or from this machine
      --users=FILE       users and their passwords; without, the cluster's own roles
                         with the attribute REPLICATION
      --add-user=NAME    ask for a password and write it to the file of users
      --allow-remote-trust
                         allow rules that trust clients of other machines
      --tls-cert=FILE    certificate for TLS
      --tls-key=FILE     its key
      --tls-client-ca=FILE
                         who vouches for the certificates of clients

Connection options, for the cluster:
  -d, --dbname=CONNSTR   connection string (default database: postgres)
  -h, --host=HOSTNAME    database server host or socket directory
  -p, --port=PORT        database server port number
  -U, --username=NAME    connect as specified database user
  -w, --no-password      never prompt for password
  -W, --password         force password prompt (should happen automatically)

What is told (not to be abbreviated):
      --log-format=text|json
                         set form of messages (default: text)
      --metrics-listen=[HOST:]PORT
                         answer Prometheus at /metrics and health checks at /healthz

Examples:
  %[1]s -D /var/lib/postgresql/18/main -U basin
  %[1]s -D /srv/pg -l '*:5442' --tls-cert=server.crt --tls-key=server.key
  %[1]s --users=main.users --add-user=barman
  pg_basebackup -h db1 -p 5442 -D backup -Z server-zstd:workers=4

This is basin %[5]s.
`, called, defaultListen, server.DefaultMaxBackups, server.DefaultMaxConnections, version)
	return err
}
