package main

import (
	"fmt"
	"io"
)

// helpBackup prints the options of basin backup.
func helpBackup(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s takes a backup of a running cluster into a repository.

Usage:
  %[1]s [OPTION]...

Each backup restores by itself, and any can be removed without the others; of what did not
change since the newest one nothing is stored again. Of servers of version 17 on with
summarize_wal = on it is not even read: -v says whether, and why not. The log that the backup
needs is stored with it. A backup is there once the command has said so, and not before.

Options:
  -D, --pgdata=DIRECTORY     read the cluster's data directory, on this host; else the server
                             sends the files
  -l, --label=LABEL          what the backup is called in lists
      --full                 store everything again
      --full-scan            read every page, even where summaries of the log name what changed
      --full-scan-every=AGE  do that if it was last done so long ago, as 36h, 14d or 4w
                             (default: 30d)
  -c, --checkpoint=fast|spread
                             have the server write what is dirty at once, or take its time
                             (default: spread)
  -r, --max-rate=RATE        transfer no more a second (in kB/s, or use suffix "k" or "M")
  -j, --jobs=N               how much is compressed at once (default: one for each processor)
      --no-slot              keep the log on the server by no temporary replication slot
      --no-verify-checksums  do not verify the checksums of pages
      --json                 print the backup as JSON
  -P, --progress             show progress information
  -v, --verbose              say what is done
  -V, --version              output version information, then exit
  -?, --help                 show this help, then exit

%[2]s
Connection:
  -d, --dbname=CONNSTR       connection string
  -h, --host=HOSTNAME        database server host or socket directory
  -p, --port=PORT            database server port number
  -U, --username=NAME        connect as specified database user
  -w, --no-password          never prompt for password
  -W, --password             force password prompt (should happen automatically)

The role needs REPLICATION, and with --pgdata the right to call pg_backup_start and
pg_backup_stop. A backup of pages whose checksums are wrong is kept, marked as damaged, and
ends with status 1.

Configuration outside of the data directory, as Debian has it in /etc/postgresql, is saved,
with what it includes, but no keys of TLS. For that the role has to be let read it, or to read
it here with --pgdata; if it cannot be read the backup says so, with the GRANT that is missing.

Example:
  %[1]s --repository=/srv/backup -d "host=db1 user=backup" -c fast -P
`, called, helpRepositoryOptions)
	return err
}

// helpRestore prints the options of basin restore.
func helpRestore(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s restores a cluster from a repository.

Usage:
  %[1]s -D DIRECTORY [OPTION]...
  %[1]s -D DIRECTORY --file=WHAT... [-b BACKUP]

The newest backup from which the target can be reached is chosen, and the log between both is
proved to be there before anything is written. Then the data directory is made, with what has
the server recover up to the target when it is started; that gets the log from the repository.
A restore that is refused leaves nothing; one that is interrupted goes on when it is run again.
If the server had its configuration elsewhere, the directory gets one that is made of it, so
that it can be started where it is; the plan says how, and nothing is written to /etc.

Options:
  -D, --pgdata=DIRECTORY     where to; it must be absent or empty, without --delta
  -T, --tablespace-mapping=OLDDIR=NEWDIR
                             relocate tablespace in OLDDIR to NEWDIR
      --delta                make the data directory that is there the backup, with its
                             tablespaces: what is equal by content stays, what differs is
                             fetched, and all else in it is removed
      --discard-wal          do so although log would be lost that is in its pg_wal alone
      --over-cluster=NUMBER|unknown
                             do so although it is the cluster with this system identifier
  -b, --backup=ID            this backup, and no other: its ID, the beginning of it, or latest
  -n, --dry-run              print the plan and do nothing
      --json                 print the plan, and what came of it, as JSON once all is done, in the
                             shape that docs/repository.md has
      --no-space-check       try it although the disks seem to be too small
  -F, --format=plain|tar     a data directory (default), or tar files in DIRECTORY, as
                             pg_basebackup makes them; the directory "-" is the standard output
  -Z, --compress=METHOD[:DETAIL]
                             compress tar files by gzip, lz4 or zstd
      --standby              a standby, which goes on with the log for as long as it comes
      --keep-archive-mode    the restored cluster archives as the source does; else
                             archive_mode is off, so that it does not mix its log with the
                             source's
  -j, --jobs=N               files that are made side by side (default: one for each processor)
  -N, --no-sync              do not wait for changes to be written safely to disk
  -P, --progress             show progress information
  -V, --version              output version information, then exit
  -?, --help                 show this help, then exit

Target (default: the end of the log that is there without a gap):
      --target-time=TIME     such as "2026-11-26 14:30:00+01", or with a zone's name,
                             "2026-11-26 14:30 Europe/Berlin"; without either it is this host's
      --target-lsn=LSN       a position in the log
      --target-xid=XID       a transaction, the end of which is looked for in the log
      --target-name=NAME     a restore point
      --target-immediate     the end of the backup
      --target-exclusive     stop right before the target
      --target-timeline=N    follow the log to this timeline (default: the newest that comes
                             from the backup)
      --target-action=pause|promote|shutdown
                             what the server does there (default: pause; at the end of the log:
                             promote)

Parts (default: all; both may be repeated):
      --database=NAME        a cluster in which this database has content, and those that each
                             cluster has: postgres, template0 and template1. Others have files
                             of zeros that take no room; DROP DATABASE removes them afterwards
      --file=PATH            this file or directory of a backup alone, as "basin show --files"
                             lists it, at the same path below DIRECTORY
      --file=DATABASE.SCHEMA.NAME
                             the files of this table, index, sequence or materialized view, and
                             of its TOAST table. Files are as they were read, without the log:
                             to see a table as it was, restore its database

%[2]s
Examples: the table was dropped at 14:31; in one of many databases; a file was lost.
  %[1]s --repository=/srv/backup -D /srv/restored --target-time="2026-11-26 14:30:59"
  %[1]s --repository=/srv/backup -D /srv/restored --database=shop \
                 --target-time="2026-11-26 14:30:59"
  %[1]s --repository=/srv/backup -D /srv/pg/main --delta \
                 --target-time="2026-11-26 14:30:59"
                 the cluster itself, which is stopped; only what changed is written
  %[1]s --repository=/srv/backup -D /srv/files --file=pg_hba.conf \
                 --file=shop.public.orders
`, called, helpRepositoryOptions)
	return err
}

