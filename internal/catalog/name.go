package catalog

import (
	"fmt"
	"strings"
)

// maxName is how many bytes a name has at most: NAMEDATALEN and no more.
const maxName = 63

// ParseName reads a name as SQL has it: parts with dots between them. Letters of what is not quoted become small, and
// two quotes in what is quoted are one.
//
// Source: SplitIdentifierString in src/backend/utils/adt/varlena.c, PostgreSQL 18.
func ParseName(text string) (parts []string, err error) {
	rest := text
	for {
		var part string
		if strings.HasPrefix(rest, `"`) {
			var b strings.Builder
			rest = rest[1:]
			for {
				before, after, ok := strings.Cut(rest, `"`)
				if !ok {
					return nil, fmt.Errorf("invalid name %s: a quote is not closed", text)
				}
				b.WriteString(before)
				if rest = after; !strings.HasPrefix(rest, `"`) {
					break
				}
				b.WriteByte('"')
				rest = rest[1:]
			}
			part = b.String()
		} else {
			n := strings.IndexByte(rest, '.')
			if n < 0 {
				n = len(rest)
			}
			part, rest = lower(rest[:n]), rest[n:]
		}
		if part == "" || len(part) > maxName {
			return nil, fmt.Errorf("invalid name %s: each part of it has 1 to %d bytes", text, maxName)
		}
		parts = append(parts, part)
		if rest == "" {
			return parts, nil
		}
		if rest[0] != '.' {
			return nil, fmt.Errorf("invalid name %s: a dot is missing", text)
		}
		rest = rest[1:]
	}
}

// lower makes the letters of ASCII small.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
