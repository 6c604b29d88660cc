package main

import (
	"fmt"
	"io"
)

// helpReceive prints what receive does.
func helpReceive(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s receives the log of a running server into a repository, as it is written:
what can be restored is a second old at most, where archive_command takes until a segment is
full. It goes on where the log in the repository ends, and comes back by itself when the
server was not there, or another one was promoted.

Usage:
  %[1]s [OPTION]...

What comes is durable at once in the spool, a directory on this host, and goes to the
repository from there: every second, or MiB, what is new of a segment, and each segment once
it is complete. When the repository is not reached the spool fills up to its limit; then
nothing more is received, and the server has to hold the log in its slot. Nothing is lost.
After a crash the log in the spool is pushed by the next start, with or without a server.

Options:
  -S, --slot=SLOTNAME         replication slot to use: it holds the log until it is here.
                              Without one the server may remove log before it was received
      --create-slot           make the slot if it is not there
      --synchronous           make durable, and acknowledge, each piece of log at once; for a
                              server that has this receiver in synchronous_standby_names
      --ack=spool|repository  acknowledge log as flushed when it is durable in the spool (the
                              default), or only when it is in the repository: with that a
                              commit that was waited for survives the loss of this host too,
                              and each takes as long as the repository does
      --spool=DIR             the spool (default: %[2]s/CLUSTER); it is this
                              receiver's alone, and survives restarts of the machine
      --spool-limit=SIZE      how much log may wait for the repository, such as 4GiB
                              (default: 1GiB); it is warned of at a half
  -s, --status-interval=SECS  time between status packets sent to server (default: 10)
  -E, --endpos=LSN            exit after receiving the specified LSN
  -n, --no-loop               do not loop on connection lost
  -v, --verbose               output verbose messages
      --log-format=text|json  print messages as text, or as lines of JSON
      --metrics-listen=[HOST:]PORT
                              answer Prometheus at /metrics and health checks at /healthz
      --status-file=FILE      keep FILE up to date with what is received, as JSON
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

Connection options:
  -d, --dbname=CONNSTR        connection string (default: the cluster's in the configuration)
  -h, --host=HOSTNAME         database server host or socket directory; several, apart by
                              commas, are the servers of a cluster
  -p, --port=PORT             database server port number
  -U, --username=NAME         connect as specified database user, who needs REPLICATION
  -w, --no-password           never prompt for password
  -W, --password              force password prompt (should happen automatically)

%[3]s
Examples:
  %[1]s --repository=/srv/backups -h db1 -S basin --create-slot --spool=/srv/spool
                 all of the log; the slot holds what is not here yet
  %[1]s --repository=s3://backups/prod -d 'host=db1,db2 target_session_attrs=primary' \
      -S basin --create-slot --synchronous
                 follow the primary of a cluster through failovers, and let its commits wait
                 for this host: synchronous_standby_names = 'basin'

Exit status: 0 if it was told to end or the end position was reached; 3 if log is missing that
no server and no slot held; 1 for any other failure.
`, called, defaultSpool, helpRepositoryOptions)
	return err
}
