package live

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"basin/internal/backup"
	"basin/internal/localfs"
	"basin/internal/pgdata"
	"basin/internal/usererr"
)

const (
	tablespacesPath = "pg_tblspc"
	logPath         = "pg_wal"
)

// entriesAtOnce is how many names of a directory are held in memory.
const entriesAtOnce = 1024

// walker yields the members that lie in the data directory and the tablespaces, but for the
// control file, in the order of the server: that in which the system names them.
//
// Source: sendDir in src/backend/backup/basebackup.c, PostgreSQL 10 to 18.
type walker struct {
	source *Source
	notify func(Notice)
	spaces []backup.Tablespace // to come; the main directory is the last
	space  backup.Tablespace   // in hand
	stack  []*level
	held   []backup.Member // comes before anything else
}

// level is a directory that is read.
type level struct {
	dir       *os.File
	path      string // of it here
	name      string // for messages: as the server calls it
	within    string // its tablespace, with a slash at the end if it is not that itself
	relations bool   // it has files of relations
	entries   []fs.DirEntry
}

// newWalker returns a walker that is before the first tablespace.
func (s *Source) newWalker(notify func(Notice)) *walker {
	return &walker{source: s, notify: notify, spaces: append(append([]backup.Tablespace(nil), s.start.Tablespaces...), backup.Tablespace{})}
}

// next returns the next member, with its file if it is one, and io.EOF after the last.
func (w *walker) next(ctx context.Context) (backup.Member, *file, error) {
	for {
		if err := ctx.Err(); err != nil {
			return backup.Member{}, nil, context.Cause(ctx)
		}
		switch {
		case len(w.held) > 0:
			m := w.held[0]
			w.held = w.held[1:]
			return m, nil, nil
		case len(w.stack) > 0:
			m, f, err := w.step()
			if err != nil || m.Kind != 0 {
				return m, f, err
			}
		case len(w.spaces) > 0:
			w.space, w.spaces = w.spaces[0], w.spaces[1:]
			if err := w.begin(); err != nil {
				return backup.Member{}, nil, err
			}
		default:
			return backup.Member{}, nil, io.EOF
		}
	}
}

// begin opens the directory of a tablespace.
//
// Source: sendTablespace in src/backend/backup/basebackup.c, PostgreSQL 18.
func (w *walker) begin() error {
	s := w.source
	if w.space.OID == 0 {
		return w.enter(s.o.DataDir, ".", "")
	}
	version := s.cluster.versionDir()
	dir := s.path(tablespacesPath + "/" + strconv.FormatUint(uint64(w.space.OID), 10) + "/" + version)
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // it was dropped, which the log does again
	case err != nil:
		return localfs.Errorf(err, dir, "could not stat file or directory \"%s\"", dir)
	}
	w.held = append(w.held, w.member(version, backup.Dir, info))
	return w.enter(dir, w.space.Location+"/"+version, version+"/")
}

// enter opens a directory. One that is gone is empty: its database was dropped.
func (w *walker) enter(dir, name, within string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) && within != "" {
		return nil
	}
	if err != nil {
		return localfs.Errorf(err, dir, "could not open directory \"%s\"", name)
	}
	w.stack = append(w.stack, &level{dir: d, path: dir, name: name, within: within, relations: w.hasRelations(within)})
	return nil
}

// hasRelations says whether files in a directory are of relations.
func (w *walker) hasRelations(within string) bool {
	clean := strings.TrimSuffix(within, "/")
	if w.space.OID == 0 && clean == "global" {
		return true
	}
	parent, name := path.Split(clean)
	if name == "" || strings.Trim(name, "0123456789") != "" {
		return false
	}
	if w.space.OID == 0 {
		return parent == "base/"
	}
	return parent == w.source.cluster.versionDir()+"/"
}

// step takes the next entry of the directory in hand. A member of no kind is none.
func (w *walker) step() (m backup.Member, f *file, err error) {
	l := w.stack[len(w.stack)-1]
	if len(l.entries) == 0 {
		l.entries, err = l.dir.ReadDir(entriesAtOnce)
		if len(l.entries) > 0 {
			return m, nil, nil // an error comes again
		}
		w.stack = w.stack[:len(w.stack)-1]
		_ = l.dir.Close() // was only read
		if !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) {
			return m, nil, localfs.Errorf(err, l.path, "could not read directory \"%s\"", l.name)
		}
		return m, nil, nil
	}
	e := l.entries[0]
	l.entries = l.entries[1:]
	name := e.Name()
	if w.source.cluster.isExcluded(name) || l.relations && w.source.cluster.isTransient(l.path, name) {
		return m, nil, nil
	}
	within := l.within + name
	if w.space.OID == 0 && within == pgdata.ControlPath {
		return m, nil, nil
	}
	if e.Type().IsRegular() {
		return w.file(l, within, name)
	}
	info, err := os.Lstat(l.path + "/" + name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m, nil, nil
	case err != nil:
		return m, nil, localfs.Errorf(err, l.path+"/"+name, "could not stat file or directory \"%s/%s\"", l.name, name)
	}
	return w.other(l, within, name, info)
}

// file opens a file. One that is gone is no member: the log removes it too.
func (w *walker) file(l *level, within, name string) (m backup.Member, f *file, err error) {
	here := l.path + "/" + name
	opened, info, err := localfs.OpenRegularHere(here)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m, nil, nil
	case errors.Is(err, localfs.ErrNotRegular): // since it was found
		return m, nil, nil
	case err != nil:
		return m, nil, localfs.Errorf(err, here, "could not open file \"%s/%s\"", l.name, name)
	}
	m = w.member(within, backup.File, info)
	m.Size, m.Apart = info.Size(), w.source.o.Apart
	f = w.source.newFile(m, opened, l.name+"/"+name)
	if w.source.parent != nil && l.relations {
		if err := w.source.parent.cut(f); err != nil {
			return m, nil, errors.Join(err, f.Close())
		}
	}
	return f.member, f, nil
}

