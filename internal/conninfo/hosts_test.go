package conninfo

import (
	"maps"
	"slices"
	"testing"
)

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []Host
		err  string
	}{
		{"", []Host{{"/sockets", "", 5432}}, ""},
		{"port=7", []Host{{"/sockets", "", 7}}, ""},
		{"host=a", []Host{{"a", "", 5432}}, ""},
		{"host=a,,c port=1", []Host{{"a", "", 1}, {"/sockets", "", 1}, {"c", "", 1}}, ""},
		{"host=a,b port=1,", []Host{{"a", "", 1}, {"b", "", 5432}}, ""},
		{"host=a hostaddr=1.2.3.4", []Host{{"a", "1.2.3.4", 5432}}, ""},
		{"hostaddr=1.2.3.4,::1 port=1,2", []Host{{"", "1.2.3.4", 1}, {"", "::1", 2}}, ""},
		{"host=a,b hostaddr=,1.2.3.4", []Host{{"a", "", 5432}, {"b", "1.2.3.4", 5432}}, ""},
		{"host=a,b hostaddr=1.2.3.4", nil, "could not match 2 host names to 1 hostaddr values"},
		{"host=a,b port=1,2,3", nil, "could not match 3 port numbers to 2 hosts"},
		{"port=0", nil, `invalid port number: "0"`},
		{"port=65536", nil, `invalid port number: "65536"`},
		{"port=x", nil, `invalid integer value "x" for connection option "port"`},
	} {
		p, err := Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Hosts(System{SocketDir: "/sockets"})
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%q: error %v, want %s", c.in, err, c.err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, %v, want %v", c.in, got, err, c.want)
		}
	}
}

func TestWithHost(t *testing.T) {
	for _, c := range []struct {
		reason string
		in     string
		host   Host
	}{
		{"one of several", "host=a,b,c port=1,2,3", Host{"b", "1.2.3.4", 2}},
		{"by address alone", "hostaddr=1.2.3.4,::1", Host{"", "::1", 5432}},
		{"a socket among hosts", "host=/sockets,b hostaddr=,1.2.3.4", Host{"/sockets", "", 5432}},
		{"the default socket", "", Host{"/sockets", "", 5432}},
		{"an address with a zone", "host=a", Host{"a", "fe80::1%eth0", 5432}},
	} {
		given, err := Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		before := maps.Clone(given.values)
		s := System{User: "me", SocketDir: "/sockets", Getenv: environment(facts{"PGHOST": "x", "PGHOSTADDR": "9.9.9.9", "PGPORT": "9"})}
		p, err := given.WithHost(c.host).Complete(s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Hosts(s); err != nil || !slices.Equal(got, []Host{c.host}) {
			t.Errorf("%s: got %v, %v, want %v", c.reason, got, err, c.host)
		}
		if !maps.Equal(given.values, before) {
			t.Errorf("%s: the original was changed to %v", c.reason, given.values)
		}
	}
}

func TestHostKind(t *testing.T) {
	for _, c := range []struct {
		host   Host
		socket string // empty for a host over TCP
	}{
		{Host{"/tmp", "", 5432}, "/tmp/.s.PGSQL.5432"},
		{Host{"@basin", "", 1}, "@basin/.s.PGSQL.1"},
		{Host{"localhost", "", 5432}, ""},
		{Host{"/tmp", "127.0.0.1", 5432}, ""}, // the address decides
	} {
		got := ""
		if c.host.IsSocket() {
			got = c.host.Socket()
		}
		if got != c.socket {
			t.Errorf("%v: socket %q, want %q", c.host, got, c.socket)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct{ in, err string }{
		{"", ""},
		{"sslmode=foo", `invalid sslmode value: "foo"`},
		{"sslmode=''", `invalid sslmode value: ""`},
		{"channel_binding=maybe", `invalid channel_binding value: "maybe"`},
		{"target_session_attrs=master", `invalid target_session_attrs value: "master"`},
		{"load_balance_hosts=on", `invalid load_balance_hosts value: "on"`},
		{"sslnegotiation=direct", `weak sslmode "prefer" may not be used with sslnegotiation=direct (use "require", "verify-ca", or "verify-full")`},
		{"sslnegotiation=direct sslmode=require", ""},
		{"sslrootcert=system sslmode=require", `weak sslmode "require" may not be used with sslrootcert=system (use "verify-full")`},
		{"ssl_min_protocol_version=SSLv3", `invalid "ssl_min_protocol_version" value: "SSLv3"`},
		{"ssl_min_protocol_version=tlsv1.3", ""},
		{"ssl_max_protocol_version=TLSv1.1", "invalid SSL protocol version range"},
		{"ssl_min_protocol_version=TLSv1 ssl_max_protocol_version=TLSv1.1", ""},
		{"min_protocol_version=3.1", `invalid min_protocol_version value: "3.1"`},
		{"min_protocol_version=latest max_protocol_version=3.2", ""},
		{"min_protocol_version=3.2 max_protocol_version=3.0", `"min_protocol_version" is greater than "max_protocol_version"`},
		{"connect_timeout=1s", `invalid integer value "1s" for connection option "connect_timeout"`},
		{"tcp_user_timeout=' 5 '", ""},
		{"require_auth=scram-sha-256,md5", ""},
		{"require_auth=!password,!md5", ""},
		{"require_auth=scram", `invalid require_auth value: "scram"`},
		{"require_auth=md5,!password", `negative require_auth method "!password" cannot be mixed with non-negative methods`},
		{"require_auth=!md5,password", `require_auth method "password" cannot be mixed with negative methods`},
		{"require_auth=md5,md5", `require_auth method "md5" is specified more than once`},
	} {
		given, err := Parse(c.in)
		if err != nil {
			t.Fatal(err)
		}
		p, err := given.Complete(System{User: "me"})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := p.Check(); err != nil {
			got = err.Error()
		}
		if got != c.err {
			t.Errorf("%q: got %q, want %q", c.in, got, c.err)
		}
	}
}

func TestServerVersion(t *testing.T) {
	for _, c := range []struct {
		text string
		want int // zero is an error
	}{
		{"18.6", 180006},
		{"15.20 (Debian 15.20-0+deb12u1)", 150020},
		{"19devel", 190000},
		{"19beta1", 190000},
		{"10.0", 100000},
		{"9.6.24", 90624},
		{"9.6", 90600},
		{"9.6devel", 90600},
		{"", 0},
		{"devel", 0},
		{"99999999999", 0},
	} {
		got, err := ServerVersion(c.text)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%q: got %d, %v, want %d", c.text, got, err, c.want)
		}
	}
}

func FuzzServerVersion(f *testing.F) {
	f.Add("18.6")
	f.Add("9.6.24")
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ServerVersion(text); n < 0 || err == nil && text == "" {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	})
}
