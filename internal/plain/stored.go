package plain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/usererr"
)

// Stored is a backup that lies in a data directory. It is a backup.Stored.
//
// A link leads nowhere but to a tablespace, or to a pg_wal that is kept elsewhere.
type Stored struct {
	dir  string
	warn func(error)
}

// OpenStored returns the backup in a directory. warn is told of what is in it but belongs
// to no backup.
func OpenStored(dir string, warn func(error)) *Stored { return &Stored{dir, warn} }

// Tablespaces returns the tablespaces that are linked to from pg_tblspc, by where the link
// leads, or lie in it.
//
// Source: scan_for_existing_tablespaces in src/bin/pg_combinebackup/pg_combinebackup.c, PostgreSQL 18.
func (s *Stored) Tablespaces() ([]backup.Tablespace, error) {
	dir := s.dir + "/pg_tblspc"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, localfs.Errorf(err, dir, "could not open directory \"%s\"", dir)
	}
	var all []backup.Tablespace
	for _, e := range entries {
		oid, ok := parseOID(e.Name())
		if !ok {
			continue
		}
		t := backup.Tablespace{OID: oid, Location: linkName(oid)}
		switch path := dir + "/" + e.Name(); {
		case e.IsDir():
		case e.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return nil, localfs.Errorf(err, path, "could not read symbolic link \"%s\"", path)
			}
			if !filepath.IsAbs(target) {
				return nil, fmt.Errorf("target of symbolic link \"%s\" is relative", path)
			}
			t.Location = localfs.Canonical(target)
		default:
			continue
		}
		all = append(all, t)
	}
	return all, s.checkMap(all)
}

// checkMap sees that tablespaces are there that a tablespace map has, as where tar files were
// unpacked by hand: a server would make the links, and come by the ones of the backup.
func (s *Stored) checkMap(linked []backup.Tablespace) error {
	path := s.Name(0, pgdata.TablespaceMapPath)
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return localfs.Errorf(err, path, "could not open file \"%s\"", path)
	}
	links, err := pgdata.ParseTablespaceMap(content)
	for _, link := range links {
		if err == nil && !slices.ContainsFunc(linked, func(t backup.Tablespace) bool { return t.OID == link.OID }) {
			err = usererr.Hinted("Make it a link to where the tablespace of the backup is.",
				"\"%s\" has tablespace %d, but \"%s\" is not there", path, link.OID, s.Name(link.OID, ""))
		}
	}
	return err
}

// parseOID reads the name of a tablespace's directory.
func parseOID(name string) (uint32, bool) {
	oid, err := strconv.ParseUint(name, 10, 32)
	return uint32(oid), err == nil && oid > 0
}

// Members yields directories and files. global/pg_control comes last.
func (s *Stored) Members() iter.Seq2[backup.Member, error] {
	return func(yield func(backup.Member, error) bool) {
		spaces, err := s.Tablespaces()
		if err != nil {
			yield(backup.Member{}, err)
			return
		}
		w := walker{Stored: s, yield: yield}
		for _, t := range spaces {
			w.oid = t.OID
			if !w.walk(s.Name(t.OID, ""), "") {
				return
			}
		}
		if w.oid = 0; !w.walk(s.dir, "") {
			return
		}
		if w.control.Path != "" {
			yield(w.control, nil)
		}
	}
}

// walker is one walk through the directories of a backup.
type walker struct {
	*Stored
	oid     uint32
	yield   func(backup.Member, error) bool
	control backup.Member // kept back
}

// entriesAtOnce is how many names of a directory are held in memory.
const entriesAtOnce = 1024

// walk yields what is in a directory, which is below the tablespace's with a slash at its
// end, if it is not that itself. It returns false if no more is wanted.
func (w *walker) walk(path, below string) bool {
	d, err := os.Open(path)
	if err != nil {
		return w.fail(localfs.Errorf(err, path, "could not open directory \"%s\"", path))
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(entriesAtOnce)
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return w.fail(localfs.Errorf(err, path, "could not read directory \"%s\"", path))
		}
		for _, e := range entries {
			if !w.visit(path+"/"+e.Name(), below+e.Name(), e) {
				return false
			}
		}
	}
}

func (w *walker) fail(err error) bool {
	w.yield(backup.Member{}, err)
	return false
}

// visit yields one entry of a directory, and what is in it.
func (w *walker) visit(path, within string, e fs.DirEntry) bool {
	kind := e.Type()
	if kind == fs.ModeSymlink && w.oid == 0 && within == "pg_wal" {
		info, err := os.Stat(path)
		if err != nil {
			return w.fail(localfs.Errorf(err, path, "could not stat file \"%s\"", path))
		}
		kind = info.Mode().Type()
	}
	m := backup.Member{Tablespace: w.oid, Path: within}
	switch _, isTablespace := w.tablespace(within); {
	case kind.IsDir() && isTablespace:
	case kind.IsDir():
		m.Kind = backup.Dir
		return w.yield(m, nil) && w.walk(path, within+"/")
	case kind.IsRegular():
		m.Kind, m.Size, m.Apart = backup.File, -1, true
		if w.oid == 0 && within == pgdata.ControlPath {
			m.Apart = false
			w.control = m
			return true
		}
		return w.yield(m, nil)
	case kind != fs.ModeSymlink:
		w.warn(fmt.Errorf("skipping special file \"%s\"", path))
	case !isTablespace:
		w.warn(fmt.Errorf("skipping symbolic link \"%s\"", path))
	default:
		m.Kind = backup.Symlink
		var err error
		if m.Target, err = os.Readlink(path); err != nil {
			return w.fail(localfs.Errorf(err, path, "could not read symbolic link \"%s\"", path))
		}
		return w.yield(m, nil)
	}
	return true
}

// tablespace says whether what is at a path in the main directory is a tablespace.
func (w *walker) tablespace(within string) (oid uint32, ok bool) {
	dir, name := filepath.Split(within)
	if w.oid != 0 || dir != "pg_tblspc/" {
		return 0, false
	}
	return parseOID(name)
}

// Open opens a file.
func (s *Stored) Open(tablespace uint32, path string) (*backup.StoredFile, error) {
	name := s.Name(tablespace, path)
	f, info, err := localfs.OpenRegularHere(name) // no link, which Members passes over
	if errors.Is(err, localfs.ErrNotRegular) {
		return nil, fmt.Errorf("\"%s\" is not a regular file", name)
	}
	if err != nil {
		return nil, localfs.Errorf(err, name, "could not open file \"%s\"", name)
	}
	stored := &backup.StoredFile{File: f, Size: info.Size(), ModTime: info.ModTime(), Mode: info.Mode().Perm(), Name: name}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		stored.UID, stored.GID = int(stat.Uid), int(stat.Gid)
	}
	return stored, nil
}

// Name returns where a file is.
func (s *Stored) Name(tablespace uint32, path string) string {
	name := s.dir
	if tablespace != 0 {
		name += "/" + linkName(tablespace)
	}
	if path != "" {
		name += "/" + path
	}
	return name
}

// Close does nothing.
func (s *Stored) Close() error { return nil }
