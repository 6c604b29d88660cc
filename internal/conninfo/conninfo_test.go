package conninfo

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// facts are parameters written as a map, for comparing.
type facts = map[string]string

func TestParsePairs(t *testing.T) {
	for _, c := range []struct {
		in   string
		want facts
		err  string
	}{
		{"", facts{}, ""},
		{"  ", facts{}, ""},
		{"host=a port=1", facts{"host": "a", "port": "1"}, ""},
		{"host = a\tport\n=\n1", facts{"host": "a", "port": "1"}, ""},
		{"host=a host=b", facts{"host": "b"}, ""},
		{"host=", facts{"host": ""}, ""},
		{"host= port=1", facts{"host": "port=1"}, ""}, // blanks after the sign are skipped
		{"host='' port=1", facts{"host": "", "port": "1"}, ""},
		{`user='it\'s a \\' port=1`, facts{"user": `it's a \`, "port": "1"}, ""},
		{`user=a\ b`, facts{"user": "a b"}, ""},
		{`user=a'b`, facts{"user": "a'b"}, ""},
		{`user=a\`, facts{"user": "a"}, ""},
		{"user='a'port=1", facts{"user": "a", "port": "1"}, ""}, // no blank is needed after a quote
		{"requiressl=1", facts{"sslmode": "require"}, ""},
		{"requiressl=0", facts{"sslmode": "prefer"}, ""},
		{"host", nil, `missing "=" after "host" in connection info string`},
		{"host a=b", nil, `missing "=" after "host" in connection info string`},
		{"host=a foo", nil, `missing "=" after "foo" in connection info string`},
		{"=a", nil, `invalid connection option ""`},
		{"user='a", nil, "unterminated quoted string in connection info string"},
		{`user='a\'`, nil, "unterminated quoted string in connection info string"},
		{"wal_sender_timeout=0", nil, `invalid connection option "wal_sender_timeout"`},
		{"HOST=a", nil, `invalid connection option "HOST"`},
		{"host=a\x00b", nil, "forbidden zero byte in connection info string"},
	} {
		checkParse(t, c.in, c.want, c.err)
	}
}

// Most of these are libpq's own: src/interfaces/libpq/t/001_uri.pl.
func TestParseURI(t *testing.T) {
	for _, c := range []struct {
		in   string
		want facts
		err  string
	}{
		{"postgresql://uri-user:secret@host:12345/db", facts{"user": "uri-user", "password": "secret", "host": "host", "port": "12345", "dbname": "db"}, ""},
		{"postgresql://uri-user@host/db", facts{"user": "uri-user", "host": "host", "dbname": "db"}, ""},
		{"postgresql://uri-user@", facts{"user": "uri-user"}, ""},
		{"postgresql://host:12345/", facts{"host": "host", "port": "12345"}, ""},
		{"postgresql://", facts{}, ""},
		{"postgresql://?hostaddr=127.0.0.1", facts{"hostaddr": "127.0.0.1"}, ""},
		{"postgresql://%68ost/", facts{"host": "host"}, ""},
		{"postgresql://host/db?u%73er=someotheruser&port=12345", facts{"user": "someotheruser", "dbname": "db", "host": "host", "port": "12345"}, ""},
		{"postgresql://host?", facts{"host": "host"}, ""},
		{"postgresql://[::1]:12345/db", facts{"dbname": "db", "host": "::1", "port": "12345"}, ""},
		{"postgresql://[200z:db8::1234]/", facts{"host": "200z:db8::1234"}, ""},
		{"postgres:///db", facts{"dbname": "db"}, ""},
		{"postgres://@host", facts{"host": "host"}, ""},
		{"postgres://host:/", facts{"host": "host"}, ""},
		{"postgres://:12345/", facts{"port": "12345"}, ""},
		{"postgres://otheruser@:12345/db?host=/path/to/socket", facts{"user": "otheruser", "dbname": "db", "host": "/path/to/socket", "port": "12345"}, ""},
		{"postgres://%2Fvar%2Flib%2Fpostgresql/dbname", facts{"dbname": "dbname", "host": "/var/lib/postgresql"}, ""},
		{"postgres://a:1,b,[::1]:3/db", facts{"host": "a,b,::1", "port": "1,,3", "dbname": "db"}, ""},
		{"postgres://a,b", facts{"host": "a,b", "port": ","}, ""},
		{"postgres://u:p%40ss@h", facts{"user": "u", "password": "p@ss", "host": "h"}, ""},
		{"postgres://h?ssl=true", facts{"host": "h", "sslmode": "require"}, ""},
		{"postgres://h?options=-c%20geqo%3Doff", facts{"host": "h", "options": "-c geqo=off"}, ""},
		{"postgres:// h ", facts{"host": "h"}, ""},
		{"postgres://h?ssl=false", nil, `invalid URI query parameter: "ssl"`},
		{"postgresql://host?uzer=", nil, `invalid URI query parameter: "uzer"`},
		{"postgresql://host/db?u%7aer=someotheruser&port=12345", nil, `invalid URI query parameter: "uzer"`},
		{"postgre://", nil, `missing "=" after "postgre://" in connection info string`},
		{"postgres://[::1", nil, `end of string reached when looking for matching "]" in IPv6 host address in URI: "postgres://[::1"`},
		{"postgres://[]", nil, `IPv6 host address may not be empty in URI: "postgres://[]"`},
		{"postgres://[::1]z", nil, `unexpected character "z" at position 17 in URI (expected ":" or "/"): "postgres://[::1]z"`},
		{"postgresql://host?zzz", nil, `missing key/value separator "=" in URI query parameter: "zzz"`},
		{"postgresql://host?value1&value2", nil, `missing key/value separator "=" in URI query parameter: "value1"`},
		{"postgresql://host?key=key=value", nil, `extra key/value separator "=" in URI query parameter: "key"`},
		{"postgres://host?dbname=%XXfoo", nil, `invalid percent-encoded token: "%XXfoo"`},
		{"postgresql://a%00b", nil, `forbidden value %00 in percent-encoded value: "a%00b"`},
		{"postgresql://%1", nil, `invalid percent-encoded token: "%1"`},
		{"postgres://a b/", nil, `unexpected spaces found in "a b", use percent-encoded spaces (%20) instead`},
	} {
		checkParse(t, c.in, c.want, c.err)
	}
}

func checkParse(t *testing.T, in string, want facts, wantErr string) {
	t.Helper()
	p, err := Parse(in)
	if wantErr != "" {
		if err == nil || err.Error() != wantErr {
			t.Errorf("Parse(%q): error %v, want %s", in, err, wantErr)
		}
		return
	}
	if err != nil {
		t.Errorf("Parse(%q): %v", in, err)
		return
	}
	if got := maps.Collect(p.All()); !maps.Equal(got, want) {
		t.Errorf("Parse(%q) = %v, want %v", in, got, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "host=a port=1", `user='it\'s' password=a\ b\`, "postgres://u:p@[::1]:1,b:2/db?ssl=true&options=-c%20a", "host", "postgres://%",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		var pairs []string
		for keyword, value := range p.All() {
			pairs = append(pairs, keyword+"="+quote(value))
		}
		written := strings.Join(pairs, " ")
		again, err := Parse(written)
		if err != nil {
			t.Fatalf("%q, read from %q, cannot be read: %v", written, s, err)
		}
		if !maps.Equal(p.values, again.values) {
			t.Fatalf("%q is read as %v, and written again as %v", s, p.values, again.values)
		}
	})
}

func TestRequest(t *testing.T) {
	for _, c := range []struct {
		name string
		in   Request
		want facts
	}{
		{"nothing", Request{Program: "pg_basebackup"},
			facts{"dbname": "replication", "replication": "true", "fallback_application_name": "pg_basebackup"}},
		{"options beat the connection string", Request{ConnString: "host=a port=1 user=u", Host: "b", Port: "2", User: "v"},
			facts{"dbname": "replication", "replication": "true", "host": "b", "port": "2", "user": "v"}},
		{"the connection string names a database", Request{ConnString: "dbname=x"},
			facts{"dbname": "x", "replication": "true"}},
		{"an empty value says nothing", Request{ConnString: "dbname='' host=''"},
			facts{"dbname": "replication", "replication": "true"}},
		{"the kind of connection is not up to the user", Request{Program: "p", ConnString: "replication=no fallback_application_name=x"},
			facts{"dbname": "replication", "replication": "true", "fallback_application_name": "p"}},
		{"logical", Request{Logical: true, Database: "x"}, facts{"dbname": "x", "replication": "database"}},
		{"logical, by connection string", Request{Logical: true, Database: "dbname=x port=1", Port: "2"},
			facts{"dbname": "x", "replication": "database", "port": "2"}},
		{"logical, by connection string that names no database", Request{Logical: true, Database: "port=1"},
			facts{"replication": "database", "port": "1"}},
		{"logical, in whatever database the environment says", Request{Logical: true}, facts{"replication": "database"}},
		{"logical, whatever the connection string says", Request{Logical: true, Database: "dbname=x replication=true"},
			facts{"dbname": "x", "replication": "database"}},
	} {
		p, err := c.in.Params()
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := maps.Collect(p.All()); !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if _, err := (Request{ConnString: "mydb"}).Params(); err == nil || err.Error() != `missing "=" after "mydb" in connection info string` {
		t.Errorf("a bare database name: %v", err)
	}
}

func environment(pairs facts) func(string) string {
	return func(name string) string { return pairs[name] }
}

func TestComplete(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, ".pg_service.conf"), "host=stray\n[other]\nport=9\n\n[mine]\n# a comment\n  host=first\nhost=second\nport=7\n[last]\n")
	write(t, filepath.Join(dir, "pg_service.conf"), "[wide]\ndbname=w\nthis line is wrong\n")
	write(t, filepath.Join(dir, "named.conf"), "[mine]\nservice=x\n")
	for _, c := range []struct {
		name string
		in   string
		env  facts
		want facts // the ones that matter; an empty value is an unset one
		err  string
	}{
		{"defaults", "", nil, facts{"user": "me", "dbname": "me", "port": "5432", "sslmode": "prefer", "host": "", "passfile": dir + "/.pgpass"}, ""},
		{"environment", "port=1", facts{"PGPORT": "2", "PGHOST": "h"}, facts{"port": "1", "host": "h"}, ""},
		{"a password makes the password file moot", "", facts{"PGPASSWORD": "x"}, facts{"password": "x", "passfile": ""}, ""},
		{"but not one that was named", "password=x passfile=f", nil, facts{"passfile": "f"}, ""},
		{"every authority is trusted", "sslrootcert=system", nil, facts{"sslmode": "verify-full"}, ""},
		{"unless told how far", "sslrootcert=system", facts{"PGSSLMODE": "require"}, facts{"sslmode": "require"}, ""},
		{"the old variable", "", facts{"PGREQUIRESSL": "1"}, facts{"sslmode": "require"}, ""},
		{"the old variable loses", "", facts{"PGREQUIRESSL": "1", "PGSSLMODE": "allow"}, facts{"sslmode": "allow"}, ""},
		{"service", "service=mine", facts{"PGPORT": "3"}, facts{"host": "first", "port": "7", "service": "mine"}, ""},
		{"service by environment", "host=h", facts{"PGSERVICE": "mine"}, facts{"host": "h", "port": "7", "service": "mine"}, ""},
		{"service of another section", "service=other", nil, facts{"host": "", "port": "9"}, ""},
		{"service without settings", "service=last", nil, facts{"port": "5432"}, ""},
		{"no such service", "service=none", nil, nil, `definition of service "none" not found`},
		{"damaged service file", "service=wide", nil, nil, `syntax error in service file "` + dir + `/pg_service.conf", line 3`},
		{"service in a service", "service=mine", facts{"PGSERVICEFILE": dir + "/named.conf"}, nil, `nested service specifications not supported in service file "` + dir + `/named.conf", line 2`},
		{"no such file", "service=mine", facts{"PGSERVICEFILE": "/none"}, nil, `service file "/none" not found`},
	} {
		given, err := Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		p, err := given.Complete(System{Getenv: environment(c.env), User: "me", Home: dir, ConfigDir: dir})
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%s: error %v, want %s", c.name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		for k, want := range c.want {
			if got := p.Value(k); got != want {
				t.Errorf("%s: %s is %q, want %q", c.name, k, got, want)
			}
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func FuzzServiceFile(f *testing.F) {
	f.Add("[mine]\nhost=a\n", "mine")
	f.Fuzz(func(t *testing.T, text, service string) {
		settings, found, err := parseServiceFile(strings.NewReader(text), "file", service)
		if (err != nil || !found) && len(settings.values) > 0 {
			t.Errorf("settings of no service: %v", settings)
		}
	})
}

func TestPassword(t *testing.T) {
	const lines = "# host:port:database:user:password\n" +
		"db.example:5432:replication:me:one\n" +
		"db.example:*:other:*:two:and what follows\n" +
		"localhost:*:*:me:three\r\n" +
		`a\:b:*:*:*:col\:on\\` + "\n" +
		"*x:*:*:*:five\n" +
		"::1:*:*:*:six\n" +
		"fe80\\:\\:1:*:*:*:seven\n" +
		"*:*:*:me:last"
	file := filepath.Join(t.TempDir(), "pass")
	write(t, file, lines)
	s := System{SocketDir: "/sockets"}
	for _, c := range []struct {
		login Login
		want  string
	}{
		{Login{"db.example", "5432", "replication", "me"}, "one"},
		{Login{"db.example", "", "replication", "me"}, "one"}, // the default port
		{Login{"db.example", "5433", "replication", "me"}, "last"},
		{Login{"db.example", "1", "other", "you"}, "two"},
		{Login{"", "1", "x", "me"}, "three"},
		{Login{"/sockets", "1", "x", "me"}, "three"},
		{Login{"/elsewhere", "1", "x", "me"}, "last"},
		{Login{"a:b", "1", "x", "you"}, `col:on\`},
		{Login{"*x", "1", "x", "you"}, "five"}, // a star is a wildcard only alone
		{Login{"fe80::1", "1", "x", "you"}, "seven"},
		{Login{"::1", "1", "x", "you"}, "six"}, // a colon where one is expected needs no backslash
		{Login{"h", "1", "x", "you"}, ""},
		{Login{"h", "1", "", "me"}, ""},
	} {
		got, err := s.Password(file, c.login)
		if err != nil || got != c.want {
			t.Errorf("%v: got %q, %v, want %q", c.login, got, err, c.want)
		}
	}
	if got, err := s.Password("/none", Login{"h", "1", "x", "me"}); got != "" || err != nil {
		t.Errorf("no file: %q, %v", got, err)
	}
	if err := os.Chmod(file, 0o640); err != nil {
		t.Fatal(err)
	}
	want := `password file "` + file + `" has group or world access; permissions should be u=rw (0600) or less`
	if got, err := s.Password(file, Login{"h", "1", "x", "me"}); got != "" || err == nil || err.Error() != want {
		t.Errorf("a file that others read: %q, %v", got, err)
	}
	if _, err := s.Password(filepath.Dir(file), Login{"h", "1", "x", "me"}); err == nil {
		t.Error("a directory is taken for a password file")
	}
}

func FuzzPassfile(f *testing.F) {
	f.Add("h:1:d:u:p\n", "h", "p")
	f.Add("*:*:*:*:a\\:b", "h", "")
	f.Fuzz(func(t *testing.T, text, host, password string) {
		findPassword(strings.NewReader(text), Login{host, "1", "d", "u"})
		if strings.ContainsAny(host+password, "\r\n") || host == "*" || strings.HasPrefix(host, "#") {
			return
		}
		escape := strings.NewReplacer(`\`, `\\`, `:`, `\:`)
		line := escape.Replace(host) + ":1:d:u:" + escape.Replace(password)
		if got := findPassword(strings.NewReader(line), Login{host, "1", "d", "u"}); got != password {
			t.Errorf("%q: got %q, want %q", line, got, password)
		}
	})
}
