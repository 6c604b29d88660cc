package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"basin/internal/backup"
	"basin/internal/checkup"
	"basin/internal/connect"
	"basin/internal/localfs"
	"basin/internal/pgconf"
	"basin/internal/repo"
	"basin/internal/usererr"
)

// confTimeout is how long it may take to read the server's files of configuration. A backup waits no longer for them.
const confTimeout = 30 * time.Second

// unknownDirectory stands for the data directory where the server does not say what it is called.
const unknownDirectory = "/data directory"

// serverConf is what the server uses for configuration. It becomes what the backup has of it that does not come with the
// data directory.
type serverConf struct {
	role    string // for advice
	version int
	unknown error // why the server does not say what it uses; nil if it does

	directory string // data_directory
	roots     pgconf.Roots
	times     map[string]time.Time // of files, by path, as far as they are known
	pgconf.Found
	keys []string // of TLS, with certificates, that are outside and never saved
}

// configuration reads the server's files of configuration. What cannot be read is no error.
func (b *repositoryBackup) configuration(ctx context.Context) *serverConf {
	s := &serverConf{
		role: b.session.Params.Value("user"), version: b.conn.Version, directory: unknownDirectory, times: make(map[string]time.Time),
		Found: pgconf.Found{Files: make(map[string][]byte), Missing: make(map[string]error)},
	}
	ctx, cancel := context.WithTimeout(ctx, confTimeout)
	defer cancel()
	if s.unknown = s.read(ctx, b); s.unknown != nil {
		b.verbose("it is not known whether there is configuration outside of the data directory: %s", reasonText(s.unknown))
	}
	return s
}

// errHidden is a role that may not see where configuration is.
var errHidden = errors.New("the role may not see where it is: it is not in pg_read_all_settings")

func (s *serverConf) read(ctx context.Context, b *repositoryBackup) error {
	session, err := b.ordinary(ctx)
	if err != nil {
		return err
	}
	defer session.Close()
	rows, err := session.Query(ctx, `SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN ('data_directory', 'config_file', 'hba_file', 'ident_file',
		'ssl', 'ssl_cert_file', 'ssl_key_file', 'ssl_ca_file', 'ssl_crl_file')`)
	if err != nil {
		return err
	}
	set := make(map[string]string)
	for _, row := range rows {
		if len(row) == 2 {
			set[string(row[0])] = string(row[1])
		}
	}
	for _, name := range []string{"data_directory", "config_file", "hba_file", "ident_file"} {
		if !path.IsAbs(set[name]) {
			return errHidden
		}
	}
	s.directory = path.Clean(set["data_directory"])
	s.roots = pgconf.Roots{Config: path.Clean(set["config_file"]), HBA: path.Clean(set["hba_file"]), Ident: path.Clean(set["ident_file"])}
	files := &serverFiles{ctx: ctx, session: session, times: s.times}
	files.lost = files.mayRead(s.version)
	files.isHere = b.o.DataDirectory != "" && isSameDirectory(b.o.DataDirectory, s.directory) && isOwn(b.o.DataDirectory)
	s.Found = pgconf.Find(files, s.roots)
	if errors.Is(s.Missing[s.roots.Ident], fs.ErrNotExist) {
		delete(s.Missing, s.roots.Ident) // which a server can do without
	}
	if pgconf.IsOn(set["ssl"]) {
		for _, name := range []string{"ssl_key_file", "ssl_cert_file", "ssl_ca_file", "ssl_crl_file"} {
			if at := set[name]; path.IsAbs(at) && s.within(at) == "" {
				s.keys = append(s.keys, at)
			}
		}
	}
	return nil
}

