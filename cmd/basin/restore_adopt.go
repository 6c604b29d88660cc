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
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"basin/internal/pgconf"
	"basin/internal/repo"
	"basin/internal/shell"
)

// restoredConf is the configuration that a restored data directory gets, if that which the server had would not do: it
// was elsewhere, or leads elsewhere.
type restoredConf struct {
	commit repo.Commit
	// files are those that are made, by path: in place of what the backup has.
	files    map[string]string
	lacks    bool     // there is no postgresql.conf: one is made with what recovery needs
	from     []string // paths of what the new postgresql.conf is made of
	missing  []string // that it lacks
	closed   string   // why nobody is let in but over the socket; empty if the server's own rules hold
	left     []string // settings that are left out, since they lead elsewhere
	unusable []string // settings that are left out, since what they lead to is not on this host, with that
	instead  string   // lines of configuration that come first
}

// confFiles are names of files of configuration in a data directory.
const (
	hbaFile      = "pg_hba.conf"
	identFile    = "pg_ident.conf"
	autoConfFile = "postgresql.auto.conf"
)

// leadElsewhere are settings that would have a restored server use what is another's, and be it the source's data.
var leadElsewhere = []string{"data_directory", "config_file", "hba_file", "ident_file", "external_pid_file", "stats_temp_directory"}

// adopt makes the configuration of the restored data directory; nil if that which is in the backup does. It returns the settings, too, of that
// which is restored, as far as they are known.
func (r *restoreRun) adopt(ctx context.Context, commit repo.Commit) (*restoredConf, map[string]string, error) {
	files, err := r.cluster.Files(ctx, commit)
	if err != nil {
		return nil, nil, err
	}
	told := repo.Configuration{}
	if commit.Configuration != nil {
		told = *commit.Configuration
	}
	in := &backupConf{ctx: ctx, files: files, directory: cmp.Or(told.DataDirectory, unknownDirectory)}
	config := cmp.Or(told.ConfigFile, in.directory+"/"+confFile)
	before, err := pgconf.Flatten(in, config, nil)
	elsewhere := before.Settings["data_directory"]
	if auto, err := pgconf.Flatten(in, in.directory+"/"+autoConfFile, nil); err == nil {
		maps.Copy(before.Settings, auto.Settings)
	}
	if in.failed != nil {
		return nil, nil, in.failed
	}
	if commit.Configuration == nil && (err == nil && elsewhere == "" || err != nil && !errors.Is(err, fs.ErrNotExist)) {
		return nil, before.Settings, nil
	}
	if told.DataDirectory == "" && path.IsAbs(elsewhere) {
		in.directory = path.Clean(elsewhere)
		config = in.directory + "/" + confFile
	}
	c := &restoredConf{commit: commit, files: make(map[string]string), lacks: err != nil}
	c.addSettings(in, config, before)
	c.addAccess(in, told, before)
	return c, before.Settings, in.failed
}

// addSettings makes postgresql.conf, and postgresql.auto.conf.
func (c *restoredConf) addSettings(in *backupConf, config string, before pgconf.Flat) {
	without := make(map[string]bool)
	for _, name := range leadElsewhere {
		without[name] = true
	}
	for name, lead := range unusable(before.Settings) {
		without[name] = true
		text := fmt.Sprintf("%s, since \"%s\" cannot be used here", name, printable(lead, false))
		if name == socketDirectories { // what is built in is often the same
			c.instead = socketDirectories + " = '/tmp'\n"
			text += ": it is /tmp"
		}
		c.unusable = append(c.unusable, text)
	}
	slices.Sort(c.unusable)
	note := func(flat pgconf.Flat) {
		for _, name := range flat.Left {
			if slices.Contains(leadElsewhere, name) && !slices.Contains(c.left, name) {
				c.left = append(c.left, name)
			}
		}
		c.missing = append(c.missing, flat.Missing...)
	}
	if flat, err := pgconf.Flatten(in, config, without); err == nil {
		note(flat)
		if in.differs(confFile, flat) || c.instead != "" {
			c.files[confFile], c.from = string(flat.Text), flat.From
		}
	}
	if flat, err := pgconf.Flatten(in, in.directory+"/"+autoConfFile, without); err == nil {
		note(flat)
		if in.differs(autoConfFile, flat) {
			c.files[autoConfFile] = string(flat.Text)
		}
	}
}

