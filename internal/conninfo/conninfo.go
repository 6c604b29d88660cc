// Package conninfo knows the connection parameters of PostgreSQL's client
// library libpq: their names, the text forms they are written in, and where
// each value comes from when it is not given.
//
// A value is looked for in the connection string, then in the service file,
// then in the environment, and last in what libpq was compiled with. Parsing,
// writing and checking are pure. What is not: [ThisSystem] asks the operating
// system who and where we are, [Params.Complete] and [Request.StandbyDatabase]
// read service files, and [System.Password] reads a password file. All of them
// take the environment as a value ([System]). Nothing here opens a connection,
// resolves a host name or touches a certificate.
package conninfo

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// option is a connection parameter that libpq knows.
type option struct {
	keyword   string
	variable  string // environment variable; empty if there is none
	byDefault string // compiled in; empty if there is none
	since     int    // first release that knows it, as server_version_num; zero for all from 10 on
}

// options is libpq's table in libpq's order, which is also the order in which
// pg_basebackup -R writes them.
//
// The defaults are those of a libpq built with TLS and without GSSAPI, which
// is what this program can do.
//
// Source: PQconninfoOptions in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
var options = []option{
	{"service", "PGSERVICE", "", 0},
	{"user", "PGUSER", "", 0},
	{"password", "PGPASSWORD", "", 0},
	{"passfile", "PGPASSFILE", "", 0},
	{"channel_binding", "PGCHANNELBINDING", "prefer", 130000},
	{"connect_timeout", "PGCONNECT_TIMEOUT", "", 0},
	{"dbname", "PGDATABASE", "", 0},
	{"host", "PGHOST", "", 0},
	{"hostaddr", "PGHOSTADDR", "", 0},
	{"port", "PGPORT", defaultPort, 0},
	{"client_encoding", "PGCLIENTENCODING", "", 0},
	{"options", "PGOPTIONS", "", 0},
	{"application_name", "PGAPPNAME", "", 0},
	{"fallback_application_name", "", "", 0},
	{"keepalives", "", "", 0},
	{"keepalives_idle", "", "", 0},
	{"keepalives_interval", "", "", 0},
	{"keepalives_count", "", "", 0},
	{"tcp_user_timeout", "", "", 120000},
	{"sslmode", "PGSSLMODE", "prefer", 0},
	{"sslnegotiation", "PGSSLNEGOTIATION", "postgres", 170000},
	{"sslcompression", "PGSSLCOMPRESSION", "0", 0},
	{"sslcert", "PGSSLCERT", "", 0},
	{"sslkey", "PGSSLKEY", "", 0},
	{"sslcertmode", "PGSSLCERTMODE", "allow", 160000},
	{"sslpassword", "", "", 130000},
	{"sslrootcert", "PGSSLROOTCERT", "", 0},
	{"sslcrl", "PGSSLCRL", "", 0},
	{"sslcrldir", "PGSSLCRLDIR", "", 140000},
	{"sslsni", "PGSSLSNI", "1", 140000},
	{"requirepeer", "PGREQUIREPEER", "", 0},
	{"require_auth", "PGREQUIREAUTH", "", 160000},
	{"min_protocol_version", "PGMINPROTOCOLVERSION", "", 180000},
	{"max_protocol_version", "PGMAXPROTOCOLVERSION", "", 180000},
	{"ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", "TLSv1.2", 130000},
	{"ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", "", 130000},
	{"gssencmode", "PGGSSENCMODE", "disable", 120000},
	{"krbsrvname", "PGKRBSRVNAME", "postgres", 0},
	{"gsslib", "PGGSSLIB", "", 0},
	{"gssdelegation", "PGGSSDELEGATION", "0", 160000},
	{"replication", "", "", 0},
	{"target_session_attrs", "PGTARGETSESSIONATTRS", "any", 0},
	{"load_balance_hosts", "PGLOADBALANCEHOSTS", "disable", 160000},
	{"scram_client_key", "", "", 180000},
	{"scram_server_key", "", "", 180000},
	{"oauth_issuer", "", "", 180000},
	{"oauth_client_id", "", "", 180000},
	{"oauth_client_secret", "", "", 180000},
	{"oauth_scope", "", "", 180000},
	{"sslkeylogfile", "", "", 180000},
}

// defaultPort is the port used where none is given.
//
// Source: DEF_PGPORT in src/include/pg_config.h, PostgreSQL 18.
const defaultPort = "5432"

// Options returns every parameter that libpq knows, in libpq's order.
func Options() []option { return slices.Clone(options) }

func known(keyword string) bool {
	return slices.ContainsFunc(options, func(o option) bool { return o.keyword == keyword })
}

// Params are the values of connection parameters, each keyword at most once.
// A keyword can be set and empty; for a file name or a host that is the same
// as unset. The zero value holds nothing and is ready to use.
type Params struct {
	values map[string]string
}

// Set gives a keyword a value, replacing any earlier one. A keyword that libpq
// does not know is an error.
func (p *Params) Set(keyword, value string) error {
	if !known(keyword) {
		return fmt.Errorf("invalid connection option \"%s\"", keyword)
	}
	p.set(keyword, value)
	return nil
}

// set is Set for a keyword that is known to be in the table.
func (p *Params) set(keyword, value string) {
	if p.values == nil {
		p.values = make(map[string]string)
	}
	p.values[keyword] = value
}

// Value returns the value of a keyword, empty if it is unset.
func (p Params) Value(keyword string) string { return p.values[keyword] }

// Lookup returns the value of a keyword and whether it is set.
func (p Params) Lookup(keyword string) (string, bool) {
	v, ok := p.values[keyword]
	return v, ok
}

// All yields the keywords that are set with their values, in libpq's order.
func (p Params) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, o := range options {
			if v, ok := p.values[o.keyword]; ok && !yield(o.keyword, v) {
				return
			}
		}
	}
}

// Clone returns a copy that shares nothing with p.
func (p Params) Clone() Params {
	var c Params
	for k, v := range p.values {
		c.set(k, v)
	}
	return c
}

// quote writes a value as a connection string needs it: bare if it holds
// nothing but letters, digits, underscore and dot, else between single quotes.
//
// Source: appendConnStrVal in src/fe_utils/string_utils.c, PostgreSQL 18.
func quote(v string) string {
	bare := v != ""
	for i := range len(v) {
		c := v[i]
		if !isAlphanumeric(c) && c != '_' && c != '.' {
			bare = false
			break
		}
	}
	if bare {
		return v
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'"
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
