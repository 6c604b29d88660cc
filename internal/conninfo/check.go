package conninfo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// choices are the values of the parameters that have a fixed set of them.
//
// Source: pqConnectOptions2 in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
var choices = []struct {
	keyword string
	values  []string
}{
	{"channel_binding", []string{"disable", "prefer", "require"}},
	{"sslmode", []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}},
	{"sslnegotiation", []string{"postgres", "direct"}},
	{"sslcertmode", []string{"disable", "allow", "require"}},
	{"gssencmode", []string{"disable", "prefer", "require"}},
	{"target_session_attrs", []string{"any", "read-write", "read-only", "primary", "standby", "prefer-standby"}},
	{"load_balance_hosts", []string{"disable", "random"}},
	{"min_protocol_version", []string{"3.0", "3.2", "latest"}},
	{"max_protocol_version", []string{"3.0", "3.2", "latest"}},
}

// tlsVersions are the protocol versions that libpq names, oldest first. They
// are compared without regard to case.
//
// Source: sslVerifyProtocolVersion in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
var tlsVersions = []string{"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}

// Check looks for values that libpq refuses before it opens a connection. p is
// complete, see [Params.Complete]. Errors have libpq's texts.
//
// Source: pqConnectOptions2 in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (p Params) Check() error {
	for _, c := range choices {
		if v, ok := p.Lookup(c.keyword); ok && !slices.Contains(c.values, v) {
			return fmt.Errorf("invalid %s value: \"%s\"", c.keyword, v)
		}
	}
	mode := p.Value("sslmode")
	strong := mode == "require" || mode == "verify-ca" || mode == "verify-full"
	if p.Value("sslnegotiation") == "direct" && !strong {
		return fmt.Errorf("weak sslmode \"%s\" may not be used with sslnegotiation=direct (use \"require\", \"verify-ca\", or \"verify-full\")", mode)
	}
	if p.Value("sslrootcert") == "system" && mode != "verify-full" {
		return fmt.Errorf("weak sslmode \"%s\" may not be used with sslrootcert=system (use \"verify-full\")", mode)
	}
	if err := p.checkTLSVersions(); err != nil {
		return err
	}
	// The two releases of the protocol leave one way to get the order wrong.
	if p.Value("max_protocol_version") == "3.0" && p.Value("min_protocol_version") > "3.0" {
		return errors.New("\"min_protocol_version\" is greater than \"max_protocol_version\"")
	}
	for _, keyword := range []string{
		"connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
	} {
		if _, _, err := p.Int(keyword); err != nil {
			return err
		}
	}
	return p.checkRequireAuth()
}

func (p Params) checkTLSVersions() error {
	var place [2]int
	for i, keyword := range []string{"ssl_min_protocol_version", "ssl_max_protocol_version"} {
		v := p.Value(keyword)
		if v == "" {
			place[i] = i * len(tlsVersions)
			continue
		}
		place[i] = slices.IndexFunc(tlsVersions, func(name string) bool { return strings.EqualFold(name, v) })
		if place[i] < 0 {
			return fmt.Errorf("invalid \"%s\" value: \"%s\"", keyword, v)
		}
	}
	if place[0] > place[1] {
		return errors.New("invalid SSL protocol version range")
	}
	return nil
}

// checkRequireAuth looks at require_auth: a list of methods, or of methods
// that are ruled out, never both.
func (p Params) checkRequireAuth() error {
	methods := []string{"password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"}
	list := p.list("require_auth")
	for i, part := range list {
		method, negated := strings.CutPrefix(part, "!")
		if first := strings.HasPrefix(list[0], "!"); negated != first {
			if negated {
				return fmt.Errorf("negative require_auth method \"%s\" cannot be mixed with non-negative methods", part)
			}
			return fmt.Errorf("require_auth method \"%s\" cannot be mixed with negative methods", part)
		}
		if !slices.Contains(methods, method) {
			return fmt.Errorf("invalid require_auth value: \"%s\"", method)
		}
		if slices.Contains(list[:i], part) {
			return fmt.Errorf("require_auth method \"%s\" is specified more than once", part)
		}
	}
	return nil
}
