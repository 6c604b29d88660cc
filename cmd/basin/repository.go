package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"basin/internal/getopt"
	"basin/internal/repo"
	"basin/internal/usererr"
)

// repositoryOptions say which repository is meant, and which cluster in it. What is empty is left to
// the environment, then to the configuration; see place.
type repositoryOptions struct {
	Location   string            // or the name of a repository in the configuration
	Cluster    string            // its name
	SystemID   uint64            // zero is the one with the newest backup
	ConfigFile string            // empty is the usual one, if it is there
	Settings   map[string]string // others of the repository, by the names of options
	MakesRoom  bool              // it is opened to remove something
	WritesLog  bool              // it is opened to write log, which takes no private key: the key command is not run

	// Say, if not nil, is told what was chosen where there were several, and that a store is asked again. It may
	// be called from several goroutines.
	Say func(format string, args ...any)
}

// options returns the options that write to o, of which none is to be abbreviated.
func (o *repositoryOptions) options() []getopt.Option {
	table := []getopt.Option{
		textOption("repository", 0, &o.Location, nil),
		textOption("cluster", 0, &o.Cluster, nil),
		textOption("config", 0, &o.ConfigFile, nil),
		{Long: "system-id", Value: func(value string) (err error) {
			if o.SystemID, err = strconv.ParseUint(value, 10, 64); err != nil || o.SystemID == 0 {
				return fmt.Errorf("invalid system identifier \"%s\"", value)
			}
			return nil
		}},
	}
	for _, s := range new(repositorySettings).settings() {
		option := getopt.Option{Long: s.name}
		set := func(value string) error {
			if o.Settings == nil {
				o.Settings = make(map[string]string)
			}
			o.Settings[s.name] = value
			return nil
		}
		if s.flag != nil {
			option.Flag = func() error { return set("true") }
		} else {
			option.Value = set
		}
		table = append(table, option)
	}
	for i := range table {
		table[i].Whole = true
	}
	return table
}

// place is what configuration, environment and command line say together.
type place struct {
	repositorySettings
	clusterSettings
	Cluster string // its name; empty if nothing says it

	unsaidCluster string // the name that log is pushed under where neither the command line nor the environment says one

	makesRoom, writesLog bool // as in repositoryOptions

	say func(format string, args ...any) // may be nil
}

// place returns what is meant: what the command line does not say the environment does, and what
// neither says the configuration.
func (o repositoryOptions) place() (p place, err error) {
	c, err := readConfig(cmp.Or(o.ConfigFile, os.Getenv("BASIN_CONFIG")))
	if err != nil {
		return p, err
	}
	p.say, p.makesRoom, p.writesLog = o.Say, o.MakesRoom, o.WritesLog
	p.Cluster, p.unsaidCluster = cmp.Or(o.Cluster, os.Getenv("BASIN_CLUSTER")), "main"
	if len(c.Cluster) == 1 {
		for p.unsaidCluster = range c.Cluster {
		}
		p.Cluster = cmp.Or(p.Cluster, p.unsaidCluster)
	}
	if p.Cluster != "" {
		if err := repo.CheckName(p.Cluster); err != nil {
			return p, err
		}
	}
	p.clusterSettings = c.Cluster[p.Cluster]
	if p.repositorySettings, err = c.find(cmp.Or(o.Location, os.Getenv("BASIN_REPOSITORY")), p.Repositories); err != nil {
		return p, err
	}
	for _, s := range p.settings() {
		value, ok := o.Settings[s.name]
		if !ok {
			value, ok = os.LookupEnv(s.variable())
		}
		if ok {
			if err := s.set(value); err != nil {
				return p, err
			}
		}
	}
	return p, nil
}

