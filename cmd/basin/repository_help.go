package main

import (
	"fmt"
	"io"
)

// helpRepositoryOptions are the lines of help of the options that say which repository is meant.
const helpRepositoryOptions = `Options that say which repository (not to be abbreviated):
      --repository=LOCATION   a directory, s3://BUCKET/PREFIX, or a name in the configuration
      --cluster=NAME          name of the cluster in it
      --system-id=NUMBER      which of several clusters of that name; otherwise that of the
                              newest backup
      --key-file=FILE         the unlocked private key; nobody but its owner may read the file
      --key-command=COMMAND   without a key file: a command of the shell that unwraps a key
                              which another command wrapped (basin key add). It is run each
                              time that something is read
      --fingerprint=DIGITS    of the public key, as basin init showed it: to another one
                              nothing is written
      --config=FILE           configuration, instead of /etc/basin/basin.toml
      --s3-endpoint=URL       S3 server, if it is not Amazon's
      --s3-region=REGION      region of the bucket
      --s3-path-style         the bucket is in the path of URLs and not in the host's name
      --s3-ca-file=FILE       certificates that the S3 server's is to be signed by
      --s3-storage-class=NAME
                              storage class of what is written
      --s3-encryption=HOW     encryption at the S3 server, AES256 or aws:kms
      --s3-kms-key=ID         key for aws:kms
      --s3-lock-mode=MODE     lock backups, and all that they need, in the mode governance or
                              compliance; the bucket needs object lock
      --s3-lock-for=TIME      how long: 36h, 30d or 8w
      --s3-fewer-checksums    for S3 servers that do not know the newer checksums

Each of these but --system-id is also a variable of the environment, BASIN_REPOSITORY and so
on, and what neither says is in the configuration. Credentials of S3 are where Amazon's
programs have them: AWS_ACCESS_KEY_ID and so on, or ~/.aws.
`

// helpInit prints what init does.
func helpInit(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s makes a repository, which keeps backups and log of any number of clusters.

Usage:
  %[1]s [OPTION]... LOCATION

LOCATION is a directory, which is made if it is not there, or s3://BUCKET/PREFIX; it must be
empty. Before anything else it is seen that the store refuses to overwrite what is there.

Whether a repository is encrypted is decided here, for good. In an encrypted one a key pair is
made. Its public half is in the repository: whoever can write to the store can take backups
without any secret. Its private half, with which is read, is in the repository too, wrapped for
each recipient that you name, by a command, or with a passphrase.

Options:
      --encrypt               encrypt; without a recipient, with a passphrase, which is asked
                              for, or is the first line of the file that
                              BASIN_PASSPHRASE_FILE names
      --recipient=KEY         encrypt, so that who has the private half of KEY can unlock it:
                              age1..., ssh-ed25519 ... or ssh-rsa ...; may be repeated
      --recipients-file=FILE  the same for each line of FILE; # begins a comment
      --wrap-command=COMMAND  encrypt, and have the key wrapped by a command, which
                              --key-command is to unwrap; see basin key --help
      --json                  print what was made as JSON, in the shape that docs/repository.md
                              has
      --log-format=text|json  print messages as text, or as lines of JSON
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[2]s
Examples:
  %[1]s /srv/backups
                 not encrypted: for disks that are, and only you can reach
  %[1]s --encrypt /srv/backups
                 with a passphrase; six words drawn by lot are a good one
  %[1]s --recipients-file=/root/backup-keys.pub s3://backups/prod
                 in a bucket, for the people whose keys are in the file
`, called, helpRepositoryOptions)
	return err
}

// helpKey prints what key does.
func helpKey(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s says who can read an encrypted repository.

Usage:
  %[1]s list [OPTION]...
  %[1]s add [OPTION]...
  %[1]s remove [OPTION]... ID
  %[1]s unlock [OPTION]...

A repository has one private key. It is kept in the repository, wrapped for each who may read:
for a public key of age or SSH, with a passphrase, or by a command, as for a service that keeps
keys (AWS KMS, GCP KMS, Vault). Each of these is a key with an ID.

  list     whom it is wrapped for, as far as that can be seen
  add      wraps it for another
  remove   removes one of these, by its ID or what is enough of its beginning, but never the
           last; that takes nothing from who has unlocked the private key before
  unlock   writes the private key to the file of --key-file, for commands that read: wal get
           and restores at night have nobody to ask, a passphrase takes a second and
           256 MiB each time, and a command is run each time

Options:
      --json                  print the keys, or what was done, as JSON, in the shape that
                              docs/repository.md has
      --log-format=text|json  print messages as text, or as lines of JSON
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

Options of add:
      --recipient=KEY         age1..., ssh-ed25519 ... or ssh-rsa ...; may be repeated
      --recipients-file=FILE  the same for each line of FILE
      --wrap-command=COMMAND  a command of the shell that gets a secret on its standard input,
                              as 24 characters of base64, and prints it wrapped, in whatever
                              form. What --key-command names gets that on its standard input,
                              and is to print the secret: it is run at once, and without it
                              nothing is kept. Each may take a minute, and has no terminal.
                              docs/repository.md has them for AWS, GCP and Vault.
                              Without these a new passphrase is asked for, or is the first
                              line of the file that BASIN_NEW_PASSPHRASE_FILE names.

Options of add and unlock:
      --identity=FILE         unlock with this private key of age or SSH; may be repeated.
                              Without it what --key-command names unlocks it, if a key was
                              wrapped by a command, or else the passphrase, which is asked for
                              or is the first line of the file that BASIN_PASSPHRASE_FILE
                              names; add takes what --key-file names, if that is given

%[2]s
Examples:
  %[1]s unlock --repository=/srv/backups --key-file=/etc/basin/backups.key
  %[1]s add --repository=/srv/backups --recipient="$(cat ~/.ssh/id_ed25519.pub)"
  %[1]s unlock --repository=/srv/backups --identity=id_ed25519 --key-file=backups.key
  %[1]s add --repository=/srv/backups \
    --wrap-command="vault write -field=ciphertext transit/encrypt/basin plaintext=-" \
    --key-command="vault write -field=plaintext transit/decrypt/basin ciphertext=-"
`, called, helpRepositoryOptions)
	return err
}

