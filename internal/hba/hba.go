// Package hba knows the two files that say who may log in and how: rules in the
// form of PostgreSQL's pg_hba.conf, of which it has the part that makes sense
// for a server that listens on TCP and knows of no roles, and a list of users
// with their SCRAM secrets.
//
// It reads no file and checks no password: it takes texts and gives answers.
// What PostgreSQL would understand and this package does not is an error, never
// left out, since a rule that is left out lets others decide.
package hba

import (
	"fmt"
	"net/netip"
	"slices"
)

// Error says what is wrong with a file.
type Error struct {
	File   string
	Line   int // counted from 1; zero is the file as a whole
	Reason string
	Hint   string // what to do about it; may be empty
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("%s, line %d: %s", e.File, e.Line, e.Reason)
}

// Method is a way to find out that a user is who it says it is.
//
// Source: UserAuth in src/include/libpq/hba.h, PostgreSQL 18.
type Method int

// The methods. The zero value lets nobody in.
const (
	Reject      Method = iota
	Trust              // without any proof
	SCRAM              // a password that is never sent
	Certificate        // a certificate in the user's name
)

func (m Method) String() string {
	for _, known := range methods {
		if known.method == m {
			return known.name
		}
	}
	return fmt.Sprintf("method %d", int(m))
}

var methods = []struct {
	name   string
	method Method
}{
	{"reject", Reject}, {"trust", Trust}, {"scram-sha-256", SCRAM}, {"cert", Certificate},
}

// ClientCert says what a client's certificate has to be beside the method.
//
// Source: ClientCertMode in src/include/libpq/hba.h, PostgreSQL 18.
type ClientCert int

// What is demanded of a client's certificate.
const (
	ClientCertOff  ClientCert = iota // nothing; it may have none
	ClientCertCA                     // an authority that is known has signed it
	ClientCertFull                   // and it is in the name of the user
)

// Connection is what rules are chosen by.
type Connection struct {
	Address  netip.Addr // of the client; the zero value matches no rule
	TLS      bool
	Physical bool   // for physical replication: it has no database
	Database string // of any other
	User     string
}

// Rule is one line of the rules.
type Rule struct {
	Line       int // in its file, counted from 1; zero if it is in none
	Method     Method
	ClientCert ClientCert

	encryption encryption
	databases  []word
	users      []word
	networks   []netip.Prefix // empty is every address
}

// encryption says over which connections a rule decides.
type encryption int

const (
	encryptionAny encryption = iota
	encryptionTLS
	encryptionNone
)

// word is one of a list of names. One that was quoted is no keyword.
type word struct {
	text   string
	quoted bool
}

func (w word) is(keyword string) bool { return !w.quoted && w.text == keyword }

// Rules decide by the first of them that matches. The zero value lets nobody in.
type Rules struct {
	rules []Rule
}

// Default returns the rules for when nobody has written any: a password for
// every connection, and no connection without TLS from another machine.
func Default() Rules {
	everything := []word{{text: "all"}}
	rule := func(e encryption, networks []netip.Prefix) Rule {
		return Rule{
			Method: SCRAM, encryption: e, networks: networks,
			databases: []word{{text: "replication"}, {text: "all"}}, users: everything,
		}
	}
	return Rules{[]Rule{rule(encryptionTLS, nil), rule(encryptionNone, loopback)}}
}

// loopback is the addresses of the machine itself.
var loopback = []netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8),
	netip.PrefixFrom(netip.IPv6Loopback(), 128),
}

// Match returns the rule that decides over a connection. Without any the
// connection is to be refused.
//
// Source: check_hba in src/backend/libpq/hba.c, PostgreSQL 18.
func (r Rules) Match(c Connection) (Rule, bool) {
	for _, rule := range r.rules {
		if rule.matches(c) {
			return rule, true
		}
	}
	return Rule{}, false
}

// NeedClientCert tells whether any rule looks at clients' certificates, for
// which the server needs to know the authorities that sign them.
func (r Rules) NeedClientCert() bool {
	return slices.ContainsFunc(r.rules, func(rule Rule) bool { return rule.ClientCert != ClientCertOff })
}

// matches tells whether a rule decides over a connection.
func (r Rule) matches(c Connection) bool {
	switch {
	case r.encryption == encryptionTLS && !c.TLS, r.encryption == encryptionNone && c.TLS:
		return false
	case !r.matchesAddress(c.Address), !r.matchesDatabase(c):
		return false
	}
	return slices.ContainsFunc(r.users, func(w word) bool { return w.is("all") || w.text == c.User })
}

func (r Rule) matchesAddress(a netip.Addr) bool {
	// A socket for both kinds of addresses gives the older ones in the form of the newer.
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return false
	}
	return len(r.networks) == 0 || slices.ContainsFunc(r.networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// matchesDatabase tells whether a rule is about the database of a connection.
// Physical replication has none, and is not among all.
//
// Source: check_db in src/backend/libpq/hba.c, PostgreSQL 18.
func (r Rule) matchesDatabase(c Connection) bool {
	return slices.ContainsFunc(r.databases, func(w word) bool {
		if c.Physical || w.is("replication") {
			return c.Physical && w.is("replication")
		}
		return w.is("all") || w.text == c.Database
	})
}
