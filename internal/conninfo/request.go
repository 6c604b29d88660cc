package conninfo

// Request is what a replication program's command line says about the
// connection. Empty fields were not given.
type Request struct {
	ConnString string // a connection string (-d), for physical replication
	Program    string // the program's name: fallback_application_name
	Host       string // -h
	Port       string // -p
	User       string // -U

	// Ordinary asks for no replication at all, in the database postgres unless the
	// connection string names another.
	Ordinary bool

	// Logical asks for logical replication, in the database that Database
	// names (-d of pg_recvlogical). That may itself be a connection string; if
	// it is empty, environment and defaults name the database.
	Logical  bool
	Database string
}

// Params returns the connection parameters of a request, before any defaults.
// The options override the connection string, and nothing overrides that this
// is a replication connection, unless it is to be an ordinary one.
//
// Source: GetConnection in src/bin/pg_basebackup/streamutil.c, PostgreSQL 18.
func (r Request) Params() (Params, error) {
	var p Params
	p.set("dbname", "replication")
	given := r.ConnString
	mode := "true"
	if r.Ordinary {
		p.set("dbname", "postgres")
		mode = ""
	}
	if r.Logical {
		mode = "database"
		switch {
		case isConnString(r.Database):
			given = r.Database
			fallthrough
		case r.Database == "":
			delete(p.values, "dbname")
		default:
			p.set("dbname", r.Database)
		}
	}
	parsed, err := Parse(given)
	if err != nil {
		return Params{}, err
	}
	for k, v := range parsed.All() {
		if v != "" {
			p.set(k, v)
		}
	}
	p.set("replication", mode)
	if mode == "" {
		delete(p.values, "replication")
	}
	for _, o := range []struct{ keyword, value string }{
		{"fallback_application_name", r.Program},
		{"host", r.Host},
		{"user", r.User},
		{"port", r.Port},
	} {
		if o.value != "" {
			p.set(o.keyword, o.value)
		}
	}
	return p, nil
}

// StandbyDatabase returns the database that a standby made from this request
// is to name in its primary_conninfo: the one of the connection string, or
// else of the environment. Empty if neither says, since a physical replication
// connection has no database of its own.
//
// Source: GetDbnameFromConnectionOptions in src/fe_utils/recovery_gen.c, PostgreSQL 18.
func (r Request) StandbyDatabase(s System) (string, error) {
	given, err := Parse(r.ConnString)
	if err != nil {
		return "", err
	}
	if name := given.Value("dbname"); name != "" {
		return name, nil
	}
	var fromService Params
	if err := fromService.addService(s); err != nil {
		return "", err
	}
	if name := fromService.Value("dbname"); name != "" {
		return name, nil
	}
	return s.getenv("PGDATABASE"), nil
}
