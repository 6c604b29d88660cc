package main

import (
	"fmt"
	"io"
)

// helpCopy prints the options of basin copy.
func helpCopy(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s copies backups of a cluster, and its log, from one repository to another.

Usage:
  %[1]s [OPTION]... --to=LOCATION [BACKUP]...

All that is read is compared with what was read from the cluster, and it is sealed for the
other repository's key. The copy of a backup is the same backup, with its ID and times; of what
did not change since the newest one there nothing is stored again. It is there, with the log
that it needs, once the command has said so, and not before.

Without a BACKUP all are copied that are newer than the newest there, oldest first, and all of
the log from the oldest one there on. What is there already is left alone, so the command can
be run again, after a failure too, and from a timer. --log-only every few minutes keeps
the time short that a loss of the first repository costs.

Options that say where to (--repository is the one that is read):
      --to=LOCATION           a directory, s3://BUCKET/PREFIX, or a name in the configuration
      --to-key-file=FILE      its unlocked private key, if it is encrypted; without it nothing
                              is known of the backups there, and each is stored whole
      --to-key-command=COMMAND
                              or the command that unwraps it
      --to-fingerprint=DIGITS of its public key, as basin init showed it
      --to-s3-endpoint=URL    its S3 server; these are as the options without "to-", and
                              nothing of the environment counts for them
      --to-s3-region=REGION   region of its bucket
      --to-s3-path-style      its bucket is in the path of URLs
      --to-s3-ca-file=FILE    certificates that its S3 server's is to be signed by
      --to-s3-storage-class=NAME
                              storage class of what is copied
      --to-s3-encryption=HOW  encryption at its S3 server
      --to-s3-kms-key=KEY     key for aws:kms there
      --to-s3-lock-mode=MODE  lock what is copied there, in the mode governance or compliance
      --to-s3-lock-for=TIME   how long: 36h, 30d or 8w
      --to-s3-fewer-checksums
                              for a server that refuses S3's newer checksums

Options:
      --all                   also copy backups that are older than the newest there
      --log                   with BACKUP: all of the log, and not only what these need
      --log-only              copy no backups
  -n, --dry-run               say what would be copied, and do nothing
  -j, --jobs=N                how much is compressed at once (default: one for each processor)
      --json                  print what was copied as JSON, in the shape of docs/repository.md
  -P, --progress              show progress information
  -v, --verbose               name each file of the log
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[2]s
If something cannot be read the rest is copied all the same, and the exit status is 1.

Examples:
  %[1]s --repository=/srv/backups --to=offsite
  %[1]s --repository=local --to=/mnt/disk --to-key-file=/etc/basin/disk.key latest
`, called, helpRepositoryOptions)
	return err
}

// helpSalvage prints what basin salvage does.
func helpSalvage(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s keeps the log that a lost server has left: what it had not archived.

Usage:
  %[1]s [OPTION]... DIRECTORY

DIRECTORY is the data directory of a server that does not run any more, or what is left of it:
a directory with the files of its pg_wal. Nothing in it is changed. Whole segments are kept as
they are, of the last one what is valid; files that PostgreSQL had made for later, which hold
older log under newer names, are told by their content and left out. Then all that was
committed can be restored. It can be run again; what is in the repository already is compared.

It tells up to where the log is valid, when the last transaction in it ended, and which backup
leads there. If none does, because files between are missing, the log is kept all the same and
the exit status is %[3]d.

If the cluster's name is not said it is the one under which the repository has something of it.

Options:
      --json                  print it as JSON, in the shape that docs/repository.md has
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[2]s
Example: the primary is lost, and its disk is mounted here.
  %[1]s --repository=/srv/backups /mnt/db1/pgdata
  basin restore --repository=/srv/backups -D /srv/pgdata
`, called, helpRepositoryOptions, exitGap)
	return err
}

// helpImport prints the options of basin import.
func helpImport(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s keeps a backup that pg_basebackup took in a repository.

Usage:
  %[1]s [OPTION]... DIRECTORY
  %[1]s [OPTION]... FULL INCREMENTAL...

DIRECTORY has a backup of a server from 13 on: a data directory, or tar files, which may be
compressed. An incremental one is imported with all that it is on top of, oldest first; they
become one backup. It is verified first, with its log, as verifybackup does, and again as it
is read; if anything is not what the manifest says nothing is imported. Its log goes to the log
of the repository. From then on it is a backup as others are.

The same backup is imported once; again it is there already, and no error. The minor version of
its server is not known, and shown as 0.

Options:
  -l, --label=LABEL           what the backup is called in lists (default: as it was)
      --full                  store everything again, also what the newest backup there has
      --no-verify-checksums   do not verify the checksums of pages
      --temp-dir=DIRECTORY    where archives that are compressed are unpacked
  -j, --jobs=N                how much is compressed at once (default: one for each processor)
      --json                  print the backup as JSON
  -P, --progress              show progress information
  -v, --verbose               say what is done
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[2]s
Examples:
  %[1]s --repository=/srv/backups --cluster=shop /old/2026-11-01
  %[1]s --repository=/srv/backups /old/sunday /old/monday /old/tuesday
`, called, helpRepositoryOptions)
	return err
}