// helpWAL prints the options of basin wal.
func helpWAL(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s keeps files of the log in a repository, and gets them from it.

Usage:
  %[1]s push [OPTION]... PATH
  %[1]s get [OPTION]... NAME PATH

push ends with status 0 once the file is in the repository for good. The same file again is
no error; another one of the same name is, and nothing is overwritten.

get ends with status 1 only if the repository has no such file, which PostgreSQL takes for
the end of the log; with %[3]d, which stops recovery, if that is not known, or the file is
damaged, or does not continue the one before it. A standby (standby.signal is there) waits
until it is known.

Options:
  -D, --pgdata=DIRECTORY     data directory of the cluster that the log is of (default: where
                             the command is run, as PostgreSQL does)
      --spool=DIRECTORY      get: in the background, get what recovery will ask for next, up
                             to 128 MiB for each server; push: also push the segments that
                             wait behind this one, and note which are stored; or
                             BASIN_SPOOL, or spool of the cluster in the configuration
                             (default: none)
  -j, --jobs=N               push: so many at once, with a spool (default: 4)
      --queue-warn=SIZE      push: warn if more log waits to be archived (default: half of
                             --queue-max)
      --queue-max=SIZE       push: from so much on --queue-full counts (default: no limit)
      --queue-full=HOW       push: keep (default): it fails until the file can be stored, and
                             pg_wal grows; drop: what cannot be stored is given up, and
                             PostgreSQL is told that it is archived, so that the server stays
                             up. Then older backups lead no further, and status is CRITICAL
                             until there is a new one. It needs a spool
      --unchecked            get: also a file that does not continue the one before it, or
                             that was damaged when it was pushed: recovery may end there
  -V, --version              output version information, then exit
  -?, --help                 show this help, then exit

%[2]s
Examples, in postgresql.conf:
  archive_command = '%[1]s push --repository=/srv/backup %%p'
  restore_command = '%[1]s get --repository=/srv/backup %%f %%p'
`, called, helpRepositoryOptions, exitUnknown)
	return err
}

// helpForget prints the options of basin forget.
func helpForget(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s removes backups from a repository: those named, or all that no rule keeps.

Usage:
  %[1]s [OPTION]... BACKUP...
  %[1]s [OPTION]... --keep-...

Any backup can be removed without another. What it alone needed stays until basin prune. The
last good backup, one that is pinned, one that another is being made on, and what alone leads to
a timeline that was written to since the newest backup, on another line, are never removed.
One that is locked in its bucket is kept until that ends; to name it is an error.

Rules (what any of them keeps is kept; days, weeks and months are those of UTC):
      --keep-last=N          so many of the newest
      --keep-daily=N         the last of a day, of so many days that have one
      --keep-weekly=N        the last of a week, likewise
      --keep-monthly=N       the last of a month, likewise
      --keep-within=AGE      all that are not older, such as 36h, 14d or 4w

The rules are about the cluster with the newest backup of its name. What there is of another
one of that name, which initdb or pg_upgrade has replaced, is kept, but with
      --keep-superseded=AGE  only until nothing came of it for so long, neither backups nor
                             log, and a backup of the new one can be restored; pins count

Options:
  -n, --dry-run              say what would be done, and why, and do nothing
      --json                 print it as JSON, in the shape that docs/repository.md has
  -V, --version              output version information, then exit
  -?, --help                 show this help, then exit

%[2]s
Example:
  %[1]s --repository=/srv/backup --keep-daily=7 --keep-weekly=5 --keep-monthly=12 -n
`, called, helpRepositoryOptions)
	return err
}

