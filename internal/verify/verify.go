// Package verify knows how to tell whether a backup is what its manifest says: the
// files of a data directory, or of tar archives, and the log that it needs.
//
// It finds all problems, tells each, and changes nothing. It does not decide what is
// to be verified or where.
//
// Source: src/bin/pg_verifybackup/pg_verifybackup.c, PostgreSQL 18, whose texts it has.
package verify

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"basin/internal/localfs"
	"basin/internal/manifest"
	"basin/internal/pgdata"
	"basin/internal/usererr"
)

// Options are the options of a Verifier.
type Options struct {
	Ignore        []string // paths that are not looked at, and what is below them
	SkipChecksums bool
	PageChecksums bool // of relations are verified too; the cluster must have them
	StopAtFirst   bool // the first problem ends it

	// Report is told each problem, from one goroutine at a time.
	Report func(error)
}

// ErrStopped is what ends a verification after the first problem, if it is to.
var ErrStopped = errors.New("a problem was found")

// Verifier compares a backup with its manifest.
type Verifier struct {
	o        Options
	manifest manifest.Manifest
	files    *manifest.Index
	seen     []fileState // by number of the file
	ignore   []string

	reporting sync.Mutex
	problems  int

	control *pgdata.Control // once it was read

	total, done atomic.Int64 // bytes
}

// fileState is what is known of a file of the manifest.
type fileState uint8

const (
	found fileState = 1 << iota
	bad             // a problem was told
)

// Load reads the manifest at a path.
func Load(path string) (manifest.Manifest, *manifest.Index, error) {
	f, _, err := localfs.OpenRegular(path)
	if err != nil {
		worded := localfs.Errorf(err, path, "could not open file \"%s\"", path)
		if errors.Is(err, fs.ErrNotExist) {
			worded = &usererr.Error{
				Err:  worded,
				Hint: "Name the manifest with -m if it is kept elsewhere. A backup of a server before PostgreSQL 13, or one taken with --no-manifest, has none.",
			}
		}
		return manifest.Manifest{}, nil, worded
	}
	defer f.Close()
	files := new(manifest.Index)
	m, err := manifest.Read(fileReader{f, path}, files.Add)
	return m, files, err
}

// fileReader words the errors of a file as PostgreSQL does.
type fileReader struct {
	f    *os.File
	path string
}

func (r fileReader) Read(p []byte) (int, error) {
	n, err := r.f.Read(p)
	return n, r.worded(err)
}

// ReadAt is that of io.ReaderAt.
func (r fileReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.f.ReadAt(p, off)
	return n, r.worded(err)
}

func (r fileReader) worded(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return localfs.Errorf(err, r.path, "could not read file \"%s\"", r.path)
}

// New returns a verifier of a backup with that manifest.
func New(m manifest.Manifest, files *manifest.Index, o Options) *Verifier {
	return &Verifier{o: o, manifest: m, files: files, seen: make([]fileState, files.Len()), ignore: o.Ignore}
}

// Problems returns how many problems were told.
func (v *Verifier) Problems() int {
	v.reporting.Lock()
	defer v.reporting.Unlock()
	return v.problems
}

// Progress returns how many bytes were verified, and of how many. It may be called at
// any time.
func (v *Verifier) Progress() (done, total int64) { return v.done.Load(), v.total.Load() }

// problem tells a problem. It returns ErrStopped if that is the end.
func (v *Verifier) problem(err error) error {
	v.reporting.Lock()
	defer v.reporting.Unlock()
	if v.o.StopAtFirst && v.problems > 0 {
		return ErrStopped
	}
	v.problems++
	v.o.Report(err)
	if v.o.StopAtFirst {
		return ErrStopped
	}
	return nil
}

func (v *Verifier) problemf(format string, args ...any) error {
	return v.problem(fmt.Errorf(format, args...))
}

// ignores says whether a path or one above it is not looked at.
func (v *Verifier) ignores(path string) bool { return manifest.Ignores(v.ignore, path) }

// isRead says whether there is something to be verified within a file.
func (v *Verifier) isRead(f manifest.File) bool {
	if v.o.SkipChecksums {
		return false
	}
	if f.Algorithm != manifest.NoChecksum {
		return true
	}
	return v.hasPages(f.Path)
}

// checkControl looks at a control file. What is wrong with it is no problem among
// others: the manifest is that of another backup.
func (v *Verifier) checkControl(name string, content []byte) error {
	c, err := pgdata.ParseControl(content)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	v.control = &c
	switch {
	case v.manifest.Version != 1 && c.SystemID != v.manifest.SystemID:
		return fmt.Errorf("%s: manifest system identifier is %d, but control file has %d", name, v.manifest.SystemID, c.SystemID)
	}
	return nil
}

// Missing tells of files that were not found.
func (v *Verifier) Missing() error {
	for i, state := range v.seen {
		if state&found != 0 {
			continue
		}
		if path := v.files.At(i).Path; !v.ignores(path) {
			if err := v.problemf("\"%s\" is present in the manifest but not on disk", path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Directory looks for the files of a data directory, but not yet into them.
func (v *Verifier) Directory(path string) error {
	names, err := namesIn(path)
	if err != nil {
		return localfs.Errorf(err, path, "could not open directory \"%s\"", path)
	}
	return v.walk(path, "", names)
}

// namesIn returns the names in a directory, sorted. There may be very many of them.
func namesIn(path string) ([]string, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// walk looks at what is in a directory, which is path and within the backup below.
func (v *Verifier) walk(path, below string, names []string) error {
	for _, name := range names {
		if within := below + name; !v.ignores(within) {
			if err := v.look(path+"/"+name, within); err != nil {
				return err
			}
		}
	}
	return nil
}

// look looks at what is at path, and within the backup at within.
func (v *Verifier) look(path, within string) error {
	info, err := os.Stat(path)
	if err != nil {
		v.ignore = append(v.ignore, within) // what is below it is not a problem of its own
		return v.problem(localfs.Errorf(err, path, "could not stat file or directory \"%s\"", within))
	}
	if info.IsDir() {
		names, err := namesIn(path)
		if err != nil {
			v.ignore = append(v.ignore, within)
			return v.problem(localfs.Errorf(err, path, "could not open directory \"%s\"", path))
		}
		return v.walk(path, within+"/", names)
	}
	if !info.Mode().IsRegular() {
		return v.problemf("\"%s\" is not a regular file or directory", within)
	}
	i, ok := v.files.Find(within)
	if !ok {
		return v.problemf("\"%s\" is present on disk but not in the manifest", within)
	}
	f := v.files.At(i)
	v.seen[i] |= found
	if f.Size != info.Size() {
		v.seen[i] |= bad
		if err := v.problemf("\"%s\" has size %d on disk but size %d in the manifest", within, info.Size(), f.Size); err != nil {
			return err
		}
	}
	if within == pgdata.ControlPath && (v.manifest.Version != 1 || v.o.PageChecksums) {
		content, err := os.ReadFile(path)
		if err != nil {
			return localfs.Errorf(err, path, "could not open file \"%s\" for reading", path)
		}
		if err := v.checkControl(path, content); err != nil {
			return err
		}
	}
	if v.seen[i] == found && v.isRead(f) {
		v.total.Add(f.Size)
	}
	return nil
}
