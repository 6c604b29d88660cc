package pgconf

import (
	"strings"
)

// Setting is a line of a file of settings.
type Setting struct {
	Name  string // in lower case: PostgreSQL does not tell them apart
	Value string // without quotes
}

// ParseSetting reads a line of a file of settings; ok is false for one that is empty, a comment, or not understood.
//
// Source: src/backend/utils/misc/guc-file.l, PostgreSQL 18.
func ParseSetting(line string) (s Setting, ok bool) {
	rest := strings.TrimLeft(strings.TrimRight(line, "\r\n"), blanks)
	n := 0
	for n < len(rest) && (isLetter(rest[n]) || n > 0 && (rest[n] == '.' || '0' <= rest[n] && rest[n] <= '9')) {
		n++
	}
	if n == 0 {
		return s, false
	}
	s.Name = strings.ToLower(rest[:n])
	rest = strings.TrimLeft(rest[n:], blanks)
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), blanks)
	if strings.HasPrefix(rest, "'") {
		s.Value, rest, ok = cutQuoted(rest)
	} else {
		n := strings.IndexAny(rest, blanks+"#")
		if n < 0 {
			n = len(rest)
		}
		s.Value, rest, ok = rest[:n], rest[n:], n > 0
	}
	rest = strings.TrimLeft(rest, blanks)
	return s, ok && (rest == "" || rest[0] == '#')
}

const blanks = " \t\r\f\v"

func isLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

// cutQuoted takes a quoted text from the front of another.
//
// Source: DeescapeQuotedString in src/backend/utils/misc/guc-file.l, PostgreSQL 18.
func cutQuoted(text string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\'' && strings.HasPrefix(text[i+1:], "'"):
			b.WriteByte(c)
			i++
		case c == '\'':
			return b.String(), text[i+1:], true
		case c == '\\' && i+1 < len(text):
			i++
			if n := strings.IndexByte("bfnrt", text[i]); n >= 0 {
				b.WriteByte("\b\f\n\r\t"[n])
				continue
			}
			octal, n := 0, 0
			for n < 3 && i+n < len(text) && '0' <= text[i+n] && text[i+n] <= '7' {
				octal = octal<<3 + int(text[i+n]-'0')
				n++
			}
			if n == 0 {
				b.WriteByte(text[i])
				continue
			}
			b.WriteByte(byte(octal))
			i += n - 1
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// IsOn says whether a value of a boolean setting is true.
//
// Source: parse_bool_with_len in src/backend/utils/adt/bool.c, PostgreSQL 18.
func IsOn(value string) bool {
	v := strings.ToLower(value)
	return v == "1" || v == "on" || v != "" && (strings.HasPrefix("true", v) || strings.HasPrefix("yes", v))
}

// SplitList returns the items of a setting that is a list, such as unix_socket_directories.
//
// Source: SplitDirectoriesString in src/backend/utils/adt/varlena.c, PostgreSQL 18.
func SplitList(value string) (items []string) {
	for rest := strings.Trim(value, blanks); rest != ""; {
		item := ""
		if rest[0] == '"' {
			var b strings.Builder
			i := 1
			for ; i < len(rest) && (rest[i] != '"' || strings.HasPrefix(rest[i+1:], `"`)); i++ {
				if rest[i] == '"' {
					i++
				}
				b.WriteByte(rest[i])
			}
			item = b.String()
			_, rest, _ = strings.Cut(rest[min(i+1, len(rest)):], ",")
		} else {
			item, rest, _ = strings.Cut(rest, ",")
			item = strings.TrimRight(item, blanks)
		}
		items, rest = append(items, item), strings.TrimLeft(rest, blanks)
	}
	return items
}