// addAccess makes pg_hba.conf and pg_ident.conf. If rules are missing nobody is let in by others.
func (c *restoredConf) addAccess(in *backupConf, told repo.Configuration, before pgconf.Flat) {
	place := func(told, name, file string) string {
		if told == "" {
			told = before.Settings[name]
		}
		if !path.IsAbs(told) {
			told = in.directory + "/" + file
		}
		return path.Clean(told)
	}
	hba := place(told.HBAFile, "hba_file", hbaFile)
	flat, err := pgconf.FlattenAccess(in, hba)
	if c.lacks && told.HBAFile == "" { // one in the data directory need not be that which was used
		err = fs.ErrNotExist
	}
	switch {
	case err != nil:
		c.closed = "the backup does not have the pg_hba.conf that was used"
		if !errors.Is(err, fs.ErrNotExist) {
			c.closed = firstLine(err)
		}
		c.files[hbaFile] = confNote + closedHBA
	case in.differs(hbaFile, flat):
		c.files[hbaFile] = string(flat.Text)
	}
	flat, err = pgconf.FlattenAccess(in, place(told.IdentFile, "ident_file", identFile))
	switch {
	case err != nil:
		c.files[identFile] = confNote
	case in.differs(identFile, flat):
		c.files[identFile] = string(flat.Text)
	}
}

const socketDirectories = "unix_socket_directories"

// unusable returns those of settings that lead to what is not on this host, or may not be read, or written to if it is a
// directory, so that the server would not start; and what that is.
func unusable(settings map[string]string) map[string]string {
	found := make(map[string]string)
	lacks := func(at string, mode uint32) bool {
		return path.IsAbs(at) && unix.Access(at, mode) != nil // else it is in the data directory, or nowhere
	}
	if pgconf.IsOn(settings["ssl"]) {
		for _, name := range []string{"ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl_crl_file", "ssl_crl_dir", "ssl_dh_params_file"} {
			if lacks(settings[name], unix.R_OK) {
				found["ssl"] = settings[name]
				break
			}
		}
	}
	for _, dir := range pgconf.SplitList(settings[socketDirectories]) {
		if lacks(dir, unix.W_OK) {
			found[socketDirectories] = dir
		}
	}
	if lacks(settings["log_directory"], unix.W_OK) {
		found["log_directory"] = settings["log_directory"]
	}
	return found
}

// backupConf are files of configuration in a backup, by the path that the server had for them. It is a pgconf.Files.
type backupConf struct {
	ctx       context.Context
	files     *repo.Files
	directory string // data directory
	failed    error  // why one that is there could not be read
}

// places returns where in a backup a file may be: it is where the server had it, or it was not sent, such as a link.
func (b *backupConf) places(name string) []string {
	outside := repo.ConfigurationDir + name
	if within, ok := strings.CutPrefix(name, b.directory+"/"); ok {
		return []string{within, outside}
	}
	return []string{outside}
}

// Read returns the content of a file.
func (b *backupConf) Read(name string) ([]byte, error) {
	for _, place := range b.places(name) {
		content, err := b.open(place)
		if !errors.Is(err, fs.ErrNotExist) {
			return content, err
		}
	}
	return nil, fs.ErrNotExist
}

func (b *backupConf) open(place string) ([]byte, error) {
	file, err := b.files.Open(b.ctx, 0, place)
	if err == nil && file.Size > pgconf.MaxFile {
		return nil, pgconf.ErrTooMuch
	}
	var content []byte
	if err == nil {
		content, err = io.ReadAll(file)
	}
	switch {
	case errors.Is(err, fs.ErrInvalid):
		return nil, fs.ErrNotExist // it is a directory
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		b.failed = err
	}
	return content, err
}

