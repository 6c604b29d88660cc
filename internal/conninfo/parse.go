package conninfo

import (
	"errors"
	"fmt"
	"strings"
)

// isConnString reports whether libpq takes s for a connection string where it
// could also be a database name: it is a URI, or it holds an equals sign.
//
// Source: recognized_connection_string in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func isConnString(s string) bool {
	_, uri := cutURIPrefix(s)
	return uri || strings.Contains(s, "=")
}

// Parse reads a connection string, either keyword=value pairs or a URI. The
// result holds what the string says and no defaults. Where a keyword is given
// twice the later one counts. Errors have libpq's texts.
//
// Source: parse_connection_string in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func Parse(s string) (Params, error) {
	// libpq cannot meet this: its strings end at a zero byte. Here it would
	// travel on to the startup packet, and cut that in two.
	if strings.IndexByte(s, 0) >= 0 {
		return Params{}, errors.New("forbidden zero byte in connection info string")
	}
	if rest, ok := cutURIPrefix(s); ok {
		return parseURI(s, rest)
	}
	return parsePairs(s)
}

// parsePairs reads the keyword=value form.
//
// Source: conninfo_parse in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func parsePairs(s string) (Params, error) {
	var p Params
	for {
		s = strings.TrimLeft(s, spaces)
		if s == "" {
			return p, nil
		}
		n := strings.IndexAny(s, "="+spaces)
		if n < 0 {
			n = len(s)
		}
		keyword := s[:n]
		var ok bool
		if s, ok = strings.CutPrefix(strings.TrimLeft(s[n:], spaces), "="); !ok {
			return Params{}, fmt.Errorf("missing \"=\" after \"%s\" in connection info string", keyword)
		}
		value, rest, err := cutValue(strings.TrimLeft(s, spaces))
		if err != nil {
			return Params{}, err
		}
		if err := p.store(keyword, value); err != nil {
			return Params{}, err
		}
		s = rest
	}
}

// spaces is what isspace() knows in the C locale.
const spaces = " \t\n\v\f\r"

// cutValue takes a value, quoted or bare, off the front of s. In both a
// backslash makes the next byte an ordinary one.
func cutValue(s string) (value, rest string, err error) {
	s, quoted := strings.CutPrefix(s, "'")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			// At the very end a bare value just loses it.
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case quoted && c == '\'', !quoted && strings.IndexByte(spaces, c) >= 0:
			return b.String(), s[i+1:], nil
		default:
			b.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errors.New("unterminated quoted string in connection info string")
	}
	return b.String(), "", nil
}

// store is Set with the keyword that libpq still takes for an older one.
//
// Source: conninfo_storeval in src/interfaces/libpq/fe-connect.c, PostgreSQL 18.
func (p *Params) store(keyword, value string) error {
	if keyword == "requiressl" {
		keyword = "sslmode"
		if strings.HasPrefix(value, "1") {
			value = "require"
		} else {
			value = "prefer"
		}
	}
	return p.Set(keyword, value)
}
