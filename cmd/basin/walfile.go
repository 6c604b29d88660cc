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
	"strings"
	"syscall"

	"basin/internal/getopt"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/repo"
	"basin/internal/seal"
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
	DataDirectory string
}

// walTable returns the options of basin wal, which write to o.
func walTable(o *walOptions) []getopt.Option {
	return append(o.repositoryOptions.options(), textOption("pgdata", 'D', &o.DataDirectory, nil))
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
		err := getLog(ctx, c.report, o, rest[0], rest[1])
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return reported{err} // with the status: a standby asks every few seconds
		case err != nil:
			return exitStatus{err, exitUnknown}
		}
		return nil
	case what == "get":
		return exitStatus{c.usage("wal get takes a name and a path, as restore_command's %%f and %%p"), exitUnknown}
	default:
		return exitStatus{c.usage("unknown command \"wal %s\"", what), exitUnknown}
	}
}

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

// pushLog keeps a file of the log in the repository.
func pushLog(ctx context.Context, r *report, o walOptions, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	id := o.SystemID
	if id == 0 {
		if id, err = systemIDOf(o.DataDirectory, content); err != nil {
			return err
		}
	}
	err = pushToEach(ctx, r, o.repositoryOptions, id, filepath.Base(path), content)
	if other := (*repo.OtherLogError)(nil); errors.As(err, &other) {
		return usererr.Hinted("Two servers write to one archive, or the file was written to after it was archived. Nothing was overwritten, and nothing more is archived until this is settled.", "%w", err)
	}
	return err
}

// systemIDOf returns the number of the cluster that a file of the log is of: that of the data
// directory, which archive_command is run in, or else the file's own.
func systemIDOf(dir string, content []byte) (uint64, error) {
	if dir == "" {
		dir = "."
	}
	path := filepath.Join(dir, filepath.FromSlash(pgdata.ControlPath))
	control, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if id, ok := wal.SystemID(content); ok {
			return id, nil
		}
		return 0, usererr.Hinted("Run it in the data directory, as archive_command is, or name that with --pgdata.",
			"it is not known which cluster the file is of: \"%s\" is not there", path)
	}
	if err != nil {
		return 0, localfs.Errorf(err, path, "could not read file \"%s\"", path)
	}
	parsed, err := pgdata.ParseControl(control)
	for try := 0; errors.Is(err, pgdata.ErrControlChecksum) && try < 10; try++ { // it is being written
		if control, err = os.ReadFile(path); err == nil {
			parsed, err = pgdata.ParseControl(control)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return parsed.SystemID, nil
}

// getLog writes a file of the log that is in the repository to a path. That there is none is an error
// that wraps fs.ErrNotExist; no other does.
func getLog(ctx context.Context, r *report, o walOptions, name, path string) error {
	content, err := readLog(ctx, r, o.repositoryOptions, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is not in the repository: %w", name, fs.ErrNotExist)
	case errors.Is(err, seal.ErrDamaged):
		return usererr.Hinted("If another copy of the file is to be had, put it in place by hand. To end recovery before it, restore to a target that comes earlier.", "%w", err)
	case err != nil:
		return hideAbsence(err)
	}
	return hideAbsence(writeLog(path, content))
}

// hideAbsence returns an error that is no fs.ErrNotExist: what is missing is not the file of the log.
func hideAbsence(err error) error {
	if err != nil && errors.Is(err, fs.ErrNotExist) {
		return errors.New(strings.TrimSpace(err.Error()))
	}
	return err
}

// partOf returns a segment of which the first part is there, as long as a segment is. It is what
// recovery reads last.
func partOf(ctx context.Context, r *report, c *repo.Cluster, segment string) ([]byte, error) {
	name, err := c.LongestPartial(ctx, segment)
	if err != nil {
		return nil, err
	}
	content, err := c.Log(ctx, name)
	if err != nil {
		return nil, err
	}
	size, ok := wal.SegmentSize(content)
	if !ok || int64(len(content)) > size {
		return nil, fmt.Errorf("%s: %w", name, seal.ErrDamaged)
	}
	r.info("of %s the first %d bytes are in the repository", segment, len(content))
	return append(content, make([]byte, size-int64(len(content)))...), nil
}

// writeLog writes a file in one step.
func writeLog(path string, content []byte) error {
	temporary := localfs.Temporary(path)
	if err := os.WriteFile(temporary, content, localfs.FileModeOwner); err != nil {
		return errors.Join(localfs.Errorf(err, temporary, "could not write file \"%s\"", temporary), removeIfThere(temporary))
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(localfs.Errorf(err, path, "could not rename file \"%s\" to \"%s\"", temporary, path), removeIfThere(temporary))
	}
	return nil
}

// removeIfThere removes a file that may not be there.
func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
