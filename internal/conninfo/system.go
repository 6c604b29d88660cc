package conninfo

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
)

// System is what surrounds a program and completes its connection parameters.
// The zero value is a system that says nothing.
type System struct {
	// Getenv returns the value of an environment variable. One that is set
	// and empty counts as unset; nil is an empty environment.
	Getenv func(string) string

	User      string // the operating system's name for the user; empty if unknown
	Home      string // the user's home directory; empty if there is none
	SocketDir string // where the server's sockets are; empty is localhost over TCP
	ConfigDir string // holds pg_service.conf unless PGSYSCONFDIR says otherwise
}

// ThisSystem returns the system that the program runs on.
//
// Debian's packages and the PostgreSQL sources disagree about the directories.
// Debian's are taken where they exist.
//
// Source: DEFAULT_PGSOCKET_DIR in src/include/pg_config_manual.h, /tmp, and
// Debian's patch of it, /var/run/postgresql; SYSCONFDIR of get_etc_path in
// src/common/path.c; pg_fe_getauthname in src/interfaces/libpq/fe-auth.c and
// pqGetHomeDirectory in src/interfaces/libpq/fe-connect.c; PostgreSQL 18.
func ThisSystem() System {
	s := System{
		Getenv:    os.Getenv,
		Home:      os.Getenv("HOME"),
		SocketDir: firstDir("/var/run/postgresql", "/tmp"),
		ConfigDir: firstDir("/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"),
	}
	if u, err := user.Current(); err == nil {
		s.User = u.Username
		if s.Home == "" {
			s.Home = u.HomeDir
		}
	}
	return s
}

// firstDir returns the first that is a directory, or else the last.
func firstDir(dirs ...string) string {
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return dirs[len(dirs)-1]
}

func (s System) getenv(name string) string {
	if s.Getenv == nil {
		return ""
	}
	return s.Getenv(name)
}

// inHome returns the path of a file in the home directory, empty if there is
// no home.
func (s System) inHome(name string) string {
	if s.Home == "" {
		return ""
	}
	return filepath.Join(s.Home, name)
}

// Complete returns p with every value that libpq would use: what p leaves
// unset comes from the service file, then the environment, then libpq's own
// defaults. A service that is named and not found is an error, and so is a
// user that nobody names.
//
// The hosts are not filled in (see [Params.Hosts]), and the password is not
// looked up in the password file (see [System.Password]).
//
// Source: conninfo_add_defaults and pqConnectOptions2 in
// src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (p Params) Complete(s System) (Params, error) {
	p = p.Clone()
	if err := p.addService(s); err != nil {
		return Params{}, err
	}
	_, sslModeGiven := p.Lookup("sslmode")
	for _, o := range options {
		if _, ok := p.Lookup(o.keyword); ok {
			continue
		}
		value := o.byDefault
		if o.variable != "" {
			if v := s.getenv(o.variable); v != "" {
				value = v
				sslModeGiven = sslModeGiven || o.keyword == "sslmode"
			}
		}
		// PGREQUIRESSL is what PGSSLMODE was called before 8.0.
		if o.keyword == "sslmode" && !sslModeGiven && len(s.getenv("PGREQUIRESSL")) > 0 && s.getenv("PGREQUIRESSL")[0] == '1' {
			value, sslModeGiven = "require", true
		}
		if value != "" {
			p.set(o.keyword, value)
		}
	}
	// Whoever trusts every public authority must look at the host name.
	if !sslModeGiven && p.Value("sslrootcert") == "system" {
		p.set("sslmode", "verify-full")
	}
	if p.Value("user") == "" {
		if s.User == "" {
			return Params{}, fmt.Errorf("local user with ID %d does not exist", os.Getuid())
		}
		p.set("user", s.User)
	}
	if p.Value("dbname") == "" {
		p.set("dbname", p.Value("user"))
	}
	// Only who has no password looks for one, and only then is it told to a
	// standby where to look.
	if p.Value("password") == "" && p.Value("passfile") == "" {
		if file := s.inHome(".pgpass"); file != "" {
			p.set("passfile", file)
		}
	}
	return p, nil
}