// find returns the settings of a repository by its name or location. Without one it is the first that the
// cluster names, or the only one there is.
func (c configuration) find(location string, ofCluster []string) (repositorySettings, error) {
	if location == "" && len(ofCluster) > 0 {
		location = ofCluster[0]
	}
	names := slices.Sorted(maps.Keys(c.Repository))
	if location == "" {
		switch len(names) {
		case 0:
			return repositorySettings{}, usererr.Hinted("Name one with --repository, BASIN_REPOSITORY, or in "+defaultConfig+".",
				"no repository is named")
		case 1:
			return c.Repository[names[0]], nil
		}
		return repositorySettings{}, usererr.Hinted("Name one with --repository: "+strings.Join(names, ", ")+".",
			"there are several repositories in the configuration")
	}
	if r, ok := c.Repository[location]; ok {
		return r, nil
	}
	for _, name := range names {
		if r := c.Repository[name]; r.Location == location {
			return r, nil
		}
	}
	return repositorySettings{Location: location}, nil
}

// openRepository opens the repository that the options say. If it is encrypted, and neither a key file nor a key command is named,
// it can be written to and not read.
func openRepository(ctx context.Context, o repositoryOptions) (*repo.Repository, error) {
	p, err := o.place()
	if err != nil {
		return nil, err
	}
	o.sayWhich(p)
	return p.open(ctx)
}

// sayWhich says which of several repositories this is about, if nobody has said so.
func (o repositoryOptions) sayWhich(p place) {
	if cmp.Or(o.Location, os.Getenv("BASIN_REPOSITORY")) == "" && len(p.Repositories) > 1 && o.Say != nil {
		o.Say("this is about repository %s of %s; --repository names another", p.Repositories[0], strings.Join(p.Repositories, ", "))
	}
}

// open opens the repository.
func (p place) open(ctx context.Context) (*repo.Repository, error) {
	var open repo.Options
	if p.KeyFile != "" {
		private, err := readKeyFile(p.KeyFile)
		if err != nil {
			return nil, err
		}
		open.PrivateKey = &private
	}
	var err error
	if open.Lock, err = p.lockFor(); err != nil {
		return nil, err
	}
	store, err := p.store(ctx)
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, store, open)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", p.Location, err)
	}
	if is := r.Info().Fingerprint(); p.Fingerprint != "" && p.Fingerprint != is {
		return nil, usererr.Hinted("Is it the right one? If so, somebody may have replaced it, to read what is written from now on. Nothing was written.",
			"repository %s has the fingerprint \"%s\", and is to have \"%s\"", p.Location, is, p.Fingerprint)
	}
	if is := cmp.Or(p.KeyFile, p.KeyCommand); is != "" && !r.Info().Encrypted {
		key := "file"
		if p.KeyFile == "" {
			key = "command"
		}
		return nil, usererr.Hinted("Is it the right one? One that should be encrypted may have been replaced. Else leave the key "+key+" away.",
			"repository %s is not encrypted, although there is a key %s", p.Location, key)
	}
	if open.PrivateKey != nil || p.KeyCommand == "" || p.writesLog {
		return r, nil
	}
	private, err := unwrapByCommand(ctx, r, p.KeyCommand)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", p.Location, err)
	}
	open.PrivateKey = &private
	return repo.Open(ctx, store, open)
}

// openClusterOf opens the repository and the part of it that is of a cluster, which is written to
// and need not be there. Without a name it is "main".
func openClusterOf(ctx context.Context, o repositoryOptions, systemID uint64) (*repo.Repository, *repo.Cluster, error) {
	p, err := o.place()
	if err != nil {
		return nil, nil, err
	}
	r, err := p.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	c, err := r.Cluster(cmp.Or(p.Cluster, "main"), systemID)
	return r, c, err
}

