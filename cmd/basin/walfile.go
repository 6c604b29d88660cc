package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"

	"basin/internal/getopt"
	"basin/internal/pgdata"
	"basin/internal/usererr"
	"basin/internal/wal"
)

// exitUnknown is how basin wal get ends if it is not known whether there is such a file: PostgreSQL
// stops recovery then, and does not take it for the end of the log.
//
// Source: RestoreArchivedFile in src/backend/access/transam/xlogarchive.c, PostgreSQL 18.
const exitUnknown = 126

// walOptions is what the command lines of basin wal ask for.
type walOptions struct {
	repositoryOptions
	DataDirectory string // empty is the current one
	Spool         string // folder for what is known between calls; empty is that of the environment or the configuration
	Unchecked     bool   // files are got that recovery would end in without a word
	Jobs          int    // files that are pushed at once; zero is what the configuration says
	// QueueWarn, QueueMax and QueueFull are as in the configuration, which has what is empty.
	QueueWarn, QueueMax, QueueFull string
}

// walTable returns the options of basin wal, which write to o.
func walTable(o *walOptions) []getopt.Option {
	return append(o.repositoryOptions.options(),
		textOption("pgdata", 'D', &o.DataDirectory, nil),
		textOption("spool", 0, &o.Spool, nil),
		getopt.Option{Long: "jobs", Short: 'j', Value: func(value string) (err error) {
			o.Jobs, err = parseInt(value, "--jobs", 1, maxJobs)
			return err
		}},
		textOption("queue-warn", 0, &o.QueueWarn, nil),
		textOption("queue-max", 0, &o.QueueMax, nil),
		textOption("queue-full", 0, &o.QueueFull, nil),
		flagOption("unchecked", 0, &o.Unchecked))
}

// walCommand is basin wal.
func walCommand(ctx context.Context, c call) error {
	if slices.Contains(c.argv[1:], "--help") {
		return helpWAL(c.stdout, c.called)
	}
	if err := abortIfBroken(); err != nil {
		return exitStatus{err, exitUnknown}
	}
	var o walOptions
	o.Say = c.report.info
	operands, err := c.parse(walTable(&o))
	if err != nil {
		return exitStatus{err, exitUnknown} // it may be a wal get that was mistyped
	}
	if len(operands) == 0 {
		return exitStatus{c.usage("wal push or wal get is to be said"), exitUnknown}
	}
	switch what, rest := operands[0], operands[1:]; {
	case what == "push" && len(rest) == 1:
		return pushLog(ctx, c.report, o, rest[0])
	case what == "push":
		return c.usage("wal push takes the path of one file of the log, as archive_command's %%p")
	case what == "get" && len(rest) == 2:
		defer debug.SetGCPercent(debug.SetGCPercent(getGarbage))
		g := logGetter{o: o, report: c.report}
		err := g.untilKnown(ctx, rest[0], rest[1])
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return reported{err} // with the status: a standby asks every few seconds
		case err != nil:
			return exitStatus{err, exitUnknown}
		}
		return nil
	case what == aheadWord && len(rest) == 3:
		return getAhead(ctx, logGetter{o: o, report: c.report}, rest[0], rest[1], rest[2])
	case what == "get":
		return exitStatus{c.usage("wal get takes a name and a path, as restore_command's %%f and %%p"), exitUnknown}
	default:
		return exitStatus{c.usage("unknown command \"wal %s\"", what), exitUnknown}
	}
}

// getGarbage is how much garbage there may be in a process that gets a file of the log, as percent of what is in use. That is so little that
// it ends before there is anything to be collected, unless segments are very large.
const getGarbage = 400

// abortIfBroken lets the process end by SIGABRT if Go's runtime ends it, as where memory is short. It would
// have status 2, which PostgreSQL takes for the absence of the file. No image of the memory is left behind: the private key
// is in it.
func abortIfBroken() error {
	debug.SetTraceback("crash")
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, new(syscall.Rlimit)); err != nil {
		return fmt.Errorf("set the limit of core files to zero: %w", err)
	}
	return nil
}

// guarded returns a command of the shell that ends as another one does, but with exitUnknown for what PostgreSQL
// would take for the absence of the file without being told so: where memory or processes are short, a program
// ends with status 2 before it can do anything about that.
func guarded(command string) string {
	return command + fmt.Sprintf("; s=$?; [ $s -lt 2 ] || [ $s -gt 125 ] || s=%d; exit $s", exitUnknown)
}

// systemIDOf returns the number of the cluster that a file of the log is of: that of the data
// directory, which archive_command is run in, or else the file's own.
func systemIDOf(dir string, content []byte) (uint64, error) {
	if dir == "" {
		dir = "."
	}
	path := filepath.Join(dir, filepath.FromSlash(pgdata.ControlPath))
	_, control, err := readControlFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if id, ok := wal.SystemID(content); ok {
			return id, nil
		}
		return 0, usererr.Hinted("Run it in the data directory, as archive_command is, or name that with --pgdata.",
			"it is not known which cluster the file is of: \"%s\" is not there", path)
	}
	if err != nil {
		return 0, err
	}
	return control.SystemID, nil
}

// removeIfThere removes a file that may not be there.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
