// Command basin takes base backups of PostgreSQL servers, receives what they write, and
// verifies and combines backups.
//
// It is one program under several names. Called as pg_basebackup it is that
// program, to the letter of its messages; called as basin, its first argument
// names a command. This package turns command lines into option structs, hands
// them over, and prints what comes back. Here alone a process is ended.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"basin/internal/usererr"
)

// version is basin's own. The linker may set it: -ldflags "-X main.version=…".
var version = "0.1.0"

// postgresVersion is the release whose client programs basin stands in for.
const postgresVersion = "18.6"

// The exit statuses of basin, whatever its name. A process ended by a signal
// has none; a shell shows 128 and the signal's number.
const (
	exitSuccess = 0
	exitFailure = 1 // every failure: usage, connection, backup
	exitGap     = 3 // log is missing that no server and no slot held
)

// exitStatus is an error with which a process ends in another way than exitFailure.
type exitStatus struct {
	error
	status int
}

// Unwrap returns the error without the status.
func (s exitStatus) Unwrap() error { return s.error }

// command is one thing basin does.
type command struct {
	name    string // as basin's first argument
	program string // the name of the program it stands in for; empty if there is none
	summary string // one line
	help    func(w io.Writer, called string) error
	run     func(ctx context.Context, c call) error

	// own are signals that do not end it, as they would end the others: it
	// catches them itself, and until it does they have their usual effect.
	own []os.Signal
}

// commands returns all commands in the order in which help lists them.
func commands() []command {
	return []command{{
		name:    "basebackup",
		program: "pg_basebackup",
		summary: "take a base backup of a running server",
		help:    helpBaseBackup,
		run:     baseBackup,
	}, {
		name:    "receivewal",
		program: "pg_receivewal",
		summary: "receive the write-ahead log of a running server",
		help:    helpReceiveWAL,
		run:     receiveWAL,
	}, {
		name:    "recvlogical",
		program: "pg_recvlogical",
		summary: "receive what a logical replication slot decodes",
		help:    helpRecvLogical,
		run:     recvLogical,
		own:     []os.Signal{syscall.SIGHUP},
	}, {
		name:    "verifybackup",
		program: "pg_verifybackup",
		summary: "compare a backup with its manifest",
		help:    helpVerifyBackup,
		run:     verifyBackup,
	}, {
		name:    "combinebackup",
		program: "pg_combinebackup",
		summary: "make one backup of a full one and incremental ones",
		help:    helpCombineBackup,
		run:     combineBackup,
	}, {
		name:    "serve",
		summary: "answer replication clients beside a running cluster",
		help:    helpServe,
		run:     serve,
		own:     []os.Signal{syscall.SIGHUP},
	}, {
		name:    "init",
		summary: "make a repository, which keeps backups and log of clusters",
		help:    helpInit,
		run:     initRepository,
	}, {
		name:    "key",
		summary: "say who can read an encrypted repository",
		help:    helpKey,
		run:     key,
	}, {
		name:    "list",
		summary: "list the backups of a repository",
		help:    helpList,
		run:     list,
	}, {
		name:    "show",
		summary: "tell all about one backup of a repository",
		help:    helpShow,
		run:     show,
	}, {
		name:    "check",
		summary: "tell whether all is as it must be for backups, and what to do",
		help:    helpCheck,
		run:     check,
	}, {
		name:    "status",
		summary: "tell a monitoring system how the clusters of a repository are",
		help:    helpStatus,
		run:     status,
	}, {
		name:    "backup",
		summary: "take a backup into a repository",
		help:    helpBackup,
		run:     backupIntoRepository,
	}, {
		name:    "restore",
		summary: "restore a cluster from a repository, to any moment",
		help:    helpRestore,
		run:     restoreCluster,
	}, {
		name:    "restored",
		summary: "tell whether a restored cluster has come to its target",
		help:    helpRestored,
		run:     restored,
	}, {
		name:    "wal",
		summary: "keep files of the log in a repository, and get them from it",
		help:    helpWAL,
		run:     walCommand,
	}, {
		name:    "receive",
		summary: "receive the log of a running server into a repository, as it is written",
		help:    helpReceive,
		run:     receiveIntoRepository,
	}, {
		name:    "forget",
		summary: "remove backups from a repository, by rules",
		help:    helpForget,
		run:     forget,
	}, {
		name:    "pin",
		summary: "keep a backup, whatever the rules say",
		help:    helpPin,
		run:     pin,
	}, {
		name:    "prune",
		summary: "free what no backup in a repository needs",
		help:    helpPrune,
		run:     prune,
	}, {
		name:    "copy",
		summary: "copy backups and log from one repository to another",
		help:    helpCopy,
		run:     copyRepository,
	}, {
		name:    "import",
		summary: "keep a backup of pg_basebackup in a repository",
		help:    helpImport,
		run:     importBackup,
	}, {
		name:    "salvage",
		summary: "keep what log a lost server has left in its data directory",
		help:    helpSalvage,
		run:     salvageLog,
	}, {
		name:    "verify",
		summary: "read back what is in a repository",
		help:    helpVerify,
		run:     verifyRepository,
	}, {
		name:    "man",
		summary: "write the manual pages of all commands",
		help:    helpMan,
		run:     writeManual,
	}, {
		name:    "completion",
		summary: "print a script by which a shell completes commands and options",
		help:    helpCompletion,
		run:     completion,
	}}
}

