package conninfo

import (
	"fmt"
	"strings"
)

// cutURIPrefix removes the scheme of a connection URI, if s is one.
func cutURIPrefix(s string) (rest string, ok bool) {
	for _, prefix := range []string{"postgresql://", "postgres://"} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			return rest, true
		}
	}
	return s, false
}

// parseURI reads the URI form; rest is uri without its scheme:
//
//	[user[:password]@][host][:port][,...][/dbname][?keyword=value&...]
//
// Source: conninfo_uri_parse_options in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func parseURI(uri, rest string) (Params, error) {
	var p Params
	if i := strings.IndexAny(rest, "@/"); i >= 0 && rest[i] == '@' {
		user, password, _ := strings.Cut(rest[:i], ":")
		rest = rest[i+1:]
		if err := p.storeDecoded("user", user); err != nil {
			return Params{}, err
		}
		if err := p.storeDecoded("password", password); err != nil {
			return Params{}, err
		}
	}
	host, port, rest, err := cutHosts(uri, rest)
	if err != nil {
		return Params{}, err
	}
	if err := p.storeDecoded("host", host); err != nil {
		return Params{}, err
	}
	if err := p.storeDecoded("port", port); err != nil {
		return Params{}, err
	}
	path, query, _ := strings.Cut(rest, "?")
	if err := p.storeDecoded("dbname", strings.TrimPrefix(path, "/")); err != nil {
		return Params{}, err
	}
	if err := p.storeQuery(query); err != nil {
		return Params{}, err
	}
	return p, nil
}

// cutHosts takes the hosts and ports off the front of rest, each as the
// comma-separated list that the keywords host and port hold. What is left is
// empty or begins with a slash or a question mark.
func cutHosts(uri, rest string) (hosts, ports, left string, err error) {
	for {
		var host, port string
		if strings.HasPrefix(rest, "[") {
			host, rest, err = cutBracketed(uri, rest[1:])
			if err != nil {
				return "", "", "", err
			}
		} else {
			host, rest = cutAt(rest, ":/?,")
		}
		if strings.HasPrefix(rest, ":") {
			port, rest = cutAt(rest[1:], "/?,")
		}
		hosts += host
		ports += port
		if !strings.HasPrefix(rest, ",") {
			return hosts, ports, rest, nil
		}
		rest = rest[1:]
		hosts += ","
		ports += ","
	}
}

// cutBracketed takes an IPv6 address, whose opening bracket is already gone,
// off the front of rest.
func cutBracketed(uri, rest string) (host, left string, err error) {
	host, left, ok := strings.Cut(rest, "]")
	switch {
	case !ok:
		return "", "", fmt.Errorf("end of string reached when looking for matching \"]\" in IPv6 host address in URI: \"%s\"", uri)
	case host == "":
		return "", "", fmt.Errorf("IPv6 host address may not be empty in URI: \"%s\"", uri)
	case left != "" && strings.IndexByte(":/?,", left[0]) < 0:
		return "", "", fmt.Errorf("unexpected character \"%s\" at position %d in URI (expected \":\" or \"/\"): \"%s\"",
			left[:1], len(uri)-len(left)+1, uri)
	}
	return host, left, nil
}

// cutAt splits s before the first byte that is one of stops.
func cutAt(s, stops string) (before, from string) {
	if i := strings.IndexAny(s, stops); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}

// storeQuery stores the parameters after the question mark.
//
// Source: conninfo_uri_parse_params in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (p *Params) storeQuery(query string) error {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		rawKeyword, rawValue, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("missing key/value separator \"=\" in URI query parameter: \"%s\"", pair)
		}
		if strings.Contains(rawValue, "=") {
			return fmt.Errorf("extra key/value separator \"=\" in URI query parameter: \"%s\"", rawKeyword)
		}
		keyword, err := decode(rawKeyword)
		if err != nil {
			return err
		}
		value, err := decode(rawValue)
		if err != nil {
			return err
		}
		if keyword == "ssl" && value == "true" { // as JDBC writes it
			keyword, value = "sslmode", "require"
		}
		if err := p.store(keyword, value); err != nil {
			return fmt.Errorf("invalid URI query parameter: \"%s\"", keyword)
		}
	}
	return nil
}

// storeDecoded stores a part of a URI, if there is one. An empty part is left
// out, since to libpq a database that is set and empty hides PGDATABASE.
func (p *Params) storeDecoded(keyword, raw string) error {
	if raw == "" {
		return nil
	}
	value, err := decode(raw)
	if err != nil {
		return err
	}
	return p.store(keyword, value)
}

// decode undoes percent-encoding. Blanks around the text are dropped, blanks
// within it are an error.
//
// Source: conninfo_uri_decode in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func decode(raw string) (string, error) {
	var b strings.Builder
	s := strings.TrimLeft(raw, " ")
	for s != "" && s[0] != ' ' {
		if s[0] != '%' {
			b.WriteByte(s[0])
			s = s[1:]
			continue
		}
		if len(s) < 3 || hexDigit(s[1]) < 0 || hexDigit(s[2]) < 0 {
			return "", fmt.Errorf("invalid percent-encoded token: \"%s\"", raw)
		}
		c := hexDigit(s[1])<<4 | hexDigit(s[2])
		if c == 0 {
			return "", fmt.Errorf("forbidden value %%00 in percent-encoded value: \"%s\"", raw)
		}
		b.WriteByte(byte(c))
		s = s[3:]
	}
	if strings.TrimLeft(s, " ") != "" {
		return "", fmt.Errorf("unexpected spaces found in \"%s\", use percent-encoded spaces (%%20) instead", raw)
	}
	return b.String(), nil
}

// hexDigit returns the value of a hexadecimal digit, or -1.
func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}
