package hba

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// from is a physical replication connection of the user u, without TLS.
func from(address string) Connection {
	return Connection{Address: netip.MustParseAddr(address), Physical: true, User: "u"}
}

func (c Connection) secured() Connection { c.TLS = true; return c }

func (c Connection) user(name string) Connection { c.User = name; return c }

func (c Connection) database(name string) Connection {
	c.Physical, c.Database = false, name
	return c
}

func TestMatch(t *testing.T) {
	c := from("192.0.2.7")
	for _, test := range []struct {
		reason, rules string
		connection    Connection
		want          string // line and method; empty is none
	}{
		{"simple", "host replication u 192.0.2.0/24 scram-sha-256", c, "1 scram-sha-256"},
		{"blanks, comments, empty lines and the line ends of Windows", "\r\n# c\r\n\t host  replication\tu 192.0.2.0/24 scram-sha-256 # c\r\n", c, "3 scram-sha-256"},
		{"the first decides", "host replication u all reject\nhost replication u all scram-sha-256", c, "1 reject"},
		{"another user", "host replication other all reject\nhost replication all all scram-sha-256", c, "2 scram-sha-256"},
		{"none", "host replication other all scram-sha-256", c, ""},
		{"all is not replication", "host all all all scram-sha-256", c, ""},
		{"replication is none of all", "host replication all all scram-sha-256", c.database("d"), ""},
		{"nor is a database of that name", "host replication all all scram-sha-256", c.database("replication"), ""},
		{"it is in quotes", `host "replication" all all scram-sha-256`, c.database("replication"), "1 scram-sha-256"},
		{"in quotes it is no keyword", `host "replication" all all scram-sha-256`, c, ""},
		{"a database", "host d all all scram-sha-256", c.database("d"), "1 scram-sha-256"},
		{"all databases", "host all all all scram-sha-256", c.database("d"), "1 scram-sha-256"},
		{"a database named all", `host "all" all all scram-sha-256`, c.database("d"), ""},
		{"lists", "host a,replication x,u all scram-sha-256", c, "1 scram-sha-256"},
		{"lists with blanks", "host a, replication x, u all scram-sha-256", c, "1 scram-sha-256"},
		{"a user named all", `host replication "all" all scram-sha-256`, c, ""},
		{"that user", `host replication "all" all scram-sha-256`, c.user("all"), "1 scram-sha-256"},
		{"a name of all sorts", `host replication "a b,c#""+" all scram-sha-256`, c.user(`a b,c#"+`), "1 scram-sha-256"},
		{"names are told apart by case", "host replication U all scram-sha-256", c, ""},
		{"a line that goes on", "host replication \\\nu all reject\nhost all all all reject", c, "1 reject"},
		{"and the number after it", "host all \\\nu all reject\nhost replication all all reject", c, "3 reject"},
		{"a mask", "host replication all 192.0.2.0 255.255.255.248 scram-sha-256", c, "1 scram-sha-256"},
		{"a mask that leaves it out", "host replication all 192.0.2.0 255.255.255.252 scram-sha-256", c, ""},
		{"an address with bits beyond its mask", "host replication all 192.0.2.99/24 scram-sha-256", c, "1 scram-sha-256"},
		{"one address", "host replication all 192.0.2.7/32 scram-sha-256", c, "1 scram-sha-256"},
		{"its neighbour", "host replication all 192.0.2.6/32 scram-sha-256", c, ""},
		{"in the form of a newer one", "host replication all 192.0.2.7/32 scram-sha-256", from("::ffff:192.0.2.7"), "1 scram-sha-256"},
		{"every older address is no newer one", "host replication all 0.0.0.0/0 scram-sha-256", from("2001:db8::1"), ""},
		{"a newer one", "host replication all 2001:db8::/32 scram-sha-256", from("2001:db8::1"), "1 scram-sha-256"},
		{"with a zone", "host replication all fe80::/10 scram-sha-256", from("fe80::1%eth0"), "1 scram-sha-256"},
		{"an address that is not known", "host replication all all scram-sha-256", Connection{Physical: true}, ""},
		{"TLS wanted", "hostssl replication all all scram-sha-256", c, ""},
		{"TLS given", "hostssl replication all all scram-sha-256", c.secured(), "1 scram-sha-256"},
		{"TLS not wanted", "hostnossl replication all all scram-sha-256", c.secured(), ""},
		{"TLS not given", "hostnossl replication all all scram-sha-256", c, "1 scram-sha-256"},
		{"either", "host replication all all scram-sha-256", c.secured(), "1 scram-sha-256"},
		{"no GSSAPI is what there is", "hostnogssenc replication all all scram-sha-256", c, "1 scram-sha-256"},
		{"certificate", "hostssl replication all all cert", c.secured(), "1 cert full"},
		{"certificate, said twice", "hostssl replication all all cert clientcert=verify-full", c.secured(), "1 cert full"},
		{"certificate and password", "hostssl replication all all scram-sha-256 clientcert=verify-full", c.secured(), "1 scram-sha-256 full"},
		{"any certificate and password", "hostssl replication all all scram-sha-256 clientcert=verify-ca", c.secured(), "1 scram-sha-256 ca"},
		{"trust", "host replication all 127.0.0.0/8 trust", from("127.0.0.1"), "1 trust"},
		{"trust in the newer form", "host replication all ::1/128 trust", from("::1"), "1 trust"},
	} {
		rules, err := Parse("f", []byte(test.rules), ParseOptions{})
		if err != nil {
			t.Errorf("%s: %v", test.reason, err)
			continue
		}
		got := ""
		if rule, ok := rules.Match(test.connection); ok {
			got = fmt.Sprint(rule.Line, " ", rule.Method, map[ClientCert]string{ClientCertCA: " ca", ClientCertFull: " full"}[rule.ClientCert])
		}
		if got != test.want {
			t.Errorf("%s: %q, want %q", test.reason, got, test.want)
		}
		if want := strings.Contains(test.rules, "cert"); rules.NeedClientCert() != want {
			t.Errorf("%s: looks at certificates: %v", test.reason, !want)
		}
	}
}