// call is how a command was called.
type call struct {
	argv   []string // argv[0] as the system gave it, then the command's own arguments
	called string   // what the user typed to call it: "pg_basebackup" or "basin basebackup"
	posix  bool     // the first operand ends the options (POSIXLY_CORRECT)
	stdout io.Writer
	report *report
}

// usage returns an error with the hint that leads to help.
func (c call) usage(format string, args ...any) error {
	return usererr.Hinted(c.usageHint(), format, args...)
}

func (c call) usageHint() string {
	return fmt.Sprintf("Try \"%s --help\" for more information.", c.called)
}

func main() {
	m, _, _ := find(os.Args)
	endWith(m.own, func(ctx context.Context) int { return run(ctx, os.Args, os.Stdout, os.Stderr) })
}

// endWith ends the process with the exit status that work returns, or if that is
// of a failure and a signal led to it, by the signal. own are signals that are
// left to work.
func endWith(own []os.Signal, work func(context.Context) int) {
	ctx, stop := signalContext(context.Background(), own)
	status := work(ctx)
	stop()
	if i := (interrupted{}); status != exitSuccess && errors.As(context.Cause(ctx), &i) {
		dieOf(i.signal)
	}
	os.Exit(status)
}

// run does what the command line says and returns the exit status.
func run(ctx context.Context, argv []string, stdout io.Writer, stderr *os.File) int {
	r := newReport(programName(argv), stderr, os.LookupEnv)
	err := dispatch(ctx, argv, stdout, r)
	if err == nil {
		return exitSuccess
	}
	if !errors.As(err, new(reported)) {
		r.error(signalFirst(ctx, err))
	}
	return statusOf(err)
}

// statusOf returns the exit status of a process that ends with err, if no signal ends it.
func statusOf(err error) int {
	if s := (exitStatus{}); errors.As(err, &s) {
		return s.status
	}
	if err != nil {
		return exitFailure
	}
	return exitSuccess
}

// programName returns the name that the program was called by.
func programName(argv []string) string {
	if len(argv) == 0 {
		return "basin"
	}
	return filepath.Base(argv[0])
}

// find finds the command in the program's name or its first argument. own is the
// command line without that argument, and called what the user typed for both.
func find(argv []string) (m command, own []string, called string) {
	name := programName(argv)
	for _, m := range commands() {
		if m.program == name && name != "" {
			return m, argv, name
		}
	}
	if len(argv) > 1 {
		for _, m := range commands() {
			if m.name == argv[1] || m.program == argv[1] && argv[1] != "" {
				return m, append([]string{argv[0]}, argv[2:]...), name + " " + m.name
			}
		}
	}
	return command{}, nil, ""
}

// dispatch does what the command line says.
func dispatch(ctx context.Context, argv []string, stdout io.Writer, r *report) error {
	if m, own, called := find(argv); m.run != nil {
		_, posix := os.LookupEnv("POSIXLY_CORRECT")
		return m.call(ctx, stdout, call{argv: own, called: called, posix: posix, stdout: stdout, report: r})
	}
	name, first := programName(argv), ""
	if len(argv) > 1 {
		first = argv[1]
	}
	switch first {
	case "", "--help", "-?", "-h", "help":
		if first == "help" && len(argv) > 2 {
			return dispatch(ctx, []string{argv[0], argv[2], "--help"}, stdout, r)
		}
		return helpBasin(stdout, name)
	case "--version", "-V":
		return printVersion(stdout)
	}
	return unknownCommand(name, first)
}