// helpList prints what list does.
func helpList(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s lists the backups of a repository, oldest first.

Usage:
  %[1]s [OPTION]...

Of each backup: SIZE is that of all its files, STORED is what was added to the repository for
it, START and STOP are positions in the log. Of an incremental one only what had changed was
stored; it is a full backup all the same, and needs no other to be restored. One that is
damaged had pages with wrong checksums in the cluster, and never counts as a good one.

All clusters are listed if --cluster and BASIN_CLUSTER name none. If some backups cannot be
read, the others are listed, and the exit status is 1.

Options:
      --json                  print it as JSON, in the shape that docs/repository.md has
      --log-format=text|json  print messages as text, or as lines of JSON
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[2]s
Examples:
  %[1]s --repository=/srv/backups
  %[1]s --json | jq -r '.clusters[].backups[-1].ended'
                 when the newest backup of each cluster was complete
`, called, helpRepositoryOptions)
	return err
}

// helpShow prints what show does.
func helpShow(w io.Writer, called string) error {
	_, err := fmt.Fprintf(w, `%[1]s tells all about one backup of a repository.

Usage:
  %[1]s [OPTION]... BACKUP
  %[1]s [OPTION]... --files BACKUP [PATTERN]

BACKUP is its ID as basin list shows it, what is enough of its beginning, or "latest": the
newest that is not damaged.

Options:
      --files                 list its files with their sizes in bytes, all or those whose
                              paths are like PATTERN: * is any text, also with slashes in it,
                              and ? one character
      --json                  print it as JSON, in the shape that docs/repository.md has; of
                              files one a line
      --log-format=text|json  print messages as text, or as lines of JSON
  -V, --version               output version information, then exit
  -?, --help                  show this help, then exit

%[2]s
Examples:
  %[1]s --repository=/srv/backups latest
  %[1]s --repository=/srv/backups --cluster=shop 20261126T20
  %[1]s --repository=/srv/backups --files latest "*.conf"
                 what "basin restore --file" can get by its path
`, called, helpRepositoryOptions)
	return err
}