// helpPrune prints the options of basin prune.
func helpPrune(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s frees what no backup in a repository needs, and log before the oldest.

Usage:
  %[1]s [OPTION]...

It is about all clusters of a name, also those that initdb or pg_upgrade has replaced. It may run
beside backups, on any host. If anything cannot be read that says what is needed, nothing is
removed. What is locked in its bucket stays, and it is said until when: it goes the
next time after that.

Options:
      --keep-log=AGE         have each moment be restored within this time alone, such as 14d, if a
                             backup is there from before it: of older log only what backups need to
                             be restored as they were taken is kept. Without it each moment since
                             the oldest backup can be restored, and all log from there is kept.
                             Log that came within this time is kept in any case
      --keep-superseded=AGE  of a cluster that initdb or pg_upgrade has replaced, and of which no
                             backup is left, remove all log once none came for so long; see
                             basin forget
      --discard-failed       remove now what failed backups have stored, too, which the next
                             backup could take over instead of storing it again: where there
                             is no space left for anything else
  -n, --dry-run              say what would be removed, and do nothing
      --json                 print what was removed as JSON, in the shape that
                             docs/repository.md has
  -V, --version              output version information, then exit
  -?, --help                 show this help, then exit

%[2]s
Example:
  %[1]s --repository=/srv/backup --keep-log=14d
`, called, helpRepositoryOptions)
	return err
}

// helpVerify prints the options of basin verify.
func helpVerify(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s reads back what is in a repository.

Usage:
  %[1]s [OPTION]... [BACKUP]...

All is compared with what was read from the cluster when it was backed up.

Without a backup all are verified, and the log. Each damage is named, with the backups and
files that need it; then the status is 1.

Options:
      --json                 print what was read, and each damage, as JSON, in the shape that
                             docs/repository.md has
      --sample=SHARE         read only such a part, as 5%%, of packs and log: what was not read
                             for the longest time. That all is there is seen in any case
  -P, --progress             show how far it is: packs, and then the log
  -V, --version              output version information, then exit
  -?, --help                 show this help, then exit

%[2]s`, called, helpRepositoryOptions)
	return err
}

// helpPin prints the options of basin pin.
func helpPin(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s has a backup be kept, whatever the rules of basin forget say.

Usage:
  %[1]s [OPTION]... BACKUP

Options:
      --until=TIME           until then, or until a day is over; without it for ever
      --note=TEXT            why, for the others
      --json                 print it as JSON, in the shape that docs/repository.md has
      --remove               it need not be kept any more
  -V, --version              output version information, then exit
  -?, --help                 show this help, then exit

%[2]s`, called, helpRepositoryOptions)
	return err
}