// openClusterToKeep is openClusterOf for who has time to see by which names the repository knows the cluster. What is under one
// is not seen from another: that there are others is said, and where no name is meant and there are only others, it is refused.
func openClusterToKeep(ctx context.Context, o repositoryOptions, systemID uint64) (*repo.Repository, *repo.Cluster, error) {
	p, err := o.place()
	if err != nil {
		return nil, nil, err
	}
	r, c, err := openClusterOf(ctx, o, systemID)
	if err != nil {
		return nil, nil, err
	}
	all, err := r.Clusters(ctx)
	if err != nil {
		return nil, nil, err
	}
	others := otherNames(all, c.Name())
	if p.Cluster == "" && len(others) > 0 && !slices.Contains(all, c.Name()) {
		return nil, nil, usererr.Hinted("Name it: --cluster="+others[0]+". What is kept under another name is not seen from there; if that is wanted, --cluster="+c.Name().Name+".",
			"the repository has this cluster under another name, %s", strings.Join(others, ", "))
	}
	o.sayOthers(c.Name(), others)
	return r, c, nil
}

// otherNames returns the other names under which there is something of a cluster.
func otherNames(all []repo.ClusterName, c repo.ClusterName) (names []string) {
	for _, other := range all {
		if other.SystemID == c.SystemID && other.Name != c.Name {
			names = append(names, other.Name)
		}
	}
	return names
}

// sayOthers says that there are other names of a cluster.
func (o repositoryOptions) sayOthers(c repo.ClusterName, others []string) {
	if o.Say != nil && len(others) > 0 {
		o.Say("this is about cluster %s; the repository has the same one, system identifier %d, as %s too, and what is there does not count here: name the same --cluster everywhere, in archive_command too",
			c.Name, c.SystemID, strings.Join(others, ", "))
	}
}

// openCluster opens the repository and the part of it that is of a cluster, which is read. Without a name
// it is the only one, or "main" of several. Of several with its name it is the one with the newest backup.
func openCluster(ctx context.Context, o repositoryOptions) (*repo.Repository, *repo.Cluster, error) {
	p, err := o.place()
	if err != nil {
		return nil, nil, err
	}
	o.sayWhich(p)
	r, err := p.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	c, err := p.chooseCluster(ctx, r, o)
	return r, c, err
}

// chooseCluster returns the part of a repository that openCluster does.
func (p place) chooseCluster(ctx context.Context, r *repo.Repository, o repositoryOptions) (*repo.Cluster, error) {
	if err := mustRead(r); err != nil {
		return nil, err
	}
	all, err := r.Clusters(ctx)
	if err != nil {
		return nil, err
	}
	matching, err := matchClusters(all, p.Cluster, o.SystemID)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", p.Location, err)
	}
	chosen := matching[0]
	if len(matching) > 1 {
		if chosen, err = newestCluster(ctx, r, matching); err != nil {
			return nil, err
		}
		if o.Say != nil {
			o.Say("there are %d clusters of the name %s in the repository: this is of the one with the newest backup, --system-id=%d",
				len(matching), chosen.Name, chosen.SystemID)
		}
	}
	if p.Cluster == "" && o.SystemID == 0 {
		o.sayOthers(chosen, otherNames(all, chosen))
	}
	return r.Cluster(chosen.Name, chosen.SystemID)
}

// mustRead returns an error if what is in a repository cannot be read.
func mustRead(r *repo.Repository) error {
	if r.CanRead() {
		return nil
	}
	return usererr.Hinted("basin key unlock writes such a file, and --key-file names it; or --key-command unwraps the key each time.", "the repository is encrypted, and there is no key file")
}

// matchClusters returns those of the clusters that are meant by a name and a system identifier, of which one
// name at least.
func matchClusters(all []repo.ClusterName, name string, systemID uint64) ([]repo.ClusterName, error) {
	var names, matching []repo.ClusterName
	for _, c := range all {
		if !slices.ContainsFunc(names, func(n repo.ClusterName) bool { return n.Name == c.Name }) {
			names = append(names, c)
		}
	}
	if name == "" && len(names) == 1 {
		name = names[0].Name
	}
	name = cmp.Or(name, "main")
	var there []string
	for _, c := range all {
		there = append(there, c.String())
		if c.Name == name && (systemID == 0 || c.SystemID == systemID) {
			matching = append(matching, c)
		}
	}
	if len(matching) > 0 {
		return matching, nil
	}
	hint := "No cluster is in the repository yet."
	if len(there) > 0 {
		hint = "There are " + strings.Join(there, ", ") + "; --cluster and --system-id name one."
	}
	if systemID != 0 {
		name = repo.ClusterName{Name: name, SystemID: systemID}.String()
	}
	return nil, usererr.Hinted(hint, "%w %s", errNoCluster, name)
}

