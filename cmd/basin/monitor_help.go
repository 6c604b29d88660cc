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
  %[1]s --repository=/srv/backups --cluster=shop --max-log-age=10m -d "host=db1 user=basin"
                 one, and what its server says
  %[1]s --repository=s3://backups/prod --prometheus=/var/lib/node_exporter/basin.prom
                 from a timer, every five minutes
`, called, helpRepositoryOptions, helpConnectionOptions)
	return err
}
