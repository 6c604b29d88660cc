// Package localfs knows how output on local disks is made to last: directories
// claimed before they are filled, files written in PostgreSQL's words for what
// goes wrong, everything synced in the end, a name given as the last step.
//
// What the files mean is not its business, and neither is any network.
package localfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unicode"
	"unicode/utf8"

	"basin/internal/usererr"
)

// Permissions of directories and files if nothing else was asked for.
//
// Source: PG_DIR_MODE_OWNER and PG_FILE_MODE_OWNER in
// src/include/common/file_perm.h, PostgreSQL 18.
const (
	DirModeOwner  fs.FileMode = 0o700
	FileModeOwner fs.FileMode = 0o600
)

// Reason returns the cause of err as PostgreSQL prints it for %m: the operating
// system's words alone, without the call and the path that Go puts in front,
// and with the capital that strerror gives them.
func Reason(err error) string {
	var errno syscall.Errno
	var path *fs.PathError
	var link *os.LinkError
	switch {
	case errors.As(err, &errno):
		return capitalized(errno.Error())
	case errors.As(err, &path): // what os.Root finds out without the system
		return capitalized(path.Err.Error())
	case errors.As(err, &link):
		return capitalized(link.Err.Error())
	}
	return err.Error()
}

func capitalized(text string) string {
	first, width := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[width:]
}

// Errorf returns an error that reads as the format and its arguments, a colon,
// and the Reason of cause, which it wraps. path is the file or directory that
// cause is about: where there is a known way out, such as for a full disk, the
// error carries a hint that names it.
func Errorf(cause error, path, format string, args ...any) error {
	err := &worded{text: fmt.Sprintf(format, args...) + ": " + Reason(cause), cause: cause}
	if path == "" {
		return err // no place that a hint could be about
	}
	if hint := hintFor(cause, path); hint != "" {
		return &usererr.Error{Err: err, Hint: hint}
	}
	return err
}

// worded is a cause in PostgreSQL's words.
type worded struct {
	text  string
	cause error
}

func (e *worded) Error() string { return e.text }
func (e *worded) Unwrap() error { return e.cause }

// hintFor returns what to do about cause, which befell path, or an empty string.
func hintFor(cause error, path string) string {
	dir := existingDir(path)
	switch {
	case errors.Is(cause, syscall.ENOSPC):
		if free, ok := freeBytes(dir); ok {
			return fmt.Sprintf("the file system of \"%s\" has %d bytes free; make room there, or choose another directory", dir, free)
		}
		return fmt.Sprintf("make room in the file system of \"%s\", or choose another directory", dir)
	case errors.Is(cause, syscall.EDQUOT):
		return fmt.Sprintf("the disk quota for \"%s\" is used up; have it raised, or choose another directory", dir)
	case errors.Is(cause, syscall.EFBIG):
		return fmt.Sprintf("the file system of \"%s\" or the limit on file sizes (ulimit -f) forbids a file this large", dir)
	case errors.Is(cause, syscall.EROFS):
		return fmt.Sprintf("the file system of \"%s\" is mounted read-only", dir)
	case errors.Is(cause, fs.ErrPermission):
		return fmt.Sprintf("the user %d is not allowed to do that in \"%s\"; have its owner give access, or run as another user", os.Geteuid(), dir)
	}
	return ""
}

// existingDir returns the nearest directory at or above path that exists.
func existingDir(path string) string {
	for dir := path; ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.IsDir() || filepath.Dir(dir) == dir {
			return dir
		}
	}
}

// Canonical returns path without what does not change its meaning: doubled and
// trailing slashes, and single dots.
//
// Source: canonicalize_path in src/port/path.c, PostgreSQL 18.
func Canonical(path string) string {
	if path == "" {
		return ""
	}
	return filepath.Clean(path)
}