// errNoCluster is a repository that has nothing of a cluster.
var errNoCluster = errors.New("there is no cluster")

// newestCluster returns which of several has the newest backup. If that cannot be read, or it is not known what a cluster
// has, that is an error: it would be a guess.
func newestCluster(ctx context.Context, r *repo.Repository, of []repo.ClusterName) (repo.ClusterName, error) {
	chosen, newest := of[0], repo.Newest{}
	for _, name := range of {
		c, err := r.Cluster(name.Name, name.SystemID)
		if err != nil {
			return chosen, err
		}
		n, err := c.Newest(ctx)
		if err != nil {
			return chosen, fmt.Errorf("cluster %v: %w", name, err)
		}
		if n.Latest > newest.Latest { // they begin with the time
			chosen, newest = name, n
		}
	}
	isRead := newest.Backup != nil && newest.Backup.ID == newest.Latest || slices.Contains(newest.Damaged, newest.Latest)
	if newest.Latest != "" && !isRead {
		return chosen, usererr.Hinted(fmt.Sprintf("Say which is meant: --system-id=%d is that of this backup.", chosen.SystemID),
			"there are %d clusters of the name %s, and which has the newest backup is not known: %w", len(of), chosen.Name, newest.Unreadable[0])
	}
	return chosen, nil
}

// findBackup returns a backup by its identifier, by what is enough of its beginning, or as "latest", which is
// the newest that is not damaged.
func findBackup(ctx context.Context, c *repo.Cluster, name string) (repo.Commit, error) {
	if name != "latest" {
		commit, err := c.Backup(ctx, name)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid) {
			return commit, err
		}
	}
	commits, problems := c.Backups(ctx)
	if name == "latest" {
		for _, commit := range slices.Backward(commits) {
			if !commit.Damaged {
				return commit, problems // what cannot be read may be newer
			}
		}
		return repo.Commit{}, cmp.Or(problems, usererr.Hinted("basin list shows what is there.", "cluster %v has no backup that is not damaged", c.Name()))
	}
	commits = slices.DeleteFunc(commits, func(k repo.Commit) bool { return name == "" || !strings.HasPrefix(k.ID, name) })
	switch {
	case len(commits) == 1:
		return commits[0], nil
	case len(commits) > 1:
		return repo.Commit{}, usererr.Hinted("Give more of it: basin list shows them.", "%d backups of cluster %v begin with \"%s\"", len(commits), c.Name(), name)
	case problems != nil:
		return repo.Commit{}, problems
	}
	return repo.Commit{}, usererr.Hinted("basin list shows what is there.", "cluster %v has no backup \"%s\"", c.Name(), name)
}

// words returns options that mean the same repository and cluster in another place, with another
// environment.
func (o repositoryOptions) words(name repo.ClusterName) ([]string, error) {
	p, err := o.place()
	if err != nil {
		return nil, err
	}
	if p.isFolder() {
		if p.Location, err = filepath.Abs(p.Location); err != nil {
			return nil, err
		}
	}
	words := []string{"--repository=" + p.Location, "--cluster=" + name.Name, "--system-id=" + strconv.FormatUint(name.SystemID, 10)}
	for _, s := range p.settings() {
		switch {
		case s.flag != nil && *s.flag:
			words = append(words, "--"+s.name)
		case s.text != nil && *s.text != "":
			value := *s.text
			if strings.HasSuffix(s.name, "-file") {
				if value, err = filepath.Abs(value); err != nil {
					return nil, err
				}
			}
			words = append(words, "--"+s.name+"="+value)
		}
	}
	return words, nil
}