// differs says whether a file is not what the backup has in the data directory itself.
func (b *backupConf) differs(name string, flat pgconf.Flat) bool {
	content, err := b.open(name)
	return err != nil || !bytes.Equal(bytes.TrimRight(content, "\n"), bytes.TrimRight(flat.Text, "\n"))
}

// List returns the names of files in a directory.
func (b *backupConf) List(dir string) (names []string, err error) {
	for _, place := range b.places(dir) {
		for m, err := range b.files.Members(b.ctx, 0, place+"/") {
			if err != nil {
				b.failed = err
				return nil, err
			}
			if name := strings.TrimPrefix(m.Path, place+"/"); !strings.Contains(name, "/") {
				names = append(names, name)
			}
		}
	}
	if names == nil {
		return nil, fs.ErrNotExist
	}
	return names, nil
}

// saved says which files of configuration are restored beside the data, and how large they are.
func (c *restoredConf) saved() (files []repo.ConfigurationFile, size int64) {
	if c.commit.Configuration != nil {
		files = c.commit.Configuration.Files
	}
	for _, f := range files {
		size += f.Size
	}
	return files, size
}

// plan tells for the plan what becomes of the configuration.
func (c *restoredConf) plan() string {
	if c == nil {
		return ""
	}
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if files, size := c.saved(); len(files) > 0 {
		say("%s from outside of the data directory, %s, below %s in it", counted(len(files), "file"), humanize.IBytes(uint64(size)), repo.ConfigurationDir)
	}
	if c.lacks {
		say("the backup has no postgresql.conf: one is made with which the server starts")
	}
	if len(c.from) > 0 {
		say("postgresql.conf is made of %s", listed(c.from))
	}
	if len(c.missing) > 0 {
		say("without what was in %s, which was not saved", listed(c.missing))
	}
	if len(c.left) > 0 {
		say("without %s", strings.Join(c.left, ", "))
	}
	for _, text := range c.unusable {
		say("without %s", text)
	}
	if _, isMade := c.files[hbaFile]; isMade && c.closed == "" {
		say("pg_hba.conf is made of the server's own, which lets in whom that did")
	}
	if c.closed != "" {
		say("%s: one is made that lets nobody in but over the socket", c.closed)
	}
	if len(lines) == 0 {
		return ""
	}
	return "  settings  " + strings.Join(lines, "\n            ") + "\n"
}

// listed returns paths for people, some of many.
func listed(paths []string) string {
	var shown []string
	for i, name := range paths {
		if i == 3 && len(paths) > 4 {
			return strings.Join(shown, ", ") + fmt.Sprintf(" and %d more", len(paths)-3)
		}
		shown = append(shown, printable(name, false))
	}
	return strings.Join(shown, ", ")
}

// next tells what to do with the configuration. dir is the data directory, nothing if it is in tar files.
func (c *restoredConf) next(dir string) string {
	if c == nil {
		return ""
	}
	var b strings.Builder
	if c.lacks {
		b.WriteString("Its postgresql.conf is good for no more than that, since the server had its own elsewhere.\n")
	}
	if c.closed != "" {
		b.WriteString("Nobody can connect but over the socket, as the same user of the system, as its pg_hba.conf says.\n")
	}
	files, _ := c.saved()
	if len(files) == 0 {
		return b.String()
	}
	if dir == "" {
		fmt.Fprintf(&b, "The server's own files of configuration are in base.tar, below %s.\n", repo.ConfigurationDir)
		return b.String()
	}
	at, config := filepath.Join(dir, repo.ConfigurationDir), c.commit.Configuration.ConfigFile
	fmt.Fprintf(&b, "The server's own files of configuration, as they were, are below\n  %s\n", shell.Quote(at))
	if slices.ContainsFunc(files, func(f repo.ConfigurationFile) bool { return f.Path == config }) {
		fmt.Fprintf(&b, "To have them used instead of those in the data directory, as pg_ctlcluster of Debian does, put them where they were as the\nserver's user, with the right data_directory:\n  cp -r %s/. %s/\n",
			shell.Quote(at+path.Dir(config)), shell.Quote(path.Dir(config)))
	}
	return b.String()
}