// isOwn says whether a directory belongs to who runs this. What the configuration of somebody else leads to is not read here:
// root would read for the server's user what that may not.
func isOwn(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// isSameDirectory says whether a directory here goes by the path that the server has for it.
func isSameDirectory(here, there string) bool {
	here, err := filepath.Abs(here)
	if err != nil {
		return false
	}
	resolved, err := filepath.EvalSymlinks(there)
	if err != nil {
		return false
	}
	real, err := filepath.EvalSymlinks(here)
	return err == nil && real == resolved
}

// within returns the path in the data directory of what is in it; nothing of what is not.
func (s *serverConf) within(file string) string {
	if rest, ok := strings.CutPrefix(path.Clean(file), s.directory+"/"); ok {
		return rest
	}
	return ""
}

// came is told that a member of the main data directory is in the backup.
func (s *serverConf) came(name string) {
	file := s.directory + "/" + name
	delete(s.Files, file)
	delete(s.Missing, file)
}

// lookInto sees, where the server does not say what it uses, to what its postgresql.conf leads that is not in the data directory.
func (s *serverConf) lookInto(text []byte) {
	s.roots.Config = s.directory + "/" + confFile
	for line := range strings.Lines(string(text)) {
		set, ok := pgconf.ParseSetting(line)
		switch {
		case !ok || !path.IsAbs(set.Value):
		case set.Name == "hba_file":
			s.roots.HBA = path.Clean(set.Value)
		case set.Name == "ident_file":
			s.roots.Ident = path.Clean(set.Value)
		}
	}
	for at := range pgconf.Find(onlyFile{s.roots.Config, text}, s.roots).Missing {
		if s.within(at) == "" {
			s.Missing[at] = s.unknown
		}
	}
}

// onlyFile is a file of which nothing around it can be read.
type onlyFile struct {
	path string
	text []byte
}

func (f onlyFile) Read(name string) ([]byte, error) {
	if name == f.path {
		return f.text, nil
	}
	return nil, errHidden
}

func (f onlyFile) List(string) ([]string, error) { return nil, errHidden }

// told returns what the commit says of configuration; nil if all of it is in the data directory.
func (s *serverConf) told() *repo.Configuration {
	c := &repo.Configuration{Files: []repo.ConfigurationFile{}}
	if s.unknown == nil {
		c.DataDirectory, c.ConfigFile, c.HBAFile, c.IdentFile = s.directory, s.roots.Config, s.roots.HBA, s.roots.Ident
	}
	for _, name := range s.Paths() {
		c.Files = append(c.Files, repo.ConfigurationFile{Path: name, Size: int64(len(s.Files[name]))})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Missing)) {
		c.Missing = append(c.Missing, repo.MissingFile{Path: strings.ToValidUTF8(s.called(name), "?"), Reason: reasonText(s.Missing[name])})
	}
	for _, name := range s.keys {
		c.Missing = append(c.Missing, repo.MissingFile{Path: strings.ToValidUTF8(name, "?"), Reason: "keys and certificates are not saved"})
	}
	if len(c.Files) == 0 && len(c.Missing) == 0 {
		return nil
	}
	return c
}

// called returns the path of a file; where it is not known what the data directory is called, that in it.
func (s *serverConf) called(name string) string {
	if within := s.within(name); within != "" && s.unknown != nil {
		return within
	}
	return name
}

// reasonText returns why something could not be had, in one line.
func reasonText(err error) string {
	if server := (*connect.ServerError)(nil); errors.As(err, &server) {
		return server.Message
	}
	return firstLine(err)
}

// warn says what of the configuration is not saved, and what to do about it.
func (s *serverConf) warn(r *report) {
	names := slices.Sorted(maps.Keys(s.Missing))
	if len(names) == 0 {
		return
	}
	var shown []string
	for i, name := range names {
		if shown = append(shown, "\""+printable(s.called(name), false)+"\""); i == 4 && len(names) > 5 {
			shown = append(shown, fmt.Sprintf("and %d more", len(names)-5))
			break
		}
	}
	isAnywhere := false
	for _, err := range s.Missing {
		isAnywhere = isAnywhere || !errors.Is(err, fs.ErrNotExist)
	}
	hint := "Keep copies of them. To have them saved with each backup, run as a superuser, in the database that is connected to (postgres, unless the connection string names one):\n" + checkup.FileGrants(s.role)
	switch {
	case !isAnywhere:
		hint = "The server uses them, and they are not there any more: it will not start again, and neither will a copy know what was in them."
	case s.unknown != nil && !errors.Is(s.unknown, errHidden):
		hint = "Keep copies of them. To have them saved with each backup, let the role connect to a database (postgres, unless the connection string names one), in which a superuser runs:\n" + checkup.FileGrants(s.role)
	}
	r.warn(usererr.Hinted(hint, "files of configuration are not in the backup: %s: %s", strings.Join(shown, ", "), reasonText(s.Missing[names[0]])))
}