// other is about what is no file.
func (w *walker) other(l *level, within, name string, info fs.FileInfo) (m backup.Member, f *file, err error) {
	s := w.source
	isLink := info.Mode()&fs.ModeSymlink != 0
	m = w.member(within, backup.Dir, info)
	if isLink {
		m.Mode = s.cluster.dirMode // where it stands for a directory
	}
	switch {
	case (isLink || info.IsDir()) && s.cluster.isExcludedDir(w.space.OID, within):
		return m, nil, nil
	case w.space.OID == 0 && within == logPath:
		w.held = append(w.held, m)
		w.held[0].Path = "./pg_wal/archive_status"
		if s.cluster.version >= version17 {
			summaries := m
			summaries.Path = "./pg_wal/summaries"
			w.held = append(w.held, summaries)
		}
		return m, nil, nil
	case w.space.OID == 0 && isLink && l.within == tablespacesPath+"/":
		if s.o.TablespaceMap {
			return backup.Member{}, nil, nil
		}
		m.Kind, m.Mode = backup.Symlink, permissions(info)
		if m.Target, err = os.Readlink(l.path + "/" + name); err != nil {
			return m, nil, localfs.Errorf(err, l.path+"/"+name, "could not read symbolic link \"%s/%s\"", l.name, name)
		}
		return m, nil, nil
	case !info.IsDir():
		w.notify(warning("skipping special file \"%s/%s\"", l.name, name))
		return backup.Member{}, nil, nil
	case w.space.OID == 0 && s.inside[within]:
		return m, nil, nil
	case w.space.OID == 0 && within == tablespacesPath && s.o.TablespaceMap && s.cluster.major() != 15:
		return m, nil, nil // with 15, tablespaces in there are no archives of their own
	}
	return m, nil, w.enter(l.path+"/"+name, l.name+"/"+name, within+"/")
}

// member returns a member of what was found in the tablespace in hand.
func (w *walker) member(within string, kind backup.Kind, info fs.FileInfo) backup.Member {
	m := backup.Member{Tablespace: w.space.OID, Path: within, Kind: kind, Mode: permissions(info), ModTime: info.ModTime()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		m.UID, m.GID = int(stat.Uid), int(stat.Gid)
	}
	return m
}

// permissions returns what of a mode is in a backup.
func permissions(info fs.FileInfo) fs.FileMode {
	return info.Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
}

// close closes what is open.
func (w *walker) close() {
	for _, l := range w.stack {
		_ = l.dir.Close() // was only read
	}
	w.stack = nil
}

// findTablespaces lists the tablespaces in the order of the server, and notes which of them
// lie in the data directory.
//
// Source: do_pg_backup_start in src/backend/access/transam/xlog.c, PostgreSQL 18.
func (s *Source) findTablespaces() error {
	name := s.path(tablespacesPath)
	dir, err := os.Open(name)
	if err != nil {
		return localfs.Errorf(err, name, "could not open directory \"%s\"", tablespacesPath)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return localfs.Errorf(err, name, "could not read directory \"%s\"", tablespacesPath)
	}
	s.inside = make(map[string]bool)
	for _, e := range entries {
		oid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || oid == 0 {
			continue
		}
		t := backup.Tablespace{OID: uint32(oid), Location: tablespacesPath + "/" + e.Name()}
		switch {
		case e.Type() == fs.ModeSymlink:
			link := name + "/" + e.Name()
			t.Location, err = os.Readlink(link)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was dropped
			}
			if err != nil {
				return localfs.Errorf(err, link, "could not read symbolic link \"%s/%s\"", tablespacesPath, e.Name())
			}
			if err := checkTarget(link, t.Location); err != nil {
				return err
			}
			if within, err := filepath.Rel(s.cluster.directory, t.Location); err == nil && filepath.IsLocal(within) {
				s.inside[within] = true
			}
		case e.IsDir() && s.cluster.version >= version16:
			s.inside[t.Location] = true
		default:
			continue
		}
		s.start.Tablespaces = append(s.start.Tablespaces, t)
	}
	return nil
}

// checkTarget sees that the place that a link leads to is there: where it is not, as in a
// container that has another view of the files, the tablespace would seem to be empty.
func checkTarget(link, target string) error {
	_, err := os.Stat(link)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // other errors come again
	}
	if _, err := os.Lstat(link); errors.Is(err, fs.ErrNotExist) {
		return nil // it was dropped
	}
	return usererr.Hinted("It has to be found here under the path that the server has it at.",
		"the directory \"%s\" of a tablespace, which \"%s\" leads to, is not there", target, link)
}

// estimate adds up what will be sent.
func (s *Source) estimate(ctx context.Context) error {
	sizes := make(map[uint32]int64)
	w := s.newWalker(func(Notice) {}) // they come again
	defer w.close()
	for {
		m, f, err := w.next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if f != nil {
			_ = f.Close() // was only read
		}
		sizes[m.Tablespace] += tarSize(m)
		s.start.Size += tarSize(m)
	}
	for i, t := range s.start.Tablespaces {
		s.start.Tablespaces[i].Size = sizes[t.OID]
	}
	return nil
}