// printVersion prints basin's own version.
func printVersion(w io.Writer) error {
	_, err := fmt.Fprintf(w, "basin %s (PostgreSQL %s client tools)\n", version, postgresVersion)
	return err
}

// call runs the command, or prints its help or version if the first argument
// asks for that. As with PostgreSQL's programs, only the first is looked at.
func (m command) call(ctx context.Context, stdout io.Writer, c call) error {
	if len(c.argv) > 1 {
		switch c.argv[1] {
		case "--help", "-?":
			return m.help(stdout, c.called)
		case "--version", "-V":
			if m.program == "" {
				return printVersion(stdout)
			}
			_, err := fmt.Fprintf(stdout, "%s (PostgreSQL) %s\n", m.program, postgresVersion)
			return err
		}
	}
	return m.run(ctx, c)
}

// unknownCommand returns an error that names the command most like the unknown one.
func unknownCommand(name, unknown string) error {
	hint := fmt.Sprintf("Try \"%s --help\" for a list of commands.", name)
	if strings.HasPrefix(unknown, "-") {
		return usererr.Hinted(hint, "the first argument must be a command, not \"%s\"", unknown)
	}
	var names []string
	own := make(map[string]string) // of a command, by each of its names
	for _, c := range commands() {
		for _, n := range []string{c.name, c.program} {
			if n != "" {
				names, own[n] = append(names, n), c.name
			}
		}
	}
	nearest := own[nearestName(unknown, names)]
	if nearest != "" {
		hint = fmt.Sprintf("Did you mean \"%s %s\"?", name, nearest)
	}
	return usererr.Hinted(hint, "unknown command \"%s\"", unknown)
}

// nearestName returns the name most like an unknown one, or nothing if none is like it.
func nearestName(unknown string, names []string) string {
	nearest, least := "", len(unknown)/2+1
	for _, n := range names {
		if d := editDistance(unknown, n); d < least {
			nearest, least = n, d
		}
	}
	return nearest
}

// editDistance counts the bytes to insert, delete or replace to turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1) // distances from the part of a that was seen to each beginning of b
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// helpBasin prints what basin is and its commands.
func helpBasin(w io.Writer, name string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s keeps backups and log of PostgreSQL clusters in repositories, and restores them\nto any moment; it takes base backups, receives the log, and verifies and combines\nbackups.\n\n", name)
	fmt.Fprintf(&b, "Usage:\n  %s COMMAND [OPTION]...\n\nCommands:\n", name)
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-14s %s", c.name, c.summary)
		if c.program != "" {
			fmt.Fprintf(&b, " (%s)", c.program)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, `
Options:
  -V, --version  output version information, then exit
  -?, --help     show this help, then exit

Examples:
  %[1]s init /srv/backup
  %[1]s backup --repository /srv/backup -d "host=db1 user=backup"
  %[1]s restore --repository /srv/backup -D /srv/restored --target-time "2026-11-26 14:30"
                 backups that take only what changed, in a repository, and any moment back
  %[1]s basebackup -D /backup/monday -P
                 a copy of the server at PGHOST that can be started as it is
  %[1]s basebackup -h db1 -Ft -Z zstd -D /backup/monday
                 the same as compressed tar files
  %[1]s basebackup -h db1 -R -D /srv/standby
                 a standby of db1, ready to start
  %[1]s receivewal -h db1 -S archive -D /srv/wal -Z zstd
                 all of the log, as it is written; the slot holds what is not there yet
  %[1]s recvlogical -h db1 -d shop -S changes --start -f changes.log
                 what the slot decodes of the changes in the database shop, as it happens
  %[1]s verifybackup /backup/monday
                 whether all of a backup is there and as it was
  %[1]s combinebackup -o /restore /backup/sunday /backup/monday
                 one backup of a full one and the incremental ones on top of it

`, name)
	for _, c := range commands() {
		fmt.Fprintf(&b, "\"%s %s --help\" shows its options.\n", name, c.name)
		if c.program != "" {
			fmt.Fprintf(&b, "Linked or renamed to %s, %s is that program.\n", c.program, name)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