// confSaver yields a backup with those files of configuration that it does not have, below repo.ConfigurationDir. What
// has that name in the source was restored some time, and is left out.
type confSaver struct {
	backup.Source
	conf    *serverConf
	report  *report
	hasConf bool // postgresql.conf came
	ended   bool
	queue   []backup.Member
}

// Next returns the next member.
func (s *confSaver) Next(ctx context.Context) (backup.Member, io.Reader, error) {
	for !s.ended {
		m, r, err := s.Source.Next(ctx)
		switch name := path.Clean(m.Path); {
		case err == io.EOF:
			s.ended = true
			s.finish()
		case err != nil || m.Tablespace != 0:
			return m, r, err
		case name == repo.ConfigurationDir || strings.HasPrefix(name, repo.ConfigurationDir+"/"):
			if closer, ok := r.(io.Closer); ok && m.Apart {
				_ = closer.Close() // it was not read
			}
		default:
			s.conf.came(name)
			if name == confFile && m.Kind == backup.File {
				r, err = s.sawConf(m, r)
			}
			return m, r, err
		}
	}
	if len(s.queue) == 0 {
		return backup.Member{}, nil, io.EOF
	}
	m := s.queue[0]
	s.queue = s.queue[1:]
	if m.Kind == backup.Dir {
		return m, nil, nil
	}
	return m, bytes.NewReader(s.conf.Files[strings.TrimPrefix(m.Path, repo.ConfigurationDir)]), nil
}

// sawConf looks at the postgresql.conf that comes with the data directory.
func (s *confSaver) sawConf(m backup.Member, r io.Reader) (io.Reader, error) {
	s.hasConf = true
	if s.conf.unknown == nil || m.Size > pgconf.MaxFile || r == nil {
		return r, nil
	}
	text, err := io.ReadAll(io.LimitReader(r, m.Size+1))
	if closer, ok := r.(io.Closer); ok && m.Apart {
		err = errors.Join(err, closer.Close()) // whoever puts the member does not see it
	}
	if err != nil {
		return nil, err
	}
	s.conf.lookInto(text)
	return bytes.NewReader(text), nil
}

// finish knows what came with the data directory, and queues the rest.
func (s *confSaver) finish() {
	c := s.conf
	if c.unknown != nil && !s.hasConf {
		c.Missing[c.directory+"/"+confFile] = c.unknown
	}
	made := make(map[string]bool)
	for _, name := range c.Paths() {
		if !utf8.ValidString(name) || !path.IsAbs(name) {
			c.Missing[name] = errors.New("its path is no text")
			delete(c.Files, name)
			continue
		}
		whole := repo.ConfigurationDir + name
		for i := range whole {
			if dir := whole[:i]; whole[i] == '/' && !made[dir] {
				made[dir] = true
				s.queue = append(s.queue, backup.Member{Path: dir, Kind: backup.Dir, Mode: localfs.DirModeOwner, ModTime: time.Unix(0, 0)})
			}
		}
		s.queue = append(s.queue, backup.Member{
			Path: whole, Kind: backup.File, Size: int64(len(c.Files[name])), Mode: localfs.FileModeOwner, ModTime: cmp.Or(c.times[name], time.Unix(0, 0)),
		})
	}
	c.warn(s.report)
}
