// Package inplace knows a data directory that is there, whose server does not run: what it is, what would
// be lost with it, and how it becomes that of a backup, or goes on becoming it after an
// interruption.
//
// It does not know where a backup comes from, nor what of the log is kept elsewhere.
package inplace

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/usererr"
)

// Directory is what was found at a path. The zero value is that there is nothing.
type Directory struct {
	Path     string
	Exists   bool    // it is there, and holds something
	Version  bool    // it has the file PG_VERSION, as every data directory
	Control  bool    // it has a control file
	SystemID uint64  // zero if no control file says it
	Marker   *Marker // of a restore that did not come to its end; nil if there is none, empty if nothing came
	WALDir   string  // absolute: where pg_wal leads, if that is a link
	// Tablespaces are those that are linked to in pg_tblspc: the directories hold what is this
	// cluster's.
	Tablespaces []backup.Tablespace
}

// Look finds out what is at a path. It changes nothing.
func Look(path string) (*Directory, error) {
	d := &Directory{Path: path}
	entries, err := readNames(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return d, nil
	}
	if err != nil {
		return nil, localfs.Errorf(err, path, `could not access directory "%s"`, path)
	}
	d.Exists = true
	if len(entries) == 1 && entries[0] == localfs.Temporary(MarkerName) {
		d.Marker = &Marker{} // it was interrupted before anything else was there
		return d, nil
	}
	if d.Marker, err = readMarker(path); err != nil {
		return nil, err
	}
	d.Version = slices.Contains(entries, "PG_VERSION")
	if err := d.readControl(); err != nil {
		return nil, err
	}
	if target, err := os.Readlink(filepath.Join(path, "pg_wal")); err == nil {
		if d.WALDir = target; !filepath.IsAbs(target) {
			if d.WALDir, err = filepath.Abs(filepath.Join(path, target)); err != nil {
				return nil, err
			}
		}
	}
	return d, d.readTablespaces()
}

// readNames returns what is in a directory.
func readNames(path string) ([]string, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// readControl notes which cluster it is.
func (d *Directory) readControl() error {
	path := filepath.Join(d.Path, filepath.FromSlash(pgdata.ControlPath))
	f, _, err := localfs.OpenRegularHere(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return localfs.Errorf(err, path, `could not open file "%s"`, path)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, pgdata.ControlSize))
	if err != nil {
		return localfs.Errorf(err, path, `could not read file "%s"`, path)
	}
	control, err := pgdata.ParseControl(content)
	d.Control = true
	if err == nil { // else it may be damaged, for which a cluster is restored
		d.SystemID = control.SystemID
	}
	return nil
}

// readTablespaces notes where links in pg_tblspc lead.
func (d *Directory) readTablespaces() error {
	path := filepath.Join(d.Path, "pg_tblspc")
	names, err := readNames(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return localfs.Errorf(err, path, `could not read directory "%s"`, path)
	}
	for _, name := range names {
		oid, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			continue
		}
		if target, err := os.Readlink(filepath.Join(path, name)); err == nil && filepath.IsAbs(target) {
			d.Tablespaces = append(d.Tablespaces, backup.Tablespace{OID: uint32(oid), Location: localfs.Canonical(target)})
		}
	}
	return nil
}

// IsUnfinished says whether a restore into it was begun and did not end: no server starts in it.
func (d *Directory) IsUnfinished() bool { return d.Marker != nil && !d.Control }

// Holds returns whether a directory holds the files of a tablespace of this cluster: it is linked to, or
// a restore that did not end has begun to write there.
func (d *Directory) Holds(oid uint32, location string) bool {
	return slices.Contains(d.held(), backup.Tablespace{OID: oid, Location: localfs.Canonical(location)})
}

// HoldsAny is Holds of any tablespace of this cluster.
func (d *Directory) HoldsAny(location string) bool {
	return slices.ContainsFunc(d.held(), func(t backup.Tablespace) bool { return t.Location == localfs.Canonical(location) })
}

// held returns the tablespaces of this cluster.
func (d *Directory) held() []backup.Tablespace {
	if d.Marker == nil {
		return d.Tablespaces
	}
	return slices.Concat(d.Tablespaces, d.Marker.Tablespaces)
}

// Location returns where a tablespace is that is linked to, and false if none is.
func (d *Directory) Location(oid uint32) (string, bool) {
	for _, t := range d.Tablespaces {
		if t.OID == oid {
			return t.Location, true
		}
	}
	return "", false
}

// postmasterFile is where a server tells of itself.
const postmasterFile = "postmaster.pid"

// CheckStopped returns an error if a server runs in the directory, or may.
//
// Source: CreateLockFile in src/backend/utils/init/miscinit.c, PostgreSQL 18.
func (d *Directory) CheckStopped() error {
	if !d.Exists {
		return nil
	}
	path := filepath.Join(d.Path, postmasterFile)
	content, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return localfs.Errorf(err, path, `could not read file "%s"`, path)
	}
	if err == nil {
		line, _, _ := strings.Cut(string(content), "\n")
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		pid = max(pid, -pid) // that of a server for one user is negative
		if err != nil || pid == 0 {
			return usererr.Hinted("If no server runs there, remove the file.", "file \"%s\" does not tell which process it is of", path)
		}
		if pid != os.Getpid() && isAlive(pid) && !worksElsewhere(pid, d.Path) {
			return usererr.Hinted(fmt.Sprintf("Stop it: pg_ctl stop -D \"%s\". If no server runs there, and the number was given to another process since, remove the file.", d.Path),
				"a server runs in \"%s\": %s names process %d, which is alive", d.Path, postmasterFile, pid)
		}
	}
	if pid := serverIn(d.Path); pid != 0 {
		return usererr.Hinted("Wait until it has ended, or end it. A server that was killed may leave such processes.",
			"process %d of a server still works in \"%s\"", pid, d.Path)
	}
	return nil
}

// isAlive says whether there is a process, be it another user's.
func isAlive(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}
