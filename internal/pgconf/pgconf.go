// Package pgconf knows PostgreSQL's files of configuration: postgresql.conf, pg_hba.conf and pg_ident.conf, which
// others these include, and what one file says that stands for all of them.
//
// It reads through what it is handed, be it a disk, a server or a backup, and judges no setting and no rule.
package pgconf

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// Files is where files of configuration are read. Paths are absolute and clean.
type Files interface {
	// Read returns the content of a file. One that is not there is fs.ErrNotExist.
	Read(path string) ([]byte, error)
	// List returns the names in a directory, in any order. One that is not there is fs.ErrNotExist.
	List(dir string) ([]string, error)
}

// Roots are the files that a server is told of. An empty path is none.
type Roots struct {
	Config string // config_file
	HBA    string // hba_file
	Ident  string // ident_file
}

// Found are files of configuration.
type Found struct {
	Files   map[string][]byte // contents, by path
	Missing map[string]error  // why others could not be read; also of a directory
}

// What Find reads at most. Configuration is read by people, and more is something else.
const (
	MaxFiles = 200
	MaxFile  = 1 << 20 // bytes of one
	MaxSize  = 4 << 20 // bytes of all
)

// ErrTooMuch is a file that is not read because it, or all of them, would be too large.
var ErrTooMuch = fmt.Errorf("there is too much of it: %d files are read, of %d bytes each and %d bytes together", MaxFiles, MaxFile, MaxSize)

// maxDepth is how deep files may include each other.
//
// Source: CONF_FILE_MAX_DEPTH in src/include/utils/conffiles.h, PostgreSQL 18.
const maxDepth = 10

// errDeep is a file that is included too deep, as one that includes itself is.
var errDeep = errors.New("files include each other too deep")

// kind is what is in a file.
type kind uint8

const (
	settings kind = iota // as postgresql.conf
	access               // as pg_hba.conf and pg_ident.conf
	names                // that a rule refers to with @
)

// Find reads the files that a server is told of, and those that they include.
func Find(f Files, r Roots) Found {
	w := finder{files: f, found: Found{make(map[string][]byte), make(map[string]error)}}
	w.read(r.Config, settings, 0, false)
	w.read(r.HBA, access, 0, false)
	w.read(r.Ident, access, 0, false)
	return w.found
}

// finder is a search on its way.
type finder struct {
	files Files
	found Found
	size  int
}

// read reads a file, and what it includes.
func (w *finder) read(name string, k kind, depth int, optional bool) {
	if name == "" {
		return
	}
	if _, isRead := w.found.Files[name]; isRead || w.found.Missing[name] != nil {
		return
	}
	content, err := w.content(name, depth)
	if err != nil {
		if !optional || !errors.Is(err, fs.ErrNotExist) {
			w.found.Missing[name] = err
		}
		return
	}
	w.found.Files[name] = content
	w.size += len(content)
	for _, r := range references(k, content) {
		at := absolute(name, r.value)
		switch r.how {
		case includeDir:
			inside, err := listDir(w.files, at)
			if err != nil {
				w.found.Missing[at] = err
			}
			for _, n := range inside {
				w.read(n, k, depth+1, false)
			}
		case includeNames:
			w.read(at, names, depth+1, false)
		default:
			w.read(at, k, depth+1, r.how == includeIfExists)
		}
	}
}

func (w *finder) content(name string, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	if len(w.found.Files) == MaxFiles {
		return nil, ErrTooMuch
	}
	content, err := w.files.Read(name)
	if err == nil && (len(content) > MaxFile || w.size+len(content) > MaxSize) {
		err = ErrTooMuch
	}
	return content, err
}

// absolute returns the path of what a file refers to.
//
// Source: AbsoluteConfigLocation in src/backend/utils/misc/conffiles.c, PostgreSQL 18.
func absolute(from, to string) string {
	if path.IsAbs(to) {
		return path.Clean(to)
	}
	return path.Join(path.Dir(from), to)
}

// listDir returns the paths of the files of configuration in a directory, in the order in which they count.
//
// Source: GetConfFilesInDir in src/backend/utils/misc/conffiles.c, PostgreSQL 18.
func listDir(f Files, dir string) ([]string, error) {
	inside, err := f.List(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, name := range inside {
		if len(name) > len(".conf") && name[0] != '.' && strings.HasSuffix(name, ".conf") {
			found = append(found, path.Join(dir, name))
		}
	}
	slices.Sort(found)
	return found, nil
}

// reference is a place where a file refers to another.
type reference struct {
	how   string
	value string
}

// How a file refers to another, as it says so.
const (
	include         = "include"
	includeIfExists = "include_if_exists"
	includeDir      = "include_dir"
	includeNames    = "@"
)

func isInclude(word string) bool {
	return word == include || word == includeIfExists || word == includeDir
}

// references returns what a file refers to, in order.
func references(k kind, content []byte) []reference {
	var found []reference
	if k == settings {
		for line := range strings.Lines(string(content)) {
			if s, ok := ParseSetting(line); ok && isInclude(s.Name) && s.Value != "" {
				found = append(found, reference{s.Name, s.Value})
			}
		}
		return found
	}
	for _, line := range logicalLines(string(content)) {
		words := wordsOf(line.text)
		if how, to, ok := includeOf(words); ok && k == access {
			found = append(found, reference{how, to})
			continue
		}
		for _, w := range words {
			if w.isReference() {
				found = append(found, reference{includeNames, w.text[1:]})
			}
		}
	}
	return found
}

// Paths returns the paths of files that were found, sorted.
func (f Found) Paths() []string { return slices.SortedFunc(maps.Keys(f.Files), cmp.Compare[string]) }