func TestDefault(t *testing.T) {
	far, near := from("192.0.2.7"), from("127.0.0.1")
	for _, c := range []struct {
		reason     string
		connection Connection
		want       bool
	}{
		{"from afar", far, false},
		{"from afar with TLS", far.secured(), true},
		{"here", near, true},
		{"here in the newer form", from("::1"), true},
		{"here with TLS", near.secured(), true},
		{"here to a database", near.database("d"), true},
		{"from afar to a database", far.database("d"), false},
	} {
		if rule, ok := Default().Match(c.connection); ok != c.want || ok && rule.Method != SCRAM {
			t.Errorf("%s: %v, %v", c.reason, ok, rule.Method)
		}
	}
	if _, ok := (Rules{}).Match(near.secured()); ok {
		t.Error("no rules let in")
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ reason, rules, want, hint string }{
		{"nothing", "# only this\n", "f: configuration file contains no entries", "hostssl replication"},
		{"second line", "host all all all reject\nhost", "f, line 2: end-of-line before database specification", "type database user"},
		{"no user", "host all", "f, line 1: end-of-line before role specification", "type database user"},
		{"no address", "host all all", "f, line 1: end-of-line before host address", "type database user"},
		{"no method", "host all all all", "f, line 1: end-of-line before authentication method", "type database user"},
		{"no mask", "host all all 192.0.2.1", "f, line 1: end-of-line before netmask specification", "CIDR"},
		{"the method for a mask", "host all all 192.0.2.1 reject", `f, line 1: invalid IP mask "reject"`, "/24"},
		{"two types", "host,hostssl all all all reject", "f, line 1: multiple values specified for connection type", "exactly one"},
		{"two addresses", "host all all 192.0.2.1/32,192.0.2.2/32 reject", "f, line 1: multiple values specified for host address", "exactly one"},
		{"two methods", "host all all all reject,trust", "f, line 1: multiple values specified for authentication method", "exactly one"},
		{"a type that is none", "hosts all all all reject", `f, line 1: invalid connection type "hosts"`, "hostnossl"},
		{"a socket", "local all all peer", `f, line 1: connection type "local" is not supported`, "delete"},
		{"GSSAPI", "hostgssenc all all all gss", `f, line 1: connection type "hostgssenc" is not supported`, "delete"},
		{"another file", "include other.conf", `f, line 1: "include" is not supported`, "put the lines"},
		{"databases in a file", "host @dbs all all reject", `f, line 1: "@dbs": names in another file are not supported`, "put the names"},
		{"users in a file", "host all a,@users all reject", `f, line 1: "@users": names in another file are not supported`, "put the names"},
		{"members of a role", "host all +admins all reject", `f, line 1: "+admins": members of a role are not known here`, "one by one"},
		{"a pattern", "host all /^a all reject", `f, line 1: "/^a": regular expressions are not supported`, "one by one"},
		{"the user's database", "host sameuser all all reject", `f, line 1: "sameuser" is not supported`, "in quotes"},
		{"an empty name", `host all "" all reject`, "f, line 1: the name of a role is empty", ""},
		{"an open quote", `host all "a all reject`, "f, line 1: a quote is not closed", ""},
		{"a zero byte", "host all a\x00 all reject", "f, line 1: there is a zero byte", ""},
		{"the host itself", "host all all samehost reject", `f, line 1: "samehost" is not supported`, "192.0.2.0/24"},
		{"its network", "host all all samenet reject", `f, line 1: "samenet" is not supported`, "192.0.2.0/24"},
		{"a host's name", "host all all example.com reject", `f, line 1: host name "example.com" is not supported`, "address"},
		{"a domain", "host all all .example.com reject", `f, line 1: host name ".example.com" is not supported`, "address"},
		{"not quite an address", "host all all 192.0.2/24 reject", `f, line 1: invalid IP address "192.0.2/24"`, "/24"},
		{"a mask too long", "host all all 192.0.2.0/33 reject", `f, line 1: invalid CIDR mask in address "192.0.2.0/33"`, "/24"},
		{"a mask of the other kind", "host all all 192.0.2.0 ffff:: reject", "f, line 1: IP address and mask do not match", ""},
		{"a mask with a gap", "host all all 192.0.2.0 255.0.255.0 reject", `f, line 1: IP mask "255.0.255.0" has a gap`, ""},
		{"an older address as a newer one", "host all all ::ffff:192.0.2.0/120 reject", `f, line 1: invalid IP address "::ffff:192.0.2.0/120"`, ""},
		{"a zone", "host all all fe80::1%eth0 ffff:: reject", `f, line 1: invalid IP address "fe80::1%eth0"`, ""},
		{"md5", "host all all all md5", `f, line 1: authentication method "md5" is not supported`, "scram-sha-256"},
		{"password", "host all all all password", `f, line 1: authentication method "password" is not supported`, "scram-sha-256"},
		{"LDAP", "host all all all ldap ldapserver=x", `f, line 1: authentication method "ldap" is not supported`, "PostgreSQL's alone"},
		{"a method that is none", "host all all all scram", `f, line 1: authentication method "scram" is not supported`, "cert"},
		{"a certificate without TLS", "host all all all cert", "f, line 1: cert authentication is only supported on hostssl connections", "hostssl"},
		{"trust everywhere", "host all all all trust", "f, line 1: trust would give", "127.0.0.1/32"},
		{"trust in a network", "host all all 192.0.2.0/24 trust", "f, line 1: trust would give", "127.0.0.1/32"},
		{"trust around the machine", "host all all 126.0.0.0/7 trust", "f, line 1: trust would give", "127.0.0.1/32"},
		{"half an option", "hostssl all all all cert clientcert", "f, line 1: authentication option not in name=value format: clientcert", ""},
		{"another option", "hostssl all all all cert map=m", `f, line 1: authentication option "map" is not supported`, "clientcert"},
		{"an option without TLS", "host all all all scram-sha-256 clientcert=verify-ca", `f, line 1: clientcert can only be configured for "hostssl" rows`, "hostssl"},
		{"less than the method has", "hostssl all all all cert clientcert=verify-ca", `f, line 1: clientcert only accepts "verify-full"`, ""},
		{"a value that is none", "hostssl all all all scram-sha-256 clientcert=1", `f, line 1: invalid value for clientcert: "1"`, "verify-full"},
	} {
		_, err := Parse("f", []byte(c.rules), ParseOptions{})
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), c.want) || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: %v, want %s", c.reason, err, c.want)
		}
	}
	if _, err := Parse("f", []byte("host all all all trust"), ParseOptions{TrustAnywhere: true}); err != nil {
		t.Errorf("trust that is allowed: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"host replication u 192.0.2.0/24 scram-sha-256", "hostssl all \"a\"\"b\",c ::1 ffff:: cert clientcert=verify-full # c",
		"host all all 127.0.0.1/32 trust\n", "host a \\\nb all reject",
	} {
		f.Add([]byte(text))
	}
	machine, far := from("127.0.0.1"), from("192.0.2.7")
	f.Fuzz(func(t *testing.T, text []byte) {
		rules, err := Parse("f", text, ParseOptions{})
		var e *Error
		if err != nil {
			if !errors.As(err, &e) || e.Line > strings.Count(string(text), "\n")+1 {
				t.Errorf("%#v", err)
			}
			return
		}
		if len(rules.rules) == 0 {
			t.Error("no rules")
		}
		for _, c := range []Connection{far, far.secured(), far.database("d"), machine} {
			if rule, ok := rules.Match(c); ok && (rule.Method == Trust && c.Address == far.Address || rule.Method == Certificate && !c.TLS) {
				t.Errorf("%+v: %v", c, rule.Method)
			}
		}
	})
}
